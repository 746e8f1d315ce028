"""A second look: which parts of an image are worth one, and how what it finds is laid over the first.

Plain arrays: nothing here knows of prompts, models or files.

    coarse  (h, w)    float32 in [0, 1], what was found in the whole image, at the network's size
    tiles   (2h, 2w)  what was found in overlapping tiles of half its sides, as logits
    fine    (k, l)    the same as coarse, of a box alone, which the network then sees in more detail
    box     xyxy      in pixels of the image

Where things are is searched for in tiles if the image is much larger than what the network sees, since small
things are a few of its pixels; then boxes are laid around what stands out. Neither depends on a threshold that
the user chooses later.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ldznet.images.tensors import to_image_size
from ldznet.masks.checks import SoftMask

Box = tuple[int, int, int, int]

ENLARGED = 1.5  # an image with so many times the network's side, by its area, is looked at in tiles
TILES = 3  # along each side; each is half of it, so that they overlap by half
TILE = 0.25  # a tile's share of the image
PARTS = 3  # boxes of a prompt at most
LEVEL = 0.5  # what stands out: half as probable as the best, but not more than this
FAINT = 0.05  # where nothing reaches this, there is nothing to look at
CONTEXT = 0.5  # room around a part on each side, in its longer sides
SLIGHT = 0.03  # a part with less than this of the largest one's probability is left as it is
GAIN = 0.6  # a box with more than this of what was seen at once shows hardly more than that did
BORDER = 0.125  # of a box's sides, where the two looks fade into each other
_SURE = 1e-4  # no look is surer than this, whatever it says
_COUNTED = 256  # pixels along a side at most that the level of a map is found with


def most_passes() -> int:
    """Passes that a prompt takes at most with a second look, where it takes one without."""
    return 1 + TILES**2 + PARTS


@dataclass(frozen=True)
class RefinedPatch:
    """What takes the place of the coarse map inside a box."""

    box: Box
    probability: SoftMask  # (k, l), at the network's size


def find_boxes(coarse: SoftMask, size: tuple[int, int], side: int, seen: float = 1.0) -> list[Box]:
    """Boxes of an image of `size` (H, W) for a network that sees `side` x `side` pixels; the best first.

    One around each connected part that stands out, with room around it; boxes that overlap become one. None is
    smaller than half the network's side, since what is enlarged further shows nothing more, nor nearly as large as
    what the network has `seen` at once: the whole image, or that share of it.
    """
    highest = float(coarse.max())
    if highest < FAINT:
        return []
    level = min(LEVEL, highest / 2)
    count, labels, stats, _ = cv2.connectedComponentsWithStats((coarse >= level).astype(np.uint8), connectivity=8)
    weights = np.bincount(labels.ravel(), coarse.ravel(), minlength=count)
    order = [int(n) for n in np.argsort(-weights[1:], kind="stable") + 1]
    scale = (size[1] / coarse.shape[1], size[0] / coarse.shape[0])
    boxes: list[Box] = []
    for number in order[:PARTS]:
        if weights[number] >= SLIGHT * weights[order[0]]:
            left, top, width, height = (int(n) for n in stats[number][:4])
            part = (left * scale[0], top * scale[1], (left + width) * scale[0], (top + height) * scale[1])
            boxes = _joined([*boxes, _with_room(part, size, side / 2)])
    return [box for box in boxes if _area(box) <= GAIN * seen * size[0] * size[1]]


def _with_room(part: tuple[float, float, float, float], size: tuple[int, int], least: float) -> Box:
    """The part with room around it, at least so large, moved into the image."""
    longer = max(part[2] - part[0], part[3] - part[1])
    spans = []
    for start, stop, limit in ((part[0], part[2], size[1]), (part[1], part[3], size[0])):
        length = min(limit, math.ceil(max(stop - start + 2 * CONTEXT * longer, least)))
        first = min(max(0, round((start + stop - length) / 2)), limit - length)
        spans.append((first, first + length))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def _joined(boxes: list[Box]) -> list[Box]:
    """Boxes that overlap become the one around both, until none do."""
    for index, one in enumerate(boxes):
        for other in boxes[index + 1 :]:
            if max(one[0], other[0]) < min(one[2], other[2]) and max(one[1], other[1]) < min(one[3], other[3]):
                around = (*map(min, one[:2], other[:2]), *map(max, one[2:], other[2:]))
                rest = [box for box in boxes if box not in (one, other)]
                return _joined([around, *rest])  # type: ignore[list-item]
    return boxes


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def find_tiles(size: tuple[int, int], side: int) -> list[Box]:
    """Tiles of an image of `size` (H, W) for a network that sees `side` x `side` pixels, row by row.

    None where it is not much larger than that: the whole image shows nearly as much then.
    """
    if size[0] * size[1] < (ENLARGED * side) ** 2:
        return []
    rows, columns = (_halves(length) for length in size)
    return [(left, top, right, bottom) for top, bottom in rows for left, right in columns]


def _halves(length: int) -> list[tuple[int, int]]:
    half = (length + 1) // 2
    starts = [number * (length - half) // (TILES - 1) for number in range(TILES)]
    return [(start, start + half) for start in starts]


def add_tile(tiles: NDArray[np.float32], number: int, fine: SoftMask) -> None:
    """Add what was found in a tile to (2h, 2w), which is changed; the weights of all add up to 1 everywhere."""
    shape = (tiles.shape[0] // 2, tiles.shape[1] // 2)
    row, column = divmod(number, TILES)
    top, left = (place * length // (TILES - 1) for place, length in zip((row, column), shape, strict=True))
    weights = np.outer(_hat(shape[0], row), _hat(shape[1], column))
    logits = _logit(to_image_size(fine, shape))
    tiles[top : top + shape[0], left : left + shape[1]] += (weights * logits).astype(np.float32)


def _hat(length: int, place: int) -> NDArray[np.float64]:
    """Rising to 1 in the middle of a tile and falling again, except towards the image's own border."""
    at = 2 * (np.arange(length) + 0.5) / length
    weight = np.ones(length)
    if place > 0:
        weight = np.minimum(weight, at)
    if place < TILES - 1:
        weight = np.minimum(weight, at[::-1])
    return weight


def join(coarse: SoftMask, tiles: NDArray[np.float32]) -> SoftMask:
    """What the whole image and its tiles together say: (h, w) and logits (2h, 2w) -> (2h, 2w)."""
    return _agreed(to_image_size(coarse, (tiles.shape[0], tiles.shape[1])), tiles)


def merge(coarse: SoftMask, size: tuple[int, int], box: Box, fine: SoftMask) -> SoftMask:
    """What both looks together say of a box of an image of `size` -> (k, l); no less probable than before.

    Of a thing that fills a box the network is less sure than of one in a scene.
    """
    first = _inside(coarse, size, box, (fine.shape[0], fine.shape[1]))
    return _agreed(first, _logit(fine), least=float(first.mean()))


def _agreed(first: SoftMask, second: NDArray[np.floating], least: float = 0.0) -> SoftMask:
    """A first look and the logits of a second -> probabilities, at `least` so much on average.

    The logits are added, those of the second with twice the weight: it sees shapes better, the first what else
    there is. Then all are shifted until their mean is between those of the two looks (the geometric one): how
    probable a thing is depends on the whole scene, but a small one is found for sure only when it is seen large.
    So about the same probability lies on fewer pixels, with sharper edges.
    """
    both = second + _logit(first) / 2
    step = math.ceil(max(both.shape) / _COUNTED)
    some = both[::step, ::step]
    wanted = max(least, math.sqrt(float(first.mean()) * float(_sigmoid(second).mean())))
    low, high = -20.0, 20.0
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if _sigmoid(some + middle).mean() < wanted else (low, middle)
    return _sigmoid(both + (low + high) / 2).astype(np.float32)


def _inside(coarse: SoftMask, size: tuple[int, int], box: Box, shape: tuple[int, int]) -> SoftMask:
    """What of the coarse map lies in a box, on a grid of the shape (k, l)."""
    rows, columns = coarse.shape
    across, down = columns / size[1], rows / size[0]  # pixels of the map in one of the image
    step = ((box[2] - box[0]) / shape[1] * across, (box[3] - box[1]) / shape[0] * down)
    start = (box[0] * across + step[0] / 2 - 0.5, box[1] * down + step[1] / 2 - 0.5)
    way = np.array([[step[0], 0, start[0]], [0, step[1], start[1]]])
    how = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    found = cv2.warpAffine(coarse, way, (shape[1], shape[0]), flags=how, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(np.clip(found, 0, 1), np.float32)


def _logit(probability: SoftMask) -> NDArray[np.float64]:
    kept = np.clip(probability.astype(np.float64), _SURE, 1 - _SURE)
    return np.log(kept / (1 - kept))


def _sigmoid(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-logits))


def lay_over(whole: SoftMask, patches: Iterable[RefinedPatch]) -> SoftMask:
    """Put patches into a map of the image's size (H, W), which is changed; towards their borders they fade."""
    for patch in patches:
        left, top, right, bottom = patch.box
        part = whole[top:bottom, left:right]
        fine = to_image_size(patch.probability, (bottom - top, right - left))
        across = _fade(right - left, left > 0, right < whole.shape[1])
        down = _fade(bottom - top, top > 0, bottom < whole.shape[0])
        fine -= part
        fine *= down[:, None]
        fine *= across
        part += fine
    return whole


def _fade(length: int, at_start: bool, at_stop: bool) -> NDArray[np.float32]:
    """Rising from 0 to 1 and falling again, except at the image's own border."""
    place, width = np.arange(length) + 0.5, max(1.0, BORDER * length)
    weight = np.ones(length)
    if at_start:
        weight = np.minimum(weight, place / width)
    if at_stop:
        weight = np.minimum(weight, place[::-1] / width)
    return weight.astype(np.float32)
