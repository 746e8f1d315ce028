"""python -m ldznet evaluate: measure masks on a dataset by the paper's measures, or run a study of the model."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldznet.cli.flags import add_model, load_chosen_model, process_of_launch
from ldznet.cli.printing import item_bar
from ldznet.cli.reports import require_writable
from ldznet.errors import OptionError
from ldznet.research.cli.artists import add_artists, chosen_artists
from ldznet.research.cli.datasets import add_place, find_dataset, inner_phrasecut, is_phrasecut
from ldznet.research.cli.run_key import key_of, record_of
from ldznet.research.evaluation.paper_tables import PublishedRow, comparable_rows

if TYPE_CHECKING:
    from ldznet.hosts.diffusers.host import DiffusersHost
    from ldznet.hosts.host import Host
    from ldznet.methods.method import Method
    from ldznet.research.datasets.samples import Samples
    from ldznet.research.evaluation.runner import Part, Scores
    from ldznet.research.metrics.counts import Curve

STUDY_NAMES = ("features", "ablation", "refine", "steps", "samples")
_BLOCK = 64  # samples that are measured before the counts are written


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments to its parser."""
    parser.description = (
        "Measure masks on a dataset, by CLIPSeg's protocol (the paper's) and PhraseCut's, in percent: at the best "
        "threshold, and at 0.5. Instead of a dataset, DATA can name a study of the model: `features` finds the "
        "UNet's features that know where objects are; `ablation` changes each step of a method without a head; "
        "`refine` measures the second look; `steps` draws the steps of the methods; `samples` draws images that "
        "the model makes from captions."
    )
    parser.epilog = (
        "examples:\n"
        "  python -m ldznet evaluate scenes\n"
        "  python -m ldznet evaluate scenes --method attention --artists noto,twemoji\n"
        "  python -m ldznet evaluate scenes --head runs/tiny/last.safetensors --write-threshold\n"
        "  python -m ldznet evaluate phrasecut --checkpoint sd15.safetensors --head ld-znet.safetensors\n"
        "  python -m ldznet evaluate aigi --data AIGI/ --checkpoint sd15.safetensors --head ld-znet.safetensors\n"
        "  python -m ldznet evaluate my_images/ --checkpoint sd15.safetensors\n"
        "  python -m ldznet evaluate features --out runs/features\n"
        "  python -m ldznet evaluate ablation --method attention --scenes 25 --out runs/ablation"
    )
    parser.add_argument(
        "data",
        metavar="DATA",
        help="`scenes` of icons, whose art `python -m ldznet datasets art` fetches; `phrasecut` or `aigi`, in "
        "their usual folders (see --data); any folder in PhraseCut's layout, or of images with a mask per "
        "caption, or with a COCO or labelme JSON; or a study: "
        f"{', '.join(STUDY_NAMES)}",
    )
    add_place(parser)
    parser.add_argument("--split", default="test", help="PhraseCut: the split (default: %(default)s)")
    parser.add_argument(
        "--scenes", type=int, default=100, metavar="N", help="scenes per artist (default: %(default)s)"
    )
    add_artists(parser)
    parser.add_argument(
        "--pairs",
        type=int,
        default=40,
        metavar="N",
        help="scenes: pairs of things of every kind, asked both ways; 0 is none (default: %(default)s)",
    )
    parser.add_argument(
        "--on-problem",
        choices=("skip", "refuse"),
        default="skip",
        help="skip: leave damaged samples out, and name and count them; refuse: stop at the first one "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="measure only the first N samples, in the order of the images"
    )
    parser.add_argument(
        "--out", "-o", type=Path, metavar="FOLDER", help="also write a report and sheets of images there"
    )
    parser.add_argument(
        "--write-threshold",
        action="store_true",
        help="write the best threshold into the head file, for masks whose threshold is automatic. Scenes are "
        "then those of a training's validation, in the hands that a head is trained on, not those that are "
        "measured without this flag",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON, for programs")
    parser.add_argument("--quiet", "-q", action="store_true", help="no progress bar")
    parser.add_argument(
        "--clipseg",
        type=Path,
        metavar="FOLDER",
        help="measure CLIPSeg instead, from a folder in transformers' layout",
    )
    group = parser.add_argument_group("studies")
    group.add_argument("--greedy", action="store_true", help="ablation: search step by step for the best options")
    group.add_argument(
        "--sizes",
        default="256,384,512",
        metavar="LIST",
        help="refine: sides of the scenes in pixels (default: %(default)s)",
    )
    group.add_argument(
        "--seed", type=int, default=1, metavar="N", help="steps: seed of the scene (default: %(default)s)"
    )
    add_model(parser)


@dataclass(frozen=True)
class _Dataset:
    """One dataset to measure."""

    name: str
    samples: Samples
    table: str = ""  # of the paper, to compare with


def run(parsed: argparse.Namespace) -> int:
    """Measure or study, and print the result."""
    if parsed.scenes < 1 or (parsed.limit is not None and parsed.limit < 1):
        raise OptionError("--scenes and --limit must be at least 1.")
    place = find_dataset(parsed.data, parsed.folder, ("scenes", *STUDY_NAMES))
    from ldznet.heads.head_file import write_threshold
    from ldznet.research.evaluation.report import as_json, scores_table
    from ldznet.research.metrics.clipseg_metrics import ClipSegMetrics

    # Checked before the model is loaded, which takes longer.
    process = process_of_launch()
    if process[1] > 1 and not parsed.out:
        raise OptionError("Several processes exchange their counts in a folder: give one with --out.")
    if parsed.out:
        require_writable(parsed.out)
    host, choice = load_chosen_model(parsed)
    if parsed.clipseg:
        from ldznet.methods.choose import MethodChoice
        from ldznet.research.evaluation.clipseg import ClipSeg

        choice = MethodChoice(ClipSeg.load(parsed.clipseg, device=host.device), "a baseline")
    head = _head_to_write(choice.method) if parsed.write_threshold else None
    # Studies print their own results and need no dataset.
    if parsed.data in STUDY_NAMES:
        from ldznet.research.cli.studies import STUDIES

        return STUDIES[parsed.data](parsed, host, choice.method)
    record = record_of(parsed, host, choice)
    numbers, left_out, whole = dict[str, dict[str, float]](), list[str](), ClipSegMetrics(named=False)
    # Only one dataset has published rows, and it is measured alone.
    published, note = tuple[PublishedRow, ...](), ""
    for dataset in _datasets(parsed, choice.method, place):
        scores = _measure(parsed, place, host, choice.method, dataset, record, process)
        if scores is None:
            continue  # another process writes the report
        numbers[dataset.name] = scores.numbers()
        whole.merge(scores.clipseg)
        left_out += _left_out(parsed, dataset, scores)
        if dataset.table:
            published, note = comparable_rows(dataset.table, len(scores.clipseg))
    if process[0]:
        return 0
    pairs = parsed.data == "scenes" and parsed.pairs > 0 and head is None
    if pairs:
        from ldznet.research.evaluation.pairs import pairs_table

        _measure_pairs(parsed, host, choice.method, numbers)
    curve = whole.result().miou if len(whole) else None  # None where all that was asked for is absent
    best = None if curve is None else curve.best_threshold
    if head is not None and best is not None:
        write_threshold(head, best)
    if parsed.json:
        print(as_json({"record": record, "numbers": numbers, "threshold": best, "left_out": left_out}))
        return 0
    print(f"{choice.method.name} ({choice.reason}), {record['model']}; percent\n")
    print(scores_table(numbers, published))
    if pairs:
        print(f"\n{pairs_table(numbers)}")
    for text in (
        *([] if curve is None else [_threshold_text(choice.method, curve, head)]),
        *([note] if note else []),
        *left_out,
    ):
        print(f"\n{text}")
    return 0


def _head_to_write(method: Method) -> Path:
    """Return the head file to write a threshold into.

    Raises:
        OptionError: no head file runs.
    """
    path = getattr(method, "path", None)
    if path is None:
        raise OptionError(
            f"--write-threshold writes into a head file, but {method.name} runs without one. Give --head, or "
            "leave the flag out: the best threshold is printed without it too."
        )
    return Path(path)


def _threshold_text(method: Method, curve: Curve, head: Path | None) -> str:
    """Return the best threshold for all that was measured, and the one that the method has now."""
    best = f"{curve.best_threshold:.2f} is the best threshold for all of it, with a mIoU of {100 * curve.best:.1f}"
    if head is not None:
        return f"{best}; it is written into {head}."
    suited = method.defaults.threshold
    return f"{best}; {suited.value:.2f} is used now ({suited.reason})."


def _measure_pairs(
    parsed: argparse.Namespace, host: Host, method: Method, numbers: dict[str, dict[str, float]]
) -> None:
    """Add to the numbers of each artist how often the right one of two things is preferred."""
    from ldznet.research.evaluation.pairs import measure_pairs
    from ldznet.research.scenes.icon_samples import PairSamples
    from ldznet.research.scenes.icons import IconWorld

    world = IconWorld.read(parsed.art)
    for artist in numbers:
        samples = PairSamples(world, artist, parsed.pairs, size=method.defaults.resolution)
        bar = item_bar(len(samples), "phrase", quiet=parsed.quiet)
        numbers[artist] |= measure_pairs(host, method, samples, bar.update)
        bar.close()


def _left_out(parsed: argparse.Namespace, dataset: _Dataset, scores: Scores) -> list[str]:
    """Return what to print below the numbers; notes on the whole dataset are only in the report.

    Raises:
        DatasetError: no sample at all could be measured.
    """
    from ldznet.research.datasets.samples import DatasetError

    report, count = scores.report, len(scores.clipseg) + len(scores.absent)
    if not count:
        again = f"; then delete {parsed.out}, where the failure is stored" if parsed.out else ""
        raise DatasetError(
            f"{dataset.name}: none of {_count(parsed, dataset)} samples could be measured. {report}. Complete the "
            f"dataset, or repair the files that are named{again}."
        )
    if not report.skipped and not report.kept:
        return []
    return [f"{dataset.name}: {count} samples were measured.\n{report}"]


def _count(parsed: argparse.Namespace, dataset: _Dataset) -> int:
    """Return how many samples to measure."""
    return min(len(dataset.samples), parsed.limit or len(dataset.samples))


def _datasets(parsed: argparse.Namespace, method: Method, path: Path | None) -> list[_Dataset]:
    """Open the dataset, or one for each artist; `path` is None for scenes."""
    from ldznet.research.datasets.aigi import Aigi
    from ldznet.research.datasets.phrasecut import PhraseCut
    from ldznet.research.scenes.training_scene import TRAIN_SEEDS

    # Scenes of a validation have seeds and names of their own.
    start, suffix = (TRAIN_SEEDS // 2, "-validation") if parsed.write_threshold else (0, "")
    if path is None:
        from ldznet.research.scenes.icon_samples import IconSamples
        from ldznet.research.scenes.icons import IconWorld

        world, size = IconWorld.read(parsed.art), method.defaults.resolution
        return [
            _Dataset(artist + suffix, IconSamples(world, (artist,), parsed.scenes, start=start, size=size))
            for artist in chosen_artists(
                parsed, world, world.trained_on if parsed.write_threshold else tuple(world.hands)
            )
        ]
    if parsed.data == "phrasecut" or is_phrasecut(inner_phrasecut(path)):
        folder = inner_phrasecut(path)
        samples = PhraseCut(folder, parsed.split, on_problem=parsed.on_problem, both_masks=True)
        table = "phrasecut" if parsed.split == "test" else ""
        return [_Dataset(f"PhraseCut-{parsed.split}", samples, table)]
    # A folder called like the dataset is compared with its published rows as well.
    is_aigi = parsed.data == "aigi" or path.name.lower().startswith("aigi")
    name = "AIGI" if parsed.data == "aigi" else path.stem
    return [_Dataset(name, Aigi(path, on_problem=parsed.on_problem), "aigi" if is_aigi else "")]


def _measure(
    parsed: argparse.Namespace,
    place: Path | None,
    host: DiffusersHost,
    method: Method,
    dataset: _Dataset,
    record: Mapping[str, Any],
    process: tuple[int, int],
) -> Scores | None:
    """Measure a dataset and write its report; return None where another process does that."""
    from ldznet.research.evaluation.measurement_parts import MeasurementParts
    from ldznet.research.evaluation.runner import Part, measure

    name, samples, count = dataset.name, dataset.samples, _count(parsed, dataset)
    parts = None
    if parsed.out:
        # The key keeps counts of other weights or options out of this measurement.
        key = key_of(parsed, place, host, method, name, count, _BLOCK)
        parts = MeasurementParts(parsed.out, name, key, process)
    done = parts.done() if parts else set()
    # Blocks that are done already count as progress; only the first process shows it.
    bar = item_bar(count, "sample", start=min(count, _BLOCK * len(done)), quiet=parsed.quiet or process[0] > 0)
    with parts.at_work() if parts else contextlib.nullcontext():
        mine = measure(
            host,
            method,
            samples,
            limit=parsed.limit,
            block=_BLOCK,
            process=process,
            done=done,
            save=parts.save if parts else None,
            progress=bar.update,
        )
    bar.close()
    if process[0]:
        return None
    # Waits for the other processes.
    whole = parts.whole(math.ceil(count / _BLOCK)) if parts else mine
    opening = Part()  # what was left out when the dataset was opened counts once, not per process
    opening.scores.report.merge(samples.report)
    whole.merge(opening)
    if parsed.out:
        _write(parsed.out, dataset, whole, record, host, method)
    return whole.scores


def _write(
    out: Path, dataset: _Dataset, whole: Part, record: Mapping[str, Any], host: Host, method: Method
) -> None:
    """Write the report of a dataset, and a sheet of its worst and best samples."""
    from ldznet.research.datasets.samples import usable
    from ldznet.research.datasets.skip_report import Report
    from ldznet.research.evaluation.contact_sheets import save_sheet
    from ldznet.research.evaluation.report import write_report
    from ldznet.research.evaluation.runner import predict

    scores = whole.scores
    published, note = comparable_rows(dataset.table, len(scores.clipseg)) if dataset.table else ((), "")
    write_report(out, dataset.name, scores, record, published, note)
    # Predicted again: keeping all predictions would take as much memory as the dataset.
    indices = [extreme.index for extreme in whole.extremes]
    if indices:
        samples = usable(dataset.samples, Report(), indices)
        save_sheet(list(predict(host, method, samples)), out / f"{dataset.name}.jpg")
