"""The embedded model: what it has learned, on fixed scenes that it has never seen."""

import json

import numpy as np
import pytest
from embedded_scenes import (
    ABSENT,
    LEAST_OVERLAP,
    LEAST_RIGHT,
    NAMES,
    PAIRS,
    README_IMAGE,
    README_PROMPT,
    THRESHOLD,
    image_of,
    mask_of,
    things_of,
)

from ldznet.__main__ import main
from ldznet.hosts.diffusers.host import DiffusersHost
from ldznet.methods.choose import choose_method, find_heads
from ldznet.methods.load import EMBEDDED, MODELS
from ldznet.methods.registry import HEADLESS_NAMES
from ldznet.research.evaluation.sentences import sentence_difference
from ldznet.segmenter import Segmenter


@pytest.fixture(scope="module")
def segmenter():
    host = DiffusersHost.load(EMBEDDED)
    return Segmenter(host, choose_method("auto", host.info, find_heads([MODELS])).method)


def overlap(mask, other):
    return np.count_nonzero(mask & other) / max(1, np.count_nonzero(mask | other))


def test_auto_takes_the_embedded_head(segmenter):
    assert segmenter.method.name == "ld-znet"


def test_what_is_there_is_found(segmenter):
    overlaps = []
    for name, phrases in PAIRS.items():
        segmenter.set_image(image_of(name))
        for phrase, probability in zip(phrases, segmenter.segment(phrases).probabilities(), strict=True):
            overlaps.append(overlap(probability > THRESHOLD, mask_of(name, phrase)))

    assert np.mean(overlaps) > LEAST_OVERLAP


def test_another_phrase_gives_another_mask(segmenter):
    right = []
    for name, phrases in PAIRS.items():
        segmenter.set_image(image_of(name))
        masks = [mask_of(name, phrase) for phrase in phrases]
        for index, probability in enumerate(segmenter.segment(phrases).probabilities()):
            right.append(probability[masks[index]].mean() > probability[masks[1 - index]].mean())

    assert np.mean(right) >= LEAST_RIGHT


def test_what_is_not_there_is_less_probable_anywhere_than_what_is(segmenter):
    for name, phrases in PAIRS.items():
        segmenter.set_image(image_of(name))
        *present, absent = segmenter.segment([*phrases, ABSENT]).probabilities()

        assert absent.max() < 0.5 * min(probability.max() for probability in present)


def test_the_first_command_of_the_readme_needs_no_options(tmp_path, capsys):
    assert main(["segment", str(README_IMAGE), README_PROMPT, "--out", str(tmp_path)]) == 0

    out, err = capsys.readouterr()
    assert "ld-znet" in err
    assert f"{README_PROMPT}: " in out
    assert "nothing" not in out
    assert (tmp_path / f"{README_IMAGE.stem}.overlay.png").exists()
    report = json.loads((tmp_path / f"{README_IMAGE.stem}.json").read_text())
    assert report["reason"] == "ld-znet.safetensors fits tiny.safetensors"


CAPTIONS = (
    "bucket",
    "the dogs",
    "a photo of a red balloon",
    "a boot, an umbrella and a frog",
    "an image of two cars and a bicycle",
    "a drawing of a dog on the left",
)


@pytest.mark.parametrize("method", ["head", *HEADLESS_NAMES])
def test_the_text_encoder_tells_nouns_apart_in_the_sentence_that_is_used(segmenter, method):
    info = segmenter.host.info
    used = segmenter.method if method == "head" else choose_method(method, info, []).method
    nouns = [thing.word for name in NAMES for thing in things_of(name)]

    assert sentence_difference(segmenter.host, used.defaults.template, sorted(set(nouns)), CAPTIONS) >= 0.5


@pytest.mark.parametrize("name", [name for name in NAMES if name not in PAIRS])
def test_of_several_things_the_named_one_is_most_probable(segmenter, name):
    segmenter.set_image(image_of(name))
    words = sorted({thing.word for thing in things_of(name)})
    masks = [mask_of(name, word) for word in words]

    right = [
        all(probability[masks[index]].mean() >= probability[mask].mean() for mask in masks)
        for index, probability in enumerate(segmenter.segment(words).probabilities())
    ]

    assert sum(right) >= len(words) - 1
