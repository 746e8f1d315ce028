"""python -m ldznet evaluate: how good masks are, by the paper's measures."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldznet.cli.flags import add_model, load_chosen_model, process_of_launch
from ldznet.cli.printing import item_bar
from ldznet.cli.reports import require_writable
from ldznet.errors import OptionError
from ldznet.research.cli.datasets import add_place, find_dataset, inner_phrasecut, is_phrasecut
from ldznet.research.cli.run_key import key_of, record_of
from ldznet.research.evaluation.paper_tables import TABLES, PublishedRow

if TYPE_CHECKING:
    from ldznet.hosts.diffusers.host import DiffusersHost
    from ldznet.hosts.host import Host
    from ldznet.methods.method import Method
    from ldznet.research.datasets.samples import Samples
    from ldznet.research.evaluation.runner import Part, Scores

STUDY_NAMES = ("features", "ablation", "refine", "steps", "samples")
_BLOCK = 64  # samples that are measured before they are kept


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments to its parser."""
    parser.description = (
        "Measure masks on a dataset, by CLIPSeg's protocol (the paper's) and PhraseCut's: percent; "
        "the best of all thresholds, and at 0.5. Instead of a dataset a name makes a study of the model: "
        "`features`, which of the UNet's features know where things are; `ablation`, what each step of a method "
        "without a head is worth; `refine`, what a second look gains; `steps`, pictures of the methods' steps; "
        "`samples`, pictures that the model makes of captions of scenes."
    )
    parser.epilog = (
        "examples:\n"
        "  python -m ldznet evaluate scenes\n"
        "  python -m ldznet evaluate scenes --method attention --looks cartoon,sketch\n"
        "  python -m ldznet evaluate phrasecut --checkpoint sd15.safetensors --head ld-znet.safetensors\n"
        "  python -m ldznet evaluate aigi --data AIGI/ --checkpoint sd15.safetensors --head ld-znet.safetensors\n"
        "  python -m ldznet evaluate my_images/ --checkpoint sd15.safetensors\n"
        "  python -m ldznet evaluate features --out runs/features\n"
        "  python -m ldznet evaluate ablation --method attention --scenes 25 --out runs/ablation"
    )
    parser.add_argument(
        "data",
        metavar="DATA",
        help="scenes, procedural ones; phrasecut or aigi, where they lie (see --data); any other folder in "
        "PhraseCut's layout, or of images with a mask per caption, a COCO or labelme JSON; or one of "
        f"{', '.join(STUDY_NAMES)}",
    )
    add_place(parser)
    parser.add_argument("--split", default="test", help="of PhraseCut (default: %(default)s)")
    parser.add_argument(
        "--looks", default="photo,cartoon,sketch,painting", metavar="LIST", help="of scenes (default: %(default)s)"
    )
    parser.add_argument("--scenes", type=int, default=100, metavar="N", help="of each look (default: %(default)s)")
    parser.add_argument(
        "--on-problem",
        choices=("skip", "refuse"),
        default="skip",
        help="what is damaged in a dataset is left out, named and counted, or ends the run (default: %(default)s)",
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="measure the first N samples only, in the order of the images"
    )
    parser.add_argument("--out", "-o", type=Path, metavar="FOLDER", help="also write a report and pictures there")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, for programs")
    parser.add_argument("--quiet", "-q", action="store_true", help="no progress bar")
    parser.add_argument(
        "--clipseg",
        type=Path,
        metavar="FOLDER",
        help="measure CLIPSeg instead, from a folder as transformers writes it",
    )
    group = parser.add_argument_group("studies")
    group.add_argument(
        "--greedy", action="store_true", help="ablation: search step by step for what suits the model"
    )
    group.add_argument(
        "--sizes", default="256,384,512", metavar="LIST", help="refine: sides of the scenes (default: %(default)s)"
    )
    group.add_argument(
        "--seed", type=int, default=1, metavar="N", help="steps: of the scene (default: %(default)s)"
    )
    add_model(parser)


def run(parsed: argparse.Namespace) -> int:
    """Measure and print."""
    if parsed.scenes < 1 or (parsed.limit is not None and parsed.limit < 1):
        raise OptionError("--scenes and --limit must be at least 1.")
    place = find_dataset(parsed.data, parsed.folder, ("scenes", *STUDY_NAMES))
    from ldznet.research.evaluation.report import as_json, scores_table

    process = process_of_launch()
    if process[1] > 1 and not parsed.out:
        raise OptionError("Several processes meet in a folder: give one with --out.")
    if parsed.out:
        require_writable(parsed.out)
    host, choice = load_chosen_model(parsed)
    if parsed.clipseg:
        from ldznet.methods.choose import MethodChoice
        from ldznet.research.evaluation.clipseg import ClipSeg

        choice = MethodChoice(ClipSeg.load(parsed.clipseg, device=host.device), "a baseline")
    if parsed.data in STUDY_NAMES:
        from ldznet.research.cli.studies import STUDIES

        return STUDIES[parsed.data](parsed, host, choice.method)
    record = record_of(parsed, host, choice)
    numbers, left_out = {}, []
    for name, published, samples in _datasets(parsed, choice.method, place):
        scores = _measure(parsed, place, host, choice.method, samples, name, record, process, published)
        if scores is None:
            continue  # another process writes the report
        numbers[name] = scores.numbers()
        left_out += _left_out(name, scores, min(len(samples), parsed.limit or len(samples)), parsed.out)
    if process[0]:
        return 0
    if parsed.json:
        print(as_json({"record": record, "numbers": numbers, "left_out": left_out}))
        return 0
    print(f"{choice.method.name} ({choice.reason}), {record['model']}; percent\n")
    print(scores_table(numbers, published))
    for text in left_out:
        print(f"\n{text}")
    return 0


def _left_out(name: str, scores: Scores, asked: int, out: Path | None) -> list[str]:
    """What is to be said beside the numbers; remarks on the whole dataset are in the report alone.

    Raises:
        DatasetError: nothing at all could be measured.
    """
    from ldznet.research.datasets.samples import DatasetError

    report, measured = scores.report, len(scores.clipseg) + len(scores.absent)
    if not measured:
        raise DatasetError(
            f"{name}: none of {asked} samples could be measured. {report}. Complete the dataset, or mend what is "
            f"named{f'; then delete {out}, which keeps that they could not' if out else ''}."
        )
    return [f"{name}: {measured} samples were measured.\n{report}"] if report.skipped or report.kept else []


def _datasets(
    parsed: argparse.Namespace, method: Method, path: Path | None
) -> list[tuple[str, Sequence[PublishedRow], Samples]]:
    """Name, published rows and samples of each dataset; `path` is None for scenes."""
    from ldznet.research.datasets.aigi import Aigi
    from ldznet.research.datasets.phrasecut import PhraseCut
    from ldznet.research.scenes.samples import SceneSamples

    if path is None:
        from ldznet.research.cli.studies import chosen_looks

        size = method.defaults.resolution
        return [(look, (), SceneSamples(look, parsed.scenes, size=size)) for look in chosen_looks(parsed)]
    if parsed.data == "phrasecut" or is_phrasecut(inner_phrasecut(path)):
        name, folder = f"PhraseCut-{parsed.split}", inner_phrasecut(path)
        phrasecut = PhraseCut(folder, parsed.split, on_problem=parsed.on_problem, both_masks=True)
        return [(name, TABLES["phrasecut"] if parsed.split == "test" else (), phrasecut)]
    aigi = Aigi(path, on_problem=parsed.on_problem)
    is_aigi = parsed.data == "aigi" or path.name.lower().startswith("aigi")
    return [("AIGI" if parsed.data == "aigi" else path.stem, TABLES["aigi"] if is_aigi else (), aigi)]


def _measure(
    parsed: argparse.Namespace,
    place: Path | None,
    host: DiffusersHost,
    method: Method,
    samples: Samples,
    name: str,
    record: Mapping[str, Any],
    process: tuple[int, int],
    published: Sequence[PublishedRow],
) -> Scores | None:
    """The scores of a dataset; None where another process reports them."""
    from ldznet.research.evaluation.report import MeasurementParts
    from ldznet.research.evaluation.runner import Part, measure

    count = min(len(samples), parsed.limit or len(samples))
    if parsed.out:
        store = MeasurementParts(
            parsed.out, name, key_of(parsed, place, host, method, name, count, _BLOCK), process
        )
        done = store.done()
    else:
        store, done = None, set()
    bar = item_bar(count, "sample", start=min(count, _BLOCK * len(done)), quiet=parsed.quiet or process[0] > 0)
    with store.at_work() if store else contextlib.nullcontext():
        part = measure(
            host,
            method,
            samples,
            limit=parsed.limit,
            block=_BLOCK,
            process=process,
            done=done,
            save=store.save if store else None,
            progress=bar.update,
        )
    bar.close()
    if process[0]:
        return None
    whole = store.whole(math.ceil(count / _BLOCK)) if store else part
    opened = Part()
    opened.scores.report.merge(samples.report)
    whole.merge(opened)
    if parsed.out:
        _write(parsed.out, name, whole, record, published, host, method, samples)
    return whole.scores


def _write(
    out: Path,
    name: str,
    whole: Part,
    record: Mapping[str, Any],
    published: Sequence[PublishedRow],
    host: Host,
    method: Method,
    samples: Samples,
) -> None:
    from ldznet.research.datasets.samples import usable
    from ldznet.research.datasets.skip_report import Report
    from ldznet.research.evaluation.contact_sheets import save_sheet
    from ldznet.research.evaluation.report import write_report
    from ldznet.research.evaluation.runner import predict

    write_report(out, name, whole.scores, record, published)
    indices = [one.index for one in whole.extremes]
    if indices:
        save_sheet(list(predict(host, method, usable(samples, Report(), indices))), out / f"{name}.jpg")
