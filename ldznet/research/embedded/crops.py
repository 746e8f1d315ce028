"""Crops of scenes for the autoencoder: small squares around things, and how much each pixel counts.

A ground is learned soon; what tells a spoon from a spider covers few pixels. So crops are cut around things, and
a thing's pixels count several times.

    crops    (N, 3, S, S)  float32 in [-1, 1]
    weights  (N, 1, S, S)  float32, mean near 1
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from ldznet.research.scenes.icons import IconWorld
from ldznet.research.scenes.sprites import Array
from ldznet.research.scenes.training_scene import TRAIN_SEEDS

_THING_WEIGHT = 3.0  # of a thing's pixels and of a rim around it, where the ground's is 1
_RIM = 5  # pixels


class CropStream(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Scene number n: `each` crops of it, `side` pixels high and wide, and their weights."""

    def __init__(self, world: IconWorld, *, start: int, count: int, size: int, side: int, each: int) -> None:
        self.world, self.start, self.count = world, start, count
        self.size, self.side, self.each = size, side, each

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index >= self.count:
            raise IndexError(index)
        scene = self.world.training_scene(self.start + index, self.size)
        rng = np.random.default_rng([TRAIN_SEEDS + self.start + index, 4])
        weights = _weights(scene.masks)
        corners = [self._corner(scene.masks, rng) for _ in range(self.each)]
        squares = [(slice(top, top + self.side), slice(left, left + self.side)) for top, left in corners]
        crops = np.stack([scene.image[square].transpose(2, 0, 1) for square in squares])
        return (
            torch.from_numpy(crops).float() / 127.5 - 1,
            torch.from_numpy(np.stack([weights[square][None] for square in squares])),
        )

    def _corner(self, masks: Array, rng: np.random.Generator) -> tuple[int, int]:
        """Draw the top left corner of a crop that shows some part of a thing in its middle half."""
        rows, columns = np.nonzero(masks[int(rng.integers(len(masks)))])
        at = int(rng.integers(len(rows)))
        shift = rng.integers(self.side // 4, self.side * 3 // 4, 2)
        room = self.size - self.side
        top, left = np.clip((rows[at] - shift[0], columns[at] - shift[1]), 0, room).tolist()
        return top, left


def _weights(masks: Array) -> Array:
    near = cv2.dilate(masks.any(0).astype(np.uint8), np.ones((_RIM, _RIM), np.uint8))
    weights = 1 + (_THING_WEIGHT - 1) * near.astype(np.float32)
    return np.asarray(weights / 2, np.float32)


def join_crops(items: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Join the crops and weights of several scenes into one batch."""
    return torch.cat([crops for crops, _ in items]), torch.cat([weights for _, weights in items])
