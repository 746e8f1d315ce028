"""A second look: which parts of an image are worth one, and how what it finds is laid over the first.

Plain arrays: nothing here knows of prompts, models or files.

    coarse  (h, w)  float32 in [0, 1], what was found in the whole image, at the network's size
    fine    (k, l)  the same of a box alone, which the network then sees in more detail
    box     xyxy    in pixels of the image

Boxes do not depend on a threshold that the user chooses later: they lie around what stands out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ldznet.image import to_image_size
from ldznet.mask import SoftMask

Box = tuple[int, int, int, int]

PARTS = 3  # boxes of a prompt at most
LEVEL = 0.5  # what stands out: half as probable as the best, but not more than this
FAINT = 0.1  # where nothing reaches this, there is nothing to look at
CONTEXT = 0.5  # room around a part on each side, in its longer sides
SLIGHT = 0.1  # a part with less than this of the largest one's probability is left as it is
GAIN = 0.6  # a box with more than this of the image shows hardly more than the image did
BORDER = 0.125  # of a box's sides, where the two looks fade into each other
_SURE = 1e-4  # no look is surer than this, whatever it says


@dataclass(frozen=True)
class Patch:
    """What takes the place of the coarse map inside a box."""

    box: Box
    probability: SoftMask  # (k, l), at the network's size


def find_boxes(coarse: SoftMask, size: tuple[int, int], side: int) -> list[Box]:
    """Boxes of an image of `size` (H, W) for a network that sees `side` x `side` pixels; the best first.

    One around each connected part that stands out, with room around it; boxes that overlap become one. None is
    smaller than half the network's side, since what is enlarged further shows nothing more.
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
    return [box for box in boxes if _area(box) <= GAIN * size[0] * size[1]]


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


def merge(coarse: SoftMask, size: tuple[int, int], box: Box, fine: SoftMask) -> SoftMask:
    """What both looks together say of a box of an image of `size` -> (k, l).

    Their logits are added, those of the second look with twice the weight: it sees shapes better, the first what
    else there is. Then all are shifted until the mean is that of the first look, since how probable a thing is
    depends on the whole scene; so the same probability lies on fewer pixels, with sharper edges.
    """
    first = _inside(coarse, size, box, (fine.shape[0], fine.shape[1]))
    both = _logit(fine) + _logit(first) / 2
    low, high, wanted = -20.0, 20.0, float(first.mean())
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if _sigmoid(both + middle).mean() < wanted else (low, middle)
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


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-logits))


def lay_over(whole: SoftMask, patches: Iterable[Patch]) -> SoftMask:
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
