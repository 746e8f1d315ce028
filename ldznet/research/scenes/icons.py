"""The world of icons: scenes in several artists' hands, with captions, phrases and masks.

Training takes the artists in turn, so that all of them are seen equally often; the others are for measuring. A
scene's seed decides all of it, its words too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ldznet.errors import OptionError
from ldznet.research.scenes.art import ARTISTS, read_art
from ldznet.research.scenes.composition import Thing, compose
from ldznet.research.scenes.related_words import KNOWN_NOUNS, RELATED_WORDS
from ldznet.research.scenes.sprites import Array, Sprites
from ldznet.research.scenes.training_scene import TRAIN_SEEDS, TrainingScene
from ldznet.research.scenes.wording import PHRASE_KINDS, VOCABULARY, draw_caption, draw_phrase

__all__ = ["IconPhrase", "IconScene", "IconWorld"]

_CAPTIONS = 4  # of a training scene; each time that it is used, one of them is drawn


@dataclass(frozen=True)
class IconPhrase:
    """Words and the union of all that they pick out; the mask of an absent thing is empty."""

    text: str
    kind: str  # one of wording.PHRASE_KINDS
    mask: Array  # bool (H, W)


@dataclass(frozen=True, eq=False)
class IconScene:
    """A scene of icons and all that is known of it."""

    seed: int
    artist: str
    look: str
    image: Array  # uint8 (H, W, 3)
    things: tuple[Thing, ...]  # from back to front
    masks: Array  # bool (N, H, W)
    ground: str

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width)."""
        height, width = self.image.shape[:2]
        return height, width

    def caption(self, number: int = 0) -> str:
        """Return one of the scene's captions; another number gives another one."""
        rng = np.random.default_rng([self.seed, 2, number])
        return draw_caption(self.look, self.things, self.ground, self.size, rng)

    def phrase(self, number: int = 0, kinds: Sequence[str] | None = None) -> IconPhrase | None:
        """Return a phrase for something in the scene, or of given kinds; None where the scene has none of them."""
        if kinds and not set(kinds) <= set(PHRASE_KINDS):
            raise OptionError(f"kinds is {kinds!r}. Give some of {', '.join(PHRASE_KINDS)}.")
        rng = np.random.default_rng([self.seed, 3, number])
        choice = (
            draw_phrase(self.things, self.size, rng, kinds=tuple(kinds))
            if kinds
            else draw_phrase(self.things, self.size, rng)
        )
        if choice is None:
            return None
        mask = np.logical_or.reduce(self.masks[list(choice.picks)], axis=0)
        return IconPhrase(choice.text, choice.kind, np.asarray(mask, bool))


class IconWorld:
    """The sprites of several artists, and the scenes composed of them."""

    vocabulary = VOCABULARY
    nouns = KNOWN_NOUNS
    related = RELATED_WORDS

    def __init__(self, hands: Mapping[str, Sprites], trained_on: Sequence[str]) -> None:
        self.hands, self.trained_on = dict(hands), tuple(trained_on)

    @classmethod
    def read(cls, folder: Path | None = None) -> IconWorld:
        """Read the art that `python -m ldznet datasets art` has fetched.

        Raises:
            ArtError: some of it is missing.
        """
        hands = read_art(folder)
        return cls(hands, [name for name in hands if ARTISTS[name].trained_on])

    def scene(
        self, seed: int, artist: str, size: tuple[int, int] = (128, 128), things: int | None = None
    ) -> IconScene:
        """Return the scene of a seed in an artist's hand; `size` is (height, width), `things` how many."""
        if artist not in self.hands:
            raise OptionError(f"artist is {artist!r}, who is unknown. Give one of {', '.join(self.hands)}.")
        hand = self.hands[artist]
        composed = compose(seed, hand, size, things)
        return IconScene(seed, artist, hand.look, composed.image, composed.things, composed.masks, composed.ground)

    def training_scene(self, number: int, side: int) -> TrainingScene:
        """Return scene `number` for training, `side` pixels high and wide; artists alternate."""
        seed = TRAIN_SEEDS + number
        scene = self.scene(seed, self.trained_on[seed % len(self.trained_on)], (side, side))
        return TrainingScene(scene.image, scene.masks, tuple(scene.caption(n) for n in range(_CAPTIONS)))
