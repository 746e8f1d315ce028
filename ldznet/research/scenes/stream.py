"""Captioned scenes for the diffusion model.

Scene number n is made from the seed TRAIN_SEEDS + n; looks take turns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ldznet.research.scenes.scenes import LOOK_NAMES, make_scene

TRAIN_SEEDS = 10_000_000  # scenes from this seed on are for training; below it for evaluation


# How many things stand in a scene, by turns; None is by chance. A word is soonest learned from a picture that
# shows little else.
FEW_THINGS = (None, 1, 2, 1)


class SceneStream(torch.utils.data.Dataset[tuple[Tensor, str]]):
    """Scene number n: (3, size, size) uint8 and its caption; looks take turns."""

    def __init__(self, size: int, start: int, count: int, things: Sequence[int | None] = (None,)) -> None:
        self.size, self.start, self.count, self.things = size, start, count, things

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        if index >= self.count:
            raise IndexError(index)
        number = self.start + index
        look = LOOK_NAMES[number % len(LOOK_NAMES)]
        things = self.things[number // len(LOOK_NAMES) % len(self.things)]
        scene = make_scene(TRAIN_SEEDS + number, look=look, size=(self.size, self.size), objects=things)
        return torch.from_numpy(np.ascontiguousarray(scene.image.transpose(2, 0, 1))), scene.caption


def one_thread(_worker: int) -> None:
    """What a worker of a loader does first: leave the other cores to the others."""
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def normalised(images: Tensor, device: str) -> Tensor:
    """Uint8 -> float32 in [-1, 1], on the device."""
    return images.to(device).float() / 127.5 - 1
