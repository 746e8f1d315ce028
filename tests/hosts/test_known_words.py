"""The words of a small model: which of a prompt's it has never read, what is near them, and the note about it."""

import dataclasses

import pytest
from PIL import Image
from safetensors.torch import save_file
from torch import zeros

from ldznet.hosts.diffusers.random_weights import random_host
from ldznet.hosts.known_words import KEY, KnownWords, read_known_words
from ldznet.methods.learned_head import random_head
from ldznet.options import SegmentOptions
from ldznet.research.scenes.nouns import NOUNS
from ldznet.research.scenes.related_words import KNOWN_NOUNS, RELATED_WORDS
from ldznet.research.scenes.wording import VOCABULARY
from ldznet.segmenter import Segmenter

SMALL = SegmentOptions(resolution=128)

WORDS = KnownWords(
    frozenset(("a", "the", "on", "left", "red", "bucket", "buckets", "chair", "couch", "dog", "dogs")),
    ("bucket", "chair", "couch", "dog"),
    {"sofa": ("couch", "chair"), "puppy": ("dog",)},
)


def test_known_words_are_not_reported_in_any_form():
    assert WORDS.unknown(["The red bucket, on the LEFT", "a dog", "dogs!"]) == []


def test_each_unknown_word_is_reported_once():
    assert WORDS.unknown(["the sofa", "a dog on a sofa", "Fußball"]) == ["sofa", "fußball"]


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("sofa", ("couch", "chair")),
        ("sofas", ("couch", "chair")),
        ("buckett", ("bucket",)),
        ("chairman", ("chair",)),
        ("xylophone", ()),
    ],
)
def test_near_words_are_near_by_meaning_or_by_spelling(word, near):
    assert WORDS.near(word) == near


def test_the_note_says_what_happened_what_is_near_and_what_to_do():
    assert WORDS.note("tiny.safetensors", ["sofa", "red puppy"]) == (
        'tiny.safetensors is a small model of drawn things and has never read "sofa", "puppy": the mask of such a '
        "word means little. It knows couch, chair, dog. docs/tiny.md lists all its words. For any other word use "
        "a full Stable Diffusion checkpoint: choose one at the top of the webui, or give --checkpoint FILE on the "
        "command line."
    )


def test_a_word_that_nothing_is_near_to_gets_examples():
    assert "It knows things such as bucket, chair, couch, dog." in WORDS.note("tiny", ["xylophone"])


def test_there_is_no_note_where_every_word_is_known():
    assert WORDS.note("tiny", ["the red bucket"]) == ""


def test_the_list_survives_its_way_through_a_file(tmp_path):
    path = tmp_path / "small.safetensors"
    save_file({"x": zeros(1)}, path, {KEY: WORDS.to_json()})

    assert read_known_words(path) == WORDS


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"words": 1}', '{"words": [], "nouns": [], "related": []}'])
def test_a_damaged_list_is_no_list(tmp_path, text):
    path = tmp_path / "small.safetensors"
    save_file({"x": zeros(1)}, path, {KEY: text})

    assert read_known_words(path) is None


def test_a_full_model_has_no_list(tmp_path):
    path = tmp_path / "sd15.safetensors"
    save_file({"x": zeros(1)}, path)

    assert read_known_words(path) is None
    assert read_known_words(tmp_path / "missing.safetensors") is None
    assert read_known_words("model.ckpt") is None


def test_only_a_model_with_a_list_gets_the_note():
    host = random_host("sd1")
    segmenter = Segmenter(host, random_head(host.info.unet))
    segmenter.set_image(Image.new("RGB", (96, 64), "red"), SMALL)
    assert segmenter.segment("sofa", SMALL).notes == ()

    host._info = dataclasses.replace(host.info, known_words=WORDS)

    assert sum("never read" in note for note in segmenter.segment(["sofa", "puppy", "dog"], SMALL).notes) == 1
    assert segmenter.segment("dog", SMALL).notes == ()
    assert any('"puppy"' in note for note in segmenter.segment("dog", SMALL, negative_prompts="puppy").notes)


def test_words_that_the_embedded_model_knows_have_no_advice():
    assert not RELATED_WORDS.keys() & set(VOCABULARY)
    assert {noun for nouns in RELATED_WORDS.values() for noun in nouns} <= set(KNOWN_NOUNS)
    assert set(NOUNS) <= set(KNOWN_NOUNS)
    assert RELATED_WORDS["sofa"] == ("bed", "chair", "couch")
