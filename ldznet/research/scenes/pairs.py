"""Pairs: scenes of two things, and two phrases of which each picks one of them.

A head that has understood a word is surer of the thing that is named than of the other. Asked both ways, a guess
is right half of the time, however much larger or brighter one of the two is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ldznet.errors import OptionError
from ldznet.research.scenes.composition import SIZE_CLASSES, Composition, Thing, draw_thing, place_and_paint
from ldznet.research.scenes.nouns import COLORS, GROUPS, NOUNS
from ldznet.research.scenes.sprites import Array, Sprites
from ldznet.research.scenes.wording import NounPhrase, picks_of

__all__ = ["PAIR_KINDS", "Pair", "make_pair"]

PAIR_KINDS = ("name", "group", "color", "size", "side")
_TRIES = 400


@dataclass(frozen=True, eq=False)
class Pair:
    """An image of two things, and a phrase for each of them."""

    image: Array  # uint8 (H, W, 3)
    masks: Array  # bool (2, H, W)
    phrases: tuple[str, str]
    kind: str  # one of PAIR_KINDS


def make_pair(seed: int, kind: str, sprites: Sprites, size: tuple[int, int] = (128, 128)) -> Pair:
    """Return the pair of a seed: two things that differ in their name, group, colour, size or side."""
    if kind not in PAIR_KINDS:
        raise OptionError(
            f"kind is {kind!r}, but pairs differ in one of {', '.join(PAIR_KINDS)}. Give one of these."
        )
    rng = np.random.default_rng([seed, 5, PAIR_KINDS.index(kind)])
    for _ in range(_TRIES):
        things, phrases = _draw(kind, sprites, min(size), rng)
        scene = place_and_paint(things, sprites, size, rng) if things else None
        if scene and (pair := _pair(scene, phrases, kind, size)):
            return pair
    raise AssertionError(f"no pair of seed {seed} that differs in its {kind}")


def _draw(
    kind: str, sprites: Sprites, side: int, rng: np.random.Generator
) -> tuple[list[Thing], list[NounPhrase]]:
    """Draw two things, and what is asked for; nothing where what was drawn does not suit."""

    def thing(word: str, size_word: str, color: str | None = None) -> Thing:
        return draw_thing(word, size_word, sprites, side, rng, color=color)

    def pick(items: Sequence[str], count: int) -> list[str]:
        return [items[i] for i in rng.choice(len(items), count, replace=False)]

    if kind == "name":
        words = pick(sprites.words, 2)
        return [thing(word, _size(rng)) for word in words], [NounPhrase(word) for word in words]
    if kind == "group":
        groups = pick([group for group in GROUPS if group not in NOUNS], 2)
        words = [pick([word for word in GROUPS[group] if word in sprites.words], 1)[0] for group in groups]
        return [thing(word, _size(rng)) for word in words], [NounPhrase(group) for group in groups]
    if kind == "color":
        word = pick([word for word in sprites.words if sprites.takes_color(word)], 1)[0]
        colors, size_word = pick(COLORS, 2), _size(rng)
        return (
            [thing(word, size_word, color) for color in colors],
            [NounPhrase(word, color=color) for color in colors],
        )
    word = pick(sprites.words, 1)[0]
    first = thing(word, "small" if kind == "size" else "")
    second = thing(word, "large" if kind == "size" else "", first.color if first.tinted else "")
    if kind == "size":
        return [first, second], [NounPhrase(word, size_word=size_word) for size_word in ("small", "large")]
    sides = ("left", "right") if rng.random() < 0.7 else ("top", "bottom")
    return [first, second], [NounPhrase(word, side=side) for side in sides]


def _size(rng: np.random.Generator) -> str:
    return SIZE_CLASSES[1 + int(rng.integers(2))] if rng.random() < 0.5 else ""


def _pair(scene: Composition, phrases: Sequence[NounPhrase], kind: str, size: tuple[int, int]) -> Pair | None:
    """Return the pair, where each phrase picks one thing and no other; None where it does not."""
    picks = [picks_of(phrase, scene.things, size) for phrase in phrases]
    if sorted(picks, key=str) != [(0,), (1,)]:
        return None
    order = [pick[0] for pick in picks if pick]
    texts = [_text(phrase, kind) for phrase in phrases]
    return Pair(scene.image, scene.masks[order], (texts[0], texts[1]), kind)


def _text(phrase: NounPhrase, kind: str) -> str:
    """Return the words as a user types them: "dog", "red car", "the large dog", "the dog on the left"."""
    if kind == "size":
        return f"the {phrase.size_word} {phrase.word}"
    if kind == "side":
        return f"the {phrase.word} {'on' if phrase.side in ('left', 'right') else 'at'} the {phrase.side}"
    return " ".join(part for part in (phrase.color, phrase.word) if part)
