"""Where the head is and when, what a run leaves behind, and that after any fault the next run works."""

import contextlib
import dataclasses
import gc
import json
import random
import re
from types import SimpleNamespace

import pytest
import torch
from host.brightness import SIZE, half
from host.model import CONFIGS
from host.process import Processing, Run

from ldznet.decision import decide
from ldznet.errors import CheckpointError, HeadError, HostError, LdznetError, OutOfMemoryError
from ldznet.heads.head_file import save_head
from ldznet.methods.learned_head import LearnedHead, random_head
from ldznet.webui import head_files, progress, session
from ldznet.webui.a1111_app import A1111App
from ldznet.webui.controls import read_panel_settings
from ldznet.webui.memory import MemoryUse, device_memory, measure_memory
from ldznet.webui.panel import preview
from ldznet.webui.request_cost import require_passes

MB = 2**20


def asked(prompt="bright", **more):
    return read_panel_settings([{"prompt": prompt, "resolution": 64, **more}])


@pytest.fixture(autouse=True)
def without_the_embedded_head(monkeypatch, tmp_path):
    monkeypatch.setattr(head_files, "ROOT", tmp_path / "nowhere")


@pytest.fixture
def folder(webui, tmp_path):
    """models/ldznet of the webui, with a head that fits."""
    folder = tmp_path / "ldznet"
    folder.mkdir()
    save_head(
        random_head(webui.session.make_host(webui.model).info.unet).head, folder / "one.safetensors", source={}
    )
    return folder


@pytest.fixture
def events(webui, monkeypatch):
    """Where heads go and when the UNet runs, on a machine whose GPU is the CPU's memory under another name."""
    seen = []
    stay, visit, load = LearnedHead.to, LearnedHead.visit, LearnedHead.load

    def at(device, name):
        seen.append(f"{name} {device}")
        return "cpu"

    def loaded(*given, **more):
        method = load(*given, **more)
        move = method.head.to
        method.head.to = lambda where: (
            seen.append("leaves" if where == "cpu" else f"comes, beside it {webui.lowvram.module_in_gpu}"),
            move("cpu"),
        )
        return method

    def visiting(self, device, make_room=lambda: None):
        visit(self, at(device, "visits"), make_room)
        self._visits = torch.device("cpu", 0), make_room

    monkeypatch.setattr(session, "head_device", lambda *_: (torch.device("cuda"), torch.float32))
    monkeypatch.setattr(LearnedHead, "to", lambda self, device: stay(self, at(device, "stays on")))
    monkeypatch.setattr(LearnedHead, "visit", visiting)
    monkeypatch.setattr(LearnedHead, "load", loaded)
    webui.unet.register_forward_pre_hook(lambda *_: seen.append("UNet"))
    return seen


# --- where the head is -----------------------------------------------------------------------------------


def test_a_head_that_visits_is_on_the_device_for_its_own_step_only():
    method, seen = random_head(CONFIGS["sd1"]), []
    move, step = method.head.to, method.head.forward
    method.head.to = lambda device: (seen.append(f"to {device}"), move("cpu"))
    method.head.forward = lambda *_given: (seen.append("step"), 1 / 0)

    method.visit("cuda:1", lambda: seen.append("room is made"))
    with pytest.raises(ZeroDivisionError), method._on_device() as device:
        method.head.forward()

    assert seen == ["to cpu", "room is made", "to cuda:1", "step", "to cpu"]
    assert device == torch.device("cuda:1")
    method.head.forward = step
    method.to("cpu")
    with method._on_device() as device:
        assert device == torch.device("cpu")


def test_a_head_that_did_not_fit_is_not_left_behind_half(monkeypatch):
    method = random_head(CONFIGS["sd1"])
    method.visit("cuda")
    seen, move = [], method.head.to

    def full(device):
        seen.append(str(device))
        if str(device) == "cuda":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return move(device)

    method.head.to = full
    with pytest.raises(torch.cuda.OutOfMemoryError), method._on_device():
        pass

    assert seen == ["cuda", "cpu"]
    assert method.device == torch.device("cpu")


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("GPU", ["stays on cuda", "UNet"]),  # nothing moves, since that GPU is the memory of the CPU
        ("CPU", ["visits cuda", "leaves", "UNet", "comes, beside it None", "leaves"]),
        ("unloaded", ["visits cuda", "leaves", "UNet", "comes, beside it None", "leaves"]),
    ],
)
def test_the_head_stays_where_the_settings_say(webui, folder, events, rest, expected):
    webui.shared.opts.ldznet_rest = rest

    webui.session.segment_image(webui.model, half(), asked())

    assert events == expected
    assert webui.session.status()["head"] == (None if rest == "unloaded" else "one.safetensors")


@pytest.mark.parametrize(("rest", "head"), [("CPU", "one.safetensors"), ("unloaded", None)])
def test_a_changed_setting_acts_where_all_is_known_already_too(webui, folder, events, rest, head):
    webui.session.segment_image(webui.model, half(), asked())
    webui.shared.opts.ldznet_rest = rest
    del events[:]

    webui.session.segment_image(webui.model, half(), asked())

    assert events == (["visits cuda", "leaves"] if head else [])
    assert webui.session.status()["head"] == head


def test_what_is_known_is_answered_where_the_head_does_not_fit_back(webui, folder, monkeypatch, caplog):
    known = webui.session.segment_image(webui.model, half(), asked())

    def full(*_given):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as short:
        short.setattr(LearnedHead, "to", full)
        again = webui.session.segment_image(webui.model, half(), asked())

    assert again is known
    assert webui.session.status()["head"] is None
    assert "The head could not be moved" in caplog.text
    assert webui.session.segment_image(webui.model, half(), asked("dark")).method_reason.startswith("ld-znet")


def test_a_changed_setting_acts_with_the_next_run_and_nothing_is_loaded_again(webui, folder, events):
    webui.session.segment_image(webui.model, half(), asked())
    before = webui.session._segmenter.method
    webui.shared.opts.ldznet_rest = "CPU"
    del events[:]

    webui.session.segment_image(webui.model, half(), asked("dark"))

    assert events == ["visits cuda", "leaves", "UNet", "comes, beside it None", "leaves"]
    assert webui.session._segmenter.method is before


@pytest.mark.parametrize("low", [True, False])
def test_with_little_memory_never_more_than_one_of_unet_and_head_is_on_the_device(webui, folder, events, low):
    webui.save_memory(low=low)
    before = webui.state()

    webui.session.segment_image(webui.model, half(), asked(timesteps="300 400"))

    step = ["UNet", "comes, beside it None", "leaves"]
    assert [event for event in events if event != "visits cuda"] == ["leaves", *step, *step]
    assert webui.lowvram.module_in_gpu is None
    assert webui.state() == before


# --- what is known of it ---------------------------------------------------------------------------------


def test_the_status_says_what_is_loaded_and_where_and_fits_json(webui, folder):
    empty = webui.session.status()
    webui.session.segment_image(webui.model, half(), asked())
    status = json.loads(json.dumps(webui.session.status()))

    assert (empty["model"], empty["head"], empty["kept"], empty["last_run"]) == (None, None, 0, None)
    assert status["model"] == "sd1.safetensors [0123456789]"
    assert (status["method"], status["head"], status["head_device"]) == ("ld-znet", "one.safetensors", "cpu")
    assert status["head_dtype"] == "float32"
    weights = sum(tensor.numel() for tensor in webui.session._segmenter.method.head.state_dict().values())
    assert status["head_mb"] == round(4 * weights / MB, 1)
    assert (status["rest"], status["kept"], status["device"]) == ("GPU", 1, "cpu")
    assert status["last_run"]["seconds"] > 0
    assert status["last_run"]["peak_mb"] is None  # nobody counts a CPU's
    assert (status["free_mb"], status["total_mb"]) == (None, None)


def test_a_run_is_logged_with_its_time_and_memory(webui, folder, caplog):
    caplog.set_level("INFO")

    webui.session.segment_image(webui.model, half(), asked("a bucket"))

    assert (
        "a bucket in sd1.safetensors [0123456789] by ld-znet, one.safetensors fits sd1.safetensors" in caplog.text
    )
    assert str(MemoryUse(1.5, 100 * MB, 300 * MB, 200 * MB)) == (
        "1.50 s, memory of the GPU 100 MB before, 300 MB at most, 200 MB after"
    )
    assert str(MemoryUse(0.25)) == "0.25 s"


@pytest.fixture
def gpu(monkeypatch):
    """PyTorch's counts of a GPU that there is none of: what a run takes is set in the middle of it."""
    counts = SimpleNamespace(now=100 * MB, peak=900 * MB, asked=[])

    def reset(device):
        counts.asked.append(str(device))
        counts.peak = counts.now

    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: counts.now)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _device: counts.peak)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (2048 * MB, 8192 * MB))
    return counts


@pytest.mark.parametrize("fails", [False, True])
def test_the_memory_of_a_run_on_a_gpu_is_counted_from_its_beginning_however_it_ends(gpu, fails):
    with contextlib.suppress(MemoryError), measure_memory(torch.device("cuda", 1)) as usage:
        gpu.now = gpu.peak = 300 * MB
        gpu.now = 120 * MB
        if fails:
            raise MemoryError

    assert gpu.asked == ["cuda:1"]
    told = usage.as_dict()
    assert (told["before_mb"], told["peak_mb"], told["after_mb"]) == (100, 300, 120)
    assert device_memory(torch.device("cuda")) == {"free_mb": 2048, "total_mb": 8192}


def test_the_status_has_the_memory_of_the_last_run_on_a_gpu(webui, folder, gpu, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(session, "measure_memory", lambda _device: measure_memory(torch.device("cuda")))
    webui.unet.register_forward_pre_hook(lambda *_: setattr(gpu, "peak", 400 * MB))

    webui.session.segment_image(webui.model, half(), asked())
    monkeypatch.setattr(A1111App, "device", lambda _self: torch.device("cuda"))
    status = webui.session.status()

    assert {name: status["last_run"][name] for name in ("before_mb", "peak_mb", "after_mb")} == {
        "before_mb": 100,
        "peak_mb": 400,
        "after_mb": 100,
    }
    assert (status["device"], status["free_mb"], status["total_mb"]) == ("cuda", 2048, 8192)
    assert "memory of the GPU 100 MB before, 400 MB at most, 100 MB after" in caplog.text


def test_after_unloading_nothing_of_ours_is_left_and_the_next_run_works(webui, folder):
    webui.session.segment_image(webui.model, half(), asked())  # what is made once and stays, such as tables
    webui.session.unload()
    before = tensors()
    found = webui.session.segment_image(webui.model, half(), asked())
    key, collected = found.key, webui.devices.collected
    del found

    status = webui.session.unload()

    assert tensors() == before
    assert webui.session.kept_result(key) is None
    assert (status["model"], status["head"], status["kept"]) == (None, None, 0)
    assert webui.devices.collected > collected
    assert webui.session.segment_image(webui.model, half(), asked()).key == key


def tensors():
    """How many there are, of all that lives."""
    gc.collect()
    return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())


# --- the model goes, the head goes -----------------------------------------------------------------------


def test_a_model_that_was_switched_is_let_go_of_and_the_next_run_has_the_other(webui, folder, monkeypatch):
    first = webui.session.segment_image(webui.model, half(), asked())
    webui.model.sd_model_checkpoint, webui.model.sd_model_hash = "/models/other.safetensors", "9876543210"
    webui.model.sd_checkpoint_info = SimpleNamespace(
        title="other.safetensors [9876543210]", sha256="98765" * 12 + "abcd", shorthash="9876543210"
    )
    webui.session.forget_model()
    assert webui.session.status()["head"] is None

    second = webui.session.segment_image(webui.model, half(), asked())

    assert second.key != first.key
    assert second.segmentation.record["model"] == "other.safetensors [9876543210]"


def test_the_checkpoint_that_the_webui_still_loads_is_waited_for_and_not_loaded_again(webui):
    order = []

    class Shared(type(webui.shared)):
        @property
        def sd_model(self):
            order.append("waited for")
            return webui.model

    del webui.shared.sd_model
    webui.shared.__class__ = Shared
    webui.sd_models.reload_model_weights = lambda: order.append("loaded")

    assert webui.session.app.load_model() is webui.model
    assert order == ["waited for", "loaded", "waited for"]


def test_an_unloaded_checkpoint_is_told_and_when_it_is_back_all_works(webui, folder):
    weights = {name: tensor.clone() for name, tensor in webui.model.state_dict().items()}
    webui.model.to("meta")  # what the webui does with a model that it throws away

    with pytest.raises(HostError, match=r"has unloaded it\. Choose a checkpoint"):
        webui.session.segment_image(webui.model, half(), asked())
    webui.model.to_empty(device="cpu")
    webui.model.load_state_dict(weights)

    assert webui.session.segment_image(webui.model, half(), asked()).method_reason.startswith("ld-znet")


def test_a_vanished_file_is_told_by_name_and_automatic_goes_on_without(webui, folder):
    webui.session.segment_image(webui.model, half(), asked())
    (folder / "one.safetensors").unlink()

    with pytest.raises(HeadError, match=r"There is no head 'one.safetensors' \(there: none\)"):
        webui.session.segment_image(webui.model, half(), asked(head="one.safetensors"))
    assert webui.session.segment_image(webui.model, half(), asked()).method_reason.startswith(
        "attention, there is no head for sd1"
    )


@pytest.mark.parametrize("place", [100, -5000])
def test_a_damaged_head_is_told_and_the_next_run_without_it_works(webui, folder, place):
    path = folder / "one.safetensors"
    content = bytearray(path.read_bytes())
    content[place] ^= 64
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match="damaged"):
        webui.session.segment_image(webui.model, half(), asked(head="one.safetensors"))

    assert (
        webui.session.segment_image(webui.model, half(), asked(method="attention")).method_reason
        == "attention, asked for"
    )


def test_a_head_for_another_model_is_told(webui, folder):
    other = dataclasses.replace(CONFIGS["sd1"], context_width=48)
    save_head(random_head(other).head, folder / "other.safetensors", source={})

    with pytest.raises(HeadError, match="prompts of width 48, not 32"):
        webui.session.segment_image(webui.model, half(), asked(head="other.safetensors"))


@pytest.mark.parametrize("name", ["../one.safetensors", "/etc/passwd", "a**b", "\0", "*", "one.safetensors/.."])
def test_no_path_is_opened_by_a_heads_name(webui, folder, tmp_path, name):
    (folder / "one.safetensors").rename(tmp_path / "one.safetensors")

    with pytest.raises(HeadError, match="There is no head"):
        webui.session.segment_image(webui.model, half(), asked(head=name))


# --- faults in the middle --------------------------------------------------------------------------------


FOREIGN = RuntimeError("other_extension: tensor sizes differ")
FULL = torch.cuda.OutOfMemoryError("CUDA out of memory")
BROKEN_OFF = r"broke off \(RuntimeError: other_extension: tensor sizes differ\)\. The log has"


@pytest.mark.parametrize(
    ("part", "fault", "kind", "said"),
    [
        ("UNet", FOREIGN, session.UnforeseenError, BROKEN_OFF),
        ("UNet", FULL, OutOfMemoryError, "One prompt at 64 x 64 does not fit into memory"),
        ("VAE", FULL, OutOfMemoryError, "Encoding the image at 64 x 64 does not fit into memory"),
        ("text encoder", FOREIGN, session.UnforeseenError, BROKEN_OFF),
        ("head", FOREIGN, session.UnforeseenError, BROKEN_OFF),
        ("head", MemoryError(), OutOfMemoryError, "One prompt at 64 x 64 does not fit into memory"),
    ],
)
def test_a_fault_in_the_middle_is_told_and_the_next_run_works(webui, folder, part, fault, kind, said):
    run, args = Run(webui.hooks), [{"prompt": "bright", "resolution": 64, "threshold": 0.0}]
    run.once(Processing(webui.model, [half()]), args)
    webui.session.unload()
    before, p = webui.state(), Processing(webui.model, [half()])
    picture = p.init_images[0].tobytes()

    def break_off(*_given):
        raise fault

    where = {
        "UNet": lambda: webui.unet.time_embed,
        "VAE": lambda: webui.model.first_stage_model.quant_conv,
        "text encoder": lambda: webui.model.cond_stage_model.wrapped.transformer.final_layer_norm,
    }
    if part == "head":
        hook = torch.nn.modules.module.register_module_forward_hook(
            lambda module, *_: break_off() if type(module).__name__ == "Head" else None
        )
    else:
        hook = where[part]().register_forward_hook(break_off)
    assert re.search(said, run.stopped(p, args))
    with pytest.raises(kind, match=said):
        webui.session.segment_image(webui.model, half(), asked())
    hook.remove()

    assert p.image_mask is None
    assert p.init_images[0].tobytes() == picture
    assert run.reported == []
    assert webui.state() == before
    again = Processing(webui.model, [half()])
    run.once(again, args)
    assert again.read["image_mask"].size == SIZE


def test_the_bar_shows_how_far_it_is_and_the_webuis_state_is_as_it_was(webui, folder):
    state, seen = webui.shared.state, []
    state.job_count, state.textinfo, state.sampling_step = -1, None, 3
    webui.unet.time_embed.register_forward_hook(lambda *_: seen.append(dict(vars(state))))

    webui.session.segment_image(webui.model, half(), asked("a\nbucket | dog", timesteps="300 400"))

    first, last = seen[0], seen[-1]
    assert (first["job_count"], first["sampling_step"], first["sampling_steps"]) == (1, 0, 1)
    assert (last["sampling_step"], last["sampling_steps"]) == (2, 4)
    assert first["textinfo"] == "LD-ZNet segment: a bucket, dog"
    assert (state.job_count, state.textinfo, state.sampling_step, state.sampling_steps) == (-1, None, 3, 0)


def test_a_plots_own_count_of_jobs_stays(webui):
    webui.shared.state.job_count = 12

    with progress.progress_shown(webui.session.app, "converting") as report:
        report(3_000_000, 9_000_000)
        assert webui.shared.state.job_count == 12
        assert (webui.shared.state.sampling_step, webui.shared.state.sampling_steps) == (333, 1000)


@pytest.mark.parametrize("name", ["interrupted", "skipped", "stopping_generation"])
@pytest.mark.parametrize("after", ["nothing", "the image", "one pass"])
def test_interrupt_and_skip_end_it_between_two_steps(webui, folder, name, after):
    state, passes = webui.shared.state, []
    press = lambda *_: setattr(state, name, True)  # noqa: E731
    webui.unet.time_embed.register_forward_hook(lambda *_: passes.append(1))
    if after == "nothing":
        press()
    elif after == "the image":
        webui.model.first_stage_model.quant_conv.register_forward_hook(press)
    else:
        webui.unet.time_embed.register_forward_hook(press)

    with pytest.raises(session.StoppedError, match="interrupted"):
        webui.session.segment_image(webui.model, half(), asked(timesteps="300 400 500"))

    assert len(passes) == (1 if after == "one pass" else 0)
    assert state.skipped is False  # like the webui, which skips one thing
    assert state.interrupted is (name == "interrupted")


@pytest.mark.parametrize("method", ["head", "attention", "difference"])
def test_with_every_method_no_pass_of_the_unet_comes_after_interrupt(webui, folder, method):
    passes = []

    def press(*_given):
        passes.append(1)
        webui.shared.state.interrupted = True

    webui.unet.time_embed.register_forward_hook(press)

    with pytest.raises(session.StoppedError, match="interrupted"):
        webui.session.segment_image(webui.model, half(), asked(method=method, timesteps="300 400"))

    assert len(passes) == 1


def test_skip_leaves_one_file_of_a_batch_out(webui, folder):
    run, p, passes = Run(webui.hooks), Processing(webui.model, [half()]), []

    def press(*_given):
        passes.append(1)
        webui.shared.state.skipped = len(passes) == 1

    webui.unet.time_embed.register_forward_hook(press)

    _, reads = run.batch(p, [half(), half(0), half(9)], [{"prompt": "bright", "resolution": 64, "threshold": 0.0}])

    assert [read["image_mask"] is None for read in reads] == [True, False, False]


# --- conversion ------------------------------------------------------------------------------------------


@pytest.fixture
def released(webui, tmp_path):
    """A checkpoint in the released layout, of a head that fits the loaded model."""
    state = random_head(webui.session.make_host(webui.model).info.unet).head.state_dict()
    raw = {f"model.diffusion_model.{name}": tensor for name, tensor in state.items()}
    averaged = {f"model_ema.diffusion_model{name.replace('.', '')}": tensor for name, tensor in state.items()}
    (tmp_path / "ldznet").mkdir()
    path = tmp_path / "ldznet" / "released.ckpt"
    torch.save({"state_dict": raw | averaged}, path)
    return path


def test_a_released_checkpoint_is_offered_converted_once_and_used(webui, released, caplog):
    caplog.set_level("INFO")
    plain = webui.session.segment_image(webui.model, half(), asked())

    assert webui.session.head_files.names() == ["automatic", "released.ckpt (to be converted)"]
    assert plain.method_reason.endswith("; released.ckpt can be converted to one: choose it as the head")
    assert webui.session.obstacle(webui.model, asked(head="released.ckpt (to be converted)")) == ""

    first = webui.session.segment_image(webui.model, half(), asked(head="released.ckpt (to be converted)"))
    written = (released.parent / "released-ema.safetensors").stat().st_mtime_ns
    by_old_name = webui.session.segment_image(
        webui.model, half(), asked("dark", head="released.ckpt (to be converted)")
    )
    by_name = webui.session.segment_image(webui.model, half(), asked("dark", head="released-ema.safetensors"))

    assert first.method_reason == "ld-znet, released-ema.safetensors fits sd1.safetensors [0123456789]"
    assert webui.session.head_files.names() == ["automatic", "released-ema.safetensors"]
    assert (released.parent / "released-ema.safetensors").stat().st_mtime_ns == written
    assert by_old_name.method_reason == by_name.method_reason
    assert caplog.text.count("this is done once") == 1


def test_a_program_may_choose_a_checkpoint_that_is_not_converted_yet(webui, released):
    settings = asked(head="released.ckpt (to be converted)")

    require_passes(settings, webui.session.head_files, webui.session.make_host(webui.model).info)


def test_the_bar_shows_the_conversion_and_interrupt_leaves_nothing_behind(webui, released, monkeypatch):
    state, seen, report = webui.shared.state, [], head_files.convert

    def convert(*given, progress, **more):
        def watched(done, total):
            seen.append((state.textinfo, done < total))
            state.interrupted = len(seen) == 3
            progress(done, total)

        return report(*given, progress=watched, **more)

    monkeypatch.setattr(head_files, "convert", convert)

    with pytest.raises(session.StoppedError):
        webui.session.segment_image(webui.model, half(), asked(head="released.ckpt"))

    assert seen[0] == ("LD-ZNet segment: converting released.ckpt, once", True)
    assert len(seen) == 3
    assert [path.name for path in released.parent.iterdir()] == ["released.ckpt"]
    state.interrupted = False
    assert webui.session.segment_image(webui.model, half(), asked(head="released.ckpt")).method_reason.startswith(
        "ld-znet, released-ema"
    )


def test_the_webuis_own_way_to_read_pickles_is_not_asked(webui, released, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_given, **_more: None)  # its answer to files that it does not know

    found = webui.session.segment_image(webui.model, half(), asked(head="released.ckpt"))

    assert found.method_reason.startswith("ld-znet, released-ema.safetensors")


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", b"PK\x03\x04 broken"])
def test_a_file_that_is_no_released_checkpoint_says_what_it_is(webui, released, content):
    released.write_bytes(content)

    with pytest.raises(CheckpointError):
        webui.session.segment_image(webui.model, half(), asked(head="released.ckpt (to be converted)"))

    assert [path.name for path in released.parent.iterdir()] == ["released.ckpt"]


def test_without_room_for_the_head_nothing_is_written(webui, released, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=1000))

    with pytest.raises(CheckpointError, match=r"has 0\.00 GB left\. Make room there"):
        webui.session.segment_image(webui.model, half(), asked(head="released.ckpt"))

    assert [path.name for path in released.parent.iterdir()] == ["released.ckpt"]


# --- many requests ---------------------------------------------------------------------------------------


def test_two_hundred_mixed_requests_leave_memory_flat(webui, folder):
    draw, counts, state = random.Random(1), [], webui.shared.state
    for number in range(200):
        some_request(webui, draw, number)
        state.interrupted = state.skipped = False
        if number % 50 == 49:
            webui.session.unload()
            counts.append(tensors())

    assert len(set(counts[1:])) == 1, counts  # the first ones make what is made once
    assert webui.shared.state.job_count == -1


def some_request(webui, draw, number):
    """A preview, a slider, a run, a batch; right, wrong, without a result or interrupted."""
    image = half(draw.choice((200, 255)), draw.choice((0, 90)))
    words = draw.choice(("bright", "dark | bright", "unicorn", "", "x" * 2001))
    given = {"prompt": words, "resolution": 64, "threshold": draw.random(), "seeds": str(draw.randrange(3))}
    given["method"] = draw.choice(("auto", "auto", "difference", "head", "magic"))
    given["head"] = draw.choice(("automatic", "automatic", "nowhere.safetensors"))
    webui.shared.opts.ldznet_rest = draw.choice(("GPU", "CPU", "unloaded"))
    webui.shared.state.interrupted = draw.random() < 0.1
    try:
        if number % 3 == 0:
            found = webui.session.segment_image(webui.model, image, read_panel_settings([given]))
            options = read_panel_settings([given]).mask
            preview.draw_preview(found, options, decide(found.segmentation, options))
        elif number % 3 == 1:
            Run(webui.hooks).once(Processing(webui.model, [image]), [given | {"append": True}])
        else:
            Run(webui.hooks).batch(Processing(webui.model, [image]), [image, half()], [given])
    except LdznetError:
        pass
