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
from ldznet.methods.load import EMBEDDED
from ldznet.methods.registry import AUTO, METHOD_HELP, METHOD_NAMES, method_entry
from ldznet.options import Option, Options, options_of

if TYPE_CHECKING:
    import torch

    from ldznet.hosts.diffusers.host import DiffusersHost
    from ldznet.methods.choose import MethodChoice

log = logging.getLogger(__name__)

Kind = TypeVar("Kind", bound=Options)


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
        several, is_automatic = isinstance(default, tuple), default is None
        # A range up to 2**63 would tell a reader nothing.
        span = f", {option.low:g} to {option.high:g}" if option.high is not None and option.high < 10**6 else ""
        default_text = ",".join(map(str, default)) if several else "auto" if is_automatic else str(default)
        letter = {int: "N", float: "X", str: "TEXT"}[option.item_kind]
        group.add_argument(
            flag,
            # argparse reads the type only; the range is checked by `read_options`, with our own error.
            type=_reader(option),
            default=None if unset else default,
            choices=option.choices or None,
            metavar=None if option.choices else f"{letter},..." if several else letter,
            help=f"{text} (default: {default_text}{span})" if default_text else text,
        )


def _reader(option: Option) -> Callable[[str], Any]:
    """Return a function that reads the value of a flag."""
    if isinstance(option.default, tuple):
        return _list_of(option.item_kind)
    return _automatic_or(option.item_kind) if option.default is None else option.item_kind


def _automatic_or(kind: type) -> Callable[[str], Any]:
    """Return a function that reads a value, or None from "auto"."""

    def read(text: str) -> Any:
        return None if text in ("auto", "automatic") else kind(text)

    read.__name__ = f"{kind.__name__} or auto"
    return read


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
    """Add the flag that names the Stable Diffusion model; `default` describes the model that runs without it."""
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
        "--method", choices=METHOD_NAMES, default=AUTO, help=f"{METHOD_HELP} (default: %(default)s)"
    )
    group.add_argument(
        "--random-weights",
        action="store_true",
        help="use a small model with random weights, to try the program without any file; its masks mean nothing",
    )
    group.add_argument(
        "--device",
        help="cpu, cuda, cuda:1, mps (default: the GPU, if there is one; several processes use one each)",
    )
    group.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="precision (default: float16 on a GPU, float32 on a CPU)",
    )
    group.add_argument(
        "--head-storage",
        choices=("float16", "bfloat16", "int8"),
        help="keep the head's weights in half precision, or in 8 bits (int8): a half or a quarter of the memory "
        "on a CPU, somewhat slower; on a GPU int8 halves it",
    )
    group.add_argument(
        "--prediction", choices=("noise", "v"), help="what the model predicts (default: detected from its files)"
    )
    group.add_argument(
        "--vae", type=Path, metavar="FILE", help="file of another VAE, used instead of the checkpoint's"
    )
    group.add_argument("--download", action="store_true", help="allow the tokenizer to be downloaded (2 MB)")


def require_model(parsed: argparse.Namespace) -> None:
    """Refuse flags with which `load_model` could not work, before anything is loaded.

    Raises:
        OptionError: files and --random-weights together; a head with a method that needs none; no model at all.
    """
    if parsed.random_weights and (parsed.checkpoint or parsed.head or parsed.vae):
        raise OptionError("--random-weights needs no --checkpoint, --head or --vae: give either it or them.")
    if parsed.head and parsed.method != AUTO and not method_entry(parsed.method).needs_head:
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
        OptionError: no such device, or it cannot compute.
    """
    import torch

    from ldznet.hosts.diffusers.host import default_dtype
    from ldznet.methods.load import find_device

    device = find_device(parsed.device, local_rank=local_rank())
    return device, getattr(torch, parsed.dtype) if parsed.dtype else default_dtype(device)


def load_chosen_model(parsed: argparse.Namespace) -> tuple[DiffusersHost, MethodChoice]:
    """Load the model and the method that the flags of `add_model` choose."""
    import torch

    from ldznet.methods.load import load_model

    require_model(parsed)
    device, dtype = device_and_dtype(parsed)  # a wrong device is reported before files are read
    if parsed.random_weights:
        return _make_random_model(parsed, device, dtype)
    return load_model(
        parsed.checkpoint or EMBEDDED,
        parsed.head,
        method=parsed.method,
        device=device,
        dtype=dtype,
        storage=getattr(torch, parsed.head_storage) if parsed.head_storage else None,
        prediction=parsed.prediction,
        vae=parsed.vae,
        download=parsed.download,
    )


def _make_random_model(
    parsed: argparse.Namespace, device: torch.device, dtype: torch.dtype
) -> tuple[DiffusersHost, MethodChoice]:
    """Return a small model with random weights, and a random head unless the method needs none."""
    from ldznet.hosts.diffusers.random_weights import random_host
    from ldznet.methods.choose import MethodChoice, choose_method
    from ldznet.methods.learned_head import random_head

    host = random_host(device=device, dtype=dtype)
    if parsed.method != AUTO and not method_entry(parsed.method).needs_head:
        return host, choose_method(parsed.method, host.info, ())
    method = random_head(host.info.unet)
    method.head.to(device, dtype)
    return host, MethodChoice(method, "random weights")


# --- processes of one launch --------------------------------------------------------------------


def process_of_launch() -> tuple[int, int]:
    """Return the number of this process and how many there are, as accelerate and torchrun set them.

    Raises:
        OptionError: RANK and WORLD_SIZE in the environment are not such numbers.
    """
    # accelerate sets these two and no RANK when it runs one process on a CPU, whatever --num_processes says.
    if "RANK" not in os.environ and "MASTER_ADDR" in os.environ and os.environ.get("ACCELERATE_USE_CPU") == "True":
        _warn_of_one_process()
    texts = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if all(text.isdecimal() for text in texts) and int(texts[0]) < int(texts[1]):
        return int(texts[0]), int(texts[1])
    raise OptionError(
        f"RANK is {texts[0]!r} and WORLD_SIZE {texts[1]!r} in the environment, which no launch sets. "
        "Unset both, or start with accelerate launch."
    )


def local_rank() -> int:
    """Return the number of this process among those of a launch on this machine.

    Raises:
        OptionError: LOCAL_RANK in the environment is not a number.
    """
    text = os.environ.get("LOCAL_RANK", "0")
    if text.isdecimal():
        return int(text)
    raise OptionError(
        f"LOCAL_RANK is {text!r} in the environment, which no launch sets. Unset it, or start with "
        "accelerate launch."
    )


@functools.cache
def _warn_of_one_process() -> None:
    """Warn once that accelerate starts fewer processes than the user wanted."""
    log.warning(
        "accelerate launch --cpu starts one process on a machine, however many you ask for. For several on a "
        "CPU: torchrun --nproc_per_node N -m ldznet ..."
    )
