"""Change the model of a real webui between runs: switched, unloaded, replaced by another engine.

And that a released checkpoint becomes a head. See running.py.
"""

import json
import shutil

import numpy as np
import pytest
import torch
from embedded_scenes import PHRASE, SCENE, image_of
from running import (
    HOST,
    MODEL,
    NEEDS_A_WEBUI,
    ONLY_A1111,
    REPEATS_WITHIN,
    SIZE,
    THRESHOLD,
    Client,
    ask,
    decoded,
    encoded,
    make_data_folder,
    start,
    stop,
)
from safetensors.torch import load_file, save_file

from ldznet.methods.load import EMBEDDED

OTHER = "the-other.safetensors"  # Neo begins with the first checkpoint
MASKED = {"prompt": PHRASE, "threshold": THRESHOLD, "append": True}
OTHER_UNET = """
import torch
from modules import script_callbacks, sd_unet

class Unet(sd_unet.SdUnet):
    def forward(self, x, timesteps, context, *args, **kwargs):
        return torch.zeros_like(x)

class Option(sd_unet.SdUnetOption):
    label = "zeros"

    def create_unet(self):
        return Unet()

script_callbacks.on_list_unets(lambda options: options.append(Option()))
"""

pytestmark = NEEDS_A_WEBUI


@pytest.fixture(scope="module")
def scene():
    return image_of(SCENE, SIZE)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    checkpoints = make_data_folder(folder)
    other = load_file(checkpoints / MODEL)
    other["model.diffusion_model.time_embed.0.weight"] *= 1.1
    save_file(other, checkpoints / OTHER)
    if HOST == "a1111":
        shutil.copy((checkpoints / MODEL).with_suffix(".yaml"), (checkpoints / OTHER).with_suffix(".yaml"))
    script = folder / "extensions" / "other-unet" / "scripts" / "other_unet.py"
    script.parent.mkdir(parents=True)
    script.write_text(OTHER_UNET)
    return folder


@pytest.fixture(scope="module")
def client(data, scene):
    start(data)
    client = Client(scene)
    client.run()  # the first run of a webui starts from other random states than all later ones
    yield client
    stop()


@pytest.fixture(scope="module")
def plain(client):
    """Return an image without us, and image and mask with us."""
    status, found = client.run(MASKED)
    assert status == 200
    return decoded(client.run()[1]["images"][0]), *map(decoded, found["images"][:2])


def options(**values):
    assert ask("options", values)[0] == 200


def forget():
    """Forget earlier results, else the same request would run nothing."""
    assert ask("unload", {}, at="ldznet")[0] == 200


def mask_of(found):
    return decoded(found["images"][1])


def params(found):
    return json.loads(found["info"])["extra_generation_params"]


def method(found):
    return params(found)["LD-ZNet found"]["method"]


def test_a_run_with_another_checkpoint_of_its_own_is_masked_by_that_one(client, plain):
    other = {"override_settings": {"sd_model_checkpoint": OTHER}}
    forget()

    _, found = client.run(MASKED, **other)
    _, next_one = client.run(MASKED)

    assert f"fits {OTHER}" in method(found)
    assert f"fits {MODEL}" in method(next_one)
    assert np.array_equal(mask_of(next_one), plain[2])


def test_a_checkpoint_that_was_switched_is_used_by_the_next_run(client, plain):
    options(sd_model_checkpoint=OTHER)
    try:
        _, found = client.run(MASKED)
    finally:
        options(sd_model_checkpoint=MODEL)
    _, back = client.run(MASKED)

    assert f"fits {OTHER}" in method(found)
    assert f"fits {MODEL}" in method(back)
    assert np.array_equal(mask_of(back), plain[2])


def test_an_unloaded_checkpoint_does_not_matter(client, scene, plain):
    forget()
    assert ask("unload-checkpoint", {})[0] == 200
    body = {"image": encoded(scene), "prompt": PHRASE, "threshold": THRESHOLD}
    status, answer = ask("segment", body, at="ldznet")
    assert ask("unload-checkpoint", {})[0] == 200
    _, found = client.run(MASKED)

    assert status == 200
    assert np.array_equal(decoded(answer["mask"]), plain[2])
    assert np.array_equal(mask_of(found), plain[2])


@ONLY_A1111
def test_a_unet_of_another_engine_is_passed_by_and_still_there_afterwards(client, plain):
    options(sd_unet="zeros")
    try:
        client.run()
        zeros = decoded(client.run()[1]["images"][0])
        forget()
        _, found = client.run(MASKED)
        after = decoded(client.run()[1]["images"][0])
    finally:
        options(sd_unet="None")
        client.run()

    assert not np.array_equal(zeros, plain[0])  # it was really at work
    assert not np.array_equal(decoded(found["images"][0]), plain[1])
    assert np.array_equal(mask_of(found), plain[2])
    assert np.array_equal(after, zeros)


def test_without_inpainting_the_run_is_as_without_us(client, plain):
    nothing = {"prompt": PHRASE, "threshold": 1.0, "grow": -512, "on_nothing": "without inpainting"}

    _, found = client.run(nothing)

    (image,) = map(decoded, found["images"])
    assert np.abs(image - plain[0]).max() <= REPEATS_WITHIN
    assert params(found)["LD-ZNet mask"] == "nothing found, without inpainting"


def head_file():
    """Return the file of the head that fits the model."""
    if HOST == "a1111":
        return EMBEDDED.with_name("ld-znet.safetensors")
    from random_model import HEAD

    return HEAD


def test_a_released_checkpoint_becomes_a_head_once(client, data):
    tensors = load_file(head_file())
    raw = {f"model.diffusion_model.{name}": tensor for name, tensor in tensors.items()}
    averaged = {f"model_ema.diffusion_model{name.replace('.', '')}": tensor for name, tensor in tensors.items()}
    folder = data / "models" / "ldznet"
    assert folder.is_dir()  # made at the start
    torch.save({"state_dict": raw | averaged}, folder / "released.ckpt")
    chosen = MASKED | {"head": "released.ckpt (to be converted)"}

    _, first = client.run(chosen)
    written = (folder / "released-ema.safetensors").stat().st_mtime_ns
    forget()
    _, second = client.run(chosen)

    assert f"released-ema.safetensors fits {MODEL}" in method(second)
    assert (folder / "released-ema.safetensors").stat().st_mtime_ns == written
    assert 0.001 < (mask_of(first) > 127).mean() < 0.999
    assert np.array_equal(mask_of(first), mask_of(second))
