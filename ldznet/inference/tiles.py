"""Find the parts of an image that are worth a second look, and join its maps with those of the first look.

Plain arrays: nothing here knows of prompts, models or files.

    coarse  (h, w)    float32 in [0, 1], the map of the whole image, at the network's size
    tiles   (2h, 2w)  the maps of overlapping tiles of half its sides, as logits
    fine    (k, l)    the map of a box alone, which the network sees in more detail; float32 in [0, 1]
    box     xyxy      in pixels of the image

If the image is much larger than the input of the network, tiles are searched, since small things are a few pixels
of that input; then boxes are laid around the parts that stand out. Neither depends on a threshold that the user
chooses later.
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

ENLARGED = 1.5  # an image of so many times the network's side, by its area, is searched in tiles
TILES = 3  # along each side; each is half of it, so that they overlap by half
TILE = 0.25  # a tile's share of the image
PARTS = 3  # boxes of a prompt at most
LEVEL = 0.5  # a part stands out from half the best probability on, but from this at most
FAINT = 0.05  # a map that reaches this nowhere is not looked at again
CONTEXT = 0.5  # room around a part on each side, in its longer sides
SLIGHT = 0.03  # a part with less than this share of the largest one's probability is left as it is
GAIN = 0.6  # a box with more than this share of the area of the first look shows hardly more
BORDER = 0.125  # part of a box's sides in which the two looks fade into each other
_SURE = 1e-4  # probabilities are clipped to this distance from 0 and 1, so that logits stay finite
_MOST_SAMPLES = 256  # pixels along a side, at most, from which the level of a map is computed


@dataclass(frozen=True)
class RefinedPatch:
    """The map that replaces the coarse one inside a box."""

    box: Box
    probability: SoftMask  # (k, l), at the network's size


def find_boxes(coarse: SoftMask, size: tuple[int, int], side: int, share: float = 1.0) -> list[Box]:
    """Return boxes of an image of `size` (H, W) for a network that sees `side` x `side` pixels; the best first.

    Each connected part that stands out has a box, with room around it; boxes that overlap become one. No box is
    smaller than half the network's side, since enlarging further shows nothing more, and none is nearly as large
    as the part of the image that the network saw at once: `share` of it.
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
            boxes = _merge_boxes([*boxes, _with_room(part, size, side / 2)])
    return [box for box in boxes if _area(box) <= GAIN * share * size[0] * size[1]]


def _with_room(part: tuple[float, float, float, float], size: tuple[int, int], least: float) -> Box:
    """Return the part with room around it, at least `least` long, moved into the image."""
    longer = max(part[2] - part[0], part[3] - part[1])
    spans = []
    for start, stop, limit in ((part[0], part[2], size[1]), (part[1], part[3], size[0])):
        length = min(limit, math.ceil(max(stop - start + 2 * CONTEXT * longer, least)))
        first = min(max(0, round((start + stop - length) / 2)), limit - length)
        spans.append((first, first + length))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def _merge_boxes(boxes: list[Box]) -> list[Box]:
    """Replace boxes that overlap by the one around both, until none do."""
    for index, one in enumerate(boxes):
        for other in boxes[index + 1 :]:
            if max(one[0], other[0]) < min(one[2], other[2]) and max(one[1], other[1]) < min(one[3], other[3]):
                around = (*map(min, one[:2], other[:2]), *map(max, one[2:], other[2:]))
                rest = [box for box in boxes if box not in (one, other)]
                return _merge_boxes([around, *rest])  # type: ignore[list-item]
    return boxes


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def find_tiles(size: tuple[int, int], side: int) -> list[Box]:
    """Return tiles of an image of `size` (H, W) for a network that sees `side` x `side` pixels, row by row.

    An image that is not much larger has no tiles: the whole image shows nearly as much.
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
    """Add the map of a tile to `tiles` (2h, 2w), in place; the weights of all tiles add up to 1 everywhere."""
    shape = (tiles.shape[0] // 2, tiles.shape[1] // 2)
    row, column = divmod(number, TILES)
    top, left = (place * length // (TILES - 1) for place, length in zip((row, column), shape, strict=True))
    weights = np.outer(_hat(shape[0], row), _hat(shape[1], column))
    logits = _logit(to_image_size(fine, shape))
    tiles[top : top + shape[0], left : left + shape[1]] += (weights * logits).astype(np.float32)


def _hat(length: int, place: int) -> NDArray[np.float64]:
    """Return weights that rise to 1 in the middle of a tile and fall again, except towards the image's border."""
    at = 2 * (np.arange(length) + 0.5) / length
    weight = np.ones(length)
    if place > 0:
        weight = np.minimum(weight, at)
    if place < TILES - 1:
        weight = np.minimum(weight, at[::-1])
    return weight


def join(coarse: SoftMask, tiles: NDArray[np.float32]) -> SoftMask:
    """Join the map of the whole image (h, w) with the logits of its tiles (2h, 2w) -> (2h, 2w)."""
    return _join_looks(to_image_size(coarse, (tiles.shape[0], tiles.shape[1])), tiles)


def merge(coarse: SoftMask, size: tuple[int, int], box: Box, fine: SoftMask) -> SoftMask:
    """Join both looks at a box of an image of `size` -> (k, l), no less probable than the first on average.

    The network is less sure of a thing that fills a box than of one in a scene.
    """
    first = _inside(coarse, size, box, (fine.shape[0], fine.shape[1]))
    return _join_looks(first, _logit(fine), least=float(first.mean()))


def _join_looks(first: SoftMask, second: NDArray[np.floating], least: float = 0.0) -> SoftMask:
    """Join a first look with the logits of a second -> probabilities, on average no lower than `least`.

    The logits are added, those of the second with twice the weight: it sees shapes better, the first the rest of
    the scene. Then all are shifted until their mean is the geometric mean of the two looks: how probable a thing
    is depends on the whole scene, but a small thing is found for sure only when it is enlarged. So about the same
    probability lies on fewer pixels, with sharper edges.
    """
    both = second + _logit(first) / 2
    step = math.ceil(max(both.shape) / _MOST_SAMPLES)
    some = both[::step, ::step]
    target = max(least, math.sqrt(float(first.mean()) * float(_sigmoid(second).mean())))
    low, high = -20.0, 20.0  # of the shift; halved 24 times, its error is 2e-6
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if _sigmoid(some + middle).mean() < target else (low, middle)
    return _sigmoid(both + (low + high) / 2).astype(np.float32)


def _inside(coarse: SoftMask, size: tuple[int, int], box: Box, shape: tuple[int, int]) -> SoftMask:
    """Return the part of the coarse map in a box, on a grid of the shape (k, l)."""
    rows, columns = coarse.shape
    across, down = columns / size[1], rows / size[0]  # pixels of the map in one of the image
    step = ((box[2] - box[0]) / shape[1] * across, (box[3] - box[1]) / shape[0] * down)
    start = (box[0] * across + step[0] / 2 - 0.5, box[1] * down + step[1] / 2 - 0.5)
    matrix = np.array([[step[0], 0, start[0]], [0, step[1], start[1]]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    part = cv2.warpAffine(coarse, matrix, (shape[1], shape[0]), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(np.clip(part, 0, 1), np.float32)


def _logit(probability: SoftMask) -> NDArray[np.float64]:
    clipped = np.clip(probability.astype(np.float64), _SURE, 1 - _SURE)
    return np.log(clipped / (1 - clipped))


def _sigmoid(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-logits))


def lay_over(whole: SoftMask, patches: Iterable[RefinedPatch]) -> SoftMask:
    """Put patches into a map of the image's size (H, W), in place, faded towards their borders."""
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
    """Return weights that rise from 0 to 1 and fall again, except at the image's border."""
    place, width = np.arange(length) + 0.5, max(1.0, BORDER * length)
    weight = np.ones(length)
    if at_start:
        weight = np.minimum(weight, place / width)
    if at_stop:
        weight = np.minimum(weight, place[::-1] / width)
    return weight.astype(np.float32)
