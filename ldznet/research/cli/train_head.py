"""python -m ldznet train, for a head: the recipe, the head's first weights, data, training and validation."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldznet.cli.flags import device_and_dtype, process_of_launch
from ldznet.cli.launch import require_own_gpus
from ldznet.errors import OptionError
from ldznet.research.cli.artists import chosen_artists, scenes_name

if TYPE_CHECKING:
    import torch

    from ldznet.heads.network import Head
    from ldznet.hosts.host import Host
    from ldznet.methods.learned_head import LearnedHead
    from ldznet.research.datasets.samples import Samples
    from ldznet.research.training.train_options import TrainOptions

# Differences from the paper's recipe for the embedded model and its scenes of 128 pixels.
TINY: Mapping[str, Any] = {
    "steps": 2000,
    "batch": 8,
    "size": 128,
    "rate": 6e-4,
    "schedule": "cosine",
    "warmup": 200,
    "clip": 1.0,
    "ema": 0.998,
    "timesteps": (20, 80),
    "posterior": "mean",
    "template": "{}",
    "crop": "whole",
    "negatives": 0.2,
    "log_every": 50,
    "save_every": 100,
    "validate_every": 1000,
}
# The best by `evaluate features` for the embedded model, whose deepest maps have only 2 x 2 pixels.
TINY_BLOCKS = (
    "input_blocks.1.1",
    "input_blocks.3.1",
    "output_blocks.5.1",
    "output_blocks.6.1",
    "output_blocks.7.1",
)


def train_head(parsed: argparse.Namespace, place: Path | None) -> int:
    """Train a head on PhraseCut in `place`, or on scenes; return 0 when done, 3 when stopped and resumable."""
    from ldznet.hosts.diffusers.host import DiffusersHost
    from ldznet.research.cli.forecast import forecast, require_disk, weights
    from ldznet.research.training.frozen_cache import may_keep_latents
    from ldznet.research.training.trainer import Trainer

    say = print if process_of_launch()[0] == 0 else _say_nothing
    options = _recipe(parsed)
    training, validation = _data(parsed, options, place)  # first, because a model takes longer to load
    device, dtype = training_device(parsed)
    host = DiffusersHost.load(parsed.checkpoint, device=device, dtype=dtype, download=parsed.download)
    head, start = _head(parsed, host, options)
    if start:
        say(start)
    if parsed.dry_run:
        say(weights(host, head, parsed.out))  # first, because the steps may need more memory than there is
    else:
        require_disk(head, parsed.out)
    if parsed.cache and not may_keep_latents(options):
        say("note: --cache stores only contexts; latents occur again only with --crop whole --posterior mean.")
    trainer = Trainer(
        host,
        head,
        training,
        options,
        parsed.out,
        validate=_validation(host, validation, options, say),
        source={
            "model": host.info.name,
            "model_fingerprint": host.info.fingerprint,
            "data": place.name if place else scenes_name(parsed),
            "start": Path(parsed.start).name,  # a file says nothing of the machine that wrote it
        },
        belongs={
            "another VAE or text encoder": host.others,
            "another start of its head": _first_weights(parsed),
            **({} if place else {"scenes by other artists": scenes_name(parsed)}),
        },
        workers=parsed.workers,
        cache=None if parsed.dry_run else parsed.cache,
    )
    if parsed.dry_run:
        say(forecast(trainer, training, options, cached=parsed.cache is not None))
        return 0
    done = trainer.run(minutes=parsed.minutes)
    if trainer.report.skipped or trainer.report.kept:
        say(f"left out of the training:\n{trainer.report}")
    if trainer.frozen.store:
        say(str(trainer.frozen.store))
    say(f"{'done' if done else 'the head so far'}: {parsed.out / 'last.safetensors'}")
    return 0 if done else 3


def training_device(parsed: argparse.Namespace) -> tuple[torch.device, torch.dtype]:
    """Return the device and precision to train with; each of several processes needs its own GPU."""
    import torch

    device, dtype = device_and_dtype(parsed)
    if device.type == "cuda":
        require_own_gpus(parsed.device, torch.cuda.device_count())
    return device, dtype


def _recipe(parsed: argparse.Namespace) -> TrainOptions:
    """Return the preset with the options of the command line."""
    from ldznet.research.training.train_options import TrainOptions

    options = {
        item.name: value
        for item in dataclasses.fields(TrainOptions)
        if (value := getattr(parsed, item.name)) is not None
    }
    return TrainOptions(**{**(TINY if parsed.preset == "tiny" else {}), **options})


def _say_nothing(_text: str) -> None:
    """Drop a message: of several processes only the first one reports."""


def _head(parsed: argparse.Namespace, host: Host, options: TrainOptions) -> tuple[Head, str]:
    """Return the head with its first weights, and a report on them."""
    import torch

    from ldznet.heads.head_file import load_head
    from ldznet.heads.narrow_storage import wide_state
    from ldznet.heads.network import (
        Head,
        HeadConfig,
        paper_pool_grids,
        pool_grid,
        start_as_enlargement,
        start_from_unet,
    )
    from ldznet.hosts.diffusers.model_files import unet_state

    unet = dataclasses.replace(host.info.unet, in_channels=4, out_channels=1)
    side = options.size // 8
    grids = paper_pool_grids(unet, side)
    blocks = [path for path in parsed.blocks.split(",") if path]
    if parsed.preset == "tiny" and not blocks:
        blocks = [path for path in TINY_BLOCKS if path in unet.transformer_paths()]
    if blocks:
        grids = {path: pool_grid(unet, path, side) for path in blocks}
    # The same first weights for a seed, whatever was random before.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        head = Head(HeadConfig(kind=parsed.kind, unet=unet, pool_grids=grids, fusion=parsed.fusion))
    if parsed.start not in ("unet", "random"):
        other = load_head(parsed.start, dtype=torch.float32)
        # load_state_dict would fail with a list of tensor names instead.
        if other.config != head.config:
            raise OptionError(
                f"{parsed.start} is a head of another kind, structure or blocks than the one to train. Give the "
                "same --kind, --blocks, --fusion and --size as it was made with, or start from the unet."
            )
        head.load_state_dict(wide_state(other))  # the file may be in 8 bits
        return head, ""
    report = str(start_from_unet(head, unet_state(parsed.checkpoint))) if parsed.start == "unet" else ""
    if _final(parsed) == "enlarge":
        start_as_enlargement(head)
    return head, report


def _first_weights(parsed: argparse.Namespace) -> str:
    """Return a mark of the head's first weights, which must be the same to resume."""
    from ldznet.heads.head_file import read_head_info

    if parsed.start not in ("unet", "random"):
        return read_head_info(parsed.start).sha256
    return f"{parsed.start}, {_final(parsed)}"


def _final(parsed: argparse.Namespace) -> str:
    """Return the first weights of the enlarging layers, by --final or the preset."""
    return parsed.final or ("enlarge" if parsed.preset == "tiny" else "random")


def _data(parsed: argparse.Namespace, options: TrainOptions, place: Path | None) -> tuple[Samples, Samples]:
    """Return the samples to train on and those to validate with."""
    from ldznet.research.datasets.phrasecut import PhraseCut

    if place is None:
        from ldznet.research.scenes.icon_samples import IconSamples
        from ldznet.research.scenes.icons import IconWorld
        from ldznet.research.scenes.training_scene import TRAIN_SEEDS

        world = IconWorld.read(parsed.art)
        artists = chosen_artists(parsed, world, world.trained_on)
        return (
            IconSamples(world, artists, parsed.scenes, start=2 * TRAIN_SEEDS, size=options.size, absent=0),
            IconSamples(world, artists, min(32, parsed.scenes), start=TRAIN_SEEDS // 2, size=options.size),
        )
    problem = parsed.on_problem
    validation = PhraseCut(place, "miniv", on_problem=problem)  # the smaller file first: it may be missing
    return PhraseCut(place, "train", on_problem=problem), validation


def _validation(
    host: Host, samples: Samples, options: TrainOptions, say: Callable[[str], None]
) -> Callable[[LearnedHead, Path], Mapping[str, float]]:
    """Return a function that measures a head on samples and draws the first of them as a sheet."""
    from ldznet.research.datasets.samples import usable
    from ldznet.research.datasets.skip_report import Report
    from ldznet.research.evaluation.contact_sheets import save_sheet
    from ldznet.research.evaluation.runner import Prediction, Scores, predict

    # What was left out is reported once, not at every validation.
    reported = Report()

    def validate(method: LearnedHead, sheet: Path) -> Mapping[str, float]:
        scores, first = Scores(), list[Prediction]()
        scores.report.merge(samples.report)
        for prediction in predict(host, method, usable(samples, scores.report), size=options.size):
            scores.update(prediction)
            if len(first) < 12:
                first.append(prediction)
        if first:
            save_sheet(first, sheet)
        if scores.report.counts != reported.counts:  # at the first time, or when a file has become unreadable
            reported.merge(scores.report)
            say(f"left out of the validations:\n{scores.report}")
        numbers, names = scores.numbers(), ("miou", "miou_threshold", "fgiou", "ap", "empty_0.5")
        return {name: numbers[name] for name in names if name in numbers}

    return validate
