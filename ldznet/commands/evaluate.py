"""python -m ldznet evaluate: how good masks are, by the paper's measures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldznet.commands.arguments import Subparsers, add_model, item_bar, load_model
from ldznet.errors import OptionError

if TYPE_CHECKING:
    from ldznet.evaluation.runner import Prediction, Scores
    from ldznet.hosts.host import Host
    from ldznet.methods.method import Method
    from ldznet.training.samples import Samples

_COLUMNS = (  # of the table: number, title
    ("miou", "mIoU"),
    ("fgiou", "IoU_FG"),
    ("ap", "AP"),
    ("miou_0.5", "mIoU at 0.5"),
    ("fgiou_0.5", "IoU_FG at 0.5"),
    ("empty_0.5", "absent: empty"),
)


def add(commands: Subparsers) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "evaluate",
        help="measure masks on a dataset",
        description="Measure masks on a dataset, by CLIPSeg's protocol (the paper's) and PhraseCut's: percent; "
        "the best of all thresholds, and at 0.5. `features` measures which of the UNet's features know where "
        "things are.",
        epilog="examples:\n"
        "  python -m ldznet evaluate scenes\n"
        "  python -m ldznet evaluate scenes --method attention --looks cartoon,sketch\n"
        "  python -m ldznet evaluate features --out runs/features\n"
        "  python -m ldznet evaluate VGPhraseCut_v0/ --checkpoint sd15.safetensors --head ld-znet.safetensors",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "data",
        metavar="DATA",
        help="scenes; features; PhraseCut's folder; a folder of images with a mask per caption, a COCO or labelme "
        "JSON (as AIGI may come)",
    )
    parser.add_argument("--split", default="test", help="of PhraseCut (default: %(default)s)")
    parser.add_argument(
        "--looks", default="photo,cartoon,sketch,painting", metavar="LIST", help="of scenes (default: %(default)s)"
    )
    parser.add_argument("--scenes", type=int, default=100, metavar="N", help="of each look (default: %(default)s)")
    parser.add_argument("--limit", type=int, metavar="N", help="measure the first N samples only")
    parser.add_argument("--out", "-o", type=Path, metavar="FOLDER", help="also write a report and pictures there")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, for programs")
    parser.add_argument("--quiet", "-q", action="store_true", help="no progress bar")
    add_model(parser)
    parser.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    """Measure and print."""
    if parsed.scenes < 1 or (parsed.limit is not None and parsed.limit < 1):
        raise OptionError("--scenes and --limit must be at least 1.")
    if parsed.data not in ("scenes", "features") and not Path(parsed.data).exists():
        raise OptionError(f"{parsed.data} does not exist. Give scenes, features, a dataset's folder or its JSON.")
    host, choice = load_model(parsed)
    if parsed.data == "features":
        return _features(parsed, host, choice.method)
    results = {}
    for name, samples in _datasets(parsed, choice.method):
        scores, shown = _measure(parsed, host, choice.method, samples, name)
        results[name] = scores
        if parsed.out:
            _write(parsed.out, name, scores, shown)
    numbers = {name: scores.numbers() for name, scores in results.items()}
    record = {
        "method": choice.method.name,
        "reason": choice.reason,
        **choice.method.record,
        "model": host.info.name,
    }
    if parsed.json:
        print(json.dumps({"record": record, "numbers": numbers}, indent=2, default=str))
    else:
        print(f"{choice.method.name} ({choice.reason}), {host.info.name}; percent\n")
        print(table(numbers))
        for name, scores in results.items():
            if scores.report.skipped:
                print(f"\n{name}: {scores.report}")
    return 0


def table(numbers: dict[str, dict[str, float]]) -> str:
    """The measures of several datasets as a Markdown table."""
    rows = ["| | samples | " + " | ".join(title for _, title in _COLUMNS) + " |"]
    rows.append("|---|" + "---:|" * (len(_COLUMNS) + 1))
    for name, found in numbers.items():
        cells = [f"{found[key]:.1f}" if key in found else "" for key, _ in _COLUMNS]
        rows.append(f"| {name} | {found.get('samples', 0):.0f} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _datasets(parsed: argparse.Namespace, method: Method) -> list[tuple[str, Samples]]:
    from ldznet.training.aigi import Aigi
    from ldznet.training.phrasecut import PhraseCut
    from ldznet.training.scene_samples import SceneSamples

    if parsed.data == "scenes":
        size = method.defaults.resolution if method.name not in ("attention", "difference") else 128
        looks = [look.strip() for look in parsed.looks.split(",") if look.strip()]
        return [(look, SceneSamples(look, parsed.scenes, size=size)) for look in looks]
    path = Path(parsed.data)
    if path.is_dir() and (path / f"refer_{parsed.split}.json").exists():
        return [(f"PhraseCut {parsed.split}", PhraseCut(path, parsed.split))]
    return [(path.name, Aigi(path))]


def _measure(
    parsed: argparse.Namespace, host: Host, method: Method, samples: Samples, name: str
) -> tuple[Scores, list[Prediction]]:
    from ldznet.evaluation.runner import Scores, predict
    from ldznet.training.samples import usable

    scores, shown = Scores(), list[Any]()
    scores.report.merge(samples.report)
    count = min(len(samples), parsed.limit or len(samples))
    bar = item_bar(count, "sample", quiet=parsed.quiet)
    for found in predict(host, method, usable(samples, scores.report, range(count)), size=_size(parsed, method)):
        scores.update(found)
        if len(shown) < 24:
            shown.append(found)
        bar.update()
    bar.close()
    return scores, shown


def _size(parsed: argparse.Namespace, method: Method) -> int | None:
    """The embedded model's scenes are small; a method without a head has no size of its own."""
    return 128 if parsed.data == "scenes" and method.name in ("attention", "difference") else None


def _write(out: Path, name: str, scores: Scores, shown: Sequence[Prediction]) -> None:
    from ldznet.evaluation.pictures import save_sheet

    out.mkdir(parents=True, exist_ok=True)
    plain = name.replace(" ", "-")
    report = {
        "numbers": scores.numbers(),
        "categories": {key: part.result().summary() for key, part in sorted(scores.categories.items())},
        "report": scores.report.state_dict(),
    }
    (out / f"{plain}.json").write_text(json.dumps(report, indent=2))
    save_sheet(shown, out / f"{plain}.jpg")


def _features(parsed: argparse.Namespace, host: Host, method: Method) -> int:
    from PIL import Image

    from ldznet.evaluation.features import draw_scores, measure_features
    from ldznet.training.diffusion import TRAIN_SEEDS
    from ldznet.training.samples import Sample
    from ldznet.training.scene_samples import SceneSamples

    def samples(scenes: int, start: int) -> list[Sample]:
        chosen = SceneSamples("photo", scenes, start=start, absent=False)
        return [chosen[index] for index in range(len(chosen))]

    training, validation = samples(2 * parsed.scenes, 2 * TRAIN_SEEDS), samples(parsed.scenes // 2, 0)

    def say(text: str) -> None:
        if not parsed.quiet and not parsed.json:
            print(text, flush=True)

    scores = measure_features(host, training, validation, size=128, say=say)
    best = max(scores, key=lambda score: score.ap)
    rows = [{"path": score.path, "timestep": score.timestep, "ap": score.ap} for score in scores]
    if parsed.out:
        parsed.out.mkdir(parents=True, exist_ok=True)
        title = f"AP of a small decoder on one feature: {host.info.name}"
        Image.fromarray(draw_scores(scores, title)).save(parsed.out / "features.png")
        (parsed.out / "features.json").write_text(json.dumps(rows, indent=1))
    if parsed.json:
        print(json.dumps(rows))
    else:
        print(f"best: {best.path} at timestep {best.timestep}, AP {best.ap:.1f}")
    return 0
