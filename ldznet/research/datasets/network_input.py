"""Make the network's input from a sample: a square crop, or the whole image stretched to a square.

    image   (H, W, 3)  uint8, RGB
    mask    (H, W)     bool; True is what the phrase names
    pixels  (3, S, S)  float32 in [-1, 1]
    target  (S, S)     bool, the mask on that square

Randomness comes from a generator that the caller passes in.

Sources: PNVR et al., ICCV 2023, github.com/koutilya-pnvr/LD-ZNet ldm_seg/data/phrasecut.py, after Lüddecke and
Ecker, CVPR 2022, github.com/timojl/clipseg datasets/phrasecut.py.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ldznet.masks.checks import Mask

_TRIES, _LEAST_SHARE = 50, 0.05  # as in the released code's find_crop


def random_crop(mask: Mask, rng: np.random.Generator) -> tuple[slice, slice]:
    """Return rows and columns of a random square of side min(H, W) that shows enough of the mask.

    It is the first of 50 squares in which the mask has more pixels than 5 % of the image (not of the square, as in
    the released code), else the one of them that shows most.
    """
    height, width = mask.shape
    side = min(height, width)
    # -1, so that the first square wins even if it shows nothing.
    best, most = (slice(0, side), slice(0, side)), -1
    for _ in range(_TRIES):
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        square = slice(top, top + side), slice(left, left + side)
        if (visible := int(np.count_nonzero(mask[square]))) > most:
            best, most = square, visible
        if visible > height * width * _LEAST_SHARE:
            break
    return best


def stretch_to_square(image: NDArray[np.uint8], mask: Mask, size: int) -> tuple[NDArray[np.float32], Mask]:
    """Stretch image and mask to squares -> pixels (3, S, S) in [-1, 1], target (S, S).

    As in the released code: the image bilinear with align_corners and without antialiasing, the mask nearest.
    """
    levels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    levels = F.interpolate(levels, (size, size), mode="bilinear", align_corners=True)[0]
    target = torch.from_numpy(np.ascontiguousarray(mask, dtype=np.uint8))[None, None]
    target = F.interpolate(target, (size, size), mode="nearest")[0, 0]
    return (2 * (levels / 255) - 1).numpy(), target.bool().numpy()
