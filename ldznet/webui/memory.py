"""What a run takes of the device's memory, and what it leaves there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

MB = 2**20


@dataclass
class Usage:
    """Of one run; bytes that PyTorch has handed out on the device, None where it does not count them."""

    seconds: float = 0.0
    before: int | None = None
    peak: int | None = None
    after: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """In seconds and MB."""
        return {
            "seconds": round(self.seconds, 3),
            "before_mb": megabytes(self.before),
            "peak_mb": megabytes(self.peak),
            "after_mb": megabytes(self.after),
        }

    def __str__(self) -> str:
        if self.before is None or self.peak is None or self.after is None:
            return f"{self.seconds:.2f} s"
        return (
            f"{self.seconds:.2f} s, memory of the GPU {self.before / MB:.0f} MB before, {self.peak / MB:.0f} MB "
            f"at most, {self.after / MB:.0f} MB after"
        )


@contextmanager
def measured(device: torch.device) -> Iterator[Usage]:
    """Fill in a Usage while the block runs, also when it raises.

    PyTorch's peak begins anew with the block. What the webui shows of it after a run begins there as well, and
    since nothing is painted before, it misses no more than what loading a checkpoint took.
    """
    usage, counts = Usage(), device.type == "cuda"
    start = time.perf_counter()
    if counts:
        torch.cuda.reset_peak_memory_stats(device)
        usage.before = torch.cuda.memory_allocated(device)
    try:
        yield usage
    finally:
        usage.seconds = time.perf_counter() - start
        if counts:
            usage.peak, usage.after = torch.cuda.max_memory_allocated(device), torch.cuda.memory_allocated(device)


def device_memory(device: torch.device) -> dict[str, float | None]:
    """MB that are free, by all programs on the device, and that there are; None where PyTorch cannot say."""
    if device.type != "cuda":
        return {"free_mb": None, "total_mb": None}
    free, total = torch.cuda.mem_get_info(device)
    return {"free_mb": megabytes(free), "total_mb": megabytes(total)}


def bytes_of(module: nn.Module) -> int:
    """Of all its weights."""
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


def megabytes(count: int | None) -> float | None:
    """For people and JSON."""
    return None if count is None else round(count / MB, 1)
