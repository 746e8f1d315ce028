"""Masks of captions in the three forms that annotation programs write: mask images, COCO, labelme.

Each `draw_` function takes all shapes of one caption on one image and returns one mask (H, W), with the faults
of the outlines. Nothing here knows of folders or captions.

Sources: cocodataset/cocoapi common/maskApi.c (pixel i of COCO's polygons reaches from i to i + 1); labelme
utils/shape.py, and labelme's shapes of the kind mask: a PNG between two corners.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldznet.masks.checks import Mask
from ldznet.research.datasets.polygons import rasterize_pillow, rasterize_skimage
from ldznet.research.datasets.samples import SampleError, check_outlines, check_size, read_sample_image

Size = tuple[int, int]
# A mask image with no brighter pixel holds the numbers of several things, not black and white.
_FEW_LEVELS = 32
# Run lengths as text: each number is one or more characters, and only its last character is below "P".
_RUN_TEXT = re.compile(rb"[0-o]*[0-O]")


def draw_file(path: Path, size: Size, name: str) -> tuple[Mask, tuple[str, ...]]:
    """Read a mask image: what is brighter than half of its brightest pixel is selected, so 0 and 1 work, too."""
    pixels = read_sample_image(path, name, background=(0, 0, 0))
    check_size(pixels, size, name, f"its mask {path.name}")
    if not has_two_levels(pixels):
        raise SampleError(
            f"{name}: {path.name} is not a mask, because it has many colors. If it is an image, put the images "
            "into a folder images and the masks into a folder masks.",
            reason="not a mask",
            name=name,
        )
    levels = pixels.max(axis=2)
    if levels.max() < _FEW_LEVELS and len(np.unique(levels)) > 2:
        numbers = ", ".join(map(str, np.unique(levels)[:5]))
        raise SampleError(
            f"{name}: {path.name} holds the numbers {numbers} as if of several things, and which of them the "
            "caption names is unknown. Give each caption a mask of two colors.",
            reason="not a mask",
            name=name,
        )
    return levels > levels.max() / 2, ()


def is_mask(path: Path) -> bool:
    """Return whether an image file looks like a mask; an unreadable file counts as a mask."""
    try:
        return has_two_levels(read_sample_image(path, path.name, background=(0, 0, 0)))
    except SampleError:  # reported later, when the sample is read
        return True


def is_gray(pixels: NDArray[np.uint8]) -> bool:
    """Return whether no pixel has a color."""
    return bool((pixels == pixels[:, :, :1]).all())


def has_two_levels(pixels: NDArray[np.uint8]) -> bool:
    """Return whether nearly all pixels are either dark or of one bright color."""
    levels = pixels.max(axis=2)
    # A mask may be red or green: its brightest channel counts.
    brightest = int(levels.max())
    bright = levels >= brightest * 7 / 8
    # 16 levels of 256, and one pixel in ten: what JPEG does to a mask's colors and edges.
    alike = (np.abs(pixels - np.median(pixels[bright], axis=0)) <= 16).all(axis=2)
    return bool(((levels <= brightest / 8) | (bright & alike)).mean() > 0.9)


def draw_coco(segmentations: list[Any], size: Size, name: str) -> tuple[Mask, tuple[str, ...]]:
    """Draw the union of COCO's polygons and run lengths."""
    mask, faults = np.zeros(size, bool), list[str]()
    for segmentation in segmentations:
        if isinstance(segmentation, Mapping):
            mask |= _decode_runs(segmentation, size, name)
            continue
        try:
            pairs: list[Any] = [list(zip(flat[::2], flat[1::2], strict=True)) for flat in segmentation]
        except (TypeError, ValueError):
            # check_outlines reports it.
            pairs = [None]
        # COCO counts from the corners of pixels, scikit-image from their centers.
        outlines = [[(x - 0.5, y - 0.5) for x, y in outline] for outline in check_outlines(pairs, name)]
        raster = rasterize_skimage(outlines, size)
        mask |= raster.mask
        faults += map(str, raster.faults)
    return mask, tuple(faults)


def _decode_runs(segmentation: Mapping[str, Any], size: Size, name: str) -> Mask:
    """Decode COCO's run lengths, a list of numbers or a text, with pycocotools.

    pycocotools crashes on some damaged texts and leaves pixels undefined where the runs are too short, so both
    are checked here.
    """
    # Imported here: only COCO's run lengths need this library.
    from pycocotools import mask as coco_mask

    try:
        if list(segmentation["size"]) != list(size):
            raise ValueError(f"their size is {segmentation['size']}, that of the image {list(size)}")
        counts = segmentation["counts"]
        if isinstance(counts, list):
            counts = coco_mask.frPyObjects({"size": list(size), "counts": counts}, *size)["counts"]
        counts = counts.encode() if isinstance(counts, str) else bytes(counts)
        if not _RUN_TEXT.fullmatch(counts):
            raise ValueError("the text is cut, or has characters that do not occur in run lengths")
        mask: Mask = coco_mask.decode({"size": list(size), "counts": counts}).astype(bool, order="C")
        if _fits(counts, mask.size - 1):
            raise ValueError(f"they make fewer pixels than the {mask.size} of the image")
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise SampleError(
            f"{name}: its run lengths cannot be read ({error}). Correct the annotation.",
            reason="bad run lengths",
            name=name,
        ) from error
    return mask


def _fits(counts: bytes, pixels: int) -> bool:
    """Return whether run lengths make at most so many pixels; pycocotools refuses them where they make more."""
    from pycocotools import mask as coco_mask

    try:
        coco_mask.decode({"size": [pixels, 1], "counts": counts})
    except ValueError:
        return False
    return True


def draw_labelme(shapes: list[Mapping[str, Any]], size: Size, name: str) -> tuple[Mask, tuple[str, ...]]:
    """Draw the union of labelme's polygons, rectangles, circles and masks; a line or a point has no area."""
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
    raster = rasterize_pillow(polygons, size)  # labelme itself draws with Pillow
    return mask | raster.mask, (*faults, *map(str, raster.faults))


def _pasted(text: object, corners: list[tuple[float, float]], size: Size, name: str) -> Mask:
    """Return the mask of a PNG in base64 between two corners (inclusive), cut to the image."""
    mask = np.zeros(size, bool)
    try:
        (left, top), (right, bottom) = ((int(x), int(y)) for x, y in corners)
        with Image.open(io.BytesIO(base64.b64decode(str(text), validate=True)), formats=("PNG",)) as image:
            if image.size != (right - left + 1, bottom - top + 1):
                raise ValueError(f"it is {image.size}, its corners {corners}")
            patch = np.array(image.convert("L")) > 0
    except Exception as error:  # decoders raise almost anything on damaged data
        raise SampleError(
            f"{name}: a shape of the kind mask cannot be read ({error}). Correct the annotation.",
            reason="bad mask",
            name=name,
        ) from error
    y, x = (index + start for index, start in zip(np.nonzero(patch), (top, left), strict=True))
    inside = (y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1])
    mask[y[inside], x[inside]] = True
    return mask


def _disc(center: tuple[float, float], edge: tuple[float, float], size: Size) -> Mask:
    """Return all pixels whose center lies inside the circle, or at most half a pixel outside."""
    y, x = np.ogrid[: size[0], : size[1]]
    radius = np.hypot(edge[0] - center[0], edge[1] - center[1]) + 0.5
    disc: Mask = (x - center[0]) ** 2 + (y - center[1]) ** 2 <= radius**2
    return disc
