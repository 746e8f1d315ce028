"""The scenes under models/tiny/scenes: what scenes.json says of them, and whose art they show."""

import numpy as np
import pytest
from draw_scenes import SCENES, SIZE
from embedded_scenes import (
    CONTENTS,
    FOLDER,
    NAMES,
    PAIRS,
    image_of,
    mask_of,
    path_of,
    things_of,
)

from ldznet.research.scenes.art import ARTISTS
from ldznet.research.scenes.nouns import NOUNS


@pytest.mark.parametrize("name", NAMES)
def test_a_scene_has_its_image_and_a_mask_for_each_of_its_things(name):
    things = things_of(name)

    assert image_of(name).size == SIZE[::-1]
    assert [thing.mask.shape for thing in things] == [SIZE] * len(things)
    assert np.sum([thing.mask for thing in things], axis=0).max() == 1
    assert all(0.005 < thing.mask.mean() < 0.3 for thing in things)
    drawn = SCENES[name]
    assert CONTENTS[name]["artist"] == drawn[0]
    assert sorted((thing.word, thing.size_word) for thing in things) == sorted(
        (word, size_word) for word, size_word, _ in drawn[2]
    )
    assert all(thing.word in NOUNS for thing in things)


def test_there_are_a_dozen_scenes_at_most_of_art_that_may_be_passed_on():
    artists = {content["artist"] for content in CONTENTS.values()}
    text = (FOLDER / "README.md").read_text(encoding="utf-8")

    assert set(NAMES) == set(SCENES)
    assert len(NAMES) <= 12
    assert sum(path_of(name).stat().st_size for name in NAMES) < 300_000
    assert artists == {"fluent-3d", "fluent-flat", "noto", "twemoji"}
    assert {ARTISTS[artist].license for artist in artists} == {"MIT", "Apache-2.0", "CC-BY-4.0"}
    assert all(name in text for name in (*NAMES, "Microsoft", "Apache-2.0", "CC BY 4.0"))


def test_a_phrase_of_a_pair_is_one_thing_of_its_color():
    for name, phrases in PAIRS.items():
        pixels = np.asarray(image_of(name)).astype(int)
        for phrase in phrases:
            red, _, blue = pixels[mask_of(name, phrase)].mean(0)
            assert (red > 1.5 * blue) == phrase.startswith("red")
            assert (blue > 1.5 * red) == phrase.startswith("blue")
