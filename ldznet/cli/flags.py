"""What the commands share: options from dataclasses, progress bars, and choosing a model and a method."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import logging
import os
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from ldznet.errors import OptionError
from ldznet.options import Options

if TYPE_CHECKING:
    import torch

    from ldznet.hosts.diffusers.host import DiffusersHost
    from ldznet.methods.choose import Choice

log = logging.getLogger(__name__)

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
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


def add_checkpoint(group: argparse._ArgumentGroup) -> None:
    """The flag that says which Stable Diffusion model."""
    group.add_argument(
        "--checkpoint",
        type=Path,
        metavar="PATH",
        help="Stable Diffusion model: a .safetensors or .ckpt file, or a folder in diffusers' layout (default: "
        "the small one in models/tiny)",
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Flags that choose the Stable Diffusion model, the head, and where they run."""
    group = parser.add_argument_group("model")
    add_checkpoint(group)
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


def load_model(parsed: argparse.Namespace) -> tuple[DiffusersHost, Choice]:
    """The model, and the method that the flags of `add_model` chose for it."""
    import torch

    from ldznet.hosts.diffusers.host import DiffusersHost
    from ldznet.hosts.diffusers.random_weights import random_host
    from ldznet.methods.choose import Choice, choose_method, find_heads
    from ldznet.methods.learned_head import LearnedHead, random_head

    require_model(parsed)
    device, dtype = device_and_dtype(parsed)
    if parsed.random_weights:
        host = random_host(device=device, dtype=dtype)
        if parsed.method in ("attention", "difference"):
            return host, choose_method(parsed.method, host.info, ())
        method = random_head(host.info.unet)
        method.head.to(device, dtype)
        return host, Choice(method, "random weights")
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
        return host, Choice(given, "asked for")
    wanted = find_heads([MODELS]) if parsed.method in ("auto", "head") else []
    return host, choose_method(parsed.method, host.info, wanted, device=device, dtype=dtype, storage=storage)


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


@contextlib.contextmanager
def byte_bar(text: str) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar over bytes on a terminal; None where tqdm is not installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield None
        return
    with tqdm(desc=text, unit="B", unit_scale=True, unit_divisor=1000, disable=None, leave=False) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update


class _NoBar:
    """Stands for tqdm where it is not installed."""

    def update(self, more: int = 1) -> None: ...

    def set_postfix_str(self, text: str) -> None: ...

    def close(self) -> None: ...


def item_bar(total: int, unit: str, *, start: int = 0, quiet: bool = False) -> typing.Any:
    """A progress bar over things, with their rate and the time left, on a terminal."""
    try:
        from tqdm import tqdm
    except ImportError:
        return _NoBar()
    return tqdm(total=total, initial=start, unit=unit, disable=True if quiet else None, leave=False)
