"""Checkpoints: converted exactly, read strictly, and every wrong file refused by name."""

import contextlib
import copy
import hashlib
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from conftest import features_of
from parity_weights import released_checkpoint
from safetensors.torch import load_file, safe_open, save_file

from ldznet.__main__ import main
from ldznet.errors import CheckpointError
from ldznet.files import temporary_name
from ldznet.heads import pickled, writer
from ldznet.heads.convert import convert
from ldznet.heads.head_file import load_head, read_head_info, save_head, verify_digest, write_threshold
from ldznet.heads.model_kinds import model_kind
from ldznet.heads.weight_files import open_tensors

CHECKPOINT = released_checkpoint()

UNET = "model.diffusion_model."


@pytest.fixture(scope="module")
def released():
    """The recorded checkpoint as a dict, to be changed and saved again."""
    return torch.load(CHECKPOINT, weights_only=True)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    path = tmp_path_factory.mktemp("heads") / "head.safetensors"
    return convert(CHECKPOINT, path, heads=4)


def saved(tmp_path, content, name="x.ckpt", **options):
    path = tmp_path / name
    torch.save(content, path, **options)
    return path


def refused(path, **options):
    with pytest.raises(CheckpointError) as error:
        convert(path, path.parent / "out.safetensors", heads=4, **options)
    assert sorted(p.name for p in path.parent.iterdir() if "out" in p.name) == []
    return str(error.value)


# --- what convert writes -----------------------------------------------------------------------------


def test_a_converted_head_predicts_the_recorded_logits(tmp_path, recorded):
    report = convert(CHECKPOINT, tmp_path / "head.safetensors", weights="ema", heads=4)
    case = recorded["48x48_b1"]

    head = load_head(report.path, dtype=torch.float32)  # the recorded weights are exact in float16

    logits = head(case["z"], case["c"], features_of(case))
    assert (logits[..., ::3, ::3] - case["logits_ema"]).abs().max() < 2e-4


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_convert_writes_the_weights_that_were_asked_for(tmp_path, released_state, weights):
    report = convert(CHECKPOINT, tmp_path / "head.safetensors", weights=weights, heads=4)

    name = "input_blocks.1.0.in_layers.2.weight"
    assert torch.equal(load_file(report.path)[name].float(), released_state[weights][name])
    assert not torch.equal(released_state["ema"][name], released_state["raw"][name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_convert_writes_every_tensor_in_the_precision_asked_for(tmp_path, released_state, dtype):
    report = convert(CHECKPOINT, tmp_path / "head.safetensors", heads=4, dtype=dtype)

    tensors = load_file(report.path)

    assert set(tensors) == set(released_state["ema"])
    for name, tensor in tensors.items():
        assert torch.equal(tensor, released_state["ema"][name].to(dtype)), name


def test_the_header_says_configuration_source_and_digest(converted, small_config):
    info = read_head_info(converted.path)

    assert info.config == small_config
    assert info.source == {
        "epoch": "7",
        "file": "released_layout_small.ckpt",
        "global_step": "123456",
        "sha256": hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest(),
        "weights": "ema",
    }
    blank = converted.path.read_bytes().replace(info.sha256.encode(), b"0" * 64, 1)
    assert info.sha256 == converted.sha256 == hashlib.sha256(blank).hexdigest()
    with safe_open(str(converted.path), "pt") as file:
        assert file.metadata()["format"] == "pt"


def test_the_file_lies_beside_the_source_by_default(tmp_path):
    source = tmp_path / "net.ckpt"
    source.write_bytes(CHECKPOINT.read_bytes())

    assert convert(source, heads=4).path == tmp_path / "net-ema.safetensors"
    assert convert(source, heads=4, weights="raw").path == tmp_path / "net-raw.safetensors"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net-ema.safetensors", "net-raw.safetensors", "net.ckpt"]


def test_an_uncompressed_float16_safetensors_and_sharded_source_gives_the_same_head(tmp_path, released, converted):
    state = released["state_dict"]
    expected = load_file(converted.path)
    half = {name: t.half() if t.is_floating_point() else t for name, t in state.items()}
    plain = saved(tmp_path, {"state_dict": state})
    save_file(half, tmp_path / "half.safetensors")
    names = sorted(half)
    parts = {"a-00001-of-00002.safetensors": names[::2], "a-00002-of-00002.safetensors": names[1::2]}
    for part, inside in parts.items():
        save_file({name: half[name] for name in inside}, tmp_path / part)
    index = tmp_path / "a.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {n: part for part, inside in parts.items() for n in inside}}))

    for number, source in enumerate((plain, tmp_path / "half.safetensors", index)):
        found = load_file(convert(source, tmp_path / f"{number}.safetensors", heads=4).path)
        assert all(torch.equal(found[name], expected[name]) for name in expected), source


def test_a_checkpoint_with_training_objects_is_read_without_making_them(tmp_path, released, monkeypatch):
    module = type(sys)("pytorch_lightning.callbacks.model_checkpoint")
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": module.__name__})
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        monkeypatch.setitem(sys.modules, name, type(sys)(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    callback = module.ModelCheckpoint()
    callback.best = 1
    path = saved(tmp_path, {**released, "callbacks": {module.ModelCheckpoint: {"best": 1}, "object": callback}})
    monkeypatch.undo()

    assert convert(path, tmp_path / "head.safetensors", heads=4).parameters > 9e6


def test_progress_counts_up_to_the_bytes_read_and_written(tmp_path):
    seen = []

    report = convert(CHECKPOINT, tmp_path / "h.safetensors", heads=4, progress=lambda *args: seen.append(args))

    total = CHECKPOINT.stat().st_size + 2 * report.parameters
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_memory_stays_far_below_the_size_of_the_source(tmp_path, released):
    """The source holds 290 MB more than the head's weights; reading them all would show."""
    extra = {f"first_stage_model.{n}.weight": torch.ones(2**22 * 18) for n in range(1)}
    source = saved(tmp_path, {"state_dict": {**released["state_dict"], **extra}})
    script = (
        "import sys, psutil; from ldznet.heads.convert import convert; import resource\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "convert(sys.argv[1], sys.argv[2], heads=4)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script, source, tmp_path / "head.safetensors"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert source.stat().st_size > 370e6
    assert int(done.stdout) * 1024 < 150e6


def test_what_training_programs_leave_beside_the_weights_is_passed_over(tmp_path, released):
    import argparse
    import collections
    import pathlib

    import numpy as np

    beside = {
        "score": np.float64(3),
        "curve": np.arange(3),
        "where": pathlib.PurePosixPath("runs"),
        "options": argparse.Namespace(a=1),
        "counts": collections.defaultdict(list, {"a": [1]}),
    }
    path = saved(tmp_path, {**released, **beside})

    assert convert(path, tmp_path / "head.safetensors", heads=4).parameters > 9e6


# --- what convert refuses ----------------------------------------------------------------------------


def test_a_pickle_that_runs_code_is_refused_and_nothing_of_it_runs(tmp_path):
    trace = tmp_path / "trace"

    class Payload:
        def __reduce__(self):
            return os.system, (f"touch {trace}",)

    zipped = saved(tmp_path, {"state_dict": {"model_ema.decay": torch.ones(1)}, "payload": Payload()})
    bare = tmp_path / "bare.ckpt"
    bare.write_bytes(pickle.dumps(Payload(), protocol=2))
    legacy = saved(tmp_path, {"payload": Payload()}, "legacy.ckpt", _use_new_zipfile_serialization=False)

    for path in (zipped, bare, legacy):
        text = refused(path)
        assert "asks for code to be run or objects to be made" in text
        assert "posix.system" in text
        assert "Nothing of that was done" in text
        assert not trace.exists()
    # the payload is real: unpickled in the ordinary way it leaves its trace
    pickle.loads(bare.read_bytes())
    assert trace.exists()


def cut(path, share):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


@pytest.mark.parametrize("share", [0.001, 0.4, 0.999])
def test_a_truncated_checkpoint_is_reported_as_truncated(tmp_path, released, share):
    path = cut(saved(tmp_path, {"state_dict": {"model_ema.decay": torch.ones(5000)}}), share)

    assert "truncated or damaged" in refused(path)


@pytest.mark.parametrize("share", [0.3, 0.999])
def test_a_truncated_safetensors_is_reported_as_truncated(tmp_path, share):
    save_file({"a": torch.ones(5000), "b": torch.ones(5000)}, tmp_path / "x.safetensors")

    assert "damaged or truncated safetensors" in refused(cut(tmp_path / "x.safetensors", share))


def test_a_compressed_archive_with_a_flipped_bit_is_refused(tmp_path):
    data = bytearray(CHECKPOINT.read_bytes())
    data[len(data) // 2] ^= 4
    (tmp_path / "x.ckpt").write_bytes(data)

    assert "records do not match their checksums" in refused(tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="checksums"), open_tensors(tmp_path / "x.ckpt"):
        pass


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty (0 bytes)"),
        (b"<!DOCTYPE html><title>Google Drive</title>", "is a web page (a download page was saved"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer"),
        (b"GGUF\x03\x00\x00\x00", "is a GGUF file"),
        (b"hello", "is not a kind of file that ldznet reads"),
        (b"\x80\x02X", "is a truncated or damaged checkpoint"),
        (b"PK\x03\x04....", "is a truncated or damaged PyTorch archive"),
    ],
)
def test_a_file_of_another_kind_is_refused_by_name(tmp_path, content, said):
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)

    assert said in refused(path)


def test_a_pickle_without_tensors_is_refused(tmp_path):
    assert "holds no tensors under names" in refused(saved(tmp_path, {"epoch": 3, "state_dict": {}}))
    assert "holds no tensors under names" in refused(saved(tmp_path, [1, 2]))


@pytest.mark.parametrize("seed", range(40))
def test_noise_in_a_file_gives_a_clear_error_or_does_not_matter(tmp_path, seed):
    generator = torch.Generator().manual_seed(seed)
    state = {"model_ema.decay": torch.ones(7), "b": torch.zeros(30)}
    path = tmp_path / "x.bin"
    if seed % 3 == 0:
        save_file(state, path)
    else:
        torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=seed % 3 == 1)
    data = bytearray(path.read_bytes())
    for place in torch.randint(len(data), (4,), generator=generator).tolist():
        data[place] = int(torch.randint(256, (1,), generator=generator))
    path.write_bytes(data)

    with contextlib.suppress(CheckpointError), open_tensors(path) as tensors:
        for name in tensors.shapes:
            tensors.tensor(name)


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "sd").mkdir()
    (tmp_path / "sd" / "model_index.json").write_text("{}")

    assert "is a folder, not a file" in refused(tmp_path / "model")
    assert "is a model in diffusers' layout, not a file" in refused(tmp_path / "sd")
    assert "does not exist" in refused(tmp_path / "none.ckpt")


def models():
    def of(*names, **shaped):
        return {**{name: torch.zeros(2, 2) for name in names}, **shaped}

    def sd(context, **more):
        return of(
            f"{UNET}input_blocks.1.0.out_layers.0.weight",
            **{
                f"{UNET}input_blocks.0.0.weight": torch.zeros(32, 4, 3, 3),
                f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(8, context),
                **more,
            },
        )

    nine = {f"{UNET}input_blocks.0.0.weight": torch.zeros(32, 9, 3, 3)}
    return [
        (of("lora_unet_down_blocks_0.lora_up.weight", "lora_te_text.alpha"), "a LoRA"),
        (of("encoder.down.0.block.0.norm1.weight", "decoder.conv_in.weight"), "a VAE"),
        (of("first_stage_model.encoder.conv_in.weight"), "a VAE"),
        (sd(2048, **{"conditioner.embedders.0.weight": torch.zeros(2)}), "a Stable Diffusion XL checkpoint"),
        (sd(1024), "a Stable Diffusion 2.x checkpoint"),
        (sd(768), "a plain Stable Diffusion 1.x checkpoint: the diffusion model alone, with no segmentation head"),
        (sd(768, **nine), "a Stable Diffusion inpainting checkpoint"),
        (of("control_model.input_blocks.0.0.weight"), "a ControlNet"),
        (of("model.diffusion_model.joint_blocks.0.x"), "a Stable Diffusion 3 or Flux model"),
        (of("down_blocks.0.resnets.0.conv1.weight"), "a UNet in diffusers' layout"),
        (of("emb_params"), "a textual inversion"),
        (of("text_model.encoder.layers.0.mlp.fc1.weight"), "a text encoder"),
        (of("bias", "weight"), "something that ldznet does not know (2 tensors, first bias"),
    ]


@pytest.mark.parametrize("kind", ["ckpt", "half.ckpt", "safetensors", "half.safetensors"])
@pytest.mark.parametrize(("state", "said"), models(), ids=[said for _, said in models()])
def test_a_model_of_another_kind_is_refused_by_name_in_every_format(tmp_path, state, said, kind):
    if "half" in kind:
        state = {name: tensor.half() for name, tensor in state.items()}
    path = tmp_path / f"x.{kind}"
    torch.save({"state_dict": state}, path) if kind.endswith("ckpt") else save_file(state, path)

    text = refused(path)

    assert f"it seems to be {said}" in text
    assert "Give the released LD-ZNet checkpoint" in text


def test_one_part_of_a_sharded_checkpoint_is_refused(tmp_path):
    path = tmp_path / "x-00002-of-00003.safetensors"
    save_file({"model_ema.decay": torch.ones(1)}, path)

    assert "seems to be part 2 of 3 of a sharded checkpoint. Give its .index.json" in refused(path)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("{}", "has no weight_map"),
        ('{"weight_map": {"a": "lost.safetensors"}}', "1 of them are missing beside it: lost.safetensors"),
        ('{"weight_map": {"a": "../x.safetensors"}}', "names parts outside its own folder"),
        ('{"weight_map": {"a": 1}}', "has no weight_map"),
        ('{"weight_map": {"a": "x.safetensors.index.json"}}', "has no weight_map"),
        ("[" * 100000, "has no weight_map"),
        ('{"weight_map": {"zz": "part.safetensors"}}', "1 tensors that its parts do not hold, first zz"),
    ],
)
def test_a_broken_index_is_refused(tmp_path, index, said):
    save_file({"a": torch.ones(1)}, tmp_path / "part.safetensors")
    path = tmp_path / "x.safetensors.index.json"
    path.write_text(index)

    assert said in refused(path)


def changed(tmp_path, released, change):
    state = OrderedDict(released["state_dict"])
    change(state)
    return saved(tmp_path, {"state_dict": state})


def test_missing_left_over_and_misshapen_tensors_are_listed(tmp_path, released):
    def change(state):
        del state["model_ema.diffusion_modelout0weight"]
        state["model_ema.diffusion_modeltimeembed9weight"] = torch.ones(1)
        state["model_ema.diffusion_modelfinal0bias"] = torch.ones(2)

    text = refused(changed(tmp_path, released, change))

    assert "(ema weights) does not fit the network" in text
    assert "1 missing: out.0.weight" in text
    assert "1 left over: diffusion_modeltimeembed9weight" in text
    assert "1 of the wrong shape: final.0.bias (2,) instead of (1,)" in text


def test_raw_weights_are_checked_as_strictly(tmp_path, released):
    def change(state):
        del state[f"{UNET}middle_block.1.attentionpool2D.c_proj.bias"]
        state[f"{UNET}middle_block.9.bias"] = torch.ones(1)

    text = refused(changed(tmp_path, released, change), weights="raw")

    assert "1 missing: middle_block.1.attentionpool2D.c_proj.bias" in text
    assert "1 left over: middle_block.9.bias" in text


def test_a_file_without_averaged_weights_says_to_take_the_raw_ones(tmp_path, released):
    def drop(state):
        for name in [name for name in state if name.startswith("model_ema.")]:
            del state[name]

    path = changed(tmp_path, released, drop)

    assert "has no averaged (EMA) weights" in refused(path)
    assert convert(path, tmp_path / "head.safetensors", weights="raw", heads=4).weights == "raw"


def test_a_file_of_averaged_weights_alone_is_read(tmp_path, released, converted):
    def drop(state):
        for name in [name for name in state if name.startswith("model.")]:
            del state[name]

    path = changed(tmp_path, released, drop)

    assert "has averaged (EMA) weights only" in refused(path, weights="raw")
    found = load_file(convert(path, tmp_path / "head.safetensors", heads=4).path)
    assert all(torch.equal(found[name], tensor) for name, tensor in load_file(converted.path).items())


def test_the_number_of_heads_must_be_given_for_another_width(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"32 channels wide; .* cannot be seen in the file: give it \(--heads\)"
    ):
        convert(CHECKPOINT, tmp_path / "out.safetensors")
    with pytest.raises(
        CheckpointError, match=r"5 attention heads do not divide the widths .* start at 32 channels"
    ):
        convert(CHECKPOINT, tmp_path / "out.safetensors", heads=5)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.full((1,), 7e4), "final.0.bias reaches 7e+04, which float16 cannot hold. Use bfloat16 or float32"),
        (torch.full((1,), float("nan")), "final.0.bias holds values that are not numbers"),
        (torch.ones(1, dtype=torch.int8), "final.0.bias holds torch.int8, but weights are floating-point"),
    ],
)
def test_values_that_cannot_be_stored_are_refused(tmp_path, released, value, said):
    path = changed(tmp_path, released, lambda state: state.update({"model_ema.diffusion_modelfinal0bias": value}))

    assert said in refused(path)


def with_shape(tmp_path, released, name, shape):
    def change(state):
        for key in (f"{UNET}{name}", "model_ema.diffusion_model" + name.replace(".", "")):
            state[key] = torch.ones(shape)

    return changed(tmp_path, released, change)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("input_blocks.0.0.weight", (1,)),
        ("input_blocks.0.0.weight", ()),
        ("input_blocks.0.0.weight", (0, 4, 3, 3)),
        ("input_blocks.0.0.weight", (48, 4, 3, 3)),
        ("input_blocks.0.0.weight", (32, 9, 3, 3)),
        ("input_blocks.1.0.in_layers.2.weight", ()),
        ("out.2.weight", ()),
        ("middle_block.1.transformer_blocks.0.attn2.to_k.weight", (3,)),
        ("middle_block.1.attentionpool2D.positional_embedding", (128, 0)),
    ],
)
def test_any_wrong_shape_is_a_clear_error(tmp_path, released, name, shape):
    assert "x.ckpt" in refused(with_shape(tmp_path, released, name, shape))


@pytest.mark.parametrize(
    "name",
    [
        "final.12.weight",
        "input_blocks.0.0.weight",
        "input_blocks.1.0.in_layers.2.weight",
        "middle_block.1.proj_in.weight",
    ],
)
def test_a_missing_tensor_is_listed_whichever_it_is(tmp_path, released, name):
    def drop(state):
        for key in (f"{UNET}{name}", "model_ema.diffusion_model" + name.replace(".", "")):
            del state[key]

    text = refused(changed(tmp_path, released, drop))

    assert name in text
    assert "missing" in text
    assert "x.ckpt" in text


@pytest.mark.parametrize("heads", [0, -4])
def test_a_number_of_heads_below_one_is_refused(tmp_path, heads):
    with pytest.raises(CheckpointError, match=rf"--heads is {heads}, but it must be at least 1"):
        convert(CHECKPOINT, tmp_path / "out.safetensors", heads=heads)


def test_a_flipped_bit_in_a_stored_archive_is_noticed(tmp_path, released):
    path = saved(tmp_path, {"state_dict": released["state_dict"]})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 8
    path.write_bytes(data)

    assert "1 of its" in (text := refused(path))
    assert "records do not match their checksums" in text


def test_a_pipe_a_device_and_an_empty_name_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    assert "is a device or a pipe" in refused(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="is a device or a pipe"):
        convert("/dev/zero", tmp_path / "out.safetensors")
    with pytest.raises(CheckpointError, match="is a folder"):
        convert("")


def test_what_is_no_file_is_not_replaced_by_one(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(CheckpointError, match="pipe is a device or a pipe and was not changed"):
        convert(CHECKPOINT, tmp_path / "pipe", heads=4, overwrite=True)
    assert (tmp_path / "pipe").is_fifo()


def test_a_refusal_leaves_no_new_folder(tmp_path):
    (tmp_path / "old").mkdir()
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")

    for target in ("new/deep/y", "old/new/y"):
        with pytest.raises(CheckpointError, match="holds no LD-ZNet head"):
            convert(tmp_path / "other.safetensors", tmp_path / target)

    assert sorted(p.name for p in tmp_path.rglob("*")) == ["old", "other.safetensors"]


def test_names_that_are_too_long_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="File name too long"):
        convert(CHECKPOINT, tmp_path / ("x" * 256), heads=4)
    with pytest.raises(CheckpointError, match="File name too long"):
        convert(tmp_path / ("x" * 300), tmp_path / "out.safetensors")


def test_a_link_to_nowhere_and_a_part_of_the_source_are_not_overwritten(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="exists already"):
        convert(CHECKPOINT, tmp_path / "link", heads=4)

    part = tmp_path / "a-00001-of-00001.safetensors"
    save_file({"a": torch.ones(1)}, part)
    index = tmp_path / "a.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": part.name}}))
    with pytest.raises(CheckpointError, match="written over its own source"):
        convert(index, part, heads=4, overwrite=True)


def test_leftovers_of_a_killed_conversion_are_removed_and_files_of_a_running_one_stay(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    name = temporary_name()
    left, running = (tmp_path / name.replace(f"-{os.getpid()}-", f"-{p}-") for p in (dead.pid, os.getppid()))
    left.write_text("half")
    running.write_text("half")

    convert(CHECKPOINT, tmp_path / "head.safetensors", heads=4)

    assert sorted(p.name for p in tmp_path.iterdir()) == [running.name, "head.safetensors"]


def test_a_termination_leaves_nothing_half_written(tmp_path):
    script = (
        "import os, signal, sys\n"
        "from ldznet.heads import writer\n"
        "from ldznet.__main__ import main\n"
        "whole, calls = writer.fitted_weight, []\n"
        "def slow(*args):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 300: os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return whole(*args)\n"
        "writer.fitted_weight = slow\n"
        "sys.exit(main())\n"
    )
    call = [sys.executable, "-c", script, "convert", CHECKPOINT, tmp_path / "h.safetensors", "--heads", "4"]

    assert subprocess.run(call, check=False).returncode == 143
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_overwritten_with_permission_only(tmp_path):
    target = tmp_path / "head.safetensors"
    target.write_text("mine")

    with pytest.raises(CheckpointError, match="exists already and was not changed"):
        convert(CHECKPOINT, target, heads=4)
    assert target.read_text() == "mine"

    convert(CHECKPOINT, target, heads=4, overwrite=True)
    assert read_head_info(target).source["weights"] == "ema"


def test_a_source_is_never_written_over_itself(tmp_path):
    source = tmp_path / "x.ckpt"
    source.write_bytes(CHECKPOINT.read_bytes())

    with pytest.raises(CheckpointError, match="written over its own source"):
        convert(source, source, heads=4, overwrite=True)


@pytest.mark.parametrize("fault", [KeyboardInterrupt, MemoryError, OSError(28, "No space left on device")])
def test_an_interrupted_conversion_leaves_the_old_file_and_nothing_half_written(tmp_path, monkeypatch, fault):
    target = tmp_path / "head.safetensors"
    target.write_text("old")
    calls = []

    def failing(name, tensor, dtype):
        calls.append(name)
        if len(calls) == 300:
            raise fault
        return whole(name, tensor, dtype)

    whole = writer.fitted_weight
    monkeypatch.setattr(writer, "fitted_weight", failing)
    expected = CheckpointError if isinstance(fault, OSError) else fault

    with pytest.raises(expected):
        convert(CHECKPOINT, target, heads=4, overwrite=True)

    assert len(calls) == 300
    assert [p.name for p in tmp_path.iterdir()] == ["head.safetensors"]
    assert target.read_text() == "old"


def test_a_full_disk_is_noticed_before_anything_is_read(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda _path: usage)
    source = tmp_path / "x.safetensors"
    save_file(torch.load(CHECKPOINT, weights_only=True)["state_dict"], source)

    assert "its disk has 0.00 GB left. Make room" in refused(source)


# --- reading a head ----------------------------------------------------------------------------------


def test_a_saved_head_is_loaded_equal(tmp_path, small_heads):
    digest = save_head(
        small_heads["raw"], tmp_path / "h.safetensors", source={"training": "test"}, dtype=torch.float32
    )

    loaded = load_head(tmp_path / "h.safetensors")

    assert loaded.config == small_heads["raw"].config
    assert not loaded.training
    state = small_heads["raw"].state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
    assert read_head_info(tmp_path / "h.safetensors").sha256 == digest


def test_a_head_is_loaded_in_the_precision_asked_for(converted):
    assert {p.dtype for p in load_head(converted.path).parameters()} == {torch.float16}
    assert {p.dtype for p in load_head(converted.path, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


def positions(path):
    """One byte of each kind: length, header, digest, first, middle and last of the weights."""
    data = path.read_bytes()
    front = 8 + int.from_bytes(data[:8], "little")
    digest = data.index(b"ldznet.sha256") + 20
    return [0, 9, digest, data.index(b"epoch"), front - 1, front, (front + len(data)) // 2, len(data) - 1]


@pytest.mark.parametrize("place", range(8))
def test_a_flipped_bit_anywhere_in_a_heads_file_is_noticed(tmp_path, converted, place):
    data = bytearray(converted.path.read_bytes())
    data[positions(converted.path)[place]] ^= 1
    path = tmp_path / "flipped.safetensors"
    path.write_bytes(data)

    with pytest.raises(
        CheckpointError, match=r"does not match the SHA-256|damaged|is not a head file|not a kind of file"
    ):
        load_head(path)


def test_flipped_bits_in_the_header_are_reported_as_damage_of_this_file(tmp_path, converted):
    whole = converted.path.read_bytes()
    front = 8 + int.from_bytes(whole[:8], "little")
    path = tmp_path / "flipped.safetensors"
    for place in torch.randint(8, front, (60,), generator=torch.Generator().manual_seed(1)).tolist():
        data = bytearray(whole)
        data[place] ^= 2
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=r"flipped\.safetensors"):
            load_head(path)


def test_a_loaded_head_does_not_depend_on_its_file_any_more(tmp_path, converted):
    path = tmp_path / "head.safetensors"
    path.write_bytes(converted.path.read_bytes())
    head = load_head(path)
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}

    with path.open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        file.write(bytes(1000))

    assert all(torch.equal(tensor, before[name]) for name, tensor in head.state_dict().items())


def test_a_bit_that_only_the_digest_can_notice_passes_unverified(tmp_path, converted):
    data = bytearray(converted.path.read_bytes())
    data[-1] ^= 1
    (tmp_path / "flipped.safetensors").write_bytes(data)

    load_head(tmp_path / "flipped.safetensors", verify=False)
    with pytest.raises(CheckpointError, match=r"is damaged: its content does not match the SHA-256"):
        verify_digest(tmp_path / "flipped.safetensors", converted.sha256)


def test_a_head_whose_tensors_do_not_fit_its_configuration_is_refused(tmp_path, converted):
    tensors = load_file(converted.path)
    with safe_open(str(converted.path), "pt") as file:
        metadata = file.metadata()
    del tensors["out.0.bias"]
    save_file(tensors, tmp_path / "cut.safetensors", metadata)

    with pytest.raises(CheckpointError, match=r"does not fit the network \(1 missing: out.0.bias\)"):
        load_head(tmp_path / "cut.safetensors", verify=False)


def test_an_unconverted_checkpoint_is_refused_with_the_command_that_converts_it():
    with pytest.raises(CheckpointError, match=r"released layout. Convert it once: python -m ldznet convert"):
        load_head(CHECKPOINT)


def test_a_head_is_described_as_one():
    assert model_kind({"final.12.weight": (1, 1, 3, 3)}) == "a segmentation head"


def test_a_compressed_archive_is_read_unmapped_and_leaves_no_file(tmp_path, released):
    with zipfile.ZipFile(CHECKPOINT) as archive:
        assert {record.compress_type for record in archive.infolist()} == {zipfile.ZIP_DEFLATED}
    path = tmp_path / "x.ckpt"
    path.write_bytes(CHECKPOINT.read_bytes())

    with open_tensors(path) as tensors:
        name = "model.diffusion_model.out.2.weight"
        assert torch.equal(tensors.tensor(name), released["state_dict"][name])

    assert list(tmp_path.iterdir()) == [path]


# --- the command ---------------------------------------------------------------------------------------


def test_the_command_says_what_it_wrote(tmp_path, capsys):
    code = main(["convert", str(CHECKPOINT), str(tmp_path / "h.safetensors"), "--heads", "4"])

    out = capsys.readouterr().out
    assert code == 0
    assert "ld-znet, 9,343,288 parameters, ema weights, float16, 18.8 MB" in out
    assert "left out: schedule (12)" in out


def test_the_command_answers_programs_in_json(tmp_path, capsys):
    main(["convert", str(CHECKPOINT), str(tmp_path / "h.safetensors"), "--heads", "4", "--raw", "--json"])

    answer = json.loads(capsys.readouterr().out)
    assert answer["weights"] == "raw"
    assert answer["sha256"] == read_head_info(tmp_path / "h.safetensors").sha256


def test_the_command_fails_with_one_readable_line(tmp_path, capsys):
    (tmp_path / "x.ckpt").write_bytes(b"")

    code = main(["convert", str(tmp_path / "x.ckpt")])

    assert code == 1
    said = "is empty (0 bytes): the download or copy did not work. Fetch the file again."
    assert capsys.readouterr().err == f"error: {tmp_path / 'x.ckpt'} {said}\n"


# --- files that were made to do harm, and other kinds ------------------------------------------------


def repacked(path, released, compression=zipfile.ZIP_STORED, extra=(), **replacements):
    """The released checkpoint, written by PyTorch and packed again with changes to its pickle."""
    torch.save(released, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in {**records, **dict(extra)}.items():
            changed = data
            for old, new in replacements.values() if name.endswith("data.pkl") else ():
                assert old in changed
                changed = changed.replace(old, new, 1)
            archive.writestr(name, changed)
    return path


def huge(count, stride=1):
    """A pickle of four numbers -> one that claims `count` of them."""
    number = b"J" + count.to_bytes(4, "little")
    return (b"QK\x00K\x04\x85q\nK\x01\x85", b"QK\x00" + number + b"\x85q\nK" + bytes([stride]) + b"\x85")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_tensor_with_stride_0_is_refused_before_it_fills_the_memory(tmp_path, compression):
    state = {"state_dict": {"a": torch.arange(4.0)}}
    path = repacked(tmp_path / "x.ckpt", state, compression, claim=huge(10**9, 0))

    with open_tensors(path) as tensors, pytest.raises(CheckpointError, match="a claims 1,000,000,000 values"):
        tensors.tensor("a")


def test_convert_refuses_a_head_with_a_repeated_value(tmp_path, released):
    state = dict(released["state_dict"])
    name = next(name for name in state if name.startswith("model_ema.") and state[name].ndim == 4)
    state[name] = torch.zeros(1).expand(state[name].shape)

    assert "values, which the file does not store" in refused(saved(tmp_path, {"state_dict": state}))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("count", [100, 10**9])
def test_a_storage_larger_than_its_record_is_refused(tmp_path, compression, count):
    state = {"state_dict": {"a": torch.arange(4.0)}}
    number = b"J" + count.to_bytes(4, "little")
    storage = (b"cpuq\x08K\x04t", b"cpuq\x08" + number + b"t")
    path = repacked(tmp_path / "x.ckpt", state, compression, storage=storage, claim=huge(count))

    assert "1 of its 1 records are smaller than the tensors in them" in refused(path)


def test_an_archive_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pickled, "_LARGE", 2**20)
    zeros = {"x/data/7": bytes(2**22)}
    path = repacked(tmp_path / "x.ckpt", {"state_dict": {"a": torch.ones(4)}}, zipfile.ZIP_DEFLATED, zeros.items())

    assert "It was made to fill the memory" in refused(path)


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_a_torchscript_archive_is_refused_and_not_run(tmp_path):
    module = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))
    torch.jit.save(module, tmp_path / "x.pt")

    assert "is a TorchScript archive, which holds a program" in refused(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "content",
    [
        {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.zeros(2, 8)}, "name": "x"},
        {"<cat-toy>": torch.zeros(768)},
    ],
)
def test_a_textual_inversion_is_named(tmp_path, content):
    assert "a textual inversion" in refused(saved(tmp_path, content, "x.pt"))


@pytest.mark.parametrize("protocol", [0, 1])
def test_a_pickle_of_an_old_protocol_is_named(tmp_path, protocol):
    for number, content in enumerate(({"a": [1.0]}, OrderedDict(a=1), [1, 2])):
        path = tmp_path / f"{number}.ckpt"
        path.write_bytes(pickle.dumps(content, protocol))

        assert "is a pickle of protocol 0 or 1, which cannot be read safely" in refused(path)


def test_a_tar_file_of_the_first_pytorch_is_named(tmp_path):
    import tarfile

    (tmp_path / "storages").write_bytes(bytes(100))
    with tarfile.open(tmp_path / "x.pt", "w") as archive:
        archive.add(tmp_path / "storages", "storages")

    assert "is a tar archive, as PyTorch wrote in 2016" in refused(tmp_path / "x.pt")


def test_the_small_diffusion_model_is_named_as_one(tmp_path):
    tiny = Path(__file__).parents[2] / "models" / "tiny" / "tiny.safetensors"

    with pytest.raises(CheckpointError) as error:
        convert(tiny, tmp_path / "out.safetensors")
    text = str(error.value)

    assert "it seems to be a plain Stable Diffusion 1.x checkpoint: the diffusion model alone, with no" in text


def test_convert_does_not_replace_a_file_that_appeared_meanwhile(tmp_path, monkeypatch):
    target = tmp_path / "head.safetensors"
    whole = writer.fitted_weight

    def slow(*args):
        target.write_text("theirs")
        return whole(*args)

    monkeypatch.setattr(writer, "fitted_weight", slow)

    with pytest.raises(CheckpointError, match="exists already and was not changed"):
        convert(CHECKPOINT, target, heads=4)

    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("head.safetensors", "theirs")]


def test_the_same_head_always_has_the_same_digest(tmp_path, small_heads):
    digests = {save_head(small_heads["raw"], tmp_path / f"{n}.safetensors", source={"é": 1}) for n in range(4)}

    assert len(digests) == 1
    assert len({(tmp_path / f"{n}.safetensors").read_bytes() for n in range(4)}) == 1


def rewritten(path, target, tensors=None, **metadata):
    """A head file with other metadata or weights, and without a digest that fits."""
    with safe_open(str(path), "pt") as file:
        before = file.metadata()
    save_file({**load_file(path), **(tensors or {})}, target, {**before, **metadata})
    return target


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_head_whose_weights_are_not_finite_is_refused(tmp_path, converted, value):
    bias = load_file(converted.path)["out.0.bias"].clone()
    bias[3] = value
    path = rewritten(converted.path, tmp_path / "x.safetensors", {"out.0.bias": bias})

    with pytest.raises(CheckpointError, match=r"values in out\.0\.bias that are not finite in float16"):
        load_head(path, verify=False)


def test_a_head_that_overflows_the_precision_asked_for_is_refused(tmp_path, small_heads):
    head = copy.deepcopy(small_heads["raw"])
    with torch.no_grad():
        head.out[0].bias[0] = 1e6
    save_head(head, tmp_path / "x.safetensors", source={}, dtype=torch.float32)

    with pytest.raises(CheckpointError, match=r"not finite in float16 .* Use another precision"):
        load_head(tmp_path / "x.safetensors", dtype=torch.float16)
    load_head(tmp_path / "x.safetensors")


@pytest.mark.parametrize("source", ["[]", "3", '"x"', "null", "{", "[" * 100_000])
def test_a_source_that_is_not_an_object_is_refused_when_the_header_is_read(tmp_path, converted, source):
    path = rewritten(converted.path, tmp_path / "x.safetensors", **{"ldznet.source": source})

    with pytest.raises(CheckpointError, match="its header cannot be read"):
        read_head_info(path)


@pytest.mark.parametrize("config", ["[]", "nul", '{"unet": []}', '{"unet": {"depths": 3, "channel_mult": []}}'])
def test_a_configuration_of_other_types_is_a_clear_error(tmp_path, converted, config):
    path = rewritten(converted.path, tmp_path / "x.safetensors", **{"ldznet.config": config})

    with pytest.raises(CheckpointError, match="configuration cannot be read"):
        read_head_info(path)


@pytest.mark.parametrize("field", ["kind", "fusion", "pool_grids", "stem_width", "unet"])
@pytest.mark.parametrize("value", [None, -1, "x", [], {"a": "b"}])
def test_a_configuration_with_one_wrong_value_is_a_clear_error(tmp_path, converted, field, value):
    config = {**json.loads(converted.config.to_json()), field: value}
    path = rewritten(converted.path, tmp_path / "x.safetensors", **{"ldznet.config": json.dumps(config)})

    with pytest.raises(CheckpointError, match="configuration cannot be read"):
        read_head_info(path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_threshold_is_written_into_the_header_of_a_head_and_changes_nothing_else(tmp_path, small_heads, dtype):
    path, before = tmp_path / "x.safetensors", {"resolution": 128, "template": "{}"}
    digest = save_head(small_heads["raw"], path, source=before, dtype=dtype)
    weights = load_head(path).state_dict()

    assert write_threshold(path, 0.18) == read_head_info(path).sha256 != digest

    assert read_head_info(path).source == {**before, "threshold": 0.18}
    assert all(torch.equal(weights[name], one) for name, one in load_head(path).state_dict().items())
    assert load_head(path).state_dict().keys() == weights.keys()
    assert next(load_head(path).parameters()).dtype == dtype
