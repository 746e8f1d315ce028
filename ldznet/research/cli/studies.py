"""python -m ldznet evaluate NAME, where NAME is no dataset: what a model knows, and what each step is worth.

samples    pictures that the model makes of captions
features   which of its features know where things are
ablation   a method without a head, one step changed at a time, or searched for what suits the model
refine     what a second look gains and costs
steps      pictures of the two methods without a head, step by step
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldznet.cli.printing import item_bar
from ldznet.errors import OptionError
from ldznet.methods.load import MODELS

if TYPE_CHECKING:
    from ldznet.hosts.diffusers.host import DiffusersHost
    from ldznet.methods.method import Method
    from ldznet.research.datasets.sample import Sample
    from ldznet.research.studies.ablation import Setup


def chosen_looks(parsed: argparse.Namespace) -> list[str]:
    """Those of --looks.

    Raises:
        OptionError: there is none.
    """
    from ldznet.research.scenes.scenes import LOOK_NAMES

    looks = [look.strip() for look in parsed.looks.split(",") if look.strip()]
    if not looks:
        raise OptionError(f"--looks names no look: give some of {', '.join(LOOK_NAMES)}.")
    return looks


def _scenes(looks: Sequence[str], scenes: int, size: int, start: int = 0, *, absent: bool = True) -> list[Sample]:
    from ldznet.research.scenes.samples import SceneSamples

    chosen = [SceneSamples(look, scenes, start=start, size=size, absent=absent) for look in looks]
    return [samples[index] for samples in chosen for index in range(len(samples))]


def _folder(parsed: argparse.Namespace) -> Path:
    if not parsed.out:
        raise OptionError("The pictures need a place: give a folder with --out.")
    out: Path = parsed.out
    out.mkdir(parents=True, exist_ok=True)
    return out


def _samples(parsed: argparse.Namespace, host: DiffusersHost, _method: Method) -> int:
    from PIL import Image

    from ldznet.research.scenes.scenes import LOOK_NAMES, caption_cells, make_scene
    from ldznet.research.studies.ddim_samples import generate

    folder = _folder(parsed)
    captions = [make_scene(seed, look=LOOK_NAMES[seed % 4], objects=1 + seed % 3).caption for seed in range(16)]
    pictures = generate(host, captions)
    enlarged = [picture.repeat(2, axis=0).repeat(2, axis=1) for picture in pictures]
    Image.fromarray(caption_cells(enlarged, captions, 4)).save(folder / "samples.jpg", quality=88)
    print(folder / "samples.jpg")
    return 0


def _features(parsed: argparse.Namespace, host: DiffusersHost, _method: Method) -> int:
    from PIL import Image

    from ldznet.research.scenes.stream import TRAIN_SEEDS
    from ldznet.research.studies.features import draw_scores, measure_features

    training = _scenes(["photo"], 2 * parsed.scenes, 128, 2 * TRAIN_SEEDS, absent=False)
    validation = _scenes(["photo"], max(1, parsed.scenes // 2), 128, absent=False)
    scores = measure_features(host, training, validation, size=128, say=_say(parsed))
    best = max(scores, key=lambda score: score.ap)
    rows = [{"path": score.path, "timestep": score.timestep, "ap": score.ap} for score in scores]
    if parsed.out:
        folder = _folder(parsed)
        title = f"AP of a small decoder on one feature: {host.info.name}"
        Image.fromarray(draw_scores(scores, title)).save(folder / "features.png")
        (folder / "features.json").write_text(json.dumps(rows, indent=1))
    if parsed.json:
        print(json.dumps(rows))
    else:
        print(f"best: {best.path} at timestep {best.timestep}, AP {best.ap:.1f}")
    return 0


def _say(parsed: argparse.Namespace) -> Callable[[str], None]:
    def say(text: str) -> None:
        if not parsed.quiet and not parsed.json:
            print(text, flush=True)

    return say


# --- one step changed at a time ----------------------------------------------------------------------


def _ablation(parsed: argparse.Namespace, host: DiffusersHost, method: Method) -> int:
    from ldznet.research.studies.ablation import Setup, Workbench, ablation_table, looks_of
    from ldznet.research.studies.variants import variants

    name = "difference" if method.name == "difference" else "attention"
    setup = Setup.of(name, host.info)
    if parsed.greedy:
        return _search(parsed, host, setup)
    samples = _scenes(chosen_looks(parsed), parsed.scenes, setup.defaults.resolution)
    bench = Workbench(host, samples, parsed.out)
    rows = [(f"**{name}, defaults**", setup.method()), *_others(host, name)]
    rows += [(title, one.method()) for title, one in variants(setup, host.info)]
    bar = item_bar(len(rows), "row", quiet=parsed.quiet)
    found = []
    for title, one in rows:
        found.append(bench.measure(title, one))
        bar.update()
    bar.close()
    shown = ablation_table(found[1:], found[0], looks_of(samples))
    if parsed.out:
        (parsed.out / f"{name}.md").write_text(shown + "\n")
    answer = {"setup": setup.record(), "rows": [dataclasses.asdict(row) for row in found]}
    print(json.dumps(answer, indent=2) if parsed.json else f"{host.info.name}, {len(samples)} phrases\n\n{shown}")
    return 0


def _others(host: DiffusersHost, name: str) -> list[tuple[str, Method]]:
    """What the method is compared with: the other one, and a head where one fits."""
    from ldznet.methods.choose import best_head, find_heads
    from ldznet.methods.learned_head import LearnedHead
    from ldznet.research.studies.ablation import Setup

    other = "attention" if name == "difference" else "difference"
    others: list[tuple[str, Method]] = [(f"*{other}*", Setup.of(other, host.info).method())]
    if info := best_head(find_heads([MODELS]), host.info):
        others.append((f"*{info.config.kind} head*", LearnedHead.load(info.path, device=host.device)))
    return others


def _search(parsed: argparse.Namespace, host: DiffusersHost, setup: Setup) -> int:
    """Step by step to what suits the model, on scenes that are neither trained on nor reported."""
    from ldznet.research.scenes.stream import TRAIN_SEEDS
    from ldznet.research.studies.ablation import Workbench
    from ldznet.research.studies.search import search, starts
    from ldznet.research.studies.variants import steps_for

    samples = _scenes(["photo"], parsed.scenes, setup.defaults.resolution, 3 * TRAIN_SEEDS)
    bench = Workbench(host, samples, parsed.out, timed=False)
    say = _say(parsed)
    ends = []
    for start in starts(setup):
        say(f"from {start.record()['options']}")
        ends.append(search(bench, start, steps_for(start, host.info), say=say))
    best, row = max(ends, key=lambda end: end[1].usefulness)
    found = {**best.record(), "numbers": row.numbers, "phrases": len(samples)}
    if parsed.out:
        (parsed.out / "found.json").write_text(json.dumps(found, indent=2))
    print(json.dumps(found, indent=2))
    return 0


# --- a second look, and pictures of the steps --------------------------------------------------------


def _refine(parsed: argparse.Namespace, host: DiffusersHost, method: Method) -> int:
    from ldznet.research.studies.refinement import measure_refinement, refinement_table

    try:
        sizes = [int(part) for part in parsed.sizes.split(",")]
    except ValueError:
        raise OptionError(f"--sizes is {parsed.sizes!r}, but it must be numbers, such as 256,384,512.") from None
    looks, found = chosen_looks(parsed), []
    bar = item_bar(len(sizes) * len(looks) * parsed.scenes, "scene", quiet=parsed.quiet)
    for size in sizes:
        found.append(measure_refinement(host, method, looks, size, parsed.scenes, progress=bar.update))
    bar.close()
    records: list[Mapping[str, Any]] = [one.record() for one in found]
    if parsed.out:
        folder = _folder(parsed)
        (folder / "refine.json").write_text(json.dumps(records, indent=2))
        (folder / "refine.md").write_text(refinement_table(found) + "\n")
    if parsed.json:
        print(json.dumps(records, indent=2))
    else:
        title = f"{method.name}, {host.info.name}; percent, first look -> tiles -> tiles and boxes"
        print(f"{title}\n\n{refinement_table(found)}")
    return 0


def _steps(parsed: argparse.Namespace, host: DiffusersHost, _method: Method) -> int:
    from PIL import Image

    from ldznet.methods.attention_options import suited_options
    from ldznet.research.studies.steps import draw_steps

    folder = _folder(parsed)
    samples = _scenes(["photo"], 1, suited_options(host.info)[1].resolution, parsed.seed)
    there = next(sample for sample in samples if sample.mask.any())
    absent = next(sample for sample in samples if not sample.mask.any())
    for name in ("difference", "attention"):
        path = folder / f"{name}-steps.jpg"
        Image.fromarray(draw_steps(host, name, [there, absent])).save(path, quality=90)
        print(path)
    return 0


STUDIES: Mapping[str, Callable[[argparse.Namespace, DiffusersHost, Method], int]] = {
    "samples": _samples,
    "features": _features,
    "ablation": _ablation,
    "refine": _refine,
    "steps": _steps,
}
