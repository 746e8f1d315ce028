"""What the commands share: options from dataclasses, progress bars, and choosing a model and a method."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ldznet.cli.launch import local_rank
from ldznet.errors import OptionError
from ldznet.options import Options

if TYPE_CHECKING:
    import torch

    from ldznet.hosts.diffusers.host import DiffusersHost
    from ldznet.methods.choose import MethodChoice

Kind = TypeVar("Kind", bound=Options)

MODELS = Path(__file__).parents[2] / "models"  # of the repository
EMBEDDED = MODELS / "tiny" / "tiny.safetensors"


def add_options(parser: argparse.ArgumentParser, kind: type[Options], title: str, *, unset: bool = False) -> None:
    """One flag per field, with its range and default in the help; `unset` leaves what is not given at None."""
    group = parser.add_argument_group(title)
    for item in dataclasses.fields(kind):  # type: ignore[arg-type]
        flag = "--" + item.name.replace("_", "-")
        text = item.metadata["help"].replace("%", "%%")
        default: Any = item.default
        if isinstance(default, bool):
            group.add_argument(flag, action="store_true", default=None if unset else False, help=text)
            continue
        low, high = item.metadata["low"], item.metadata["high"]
        small = high is not None and high < 10**6
        span = f", {low:g} to {high:g}" if small else ""
        several = isinstance(default, tuple)
        element = item.metadata["kind"] or (type(default[0]) if several else type(default))
        shown = ",".join(map(str, default)) if several else default
        said = "" if shown == "" else f" (default: {shown}{span})"
        letter = {int: "N", float: "X", str: "TEXT"}[element]
        group.add_argument(
            flag,
            type=_listed(element) if several else element,
            default=None if unset else default,
            choices=item.metadata["choices"] or None,
            metavar=None if item.metadata["choices"] else f"{letter},..." if several else letter,
            help=text + said,
        )


def _listed(element: type) -> Callable[[str], tuple[Any, ...]]:
    """Values with commas between them."""

    def parse(text: str) -> tuple[Any, ...]:
        return tuple(element(part) for part in text.split(","))

    parse.__name__ = f"list of {element.__name__}"  # as argparse says it
    return parse


def read_options(parsed: argparse.Namespace, kind: type[Kind]) -> Kind:
    """The options that the flags of `add_options` gave; wrong values raise an OptionError."""
    return kind(**{item.name: getattr(parsed, item.name) for item in dataclasses.fields(kind)})  # type: ignore[arg-type]


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
        help="head, as `convert` or `train` wrote it (default: one in models/ that fits)",
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
        help="let the head's weights rest in half precision: half the memory on a CPU, somewhat slower",
    )
    group.add_argument(
        "--prediction", choices=("noise", "v"), help="what the model predicts, if it is not found out rightly"
    )
    group.add_argument("--download", action="store_true", help="allow the tokenizer to be downloaded (2 MB)")


def require_model(parsed: argparse.Namespace) -> None:
    """Refuse at once what `load_model` could not do.

    Raises:
        OptionError: files and --random-weights together; a head with a method that needs none; no model at all.
    """
    if parsed.random_weights and (parsed.checkpoint or parsed.head):
        raise OptionError("--random-weights needs no --checkpoint and no --head: give either it or them.")
    if parsed.head and parsed.method not in ("auto", "head"):
        raise OptionError(f"The method {parsed.method} needs no --head: leave one of the two out.")
    if not parsed.random_weights and not parsed.checkpoint and not EMBEDDED.exists():
        raise OptionError(
            "No checkpoint was given, and the embedded model is not here: it comes with the repository, not "
            "with an installed package. Give a Stable Diffusion model with --checkpoint, or try the program with "
            "--random-weights."
        )


def device_and_dtype(parsed: argparse.Namespace) -> tuple[torch.device, torch.dtype]:
    """The device and precision asked for, or the best that there is; a GPU without a number is this process's own.

    Raises:
        OptionError: there is no such device, or it computes nothing.
    """
    import torch

    from ldznet.hosts.diffusers.host import default_device, default_dtype, own_device

    asked = parsed.device or str(default_device())
    try:
        device = own_device(torch.device(asked), local_rank(), torch.cuda.device_count())
        torch.empty(0, device=device).cpu()  # PyTorch's device "meta" has nothing to give back
        if device.type == "cuda":
            torch.cuda.set_device(device)  # "cuda" alone means this one from now on, for accelerate as well
    except (RuntimeError, AssertionError, NotImplementedError) as why:
        raise OptionError(
            f"The device {asked} cannot be used here ({str(why).splitlines()[0]}). Leave --device out, or "
            "give cpu."
        ) from why
    return device, getattr(torch, parsed.dtype) if parsed.dtype else default_dtype(device)


def load_model(parsed: argparse.Namespace) -> tuple[DiffusersHost, MethodChoice]:
    """The model, and the method that the flags of `add_model` chose for it."""
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
    given = None
    if parsed.head:  # first, since it is small to read and says at once when it is not one
        given = LearnedHead.load(parsed.head, device=device, dtype=dtype, storage=storage)
    host = DiffusersHost.load(
        parsed.checkpoint or EMBEDDED,
        device=device,
        dtype=dtype,
        prediction=parsed.prediction,
        download=parsed.download,
    )
    if given is not None:
        return host, MethodChoice(given, "asked for")
    wanted = find_heads([MODELS]) if parsed.method in ("auto", "head") else []
    return host, choose_method(parsed.method, host.info, wanted, device=device, dtype=dtype, storage=storage)
