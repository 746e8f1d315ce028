"""Measure the cost of a training with a few steps whose result is discarded."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ldznet.errors import OptionError
from ldznet.research.training.frozen_cache import AnswerFolder, FrozenModel
from ldznet.research.training.items import Item
from ldznet.research.training.trainer import Trainer


@dataclass(frozen=True)
class Cost:
    """The cost of one step: that of the fastest of a few."""

    seconds: float  # with nothing in the cache
    cached: float | None  # seconds with all latents and contexts on disk; None without a cache
    memory: float  # MB at the peak; nan where the system does not report it


def try_steps(trainer: Trainer, count: int, cache: Path | None = None) -> Cost:
    """Take some steps only to measure them; with `cache`, each a second time, from a cache filled there.

    Nothing else is written, but the head changes: throw the trainer away afterwards.

    Raises:
        OptionError: the training is done.
    """
    if trainer.step >= trainer.options.steps:
        raise OptionError(
            f"The training in {trainer.folder} is done, so no step is left to try. Give another folder."
        )
    host, options = trainer.host, trainer.options
    plain, cached = [], []
    store = AnswerFolder(cache, host) if cache else None
    start = time.perf_counter()
    for parts in itertools.islice(trainer.batches(), count):
        reading = time.perf_counter() - start  # the samples
        trainer.frozen = FrozenModel(host, options)
        plain.append(reading + _seconds(trainer, parts))
        if store:
            trainer.frozen = FrozenModel(host, options, store)
            for part in parts:
                trainer.ask_model(part)
            trainer.frozen = FrozenModel(host, options, store)  # a new one, whose memory is empty
            cached.append(reading + _seconds(trainer, parts))
        start = time.perf_counter()
    return Cost(min(plain), min(cached, default=None), _peak_memory(trainer.accelerator.device))


def _seconds(trainer: Trainer, parts: Sequence[Item]) -> float:
    """Return how long a step takes."""
    start = time.perf_counter()
    trainer.update(parts)
    if trainer.accelerator.device.type == "cuda":
        torch.cuda.synchronize(trainer.accelerator.device)
    return time.perf_counter() - start


def _peak_memory(device: torch.device) -> float:
    """Return the peak in MB: of the GPU, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource  # missing on Windows
    except ImportError:
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
