"""Large pictures are shown reduced, so that a slider answers quickly; their masks are made at their own size.

Plain arrays: nothing here knows of the page. Sizes are (height, width).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import cv2
from numpy.typing import NDArray

from ldznet.inference.tiles import Box, RefinedPatch
from ldznet.masks.objects import Objects
from ldznet.options import MaskOptions
from ldznet.result import Segmentation

LONGEST = 1024  # pixels of the longer side; encoding what is shown as PNG takes longest

Size = tuple[int, int]


def shown_size(size: Size) -> Size:
    """What a picture of `size` is shown at: as it is, unless it is large."""
    scale = min(1.0, LONGEST / max(size))
    return max(1, round(scale * size[0])), max(1, round(scale * size[1]))


def reduce_picture(picture: NDArray[Any], size: Size) -> NDArray[Any]:
    """(H, W) or (H, W, 3) -> an array of its own of `size`, every pixel the mean of what it stands for."""
    if picture.shape[:2] == size:
        return picture.copy()
    return cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)


def reduce_segmentation(segmentation: Segmentation, size: Size) -> Segmentation:
    """The same, of a smaller picture; it shares the maps."""
    patches = tuple(
        tuple(RefinedPatch(_reduce_box(patch.box, segmentation.size, size), patch.probability) for patch in of_map)
        for of_map in segmentation.patches
    )
    return dataclasses.replace(segmentation, size=size, patches=patches)


def reduce_objects(objects: Objects, size: Size) -> Objects:
    """With the same numbers; one that is too small to be seen has a box still."""
    if objects.numbers.shape == size:
        return objects
    height, width = objects.numbers.shape
    numbers: Any = cv2.resize(objects.numbers, size[::-1], interpolation=cv2.INTER_NEAREST)
    return Objects(numbers, tuple(_reduce_box(box, (height, width), size) for box in objects.boxes))


def reduce_options(options: MaskOptions, scale: float) -> MaskOptions:
    """What is counted in pixels is less in a picture that is `scale` times as large."""
    return dataclasses.replace(
        options,
        grow=round(scale * options.grow),
        feather=scale * options.feather,
        smallest_area=round(scale**2 * options.smallest_area),
    )


def _reduce_box(box: Box, size: Size, smaller: Size) -> Box:
    """Of a pixel at least."""
    x0, y0, x1, y1 = box
    (left, right), (top, bottom) = (
        _reduce_span(x0, x1, size[1], smaller[1]),
        _reduce_span(y0, y1, size[0], smaller[0]),
    )
    return left, top, right, bottom


def _reduce_span(start: int, stop: int, length: int, shorter: int) -> tuple[int, int]:
    first = min(start * shorter // length, shorter - 1)
    return first, max(first + 1, round(stop * shorter / length))
