"""Count pixels at each of 49 thresholds, and compute the curve of a measure over them.

    probability  (H, W)  float in [0, 1]; compared in float32
    target       (H, W)  bool; True is the object
    valid        (H, W)  bool; False is not counted

A pixel is positive where p > t. The caller chooses the grid of the arrays: CLIPSeg stretches both to a square
(352 pixels, LD-ZNet 384).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldznet.errors import OptionError, ShapeError
from ldznet.masks.checks import as_mask, as_probability

THRESHOLDS: tuple[float, ...] = tuple(np.linspace(0, 1, 51)[1:-1].tolist())  # 0.02, 0.04 ... 0.98
BINS = len(THRESHOLDS) + 1

_LEVELS = np.array(THRESHOLDS, dtype=np.float32)  # torch compares a float32 tensor with a number in float32


@dataclass(frozen=True)
class Curve:
    """One measure at each of the 49 thresholds."""

    values: tuple[float, ...]  # as long as THRESHOLDS, in its order

    @property
    def best(self) -> float:
        """Return the largest value."""
        return max(self.values)

    @property
    def best_threshold(self) -> float:
        """Return the lowest threshold with the largest value, as numpy's argmax does."""
        return THRESHOLDS[self.values.index(self.best)]

    def at(self, threshold: float) -> float:
        """Return the value at one of the 49 thresholds, for example 0.5."""
        index = round(threshold * BINS) - 1 if math.isfinite(threshold) else -1
        if not 0 <= index < len(THRESHOLDS) or abs(THRESHOLDS[index] - threshold) > 1e-9:
            raise OptionError(
                f"The threshold is {threshold}, but the curve holds only 0.02, 0.04 ... 0.98, because CLIPSeg's "
                "protocol measures at these: give one of them."
            )
        return self.values[index]


class Confusion(NamedTuple):
    """Numbers of pixels at each threshold."""

    tp: tuple[int, ...]
    fp: tuple[int, ...]
    fn: tuple[int, ...]
    tn: tuple[int, ...]


def histogram(probability: NDArray[Any], target: NDArray[Any], valid: NDArray[Any] | None = None) -> list[int]:
    """Return 2 * 50 counts: for background, then foreground, the pixels above exactly k = 0 ... 49 thresholds."""
    predicted = as_probability(probability)
    expected = as_mask(target, "target")
    require_same_size("target", expected, predicted.shape)
    if valid is not None:
        valid_pixels = as_mask(valid, "valid mask")
        require_same_size("valid mask", valid_pixels, predicted.shape)
        predicted, expected = predicted[valid_pixels], expected[valid_pixels]
    level_counts = np.searchsorted(_LEVELS, predicted.ravel(), side="left")  # number of thresholds t < p
    level_counts[expected.ravel()] += BINS
    counts: list[int] = np.bincount(level_counts, minlength=2 * BINS).tolist()
    return counts


def confusion(pixels: Sequence[int]) -> Confusion:
    """Return the four numbers of pixels at each threshold, from a histogram."""
    counts = np.array(pixels, np.int64).reshape(2, BINS)
    positive = counts[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]  # (2, 49): above threshold j are all k > j
    negative = counts.sum(axis=1, keepdims=True) - positive
    (tn, fn), (fp, tp) = negative.tolist(), positive.tolist()
    return Confusion(tuple(tp), tuple(fp), tuple(fn), tuple(tn))


def ious_of(counts: Confusion) -> tuple[float, ...]:
    """Return TP / (1 + TP + FP + FN) at each threshold; the 1 is part of CLIPSeg's protocol."""
    return tuple(tp / (1 + tp + fp + fn) for tp, fp, fn, _ in zip(*counts, strict=True))


def require_same_size(name: str, array: NDArray[Any], size: tuple[int, ...]) -> None:
    """Raise ShapeError unless an array has the size (height, width)."""
    if array.shape != size:
        raise ShapeError(
            f"The {name} has the shape {array.shape}, but the array that it is compared with has {size} "
            "(height, width). Both must have the same size: resize one of them, or check that they belong "
            "together."
        )
