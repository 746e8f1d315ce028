"""Between images and tensors: the size that the network sees, its pixels, and maps back at the image's size.

    pixels       (1, 3, h, w) float32 in [-1, 1]                 h, w from `network_size`
    probability  (h, w) or (P, h, w) -> (H, W) or (P, H, W)      float32 in [0, 1]

From a side of 256 on, the size rule is that of the released code of LD-ZNet (PNVR et al., ICCV 2023).
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

_FEW = 4  # from so many multiples a side on, rounding down takes little


def network_size(size: tuple[int, int], side: int = 384, multiple: int = 64) -> tuple[int, int]:
    """Return the (height, width) at which the network sees an image of this size.

    Both are multiples of `multiple`, with about the image's shape and an area of at most side².
    The released rule, except where that would give a side of 0 (thinner than about 36:1): then the short side is
    one multiple and the long one what the area allows. The released rule rounds both sides down. Below four
    multiples that would take up to half of the area, so there the size nearest to the fitting one is taken.
    """
    height, width = size
    assert min(height, width, side, multiple) >= 1, (size, side, multiple)
    if side < _FEW * multiple:
        return _nearest_size(size, side, multiple)
    ratio = height / width
    # The height follows from the width before that is floored: the order of the released code.
    fitting_width = int(math.sqrt(side * side / ratio))
    fitting_height = int(ratio * fitting_width)
    if min(fitting_height, fitting_width) >= multiple:
        return fitting_height // multiple * multiple, fitting_width // multiple * multiple
    longest = max(multiple, side * side // multiple // multiple * multiple)
    return (longest, multiple) if height > width else (multiple, longest)


def _nearest_size(size: tuple[int, int], side: int, multiple: int) -> tuple[int, int]:
    """Return the one whose worse side is scaled least; then that of the image's shape, then the larger."""
    height, width = size
    fitting_height, fitting_width = side * math.sqrt(height / width), side * math.sqrt(width / height)

    def cost(candidate: tuple[int, int]) -> tuple[float, float, int]:
        scales = math.log(candidate[0] / fitting_height), math.log(candidate[1] / fitting_width)
        # Rounded, so that equal ones are equal on every machine.
        worse, shape = round(max(map(abs, scales)), 6), round(abs(scales[0] - scales[1]), 6)
        return worse, shape, -candidate[0] * candidate[1]

    most = max(1, side * side // multiple**2)  # squares of one multiple
    rows = range(1, most + 1)
    return min(((r * multiple, c * multiple) for r in rows for c in range(1, most // r + 1)), key=cost)


def to_tensor(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """Resize an RGB image to `size` (h, w) with LANCZOS -> (1, 3, h, w) float32 in [-1, 1]."""
    assert image.mode == "RGB", image.mode
    height, width = size
    resized = image.resize((width, height), Image.Resampling.LANCZOS)
    # A copy: PIL lends its memory read-only, and torch would warn of it.
    levels = np.array(resized, dtype=np.float32) / 255  # (h, w, 3)
    return torch.from_numpy(2 * levels - 1).permute(2, 0, 1)[None].contiguous()


def from_tensor(pixels: Tensor) -> Image.Image:
    """Return (1, 3, h, w) in [-1, 1] as an RGB image, rounded to the nearest level and clipped."""
    assert pixels.shape[:-2] == (1, 3), tuple(pixels.shape)
    levels = (pixels.detach().float()[0] + 1) * 127.5
    return Image.fromarray(levels.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy())


def to_image_size(probability: Tensor | NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize (h, w) or (P, h, w) to `size` (H, W) -> float32 (H, W) or (P, H, W) in [0, 1].

    An axis that shrinks is averaged over its area, so that nothing aliases; one that grows is
    interpolated bicubically between pixel centres, and overshoots are clipped.
    """
    if isinstance(probability, Tensor):
        probability = probability.detach().float().cpu().numpy()
    maps = np.ascontiguousarray(probability, dtype=np.float32)
    assert maps.ndim in (2, 3), maps.shape
    height, width = size
    result = np.empty((*maps.shape[:-2], height, width), np.float32)
    sources, targets = maps.reshape(-1, *maps.shape[-2:]), result.reshape(-1, height, width)
    # OpenCV and not torch: it writes into given memory, which counts when one map takes 256 MB, and it can average
    # one axis alone. The values are those of torch's bicubic.
    for source, target in zip(sources, targets, strict=True):
        smaller = (min(width, source.shape[1]), min(height, source.shape[0]))
        averaged = cv2.resize(source, smaller, interpolation=cv2.INTER_AREA)
        cv2.resize(averaged, (width, height), dst=target, interpolation=cv2.INTER_CUBIC)
    return np.clip(result, 0, 1, out=result)
