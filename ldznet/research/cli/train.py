"""python -m ldznet train: the command line of both trainings, a head's and the embedded diffusion model's."""

from __future__ import annotations

import argparse
from pathlib import Path

from ldznet.cli.flags import add_options
from ldznet.errors import OptionError
from ldznet.methods.load import EMBEDDED
from ldznet.research.cli.artists import add_artists
from ldznet.research.cli.datasets import add_place, find_dataset, inner_phrasecut


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments to its parser."""
    parser.description = (
        "Train a head: LD-ZNet, ZNet or RGBNet. The defaults are the paper's recipe. Ctrl-C saves the state, and "
        "the same command resumes there. Several GPUs: accelerate launch -m ldznet train ..."
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
        help="`phrasecut`, in its usual folder (see --data), or the path of that folder; `scenes` of icons, whose "
        "art `python -m ldznet datasets art` fetches; `diffusion`, to train the small diffusion model on these",
    )
    add_place(parser, ("phrasecut",))
    parser.add_argument("--out", "-o", type=Path, required=True, metavar="FOLDER", help="folder of the training")
    parser.add_argument(
        "--kind",
        choices=("ld-znet", "znet", "rgbnet"),
        default="ld-znet",
        help="network of the head (default: %(default)s)",
    )
    parser.add_argument(
        "--preset", choices=("paper", "tiny"), default="paper", help="recipe to start from (default: %(default)s)"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="report the memory of the weights, try a few steps, report the total time and the peak memory, and "
        "write nothing",
    )
    parser.add_argument(
        "--minutes", type=float, metavar="N", help="stop after N minutes; the same command resumes"
    )
    parser.add_argument("--scenes", type=int, default=8192, metavar="N", help="scenes to train on (default: 8192)")
    parser.add_argument(
        "--start",
        default="unet",
        metavar="FROM",
        help="first weights of the head: `unet`, those of the Stable Diffusion model, as in the paper; `random`; "
        "or a head file to train further (default: %(default)s)",
    )
    parser.add_argument(
        "--final",
        choices=("random", "enlarge"),
        help="first weights of the layers that enlarge to the image's size: PyTorch's own, as in the paper, or a "
        "plain enlargement, which trains sooner (default: random; enlarge for the preset tiny)",
    )
    parser.add_argument(
        "--blocks", default="", metavar="PATH,...", help="transformers that LD-ZNet reads (default: the preset's)"
    )
    parser.add_argument(
        "--fusion",
        choices=("attention", "concat"),
        default="attention",
        help="how LD-ZNet reads these: by attention, or joined to its own channels, as in the paper's ablation "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="FOLDER",
        help="store contexts, and with --crop whole --posterior mean latents, for later runs and other processes; "
        "changes no result",
    )
    parser.add_argument(
        "--on-problem",
        choices=("skip", "refuse"),
        default="skip",
        help="skip: leave damaged samples out, and name and count them; refuse: stop at the first one "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--go-on",
        type=Path,
        metavar="PATH",
        help="diffusion: continue to train the UNet of this model file (with --steps); where it knows other "
        "words, after training a new text encoder; an encoder that --out holds stays. Or what --pack wrote",
    )
    parser.add_argument(
        "--pack",
        type=Path,
        metavar="FILE",
        help="diffusion: train nothing, but write what --out has trained so far to a small file for --go-on",
    )
    parser.add_argument(
        "--stage",
        choices=("encoder", "decoder", "text", "unet"),
        help="diffusion: train this part only; the text encoder needs the encoder, and the UNet both, so the "
        "decoder may be trained meanwhile or later (default: all, and write the model)",
    )
    add_artists(parser)
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
        help="cpu, cuda, cuda:1 (default: the GPU, if there is one; several processes use one each)",
    )
    group.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), help="precision of the Stable Diffusion model"
    )
    group.add_argument("--download", action="store_true", help="allow the tokenizer to be downloaded (2 MB)")
    # Imported here: --help of other commands needs no recipe.
    from ldznet.research.training.train_options import TrainOptions

    # `unset` tells an option that was given from its default, so that a preset can fill in the others.
    add_options(parser, TrainOptions, "recipe", unset=True)
    # Lets `train diffusion` see which arguments were given.
    parser.set_defaults(default_of=parser.get_default)


def run(parsed: argparse.Namespace) -> int:
    """Train; return 0 when the training is done, 3 when it stopped and can be resumed."""
    if parsed.workers < 0 or (parsed.minutes is not None and not parsed.minutes >= 0):
        raise OptionError(
            f"--workers is {parsed.workers} and --minutes {parsed.minutes}, but neither can be below 0. Leave "
            "them out for no workers and no limit of time."
        )
    # First, because a missing dataset should be reported at once.
    place = _place(parsed)
    if parsed.data == "diffusion":
        from ldznet.research.cli.train_diffusion import train_diffusion

        return train_diffusion(parsed)
    if parsed.pack:
        raise OptionError("--pack is for `train diffusion`. A head's training has its own file, last.safetensors.")
    if parsed.go_on:
        raise OptionError(
            "--go-on is for `train diffusion`. A head's training resumes by the same command with the same --out; "
            "to train a finished head further give its file to --start."
        )
    from ldznet.research.cli.train_head import train_head

    return train_head(parsed, place)


def _place(parsed: argparse.Namespace) -> Path | None:
    """Return PhraseCut's folder, or None for data that need no files; checked before a model is loaded.

    Raises:
        OptionError: there is no such folder.
        DatasetError: PhraseCut is not where it is expected.
    """
    place = find_dataset(parsed.data, parsed.folder, ("scenes", "diffusion"), ("phrasecut",))
    if place is not None and not place.is_dir():
        raise OptionError(f"{place} is not a folder. Give PhraseCut's folder, or phrasecut, scenes, or diffusion.")
    return place and inner_phrasecut(place)
