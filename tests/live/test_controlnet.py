"""Test the extension together with the real ControlNet, whose random model fits the embedded one. See running.py.

CONTROLNET_DIR is a checkout of sd-webui-controlnet; all that it needs is in the webui's environment already.
"""

import io
import os
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
import torch
from embedded_scenes import PHRASE, SCENE, THRESHOLD, image_of
from PIL import Image
from running import EMBEDDED, ONLY_A1111, ROOT, SIZE, Client, ask, decoded, encoded, make_data_folder, start, stop
from safetensors.torch import load_file, save_file

MASKED = {"prompt": PHRASE, "threshold": THRESHOLD, "append": True}
MODEL = "control_v11p_sd15_inpaint_tiny"
UNET, CONTROL = "model.diffusion_model.", "control_model."
HINT = ((16, 3), (16, 16), (32, 16), (32, 32), (96, 32), (96, 96), (256, 96), (64, 256))
ZERO = (64, 64, 64, 64, 64, 128, 128, 128)

pytestmark = [
    pytest.mark.webui,
    pytest.mark.skipif(
        not {"WEBUI_DIR", "CONTROLNET_DIR"} <= os.environ.keys(),
        reason="WEBUI_DIR or CONTROLNET_DIR names nothing",
    ),
    ONLY_A1111,
]


def write_controlnet(path):
    """Write a ControlNet of the first half of the embedded UNet and of random layers."""
    generator = torch.Generator().manual_seed(3)
    kept = tuple(f"{UNET}{part}" for part in ("input_blocks", "middle_block", "time_embed"))
    tensors = {
        CONTROL + name.removeprefix(UNET): tensor
        for name, tensor in load_file(EMBEDDED).items()
        if name.startswith(kept)
    }
    layers = {f"input_hint_block.{2 * place}": (*widths, 3) for place, widths in enumerate(HINT)}
    layers |= {f"zero_convs.{place}.0": (width, width, 1) for place, width in enumerate(ZERO)}
    layers["middle_block_out.0"] = (128, 128, 1)
    for name, (out, width, side) in layers.items():
        weight = torch.randn(out, width, side, side, generator=generator)
        tensors[f"{CONTROL}{name}.weight"] = weight * 2 / (width * side * side) ** 0.5
        tensors[f"{CONTROL}{name}.bias"] = torch.zeros(out)
    path.parent.mkdir(parents=True)
    save_file(tensors, path)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    make_data_folder(data)
    (data / "extensions" / "sd-webui-controlnet").symlink_to(Path(os.environ["CONTROLNET_DIR"]).absolute())
    script = data / "extensions" / "look" / "scripts" / "look.py"
    script.parent.mkdir(parents=True)
    script.write_text((ROOT / "tests" / "host" / "controlnet.py").read_text())
    write_controlnet(data / "models" / "ControlNet" / f"{MODEL}.safetensors")
    start(data, "--skip-install")
    client = Client(image_of(SCENE, SIZE))
    client.run()  # the first run of a webui starts from other random states than all later ones
    yield client
    stop()


@pytest.fixture(scope="module")
def unit(client):
    name = ask("model_list", at="controlnet")[1]["model_list"][0]
    return {"ControlNet": {"args": [{"enabled": True, "module": "inpaint_only", "model": name}]}}


@pytest.fixture(scope="module")
def alone(client):
    """Return the image of a run without us, and image and mask of one with us; both without ControlNet."""
    status, found = client.run(MASKED)
    assert status == 200
    return decoded(client.run()[1]["images"][0]), *map(decoded, found["images"][:2])


def mask_of_the_route(client):
    ask("unload", {}, at="ldznet")  # else the same question would not be asked again
    body = {"image": encoded(client.scene), "prompt": MASKED["prompt"], "threshold": MASKED["threshold"]}
    return decoded(ask("segment", body, at="ldznet")[1]["mask"])


def test_our_hook_comes_before_those_that_look_for_a_mask(client):
    _, order = ask("order", at="look")

    assert order.index("ld-znet segment") < min(order.index("soft inpainting"), order.index("controlnet"))


def test_controlnet_is_shown_our_mask(client, unit, alone):
    status, found = client.run(MASKED, others=unit)

    assert status == 200
    *_, shown = (Image.open(io.BytesIO(b64decode(image))) for image in found["images"])
    seen = np.asarray(shown.getchannel("A")) < 255  # half transparent where it is to inpaint
    assert np.array_equal(seen, alone[2][..., 0] > 127)
    picture = decoded(found["images"][0])
    assert np.array_equal(decoded(found["images"][1]), alone[2])
    assert np.abs(picture - client.pixels)[~seen].max() == 0
    assert np.abs(picture - alone[1])[seen].mean() > 5  # it was really at work


def test_a_forward_that_controlnet_left_in_the_model_does_not_change_the_mask(client, unit, alone):
    before = ask("state", at="look")[1]
    ask("break_off", at="look")
    assert client.run(others=unit)[0] == 500
    broken = ask("state", at="look")[1]

    mask = mask_of_the_route(client)

    assert broken["sum"] != before["sum"]  # its forward is still there
    assert np.array_equal(mask, alone[2])
    assert ask("state", at="look")[1] == broken  # and was left there
    client.run(others=unit)
    client.run()
    assert np.array_equal(decoded(client.run()[1]["images"][0]), alone[0])
