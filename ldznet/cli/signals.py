"""Ctrl-C and the system's signals to end: a KeyboardInterrupt, at a moment that a command can stop at.

Inside of an import that is no such moment: half a module would stay behind and fail in odd ways later, or a
library would take the interrupt for a fault of its own. So a signal that comes there comes again a little later.
"""

from __future__ import annotations

import _thread
import contextlib
import importlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

_AGAIN = 0.01  # seconds
_IMPORTER = importlib.__import__.__code__.co_filename


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Inside, the signals raise KeyboardInterrupt with their number; those that are ignored (nohup), or that a
    program around us has taken, stay as they are, as all do outside of the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    around = _imports(sys._getframe())  # a program may have started us in an import of its own

    def stop(number: int, frame: FrameType | None) -> None:
        if _imports(frame) == around:
            raise KeyboardInterrupt(number)
        _thread.start_new_thread(_send_again, (number,))

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    ours = [number for number in numbers if before[number] in (signal.SIG_DFL, signal.default_int_handler)]
    try:
        for number in ours:
            signal.signal(number, stop)
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


def _imports(frame: FrameType | None) -> int:
    """How many frames of an import are below this one."""
    count = 0
    while frame is not None:
        count += frame.f_code.co_filename == _IMPORTER
        frame = frame.f_back
    return count


def _send_again(number: int) -> None:
    time.sleep(_AGAIN)
    if hasattr(signal, "pthread_kill"):  # it also wakes what waits
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        _thread.interrupt_main(signal.Signals(number))
