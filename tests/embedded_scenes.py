"""Scenes that the embedded model is asked about in tests, and words for what is in them.

The images lie under models/tiny/scenes, so no test needs the art. What the tests ask for, and at which threshold,
stands here alone.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).parents[1] / "models" / "tiny" / "scenes"
CONTENTS = json.loads((FOLDER / "scenes.json").read_text(encoding="utf-8"))
NAMES = tuple(CONTENTS)

# The scene that most tests ask about. In it PHRASE is two things, and in OTHER and THIRD one; ABSENT is in none.
SCENE, OTHER, THIRD = "dogs", "bucket-fluent-3d", "bucket-noto"
PHRASE, SECOND_PHRASE, ABSENT = "dog", "bone", "green star"
OTHER_PHRASE = "bucket"  # of OTHER and THIRD

# Probabilities from which the embedded head's masks of these phrases are neither empty nor everything.
THRESHOLD, LOW_THRESHOLD, LOWEST_THRESHOLD = 0.3, 0.2, 0.15

# Scenes with two things each that differ in colour, and phrases for both.
PAIRS = {
    "balloons": ("red balloon", "blue balloon"),
    "cars": ("red car", "blue car"),
}

# What the embedded head reaches on PAIRS at THRESHOLD: the mean overlap with what is named, and how often its mean
# probability is higher there than on the other thing.
LEAST_OVERLAP, LEAST_RIGHT = 0.7, 1.0


@dataclass(frozen=True, eq=False)
class Thing:
    """A thing of a scene."""

    word: str
    color: str  # empty where no colour word is true of it
    size_word: str
    mask: np.ndarray  # bool (H, W), where it is visible


def path_of(name):
    """Return the file of a scene's image."""
    return FOLDER / f"{name}.webp"


# The image and the word of the README's first command.
README_IMAGE = path_of("bucket-fluent-3d")
README_PROMPT = "bucket"


def image_of(name, size=None):
    """Return the image of a scene; `size` is (width, height), None its own."""
    with Image.open(path_of(name)) as file:
        image = file.convert("RGB")
    return image.resize(size, Image.Resampling.LANCZOS) if size else image


def numbered_image(number, size):
    """Return one of all scenes by any number."""
    return image_of(NAMES[number % len(NAMES)], size)


def things_of(name):
    """Return the things of a scene, from back to front."""
    with Image.open(FOLDER / f"{name}.masks.png") as image:
        numbers = np.asarray(image)
    return [Thing(*words, numbers == place) for place, words in enumerate(CONTENTS[name]["things"], start=1)]


def mask_of(name, phrase):
    """Return where the things of a scene are that a phrase of a colour and a noun names, or a noun alone."""
    *colors, word = phrase.split()
    masks = [
        thing.mask for thing in things_of(name) if thing.word == word and (not colors or thing.color == colors[0])
    ]
    return np.logical_or.reduce(masks)
