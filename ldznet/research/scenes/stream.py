"""Captioned scenes of shapes and of any world, as a diffusion model's training reads them."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from ldznet.research.scenes.scenes import LOOK_NAMES, VOCABULARY, make_scene
from ldznet.research.scenes.shapes import KINDS
from ldznet.research.scenes.world import TRAIN_SEEDS, TrainingScene, World

# How many things stand in a scene of shapes, by turns; None is by chance. A word is soonest learned from an image
# that shows little else.
_FEW_THINGS = (None, 1, 2, 1)


class ShapeWorld:
    """The world of coloured shapes: scene number n has the seed TRAIN_SEEDS + n; looks take turns."""

    name = "shapes"
    vocabulary = VOCABULARY
    nouns = tuple(KINDS)
    related = MappingProxyType({"ball": ("circle",)})

    def training_scene(self, number: int, side: int) -> TrainingScene:
        """Return scene `number` for training, `side` pixels high and wide."""
        look = LOOK_NAMES[number % len(LOOK_NAMES)]
        things = _FEW_THINGS[number // len(LOOK_NAMES) % len(_FEW_THINGS)]
        scene = make_scene(TRAIN_SEEDS + number, look=look, size=(side, side), objects=things)
        return TrainingScene(scene.image, scene.masks, (scene.caption,))


class SceneStream(torch.utils.data.Dataset[tuple[Tensor, tuple[str, ...]]]):
    """Scene number n of a world: (3, size, size) uint8 and its captions."""

    def __init__(self, world: World, size: int, start: int, count: int) -> None:
        self.world, self.size, self.start, self.count = world, size, start, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, tuple[str, ...]]:
        if index >= self.count:
            raise IndexError(index)
        scene = self.world.training_scene(self.start + index, self.size)
        return torch.from_numpy(np.ascontiguousarray(scene.image.transpose(2, 0, 1))), scene.captions


def one_thread(_worker: int) -> None:
    """Keep a loader's worker to one thread and leave the other cores to the others."""
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def normalised(images: Tensor, device: str) -> Tensor:
    """Return uint8 images as float32 in [-1, 1], on the device."""
    return images.to(device).float() / 127.5 - 1
