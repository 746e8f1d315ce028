"""The door to Forge: its main thread, and loading before the first generation."""

import sys
import threading
from types import ModuleType, SimpleNamespace

import pytest

from ldznet.errors import HostError, PromptError
from ldznet.webui.forge_app import ForgeApp


class MainThread:
    """Forge's modules_forge.main_thread: work waits until the main thread calls `work_off`."""

    def __init__(self):
        self.waiting, self.arrived = [], threading.Event()
        self.printed = []

    def run_and_wait_result(self, act):
        done, results = threading.Event(), [None]

        def task():
            try:
                results[0] = act()
            except Exception as why:  # Forge prints it and returns None
                self.printed.append(why)
            done.set()

        self.waiting.append(task)
        self.arrived.set()
        done.wait(10)
        return results[0]

    def work_off(self):
        self.arrived.wait(10)
        self.waiting.pop()()


@pytest.fixture
def forge(monkeypatch):
    """Return Forge's modules, with a checkpoint chosen and none loaded."""
    names = ("shared", "call_queue", "sd_models")
    modules = SimpleNamespace(**{name: ModuleType(f"modules.{name}") for name in names})
    package, forge_package, backend = (ModuleType(name) for name in ("modules", "modules_forge", "backend"))
    for name in names:
        setattr(package, name, getattr(modules, name))
        monkeypatch.setitem(sys.modules, f"modules.{name}", getattr(modules, name))
    modules.main_thread = forge_package.main_thread = MainThread()
    modules.main_entry = forge_package.main_entry = SimpleNamespace(refresh_model_loading_parameters=None)
    backend.memory_management = SimpleNamespace(get_torch_device=lambda: "cpu")
    for module in (package, forge_package, backend):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    modules.call_queue.queue_lock = threading.Lock()
    modules.shared.state = SimpleNamespace(begin=lambda job: None, end=lambda: None)
    modules.data = modules.sd_models.model_data = SimpleNamespace(
        sd_model=SimpleNamespace(cond_stage_model=None),  # Forge's FakeInitialModel
        forge_loading_parameters={"checkpoint_info": "one.safetensors"},
        forge_hash="",
    )
    modules.loaded = []

    def forge_model_reload():
        data, wanted = modules.data, str(modules.data.forge_loading_parameters)
        if data.forge_hash == wanted:
            return data.sd_model, False
        data.sd_model = None
        name = data.forge_loading_parameters["checkpoint_info"]
        if name == "broken.safetensors":
            raise ValueError("Failed to recognize model type!")
        modules.loaded.append((name, threading.current_thread()))
        data.sd_model = SimpleNamespace(forge_objects_original=object(), name=name)
        data.forge_hash = wanted
        return data.sd_model, True

    modules.sd_models.forge_model_reload = forge_model_reload
    return modules


def in_another_thread(forge, work):
    """Call work as a page or a route does, in its own thread; return what it returned or raised."""
    outcome = []

    def call():
        try:
            outcome.append(ForgeApp().run_exclusively(work))
        except Exception as why:
            outcome.append(why)

    thread = threading.Thread(target=call)
    thread.start()
    forge.main_thread.work_off()
    thread.join(10)
    return outcome[0]


def test_before_the_first_generation_the_page_and_a_route_load_the_model_in_the_main_thread(forge):
    app = ForgeApp()
    assert app.current_model() is None

    model = in_another_thread(forge, app.load_model)

    assert app.current_model() is model
    assert forge.loaded == [("one.safetensors", threading.main_thread())]


def test_a_hook_of_a_run_is_in_the_main_thread_and_does_not_wait_for_it(forge):
    model = ForgeApp().run_exclusively(ForgeApp().load_model)

    assert (model.name, forge.main_thread.waiting) == ("one.safetensors", [])


def test_an_error_in_the_main_thread_is_raised_to_the_caller_and_not_printed_by_forge(forge):
    def work():
        raise PromptError("no prompt")

    why = in_another_thread(forge, work)

    assert isinstance(why, PromptError)
    assert forge.main_thread.printed == []
    assert not forge.call_queue.queue_lock.locked()


def test_a_checkpoint_that_forge_cannot_load_is_an_error_in_words_and_the_one_before_can_be_loaded_again(forge):
    app, first = ForgeApp(), {"checkpoint_info": "one.safetensors"}
    app.load_model()
    forge.data.forge_loading_parameters = {"checkpoint_info": "broken.safetensors"}

    with pytest.raises(HostError) as raised:
        app.load_model()
    forge.data.forge_loading_parameters = first

    assert str(raised.value) == (
        "The webui could not load its checkpoint (Failed to recognize model type!). Choose another checkpoint in "
        "the webui and try again; its log has the details."
    )
    assert app.load_model().name == "one.safetensors"  # Forge alone would return None


def test_with_nowebui_no_page_has_chosen_the_checkpoint_yet(forge):
    forge.data.forge_loading_parameters = {}
    forge.main_entry.refresh_model_loading_parameters = lambda: setattr(
        forge.data, "forge_loading_parameters", {"checkpoint_info": "two.safetensors"}
    )

    assert ForgeApp().load_model().name == "two.safetensors"
