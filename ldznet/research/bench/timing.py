"""Time pieces of work alternately, with their peak memory; shared by the benches."""

from __future__ import annotations

import contextlib
import gc
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Work = tuple[str, int, Callable[[], object]]  # step, prompts, what to do


@dataclass(frozen=True)
class Timing:
    """The seconds of one step."""

    step: str
    prompts: int
    first: float  # of the cold run
    median: float
    least: float
    memory: float | None  # MB at the peak, above the memory before

    @classmethod
    def of(cls, step: str, prompts: int, seconds: Sequence[float], memory: float | None) -> Timing:
        """Return the timing of runs, of which the first is cold and the others are warm."""
        warm = seconds[1:]
        return cls(step, prompts, seconds[0], statistics.median(warm), min(warm), memory)


def time_in_rounds(device: torch.device, repeat: int, works: Sequence[Work]) -> list[Timing]:
    """Time each work once cold and `repeat` times warm, alternately, so that other programs affect all alike."""
    seconds: list[list[float]] = [[] for _ in works]
    peaks: list[list[float]] = [[] for _ in works]
    for _ in range(repeat + 1):
        for index, (_step, _prompts, work) in enumerate(works):
            with _peak(device) as peak:
                seconds[index].append(_seconds(device, work))
                if (megabytes := peak()) is not None:
                    peaks[index].append(megabytes)
    return [
        Timing.of(step, prompts, times, max(peak, default=None))
        for (step, prompts, _work), times, peak in zip(works, seconds, peaks, strict=True)
    ]


def timing_rows(timings: Sequence[Timing]) -> list[str]:
    """Return a table of timings, as lines of Markdown."""
    lines = [
        "| step | prompts | first, s | median, s | least, s | peak, MB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for t in timings:
        memory = "" if t.memory is None else f"{t.memory:,.0f}"
        lines.append(f"| {t.step} | {t.prompts} | {t.first:.3f} | {t.median:.3f} | {t.least:.3f} | {memory} |")
    return lines


def figure_rows(what: str, unit: str, figures: Mapping[str, float], form: str) -> list[str]:
    """Return a table of one figure per row, after an empty line, as lines of Markdown."""
    rows = [f"| {name} | {figure:{form}} |" for name, figure in figures.items()]
    return ["", f"| {what} | {unit}".rstrip() + " |", "|---|---:|", *rows]


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Return how long a work takes."""
    _finish(device)
    start = time.perf_counter()
    work()
    _finish(device)
    return time.perf_counter() - start


def _finish(device: torch.device) -> None:
    """Wait until the device has finished: a GPU returns before its work is done."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@contextlib.contextmanager
def _peak(device: torch.device) -> Iterator[Callable[[], float | None]]:
    """Yield a function that returns the peak in MB above the memory before, or None if it is not known."""
    import torch

    # Garbage of the work before would be counted as memory before this one.
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: (torch.cuda.max_memory_allocated(device) - before) / 1e6
        return
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")

    def resident(field: str) -> float:
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith(field))
        return float(line.split()[1]) * 1024 / 1e6

    try:
        clear.write_text("5", encoding="utf-8")  # Linux: reset the peak
        start = resident("VmRSS")
    except (OSError, StopIteration):
        yield lambda: None
        return
    # The kernel counts in pages and updates late, so the difference can be below zero.
    yield lambda: max(0.0, resident("VmHWM") - start)


def machine(device: torch.device) -> dict[str, Any]:
    """Return a description of the machine and its software."""
    import torch

    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {
        "device": name,
        "kind": device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def machine_text(machine: dict[str, Any]) -> str:
    """Return the machine in one line."""
    return f"{machine['device']} ({machine['kind']}, {machine['threads']} threads), torch {machine['torch']}"
