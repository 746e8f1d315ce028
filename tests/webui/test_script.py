"""The script that the webui loads, also where ldznet itself cannot be imported."""

import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import pytest

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
    assert "ldznet.webui" in broken["BROKEN"]


def test_the_hooks_of_a_script_that_cannot_work_change_nothing(broken):
    script, p = broken["LdznetSegment"](), SimpleNamespace()

    script.setup(p)
    script.process(p)
    script.postprocess(p, None)

    assert vars(p) == {}


def test_the_axes_are_there_before_any_script_builds_its_part_of_the_page(monkeypatch):
    """With --nowebui no callback comes before that; `show` of all scripts does."""
    modules, added = ModuleType("modules"), []
    modules.scripts = SimpleNamespace(Script=object, AlwaysVisible="always")
    modules.script_callbacks = MagicMock()
    for name in ("gradio", "ldznet.webui.panel.layout"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(remember=None))
    monkeypatch.setitem(sys.modules, "modules", modules)
    monkeypatch.setattr("ldznet.webui.run.axes.add_axes", lambda *_: added.append("axes"))

    shown = runpy.run_path(str(SCRIPT))["LdznetSegment"]().show(False)

    assert (shown, added) == (False, ["axes"])


def test_reload_ui_which_runs_the_script_again_makes_no_second_session(monkeypatch):
    modules = ModuleType("modules")
    modules.scripts, modules.script_callbacks = SimpleNamespace(Script=object), MagicMock()
    for name in ("gradio", "ldznet.webui.panel.layout"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(remember=None))
    monkeypatch.setitem(sys.modules, "modules", modules)

    first, second = (runpy.run_path(str(SCRIPT)) for _ in range(2))

    assert first["SESSION"] is second["SESSION"]
    assert first["APP"] is second["APP"]
