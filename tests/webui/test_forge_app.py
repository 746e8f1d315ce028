"""The door to Forge: its main thread, loading before the first generation, and its memory manager."""

import gc
import threading
import weakref

import pytest
import torch
from host.brightness import half
from host.forge import Forge
from host.process import Processing, Run, fill_in_webui

from ldznet.errors import HostError, PromptError
from ldznet.heads.head_file import save_head
from ldznet.hosts.forge.memory import ManagedModule
from ldznet.methods.learned_head import random_head
from ldznet.webui import head_files
from ldznet.webui.controls import read_panel_settings
from ldznet.webui.current_webui import webui_app, webui_session
from ldznet.webui.forge_app import ForgeApp
from ldznet.webui.run.hooks import RunHooks


@pytest.fixture
def forge(request, monkeypatch):
    """Return Forge, or Neo where a test asks for both."""
    models = {"one": {"family": "sd1"}, "two": {"family": "sd1", "seed": 1}}
    return Forge(monkeypatch, neo=getattr(request, "param", "") == "neo", **models)


in_both = pytest.mark.parametrize("forge", ["forge", "neo"], indirect=True)


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
    thread.join()
    return outcome[0]


@in_both
def test_before_the_first_generation_the_page_and_a_route_load_the_model_in_the_main_thread(forge):
    app = ForgeApp()
    assert app.current_model() is None

    model = in_another_thread(forge, app.load_model)

    assert app.current_model() is model
    assert forge.loads == [("one.safetensors", threading.main_thread())]


def test_a_hook_of_a_run_is_in_the_main_thread_and_does_not_wait_for_it(forge):
    model = ForgeApp().run_exclusively(ForgeApp().load_model)

    assert (model.sd_checkpoint_info.title, forge.main_thread.waiting) == ("one.safetensors", [])


def test_an_error_in_the_main_thread_is_raised_to_the_caller_and_not_printed_by_forge(forge):
    def work():
        raise PromptError("no prompt")

    why = in_another_thread(forge, work)

    assert isinstance(why, PromptError)
    assert forge.main_thread.printed == []
    assert not forge.call_queue.queue_lock.locked()


def test_a_checkpoint_that_forge_cannot_load_is_an_error_in_words_and_the_one_before_can_be_loaded_again(forge):
    app = ForgeApp()
    app.load_model()
    forge.choose("broken.safetensors")

    with pytest.raises(HostError) as raised:
        app.load_model()
    forge.choose("one.safetensors")

    assert str(raised.value) == (
        "The webui could not load its checkpoint (Failed to recognize model type!). Choose another checkpoint in "
        "the webui and try again; its log has the details."
    )
    assert app.load_model().sd_checkpoint_info.title == "one.safetensors"  # Forge alone would return None


def test_with_nowebui_no_page_has_chosen_the_checkpoint_yet(forge):
    forge.data.forge_loading_parameters = {}
    forge.main_entry.refresh_model_loading_parameters = lambda: forge.choose("two.safetensors")

    assert ForgeApp().load_model().sd_checkpoint_info.title == "two.safetensors"


# --- a session -------------------------------------------------------------------------------------------


@pytest.fixture
def session(forge, monkeypatch, tmp_path, small_squares):
    """Return the session of a webui with a head of random weights."""
    fill_in_webui(forge, monkeypatch, tmp_path)
    monkeypatch.setattr(head_files, "ROOT", tmp_path / "nowhere")
    (tmp_path / "ldznet").mkdir()
    unet = forge.make_host().info.unet
    save_head(random_head(unet).head, tmp_path / "ldznet" / "head.safetensors", source={})
    webui_app.cache_clear()
    webui_session.cache_clear()
    forge.memory.log.clear()
    return webui_session()


def settings(**more):
    return read_panel_settings([{"prompt": "cat", "resolution": 64, "method": "head", **more}])


def segment(forge, session, image=None, **more):
    return session.segment_image(forge.engine, image or half(), settings(**more)).segmentation.maps


def heads_of(forge):
    """Return how many heads are in the manager's list."""
    return [forge.memory.name_of(entry.model) for entry in forge.memory.current_loaded_models].count("head")


@in_both
def test_the_manager_is_asked_for_every_part_and_for_the_head_before_it_runs(forge, session):
    segment(forge, session)

    loads = [(kind, name) for kind, name, *_ in forge.memory.log]
    assert loads == [("load", name) for name in ("vae", "clip", "unet", "head")]
    assert heads_of(forge) == 1
    assert session.status()["head_mb"] > 0


@in_both
def test_neo_is_told_that_the_head_cannot_be_loaded_in_parts(forge, session):
    segment(forge, session)

    assert forge.memory.log[-1] == ("load", "head", 0, *(["whole"] if forge.neo else []))


def test_a_mask_is_the_same_where_the_device_has_room_for_one_model_at_a_time(forge, session):
    expected = segment(forge, session)
    session.unload()
    forge.memory.most = 1

    assert torch.equal(segment(forge, session), expected)
    assert [forge.memory.name_of(entry.model) for entry in forge.memory.current_loaded_models] == ["head"]


@in_both
@pytest.mark.parametrize(("rest", "count"), [("GPU", 1), ("CPU", 0), ("unloaded", 0)])
def test_the_setting_says_whether_the_head_stays_with_the_manager_between_runs(forge, session, rest, count):
    forge.shared.opts.ldznet_rest = rest

    segment(forge, session)

    assert heads_of(forge) == count
    assert ("unload", "head") in forge.memory.log or rest == "GPU"


@in_both
def test_after_unload_nothing_of_ours_is_held_by_anyone(forge, session):
    segment(forge, session)
    head = weakref.ref(session._segmenter.method.head)
    gc.disable()  # the head is gone at once, without the garbage collector
    try:
        session.unload()

        assert head() is None
    finally:
        gc.enable()
    assert heads_of(forge) == 0


def test_a_generation_that_evicts_the_head_does_not_change_the_next_mask(forge, session):
    expected = segment(forge, session)
    forge.memory.unload_all_models()
    forge.paint()

    other = segment(forge, session, half(0, 255))

    assert torch.equal(segment(forge, session), expected)
    assert not torch.equal(other, expected)


def test_a_head_that_fits_in_part_only_runs_on_the_cpu(forge, session, caplog, monkeypatch):
    monkeypatch.setattr(forge.memory, "get_torch_device", lambda: torch.device("meta"))  # nothing ever gets there
    head = random_head(forge.make_host().info.unet).head
    carrier = ManagedModule(webui_app()._forge_modules(), head)

    with carrier.on_device() as device:
        assert device == torch.device("cpu")

    assert "does not fit on meta" in caplog.text
    assert heads_of(forge) == 0


def test_a_head_on_another_device_than_forges_is_not_managed(forge):
    assert ForgeApp().carrier(torch.nn.Identity(), torch.device("cuda:1")) is None


@in_both
def test_another_checkpoint_leaves_no_copy_of_the_first_alive(forge, session):
    first = segment(forge, session)
    old = weakref.ref(forge.engine)

    forge.choose("two.safetensors")
    assert forge.engine

    assert old() is None
    assert not torch.equal(segment(forge, session), first)


def test_before_a_model_is_loaded_no_method_is_called_impossible(forge, session):
    assert session.obstacle(None, settings()) == ""


def test_a_run_of_forge_gets_its_mask(forge, session):
    p = Processing(forge.engine, [half()])
    run = Run(RunHooks(session, webui_app()))

    processed = run.once(p, [{"prompt": "cat", "resolution": 64, "method": "head", "threshold": 0.0}])

    assert run.reported == []
    assert processed.comments == ""
    assert p.read["image_mask"].size == (128, 64)


def test_a_run_with_a_model_that_cannot_be_used_stops_in_words(forge, session):
    engine = forge.engine
    engine.is_sd1, engine.__class__ = False, type("Chroma", (type(engine),), {})
    p = Processing(engine, [half()])

    text = Run(RunHooks(session, webui_app())).stopped(p, [{"prompt": "cat"}])

    assert text.startswith("one.safetensors cannot be used for segmentation: it is of another kind (Chroma).")
