"""Flags that the commands share: options from their classes, and the choice of a model, a head and a method."""

from __future__ import annotations

import argparse
import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ldznet.errors import OptionError
from ldznet.options import Options, options_of

if TYPE_CHECKING:
    import torch

    from ldznet.hosts.diffusers.host import DiffusersHost
    from ldznet.methods.choose import MethodChoice

log = logging.getLogger(__name__)

Kind = TypeVar("Kind", bound=Options)

MODELS = Path(__file__).parents[2] / "models"  # of the repository
EMBEDDED = MODELS / "tiny" / "tiny.safetensors"


def add_options(parser: argparse.ArgumentParser, kind: type[Options], title: str, *, unset: bool = False) -> None:
    """Add one flag per field, with its range and default in the help.

    With `unset`, flags that are not given are None, so that a preset can fill them.
    """
    group = parser.add_argument_group(title)
    for name, option in options_of(kind).items():
        flag, text = "--" + name.replace("_", "-"), option.help.replace("%", "%%")
        default: Any = option.default
        if isinstance(default, bool):
            group.add_argument(flag, action="store_true", default=None if unset else False, help=text)
            continue
        several = isinstance(default, tuple)
        # A range up to 2**63 would tell a reader nothing.
        span = f", {option.low:g} to {option.high:g}" if option.high is not None and option.high < 10**6 else ""
        shown = ",".join(map(str, default)) if several else default
        letter = {int: "N", float: "X", str: "TEXT"}[option.item_kind]
        group.add_argument(
            flag,
            type=_list_of(option.item_kind) if several else option.item_kind,
            default=None if unset else default,
            choices=option.choices or None,
            metavar=None if option.choices else f"{letter},..." if several else letter,
            help=text if shown == "" else f"{text} (default: {shown}{span})",
        )


def _list_of(kind: type) -> Callable[[str], tuple[Any, ...]]:
    """Return a function that reads values with commas between them."""

    def read(text: str) -> tuple[Any, ...]:
        return tuple(kind(part) for part in text.split(","))

    read.__name__ = f"list of {kind.__name__}"  # argparse has it in its error
    return read


def read_options(parsed: argparse.Namespace, kind: type[Kind]) -> Kind:
    """Return the options that the flags of `add_options` gave.

    Raises:
        OptionError: a value lies outside its range.
    """
    return kind(**{name: getattr(parsed, name) for name in options_of(kind)})


def add_checkpoint(group: argparse._ArgumentGroup, default: str = "the small one in models/tiny") -> None:
    """Add the flag that names the Stable Diffusion model; `default` says in words what runs without it."""
    group.add_argument(
        "--checkpoint",
        type=Path,
        metavar="PATH",
        help="Stable Diffusion model: a .safetensors or .ckpt file, or a folder in diffusers' layout (default: "
        f"{default})",
    )


def add_model(
    parser: argparse.ArgumentParser, *, default_checkpoint: str = "the small one in models/tiny"
) -> None:
    """Add flags that choose the Stable Diffusion model, the head, and where they run."""
    group = parser.add_argument_group("model")
    add_checkpoint(group, default_checkpoint)
    group.add_argument(
        "--head",
        type=Path,
        metavar="PATH",
        help="head file, as `convert` or `train` wrote it (default: one in models/ that fits)",
    )
    group.add_argument(
        "--method",
        choices=("auto", "head", "attention", "difference"),
        default="auto",
        help="head: a trained head; attention, difference: masks without one, for every model; auto: a head where "
        "one fits the model, else attention (default: %(default)s)",
    )
    group.add_argument(
        "--random-weights",
        action="store_true",
        help="a small model with random weights, to try the program without any file: its masks mean nothing",
    )
    group.add_argument(
        "--device",
        help="cpu, cuda, cuda:1, mps (default: the GPU where there is one; each of several processes its own)",
    )
    group.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="precision (default: float16 on a GPU, float32 on a CPU)",
    )
    group.add_argument(
        "--head-storage",
        choices=("float16", "bfloat16"),
        help="keep the head's weights in half precision: half the memory on a CPU, somewhat slower",
    )
    group.add_argument(
        "--prediction", choices=("noise", "v"), help="what the model predicts (default: detected from its files)"
    )
    group.add_argument("--download", action="store_true", help="allow the tokenizer to be downloaded (2 MB)")


def require_model(parsed: argparse.Namespace) -> None:
    """Refuse flags with which `load_model` could not work, before anything is loaded.

    Raises:
        OptionError: files and --random-weights together; a head with a method that needs none; no model at all.
    """
    if parsed.random_weights and (parsed.checkpoint or parsed.head):
        raise OptionError("--random-weights needs no --checkpoint and no --head: give either it or them.")
    if parsed.head and parsed.method not in ("auto", "head"):
        raise OptionError(f"The method {parsed.method} needs no --head: remove one of the two.")
    if not parsed.random_weights and not parsed.checkpoint and not EMBEDDED.exists():
        raise OptionError(
            "There is no --checkpoint, and the embedded model is missing: it comes with the repository, not with "
            "an installed package. Give a Stable Diffusion model with --checkpoint, or try the program with "
            "--random-weights."
        )


def device_and_dtype(parsed: argparse.Namespace) -> tuple[torch.device, torch.dtype]:
    """Return the device and precision of the flags, by default the best ones here.

    A GPU without a number is that of this process in its launch.

    Raises:
        OptionError: there is no such device, or it computes nothing.
    """
    import torch

    from ldznet.hosts.diffusers.host import default_device, default_dtype, own_device

    name = parsed.device or str(default_device())
    try:
        device = own_device(torch.device(name), local_rank(), torch.cuda.device_count())
        torch.empty(0, device=device).cpu()  # fails for PyTorch's device "meta", which holds no values
        if device.type == "cuda":
            torch.cuda.set_device(device)  # "cuda" alone means this one from now on, for accelerate as well
    except (RuntimeError, AssertionError, NotImplementedError) as why:
        raise OptionError(
            f"The device {name} cannot be used here ({str(why).splitlines()[0]}). Leave --device out, or give cpu."
        ) from why
    return device, getattr(torch, parsed.dtype) if parsed.dtype else default_dtype(device)


def load_model(parsed: argparse.Namespace) -> tuple[DiffusersHost, MethodChoice]:
    """Load the model, and the method that the flags of `add_model` choose for it."""
    import torch

    from ldznet.hosts.diffusers.host import DiffusersHost
    from ldznet.hosts.diffusers.random_weights import random_host
    from ldznet.methods.choose import MethodChoice, choose_method, find_heads
    from ldznet.methods.learned_head import LearnedHead, random_head

    require_model(parsed)
    device, dtype = device_and_dtype(parsed)
    if parsed.random_weights:
        host = random_host(device=device, dtype=dtype)
        if parsed.method in ("attention", "difference"):
            return host, choose_method(parsed.method, host.info, ())
        method = random_head(host.info.unet)
        method.head.to(device, dtype)
        return host, MethodChoice(method, "random weights")
    storage = getattr(torch, parsed.head_storage) if parsed.head_storage else None
    head = None
    if parsed.head:  # before the model: a wrong file is then reported at once
        head = LearnedHead.load(parsed.head, device=device, dtype=dtype, storage=storage)
    host = DiffusersHost.load(
        parsed.checkpoint or EMBEDDED,
        device=device,
        dtype=dtype,
        prediction=parsed.prediction,
        download=parsed.download,
    )
    if head is not None:
        return host, MethodChoice(head, "asked for")
    heads = find_heads([MODELS]) if parsed.method in ("auto", "head") else []
    return host, choose_method(parsed.method, host.info, heads, device=device, dtype=dtype, storage=storage)


# --- processes of one launch --------------------------------------------------------------------


def process_of_launch() -> tuple[int, int]:
    """Which of how many processes this is, as `accelerate launch` and torchrun say it.

    Raises:
        OptionError: the environment's RANK and WORLD_SIZE are no such numbers.
    """
    if "RANK" not in os.environ and "MASTER_ADDR" in os.environ and os.environ.get("ACCELERATE_USE_CPU") == "True":
        _say_one_process()
    texts = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if all(text.isdecimal() for text in texts) and int(texts[0]) < int(texts[1]):
        return int(texts[0]), int(texts[1])
    raise OptionError(
        f"RANK is {texts[0]!r} and WORLD_SIZE {texts[1]!r} in the environment, which is no process of a launch. "
        "Unset both, or start with accelerate launch."
    )


def local_rank() -> int:
    """Which of the processes of a launch on this machine this is.

    Raises:
        OptionError: the environment's LOCAL_RANK is no such number.
    """
    text = os.environ.get("LOCAL_RANK", "0")
    if text.isdecimal():
        return int(text)
    raise OptionError(
        f"LOCAL_RANK is {text!r} in the environment, which is no process of a launch. Unset it, or start with "
        "accelerate launch."
    )


@functools.cache
def _say_one_process() -> None:
    log.warning(
        "accelerate launch --cpu starts one process on a machine, however many are asked for. For several on a "
        "CPU: torchrun --nproc_per_node N -m ldznet ..."
    )
