"""CLIPSeg as a baseline: a small random one, as transformers writes it."""

import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from stand_in_art import stand_in_samples

from ldznet.__main__ import main
from ldznet.errors import CheckpointError
from ldznet.hosts.diffusers.random_weights import random_host
from ldznet.research.evaluation.clipseg import ClipSeg
from ldznet.research.evaluation.runner import predict


def test_it_gives_one_probability_per_pixel_and_phrase(clipseg_folder):
    samples = stand_in_samples(1)
    found = list(predict(random_host(), ClipSeg.load(clipseg_folder), samples, size=64))

    assert len(found) == len(samples)
    for one in found:
        assert one.probability.shape == (64, 64)
        assert 0 < one.probability.min() <= one.probability.max() < 1
    assert not np.array_equal(found[0].probability, found[1].probability)


def test_it_sees_the_square_of_its_protocol_whatever_its_config_says(clipseg_folder):
    method, seen = ClipSeg.load(clipseg_folder), []
    method.model.register_forward_pre_hook(
        lambda _model, _args, given: seen.append(given["pixel_values"].shape), with_kwargs=True
    )
    list(predict(random_host(), method, [stand_in_samples(1)[0]], size=64))

    assert method.model.config.vision_config.image_size == 64
    assert [tuple(shape) for shape in seen] == [(1, 3, 352, 352)]


@pytest.mark.usefixtures("art")
def test_it_is_measured_from_the_command_line(clipseg_folder, capsys):
    arguments = [
        "evaluate",
        "scenes",
        "--scenes",
        "1",
        "--artists",
        "noto",
        "--pairs",
        "0",
        "--random-weights",
        "--quiet",
    ]
    assert main([*arguments, "--random-weights", "--quiet", "--clipseg", str(clipseg_folder)]) == 0
    assert "clipseg (a baseline)" in capsys.readouterr().out


def test_weights_that_are_missing_are_not_made_up(clipseg_folder, tmp_path):
    copy = shutil.copytree(clipseg_folder, tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    lost = [name for name in weights if name.startswith("decoder.layers.0.")]
    save_file({name: tensor for name, tensor in weights.items() if name not in lost}, copy / "model.safetensors")

    with pytest.raises(
        CheckpointError, match=f"{len(lost)} of its tensors are missing or of another shape, first"
    ):
        ClipSeg.load(copy)


def test_a_folder_without_it_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="does not hold CLIPSeg as transformers writes it"):
        ClipSeg.load(tmp_path)
