"""python -m ldznet bench: time and memory of each step, and of all of them compared with the plain way.

The plain way is that of the released code (see plain_way.py), which also holds its own copies of head, average,
UNet, VAE and text encoder. Both ways run in one process, alternately, so that their ratio holds on a busy machine.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from ldznet.cli.flags import add_model, device_and_dtype, load_chosen_model
from ldznet.errors import OptionError
from ldznet.research.bench.our_way import OurWay
from ldznet.research.bench.plain_way import PlainWay
from ldznet.research.bench.timing import (
    Timing,
    Work,
    figure_rows,
    machine,
    machine_text,
    time_in_rounds,
    timing_rows,
)

if TYPE_CHECKING:
    from ldznet.hosts.diffusers.host import DiffusersHost
    from ldznet.methods.learned_head import LearnedHead


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments to its parser."""
    parser.description = (
        "Measure time and memory of each step, and compare the whole with the released code's plain way: full "
        "UNet, one prompt at a time, float32, unfused attention. Without a checkpoint it times a small model with "
        "random weights."
    )
    parser.add_argument(
        "--full-size",
        action="store_true",
        help="time Stable Diffusion 1.5 and the released head at full size, with random weights: nothing is "
        "downloaded, and the speed is the same as with trained ones",
    )
    parser.add_argument(
        "--attention",
        action="store_true",
        help="measure the attention method instead: its time and memory above a plain pass of the UNet, and "
        "several prompts separately and together",
    )
    parser.add_argument(
        "--pictures",
        type=int,
        nargs="+",
        metavar="SIDE",
        help="measure the API's answer instead, for square images of these sides: 512 2048 8192",
    )
    add_model(parser, default_checkpoint="a small one with random weights")
    parser.add_argument(
        "--prompts", type=int, nargs="+", default=[1, 8], metavar="N", help="numbers of prompts (default: 1 8)"
    )
    parser.add_argument(
        "--resolution", type=int, metavar="N", help="side of the image (default: 384, with --attention 768)"
    )
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="timed runs of each step (default: 3)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads on a CPU (default: PyTorch's choice)")
    parser.add_argument(
        "--channels-last",
        choices=("auto", "on", "off"),
        default="auto",
        help="memory layout of our way's convolutions (default: auto, on for a GPU)",
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the head (torch.compile); the cold run is shown, too"
    )
    parser.add_argument("--no-plain", action="store_true", help="do not compare with the plain way")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, for programs")


def run(parsed: argparse.Namespace) -> int:
    """Measure and print the result."""
    import torch

    # 768 pixels give a latent of 96 x 96, where attention costs most of a pass.
    if parsed.resolution is None:
        parsed.resolution = 768 if parsed.attention else 384
    if parsed.resolution % 64 or not 64 <= parsed.resolution <= 2048:
        raise OptionError(f"--resolution is {parsed.resolution}, but it must be a multiple of 64 from 64 to 2048.")
    if min(parsed.prompts) < 1 or parsed.repeat < 1:
        raise OptionError("--prompts and --repeat must be at least 1.")
    if parsed.threads is not None and parsed.threads < 1:
        raise OptionError(f"--threads is {parsed.threads}, but it must be at least 1.")
    if parsed.method in ("attention", "difference"):
        raise OptionError(f"bench times a head, and --method {parsed.method} needs none. Leave it out.")
    device_and_dtype(parsed)  # a wrong device is refused before anything is built
    if parsed.threads:
        torch.set_num_threads(parsed.threads)
    if parsed.pictures:
        from ldznet.research.bench.picture_bench import measure_pictures

        return measure_pictures(parsed)
    if parsed.attention:
        from ldznet.research.bench.attention_bench import measure_attention

        return measure_attention(parsed)
    host, method = _models(parsed)
    result: dict[str, Any] = {
        "machine": machine(host.device),
        "dtype": str(host.dtype).removeprefix("torch."),
        "head_storage": parsed.head_storage,
        "resolution": parsed.resolution,
        "model": host.info.name,
        "head": method.name,
        "weights": _weights(host, method),
    }
    our_way = OurWay(host, method, parsed.resolution, parsed.repeat)
    timings = our_way.steps(max(parsed.prompts))
    works: list[Work] = []
    works += [("whole", count, partial(our_way.whole, count)) for count in parsed.prompts]
    if not parsed.no_plain:
        plain = PlainWay(host, method, our_way, shared=not _tuned(parsed, host))
        # In the same rounds as our way, so that both meet the same other programs.
        works += [("whole, plain way", count, partial(plain.whole, count)) for count in parsed.prompts]
    timings += time_in_rounds(host.device, parsed.repeat, works)
    result["timings"] = [asdict(timing) for timing in timings]
    result["ratios"] = _ratios(timings, parsed.prompts)
    print(json.dumps(result, indent=2) if parsed.json else _table(result, timings))
    return 0


def _models(parsed: argparse.Namespace) -> tuple[DiffusersHost, LearnedHead]:
    """Return the models to time: those of the files, or random ones."""
    import torch

    from ldznet.heads.narrow_storage import store_narrow
    from ldznet.hosts.diffusers.random_weights import random_host
    from ldznet.methods.learned_head import LearnedHead, random_head

    if parsed.full_size or not (parsed.checkpoint or parsed.head or parsed.random_weights):
        if parsed.checkpoint or parsed.head:
            raise OptionError("--full-size has random weights: give either it or --checkpoint and --head.")
        device, dtype = device_and_dtype(parsed)
        host = random_host(full_size=parsed.full_size, device=device, dtype=dtype)
        method = random_head(host.info.unet)
        method.head.to(device, dtype)
    else:
        host, choice = load_chosen_model(parsed)
        if not isinstance(choice.method, LearnedHead):
            raise OptionError("bench times a head. Give one with --head, or leave --method out.")
        method = choice.method
    # Convolutions of a GPU in half precision are faster with the channels last.
    if _channels_last(parsed, host):
        for module in (host.unet, host.vae, method.head):
            torch.nn.Module.to(module, memory_format=torch.channels_last)  # type: ignore[call-overload]
    # load_model has stored a head from a file already; random ones are stored here.
    if parsed.head_storage and (parsed.full_size or not parsed.head):
        store_narrow(method.head, getattr(torch, parsed.head_storage), host.dtype)
    if parsed.compile:
        method.head.compile()
    return host, method


def _channels_last(parsed: argparse.Namespace, host: DiffusersHost) -> bool:
    """Return whether our way uses the memory layout channels-last."""
    on: bool = parsed.channels_last == "on" or (parsed.channels_last == "auto" and host.device.type == "cuda")
    return on


def _tuned(parsed: argparse.Namespace, host: DiffusersHost) -> bool:
    """Return whether our models differ from those of the plain way."""
    return "float32" not in str(host.dtype) or bool(
        _channels_last(parsed, host) or parsed.head_storage or parsed.compile
    )


def _weights(host: DiffusersHost, method: LearnedHead) -> dict[str, float]:
    """Return megabytes of weights: what the host has already, and what each way adds to it."""

    def size(module: Any, itemsize: int | None = None) -> float:
        weights = [*module.parameters()] if itemsize else module.state_dict().values()  # the latter with scales
        return sum(weight.numel() * (itemsize or weight.element_size()) for weight in weights) / 1e6

    borrowed = size(host.unet) + size(host.vae) + sum(size(encoder.model) for encoder in host.text)
    plain = size(host.unet, 4) + size(host.vae, 4) + sum(size(e.model, 4) for e in host.text)
    return {
        "borrowed from the host": borrowed,
        "added by us": size(method.head),
        "added by the plain way": plain + 2 * size(method.head, 4),  # the raw weights and their average
    }


def _ratios(timings: Sequence[Timing], counts: Sequence[int]) -> dict[str, float]:
    """Return ratios of the least times, because other programs can only lengthen a time."""

    def of(step: str, count: int) -> float | None:
        return next((t.least for t in timings if (t.step, t.prompts) == (step, count)), None)

    # A step may be missing (--no-plain), and then its ratio is left out.
    ratios: dict[str, float] = {}

    def add(name: str, top: float | None, bottom: float | None) -> None:
        if top is not None and bottom:
            ratios[name] = top / bottom

    most = max(counts)
    for count in dict.fromkeys((1, most)):
        prompts = f"{count} prompt{'s' * (count > 1)}"
        add(f"early exit / full UNet, {prompts}", of("UNet, early exit", count), of("UNet, full", count))
    if most > 1:
        add(f"{most} prompts / 1 prompt", of("whole", most), of("whole", 1))
    for count in counts:
        prompts = f"{count} prompt{'s' * (count > 1)}"
        add(f"plain way / ours, {prompts}", of("whole, plain way", count), of("whole", count))
    return ratios


def _table(result: dict[str, Any], timings: Sequence[Timing]) -> str:
    """Return the result as Markdown tables."""
    lines = [
        f"{machine_text(result['machine'])}, {result['dtype']}, {result['resolution']} px",
        f"{result['model']}; head {result['head']}"
        + (f", stored in {result['head_storage']}" if result["head_storage"] else ""),
        "",
        *timing_rows(timings),
    ]
    lines += figure_rows("ratio of the least times", "", result["ratios"], ".2f")
    lines += figure_rows("weights", "MB", result["weights"], ",.0f")
    return "\n".join(lines)
