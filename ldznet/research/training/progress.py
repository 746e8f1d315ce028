"""Report the progress of a long training, and stop it between two steps."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType


def time_text(seconds: float) -> str:
    """Return a duration in its two largest units, such as "2 h 5 min"."""
    if seconds < 60:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} days {hours % 24} h"


@dataclass
class StopRequest:
    """A flag that is set when a signal asks the training to stop."""

    signal: int = 0  # its number; 0 as long as none has come


@contextlib.contextmanager
def stop_between_steps(*, announce: bool = True) -> Iterator[StopRequest]:
    """Turn Ctrl-C and the signals to end into a request, which the training looks at after each step.

    A step that is cut in half would leave weights and averages that do not belong together. The second signal
    raises KeyboardInterrupt at once. Ignored signals (nohup) stay ignored, and outside of the main thread nothing
    changes. `announce`: say on standard error that the request was understood.
    """
    request = StopRequest()

    def ask(number: int, _frame: FrameType | None) -> None:
        """Store the first signal; end at the second one."""
        if request.signal:
            raise KeyboardInterrupt(number)
        request.signal = number
        if announce:
            # Not print: the signal may have come inside of one, and streams are not reentrant.
            with contextlib.suppress(OSError):
                os.write(2, b"\nstopping after this step; once more to stop at once, without saving\n")

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    signals = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    try:
        for number in signals:
            signal.signal(number, ask)
        yield request
    finally:
        for number in signals:
            signal.signal(number, before[number])


def leave_signals_to_the_trainer() -> None:
    """Prepare a worker process: Ctrl-C reaches it as well, and without it the running step could not end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # inherited from the trainer; a DataLoader ends its workers so
