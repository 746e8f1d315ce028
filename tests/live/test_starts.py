"""Start a real webui in other ways: to save memory, in half precision, without us. See running.py.

Half precision in AUTOMATIC1111 only: the memory managers of Forge and its kin choose it by the device.
"""

import json

import numpy as np
import pytest
from embedded_scenes import PHRASE, SCENE, image_of
from running import (
    HOST,
    NEEDS_A_WEBUI,
    ONLY_A1111,
    REPEATS_WITHIN,
    SIZE,
    THRESHOLD,
    Client,
    decoded,
    make_data_folder,
    start,
    stop,
)

MASKED = {"prompt": PHRASE, "threshold": THRESHOLD, "append": True}

PLAIN, HALF = "--no-half" if HOST == "a1111" else "", "--precision half"
SPARING = {  # memory; --always-low-vram and its like need a GPU: with --always-cpu they are refused
    "a1111": ("--no-half --medvram", "--no-half --lowvram"),
    "forge": ("--always-offload-from-vram",),
    "reforge": ("--always-offload-from-vram",),
    "neo": ("--disable-smart-memory",),
}[HOST]
WITHOUT_US = f"{PLAIN} --disable-extra-extensions"
WAYS = (PLAIN, *SPARING, *([HALF] if HOST == "a1111" else []), WITHOUT_US)

pytestmark = NEEDS_A_WEBUI


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Return by flags a run without us, and the same run with us: image, mask and overlay."""
    data = tmp_path_factory.mktemp("data")
    make_data_folder(data)
    client, found = Client(image_of(SCENE, SIZE)), {}
    for flags in WAYS:
        start(data, *flags.split())
        try:
            client.run()  # the first run of a webui starts from other random states than all later ones
            plain, ours = client.run(), client.run(MASKED) if flags != WITHOUT_US else (200, None)
        finally:
            stop()
        assert (plain[0], ours[0]) == (200, 200), (plain, ours)
        found[flags] = plain[1], ours[1]
    return found


@pytest.mark.parametrize("flags", SPARING)
def test_low_memory_modes_make_the_same_mask_and_picture(answers, flags):
    plain, found = (list(map(decoded, answers[way][1]["images"])) for way in (PLAIN, flags))

    assert len(found) == 3
    assert np.abs(plain[0] - found[0]).max() <= REPEATS_WITHIN
    assert np.array_equal(plain[1], found[1])
    assert json.loads(answers[flags][1]["info"])["seed"] == 1


@ONLY_A1111
def test_in_half_precision_nearly_the_same_is_found(answers):
    one, other = (decoded(answers[way][1]["images"][1]) for way in (PLAIN, HALF))

    assert (one != other).mean() < 0.001


def test_switched_off_or_not_installed_is_the_same(answers):
    one, other = (decoded(answers[way][0]["images"][0]) for way in (PLAIN, WITHOUT_US))

    assert np.abs(one - other).max() <= REPEATS_WITHIN
