"""Scenes: seeded pictures of simple objects with a caption, phrases and exact masks.

The seed alone decides what stands where; the look decides how it is painted. So one seed gives the same
objects and masks in every look, and a difference between looks is a difference of style only. Every scene
has generators of its own: worker processes can make scenes in any order. Layout, words and masks come out
the same on every machine; colours may differ by a rounding where OpenCV computes with other instructions.

    image   (H, W, 3)  uint8, RGB
    masks   (N, H, W)  bool, what is visible of each object, from back to front; no two overlap
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from textwrap import wrap

import cv2
import numpy as np

from ldznet.errors import OptionError
from ldznet.research.scenes.brushes import COLORS, FILLS
from ldznet.research.scenes.phrases import PHRASE_KINDS, VOCABULARY, find_phrases, write_caption
from ldznet.research.scenes.shapes import KINDS, SUBPIXELS, Array, SceneObject, balance, fill_polygons
from ldznet.research.scenes.styles import GROUNDS, LOOKS, MATERIALS, paint

__all__ = [
    "LOOK_NAMES",
    "PHRASE_KINDS",
    "VOCABULARY",
    "Phrase",
    "Scene",
    "SceneObject",
    "contact_sheet",
    "make_scene",
]

LOOK_NAMES = tuple(LOOKS)
SMALLEST_SIDE, LARGEST_SIDE = 64, 1024
MOST_OBJECTS = 6
SMALLEST_VISIBLE = 0.55  # of an object's area; what is hidden more than that is hard to name

# Diameters as shares of the picture's shorter side. The gaps are wide enough to hold across kinds, slim or
# full: every large object is larger than all that are not, by its reach and by its area.
_DIAMETERS = {"small": (0.17, 0.2), "": (0.27, 0.315), "large": (0.425, 0.52)}
_LEGIBLE = 15  # pixels: smaller objects cannot be told apart
_ROOMY = 28  # pixels: on smaller objects, dots and squares look alike unless the outline is full


@dataclass(frozen=True, eq=False)
class Phrase:
    """Words, and the union of all that they pick out; the mask of an absent thing is empty."""

    text: str
    kind: str  # "name", "attribute", "relation" or "absent"
    mask: Array  # bool (H, W)


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture and all that is known of it."""

    seed: int
    look: str
    image: Array  # uint8 (H, W, 3)
    caption: str
    objects: tuple[SceneObject, ...]  # from back to front
    masks: Array  # bool (N, H, W)

    def phrases(self, seed: int = 0, each: int | None = 2) -> list[Phrase]:
        """Return up to `each` phrases of every kind, all different; another seed picks others, None all."""
        _check_seed(seed)
        if each is not None and not (_is_whole(each) and each >= 1):
            raise OptionError(
                f"each is {each!r}, but it counts the phrases of every kind: "
                "give a number from 1, or None for all of them."
            )
        rng = np.random.default_rng([self.seed, seed, 3])
        return [
            Phrase(saying.text, saying.kind, np.logical_or.reduce(self.masks[list(saying.picks)]))
            for saying in find_phrases(self.objects, each, rng)
        ]


def make_scene(
    seed: int, *, look: str = "photo", size: tuple[int, int] = (128, 128), objects: int | None = None
) -> Scene:
    """Return the scene of a seed; `size` is (height, width), `objects` how many (None: 1 to 6 by chance)."""
    _check(seed, look, size, objects)
    rng = np.random.default_rng([seed, 0])
    drawn = _draw_objects(objects or _chance_count(rng), min(size), rng)
    placed, masks = _place(drawn, size, rng)
    ground = _draw_ground(placed, rng)
    caption = write_caption(look, placed, ground, np.random.default_rng([seed, 1]))
    painter = np.random.default_rng([seed, 2, LOOK_NAMES.index(look)])
    return Scene(seed, look, paint(look, placed, size, ground, painter), caption, placed, masks)


def _check(seed: int, look: str, size: tuple[int, int], objects: int | None) -> None:
    _check_seed(seed)
    if look not in LOOKS:
        known = ", ".join(LOOK_NAMES)
        raise OptionError(f"look is {look!r}, which no painter knows: give one of {known} (default 'photo').")
    if (
        not isinstance(size, Sequence)
        or len(size) != 2
        or not all(_is_whole(n) and SMALLEST_SIDE <= n <= LARGEST_SIDE for n in size)
    ):
        raise OptionError(
            f"size is {size!r}, but objects are legible and quickly drawn only on sides from {SMALLEST_SIDE} "
            f"to {LARGEST_SIDE} pixels: give (height, width) in that range (default (128, 128))."
        )
    if objects is not None and not (_is_whole(objects) and 1 <= objects <= MOST_OBJECTS):
        raise OptionError(
            f"objects is {objects!r}, but a scene has room for 1 to {MOST_OBJECTS}: "
            "give such a number, or None to leave it to chance."
        )


def _check_seed(seed: int) -> None:
    if not _is_whole(seed) or seed < 0:
        raise OptionError(f"seed is {seed!r}, but chance starts from a whole number: give one from 0 upwards.")


def _is_whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _chance_count(rng: np.random.Generator) -> int:
    return int(rng.choice(MOST_OBJECTS, p=(0.1, 0.24, 0.26, 0.2, 0.12, 0.08))) + 1


def _draw_objects(number: int, side: int, rng: np.random.Generator) -> list[SceneObject]:
    """Draw what the objects are; kinds and colours recur, so that one word alone often fits several."""
    drawn: list[SceneObject] = []
    for _ in range(number):
        model = drawn[int(rng.integers(len(drawn)))] if drawn else None
        chance = rng.random()
        if model and chance < 0.15:
            drawn.append(_turned(model, side, rng))
            continue
        kind, color = str(rng.choice(list(KINDS))), str(rng.choice(list(COLORS)))
        if model and chance < 0.55:
            kind = model.kind
        elif model and chance < 0.75:
            color = model.color
        words = _legible_words(side)
        crowded = sum(item.size_word == "large" for item in drawn) >= 2
        size_word = str(rng.choice(words[:-1] if crowded else words))
        fill = str(rng.choice(FILLS, p=(0.46, 0.18, 0.18, 0.18)))
        drawn.append(_turned(SceneObject(kind, color, fill, size_word, (0.0, 0.0), 0.0, 0.0), side, rng))
    return drawn


def _turned(item: SceneObject, side: int, rng: np.random.Generator) -> SceneObject:
    """Return an object of the same description, with a new angle and exact size, if it has room for its fill."""
    diameter = rng.uniform(*_DIAMETERS[item.size_word]) * side * balance(item.kind)
    angle = rng.uniform(-1, 1) * KINDS[item.kind].tilt
    room = KINDS[item.kind].small_fills if diameter < _ROOMY else len(FILLS)
    fill = FILLS[min(room - 1, FILLS.index(item.fill))]
    return replace(item, radius=float(diameter / 2), angle=float(angle), fill=fill)


def _legible_words(side: int) -> list[str]:
    """Return the size words, from small to large, whose objects can be told apart."""
    return [word for word, (low, _) in _DIAMETERS.items() if low * side >= _LEGIBLE]


def _place(
    drawn: Sequence[SceneObject], size: tuple[int, int], rng: np.random.Generator
) -> tuple[tuple[SceneObject, ...], Array]:
    """Find a place for every object and return them from back to front, with their masks."""
    for attempt in count(1):
        if attempt % 4 == 0:
            drawn = _shrink_one(drawn, min(size), rng)
        if placed := _scatter(drawn, size, rng):
            masks = _visible_masks(placed, size)
            seen = tuple(_look_at(item, mask) for item, mask in zip(placed, masks, strict=True))
            if all(item.visible >= SMALLEST_VISIBLE for item in seen):
                return seen, masks
    raise AssertionError("count() ended")


def _shrink_one(drawn: Sequence[SceneObject], side: int, rng: np.random.Generator) -> list[SceneObject]:
    """Make the largest object a size smaller, if there is a smaller one that stays legible."""
    words = _legible_words(side)
    ranks = [words.index(item.size_word) for item in drawn]
    at = int(np.argmax(ranks))
    smaller = replace(drawn[at], size_word=words[max(0, ranks[at] - 1)])
    return [*drawn[:at], _turned(smaller, side, rng), *drawn[at + 1 :]]


def _scatter(drawn: Sequence[SceneObject], size: tuple[int, int], rng: np.random.Generator) -> list[SceneObject]:
    """Return the objects in places of their own, or nothing if there is no room; some may overlap."""
    overlap = rng.random() < 0.6
    order = sorted(drawn, key=lambda item: -item.radius) if rng.random() < 0.7 else drawn
    placed: list[SceneObject] = []
    for item in order:
        margin = item.radius * (0.65 if rng.random() < 0.15 else 1.04)
        low, high = (margin, margin), (size[1] - margin, size[0] - margin)
        for x, y in rng.uniform(low, high, (30, 2)).tolist():
            apart = (
                np.hypot(x - other.position[0], y - other.position[1])
                > (0.68 if overlap and other.color != item.color else 1.08) * (item.radius + other.radius)
                for other in placed
            )
            if all(apart):
                placed.append(replace(item, position=(x, y)))
                break
        else:
            return []
    return placed


def _visible_masks(placed: Sequence[SceneObject], size: tuple[int, int]) -> Array:
    """Return (N, H, W): the pixels that show each object on more than half of their area."""
    height, width = size
    owner = np.zeros((height * SUBPIXELS, width * SUBPIXELS), np.uint8)
    for number, item in enumerate(placed, start=1):
        fill_polygons(owner, item.contours(), number)
    shares = [
        cv2.resize(cv2.inRange(owner, number, number), (width, height), interpolation=cv2.INTER_AREA)
        for number in range(1, len(placed) + 1)
    ]
    return np.stack(shares) > 127


def _look_at(item: SceneObject, mask: Array) -> SceneObject:
    """Fill in what depends on how much of an object is visible."""
    pixels = mask.astype(np.uint8)
    moments = cv2.moments(pixels, True)
    area = moments["m00"]
    if not area:
        return replace(item, visible=0.0)
    left, top, width, height = cv2.boundingRect(pixels)
    return replace(
        item,
        centroid=(moments["m10"] / area + 0.5, moments["m01"] / area + 0.5),
        box=(left, top, left + width, top + height),
        visible=min(1.0, area / item.area()),
    )


def _draw_ground(objects: Sequence[SceneObject], rng: np.random.Generator) -> tuple[str, str]:
    """Draw a colour and a material that no object vanishes on."""
    taken = {item.color for item in objects}
    return str(rng.choice([color for color in GROUNDS if color not in taken])), str(rng.choice(MATERIALS))


def contact_sheet(scenes: Sequence[Scene], phrases: Sequence[Phrase] | None = None, columns: int = 6) -> Array:
    """Return one picture of scenes of one size, with captions or one phrase each, its mask outlined."""
    images, texts = [scene.image for scene in scenes], [scene.caption for scene in scenes]
    if phrases is not None:
        images = [_outlined(image, phrase.mask) for image, phrase in zip(images, phrases, strict=True)]
        texts = [f"{phrase.kind}: {phrase.text}" for phrase in phrases]
    zoom = max(1, 256 // images[0].shape[1])
    return caption_cells([np.kron(image, np.ones((zoom, zoom, 1), np.uint8)) for image in images], texts, columns)


def caption_cells(images: Sequence[Array], texts: Sequence[str], columns: int) -> Array:
    """Return one picture of pictures of one size, each with its text below."""
    lines = [wrap(text, images[0].shape[1] // 7) for text in texts]
    band = 8 + 15 * max(map(len, lines))
    cells = [_with_text(image, text, band) for image, text in zip(images, lines, strict=True)]
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % columns)
    return np.vstack([np.hstack(cells[i : i + columns]) for i in range(0, len(cells), columns)])


def _outlined(image: Array, mask: Array) -> Array:
    edges, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    outlined = image.copy()
    for color, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.drawContours(outlined, edges, -1, color, width, cv2.LINE_AA)
    return outlined


def _with_text(image: Array, lines: Sequence[str], band: int) -> Array:
    """Return an image in a white frame, with lines of text in a band of so many pixels below."""
    framed = cv2.copyMakeBorder(image, 4, band, 4, 4, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    for row, line in enumerate(lines):
        at = (8, image.shape[0] + 18 + 15 * row)
        cv2.putText(framed, line, at, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (30, 30, 30), 1, cv2.LINE_AA)
    return np.asarray(framed)
