"""python -m ldznet train: a head for a Stable Diffusion model, or the embedded diffusion model itself."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldznet.cli.flags import EMBEDDED, add_options, device_and_dtype, process_of_launch
from ldznet.cli.launch import require_own_gpus
from ldznet.errors import OptionError
from ldznet.research.cli.datasets import add_place, find_dataset, inner_phrasecut

if TYPE_CHECKING:
    import torch

    from ldznet.heads.network import Head
    from ldznet.hosts.host import Host
    from ldznet.methods.learned_head import LearnedHead
    from ldznet.research.datasets.samples import Samples
    from ldznet.research.training.train_options import TrainOptions

# What differs from the paper's recipe for the embedded model and its scenes of 128 pixels.
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
# Where `evaluate features` finds most in the embedded model: its deepest maps have 2 x 2 pixels.
TINY_BLOCKS = (
    "input_blocks.1.1",
    "input_blocks.3.1",
    "output_blocks.5.1",
    "output_blocks.6.1",
    "output_blocks.7.1",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments to its parser."""
    parser.description = (
        "Train a head: LD-ZNet, ZNet or RGBNet. The defaults are the paper's recipe. The same command "
        "again goes on where it stopped. Several GPUs: accelerate launch -m ldznet train ..."
    )
    parser.epilog = (
        "examples:\n"
        "  python -m ldznet train phrasecut --checkpoint sd15.safetensors --out runs/sd15\n"
        "  python -m ldznet train scenes --preset tiny --out runs/tiny\n"
        "  python -m ldznet train diffusion --out runs/diffusion"
    )
    parser.add_argument(
        "data",
        metavar="DATA",
        help="phrasecut, where it lies (see --data), or its folder; or `scenes`, procedural ones; or `diffusion`, "
        "to train the small diffusion model itself on scenes",
    )
    add_place(parser, ("phrasecut",))
    parser.add_argument("--out", "-o", type=Path, required=True, metavar="FOLDER", help="where the training lies")
    parser.add_argument(
        "--kind", choices=("ld-znet", "znet", "rgbnet"), default="ld-znet", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--preset", choices=("paper", "tiny"), default="paper", help="recipe to start from (default: %(default)s)"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say how much memory the weights take, try a few steps, say how long all of it takes and the peak of "
        "memory, and write nothing",
    )
    parser.add_argument("--minutes", type=float, metavar="N", help="stop after so long, to be gone on with")
    parser.add_argument("--scenes", type=int, default=8192, metavar="N", help="scenes to train on (default: 8192)")
    parser.add_argument(
        "--start",
        default="unet",
        metavar="FROM",
        help="first weights of the head: unet, of the Stable Diffusion model, as in the paper; random; or a "
        "head's file to train further (default: %(default)s)",
    )
    parser.add_argument(
        "--final",
        choices=("random", "enlarge"),
        help="first weights of the way up to the image's size: PyTorch's own, as in the paper, or a plain "
        "enlargement, which trains sooner (default: random; enlarge for the preset tiny)",
    )
    parser.add_argument(
        "--blocks", default="", metavar="PATH,...", help="transformers that LD-ZNet reads (default: the preset's)"
    )
    parser.add_argument(
        "--fusion",
        choices=("attention", "concat"),
        default="attention",
        help="how LD-ZNet reads them: by attention, or joined to its own channels, as in the paper's ablation "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="FOLDER",
        help="keep contexts, and with --crop whole --posterior mean latents, on disk for later runs and other "
        "processes; changes no result",
    )
    parser.add_argument(
        "--on-problem",
        choices=("skip", "refuse"),
        default="skip",
        help="what is damaged in the dataset is left out, named and counted, or ends the run "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--go-on",
        type=Path,
        metavar="PATH",
        help="diffusion: train the UNet of such a file further (with --steps)",
    )
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that prepare samples")
    group = parser.add_argument_group("model")
    group.add_argument(
        "--checkpoint",
        type=Path,
        default=EMBEDDED,
        metavar="PATH",
        help="Stable Diffusion model: a .safetensors or .ckpt file, or a folder in diffusers' layout (default: "
        "the small one in models/tiny)",
    )
    group.add_argument(
        "--device",
        help="cpu, cuda, cuda:1 (default: the GPU where there is one); of several processes each takes a GPU of "
        "its own",
    )
    group.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="of the frozen model")
    group.add_argument("--download", action="store_true", help="allow the tokenizer to be downloaded (2 MB)")
    from ldznet.research.training.train_options import TrainOptions

    add_options(parser, TrainOptions, "recipe", unset=True)
    parser.set_defaults(default_of=parser.get_default)


def run(parsed: argparse.Namespace) -> int:
    """Train; 0 when it is done, 3 when it stopped to be gone on with."""
    if parsed.workers < 0 or (parsed.minutes is not None and not parsed.minutes >= 0):
        raise OptionError(
            f"--workers is {parsed.workers} and --minutes {parsed.minutes}, but neither can be below 0. Leave "
            "them out for none and for as long as it takes."
        )
    place = _place(parsed)
    if parsed.data == "diffusion":
        return _diffusion(parsed)
    if parsed.go_on:
        raise OptionError(
            "--go-on is for `train diffusion`. A head's training goes on by the same command with the same --out; "
            "to train a finished head further give its file to --start."
        )
    from ldznet.hosts.diffusers.host import DiffusersHost
    from ldznet.research.cli.forecast import forecast, require_disk, weights
    from ldznet.research.training.frozen_cache import may_keep_latents
    from ldznet.research.training.trainer import Trainer

    say = print if process_of_launch()[0] == 0 else _silent
    options = _recipe(parsed)
    training, validation = _data(parsed, options, place)  # first, as a model takes longer to load
    device, dtype = _device_and_dtype(parsed)
    host = DiffusersHost.load(parsed.checkpoint, device=device, dtype=dtype, download=parsed.download)
    head, start = _head(parsed, host, options)
    if start:
        say(start)
    source = {
        "model": host.info.name,
        "model_fingerprint": host.info.fingerprint,
        "data": place.name if place else parsed.data,
        "start": parsed.start,
    }
    if parsed.dry_run:
        say(weights(host, head, parsed.out))  # first, as a machine may have too little memory for what follows
    else:
        require_disk(head, parsed.out)
    if parsed.cache and not may_keep_latents(options):
        say(
            "note: of --cache only contexts are kept; latents come again with --crop whole --posterior mean alone."
        )
    trainer = Trainer(
        host,
        head,
        training,
        options,
        parsed.out,
        validate=_validation(host, validation, options, say),
        source=source,
        belongs={"another VAE or text encoder": host.others, "another start of its head": _first_weights(parsed)},
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
    say(f"{'done' if done else 'so far'}: {parsed.out / 'last.safetensors'}")
    return 0 if done else 3


def _device_and_dtype(parsed: argparse.Namespace) -> tuple[torch.device, torch.dtype]:
    """As asked for, or the best that there is; processes that train together have a GPU each."""
    import torch

    device, dtype = device_and_dtype(parsed)
    if device.type == "cuda":
        require_own_gpus(parsed.device, torch.cuda.device_count())
    return device, dtype


def _recipe(parsed: argparse.Namespace) -> TrainOptions:
    from ldznet.research.training.train_options import TrainOptions

    given = {
        item.name: value
        for item in dataclasses.fields(TrainOptions)
        if (value := getattr(parsed, item.name)) is not None
    }
    return TrainOptions(**{**(TINY if parsed.preset == "tiny" else {}), **given})


def _silent(_text: str) -> None:
    """Of several processes the first one speaks."""


def _head(parsed: argparse.Namespace, host: Host, options: TrainOptions) -> tuple[Head, str]:
    """The head with its first weights, and what is to be said of them."""
    import torch

    from ldznet.heads.head_file import load_head
    from ldznet.heads.network import (
        Head,
        HeadConfig,
        paper_pool_grids,
        pool_grid,
        start_as_enlargement,
        start_from_unet,
    )
    from ldznet.hosts.diffusers.files import unet_state

    unet = dataclasses.replace(host.info.unet, in_channels=4, out_channels=1)
    side = options.size // 8
    grids = paper_pool_grids(unet, side)
    blocks = [path for path in parsed.blocks.split(",") if path]
    if parsed.preset == "tiny" and not blocks:
        blocks = [path for path in TINY_BLOCKS if path in unet.transformer_paths()]
    if blocks:
        grids = {path: pool_grid(unet, path, side) for path in blocks}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        head = Head(HeadConfig(kind=parsed.kind, unet=unet, pool_grids=grids, fusion=parsed.fusion))
    said = ""
    if parsed.start not in ("unet", "random"):
        given = load_head(parsed.start, dtype=torch.float32)
        if given.config != head.config:
            raise OptionError(
                f"{parsed.start} is a head of another kind, structure or blocks than the one to train. Give the "
                "same --kind, --blocks, --fusion and --size as it was made with, or start from the unet."
            )
        head.load_state_dict(given.state_dict())
        return head, said
    if parsed.start == "unet":
        said = str(start_from_unet(head, unet_state(parsed.checkpoint)))
    if _final(parsed) == "enlarge":
        start_as_enlargement(head)
    return head, said


def _first_weights(parsed: argparse.Namespace) -> str:
    """Tells what the head began with from other beginnings."""
    from ldznet.heads.head_file import read_head_info

    if parsed.start not in ("unet", "random"):
        return read_head_info(parsed.start).sha256
    return f"{parsed.start}, {_final(parsed)}"


def _final(parsed: argparse.Namespace) -> str:
    return parsed.final or ("enlarge" if parsed.preset == "tiny" else "random")


def _data(parsed: argparse.Namespace, options: TrainOptions, place: Path | None) -> tuple[Samples, Samples]:
    from ldznet.research.datasets.phrasecut import PhraseCut
    from ldznet.research.scenes.samples import SceneSamples
    from ldznet.research.scenes.stream import TRAIN_SEEDS

    if place is None:
        training = SceneSamples(
            "photo", parsed.scenes, start=2 * TRAIN_SEEDS, size=options.size, each=2, absent=False
        )
        return training, SceneSamples("photo", min(32, parsed.scenes), start=TRAIN_SEEDS // 2, size=options.size)
    problem = parsed.on_problem
    validation = PhraseCut(place, "miniv", on_problem=problem)  # the smaller file first: it may be missing
    return PhraseCut(place, "train", on_problem=problem), validation


def _validation(
    host: Host, samples: Samples, options: TrainOptions, say: Callable[[str], None]
) -> Callable[[LearnedHead, Path], Mapping[str, float]]:
    from ldznet.research.datasets.samples import usable
    from ldznet.research.datasets.skip_report import Report
    from ldznet.research.evaluation.contact_sheets import save_sheet
    from ldznet.research.evaluation.runner import Prediction, Scores, predict

    left_out = Report()

    def validate(method: LearnedHead, picture: Path) -> Mapping[str, float]:
        scores, shown = Scores(), list[Prediction]()
        scores.report.merge(samples.report)
        for found in predict(host, method, usable(samples, scores.report), size=options.size):
            scores.update(found)
            if len(shown) < 12:
                shown.append(found)
        if shown:
            save_sheet(shown, picture)
        if scores.report.counts != left_out.counts:  # for the first time, or something has become unreadable
            left_out.merge(scores.report)
            say(f"left out of the validations:\n{scores.report}")
        numbers = scores.numbers()
        return {name: numbers[name] for name in ("miou", "fgiou", "ap", "empty_0.5") if name in numbers}

    return validate


def _diffusion(parsed: argparse.Namespace) -> int:
    from ldznet.research.embedded.autoencoder import train_decoder, train_encoder
    from ldznet.research.embedded.diffusion import train_unet
    from ldznet.research.embedded.files import export, unpack
    from ldznet.research.embedded.model import TinyConfig
    from ldznet.research.embedded.resumable_stage import RunOptions, join_launch, wait_for_all

    _refuse_what_heads_have(parsed)
    minutes = parsed.minutes or 10**6
    device = _device_and_dtype(parsed)[0]
    rank, processes = process_of_launch()
    if processes > 1:
        join_launch(device.type)
    config = TinyConfig()
    if parsed.go_on and not (parsed.out / "start.pt").exists() and not rank:
        unpack(parsed.go_on, parsed.out)
    wait_for_all()
    steps = parsed.steps or config.unet_steps
    stages = [(train_encoder, config.encoder_steps), (train_decoder, config.decoder_steps), (train_unet, steps)]
    done = True
    for train, steps in stages[2:] if parsed.go_on else stages:
        options = RunOptions(
            folder=parsed.out, steps=steps, minutes=minutes, device=str(device), workers=parsed.workers
        )
        done = done and train(config, options)
        wait_for_all()
    if rank:
        return 0 if done else 3
    if done:
        target = parsed.out / "tiny.safetensors"
        print(json.dumps({"written": str(target), **export(config, parsed.out, target)}))
    else:
        print("stopped; the same command goes on")
    return 0 if done else 3


def _refuse_what_heads_have(parsed: argparse.Namespace) -> None:
    """The diffusion model has a recipe of its own.

    Raises:
        OptionError: something is given that only the training of a head has.
    """
    used = {
        "command",
        "data",
        "folder",
        "out",
        "minutes",
        "steps",
        "workers",
        "device",
        "go_on",
        "default_of",
    }
    given = [name for name, value in vars(parsed).items() if name not in used and value != parsed.default_of(name)]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise OptionError(
            f"{flags} would not be heeded: the diffusion model is trained by a recipe of its own, in which "
            "--steps is the only choice. Leave them out, or train a head."
        )


def _place(parsed: argparse.Namespace) -> Path | None:
    """PhraseCut's folder; None for what needs no files. It is looked for before a model is loaded.

    Raises:
        OptionError: there is no such folder.
        DatasetError: PhraseCut does not lie where it is looked for.
    """
    place = find_dataset(parsed.data, parsed.folder, ("scenes", "diffusion"), ("phrasecut",))
    if place is not None and not place.is_dir():
        raise OptionError(f"{place} is no folder. Give PhraseCut's folder, or phrasecut, scenes, or diffusion.")
    return place and inner_phrasecut(place)
