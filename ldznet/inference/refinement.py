"""Refine a result: run the network again on parts of the image, for the prompts that were found.

tiles.py says which parts are worth it and how two looks are joined; the caller knows how the network is shown a
part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ldznet.images.tensors import to_image_size
from ldznet.inference.passes import Progress, shift_progress
from ldznet.inference.tiles import FAINT, TILE, Box, RefinedPatch, add_tile, find_boxes, find_tiles, join, merge

# Runs the network on a part of the image, at its full size, for some prompts -> maps (P, k, l).
Look = Callable[[Box, Sequence[str], Progress | None], Tensor]


class Refiner:
    """Looks again at parts of an image of `size` (H, W), with a network that sees `side` x `side` pixels of it.

    In one look a prompt takes `each` passes.
    """

    def __init__(self, look: Look, size: tuple[int, int], side: int, each: int) -> None:
        self._look = look
        self._size = size
        self._side = side
        self._each = each
        self._tiles = find_tiles(size, side)

    def expected(self, prompts: int) -> int:
        """Return the passes of the first look and of the refinement, as far as they are known before it."""
        # One box per prompt is assumed, until the maps show how much there is to look at again.
        return (2 + len(self._tiles)) * self._each * prompts

    def run(
        self, texts: Sequence[str], maps: Tensor, progress: Progress | None
    ) -> tuple[Tensor, tuple[tuple[RefinedPatch, ...], ...]]:
        """Return the maps (P, h, w) of the first look joined with the tiles, and the refined patches per text."""
        maps, done = self._search(texts, maps, progress)
        share = TILE if self._tiles else 1.0  # of the image that the network has seen at once
        boxes = [find_boxes(one.numpy(), self._size, self._side, share) for one in maps]
        total = done + self._each * sum(map(len, boxes))
        # Without boxes no look reports the end.
        if progress is not None and done == total:
            progress(done, total)
        patches = []
        for text, coarse, parts in zip(texts, maps, boxes, strict=True):
            own = []
            for box in parts:
                fine = self._look(box, [text], shift_progress(progress, done, total))
                own.append(RefinedPatch(box, merge(coarse.numpy(), self._size, box, fine[0].numpy())))
                done += self._each
            patches.append(tuple(own))
        return maps, tuple(patches)

    def _search(self, texts: Sequence[str], maps: Tensor, progress: Progress | None) -> tuple[Tensor, int]:
        """Return all maps, those with something in them joined with the tiles, and the passes so far."""
        done = self._each * len(texts)
        visible = [index for index, one in enumerate(maps) if float(one.max()) >= FAINT]
        if not self._tiles or not visible:
            return maps, done
        total = done + self._each * len(visible) * (len(self._tiles) + 1)
        size = (2 * maps.shape[-2], 2 * maps.shape[-1])
        # Sums of weighted logits, so that they begin at 0.
        larger = np.zeros((len(maps), *size), np.float32)
        for number, tile in enumerate(self._tiles):
            looks = self._look(tile, [texts[index] for index in visible], shift_progress(progress, done, total))
            for index, fine in zip(visible, looks, strict=True):
                add_tile(larger[index], number, fine.numpy())
            done += self._each * len(visible)
        for index, one in enumerate(maps):
            larger[index] = join(one.numpy(), larger[index]) if index in visible else to_image_size(one, size)
        return torch.from_numpy(larger), done
