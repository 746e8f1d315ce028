"""The command that trains: from a checkpoint's file to a head's, alone or as several processes."""

import csv
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from miniature import write_phrasecut
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from stand_in_art import stand_in_world, write_art
from stand_ins import write_folder

from ldznet.__main__ import main
from ldznet.errors import HostError
from ldznet.heads.head_file import load_head, read_head_info
from ldznet.heads.unet import UNetConfig
from ldznet.hosts.diffusers.host import DiffusersHost
from ldznet.methods.choose import choose_method, find_heads
from ldznet.research.cli import forecast
from ldznet.research.embedded import model
from ldznet.research.embedded.autoencoder import train_decoder, train_encoder
from ldznet.research.embedded.diffusion import train_unet
from ldznet.research.embedded.files import export
from ldznet.research.embedded.model import TinyConfig
from ldznet.research.embedded.resumable_stage import RunOptions, is_given
from ldznet.research.embedded.text_encoder import train_text

RECIPE = ("--preset", "tiny", "--steps", "4", "--batch", "4", "--size", "64", "--scenes", "4", "--device", "cpu")
CONFIG = TinyConfig(
    unet=UNetConfig(model_channels=32, channel_mult=(1, 1, 2, 2), res_blocks=1, heads=2, context_width=32),
    vae_widths=(32, 32, 32, 32),
    text_layers=1,
    size=64,
    batch=2,
    text_batch=2,
    text_steps=2,
    shard=4,
    encoder_scenes=2,
    encoder_steps=2,
    decoder_scenes=2,
    decoder_steps=1,
)
QUICK = ("--log-every", "1", "--save-every", "2", "--validate-every", "100")

pytestmark = pytest.mark.usefixtures("art")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small diffusion model, trained for a step, as a file."""
    folder = tmp_path_factory.mktemp("tiny")
    options = RunOptions(folder=folder, steps=1)
    for stage in (train_encoder, train_decoder, train_text, train_unet):
        stage(CONFIG, options, stand_in_world(), lambda _text: None)
    export(CONFIG, folder, folder / "small.safetensors", stand_in_world(), dtype=torch.float32)
    return folder / "small.safetensors"


def losses(folder):
    with (folder / "metrics.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]


def board(folder):
    """What TensorBoard shows: the losses, and the steps with a picture and its size."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    pictures = [(event.step, event.width, event.height) for event in events.Images("masks")]
    return [event.value for event in events.Scalars("loss")], pictures


@pytest.fixture(autouse=True)
def files_of_one_second_in_order(monkeypatch):
    """TensorBoard reads its files by name, in which the second comes first, and then a process's count of them: as
    text, where 10 comes before 9. Only tests start several trainings in one process and second.
    """
    writer = pytest.importorskip("tensorboard.summary.writer.event_file_writer")
    monkeypatch.setattr(writer, "_global_uid", writer.AtomicCounter(1000))


def train(checkpoint, out, *more):
    return main(["train", "scenes", "--out", str(out), "--checkpoint", str(checkpoint), *RECIPE, *QUICK, *more])


def test_a_trained_head_records_its_training_and_is_chosen_for_its_model(checkpoint, tmp_path, capsys):
    assert train(checkpoint, tmp_path / "run", "--timesteps", "100,200") == 0
    assert "tensors taken" in capsys.readouterr().out

    info = read_head_info(tmp_path / "run" / "last.safetensors")
    assert info.source["step"] == 4
    assert info.source["options"]["negatives"] == 0.2
    with (tmp_path / "run" / "metrics.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert info.source["threshold"] == float(last["miou_threshold"])  # of the validation
    host = DiffusersHost.load(checkpoint)
    method = choose_method("auto", host.info, find_heads([tmp_path / "run"])).method
    assert method.defaults.resolution == 64
    assert method.defaults.timesteps == (150,)
    assert method.defaults.threshold.value == info.source["threshold"]
    assert method.defaults.threshold.reason == "measured for this head"
    assert method.defaults.template == "{}"


def test_a_training_stops_and_resumes_and_leaves_metrics(checkpoint, tmp_path):
    assert train(checkpoint, tmp_path / "whole") == 0
    codes = []
    while not codes or codes[-1] == 3:
        codes.append(train(checkpoint, tmp_path / "parts", "--minutes", "0"))

    assert codes == [3, 3, 3, 0]
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert (tmp_path / "whole" / "best.safetensors").exists()
    shown, pictures = board(tmp_path / "parts")
    assert shown == pytest.approx(losses(tmp_path / "whole"), abs=1e-6)
    with Image.open(tmp_path / "whole" / "pictures" / "step-0000004.jpg") as picture:
        assert pictures == [(4, *picture.size)]


def test_a_head_is_trained_further(checkpoint, tmp_path, capsys):
    assert train(checkpoint, tmp_path / "first", "--kind", "znet") == 0
    start = str(tmp_path / "first" / "last.safetensors")
    assert train(checkpoint, tmp_path / "second", "--kind", "znet", "--start", start, "--rate", "0") == 0

    one, two = (load_head(tmp_path / name / "last.safetensors").state_dict() for name in ("first", "second"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert train(checkpoint, tmp_path / "third", "--start", start) == 2
    assert "is a head of another kind, structure or blocks" in capsys.readouterr().err


def test_other_options_in_the_same_folder_are_refused(checkpoint, tmp_path, capsys):
    assert train(checkpoint, tmp_path / "run", "--minutes", "0") == 3
    assert train(checkpoint, tmp_path / "run", "--rate", "0.5") == 1
    assert "holds a training with other options (rate)" in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--start", "random"], ["--final", "random"]])
def test_another_start_in_the_same_folder_is_refused(checkpoint, tmp_path, capsys, more):
    assert train(checkpoint, tmp_path / "run", "--kind", "znet", "--minutes", "0") == 3
    assert train(checkpoint, tmp_path / "run", "--kind", "znet", *more) == 1
    assert "holds a training with another start of its head" in capsys.readouterr().err


def test_a_model_with_another_vae_in_the_same_folder_is_refused(checkpoint, tmp_path, capsys):
    assert train(checkpoint, tmp_path / "run", "--kind", "znet", "--minutes", "0") == 3
    with safe_open(checkpoint, "pt") as file:
        state, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    state["first_stage_model.encoder.conv_in.weight"] += 0.01
    other = shutil.copytree(checkpoint.parent, tmp_path / "model") / checkpoint.name
    save_file(state, other, metadata)

    assert train(other, tmp_path / "run", "--kind", "znet") == 1
    assert "holds a training with another VAE or text encoder" in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--workers", "-1"], ["--minutes", "-1"], ["--minutes", "nan"]])
def test_numbers_that_mean_nothing_are_refused(tmp_path, capsys, more):
    assert train("nowhere", tmp_path / "run", *more) == 2
    assert "but neither can be below 0" in capsys.readouterr().err


def test_a_missing_tokenizer_may_be_downloaded_as_the_error_says(tmp_path, monkeypatch):
    asked = []

    def load(*_path, download, **_more):
        asked.append(download)
        raise HostError("no tokenizer")

    monkeypatch.setattr(DiffusersHost, "load", load)
    assert [train("x", tmp_path / "run", *more) for more in ([], ["--download"])] == [1, 1]
    assert asked == [False, True]


def test_a_disk_that_is_too_small_is_reported_before_the_training(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(forecast.shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(9, 8, 10**6))

    assert train(checkpoint, tmp_path / "run", "--kind", "znet") == 2
    assert "0.00 GB are free. Make room, or give another folder (--out)" in capsys.readouterr().err
    assert list((tmp_path / "run").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_reported_before_the_training(checkpoint, tmp_path, capsys):
    (tmp_path / "file").write_text("")

    assert train(checkpoint, tmp_path / "file", "--kind", "znet") == 2
    assert "Nothing can be written to" in capsys.readouterr().err


def test_a_full_disk_at_a_checkpoint_ends_the_training_and_the_state_before_is_whole(
    checkpoint, tmp_path, capsys, monkeypatch
):
    whole, folder = torch.save, tmp_path / "run"
    assert train(checkpoint, folder, "--kind", "znet", "--minutes", "0") == 3

    def full(_state, path):
        path.write_bytes(b"as much as there was room for")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 9 vs 8\nmore")

    monkeypatch.setattr(torch, "save", full)
    assert train(checkpoint, folder, "--kind", "znet") == 1
    said = capsys.readouterr().err
    assert "state.pt could not be written ([enforce fail" in said
    assert "What was saved before is whole. Make room, and the same command resumes there" in said
    assert not list(folder.glob("*.partial"))
    assert torch.load(folder / "state.pt", weights_only=True)["step"] == 1
    monkeypatch.setattr(torch, "save", whole)
    assert train(checkpoint, folder, "--kind", "znet") == 0


@pytest.mark.parametrize("kind", ["znet", "rgbnet"])
def test_the_other_kinds_train_on_phrasecut_by_the_papers_recipe(checkpoint, tmp_path, capsys, kind):
    data = tmp_path / "data"
    write_phrasecut(data, scenes=6, seed=1, size=(96, 128), splits=("train", "miniv"))
    broken = sorted((data / "images").iterdir())[0]
    broken.write_bytes(b"no image")

    command = [
        *("train", str(data), "--kind", kind, "--checkpoint", str(checkpoint), "--device", "cpu"),
        *("--steps", "2", "--batch", "2", "--size", "64", *QUICK),
    ]
    code = main([*command, "--out", str(tmp_path / "run")])

    assert code == 0
    for path in (data / "images").iterdir():
        path.write_bytes(b"no image")
    assert main([*command, "--out", str(tmp_path / "strict"), "--on-problem", "refuse"]) == 1
    assert "is not an image: it holds text" in capsys.readouterr().err
    assert read_head_info(tmp_path / "run" / "last.safetensors").config.kind == kind
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    options = json.loads(state["options"])
    assert (options["schedule"], options["posterior"], options["timesteps"]) == ("plateau", "sample", [300, 499])


def test_blocks_can_be_chosen(checkpoint, tmp_path, capsys):
    assert train(checkpoint, tmp_path / "run", "--blocks", "middle_block.1,output_blocks.4.1", "--steps", "1") == 0
    grids = read_head_info(tmp_path / "run" / "last.safetensors").config.pool_grids
    assert grids == {"middle_block.1": 1, "output_blocks.4.1": 4}

    assert train(checkpoint, tmp_path / "other", "--blocks", "nowhere.1") == 1
    assert (
        "There is no transformer at 'nowhere.1'; this UNet has them at input_blocks.1.1" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "--out", "x"], "nowhere does not exist. Give a dataset's folder, or one of phrasecut,"),
        (["scenes", "--out", "x", "--timesteps", "500,300"], "it must be the lowest and the highest"),
        (["scenes", "--out", "x", "--size", "100"], "size is 100, but it must be a multiple of 64"),
        (["scenes", "--out", "x", "--template", "a photo"], "it must hold {} once"),
    ],
)
def test_a_wrong_recipe_is_an_error(checkpoint, capsys, arguments, said):
    assert main(["train", *arguments, "--checkpoint", str(checkpoint)]) == 2
    assert said in capsys.readouterr().err


def test_what_the_training_of_the_diffusion_model_would_ignore_is_refused(tmp_path, capsys):
    out = tmp_path / "run"
    for more, said in (
        (("--dry-run",), "--dry-run would be ignored"),
        (("--rate", "1e-4", "--kind", "znet"), "--kind, --rate would be ignored"),
        (("--data", str(tmp_path)), "diffusion needs no folder"),
    ):
        assert main(["train", "diffusion", "--out", str(out), *more]) == 2
        assert said in capsys.readouterr().err
    assert main(["train", "scenes", "--out", str(out), "--go-on", str(tmp_path)]) == 2
    assert "give its file to --start" in capsys.readouterr().err
    assert not out.exists()


def test_features_can_be_joined_instead_of_attended_to(checkpoint, tmp_path, capsys):
    assert train(checkpoint, tmp_path / "run", "--fusion", "concat", "--steps", "1") == 0

    info = read_head_info(tmp_path / "run" / "last.safetensors")
    assert (info.config.kind, info.config.fusion) == ("ld-znet", "concat")
    host = DiffusersHost.load(checkpoint)
    choice = choose_method("auto", host.info, find_heads([tmp_path / "run"]))
    assert choice.method.head.config.fusion == "concat"
    assert train(checkpoint, tmp_path / "run", "--steps", "1") == 1
    assert "holds a training with another head or version" in capsys.readouterr().err


def test_a_second_training_reads_what_the_first_has_cached(checkpoint, tmp_path, capsys):
    cache = ("--cache", str(tmp_path / "cache"), "--kind", "znet", "--steps", "2")
    for name in ("first", "second"):
        assert train(checkpoint, tmp_path / name, *cache) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("cache ")]

    assert [", 0 written" in line or " and 0 written" in line for line in said] == [False, True]
    assert losses(tmp_path / "first") == losses(tmp_path / "second")
    assert train(checkpoint, tmp_path / "third", *cache, "--crop", "random", "--dry-run") == 0
    assert "note: --cache stores only contexts" in capsys.readouterr().out


def test_a_head_starts_from_a_folder_in_diffusers_layout_as_from_the_single_file(checkpoint, tmp_path):
    folder = tmp_path / "model"
    write_folder(folder, DiffusersHost.load(checkpoint))
    shutil.rmtree(folder / "tokenizer")
    shutil.copytree(checkpoint.with_suffix(""), folder / "tokenizer")
    short = ("--kind", "znet", "--rate", "0", "--steps", "1")
    assert train(checkpoint, tmp_path / "file", *short) == 0
    assert train(folder, tmp_path / "folder", *short) == 0

    one, two = (load_head(tmp_path / name / "last.safetensors").state_dict() for name in ("file", "folder"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_two_processes_give_the_losses_of_one_with_the_same_batch(checkpoint, tmp_path):
    write_art(tmp_path / "art")
    command = ["train", "scenes", "--checkpoint", str(checkpoint), "--art", str(tmp_path / "art"), *RECIPE, *QUICK]
    assert main([*command, "--out", str(tmp_path / "one")]) == 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    run = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
            *("-m", "ldznet", *command, "--out", str(tmp_path / "two")),
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 4
    assert two == pytest.approx(one, rel=1e-4)


def test_a_dry_run_says_what_would_happen_and_writes_nothing(checkpoint, tmp_path, capsys):
    assert train(checkpoint, tmp_path / "run", "--dry-run", "--cache", str(tmp_path / "cache")) == 0

    said = capsys.readouterr().out
    assert "12 samples, 4 steps of 4: 1.3 epochs" in said  # three phrases of each of four scenes
    assert "parameters" in said
    assert "a step takes" in said
    assert "with everything in the cache" in said
    assert "MB on cpu" in said
    assert "GB of the frozen model + 5 x 0.01 GB of the head (weights, gradients," in said
    assert "a validation takes one more" in said
    assert list(tmp_path.iterdir()) == []


def test_a_head_is_trained_on_icons_by_the_artists_that_are_named(checkpoint, tmp_path, capsys):
    icons = ("--kind", "znet")

    assert train(checkpoint, tmp_path / "run", *icons, "--artists", "noto,twemoji") == 0

    info = read_head_info(tmp_path / "run" / "last.safetensors")
    assert info.source["data"] == "scenes of icons by noto,twemoji"
    capsys.readouterr()
    assert train(checkpoint, tmp_path / "run", *icons, "--artists", "noto,emojitwo") == 1
    assert "holds a training with scenes by other artists" in capsys.readouterr().err
    assert train(checkpoint, tmp_path / "other", *icons, "--artists", "picasso") == 2
    assert "--artists names 'picasso', who is unknown. Give some of fluent-3d" in capsys.readouterr().err


def test_a_stage_of_the_diffusion_model_is_trained_by_itself_and_resumed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(model, "TinyConfig", lambda: CONFIG)
    command = ["train", "diffusion", "--out", str(tmp_path), "--device", "cpu"]

    assert main([*command, "--stage", "encoder", "--steps", "3", "--minutes", "0"]) == 3
    assert main([*command, "--stage", "encoder", "--steps", "3"]) == 0
    assert main([*command, "--stage", "text"]) == 0
    assert main([*command, "--stage", "unet", "--steps", "2"]) == 0

    printed = capsys.readouterr().out
    assert "encoder: resuming at step 1 of 3" in printed
    assert "unet: done" in printed
    assert not (tmp_path / "decoder.pt").exists()
    assert main([*command, "--steps", "2"]) == 0
    assert DiffusersHost.load(tmp_path / "tiny.safetensors").info.unet == CONFIG.unet


def test_a_run_is_packed_and_another_goes_on_from_the_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(model, "TinyConfig", lambda: CONFIG)
    first, second, packed = (tmp_path / name for name in ("first", "second", "run.safetensors"))
    command = ["train", "diffusion", "--device", "cpu", "--out"]
    assert main([*command, str(first), "--stage", "encoder", "--steps", "1"]) == 0

    assert main([*command, str(first), "--pack", str(packed)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["stages"] == ["encoder"]
    for stage in ("encoder", "text"):
        assert main([*command, str(second), "--go-on", str(packed), "--stage", stage, "--steps", "1"]) == 0

    assert is_given(second / "encoder.pt")
    assert not is_given(second / "text.pt")


def test_with_go_on_only_what_the_model_does_not_give_is_trained(tmp_path, capsys, monkeypatch, checkpoint):
    monkeypatch.setattr(model, "TinyConfig", lambda: CONFIG)
    command = ["train", "diffusion", "--out", str(tmp_path), "--device", "cpu", "--go-on", str(checkpoint)]

    for stage in ("text", "unet"):
        assert main([*command, "--stage", stage, "--steps", "1"]) == 0
        assert f"{stage}: done" in capsys.readouterr().out
    assert main([*command, "--steps", "1"]) == 0

    assert is_given(tmp_path / "text.pt")
    assert not is_given(tmp_path / "unet.pt")
    assert (tmp_path / "tiny.safetensors").exists()
