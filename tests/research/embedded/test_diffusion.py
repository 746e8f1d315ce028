"""The embedded model's training: resumable, and written as the webui reads it."""

import copy
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_diffusion import TINY, WORLD, say
from transformers import CLIPTokenizer

from ldznet.errors import OptionError
from ldznet.hosts.diffusers.host import DiffusersHost
from ldznet.hosts.host import Schedule
from ldznet.methods.load import EMBEDDED
from ldznet.research.embedded.autoencoder import (
    average_of,
    load_decoder,
    load_encoder,
    train_decoder,
    train_encoder,
)
from ldznet.research.embedded.diffusion import loss_weights, train_unet
from ldznet.research.embedded.files import export, unpack
from ldznet.research.embedded.latents import Latents
from ldznet.research.embedded.model import TinyModel
from ldznet.research.embedded.packed_run import is_packed, pack, unpack_run
from ldznet.research.embedded.resumable_stage import RunOptions, Stage, is_given
from ldznet.research.embedded.text_encoder import train_text
from ldznet.research.embedded.tokenizer import write_tokenizer
from ldznet.research.scenes.icons import IconWorld
from ldznet.research.scenes.stream import SceneStream


def train(folder, steps, config=TINY):
    options = RunOptions(folder=folder, steps=steps)
    for stage in (train_encoder, train_decoder, train_text, train_unet):
        assert stage(config, options, WORLD, say)
    return folder


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    """A folder with all stages after two steps; `trained` gives a test its own copy."""
    return train(tmp_path_factory.mktemp("trained"), 2)


@pytest.fixture
def trained(trained_once, tmp_path):
    return shutil.copytree(trained_once, tmp_path / "trained")


def train_before_unet(folder, steps=2, config=TINY):
    options = RunOptions(folder=folder, steps=steps)
    assert train_encoder(config, options, WORLD, say)
    assert train_text(config, options, WORLD, say)


def test_the_tokenizer_knows_every_word_of_the_scenes_whole_and_spells_all_others(tmp_path):
    size = write_tokenizer(tmp_path, WORLD.vocabulary)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path, local_files_only=True)

    assert len(tokenizer) == size
    for word in WORLD.vocabulary:
        assert len(tokenizer(word)["input_ids"]) == 3, word
    caption = "a photo of a dog, two buckets and grapes on green"
    assert tokenizer.decode(tokenizer(caption)["input_ids"][1:-1]) == caption.replace(",", " ,")
    assert len(tokenizer("sofa 🦓")["input_ids"]) > 6


def test_scene_number_n_is_the_same_wherever_a_run_begins():
    whole, later = SceneStream(WORLD, 64, 0, 8), SceneStream(WORLD, 64, 5, 3)

    assert torch.equal(whole[6][0], later[1][0])
    assert whole[6][1] == later[1][1]
    with pytest.raises(IndexError):
        later[3]


@pytest.mark.parametrize("stage", [train_encoder, train_decoder, train_text, train_unet])
def test_training_goes_on_where_it_stopped_with_the_same_result(tmp_path, monkeypatch, stage):
    before = RunOptions(folder=tmp_path / "whole", steps=1)
    before.folder.mkdir()
    if stage is not train_encoder:
        assert train_encoder(TINY, before, WORLD, say)
    if stage is train_unet:
        assert train_text(TINY, before, WORLD, say)
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")

    stage(TINY, RunOptions(folder=tmp_path / "whole", steps=4), WORLD, say)
    runs = 0
    while not stage(TINY, RunOptions(folder=tmp_path / "parts", steps=4, minutes=0), WORLD, say):
        runs += 1

    assert runs == 3
    file = stage.__name__.removeprefix("train_") + ".pt"
    whole, parts = (torch.load(tmp_path / name / file, weights_only=True) for name in ("whole", "parts"))
    assert whole["losses"] == parts["losses"]
    for part in ("module", "average"):
        assert all(torch.equal(whole[part][name], parts[part][name]) for name in whole[part])


class StoppedWorld(IconWorld):
    """Icons, and a Ctrl-C while scene 3 is drawn."""

    def training_scene(self, number, side):
        if number == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return super().training_scene(number, side)


@pytest.mark.usefixtures("ctrl_c_works")
def test_ctrl_c_ends_a_stage_after_its_step_and_the_same_command_resumes_there(tmp_path):
    lines = []
    with pytest.raises(KeyboardInterrupt):  # two scenes a step
        train_encoder(
            TINY, RunOptions(folder=tmp_path, steps=4), StoppedWorld(WORLD.hands, WORLD.trained_on), lines.append
        )

    assert lines == [f"encoder: stopped at step 2 of 4, saved in {tmp_path}"]
    assert train_encoder(TINY, RunOptions(folder=tmp_path, steps=4), WORLD, lines.append)
    assert lines[1:] == ["encoder: resuming at step 2 of 4"]


SHARED = """
import sys
from pathlib import Path
from accelerate import PartialState
from small_diffusion import WORLD, TINY, say
from ldznet.research.embedded.diffusion import train_unet
from ldznet.research.embedded.resumable_stage import RunOptions

PartialState(cpu=True)
assert train_unet(TINY, RunOptions(folder=Path(sys.argv[1]), steps=4), WORLD, say)
"""


def test_shards_of_latents_are_made_as_the_training_needs_them(tmp_path):
    config = replace(TINY, shard=2, uses=2, window=2)  # 2 images a step: a new shard every second step
    train_before_unet(tmp_path, 1, config)
    lines = []

    assert train_unet(config, RunOptions(folder=tmp_path, steps=5), WORLD, lines.append)

    assert sorted(path.name for path in (tmp_path / "latents").iterdir()) == ["00000.pt", "00001.pt", "00002.pt"]
    # The text encoder has read the first two.
    assert lines == [f"latents of scenes {first} to {first + 1}" for first in (2, 4)]
    made = list[str]()
    latents = Latents(config, RunOptions(folder=tmp_path, steps=5), WORLD, made.append)
    whole, later = list(latents.batches(0)), list(latents.batches(3))
    assert not made
    assert whole[4][0].shape == (2, 4, 8, 8)
    assert whole[4][1] == later[1][1]
    captions = {text for shard in (1, 2) for number in (0, 1) for text in scene_captions(2 * shard + number)}
    assert set(whole[4][1]) <= captions


def scene_captions(number):
    return WORLD.training_scene(number, 64).captions


def test_the_rate_stays_on_a_plateau_on_which_the_steps_may_change(tmp_path):
    rates = {}
    for steps in (8, 16):
        stage = Stage("part", torch.nn.Linear(1, 1), 0.5, 1, 0.9, tmp_path / str(steps), steps, 0.5)
        rates[steps] = []
        for _ in range(steps):
            stage.update(stage.module(torch.ones(1, 1)).sum())
            rates[steps].append(stage.optimizer.param_groups[0]["lr"])

    assert rates[8][:5] == rates[16][:5] == [0.5] * 5
    assert rates[8][5:] == pytest.approx([0.5 * 0.5 * (1 + math.cos(math.pi * n / 4)) for n in (1, 2, 3)])


def test_two_processes_train_the_unet_as_one_does(tmp_path):
    for name in ("one", "two"):
        train_before_unet(tmp_path / name)
    assert train_unet(TINY, RunOptions(folder=tmp_path / "one", steps=4), WORLD, say)

    (tmp_path / "shared.py").write_text(SHARED)
    paths = Path(__file__).parents[2:4]  # the tests, and the package beside them
    run = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
            *(str(tmp_path / "shared.py"), str(tmp_path / "two")),
        ],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "OMP_NUM_THREADS": "1",
        },
        check=False,
    )

    assert run.returncode == 0, run.stderr
    one, two = (torch.load(tmp_path / name / "unet.pt", weights_only=True)["losses"] for name in ("one", "two"))
    assert len(set(one)) == 4
    assert two == pytest.approx(one, rel=1e-4)


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_training_lowers_the_loss(tmp_path, name):
    config = replace(TINY, vae_widths=(64, 64, 64, 64))
    assert train_encoder(config, RunOptions(folder=tmp_path, steps=100), WORLD, say)
    assert train_decoder(config, RunOptions(folder=tmp_path, steps=60), WORLD, say)

    losses = torch.load(tmp_path / f"{name}.pt", weights_only=True)["losses"]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


def test_the_unet_is_not_trained_before_the_autoencoder(tmp_path):
    with pytest.raises(OptionError, match=r"no trained encoder .* Train the stage encoder first"):
        train_unet(TINY, RunOptions(folder=tmp_path, steps=1), WORLD, say)


def test_the_exported_checkpoint_is_the_trained_model_in_the_original_layout(trained):
    (trained / "out").mkdir()
    report = export(TINY, trained, trained / "out" / "tiny.safetensors", WORLD, dtype=torch.float32)

    host = DiffusersHost.load(trained / "out" / "tiny.safetensors")

    assert report["step"] == 2
    assert (host.info.family, host.info.prediction, host.info.unet) == ("sd1", "noise", TINY.unet)
    model = TinyModel(TINY, trained / "again", WORLD.vocabulary)
    load_encoder(model, trained, WORLD)
    load_decoder(model, trained)
    saved = torch.load(trained / "unet.pt", weights_only=True)["average"]
    torch.nn.ModuleDict({"unet": model.unet, "text": model.text}).load_state_dict(saved)
    model.eval()
    images = SceneStream(WORLD, 64, 0, 1)[0][0][None].float() / 127.5 - 1
    latent = model.latent(images)
    torch.testing.assert_close(host.encode_image(images), latent, atol=1e-5, rtol=1e-5)
    context = host.encode_prompt(["a photo of a red star"])
    with torch.no_grad():
        torch.testing.assert_close(context.tokens, model.context(["a photo of a red star"]))
        expected = model.unet(latent, torch.tensor([300]), context.tokens)
    found = host.predict_noise(latent, torch.tensor([300]), context)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    names = json.loads((trained / "out" / "tiny" / "config.json").read_text())
    assert names["num_hidden_layers"] == 1


def test_a_written_model_is_trained_further(trained, tmp_path):
    export(TINY, trained, tmp_path / "tiny.safetensors", WORLD, dtype=torch.float32)
    unpack(tmp_path / "tiny.safetensors", tmp_path / "more", TINY, WORLD)

    assert train_unet(TINY, RunOptions(folder=tmp_path / "more", steps=1), WORLD, say)

    before = torch.load(trained / "unet.pt", weights_only=True)["average"]
    after = torch.load(tmp_path / "more" / "unet.pt", weights_only=True)["module"]
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, atol=0 if name.startswith("text.") else 2e-3, rtol=0)
    latents = [
        torch.load(folder / "latents" / "00000.pt", weights_only=True)["latents"]
        for folder in (trained, tmp_path / "more")
    ]
    torch.testing.assert_close(*latents, atol=1e-2, rtol=1e-2)


def test_a_text_encoder_of_other_words_starts_anew(trained, tmp_path):
    export(TINY, trained, tmp_path / "tiny.safetensors", WORLD, dtype=torch.float32)
    others, lines = copy.copy(WORLD), list[str]()
    others.vocabulary = WORLD.vocabulary[::2]

    unpack(tmp_path / "tiny.safetensors", tmp_path / "more", TINY, others, lines.append)

    (line,) = lines
    assert "knows other words" in line
    start = torch.load(tmp_path / "more" / "start.pt", weights_only=True)
    assert "out.2.weight" in start
    with pytest.raises(OptionError, match=r"no trained text .* Train the stage text first"):
        train_unet(TINY, RunOptions(folder=tmp_path / "more", steps=1), others, say)
    assert train_text(TINY, RunOptions(folder=tmp_path / "more", steps=1), others, say)
    assert train_unet(TINY, RunOptions(folder=tmp_path / "more", steps=1), others, say)


def test_an_encoder_trained_before_is_kept_and_the_model_gives_the_unet_alone(trained, tmp_path):
    export(TINY, trained, tmp_path / "tiny.safetensors", WORLD, dtype=torch.float32)
    more = tmp_path / "more"
    assert train_encoder(TINY, RunOptions(folder=more, steps=3), WORLD, say)
    assert train_text(TINY, RunOptions(folder=more, steps=1), WORLD, say)
    own = {name: (more / f"{name}.pt").read_bytes() for name in ("encoder", "text")}
    lines = list[str]()

    unpack(tmp_path / "tiny.safetensors", more, TINY, WORLD, lines.append)

    assert "has an encoder of its own" in lines[0]
    assert {name: (more / f"{name}.pt").read_bytes() for name in own} == own
    assert not (more / "decoder.pt").exists()
    assert (more / "start.pt").exists()


def test_a_packed_run_goes_on_from_the_same_weights_in_a_small_file(trained, tmp_path):
    packed = tmp_path / "run.safetensors"
    said = pack(trained, packed, replace(TINY, decoder_steps=2), WORLD)
    more = tmp_path / "more"
    unpack_run(packed, more, TINY, WORLD)

    assert said["stages"] == ["encoder", "decoder", "text", "unet"]
    parts = [sum(t.numel() for t in average_of(trained, stage).values()) for stage in ("encoder", "unet")]
    assert packed.stat().st_size < 2 * sum(parts)
    for stage in ("encoder", "decoder", "text"):
        after = average_of(more, stage)
        for name, tensor in average_of(trained, stage).items():
            if not name.startswith(("light.", "contrast.")):
                torch.testing.assert_close(after[name], tensor, atol=1e-3, rtol=1e-3)
        assert is_given(more / f"{stage}.pt")
    start = torch.load(more / "start.pt", weights_only=True)
    for name, tensor in average_of(trained, "unet").items():
        if name.startswith("unet."):
            most = float(tensor.abs().max())
            torch.testing.assert_close(start[name.removeprefix("unet.")], tensor, atol=0.004 * most + 1e-3, rtol=0)
    assert train_unet(TINY, RunOptions(folder=more, steps=1), WORLD, say)
    unfinished = pack(trained, packed, replace(TINY, decoder_steps=3), WORLD)
    assert unfinished["stages"] == ["encoder", "text", "unet"]


def test_what_cannot_be_packed_or_unpacked_says_why(tmp_path):
    with pytest.raises(OptionError, match="holds no trained stage to pack"):
        pack(tmp_path, tmp_path / "run.safetensors", TINY, WORLD)
    train_encoder(TINY, RunOptions(folder=tmp_path, steps=1), WORLD, say)
    pack(tmp_path, tmp_path / "run.safetensors", TINY, WORLD)
    others = copy.copy(WORLD)
    others.vocabulary = WORLD.vocabulary[::2]

    assert is_packed(tmp_path / "run.safetensors")
    assert not is_packed(EMBEDDED)
    with pytest.raises(OptionError, match="has trained an encoder"):
        unpack_run(tmp_path / "run.safetensors", tmp_path, TINY, WORLD)
    with pytest.raises(OptionError, match="trained with other words"):
        unpack_run(tmp_path / "run.safetensors", tmp_path / "more", TINY, others)


def test_a_model_of_another_structure_is_not_trained_further(tmp_path):
    width = DiffusersHost.load(EMBEDDED).info.unet.context_width

    with pytest.raises(
        OptionError, match=rf"prompts have a width of {width}, the new model's of 32\), so its training"
    ):
        unpack(EMBEDDED, tmp_path, TINY, WORLD)
    assert not (tmp_path / "start.pt").exists()


def test_contexts_at_the_ends_of_captions_are_those_of_whole_prompts(tmp_path):
    model = TinyModel(TINY, tmp_path / "tokenizer", WORLD.vocabulary).eval()
    captions = ["", "dog", "a photo of a dog, a bucket and grapes on green"]
    whole = model.context(captions)
    ends = torch.stack([row[1 + count] for row, count in zip(whole, model.count_tokens(captions), strict=True)])

    torch.testing.assert_close(model.context_at_ends(captions), ends, atol=1e-5, rtol=1e-5)
    assert torch.cdist(ends, ends)[0, 1] > 0.1


def test_latents_are_scaled_to_a_deviation_of_one(tmp_path):
    train_encoder(TINY, RunOptions(folder=tmp_path, steps=2), WORLD, say)
    model = TinyModel(TINY, tmp_path / "tokenizer", WORLD.vocabulary)
    load_encoder(model, tmp_path, WORLD)

    images = torch.stack([SceneStream(WORLD, 64, 0, 64)[n][0] for n in range(64)]).float() / 127.5 - 1

    assert model.latent(images).std().item() == pytest.approx(1, abs=1e-3)


def test_the_loss_weighs_a_timestep_by_its_noise_within_a_range():
    schedule = Schedule.scaled_linear()
    kept = schedule.alphas_cumprod[[100, 300, 800]]  # signal-to-noise ratios 8.45, 1.44, 0.0383
    snr = kept / (1 - kept)
    weights = loss_weights(schedule, torch.tensor([100, 300, 800]), (0.4, 5.0))
    torch.testing.assert_close(weights, torch.stack([5 / snr[0], torch.tensor(1.0), 0.4 / snr[2]]).float())
    assert loss_weights(schedule, torch.tensor([0, 999]), (0.0, float("inf"))).tolist() == [1.0, 1.0]
