"""The base of all measures: each counts one sample at a time and forgets it, and parts can be added.

The sums are whole numbers: counts, and IoUs in fixed point, which holds a float exactly. So neither the order of
the samples nor their division among processes changes a bit of the result. The size grows only with the counts of
each named class and with the names of the samples. The names show a sample that would be scored twice; with
`named=False` samples are only counted, and the caller takes care of that.

Nothing here knows of probabilities, models, files or datasets.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ldznet.errors import LdznetError

if TYPE_CHECKING:
    from typing import Self  # Python 3.11

# An IoU is 0 or at least 2**-43 (no image has more pixels), so 96 bits hold all 53 bits of its fraction.
_POINT = 96


class MetricError(LdznetError):
    """There is nothing to measure, or the same thing would be measured twice."""


class Accumulator:
    """Names of samples, each once, and sums of whole numbers, which can be added in any order."""

    kind = ""

    def __init__(self, settings: Mapping[str, float], named: bool, **lengths: int) -> None:
        # The arguments of __init__; `named` only if it is not the default, as in states of older versions.
        self._settings = {**settings, **({} if named else {"named": False})}
        self._named, self._unnamed = named, 0
        self._samples: set[str] = set()
        self._sums = {name: [0] * length for name, length in lengths.items()}

    def __len__(self) -> int:
        return len(self._samples) + self._unnamed

    def __contains__(self, sample: str) -> bool:
        return sample in self._samples

    def merge(self, other: Self) -> None:
        """Add the counts of another process, as if this one had counted them."""
        if type(other) is not type(self) or other._settings != self._settings:
            raise MetricError(
                f"A part measured as {other.kind} {other._settings} cannot be added to one measured as "
                f"{self.kind} {self._settings}, because they do not mean the same: measure all parts with the "
                "same options."
            )
        self._refuse_again(other._samples)
        self._samples |= other._samples
        self._unnamed += other._unnamed
        for name, numbers in other._sums.items():
            self._add(name, numbers)

    def state_dict(self) -> dict[str, Any]:
        """Return all counts as JSON values; some whole numbers have more than 64 bits."""
        return {
            "kind": self.kind,
            "settings": dict(self._settings),
            "samples": sorted(self._samples) if self._named else self._unnamed,
            "sums": {name: list(self._sums[name]) for name in sorted(self._sums)},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Return the metrics whose `state_dict` this is."""
        try:
            if state["kind"] != cls.kind:
                raise ValueError(f"its kind is {state['kind']!r}")
            metrics = cls(**state["settings"])
            if metrics._named:
                metrics._samples = set(state["samples"])
            else:
                metrics._unnamed = int(state["samples"])
            # Sums of classes may be additional, but none of the fixed ones may be missing.
            if missing := metrics._sums.keys() - state["sums"].keys():
                raise ValueError(f"it has no {min(missing)}")
            for name, numbers in state["sums"].items():
                if any(type(number) is not int or number < 0 for number in numbers):
                    raise ValueError(f"{name} has a number that is not a count")
                metrics._add(name, numbers)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MetricError(
                f"The saved data are not a state of {cls.kind} metrics ({type(error).__name__}: {error}). The "
                "file is damaged, or belongs to another measurement: delete it and measure again."
            ) from error
        return metrics

    def _add(self, name: str, numbers: Sequence[int]) -> None:
        """Add numbers to the sums of a name."""
        # Sums of a class begin with its first sample.
        mine = self._sums.get(name, [0] * len(numbers))
        self._sums[name] = [a + b for a, b in zip(mine, numbers, strict=True)]

    def _note(self, sample: str) -> None:
        """Count a sample, and store its name unless names are off."""
        if self._named:
            self._samples.add(sample)
        else:
            self._unnamed += 1

    def _refuse_again(self, samples: Iterable[str]) -> None:
        """Raise MetricError if one of the samples was counted before."""
        if again := self._samples.intersection(samples):
            raise MetricError(
                f"{len(again)} of the samples would be counted twice, first {min(again)!r}. Either the dataset "
                "names it twice, or two processes read it: skip samples that are `in` the metrics, and divide the "
                "dataset without padding."
            )

    def _refuse_nothing(self, count: int) -> None:
        """Raise MetricError if nothing was counted."""
        if count == 0:
            raise MetricError(
                "There is nothing to measure: 0 samples have a prediction. The dataset is empty, or every sample "
                "was skipped: see the report."
            )


def to_fixed(value: float) -> int:
    """Return an IoU in fixed point, exactly."""
    return int(math.ldexp(value, _POINT))


def mean_of(total: int, count: int) -> float:
    """Return the mean from a sum in fixed point, rounded once."""
    return total / (count << _POINT)
