"""What a diffusion model learns from.

image   (S, S, 3)  uint8, RGB
masks   (N, S, S)  bool, what is visible of each thing
"""

from __future__ import annotations

from dataclasses import dataclass

from ldznet.research.scenes.sprites import Array

__all__ = ["TRAIN_SEEDS", "TrainingScene"]

TRAIN_SEEDS = 10_000_000  # scenes from this seed on are for training; below it for evaluation


@dataclass(frozen=True, eq=False)
class TrainingScene:
    """An image, where its things are, and captions, each of them true."""

    image: Array  # uint8 (S, S, 3)
    masks: Array  # bool (N, S, S)
    captions: tuple[str, ...]
