"""Draw polygons as masks, as each of the two published codes does, and find degenerate ones.

    polygon  points (x, y) in pixels
    mask     (H, W) bool

Sources: github.com/ChenyunWu/PhraseCutDataset utils/data_transfer.py, github.com/timojl/clipseg
datasets/phrasecut.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ldznet.errors import ShapeError
from ldznet.masks.checks import Mask

Polygons = Sequence[Sequence[Sequence[float]]]  # polygon, point, (x, y) in pixels
_Points = list[tuple[float, float]]


@dataclass(frozen=True)
class PolygonFault:
    """A polygon that is not a proper outline, and whether it was drawn."""

    index: int  # position in the list, from 0
    fault: str  # ends the sentence "polygon 3 ..."
    drawn: bool  # whether the original code draws any pixel of it

    def __str__(self) -> str:
        return f"polygon {self.index} {self.fault} ({'drawn' if self.drawn else 'left out'})"


@dataclass(frozen=True)
class Raster:
    """The union of polygons, and which of them are degenerate."""

    mask: Mask  # (H, W)
    faults: tuple[PolygonFault, ...]  # at most one for each polygon, in their order


def rasterize_pillow(polygons: Polygons, size: tuple[int, int]) -> Raster:
    """Draw PhraseCut's mask (utils/data_transfer.py, polygons_to_mask): Pillow, including the outline.

    Coordinates are cut to whole pixels by int(); polygons of fewer than 2 points are skipped; the others are
    drawn even if they are degenerate. PhraseCut's `Polygons` are lists of such lists, one for each instance.
    `size` is (height, width).
    """

    def draw(points: _Points) -> Mask:
        canvas = Image.new("L", (size[1], size[0]))
        ImageDraw.Draw(canvas).polygon(points, outline=1, fill=1)
        return np.array(canvas) > 0

    return _rasterize(polygons, size, draw, least=2, whole=True)


def rasterize_skimage(polygons: Polygons, size: tuple[int, int]) -> Raster:
    """Draw CLIPSeg's and LD-ZNet's mask (datasets/phrasecut.py): skimage's polygon2mask, unrounded coordinates.

    Its masks are a little smaller than Pillow's. The original stops at a polygon without points and at a phrase
    without polygons; here these give a fault or an empty mask. `size` is (height, width).
    """
    from skimage.draw import polygon2mask

    def draw(points: _Points) -> Mask:
        mask: Mask = polygon2mask(size, [(y, x) for x, y in points])
        return mask

    return _rasterize(polygons, size, draw, least=1, whole=False)


def _rasterize(
    polygons: Polygons, size: tuple[int, int], draw: Callable[[_Points], Mask], *, least: int, whole: bool
) -> Raster:
    """Draw each polygon of at least so many points; `whole` cuts coordinates to whole pixels first."""
    if min(size) < 1:
        raise ShapeError(
            f"The size is {size} (height, width), but an image has at least one pixel each way: check the "
            "annotations."
        )
    mask = np.zeros(size, bool)
    faults = []
    for index, polygon in enumerate(polygons):
        points, fault = _outline(polygon, whole=whole)
        drawn = False
        if len(points) >= least:
            part = draw(points)
            mask |= part
            drawn = bool(part.any())
            if not fault:
                fault = "encloses no area" if _is_flat(points) else "" if drawn else "covers no pixel"
        if fault:
            faults.append(PolygonFault(index, fault, drawn))
    return Raster(mask, tuple(faults))


def _outline(polygon: object, *, whole: bool) -> tuple[_Points, str]:
    """Return the points that can be drawn, and the fault of the polygon or an empty text."""
    try:
        points = [(float(x), float(y)) for x, y in polygon]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return [], "is not a list of points [x, y]"
    if not all(math.isfinite(value) for point in points for value in point):
        return [], "has coordinates that are not finite"
    if whole:
        points = [(int(x), int(y)) for x, y in points]
    return points, "" if len(points) >= 3 else f"has {len(points)} of at least 3 points"


def _is_flat(points: _Points) -> bool:
    """Return whether all points lie on one line."""
    x0, y0 = points[0]
    dx, dy = next(((x - x0, y - y0) for x, y in points if (x, y) != (x0, y0)), (0.0, 0.0))
    return all((x - x0) * dy == (y - y0) * dx for x, y in points)
