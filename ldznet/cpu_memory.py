"""Keep freed memory for the next layer while networks run on a CPU.

glibc gives a large block back to the system as soon as it is freed, and asks for the next one anew. The system
clears it page by page, which takes longer than a simple layer on a large map: the VAE of Stable Diffusion spends a
fifth of its time so at 384 x 384 pixels. Inside of `kept_memory` freed blocks stay with the process; at its end
they go back.

Only glibc has such settings. With other C libraries (Windows, macOS, musl) nothing happens.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Parameters of mallopt(3)
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_MB = 2**20

_lock = threading.Lock()
_depth = 0  # open blocks, of all threads


@contextmanager
def kept_memory(device_type: str) -> Iterator[None]:
    """Keep freed memory with the process inside the block, if `device_type` is "cpu"; blocks may be nested."""
    library = _glibc() if device_type == "cpu" else None
    if library is None:
        yield
        return
    _count(library, 1)
    try:
        yield
    finally:
        _count(library, -1)


def _count(library: Any, step: int) -> None:
    """Count a block that begins (1) or ends (-1); the first and the last one change the settings."""
    global _depth
    with _lock:
        before, _depth = _depth, _depth + step
        if before == 0:
            library.mallopt(_MMAP_MAX, 0)
            library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        elif _depth == 0:
            # glibc's default number of blocks; and the thresholds that it sets itself after the first large block.
            library.mallopt(_MMAP_MAX, 65536)
            library.mallopt(_MMAP_THRESHOLD, 32 * _MB)
            library.mallopt(_TRIM_THRESHOLD, 64 * _MB)
            library.malloc_trim(0)


@functools.cache
def _glibc() -> Any:
    """Return the C library of this process, or None if it is not glibc."""
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(None)
