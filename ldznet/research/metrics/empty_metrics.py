"""Measure how often a phrase for an absent object selects nothing: our measure, in addition to the published ones.

Nothing here knows of models, files or datasets; shapes are those of counts.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldznet.errors import OptionError
from ldznet.masks.checks import as_probability
from ldznet.options import MaskOptions
from ldznet.research.metrics.accumulator import Accumulator, MetricError
from ldznet.research.metrics.counts import THRESHOLDS, Curve, confusion, histogram


@dataclass(frozen=True)
class EmptyResult:
    """How often a phrase for an absent object selects nothing; our own measure (no published source)."""

    samples: int  # at least 1
    area: int  # pixels; a mask with fewer is empty
    rate: Curve  # [0, 1]: share of the samples with an empty mask


class EmptyMetrics(Accumulator):
    """Counts how often phrases for absent objects select nothing: `update` with each, then `result`."""

    kind = "empty"

    def __init__(self, area: int = 1, named: bool = True) -> None:
        super().__init__({"area": _checked_area(area)}, named, empty=len(THRESHOLDS))

    def update(self, probability: NDArray[Any], *, sample: str) -> None:
        """Count one phrase for an absent object; its mask is empty if fewer than `area` pixels have p > t."""
        self._refuse_again([sample])
        checked = as_probability(probability)
        selected = confusion(histogram(checked, np.ones(checked.shape, bool))).tp
        self._add("empty", [int(pixels < self._settings["area"]) for pixels in selected])
        self._note(sample)

    def result(self) -> EmptyResult:
        """Return the rate of all phrases so far."""
        self._refuse_nothing(len(self))
        rate = Curve(tuple(n / len(self) for n in self._sums["empty"]))
        return EmptyResult(samples=len(self), area=int(self._settings["area"]), rate=rate)


def empty_rate(probabilities: Iterable[NDArray[Any]], threshold: float = 0.5, area: int = 1) -> float:
    """Return the share of maps (H, W) with fewer than `area` pixels of p > threshold, at one threshold."""
    MaskOptions(threshold=threshold)
    _checked_area(area)
    level = np.float32(threshold)
    empty = [np.count_nonzero(as_probability(map_) > level) < area for map_ in probabilities]
    if not empty:
        raise MetricError("The empty rate needs at least one map, but none was given.")
    return sum(empty) / len(empty)


def _checked_area(area: int) -> int:
    """Return the area, or raise OptionError if it is below 1."""
    if area < 1:
        raise OptionError(
            f"area is {area}, but a mask with fewer pixels is empty, so it must be at least 1 (default 1)."
        )
    return area
