"""Start a real AUTOMATIC1111 in other ways: to save memory, in half precision, without us. See running.py."""

import json

import numpy as np
import pytest
from embedded_scenes import PHRASE, SCENE, THRESHOLD, image_of
from running import NEEDS_A_WEBUI, SIZE, Client, decoded, make_data_folder, start, stop

MASKED = {"prompt": PHRASE, "threshold": THRESHOLD, "append": True}

WITHOUT_US = "--no-half --disable-extra-extensions"
WAYS = ("--no-half", "--no-half --medvram", "--no-half --lowvram", "--precision half", WITHOUT_US)

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


@pytest.mark.parametrize("flags", ["--no-half --medvram", "--no-half --lowvram"])
def test_low_memory_modes_make_the_same_mask_and_picture(answers, flags):
    plain, found = (list(map(decoded, answers[way][1]["images"])) for way in ("--no-half", flags))

    assert len(found) == 3
    assert all(np.array_equal(one, other) for one, other in zip(plain, found, strict=True))
    assert json.loads(answers[flags][1]["info"])["seed"] == 1


def test_in_half_precision_nearly_the_same_is_found(answers):
    one, other = (decoded(answers[way][1]["images"][1]) for way in ("--no-half", "--precision half"))

    assert (one != other).mean() < 0.001


def test_switched_off_or_not_installed_is_the_same(answers):
    assert answers["--no-half"][0]["images"] == answers[WITHOUT_US][0]["images"]
