"""Scenes of sprites: what stands where in a scene, in one artist's hand, with exact masks.

The seed decides the nouns, places, sizes and colours; the artist decides how they are drawn. So one seed gives
nearly the same scene in every hand: a hand that lacks a noun draws another, and what is hidden differs a little.

    image   (H, W, 3)  uint8, RGB
    masks   (N, H, W)  bool, what is visible of each thing, from back to front; no two overlap
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ldznet.errors import OptionError
from ldznet.research.scenes.grounds import GROUND_COLORS, draw_ground
from ldznet.research.scenes.nouns import COLORS, GROUPS, NOUNS, near_words
from ldznet.research.scenes.sprites import Array, Sprites, warp

__all__ = [
    "MOST_THINGS",
    "SIZE_CLASSES",
    "Composition",
    "Thing",
    "compose",
    "draw_thing",
    "place_and_paint",
]

MOST_THINGS = 5
_LEAST_VISIBLE = 0.62  # of a thing's area; what is hidden more than that is hard to name
_LEAST_PIXELS = 30
_LEAST_CONTRAST = 70  # between the mean colours of a thing and of the ground, in 0 to 255
_COUNT_SHARES = (0.27, 0.36, 0.2, 0.11, 0.06)  # of scenes with one thing, two, ...
# A thing's longer side as a share of the scene's shorter one, by how many things there are. The gaps between
# small, medium and large are wide enough that a size word is true or false, never doubtful.
_SIDES = {"small": (0.24, 0.29), "": (0.36, 0.45), "large": (0.56, 0.72)}
SIZE_CLASSES = tuple(_SIDES)
_SIZE_SHARES = {
    1: (0.2, 0.35, 0.45),
    2: (0.25, 0.45, 0.3),
    3: (0.35, 0.5, 0.15),
    4: (0.4, 0.5, 0.1),
    5: (0.55, 0.4, 0.05),
}


@dataclass(frozen=True)
class Thing:
    """A thing in a scene."""

    word: str
    color: str  # a colour word that is true of it; empty where none is
    tinted: bool
    size_word: str  # "small", "" or "large"
    side: float  # pixels of its longer side
    center: tuple[float, float] = (0.0, 0.0)  # x, y in pixels
    angle: float = 0.0  # radians
    mirrored: bool = False


@dataclass(frozen=True, eq=False)
class Composition:
    """A scene without words."""

    image: Array  # uint8 (H, W, 3)
    things: tuple[Thing, ...]  # from back to front
    masks: Array  # bool (N, H, W)
    ground: str  # its colour word


def compose(
    seed: int, sprites: Sprites, size: tuple[int, int] = (128, 128), things: int | None = None
) -> Composition:
    """Return the scene of a seed; `size` is (height, width), `things` how many (None: 1 to 5, drawn)."""
    if things is not None and not 1 <= things <= MOST_THINGS:
        raise OptionError(f"things is {things}, but a scene has room for 1 to {MOST_THINGS}. Give one of these.")
    rng = np.random.default_rng([seed, 0])
    count = things or 1 + int(rng.choice(MOST_THINGS, p=_COUNT_SHARES))
    while True:
        choice = _draw_things(count, sprites, min(size), rng)
        if scene := place_and_paint(choice, sprites, size, rng, np.random.default_rng([seed, 1])):
            return scene
        if rng.random() < 0.2:
            count = max(1, count - 1) if things is None else count


def place_and_paint(
    things: Sequence[Thing],
    sprites: Sprites,
    size: tuple[int, int],
    rng: np.random.Generator,
    painter: np.random.Generator | None = None,
) -> Composition | None:
    """Return a scene of these things, in places drawn from `rng`; None where there is no room this time."""
    in_place = _place(things, size, rng)
    return _paint(in_place, sprites, size, painter or rng) if in_place else None


def _draw_things(count: int, sprites: Sprites, side: int, rng: np.random.Generator) -> list[Thing]:
    """Draw what the things are; nouns recur, and near ones meet, so that one word alone often is not enough."""
    things: list[Thing] = []
    while len(things) < count:
        model = things[int(rng.integers(len(things)))] if things else None
        chance = rng.random()
        if model and chance < 0.3:
            things.append(_another(model, things, count, sprites, side, rng))
            continue
        pool: tuple[str, ...] = sprites.words
        if model and chance < 0.45:
            pool = tuple(word for word in near_words(model.word) if word in sprites.words) or pool
        elif model and chance < 0.55 and NOUNS[model.word].groups:
            members = GROUPS[NOUNS[model.word].groups[0]]
            pool = tuple(word for word in members if word in sprites.words)
        elif chance > 0.85:  # things that take a colour are few, and colour words need many
            pool = tuple(word for word in sprites.words if sprites.takes_color(word)) or pool
        word = pool[int(rng.integers(len(pool)))]
        if any(thing.word == word for thing in things):
            continue
        things.append(draw_thing(word, _size_word(count, rng), sprites, side, rng))
    return things


def _size_word(count: int, rng: np.random.Generator) -> str:
    return str(rng.choice(tuple(_SIDES), p=_SIZE_SHARES[count]))


def draw_thing(
    word: str, size_word: str, sprites: Sprites, side: int, rng: np.random.Generator, *, color: str | None = None
) -> Thing:
    """Draw a thing of a noun and a size, without a place; `color` tints it, "" leaves it as it is, None draws."""
    tinted = bool(color)
    if color is None and sprites.takes_color(word) and rng.random() < 0.75:
        color, tinted = str(rng.choice(COLORS)), True
    color = color or NOUNS[word].own_color
    longer = rng.uniform(*_SIDES[size_word]) * side * _balance(sprites.fullness(word))
    angle = rng.uniform(-0.35, 0.35) if rng.random() < 0.7 else 0.0
    return Thing(word, color, tinted, size_word, float(longer), (0.0, 0.0), float(angle), bool(rng.random() < 0.5))


def _another(
    model: Thing, things: list[Thing], count: int, sprites: Sprites, side: int, rng: np.random.Generator
) -> Thing:
    """Return one more of a kind: much like the other, or of another size or colour."""
    size_word = model.size_word
    if rng.random() < 0.45:  # the two are then as small and as large as they can be
        size_word = "small" if model.size_word == "large" else "large"
        if model.size_word == "":
            at = things.index(model)
            other = "small" if size_word == "large" else "large"
            things[at] = draw_thing(model.word, other, sprites, side, rng)
            things[at] = replace(things[at], color=model.color, tinted=model.tinted)
    another = draw_thing(model.word, size_word, sprites, side, rng)
    if model.tinted != another.tinted or rng.random() < 0.4:
        another = replace(another, color=model.color, tinted=model.tinted)
    return another


def _balance(fullness: float) -> float:
    """Return by how much to enlarge a thin thing, so that a spoon does not vanish beside a ball."""
    return float(np.clip((0.55 / max(fullness, 0.05)) ** 0.25, 0.95, 1.25))


def _place(things: Sequence[Thing], size: tuple[int, int], rng: np.random.Generator) -> list[Thing]:
    """Return the things with places, from back to front; nothing where there is no room."""
    close = 0.36 if rng.random() < 0.5 else 0.47  # of the sides of two things: the first lets them overlap
    result: list[Thing] = []
    for thing in sorted(things, key=lambda thing: -thing.side):
        margin = thing.side * (0.36 if rng.random() < 0.12 else 0.49)
        low, high = (margin, margin), (size[1] - margin, size[0] - margin)
        if min(high[0] - low[0], high[1] - low[1]) < 0:
            low = high = (size[1] / 2, size[0] / 2)
        for x, y in rng.uniform(low, high, (24, 2)).tolist():
            if all(
                np.hypot(x - other.center[0], y - other.center[1]) > close * (thing.side + other.side)
                for other in result
            ):
                result.append(replace(thing, center=(x, y)))
                break
        else:
            return []
    return result


def _paint(
    things: list[Thing], sprites: Sprites, size: tuple[int, int], rng: np.random.Generator
) -> Composition | None:
    """Draw the things on a ground; None where too little of one is visible."""
    masks = np.zeros((len(things), *size), bool)
    layers, areas = [], []
    for number, thing in enumerate(things):
        box = _box(thing, size)
        levels = sprites.levels(thing.word, thing.color if thing.tinted else "")
        center = (thing.center[0] - box[1].start, thing.center[1] - box[0].start)
        shape = (box[0].stop - box[0].start, box[1].stop - box[1].start)
        layer = warp(levels, thing.side, thing.angle, thing.mirrored, center, shape)
        opaque = layer[..., 3] > 127
        masks[(slice(number), *box)] &= ~opaque
        masks[(number, *box)] = opaque
        layers.append((box, layer))
        areas.append(int(opaque.sum()))
    visible = masks.sum((1, 2))
    if min(visible) < _LEAST_PIXELS or any(visible < _LEAST_VISIBLE * np.array(areas)):
        return None
    color = _ground_color(things, layers, rng)
    image = draw_ground(color, size, rng)
    for box, layer in layers:
        image[box] = _over(image[box], _varied(layer, rng))
    return Composition(image, tuple(things), masks, color)


def _box(thing: Thing, size: tuple[int, int]) -> tuple[slice, slice]:
    """Return the rows and columns outside of which nothing of a thing is drawn."""
    reach = thing.side * 0.72 + 2  # half of a square's diagonal
    (x, y), (height, width) = thing.center, size
    return (
        slice(max(0, int(y - reach)), min(height, int(y + reach) + 1)),
        slice(max(0, int(x - reach)), min(width, int(x + reach) + 1)),
    )


def _ground_color(
    things: list[Thing], layers: list[tuple[tuple[slice, slice], Array]], rng: np.random.Generator
) -> str:
    """Draw the word of a ground's colour on which no thing vanishes."""
    taken = {thing.color for thing in things}
    free = [color for color in GROUND_COLORS if color not in taken]
    own = [layer[..., :3].sum((0, 1)) * 255.0 / max(1, int(layer[..., 3].sum())) for _, layer in layers]
    distances = [min(float(np.linalg.norm(mean - GROUND_COLORS[color])) for mean in own) for color in free]
    clear = [color for color, distance in zip(free, distances, strict=True) if distance > _LEAST_CONTRAST]
    return clear[int(rng.integers(len(clear)))] if clear else free[int(np.argmax(distances))]


def _over(image: Array, layer: Array) -> Array:
    """Return (H, W, 3): a layer whose colours are multiplied by its alpha, over an image."""
    rest = 255 - layer[..., 3:].astype(np.uint16)
    return np.minimum(layer[..., :3] + (image * rest + 127) // 255, 255).astype(np.uint8)


def _varied(layer: Array, rng: np.random.Generator) -> Array:
    """Return a layer, brighter or darker and its channels a little apart."""
    factors = np.clip(rng.uniform(0.85, 1.12) * rng.uniform(0.96, 1.04, 3), 0, 1.2).astype(np.float32)
    varied = np.minimum(layer[..., :3] * factors, layer[..., 3:])
    return np.concatenate([varied.astype(np.uint8), layer[..., 3:]], -1)
