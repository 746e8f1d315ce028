"""Number the objects of a mask: which pixel belongs to which.

Plain numpy and OpenCV: nothing here knows of prompts, models, files or the UI.

    mask     (H, W)  bool
    numbers  (H, W)  uint8; 0 is no object, 1 the largest, 2 the next, and so on

An object is a connected part (8 neighbours); specks much smaller than the largest part, and parts beyond the 99th,
have no number. Where two things touch, a part has a waist: it is cut there if the waist is clearly narrower than
both sides, and both sides are of a similar width. Lumps, limbs and tails are not cut off: they are far narrower
than the thing that they belong to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ldznet.options import MOST_OBJECTS

LEAST = 1 / 300  # part of the area of the largest; smaller parts are specks
WAIST = 0.6  # a waist has at most this part of the width on either side
SIMILAR = 0.5  # a side has at least this part of the width of the widest
SPECK = 0.02  # a hole with less than this part of the square of the largest distance to the edge is filled
_SIDE = 256  # pixels; waists of larger parts are searched on a reduced copy

Bools = NDArray[np.bool_]
Box = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of a mask, the largest first; of equals, the first in reading order."""

    numbers: NDArray[np.uint8]
    boxes: tuple[Box, ...]  # (x0, y0, x1, y1) of each, x1 and y1 just outside

    def __len__(self) -> int:
        return len(self.boxes)

    def select(self, numbers: tuple[int, ...]) -> Bools:
        """Return the objects with these numbers as a mask; numbers that no object has select nothing."""
        is_selected = np.zeros(256, bool)
        is_selected[list(numbers)] = True
        mask: Bools = is_selected[self.numbers]
        return mask


def find_objects(mask: Bools) -> Objects:
    """Number the objects of a mask (H, W)."""
    # Equal areas in reading order, so that the same mask always gives the same numbers.
    pieces = sorted(_pieces(mask), key=lambda piece: (-piece.area, piece.box[1], piece.box[0]))[:MOST_OBJECTS]
    pieces = [piece for piece in pieces if piece.area >= LEAST * pieces[0].area]
    numbers = np.zeros(mask.shape, np.uint8)
    for number, piece in enumerate(pieces, start=1):
        numbers[_slices(piece.box)][piece.inside] = number
    return Objects(numbers, tuple(piece.box for piece in pieces))


class _Piece(NamedTuple):
    area: int
    box: Box
    inside: Bools  # of the box


def _pieces(mask: Bools) -> Iterator[_Piece]:
    """Yield the largest connected parts, cut where two things touch."""
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    areas = statistics[1:, cv2.CC_STAT_AREA]
    # A noisy mask may have thousands of parts, and only the largest can get a number.
    for label in 1 + np.argsort(-areas, kind="stable")[: min(MOST_OBJECTS, count - 1)]:
        x, y, width, height = (int(value) for value in statistics[label, :4])
        box = (x, y, x + width, y + height)
        cut = _cut(labels[_slices(box)] == label)
        for number in range(1, int(cut.max()) + 1):
            yield _trimmed(cut == number, box)


def _slices(box: Box) -> tuple[slice, slice]:
    x0, y0, x1, y1 = box
    return slice(y0, y1), slice(x0, x1)


def _trimmed(inside: Bools, box: Box) -> _Piece:
    """Return a piece in the smallest box that holds it."""
    x, y, width, height = cv2.boundingRect(inside.view(np.uint8))
    left, top = box[0] + x, box[1] + y
    inside = inside[y : y + height, x : x + width].copy()  # a view would keep the whole array in memory
    return _Piece(int(np.count_nonzero(inside)), (left, top, left + width, top + height), inside)


# --- where two things touch --------------------------------------------------------------------------


def _cut(part: Bools) -> NDArray[np.int32]:
    """Return the number of the thing that each pixel of a connected part (h, w) belongs to, 0 outside."""
    solid = _without_specks(np.pad(part, 1))
    cores = _cores(solid)
    if cores is None:
        return part.astype(np.int32)
    markers = np.where(solid, cores, 0).astype(np.int32)
    # OpenCV's watershed first floods pixels of the same colour: it fills the part before it leaves it.
    flat = cv2.cvtColor((~solid).view(np.uint8) * np.uint8(255), cv2.COLOR_GRAY2BGR)
    cv2.watershed(flat, markers)
    whole = markers.clip(0).astype(np.uint16)  # watershed marks its lines with -1
    lines = solid & (whole == 0)  # one pixel wide, between two things
    whole[lines] = cv2.dilate(whole, np.ones((3, 3), np.uint8))[lines]
    return np.where(part, whole[1:-1, 1:-1], 0).astype(np.int32)


def _without_specks(part: Bools) -> Bools:
    """Fill holes that are too small to be the gap between three things that touch."""
    count, labels, statistics, _ = cv2.connectedComponentsWithStats((~part).view(np.uint8), connectivity=4)
    if count <= 2:  # the part and its surroundings: there is no hole, and distances need not be measured
        return part
    depth = cv2.distanceTransform(part.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    specks = statistics[:, cv2.CC_STAT_AREA] < SPECK * float(depth.max()) ** 2
    specks[[0, labels[0, 0]]] = False  # the part itself, and its surroundings
    solid: Bools = part | specks[labels]
    return solid


def _cores(solid: Bools) -> NDArray[np.uint16] | None:
    """Return the number of the thing to whose core each pixel belongs, 0 elsewhere; None for a single thing.

    A core is what is left of a thing when pixels are removed from the edge until the waists break.
    """
    height, width = solid.shape
    # Waists are compared with widths, which shrink alike, so a smaller copy will do; it bounds the time.
    scale = max(1.0, max(height, width) / _SIDE)
    small: NDArray[Any] = solid.view(np.uint8)
    if scale > 1:
        size = (max(1, round(width / scale)), max(1, round(height / scale)))
        small = np.pad(cv2.resize(small * 255, size, interpolation=cv2.INTER_AREA) > 127, 1).view(np.uint8)
    depth = cv2.distanceTransform(small, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    cores = _split(depth, SIMILAR * float(depth.max()))
    if len(cores) < 2:
        return None
    numbers = np.zeros(small.shape, np.uint16)
    for number, core in enumerate(cores, start=1):
        numbers[core] = number
    if scale > 1:  # all at once: an array for each of a hundred things would not fit into memory
        numbers = cv2.resize(numbers[1:-1, 1:-1], (width, height), interpolation=cv2.INTER_NEAREST)
    return numbers


def _split(depth: NDArray[np.float32], least: float, level: float = 1.0) -> list[Bools]:
    """Raise the level from the edge, where the distance to it is 0: where a part becomes several, it had a waist.

    A side counts if its own depth is at least `least`, and the waist at most WAIST of it.
    """
    highest = float(depth.max())
    while level < WAIST * highest:
        count, labels = cv2.connectedComponents((depth > level).view(np.uint8), connectivity=8)
        # Label 0 is what lies below the level; a single other one is not split.
        sides = np.unique(labels[depth >= max(least, level / WAIST)]) if count > 2 else ()
        if len(sides) > 1:
            return [core for side in sides for core in _split(np.where(labels == side, depth, 0), least, level)]
        # Steps of 6 %, so that their number hardly grows with the size; at first a quarter of a pixel.
        level = max(level + 0.25, 1.06 * level)
    return [depth > 0]
