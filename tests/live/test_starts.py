"""The panel in a real AUTOMATIC1111 started to save memory: the same pictures as without. See running.py."""

import json
import os

import numpy as np
import pytest
from PIL import Image
from running import Client, decoded, furnish, start, stop

from ldznet.training.scenes import make_scene

PHRASE = {"prompt": "orange circle", "threshold": 0.15, "append": True}

pytestmark = [
    pytest.mark.webui,
    pytest.mark.skipif("WEBUI_DIR" not in os.environ, reason="WEBUI_DIR names no webui"),
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """flag -> picture, mask and overlay of the same run."""
    data = tmp_path_factory.mktemp("data")
    furnish(data)
    client, found = Client(Image.fromarray(make_scene(1, size=(128, 192)).image)), {}
    for flag in ("", "--medvram", "--lowvram"):
        start(data, *flag.split())
        try:
            client.run()  # the first run of a webui starts from other random states than all later ones
            status, found[flag] = client.run(PHRASE)
        finally:
            stop()
        assert status == 200, found[flag]
    return found


@pytest.mark.parametrize("flag", ["--medvram", "--lowvram"])
def test_low_memory_modes_make_the_same_mask_and_picture(answers, flag):
    plain, found = (list(map(decoded, answers[name]["images"])) for name in ("", flag))

    assert len(found) == 3
    assert all(np.array_equal(one, other) for one, other in zip(plain, found, strict=True))
    assert json.loads(answers[flag]["info"])["seed"] == 1
