"""Suggest thresholds: those at which a probability map itself shows what belongs together.

Plain numpy: nothing here knows of prompts, models, files or the UI.

    probability  (H, W)  float in [0, 1]

A good threshold lies where moving it changes little: between the pixels that are surely the thing and the rest.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldznet.masks.checks import as_probability

LOWEST, HIGHEST = 5, 95  # in hundredths, the steps of the panel's slider
WINDOW = 5  # hundredths on either side within which the area should change little
APART = 1.25  # areas of two candidates differ by this factor at least
STEP = 0.2  # and their thresholds by this part of the range that leaves something
LARGEST = 0.95  # part of the image; a larger mask selects everything
_NAMES = ((), ("middle",), ("tight", "loose"), ("tight", "middle", "loose"))


class Candidate(NamedTuple):
    """A suggested mask: where the probability reaches `threshold`."""

    name: str  # tight, middle or loose
    threshold: float
    area: int  # pixels


def find_candidates(probability: NDArray[Any]) -> list[Candidate]:
    """Return at most three, the tightest first; none if the probability reaches 0.05 nowhere or almost everywhere.

    Of the thresholds 0.05, 0.06 ... 0.95 the first candidate is the one around which the area changes least: the
    quotient of the area at 0.05 below and that at 0.05 above is smallest; of equals, it is the middle of the
    longest run. The second is found in the same way among those that differ: their area is larger than the first's
    by a quarter at least, or the first's by a quarter larger than theirs, and the thresholds lie apart by a fifth
    of the way from the lowest to the highest one that leaves something. The third differs from both so. A map
    of two values has one candidate.
    """
    areas = _areas(as_probability(probability))
    # The quotient as a logarithm, from the level WINDOW on; 1 where nothing is left, so that it stays finite.
    changes = np.log(np.maximum(areas[: -2 * WINDOW], 1) / np.maximum(areas[2 * WINDOW :], 1))
    levels = np.arange(LOWEST, HIGHEST + 1)
    # Rounded, so that levels with the same areas count as equal whatever the logarithm's last digits are.
    changes, sizes = np.round(changes[levels - WINDOW], 9), areas[levels]
    free = (sizes > 0) & (sizes <= LARGEST * probability.size)
    step = STEP * np.ptp(levels[free]) if free.any() else 0
    picks: list[int] = []
    while free.any() and len(picks) < 3:
        best = _middle(free & (changes == changes[free].min()))
        picks.append(int(levels[best]))
        free &= np.maximum(sizes / sizes[best], sizes[best] / np.maximum(sizes, 1)) >= APART
        free &= abs(levels - levels[best]) >= step
    picks.sort(reverse=True)
    names = _NAMES[len(picks)]
    return [Candidate(name, level / 100, int(areas[level])) for name, level in zip(names, picks, strict=True)]


def _areas(probability: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return how many pixels reach 0, 0.01 ... 1; at 0, how many are above it."""
    levels = (np.arange(101) / 100).astype(np.float32)  # rounded as `threshold` rounds them
    levels[0] = np.nextafter(np.float32(0), np.float32(1))
    # One count over all pixels serves every level: a pixel that reaches n levels reaches the n lowest ones.
    level_counts = np.searchsorted(levels, probability.ravel(), side="right")
    counts = np.bincount(level_counts, minlength=102)
    return np.cumsum(counts[::-1])[::-1][1:]


def _middle(among: NDArray[np.bool_]) -> int:
    """Return the middle of the longest run of True; of equally long runs, that of the first."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], among, [0]])))
    starts, ends = edges[::2], edges[1::2]
    longest = int((ends - starts).argmax())
    return int(starts[longest] + ends[longest] - 1) // 2
