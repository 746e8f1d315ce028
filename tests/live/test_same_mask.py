"""Test that a webui makes the masks that the command line makes of the same files; run for each webui.

    for name in a1111 forge reforge neo; do WEBUI_DIR=/path/to/$name pytest -s tests/live/test_same_mask.py; done

Every webui gets the random checkpoint and its head, AUTOMATIC1111 too, so that equal to the command line means
equal to each other. Printed is by how much. WEBUI_DIR as in running.py; TOKENIZER is a folder with CLIP's
vocab.json and merges.txt, by default one of the webui's own.
"""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import random_model
from embedded_scenes import PHRASE, SCENE, SECOND_PHRASE, image_of
from PIL import Image
from running import (
    HOST,
    LOG,
    NEEDS_A_WEBUI,
    ROOT,
    SIZE,
    WEBUI,
    Client,
    ask,
    decoded,
    encoded,
    make_data_folder,
    start,
    stop,
)
from transformers import CLIPTextConfig

NAME = random_model.CHECKPOINT.name
PROMPTS = [PHRASE, SECOND_PHRASE]
# For masks that are neither empty nor full. The attention of random weights finds nothing.
THRESHOLDS = {"head": 0.95, "difference": 0.34}
STEP = 1 / 65535  # of the probabilities in an answer
CLOSE = 1e-3  # a random head makes much of what rounding leaves between two ways to compute a UNet

pytestmark = NEEDS_A_WEBUI


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a data folder whose checkpoint is the random one, with a tokenizer for the command line."""
    data = tmp_path_factory.mktemp("data")
    checkpoints = make_data_folder(data)
    random_model.write_random_model()
    links = {checkpoints / NAME: random_model.CHECKPOINT}
    links[data / "models" / "ldznet" / random_model.HEAD.name] = random_model.HEAD
    for link, target in links.items():
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(target)
    words = checkpoints / "rand"
    words.mkdir()
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(tokenizer() / name, words)
    if HOST == "a1111":
        describe(checkpoints, words)
    return data


def tokenizer():
    """Return a folder with CLIP's tokenizer."""
    if "TOKENIZER" in os.environ:
        return Path(os.environ["TOKENIZER"])
    own = [path.parent for path in sorted((WEBUI / "webui").rglob("merges.txt"))]
    whole = [path for path in own if len(json.loads((path / "vocab.json").read_text(encoding="utf-8"))) == 49408]
    if not whole:
        pytest.skip("TOKENIZER names no folder with CLIP's tokenizer")
    return whole[0]


def describe(checkpoints, words):
    """Write the configuration that AUTOMATIC1111 reads beside a checkpoint of unusual size."""
    CLIPTextConfig(**random_model.TEXT).save_pretrained(words)
    text = (WEBUI / "webui" / "configs" / "v1-inference.yaml").read_text()
    text = text.replace("channel_mult: [ 1, 2, 4, 4 ]", "channel_mult: [ 1, 1, 1, 1 ]")
    text = text.rstrip() + f"\n      params:\n        version: {words}\n"
    (checkpoints / NAME).with_suffix(".yaml").write_text(text)


@pytest.fixture(scope="module")
def client(folder):
    start(folder, *(["--ckpt", folder / "checkpoints" / NAME] if HOST == "a1111" else []))
    yield Client(image_of(SCENE, SIZE))
    stop()


def command_line(folder, client, method):
    """Return the probabilities and the mask that the command line makes."""
    out = folder / f"out-{method}"
    out.mkdir()
    client.scene.save(out / "scene.png")
    options = {"checkpoint": folder / "checkpoints" / NAME, "method": method, "resolution": 256}
    options |= {"threshold": THRESHOLDS[method], "save": "mask,npz", "out": out / "masks", "device": "cpu"}
    if method == "head":
        options["head"] = random_model.HEAD
    command = [sys.executable, "-m", "ldznet", "segment", str(out / "scene.png"), "--quiet"]
    command += [f"--prompt={prompt}" for prompt in PROMPTS]
    command += [f"--{name}={value}" for name, value in options.items()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(next((out / "masks").glob("*.npz"))) as maps:
        probabilities = np.stack([maps[f"probability_{number}"] for number in (1, 2)])
    mask = np.asarray(Image.open(next((out / "masks").glob("*mask*.png"))).convert("L"))
    return probabilities, mask


def webui(client, method):
    """Return the probabilities and the mask that our route makes."""
    body = {"image": encoded(client.scene), "prompt": PROMPTS, "method": method, "resolution": 256}
    body |= {"threshold": THRESHOLDS[method], "return_probabilities": True}
    status, answer = ask("segment", body, at="ldznet")
    assert status == 200, answer
    assert NAME in json.dumps(answer["record"])
    files = [io.BytesIO(base64.b64decode(prompt["probabilities"])) for prompt in answer["prompts"]]
    return np.stack([np.asarray(Image.open(file)) * STEP for file in files]), decoded(answer["mask"])[..., 0]


@pytest.mark.parametrize("method", THRESHOLDS)
def test_probabilities_and_mask_are_those_of_the_command_line(folder, client, method):
    expected, mask = command_line(folder, client, method)

    found, own_mask = webui(client, method)
    status, run = client.run(
        {"prompt": " | ".join(PROMPTS), "method": method, "resolution": 256}
        | {"threshold": THRESHOLDS[method], "append": True}
    )

    assert status == 200, run
    of_run = decoded(run["images"][1])[..., 0]
    apart = np.abs(found - expected).max()
    pixels = [int((one != mask).sum()) for one in (own_mask, of_run)]
    print(
        f"{HOST}, {method}: probabilities up to {expected.max():.4f} differ by {apart:.1e} at most, {pixels} of "
        f"{mask.size} pixels of the masks of route and run; {(mask > 127).mean():.1%} is selected"
    )
    assert 0.005 < (mask > 127).mean() < 0.995
    # Pixels whose probability is as near to the threshold as that may fall on either side of it.
    near = int((np.abs(expected.max(axis=0) - THRESHOLDS[method]) <= apart + STEP).sum())
    assert apart < CLOSE
    assert max(pixels) <= near
    assert "Traceback" not in LOG.read_text()
