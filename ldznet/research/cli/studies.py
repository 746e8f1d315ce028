"""python -m ldznet evaluate STUDY: measure what a model knows, and how much each step of a method contributes.

samples    images that the model makes from captions
features   which of the UNet's features know where objects are
ablation   a method without a head, with one step changed at a time, or a search for the best options
refine     what the second look gains and costs
steps      images of the two methods without a head, step by step
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldznet.cli.printing import item_bar
from ldznet.errors import OptionError
from ldznet.files import write_text
from ldznet.methods.load import MODELS
from ldznet.research.cli.artists import chosen_artists

if TYPE_CHECKING:
    from ldznet.hosts.diffusers.host import DiffusersHost
    from ldznet.methods.method import Method
    from ldznet.research.datasets.sample import Sample
    from ldznet.research.scenes.icons import IconWorld
    from ldznet.research.studies.ablation import Setup


def _world(parsed: argparse.Namespace) -> tuple[IconWorld, list[str]]:
    """Return the world, and the artists of --artists or those whose art may be trained on."""
    from ldznet.research.scenes.icons import IconWorld

    world = IconWorld.read(parsed.art)
    return world, chosen_artists(parsed, world, world.trained_on)


def _mixed_scenes(
    parsed: argparse.Namespace, scenes: int, size: int, start: int = 0, *, absent: bool = True
) -> list[Sample]:
    """Return the samples of so many scenes, artists alternating."""
    from ldznet.research.scenes.icon_samples import IconSamples

    world, artists = _world(parsed)
    samples = IconSamples(world, artists, scenes, start=start, size=size, absent=int(absent))
    return [samples[index] for index in range(len(samples))]


def _scenes_by_artist(parsed: argparse.Namespace, size: int) -> list[Sample]:
    """Return the samples of so many scenes of each artist."""
    from ldznet.research.scenes.icon_samples import IconSamples

    world, artists = _world(parsed)
    parts = [IconSamples(world, (artist,), parsed.scenes, size=size) for artist in artists]
    return [samples[index] for samples in parts for index in range(len(samples))]


def _folder(parsed: argparse.Namespace) -> Path:
    """Return the folder of --out; raise OptionError without one."""
    if not parsed.out:
        raise OptionError("This study writes images: give a folder with --out.")
    out: Path = parsed.out
    out.mkdir(parents=True, exist_ok=True)
    return out


def _samples(parsed: argparse.Namespace, host: DiffusersHost, _method: Method) -> int:
    """Draw images from captions."""
    from PIL import Image

    from ldznet.research.evaluation.contact_sheets import caption_cells
    from ldznet.research.studies.ddim_samples import generate

    folder = _folder(parsed)
    captions = _captions(parsed)
    enlarged = [image.repeat(2, axis=0).repeat(2, axis=1) for image in generate(host, captions)]
    Image.fromarray(caption_cells(enlarged, captions, 4)).save(folder / "samples.jpg", quality=88)
    print(folder / "samples.jpg")
    return 0


def _captions(parsed: argparse.Namespace, count: int = 16) -> list[str]:
    """Return captions of scenes that no training has seen."""
    world, artists = _world(parsed)
    return [world.scene(seed, artists[seed % len(artists)]).caption() for seed in range(count)]


def _features(parsed: argparse.Namespace, host: DiffusersHost, method: Method) -> int:
    """Measure which features know where objects are, asked with the method's sentence."""
    from PIL import Image

    from ldznet.research.scenes.training_scene import TRAIN_SEEDS
    from ldznet.research.studies.features import draw_scores, measure_features

    # Seeds from other ranges than those of trainings and reports, so that nothing is measured on known scenes.
    training = _mixed_scenes(parsed, 2 * parsed.scenes, 128, 2 * TRAIN_SEEDS, absent=False)
    validation = _mixed_scenes(parsed, max(1, parsed.scenes // 2), 128, absent=False)
    template = method.defaults.template
    scores = measure_features(host, training, validation, size=128, template=template, say=_say(parsed))
    best = max(scores, key=lambda score: score.ap)
    rows = [{"path": score.path, "timestep": score.timestep, "ap": score.ap} for score in scores]
    if parsed.out:
        folder = _folder(parsed)
        title = f"AP of a small decoder on one feature: {host.info.name}"
        Image.fromarray(draw_scores(scores, title)).save(folder / "features.png")
        write_text(folder / "features.json", json.dumps(rows, indent=1))
    if parsed.json:
        print(json.dumps(rows))
    else:
        print(f"best: {best.path} at timestep {best.timestep}, AP {best.ap:.1f}")
    return 0


def _say(parsed: argparse.Namespace) -> Callable[[str], None]:
    """Return a function that prints progress unless --quiet or --json is given."""

    def say(text: str) -> None:
        if not parsed.quiet and not parsed.json:
            print(text, flush=True)

    return say


# --- one step changed at a time ----------------------------------------------------------------------


def _ablation(parsed: argparse.Namespace, host: DiffusersHost, method: Method) -> int:
    """Measure a method with one step changed at a time."""
    from ldznet.research.studies.ablation import Setup, Workbench, ablation_table, looks_of
    from ldznet.research.studies.variants import variants

    # A head has no steps to change; without a method the study is of attention.
    name = "difference" if method.name == "difference" else "attention"
    setup = Setup.of(name, host.info)
    if parsed.greedy:
        return _search(parsed, host, setup)
    samples = _scenes_by_artist(parsed, setup.defaults.resolution)
    bench = Workbench(host, samples, parsed.out)
    rows = [(f"**{name}, defaults**", setup.method()), *_others(host, name)]
    # The defaults come first: times are relative to theirs.
    rows += [(title, variant.method()) for title, variant in variants(setup, host.info)]
    bar = item_bar(len(rows), "row", quiet=parsed.quiet)
    results = []
    for title, row_method in rows:
        results.append(bench.measure(title, row_method))
        bar.update()
    bar.close()
    table = ablation_table(results[1:], results[0], looks_of(samples))
    if parsed.out:
        write_text(parsed.out / f"{name}.md", table + "\n")
    answer = {"setup": setup.record(), "rows": [dataclasses.asdict(row) for row in results]}
    print(json.dumps(answer, indent=2) if parsed.json else f"{host.info.name}, {len(samples)} phrases\n\n{table}")
    return 0


def _others(host: DiffusersHost, name: str) -> list[tuple[str, Method]]:
    """Return what to compare a method with: the other one without a head, and a head if one fits."""
    from ldznet.methods.choose import best_head, find_heads
    from ldznet.methods.learned_head import LearnedHead
    from ldznet.research.studies.ablation import Setup

    other = "attention" if name == "difference" else "difference"
    others: list[tuple[str, Method]] = [(f"*{other}*", Setup.of(other, host.info).method())]
    if info := best_head(find_heads([MODELS]), host.info):
        others.append((f"*{info.config.kind} head*", LearnedHead.load(info.path, device=host.device)))
    return others


def _search(parsed: argparse.Namespace, host: DiffusersHost, setup: Setup) -> int:
    """Search step by step for the best options, on scenes that are neither trained on nor reported."""
    from ldznet.research.scenes.training_scene import TRAIN_SEEDS
    from ldznet.research.studies.ablation import Workbench
    from ldznet.research.studies.search import search, starts
    from ldznet.research.studies.variants import steps_for

    samples = _mixed_scenes(parsed, parsed.scenes, setup.defaults.resolution, 3 * TRAIN_SEEDS)
    bench = Workbench(host, samples, parsed.out, timed=False)
    say = _say(parsed)
    ends = []
    for start in starts(setup):
        say(f"from {start.record()['options']}")
        ends.append(search(bench, start, steps_for(start, host.info), say=say))
    # Several starts, because a coordinate search finds only the nearest optimum.
    best, row = max(ends, key=lambda end: end[1].usefulness)
    text = json.dumps({**best.record(), "numbers": row.numbers, "phrases": len(samples)}, indent=2)
    if parsed.out:
        write_text(parsed.out / "found.json", text)
    print(text)
    return 0


# --- the second look, and images of the steps --------------------------------------------------------


def _refine(parsed: argparse.Namespace, host: DiffusersHost, method: Method) -> int:
    """Measure the second look."""
    from ldznet.research.studies.refinement import measure_refinement, refinement_table

    try:
        sizes = [int(part) for part in parsed.sizes.split(",")]
    except ValueError:
        raise OptionError(f"--sizes is {parsed.sizes!r}, but it must be numbers, such as 256,384,512.") from None
    (world, artists), results = _world(parsed), []
    bar = item_bar(len(sizes) * len(artists) * parsed.scenes, "scene", quiet=parsed.quiet)
    for size in sizes:
        results.append(measure_refinement(host, method, world, artists, size, parsed.scenes, progress=bar.update))
    bar.close()
    records: list[Mapping[str, Any]] = [refinement.record() for refinement in results]
    if parsed.out:
        folder = _folder(parsed)
        write_text(folder / "refine.json", json.dumps(records, indent=2))
        write_text(folder / "refine.md", refinement_table(results) + "\n")
    if parsed.json:
        print(json.dumps(records, indent=2))
    else:
        title = f"{method.name}, {host.info.name}; percent, first look -> tiles -> tiles and boxes"
        print(f"{title}\n\n{refinement_table(results)}")
    return 0


def _steps(parsed: argparse.Namespace, host: DiffusersHost, _method: Method) -> int:
    """Draw the steps of both methods without a head, for a present and an absent object."""
    from PIL import Image

    from ldznet.methods.attention_options import suited_options
    from ldznet.research.studies.steps import draw_steps

    folder = _folder(parsed)
    samples = _mixed_scenes(parsed, 1, suited_options(host.info)[1].resolution, parsed.seed)
    present = next(sample for sample in samples if sample.mask.any())
    absent = next(sample for sample in samples if not sample.mask.any())
    for name in ("difference", "attention"):
        path = folder / f"{name}-steps.jpg"
        Image.fromarray(draw_steps(host, name, [present, absent])).save(path, quality=90)
        print(path)
    return 0


STUDIES: Mapping[str, Callable[[argparse.Namespace, DiffusersHost, Method], int]] = {
    "samples": _samples,
    "features": _features,
    "ablation": _ablation,
    "refine": _refine,
    "steps": _steps,
}
