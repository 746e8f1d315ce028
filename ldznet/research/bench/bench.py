"""python -m ldznet bench: what each step costs, in time and memory, against the plain way.

The plain way is that of the released code: for every prompt the image is encoded again, the UNet runs to its
end, attention is not fused, convolutions are PyTorch's own, all in float32, and head, its average, UNet, VAE
and text encoder are copies of its own. Both ways run in one process and in turn, so that their ratio holds on
a noisy machine.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from ldznet.cli.flags import add_model, device_and_dtype, load_chosen_model
from ldznet.errors import OptionError
from ldznet.research.bench.timing import Timing, Work, figure_rows, in_rounds, machine, machine_text, timing_rows

if TYPE_CHECKING:
    import torch

    from ldznet.hosts.diffusers.host import DiffusersHost
    from ldznet.methods.learned_head import LearnedHead


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments to its parser."""
    parser.description = (
        "Measure what each step costs, and the whole against the plain way of the released code: full "
        "UNet, one prompt at a time, float32, attention that is not fused. Without a checkpoint it times a small "
        "model with random weights."
    )
    parser.add_argument(
        "--full-size",
        action="store_true",
        help="Stable Diffusion 1.5 and the released head at their full sizes with random weights: nothing is "
        "downloaded, and speed does not depend on what the weights are",
    )
    parser.add_argument(
        "--attention",
        action="store_true",
        help="measure the attention method instead: what it takes above a plain pass of the UNet, and several "
        "prompts one each and together",
    )
    add_model(parser, default_checkpoint="a small one with random weights")
    parser.add_argument(
        "--prompts", type=int, nargs="+", default=[1, 8], metavar="N", help="numbers of prompts (default: 1 8)"
    )
    parser.add_argument(
        "--resolution", type=int, metavar="N", help="side of the image (default: 384, with --attention 768)"
    )
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="timed runs of each step (default: 3)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of a CPU (default: PyTorch's choice)")
    parser.add_argument(
        "--channels-last",
        choices=("auto", "on", "off"),
        default="auto",
        help="memory layout of our way's convolutions (default: auto, on for a GPU)",
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the head (torch.compile); cold run shown too"
    )
    parser.add_argument("--no-plain", action="store_true", help="leave the comparison with the plain way out")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, for programs")


def run(parsed: argparse.Namespace) -> int:
    """Measure and print."""
    import torch

    if parsed.resolution is None:
        parsed.resolution = 768 if parsed.attention else 384
    if parsed.resolution % 64 or not 64 <= parsed.resolution <= 2048:
        raise OptionError(f"--resolution is {parsed.resolution}, but it must be a multiple of 64 from 64 to 2048.")
    if min(parsed.prompts) < 1 or parsed.repeat < 1:
        raise OptionError("--prompts and --repeat must be at least 1.")
    if parsed.threads is not None and parsed.threads < 1:
        raise OptionError(f"--threads is {parsed.threads}, but it must be at least 1.")
    if parsed.method in ("attention", "difference"):
        raise OptionError(f"bench times a head, and --method {parsed.method} has none: leave it out.")
    device_and_dtype(parsed)  # refused before anything is built
    if parsed.threads:
        torch.set_num_threads(parsed.threads)
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
    bench = _Bench(host, method, parsed.resolution, parsed.repeat)
    timings = bench.steps(max(parsed.prompts))
    works: list[Work] = []
    works += [("whole", count, partial(bench.whole, count)) for count in parsed.prompts]
    if not parsed.no_plain:
        plain = _Plain(host, method, bench, shared=not _tuned(parsed, host))
        works += [("whole, plain way", count, partial(plain.whole, count)) for count in parsed.prompts]
    timings += in_rounds(host.device, parsed.repeat, works)
    result["timings"] = [asdict(timing) for timing in timings]
    result["ratios"] = _ratios(timings, parsed.prompts)
    print(json.dumps(result, indent=2) if parsed.json else _table(result, timings))
    return 0


def _models(parsed: argparse.Namespace) -> tuple[DiffusersHost, LearnedHead]:
    import torch

    from ldznet.heads.half_storage import store_narrow
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
    if _channels_last(parsed, host):
        for module in (host.unet, host.vae, method.head):
            torch.nn.Module.to(module, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if parsed.head_storage and (parsed.full_size or not parsed.head):
        store_narrow(method.head, getattr(torch, parsed.head_storage), host.dtype)
    if parsed.compile:
        method.head.compile()
    return host, method


def _channels_last(parsed: argparse.Namespace, host: DiffusersHost) -> bool:
    on: bool = parsed.channels_last == "on" or (parsed.channels_last == "auto" and host.device.type == "cuda")
    return on


def _tuned(parsed: argparse.Namespace, host: DiffusersHost) -> bool:
    """Whether our models differ from those of the plain way."""
    return "float32" not in str(host.dtype) or bool(
        _channels_last(parsed, host) or parsed.head_storage or parsed.compile
    )


class _Bench:
    """Our way."""

    def __init__(self, host: DiffusersHost, method: LearnedHead, side: int, repeat: int) -> None:
        import numpy as np
        import torch
        from PIL import Image

        from ldznet.images.tensors import to_tensor

        self.host, self.method, self.side, self.repeat = host, method, side, repeat
        pixels = np.random.default_rng(0).integers(0, 256, (2 * side, 2 * side, 3), np.uint8)
        self.image = Image.fromarray(pixels)
        self.pixels = to_tensor(self.image, (side, side))
        self.noise = torch.randn(1, 4, side // 8, side // 8, generator=torch.Generator().manual_seed(0))

    def texts(self, count: int) -> list[str]:
        """Prompts of which each is encoded for itself."""
        return [f"a photo of thing number {number}" for number in range(count)]

    def steps(self, most: int) -> list[Timing]:
        """Each step alone, for one prompt and for the largest number of them."""
        import torch

        from ldznet.hosts.capture import capture
        from ldznet.images.tensors import to_image_size
        from ldznet.masks.pipeline import make_mask
        from ldznet.options import MaskOptions

        host, head = self.host, self.method.head
        latent = host.encode_image(self.pixels)
        works: list[Work] = []
        works.append(("image encoding", 1, lambda: host.encode_image(self.pixels)))
        for count in dict.fromkeys((1, most)):
            context = host.encode_prompt(self.texts(count))
            timesteps = torch.full((count,), 400)
            noisy = host.add_noise(latent, self.noise, timesteps)
            modules = host.feature_modules()
            needed = {path: modules[path] for path in self.method.head.config.pool_grids}
            kept: dict[str, torch.Tensor] = {}

            def full(noisy: Any = noisy, timesteps: Any = timesteps, context: Any = context) -> None:
                host.predict_noise(noisy, timesteps, context)

            def early(
                noisy: Any = noisy,
                timesteps: Any = timesteps,
                context: Any = context,
                needed: Any = needed,
                kept: Any = kept,
            ) -> None:
                with capture(needed) as features:
                    host.predict_noise(noisy, timesteps, context)
                kept.update(features)

            def decode(context: Any = context, kept: Any = kept) -> None:
                with torch.no_grad():
                    head(latent, context.tokens, kept)

            works += [
                ("prompt encoding", count, partial(host.encode_prompt, self.texts(count))),
                ("UNet, full", count, full),
                ("UNet, early exit", count, early),
                ("head", count, decode),
            ]
        size = (self.image.height, self.image.width)
        map_ = torch.rand(self.side, self.side, generator=torch.Generator().manual_seed(0))
        options = MaskOptions(smallest_area=50, grow=8, feather=4)
        works.append(("mask", 1, lambda: make_mask(to_image_size(map_, size), options)))
        return in_rounds(self.host.device, self.repeat, works)

    def whole(self, count: int) -> None:
        """From one image and `count` prompts to a mask, nothing kept from before."""
        from ldznet.options import SegmentOptions
        from ldznet.segmenter import Segmenter

        options = SegmentOptions(resolution=self.side)
        segmenter = Segmenter(self.host, self.method)
        segmenter.set_image(self.image, options)
        segmenter.segment(self.texts(count), options).mask()


class _Plain:
    """The plain way: float32 copies, all anew for each prompt, attention not fused, PyTorch's own convolutions."""

    def __init__(self, host: DiffusersHost, method: LearnedHead, bench: _Bench, *, shared: bool) -> None:
        self.host, self.method = (host, method) if shared else _plain_copies(host, method)
        self.bench = bench

    def whole(self, count: int) -> None:
        """As often from the image to the mask as there are prompts."""
        from torch.nn.attention import SDPBackend, sdpa_kernel

        from ldznet.heads.cpu_conv import as_pytorch_does

        with sdpa_kernel(SDPBackend.MATH), as_pytorch_does(self.host.unet, self.method.head):
            self._all(count)

    def _all(self, count: int) -> None:
        import torch

        from ldznet.hosts.capture import capture
        from ldznet.images.tensors import to_image_size
        from ldznet.masks.pipeline import make_mask
        from ldznet.options import MaskOptions

        host, head, size = self.host, self.method.head, (self.bench.image.height, self.bench.image.width)
        modules = host.feature_modules()
        needed = {path: modules[path] for path in head.config.pool_grids}
        for text in self.bench.texts(count):
            latent = host.encode_image(self.bench.pixels)
            context = host.encode_prompt([text])
            timesteps = torch.tensor([400])
            noisy = host.add_noise(latent, self.bench.noise, timesteps)
            with capture(needed, early_exit=False) as features:
                host.predict_noise(noisy, timesteps, context)
            with torch.no_grad():
                probability = head(latent, context.tokens, features)[0, 0].float().sigmoid()
            make_mask(to_image_size(probability.cpu(), size), MaskOptions())


def _plain_copies(host: DiffusersHost, method: LearnedHead) -> tuple[DiffusersHost, LearnedHead]:
    """The same models in float32, with weights that rest so, in the usual memory layout, not compiled."""
    import torch

    from ldznet.heads.head_file import empty_head
    from ldznet.hosts.diffusers.host import DiffusersHost
    from ldznet.hosts.diffusers.text import TextEncoder
    from ldznet.methods.learned_head import LearnedHead

    def plain(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        usual = torch.contiguous_format
        return {name: tensor.detach().float().clone(memory_format=usual) for name, tensor in state.items()}

    text = [
        TextEncoder(copy.deepcopy(encoder.model), encoder.tokenize, encoder.penultimate) for encoder in host.text
    ]
    unet, vae = copy.deepcopy(host.unet), copy.deepcopy(host.vae)
    for module in (unet, vae):
        module.load_state_dict(plain(module.state_dict()), assign=True)
    head = empty_head(method.head.config)  # made anew: hooks of narrow storage would be copied, too
    head.load_state_dict(plain(method.head.state_dict()), assign=True)
    copied = DiffusersHost(host.info, unet, vae, text, host.schedule, device=host.device, dtype=torch.float32)
    return copied, LearnedHead(head)


def _weights(host: DiffusersHost, method: LearnedHead) -> dict[str, float]:
    """Megabytes of weights: what the host has already, and what we add to it."""

    def size(module: Any, itemsize: int | None = None) -> float:
        return sum(p.numel() * (itemsize or p.element_size()) for p in module.parameters()) / 1e6

    borrowed = size(host.unet) + size(host.vae) + sum(size(encoder.model) for encoder in host.text)
    plain = size(host.unet, 4) + size(host.vae, 4) + sum(size(e.model, 4) for e in host.text)
    return {
        "borrowed from the host": borrowed,
        "added by us": size(method.head),
        "added by the plain way": plain + 2 * size(method.head, 4),  # raw weights and their average
    }


def _ratios(timings: Sequence[Timing], counts: Sequence[int]) -> dict[str, float]:
    """Of the least times: what else a machine does can only add to a time."""

    def of(step: str, count: int) -> float | None:
        return next((t.least for t in timings if (t.step, t.prompts) == (step, count)), None)

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
    lines = [
        f"{machine_text(result['machine'])}, {result['dtype']}, {result['resolution']} px",
        f"{result['model']}; head {result['head']}"
        + (f", resting in {result['head_storage']}" if result["head_storage"] else ""),
        "",
        *timing_rows(timings),
    ]
    lines += figure_rows("ratio of the least times", "", result["ratios"], ".2f")
    lines += figure_rows("weights", "MB", result["weights"], ",.0f")
    return "\n".join(lines)
