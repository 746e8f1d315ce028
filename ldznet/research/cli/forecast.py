"""The cost of a training: memory and disk by arithmetic, then time and peak memory measured with a few steps."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ldznet.cli.reports import require_writable
from ldznet.errors import OptionError
from ldznet.heads.network import Head, parameter_count

if TYPE_CHECKING:
    from torch import nn

    from ldznet.hosts.diffusers.host import DiffusersHost
    from ldznet.research.datasets.samples import Samples
    from ldznet.research.training.train_options import TrainOptions
    from ldznet.research.training.trainer import Trainer

STEPS = 3
# Copies of a head in training: weights, gradients, AdamW's two averages, and the average that is written.
_COPIES = 5
_NAMES = ("state.pt", "last.safetensors", "best.safetensors")


def weights(host: DiffusersHost, head: Head, folder: Path) -> str:
    """Report the memory that does not depend on the batch (activations come on top), and the files on disk."""
    # Parameters only; buffers are a few kilobytes.
    frozen = sum(_bytes(module) for module in (host.unet, host.vae, *(text.model for text in host.text)))
    learned = _COPIES * _bytes(head)
    return (
        f"{head.config.kind}: {parameter_count(head):,} parameters\n"
        f"memory of weights: {_gigabytes(frozen + learned)} = {_gigabytes(frozen)} of the frozen model + "
        f"{_COPIES} x {_gigabytes(_bytes(head))} of the head (weights, gradients, AdamW's two averages, EMA); "
        "a validation takes one more\n"
        f"disk: {_gigabytes(_files(head))}, plus {_gigabytes(_state(head))} while the state is written; "
        f"{_gigabytes(shutil.disk_usage(_existing(folder)).free)} are free"
    )


def require_disk(head: Head, folder: Path) -> None:
    """Make the folder of a training, and refuse a disk that its files would fill.

    Raises:
        OptionError: the folder cannot be made, or its disk has too little room.
    """
    require_writable(folder)
    # Files of an earlier run are replaced, so their room is available.
    existing = sum(path.stat().st_size for name in _NAMES if (path := folder / name).exists())
    needed, free = _files(head) + _state(head) - existing, shutil.disk_usage(folder).free
    if free < needed:
        raise OptionError(
            f"The training needs {_gigabytes(needed)} on the disk of {folder}, half of it while the state is "
            f"replaced, but {_gigabytes(free)} are free. Make room, or give another folder (--out)."
        )


def _state(head: Head) -> int:
    """Return the bytes of state.pt: weights, average, AdamW's two averages."""
    return 4 * _bytes(head)


def _files(head: Head) -> int:
    """Return the bytes of state.pt and the two heads, which are in half precision."""
    return _state(head) + 2 * _bytes(head) // 2


def _existing(folder: Path) -> Path:
    """Return the folder or its nearest parent that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def forecast(trainer: Trainer, samples: Samples, options: TrainOptions, *, cached: bool) -> str:
    """Report epochs, time and peak memory, measured with a few steps."""
    from ldznet.research.training.cost import try_steps

    # In a temporary folder: a dry run writes nothing that stays.
    with tempfile.TemporaryDirectory(prefix="ldznet-") as folder:
        cost = try_steps(trainer, STEPS, Path(folder) if cached else None)
    hours = cost.seconds * options.steps / 3600
    epochs = options.steps * options.batch / len(samples)
    lines = [
        f"{len(samples):,} samples, {options.steps:,} steps of {options.batch}: {epochs:.1f} epochs",
        f"a step takes {cost.seconds:.2f} s here, all of them {hours:.1f} hours",
    ]
    if cost.cached is not None:
        gain = cost.seconds / cost.cached
        lines.append(f"with everything in the cache {cost.cached:.2f} s: {gain:.2f} times as fast")
    return "\n".join([*lines, f"peak memory {cost.memory:,.0f} MB on {trainer.accelerator.device}"])


def _bytes(module: nn.Module) -> int:
    """Return the size of a module's parameters."""
    return sum(tensor.numel() * tensor.element_size() for tensor in module.parameters())


def _gigabytes(count: int) -> str:
    """Return a number of bytes as text."""
    return f"{count / 1e9:,.2f} GB"
