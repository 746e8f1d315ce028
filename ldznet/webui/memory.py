"""Measure what a run takes of the device's memory, and what it leaves there."""

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
class MemoryUse:
    """Time and memory of one run, in bytes that PyTorch has allocated; None where PyTorch does not count."""

    seconds: float = 0.0
    before: int | None = None
    peak: int | None = None
    after: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return seconds and MB, fit for JSON."""
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
def measure_memory(device: torch.device) -> Iterator[MemoryUse]:
    """Fill in a MemoryUse while the block runs, also when the block raises."""
    use, is_counted = MemoryUse(), device.type == "cuda"
    start = time.perf_counter()
    if is_counted:
        # The webui shows PyTorch's peak after a run, too. Since nothing is painted before the mask is made, its
        # number loses only what loading a checkpoint took.
        torch.cuda.reset_peak_memory_stats(device)
        use.before = torch.cuda.memory_allocated(device)
    try:
        yield use
    finally:
        use.seconds = time.perf_counter() - start
        if is_counted:
            use.peak, use.after = torch.cuda.max_memory_allocated(device), torch.cuda.memory_allocated(device)


def device_memory(device: torch.device) -> dict[str, float | None]:
    """Return the free and the total memory of the device in MB, for all programs; None where it is unknown."""
    if device.type != "cuda":  # other devices do not report it
        return {"free_mb": None, "total_mb": None}
    free, total = torch.cuda.mem_get_info(device)
    return {"free_mb": megabytes(free), "total_mb": megabytes(total)}


def weight_bytes(module: nn.Module) -> int:
    """Return the size of all weights of a module in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


def megabytes(count: int | None) -> float | None:
    """Return bytes as MB with one decimal place; None stays None."""
    return None if count is None else round(count / MB, 1)
