"""A report of what was left out of a dataset: how many samples, why, and which.

Its size does not grow with the dataset. Nothing here knows of images or files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Self  # Python 3.11

    from ldznet.research.datasets.sample import Sample

MOST_NAMES = 1000  # names per reason in a report


@dataclass(frozen=True)
class Skipped:
    """Takes the place of a sample that cannot be read."""

    name: str  # the sample's key, or its file and position
    reason: str  # short text to count by, such as "missing image"
    text: str  # what happened, why, what to do


class Report:
    """Counts samples that were left out, by reason, and samples that were used with faults; names some of them.

    At most `most` names per reason are stored, the first in alphabetical order. Up to that number a name counts
    once, however often it is added; beyond it every call counts. Reports of several processes give the same sum
    in any order.
    """

    def __init__(self, most: int = MOST_NAMES) -> None:
        self.most = most
        self.notes = set[str]()  # about the dataset as a whole
        self._skipped: dict[str, dict[str, tuple[str, ...]]] = {}
        self._kept: dict[str, tuple[str, ...]] = {}  # key -> faults
        self._beyond = Counter[str]()  # reason, "" for used samples -> how many are not named

    @property
    def skipped(self) -> dict[str, list[str]]:
        """Return reason -> names, sorted."""
        return {reason: sorted(names) for reason, names in sorted(self._skipped.items())}

    @property
    def kept(self) -> dict[str, tuple[str, ...]]:
        """Return key -> faults of the samples that were used in spite of faults."""
        return dict(sorted(self._kept.items()))

    @property
    def counts(self) -> dict[str, int]:
        """Return reason -> how many were left out."""
        return {reason: len(names) + self._beyond[reason] for reason, names in sorted(self._skipped.items())}

    @property
    def faulty(self) -> int:
        """Return how many samples were used in spite of faults."""
        return len(self._kept) + self._beyond[""]

    def add(self, item: Sample | Skipped) -> None:
        """Count what a reader returned; a sample without faults changes nothing."""
        if isinstance(item, Skipped):
            self._note(item.reason, item.name, ())
        elif item.faults:
            self._note("", item.key, item.faults)

    def _note(self, reason: str, name: str, faults: tuple[str, ...]) -> None:
        """Store a name, and drop the last one of its reason where there are too many."""
        names = self._skipped.setdefault(reason, {}) if reason else self._kept
        names[name] = faults
        if len(names) > self.most:
            del names[max(names)]
            self._beyond[reason] += 1

    def merge(self, other: Report) -> None:
        """Add the contents of another report."""
        for reason, names in {**other._skipped, "": other._kept}.items():
            for name, faults in names.items():
                self._note(reason, name, faults)
        self._beyond.update(other._beyond)
        self.notes |= other.notes

    def state_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "counts": self.counts,
            "skipped": self.skipped,
            "faulty": self.faulty,
            "kept": {key: list(faults) for key, faults in self.kept.items()},
            "notes": sorted(self.notes),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], most: int = MOST_NAMES) -> Self:
        """Read what `state_dict` returned; reports of older versions have no counts and no notes."""
        report = cls(most)
        report._skipped = {reason: dict.fromkeys(names, ()) for reason, names in state["skipped"].items()}
        report._kept = {key: tuple(faults) for key, faults in state["kept"].items()}
        counts = {**state.get("counts", {}), "": state.get("faulty", 0)}
        for reason, names in {**report._skipped, "": report._kept}.items():
            report._beyond[reason] = max(0, counts.get(reason, 0) - len(names))
        report.notes = set(state.get("notes", ()))
        return report

    def __str__(self) -> str:
        names, counts = self.skipped, self.counts
        lines = [f"{counts[reason]} skipped ({reason}): {_few(names[reason], counts[reason])}" for reason in names]
        if self._kept:
            few = _few(list(self.kept), self.faulty)
            lines.append(f"{self.faulty} used, though parts of their outlines are invalid: {few}")
        return "\n".join(lines) or "nothing was skipped"


def _few(names: Sequence[str], count: int) -> str:
    """Return the first five names, and how many more there are."""
    first = names[:5]
    return ", ".join(first) + (f" and {count - len(first)} more" if count > len(first) else "")
