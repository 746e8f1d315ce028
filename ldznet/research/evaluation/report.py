"""What a measurement leaves on disk, and how its numbers are shown: table, JSON, LaTeX.

FOLDER/parts/NAME.R-of-W.json   what process R of W has counted so far
FOLDER/parts/NAME.R-of-W.alive  written again and again while it measures
FOLDER/NAME.json                all numbers, by category too, and what was left out
FOLDER/NAME.md  NAME.tex        the tables, with the published rows where there are some; a row for a paper
FOLDER/NAME.jpg                 the worst and the best samples
"""

from __future__ import annotations

import contextlib
import glob
import json
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ldznet.errors import LaunchError, LdznetError, OptionError
from ldznet.research.evaluation.paper_tables import PublishedRow
from ldznet.research.evaluation.runner import Part, Scores

COLUMNS = (  # number, title
    ("miou", "mIoU"),
    ("fgiou", "IoU_FG"),
    ("ap", "AP"),
    ("miou_0.5", "mIoU at 0.5"),
    ("fgiou_0.5", "IoU_FG at 0.5"),
    ("empty_0.5", "absent: empty"),
)


BEAT, PATIENCE = 30.0, 600.0  # seconds: between signs of life, and without one until a process counts as lost


class MeasurementParts:
    """Parts of one measurement in a folder; only parts of the same measurement count.

    Processes of a launch meet nowhere else, so one that waits for others sees from their files that they are at
    work: every `BEAT` seconds each says so.

    Raises:
        OptionError: the folder holds another measurement of that name.
    """

    def __init__(self, folder: Path, name: str, key: str, process: tuple[int, int] = (0, 1)) -> None:
        self.folder, self.name, self.key, self.process = folder / "parts", name, key, process
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

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Say as long as this lasts that the process lives; one alone need not."""
        if self.process[1] == 1:
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        alive, end = self.path.with_suffix(".alive"), threading.Event()

        def beat() -> None:
            count = 0
            while not end.wait(BEAT if count else 0):
                count += 1
                with contextlib.suppress(OSError):  # a full disk is noticed where results are written
                    alive.write_text(str(count))

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()
            alive.unlink(missing_ok=True)

    def whole(self, blocks: int, *, patience: float = PATIENCE) -> Part:
        """All parts as one, as soon as all blocks are there.

        Raises:
            LaunchError: for so many seconds no process has given a sign of life.
        """
        seen, since = self._signs(), time.monotonic()
        while missing := set(range(blocks)) - self.done():
            time.sleep(0.3)
            if (now := self._signs()) != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > patience:
                lost = sorted({block % self.process[1] for block in missing})
                raise LaunchError(
                    f"{len(missing)} of {blocks} blocks of samples are missing, and the processes that measure "
                    f"them ({', '.join(map(str, lost))} of {self.process[1]}) gave no sign of life for "
                    f"{patience:.0f} seconds: they have ended, or never began. Look at what they said, and start "
                    "the same command again: what is measured is kept."
                )
        whole = Part()
        for path in self._paths():
            whole.merge(self._read(path))
        return whole

    def _signs(self) -> dict[str, str | int]:
        """What changes while a process works."""
        found: dict[str, str | int] = {}
        for path in self.folder.glob(f"{glob.escape(self.name)}.*"):
            with contextlib.suppress(OSError):
                found[path.name] = path.read_text() if path.suffix == ".alive" else path.stat().st_mtime_ns
        return found

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob(f"{glob.escape(self.name)}.*-of-*.json"))

    def _read(self, path: Path) -> Part:
        try:
            state = json.loads(path.read_text())
            key, part = state["key"], Part.from_state(state)
        except (OSError, ValueError, KeyError, TypeError, LdznetError) as why:
            raise OptionError(
                f"{path} cannot be read ({why}). Delete it, and its part is measured again."
            ) from why
        if key != self.key:
            raise OptionError(
                f"{path.parent.parent} holds a measurement of other weights, options or data. Give another "
                f"--out, or delete {path.parent}."
            )
        return part


def scores_table(numbers: Mapping[str, Mapping[str, float]], published: Sequence[PublishedRow] = ()) -> str:
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


PART_COLUMNS = {  # number, title
    "miou": "mIoU",
    "fgiou": "IoU_FG",
    "ap": "AP",
    "phrasecut_mean_iou": "mean IoU*",
    "phrasecut_cum_iou": "cum. IoU*",
}


def numbers_of_parts(scores: Scores) -> dict[str, dict[str, float]]:
    """The measures of each part of a dataset in percent, by both protocols.

    mIoU and IoU_FG are at the thresholds that are best for the whole: the best of each part's own would flatter
    the small ones.
    """
    if not scores.categories:
        return {}
    whole = scores.clipseg.result()
    found = {}
    for name, part in sorted(scores.categories.items()):
        clipseg, phrasecut = part.result(), scores.own_categories[name].result()
        found[name] = {
            "samples": clipseg.samples,
            "miou": 100 * clipseg.miou.at(whole.miou.best_threshold),
            "fgiou": 100 * clipseg.fgiou.at(whole.fgiou.best_threshold),
            "ap": 100 * clipseg.ap,
            "phrasecut_mean_iou": 100 * phrasecut.mean_iou,
            "phrasecut_cum_iou": 100 * phrasecut.cumulative_iou,
            **{f"phrasecut_above_{level}": 100 * share for level, share in phrasecut.accuracy.items()},
        }
    return found


def breakdown(scores: Scores, most: int = 40) -> str:
    """The measures of parts of a dataset as a Markdown table: of each kind of part its largest.

    Parts are those of the phrases' names, attributes and relations, and PhraseCut's subsets by size, number and
    form of the phrase; the JSON holds all of them.
    """
    kinds: dict[str, list[tuple[str, Mapping[str, float]]]] = {}
    for key, numbers in numbers_of_parts(scores).items():
        kind, _, value = key.partition(": ")
        kinds.setdefault(kind, []).append((value, numbers))
    rows = [f"| | samples | {' | '.join(PART_COLUMNS.values())} |", "|---|" + "---:|" * (len(PART_COLUMNS) + 1)]
    for kind, parts in sorted(kinds.items()):
        for value, found in sorted(parts, key=lambda one: (-one[1]["samples"], one[0]))[:most]:
            cells = " | ".join(f"{found[column]:.1f}" for column in PART_COLUMNS)
            rows.append(f"| {kind}: {_cell(value)} | {found['samples']} | {cells} |")
        if len(parts) > most:
            rows.append(f"| {kind}: {len(parts) - most} more, in the JSON |{' |' * (len(PART_COLUMNS) + 1)}")
    return "\n".join([*rows, "", "\\* by PhraseCut's own protocol, at 0.5"])


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def latex_row(name: str, numbers: Mapping[str, float]) -> str:
    """mIoU, IoU_FG and AP at their best, as a row of a paper's table."""
    cells = [f"{numbers[key]:.1f}" if key in numbers else "--" for key in ("miou", "fgiou", "ap")]
    safe = "".join(f"\\{letter}" if letter in "&%$#_{}" else letter for letter in name)
    return " & ".join([safe, *cells]) + r" \\"


def write_report(
    folder: Path, name: str, scores: Scores, record: Mapping[str, Any], published: Sequence[PublishedRow] = ()
) -> None:
    """Write NAME.json, NAME.md and NAME.tex."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = scores.numbers()
    report = {
        "record": dict(record),
        "numbers": numbers,
        "categories": numbers_of_parts(scores),
        "report": scores.report.state_dict(),
    }
    (folder / f"{name}.json").write_text(as_json(report))
    texts = [scores_table({name: numbers}, published), *([breakdown(scores)] if scores.categories else [])]
    if scores.report.skipped or scores.report.kept:
        texts.append(str(scores.report).replace("\n", "\n\n"))
    (folder / f"{name}.md").write_text("\n\n".join([*texts, *sorted(scores.report.notes)]) + "\n")
    (folder / f"{name}.tex").write_text(latex_row(str(record.get("method", name)), numbers) + "\n")


def as_json(content: Any) -> str:
    """JSON proper: what could not be measured, nan among numbers, is null."""
    return json.dumps(_without_nan(content), indent=2, default=str)


def _without_nan(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {name: _without_nan(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content
