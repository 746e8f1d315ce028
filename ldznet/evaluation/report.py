"""What a measurement leaves on disk, and how its numbers are shown: table, JSON, LaTeX.

FOLDER/parts/NAME.R-of-W.json   what process R of W has counted so far
FOLDER/NAME.json                all numbers, by category too, and what was left out
FOLDER/NAME.md  NAME.tex        the tables, with the published rows where there are some; a row for a paper
FOLDER/NAME.jpg                 the worst and the best samples
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ldznet.errors import OptionError
from ldznet.evaluation.metrics import ClipSegMetrics
from ldznet.evaluation.published import Row
from ldznet.evaluation.runner import Part, Scores

COLUMNS = (  # number, title
    ("miou", "mIoU"),
    ("fgiou", "IoU_FG"),
    ("ap", "AP"),
    ("miou_0.5", "mIoU at 0.5"),
    ("fgiou_0.5", "IoU_FG at 0.5"),
    ("empty_0.5", "absent: empty"),
)


class Store:
    """Parts of one measurement in a folder; only parts of the same measurement count.

    Raises:
        OptionError: the folder holds another measurement of that name.
    """

    def __init__(self, folder: Path, name: str, key: str, process: tuple[int, int] = (0, 1)) -> None:
        self.folder, self.name, self.key = folder / "parts", name, key
        self.path = self.folder / f"{name}.{process[0]}-of-{process[1]}.json"
        self.base = self._read(self.path) if self.path.exists() else Part()

    def save(self, part: Part) -> None:
        """Keep what this process has counted, on top of what it had before."""
        whole = Part.from_state(self.base.state_dict())
        whole.merge(part)
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps({"key": self.key, **whole.state_dict()}))
        os.replace(partial, self.path)

    def done(self) -> set[int]:
        """The blocks that some process has measured."""
        return set().union(*(self._read(path).blocks for path in self._paths()))

    def whole(self, blocks: int) -> Part:
        """All parts as one, as soon as all blocks are there."""
        while len(self.done()) < blocks:
            time.sleep(0.3)
        whole = Part()
        for path in self._paths():
            whole.merge(self._read(path))
        return whole

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob(f"{self.name}.*-of-*.json"))

    def _read(self, path: Path) -> Part:
        try:
            state = json.loads(path.read_text())
            key = state["key"]
        except (OSError, ValueError, KeyError) as why:
            raise OptionError(
                f"{path} cannot be read ({why}). Delete it, and its part is measured again."
            ) from why
        if key != self.key:
            raise OptionError(
                f"{path.parent.parent} holds a measurement of other weights, options or data. Give another "
                f"--out, or delete {path.parent}."
            )
        return Part.from_state(state)


def table(numbers: Mapping[str, Mapping[str, float]], published: Sequence[Row] = ()) -> str:
    """The measures of several datasets as a Markdown table; published rows are marked."""
    rows = ["| | samples | " + " | ".join(title for _, title in COLUMNS) + " |"]
    rows.append("|---|" + "---:|" * (len(COLUMNS) + 1))
    for name, found in numbers.items():
        cells = [f"{found[key]:.1f}" if key in found else "" for key, _ in COLUMNS]
        rows.append(f"| {name} | {found.get('samples', 0):.0f} | " + " | ".join(cells) + " |")
    for row in published:
        cells = ["" if value is None else f"{value:.1f}" for value in row[1:]]
        rows.append(f"| {row.name} (published) | | " + " | ".join([*cells, *[""] * (len(COLUMNS) - 3)]) + " |")
    return "\n".join(rows)


def breakdown(scores: Scores, most: int = 40) -> str:
    """The measures of parts of a dataset as a Markdown table: of each kind of part its largest.

    Parts are those of the phrases' names, attributes and relations, and PhraseCut's subsets by size, number and
    form of the phrase; the JSON holds all of them.
    """
    kinds: dict[str, list[tuple[str, ClipSegMetrics]]] = {}
    for key, part in scores.categories.items():
        kind, _, value = key.partition(": ")
        kinds.setdefault(kind, []).append((value, part))
    rows = ["| | samples | mIoU | IoU_FG | AP |", "|---|---:|---:|---:|---:|"]
    for kind, parts in sorted(kinds.items()):
        for value, part in sorted(parts, key=lambda one: (-len(one[1]), one[0]))[:most]:
            found = part.result()
            numbers = (found.miou.best, found.fgiou.best, found.ap)
            cells = " | ".join(f"{100 * number:.1f}" for number in numbers)
            rows.append(f"| {kind}: {_cell(value)} | {found.samples} | {cells} |")
        if len(parts) > most:
            rows.append(f"| {kind}: {len(parts) - most} more, in the JSON | | | | |")
    return "\n".join(rows)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def latex_row(name: str, numbers: Mapping[str, float]) -> str:
    """mIoU, IoU_FG and AP at their best, as a row of a paper's table."""
    cells = [f"{numbers[key]:.1f}" if key in numbers else "--" for key in ("miou", "fgiou", "ap")]
    safe = "".join(f"\\{letter}" if letter in "&%$#_{}" else letter for letter in name)
    return " & ".join([safe, *cells]) + r" \\"


def write_report(
    folder: Path, name: str, scores: Scores, record: Mapping[str, Any], published: Sequence[Row] = ()
) -> None:
    """Write NAME.json, NAME.md and NAME.tex."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = scores.numbers()
    report = {
        "record": dict(record),
        "numbers": numbers,
        "categories": {
            key: {"samples": len(part), **part.result().summary()}
            for key, part in sorted(scores.categories.items())
        },
        "report": scores.report.state_dict(),
    }
    (folder / f"{name}.json").write_text(json.dumps(report, indent=2, default=str))
    tables = [table({name: numbers}, published), *([breakdown(scores)] if scores.categories else [])]
    (folder / f"{name}.md").write_text("\n\n".join(tables) + "\n")
    (folder / f"{name}.tex").write_text(latex_row(str(record.get("method", name)), numbers) + "\n")
