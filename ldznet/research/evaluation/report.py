"""Format the numbers of a measurement: tables in Markdown, JSON, and a row for a paper in LaTeX.

FOLDER/NAME.json          all numbers, also by category, and what was left out
FOLDER/NAME.md  NAME.tex  the tables, with the published rows where they can be compared; a row for a paper
FOLDER/NAME.jpg           the worst and the best samples
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ldznet.files import write_text
from ldznet.research.evaluation.paper_tables import PublishedRow
from ldznet.research.evaluation.runner import Scores

COLUMNS = (  # number, title
    ("miou", "mIoU"),
    ("fgiou", "IoU_FG"),
    ("ap", "AP"),
    ("miou_0.5", "mIoU at 0.5"),
    ("fgiou_0.5", "IoU_FG at 0.5"),
    ("empty_0.5", "absent: empty"),
)
PART_COLUMNS = {  # number -> title
    "miou": "mIoU",
    "fgiou": "IoU_FG",
    "ap": "AP",
    "phrasecut_mean_iou": "mean IoU*",
    "phrasecut_cum_iou": "cum. IoU*",
}


def scores_table(numbers: Mapping[str, Mapping[str, float]], published: Sequence[PublishedRow] = ()) -> str:
    """Return the measures of several datasets as a Markdown table; published rows are marked."""
    rows = ["| | samples | " + " | ".join(title for _, title in COLUMNS) + " |"]
    rows.append("|---|" + "---:|" * (len(COLUMNS) + 1))
    for name, values in numbers.items():
        cells = [f"{values[key]:.1f}" if key in values else "" for key, _ in COLUMNS]
        rows.append(f"| {name} | {values.get('samples', 0):.0f} | " + " | ".join(cells) + " |")
    # The paper has no numbers for the last columns.
    for row in published:
        cells = ["" if value is None else f"{value:.1f}" for value in row[1:]]
        rows.append(f"| {row.name} (published) | | " + " | ".join([*cells, *[""] * (len(COLUMNS) - 3)]) + " |")
    return "\n".join(rows)


def numbers_of_parts(scores: Scores) -> dict[str, dict[str, float]]:
    """Return the measures of each part of a dataset in percent, by both protocols.

    mIoU and IoU_FG are at the thresholds that are best for the whole dataset: a separate best threshold for each
    part would flatter small parts.
    """
    if not scores.categories:
        return {}
    # Not each part's own best threshold, see above.
    whole = scores.clipseg.result()
    numbers: dict[str, dict[str, float]] = {}
    for name, part in sorted(scores.categories.items()):
        clipseg, phrasecut = part.result(), scores.own_categories[name].result()
        numbers[name] = {
            "samples": clipseg.samples,
            "miou": 100 * clipseg.miou.at(whole.miou.best_threshold),
            "fgiou": 100 * clipseg.fgiou.at(whole.fgiou.best_threshold),
            "ap": 100 * clipseg.ap,
            "phrasecut_mean_iou": 100 * phrasecut.mean_iou,
            "phrasecut_cum_iou": 100 * phrasecut.cumulative_iou,
            **{f"phrasecut_above_{level}": 100 * share for level, share in phrasecut.accuracy.items()},
        }
    return numbers


def breakdown(scores: Scores, most: int = 40) -> str:
    """Return the measures of parts of a dataset as a Markdown table: the largest parts of each kind.

    Parts are those with a name, an attribute or a relation in the phrase, and PhraseCut's subsets by size, number
    and form of the phrase; the JSON holds all of them.
    """
    kinds: dict[str, list[tuple[str, Mapping[str, float]]]] = {}
    for key, numbers in numbers_of_parts(scores).items():
        kind, _, value = key.partition(": ")
        kinds.setdefault(kind, []).append((value, numbers))
    rows = [f"| | samples | {' | '.join(PART_COLUMNS.values())} |", "|---|" + "---:|" * (len(PART_COLUMNS) + 1)]
    for kind, parts in sorted(kinds.items()):
        for value, measures in sorted(parts, key=lambda part: (-part[1]["samples"], part[0]))[:most]:
            cells = " | ".join(f"{measures[column]:.1f}" for column in PART_COLUMNS)
            rows.append(f"| {kind}: {_cell(value)} | {measures['samples']} | {cells} |")
        if len(parts) > most:
            rows.append(f"| {kind}: {len(parts) - most} more, in the JSON |{' |' * (len(PART_COLUMNS) + 1)}")
    return "\n".join([*rows, "", "\\* by PhraseCut's own protocol, at 0.5"])


def _cell(text: str) -> str:
    """Return a text that does not break the row of a table."""
    return " ".join(text.replace("|", "\\|").split())


def latex_row(name: str, numbers: Mapping[str, float]) -> str:
    """Return mIoU, IoU_FG and AP at their best, as a row of a paper's table."""
    cells = [f"{numbers[key]:.1f}" if key in numbers else "--" for key in ("miou", "fgiou", "ap")]
    # Characters with a meaning in LaTeX.
    safe = "".join(f"\\{letter}" if letter in "&%$#_{}" else letter for letter in name)
    return " & ".join([safe, *cells]) + r" \\"


def write_report(
    folder: Path,
    name: str,
    scores: Scores,
    record: Mapping[str, Any],
    published: Sequence[PublishedRow] = (),
    note: str = "",
) -> None:
    """Write NAME.json, NAME.md and NAME.tex; `note` is printed below the table."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = scores.numbers()
    report = {
        "record": dict(record),
        "numbers": numbers,
        "categories": numbers_of_parts(scores),
        "report": scores.report.state_dict(),
    }
    write_text(folder / f"{name}.json", as_json(report))
    texts = [scores_table({name: numbers}, published), *([note] if note else [])]
    texts += [breakdown(scores)] if scores.categories else []
    if scores.report.skipped or scores.report.kept:
        texts.append(str(scores.report).replace("\n", "\n\n"))
    write_text(folder / f"{name}.md", "\n\n".join([*texts, *sorted(scores.report.notes)]) + "\n")
    write_text(folder / f"{name}.tex", latex_row(str(record.get("method", name)), numbers) + "\n")


def as_json(content: Any) -> str:
    """Return strict JSON: nan, which stands for what could not be measured, becomes null."""
    return json.dumps(_without_nan(content), indent=2, default=str)


def _without_nan(content: Any) -> Any:
    """Return the content with None in the place of every nan."""
    if isinstance(content, Mapping):
        return {name: _without_nan(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content
