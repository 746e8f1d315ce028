"""What a training would cost: memory by arithmetic, then time and memory of a few steps that are thrown away."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ldznet.modeling.head import Head, parameter_count

if TYPE_CHECKING:
    from torch import nn

    from ldznet.hosts.diffusers import DiffusersHost
    from ldznet.training.loop import Trainer
    from ldznet.training.recipe import TrainOptions
    from ldznet.training.samples import Samples

STEPS = 3
# So often a head that is trained is there: weights, gradients, AdamW's two averages, the average that is kept.
_COPIES = 5


def weights(host: DiffusersHost, head: Head) -> str:
    """What lies in memory whatever the batch is; activations come on top."""
    frozen = sum(_bytes(module) for module in (host.unet, host.vae, *(text.model for text in host.text)))
    learned = _COPIES * _bytes(head)
    return (
        f"{head.config.kind}: {parameter_count(head):,} parameters\n"
        f"memory of weights: {_gigabytes(frozen + learned)} = {_gigabytes(frozen)} of the frozen model + "
        f"{_COPIES} x {_gigabytes(_bytes(head))} of the head (weights, gradients, AdamW's two averages, EMA); "
        "a validation takes one more"
    )


def forecast(trainer: Trainer, samples: Samples, options: TrainOptions, *, cached: bool) -> str:
    """Epochs, time and the peak of memory, from three steps."""
    with tempfile.TemporaryDirectory(prefix="ldznet-") as folder:
        cost = trainer.try_steps(STEPS, Path(folder) if cached else None)
    hours = cost.seconds * options.steps / 3600
    epochs = options.steps * options.batch / len(samples)
    lines = [
        f"{len(samples):,} samples, {options.steps:,} steps of {options.batch}: {epochs:.1f} epochs",
        f"a step takes {cost.seconds:.2f} s here, all of them {hours:.1f} hours",
    ]
    if cost.cached is not None:
        gain = cost.seconds / cost.cached
        lines.append(f"with all that it asks for in the cache {cost.cached:.2f} s: {gain:.2f} times as fast")
    return "\n".join([*lines, f"peak memory {cost.memory:,.0f} MB on {trainer.accelerator.device}"])


def _bytes(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.parameters())


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.2f} GB"
