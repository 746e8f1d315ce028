"""The second look of a run: what is looked at again, for which prompts, and how much of the work that is.

Which parts of an image are worth it and how two looks are joined, refine.py says; how the network is shown a part,
the caller knows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ldznet.images.reading import to_image_size
from ldznet.inference.passes import Progress, shift_progress
from ldznet.inference.tiles import FAINT, TILE, Box, RefinedPatch, add_tile, find_boxes, find_tiles, join, merge

# Shows the network a part of the image at its full size, for some prompts -> maps (P, k, l).
Look = Callable[[Box, Sequence[str], Progress | None], Tensor]


class Refinement:
    """At an image of `size` (H, W), for a network that sees `side` x `side` pixels of it.

    In one look a prompt takes `each` so many passes.
    """

    def __init__(self, look: Look, size: tuple[int, int], side: int, each: int) -> None:
        self._look = look
        self._size = size
        self._side = side
        self._each = each
        self._tiles = find_tiles(size, side)

    def expected(self, prompts: int) -> int:
        """Passes of both looks together."""
        # One box of each prompt, until it is known how much there is to look at again.
        return (2 + len(self._tiles)) * self._each * prompts

    def take(
        self, texts: Sequence[str], maps: Tensor, progress: Progress | None
    ) -> tuple[Tensor, tuple[tuple[RefinedPatch, ...], ...]]:
        """The first look's maps (P, h, w) -> maps that know of the tiles, and per text its patches.

        A patch is what a look at a part that stands out has found.
        """
        maps, done = self._search(texts, maps, progress)
        seen = TILE if self._tiles else 1.0
        boxes = [find_boxes(one.numpy(), self._size, self._side, seen) for one in maps]
        total = done + self._each * sum(map(len, boxes))
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
        """-> all maps, with what the tiles show of those in which anything was found; passes made until then."""
        done = self._each * len(texts)
        found = [index for index, one in enumerate(maps) if float(one.max()) >= FAINT]
        if not self._tiles or not found:
            return maps, done
        total = done + self._each * len(found) * (len(self._tiles) + 1)
        size = (2 * maps.shape[-2], 2 * maps.shape[-1])
        larger = np.zeros((len(maps), *size), np.float32)
        for number, tile in enumerate(self._tiles):
            seen = self._look(tile, [texts[index] for index in found], shift_progress(progress, done, total))
            for index, fine in zip(found, seen, strict=True):
                add_tile(larger[index], number, fine.numpy())
            done += self._each * len(found)
        for index, one in enumerate(maps):
            larger[index] = join(one.numpy(), larger[index]) if index in found else to_image_size(one, size)
        return torch.from_numpy(larger), done
