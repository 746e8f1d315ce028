"""What the embedded model can be trained on: a world of numbered scenes with words.

image   (S, S, 3)  uint8, RGB
masks   (N, S, S)  bool, what is visible of each thing
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ldznet.research.scenes.sprites import Array

__all__ = ["TRAIN_SEEDS", "TrainingScene", "World"]

TRAIN_SEEDS = 10_000_000  # scenes from this seed on are for training; below it for evaluation


@dataclass(frozen=True, eq=False)
class TrainingScene:
    """What a diffusion model learns from: an image, where its things are, and captions, each of them true."""

    image: Array  # uint8 (S, S, 3)
    masks: Array  # bool (N, S, S)
    captions: tuple[str, ...]


class World(Protocol):
    """Scenes by number, the same for the same number, and the words that their captions are made of."""

    @property
    def name(self) -> str:
        """Return the name of the world: shapes or icons."""

    @property
    def vocabulary(self) -> Sequence[str]:
        """Return every word that a caption or a phrase can hold."""

    @property
    def nouns(self) -> tuple[str, ...]:
        """Return the words that name a thing or a group of things."""

    @property
    def related(self) -> Mapping[str, tuple[str, ...]]:
        """Return words that it does not have, with the nouns that are nearest in meaning."""

    def training_scene(self, number: int, side: int) -> TrainingScene:
        """Return scene `number` for training, `side` pixels high and wide."""
