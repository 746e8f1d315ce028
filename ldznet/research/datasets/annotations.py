"""Masks of captions as three programs leave them: pictures, COCO's segmentations, labelme's shapes.

Each `draw_` function takes what one caption has on one image and gives the mask (H, W) of all of it, with the
faults of its outlines. Nothing here knows of folders or captions.

Sources: cocodataset/cocoapi common/maskApi.c (run lengths; pixel i of COCO's polygons reaches from i to i + 1);
labelme utils/shape.py, and its own format of shapes of the kind mask: a PNG between two corners.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldznet.masks.pipeline import Mask
from ldznet.research.datasets.polygons import rasterize_pillow, rasterize_skimage
from ldznet.research.datasets.samples import SampleError, check_outlines, check_size, read_sample_image

Size = tuple[int, int]
_FEW_LEVELS = 32  # a picture that is no brighter holds numbers of things, not black and white


def draw_file(path: Path, size: Size, name: str) -> tuple[Mask, tuple[str, ...]]:
    """A picture of a mask: what is brighter than half of its brightest pixel, so that 0 and 1 do as well."""
    pixels = read_sample_image(path, name, background=(0, 0, 0))
    check_size(pixels, size, name, f"its mask {path.name}")
    if not has_two_levels(pixels):
        raise SampleError(
            f"{name}: {path.name} is no mask: it has many colours. If it is an image, put the images into a "
            "folder images and the masks into a folder masks.",
            reason="not a mask",
            name=name,
        )
    levels = pixels.max(axis=2)
    if levels.max() < _FEW_LEVELS and len(np.unique(levels)) > 2:
        raise SampleError(
            f"{name}: {path.name} holds the numbers {', '.join(map(str, np.unique(levels)[:5]))} as if of several "
            "things, and which of them the caption names is not known. Give each caption a mask of two colours.",
            reason="not a mask",
            name=name,
        )
    return levels > levels.max() / 2, ()


def is_mask(path: Path) -> bool:
    """Whether a picture looks like a mask; one that cannot be read counts as such."""
    try:
        return has_two_levels(read_sample_image(path, path.name, background=(0, 0, 0)))
    except SampleError:  # it will be reported when it is read
        return True


def is_gray(pixels: NDArray[np.uint8]) -> bool:
    """Whether no pixel has a colour."""
    return bool((pixels == pixels[:, :, :1]).all())


def has_two_levels(pixels: NDArray[np.uint8]) -> bool:
    """Whether nearly all pixels are dark or of one bright colour."""
    levels = pixels.max(axis=2)
    brightest = int(levels.max())
    bright = levels >= brightest * 7 / 8
    alike = (np.abs(pixels - np.median(pixels[bright], axis=0)) <= 16).all(axis=2)
    return bool(((levels <= brightest / 8) | (bright & alike)).mean() > 0.9)


def draw_coco(segmentations: list[Any], size: Size, name: str) -> tuple[Mask, tuple[str, ...]]:
    """Polygons and run lengths, all as one."""
    mask, faults = np.zeros(size, bool), list[str]()
    for segmentation in segmentations:
        if isinstance(segmentation, Mapping):
            mask |= _decoded(segmentation, size, name)
            continue
        try:
            pairs: list[Any] = [list(zip(flat[::2], flat[1::2], strict=True)) for flat in segmentation]
        except (TypeError, ValueError):
            pairs = [None]
        # From the corners of pixels, as COCO counts, to their centres, as scikit-image does.
        outlines = [[(x - 0.5, y - 0.5) for x, y in outline] for outline in check_outlines(pairs, name)]
        raster = rasterize_skimage(outlines, size)
        mask |= raster.mask
        faults += map(str, raster.faults)
    return mask, tuple(faults)


def _decoded(segmentation: Mapping[str, Any], size: Size, name: str) -> Mask:
    try:
        if list(segmentation["size"]) != list(size):
            raise ValueError(f"its size is {segmentation['size']}, the image's {list(size)}")
        return decode_runs(segmentation["counts"], size)
    except (TypeError, KeyError, ValueError) as error:
        raise SampleError(
            f"{name}: its run lengths cannot be read ({error}). Mend the annotation.",
            reason="bad run lengths",
            name=name,
        ) from error


def decode_runs(counts: str | bytes | list[int], size: Size) -> Mask:
    """COCO's run lengths -> (H, W): how many pixels are off, on, off ..., column by column.

    As text (maskApi.c, rleFrString) a number is pieces of 5 bits, the low ones first, in the characters from "0"
    on: 32 says that another piece follows, 16 in the last that it is negative; from the fourth number on it is the
    difference to the one before the last. ValueError where they are no run lengths of this size.
    """
    numbers = _numbers(counts) if isinstance(counts, (str, bytes)) else [int(number) for number in counts]
    if any(number < 0 for number in numbers) or sum(numbers) != size[0] * size[1]:
        raise ValueError(f"they make {sum(numbers)} pixels of {size[0] * size[1]}")
    selected = np.arange(len(numbers)) % 2 == 1
    return np.ascontiguousarray(np.repeat(selected, numbers).reshape(size[::-1]).T)


def _numbers(text: str | bytes) -> list[int]:
    numbers = list[int]()
    value = shift = 0
    for letter in text.encode() if isinstance(text, str) else text:
        piece = letter - 48
        if not 0 <= piece < 64:
            raise ValueError(f"character {chr(letter)!r} does not occur in run lengths")
        value |= (piece & 31) << shift
        shift += 5
        if not piece & 32:
            if piece & 16:
                value -= 1 << shift
            numbers.append(value + numbers[-2] if len(numbers) > 2 else value)
            value = shift = 0
    if shift:
        raise ValueError("the last number is cut")
    return numbers


def draw_labelme(shapes: list[Mapping[str, Any]], size: Size, name: str) -> tuple[Mask, tuple[str, ...]]:
    """Polygons, rectangles, circles and masks; a line or a point has no area."""
    mask, polygons, faults = np.zeros(size, bool), [], list[str]()
    for shape in shapes:
        kind = shape.get("shape_type") or "polygon"
        (outline,) = check_outlines([shape.get("points")], name)
        if kind == "mask":
            mask |= _pasted(shape.get("mask"), outline, size, name)
        elif kind == "circle" and len(outline) == 2:
            mask |= _disc(outline[0], outline[1], size)
        elif kind == "rectangle" and len(outline) == 2:
            (left, top), (right, bottom) = outline
            polygons.append([(left, top), (right, top), (right, bottom), (left, bottom)])
        elif kind in ("polygon", "rectangle", "oriented_rectangle"):
            polygons.append(outline)
        else:
            faults.append(f"a {kind} of {len(outline)} points has no area")
    raster = rasterize_pillow(polygons, size)  # as labelme draws them
    return mask | raster.mask, (*faults, *map(str, raster.faults))


def _pasted(text: object, corners: list[tuple[float, float]], size: Size, name: str) -> Mask:
    """A PNG in base64 between its corners, which belong to it; what is beyond the image is cut off."""
    mask = np.zeros(size, bool)
    try:
        (left, top), (right, bottom) = ((int(x), int(y)) for x, y in corners)
        with Image.open(io.BytesIO(base64.b64decode(str(text), validate=True)), formats=("PNG",)) as picture:
            if picture.size != (right - left + 1, bottom - top + 1):
                raise ValueError(f"it is {picture.size}, its corners {corners}")
            patch = np.array(picture.convert("L")) > 0
    except Exception as error:  # decoders raise almost anything on damaged data
        raise SampleError(
            f"{name}: a shape of the kind mask cannot be read ({error}). Mend the annotation.",
            reason="bad mask",
            name=name,
        ) from error
    y, x = (index + start for index, start in zip(np.nonzero(patch), (top, left), strict=True))
    inside = (y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1])
    mask[y[inside], x[inside]] = True
    return mask


def _disc(center: tuple[float, float], edge: tuple[float, float], size: Size) -> Mask:
    """All pixels whose centre is within half a pixel of the circle, or inside."""
    y, x = np.ogrid[: size[0], : size[1]]
    radius = np.hypot(edge[0] - center[0], edge[1] - center[1]) + 0.5
    disc: Mask = (x - center[0]) ** 2 + (y - center[1]) ** 2 <= radius**2
    return disc
