"""What had to be left out of a dataset: how many samples, why, and which.

What is kept does not grow with the dataset. Nothing here knows of images or files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Self  # Python 3.11

    from ldznet.research.datasets.sample import Sample

MOST_NAMES = 1000  # of each reason in a report


@dataclass(frozen=True)
class Skipped:
    """In the place of a sample that cannot be read."""

    name: str  # the sample's key, or what is known of it
    reason: str  # a few words to count by, such as "missing image"
    text: str  # what happened, why, what to do


class Report:
    """What was left out, by reason, and what was kept with faults: how many, and the names of the first of them.

    Of each kind no more than `most` names are kept, the first in the order of the alphabet. As long as there are
    no more than that, a name counts once however often it is met; of those beyond each meeting counts. Reports of
    several processes, added in any order, make the same one.
    """

    def __init__(self, most: int = MOST_NAMES) -> None:
        self.most = most
        self.notes = set[str]()  # on the dataset as a whole
        self._skipped: dict[str, dict[str, tuple[str, ...]]] = {}
        self._kept: dict[str, tuple[str, ...]] = {}  # key -> faults
        self._beyond = Counter[str]()  # reason, "" for what was kept -> how many have no name here

    @property
    def skipped(self) -> dict[str, list[str]]:
        """Reason -> names, sorted."""
        return {reason: sorted(names) for reason, names in sorted(self._skipped.items())}

    @property
    def kept(self) -> dict[str, tuple[str, ...]]:
        """Key of a sample that was kept -> its faults."""
        return dict(sorted(self._kept.items()))

    @property
    def counts(self) -> dict[str, int]:
        """Reason -> how many were left out."""
        return {reason: len(names) + self._beyond[reason] for reason, names in sorted(self._skipped.items())}

    @property
    def faulty(self) -> int:
        """How many were kept though they have faults."""
        return len(self._kept) + self._beyond[""]

    def add(self, found: Sample | Skipped) -> None:
        """Note what a reader gave; a sample without faults leaves no trace."""
        if isinstance(found, Skipped):
            self._note(found.reason, found.name, ())
        elif found.faults:
            self._note("", found.key, found.faults)

    def _note(self, reason: str, name: str, faults: tuple[str, ...]) -> None:
        names = self._skipped.setdefault(reason, {}) if reason else self._kept
        names[name] = faults
        if len(names) > self.most:
            del names[max(names)]
            self._beyond[reason] += 1

    def merge(self, other: Report) -> None:
        """Add all that another report holds."""
        for reason, names in {**other._skipped, "": other._kept}.items():
            for name, faults in names.items():
                self._note(reason, name, faults)
        self._beyond.update(other._beyond)
        self.notes |= other.notes

    def state_dict(self) -> dict[str, Any]:
        """All of it, fit for JSON."""
        return {
            "counts": self.counts,
            "skipped": self.skipped,
            "faulty": self.faulty,
            "kept": {key: list(faults) for key, faults in self.kept.items()},
            "notes": sorted(self.notes),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], most: int = MOST_NAMES) -> Self:
        """The report of which `state_dict` gave this; those of older versions have no counts and no notes."""
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
            lines.append(f"{self.faulty} kept, parts of their outlines without meaning: {few}")
        return "\n".join(lines) or "nothing was skipped"


def _few(names: Sequence[str], count: int) -> str:
    shown = names[:5]
    return ", ".join(shown) + (f" and {count - len(shown)} more" if count > len(shown) else "")
