"""Reduce a large image and its result to the size at which the page shows them, so that a slider answers quickly.

Masks are made at the image's own size all the same. Plain arrays: nothing here knows of the page. Sizes are
(height, width).
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

# Pixels of the longer side. Drawing and encoding the shown images takes longest, and grows with their area.
LONGEST = 1024
SMALL = 640  # of the image of objects

Size = tuple[int, int]


def shown_size(size: Size) -> Size:
    """Return the size at which an image of `size` is shown: its own, unless it is large."""
    return size_within(size, LONGEST)


def size_within(size: Size, longest: int) -> Size:
    """Return a size in the same proportions, with a longer side of `longest` pixels at most."""
    scale = min(1.0, longest / max(size))
    return max(1, round(scale * size[0])), max(1, round(scale * size[1]))


def reduce_image(image: NDArray[Any], size: Size) -> NDArray[Any]:
    """Return a copy of (H, W) or (H, W, 3) at `size`; each pixel is the mean of those that it stands for."""
    if image.shape[:2] == size:
        return image.copy()
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


def reduce_segmentation(segmentation: Segmentation, size: Size) -> Segmentation:
    """Return the same segmentation for a smaller image; both share the maps."""
    patches = tuple(
        tuple(RefinedPatch(_reduce_box(patch.box, segmentation.size, size), patch.probability) for patch in of_map)
        for of_map in segmentation.patches
    )
    return dataclasses.replace(segmentation, size=size, patches=patches)


def reduce_objects(objects: Objects, size: Size) -> Objects:
    """Return the objects at a smaller size, with the same numbers; one too small to be seen still has a box."""
    if objects.numbers.shape == size:
        return objects
    height, width = objects.numbers.shape
    # Nearest pixels: the mean of two numbers would be a third object.
    numbers: Any = cv2.resize(objects.numbers, size[::-1], interpolation=cv2.INTER_NEAREST)
    return Objects(numbers, tuple(_reduce_box(box, (height, width), size) for box in objects.boxes))


def reduce_options(options: MaskOptions, scale: float) -> MaskOptions:
    """Return the options for an image that is `scale` times as large: lengths and areas in pixels shrink."""
    return dataclasses.replace(
        options,
        grow=round(scale * options.grow),
        feather=scale * options.feather,
        smallest_area=round(scale**2 * options.smallest_area),
    )


def _reduce_box(box: Box, size: Size, smaller: Size) -> Box:
    """Return the box at the smaller size, at least one pixel wide and high."""
    x0, y0, x1, y1 = box
    left, right = _reduce_span(x0, x1, size[1], smaller[1])
    top, bottom = _reduce_span(y0, y1, size[0], smaller[0])
    return left, top, right, bottom


def _reduce_span(start: int, stop: int, length: int, shorter: int) -> tuple[int, int]:
    first = min(start * shorter // length, shorter - 1)
    return first, max(first + 1, round(stop * shorter / length))
