"""python -m ldznet bench --attention: time and memory of the attention method above a plain pass of the UNet.

The plain pass runs to its end and computes no attention probabilities. Several prompts run as a batch with one
sentence each, and all in one sentence.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from ldznet.cli.flags import device_and_dtype, load_chosen_model
from ldznet.errors import OptionError
from ldznet.research.bench.timing import (
    Timing,
    Work,
    figure_rows,
    machine,
    machine_text,
    time_in_rounds,
    timing_rows,
)


def measure_attention(parsed: argparse.Namespace) -> int:
    """Measure and print the result; weights are random unless a checkpoint is given."""
    import torch

    from ldznet.hosts.diffusers.random_weights import random_host
    from ldznet.methods.attention import AttentionMethod
    from ldznet.methods.attention_options import AttentionOptions
    from ldznet.methods.method import EncodedImage, Prompts, RandomInputs

    if parsed.full_size and parsed.checkpoint:
        raise OptionError("--full-size has random weights: give either it or --checkpoint.")
    if parsed.checkpoint:
        # So that load_model looks for no head.
        parsed.method = "attention"
        host, _ = load_chosen_model(parsed)
    else:
        device, dtype = device_and_dtype(parsed)
        host = random_host(full_size=parsed.full_size, device=device, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(1, 3, parsed.resolution, parsed.resolution, generator=generator) * 2 - 1
    encoded = EncodedImage(pixels, host.encode_image(pixels))
    noise = torch.randn(encoded.latent.shape, generator=generator)

    # One pass per prompt, as every method without attention maps makes it.
    def plain(count: int) -> None:
        context = host.encode_prompt([f"thing {number}" for number in range(count)])
        timesteps = torch.full((count,), 100)
        host.predict_noise(host.add_noise(encoded.latent, noise, timesteps), timesteps, context)

    def attend(count: int, together: bool) -> None:
        method = AttentionMethod(AttentionOptions(together=together))
        phrases = tuple(f"thing {number}" for number in range(count))
        prompts = Prompts(phrases, (method.defaults.template,) * count, host.encode_prompt)
        method.probability(host, encoded, prompts, RandomInputs(torch.full((count,), 100), noise))

    works: list[Work] = []
    # "together" puts all phrases into one sentence, so it is one pass for any number of them.
    for count in parsed.prompts:
        works.append(("UNet, plain pass", count, partial(plain, count)))
        works.append(("attention", count, partial(attend, count, False)))
        if count > 1:
            works.append(("attention, together", count, partial(attend, count, True)))
    timings = time_in_rounds(host.device, parsed.repeat, works)
    result: dict[str, Any] = {
        "machine": machine(host.device),
        "dtype": str(host.dtype).removeprefix("torch."),
        "resolution": parsed.resolution,
        "model": host.info.name,
        "timings": [asdict(timing) for timing in timings],
        "ratios": _ratios(timings, parsed.prompts),
        "memory": _memory(timings, parsed.prompts),
    }
    print(json.dumps(result, indent=2) if parsed.json else _table(result, timings))
    return 0


def _ratios(timings: Sequence[Timing], counts: Sequence[int]) -> dict[str, float]:
    """Return ratios of the least times."""
    # The least time, because other programs can only lengthen one.
    least = {(t.step, t.prompts): t.least for t in timings}
    ratios = {}
    for count in counts:
        plain, own = least["UNet, plain pass", count], least["attention", count]
        ratios[f"attention / plain pass, {count} prompt{'s' * (count > 1)}"] = own / plain
        if count > 1:
            ratios[f"{count} prompts together / one each"] = least["attention, together", count] / own
    return ratios


def _memory(timings: Sequence[Timing], counts: Sequence[int]) -> dict[str, float]:
    """Return by how many MB the method's peak exceeds the plain pass; empty if the system does not report it."""
    # Only the difference matters: a plain pass needs its activations as well.
    peaks = {(t.step, t.prompts): t.memory for t in timings}
    extra = {}
    for count in counts:
        plain, own = peaks["UNet, plain pass", count], peaks["attention", count]
        if plain is not None and own is not None:
            extra[f"attention above the plain pass, {count} prompt{'s' * (count > 1)}"] = own - plain
    return extra


def _table(result: dict[str, Any], timings: Sequence[Timing]) -> str:
    """Return the result as Markdown tables."""
    lines = [
        f"{machine_text(result['machine'])}, {result['dtype']}, {result['resolution']} px",
        result["model"],
        "",
    ]
    lines += timing_rows(timings)
    lines += figure_rows("ratio of the least times", "", result["ratios"], ".2f")
    lines += figure_rows("peak", "MB", result["memory"], ",.0f")
    return "\n".join(lines)
