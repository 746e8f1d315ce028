"""The script that the webui loads, also where ldznet itself cannot be imported."""

import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

SCRIPT = Path(__file__).parents[2] / "scripts" / "ldznet_segment.py"


@pytest.fixture
def broken(monkeypatch):
    """The script's names."""
    modules, callbacks = ModuleType("modules"), ModuleType("modules.script_callbacks")
    modules.scripts = SimpleNamespace(Script=object, AlwaysVisible=object())
    modules.script_callbacks = callbacks
    for name, module in (
        ("modules", modules),
        ("modules.script_callbacks", callbacks),
        ("gradio", ModuleType("gradio")),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "ldznet.webui", None)  # importing it fails
    return runpy.run_path(str(SCRIPT))


def test_a_script_that_cannot_work_has_another_name_so_that_the_api_refuses_ours(broken):
    script = broken["LdznetSegment"]()

    assert script.title() == "LD-ZNet segment cannot be loaded"
    assert broken["REFUSAL"].startswith("ldznet cannot be loaded: ModuleNotFoundError: import of ldznet.webui")


def test_the_hooks_of_a_script_that_cannot_work_change_nothing(broken):
    script, p = broken["LdznetSegment"](), SimpleNamespace()

    script.setup(p)
    script.process(p)
    script.postprocess(p, None)

    assert vars(p) == {}


@pytest.fixture
def foreign(monkeypatch):
    """Return the script's names in a webui in which ldznet does not work, and the callbacks that it registered."""
    modules, gradio = ModuleType("modules"), MagicMock()
    modules.scripts = SimpleNamespace(Script=object, AlwaysVisible=object())
    modules.script_callbacks = MagicMock()
    for name, module in (
        ("modules", modules),
        ("modules.shared", ModuleType("modules.shared")),  # without modules.lowvram it is not AUTOMATIC1111's
        ("modules.sdnq", ModuleType("modules.sdnq")),
        ("gradio", gradio),
        ("ldznet.webui.panel.layout", SimpleNamespace()),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    return {**runpy.run_path(str(SCRIPT)), "callbacks": modules.script_callbacks, "gradio": gradio}


SENTENCE = (
    "This webui is SD.Next, whose model ldznet cannot read. ldznet works in AUTOMATIC1111's webui, in Forge, in "
    "Forge Neo and in reForge."
)


def test_in_a_webui_that_is_not_supported_the_panel_is_one_sentence(foreign):
    assert foreign["LdznetSegment"]().ui(True) == []

    foreign["gradio"].HTML.assert_called_once_with(SENTENCE)


def test_in_a_webui_that_is_not_supported_the_api_refuses_the_script_and_a_run_is_as_without_it(foreign):
    script, p = foreign["LdznetSegment"](), SimpleNamespace()

    script.setup(p)
    script.process(p)
    script.postprocess(p, None)

    assert script.title() == "LD-ZNet segment does not work here"
    assert vars(p) == {}


@pytest.mark.parametrize(("method", "route"), [("POST", "segment"), ("GET", "heads"), ("GET", "status")])
def test_in_a_webui_that_is_not_supported_the_routes_answer_with_the_same_sentence(foreign, method, route):
    (start,), _ = foreign["callbacks"].on_app_started.call_args
    app = FastAPI()
    start(None, app)

    with TestClient(app) as client:
        answer = client.request(method, f"/ldznet/{route}")

    assert (answer.status_code, answer.json()) == (422, {"detail": SENTENCE})
    assert {name for name, *_ in foreign["callbacks"].method_calls} == {"on_app_started"}


def test_the_axes_are_there_before_any_script_builds_its_part_of_the_page(monkeypatch, tmp_path):
    """With --nowebui no callback comes before that; `show` of all scripts does."""
    modules, added = ModuleType("modules"), []
    modules.scripts = SimpleNamespace(Script=object, AlwaysVisible="always")
    modules.script_callbacks = MagicMock()
    modules.paths = SimpleNamespace(models_path=str(tmp_path))
    for name in ("gradio", "ldznet.webui.panel.layout"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(remember=None))
    monkeypatch.setitem(sys.modules, "modules", modules)
    monkeypatch.setattr("ldznet.webui.run.axes.add_axes", lambda *_: added.append("axes"))

    shown = runpy.run_path(str(SCRIPT))["LdznetSegment"]().show(False)

    assert (shown, added) == (False, ["axes"])


@pytest.mark.parametrize("since_1_9", [True, False])
def test_callbacks_are_registered_in_the_name_of_the_script(monkeypatch, tmp_path, since_1_9):
    """A webui since 1.9 takes the name, and need not find it out from the stack at every start."""
    modules, found = ModuleType("modules"), {}
    names = ("after_component", "ui_settings", "infotext_pasted", "app_started", "model_loaded")
    lists = {f"callbacks_{name}": [] for name in names}

    def add_callback(callbacks, callback, *, category, filename):
        found[category] = (callback, filename)
        assert callbacks is lists[f"callbacks_{category}"]

    def on(name):
        return lambda callback: found.update({name: (callback, str(SCRIPT))})

    since = {"callback_map": lists, "add_callback": add_callback}
    before = {"callback_map": lists, "add_callback": lambda callbacks, callback: None}
    before |= {f"on_{name}": on(name) for name in names}
    modules.script_callbacks = SimpleNamespace(**(since if since_1_9 else before))
    modules.scripts = SimpleNamespace(Script=object)
    modules.paths = SimpleNamespace(models_path=str(tmp_path))
    for name in ("gradio", "ldznet.webui.panel.layout"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(remember=None))
    monkeypatch.setitem(sys.modules, "modules", modules)

    runpy.run_path(str(SCRIPT))

    assert set(found) == set(names)
    assert {Path(filename) for _, filename in found.values()} == {SCRIPT}
    assert all(callable(callback) for callback, _ in found.values())


def test_reload_ui_which_runs_the_script_again_makes_no_second_session(monkeypatch, tmp_path):
    modules = ModuleType("modules")
    modules.scripts, modules.script_callbacks = SimpleNamespace(Script=object), MagicMock()
    modules.paths = SimpleNamespace(models_path=str(tmp_path))
    for name in ("gradio", "ldznet.webui.panel.layout"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(remember=None))
    monkeypatch.setitem(sys.modules, "modules", modules)

    first, second = (runpy.run_path(str(SCRIPT)) for _ in range(2))

    assert first["SESSION"] is second["SESSION"]
    assert first["APP"] is second["APP"]
    assert (tmp_path / "ldznet").is_dir()
