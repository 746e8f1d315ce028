"""Captioned scenes as a diffusion model's training reads them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ldznet.research.scenes.icons import IconWorld


class SceneStream(torch.utils.data.Dataset[tuple[Tensor, tuple[str, ...]]]):
    """Scene number n of the world: (3, size, size) uint8 and its captions."""

    def __init__(self, world: IconWorld, size: int, start: int, count: int) -> None:
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
