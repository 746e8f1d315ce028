"""What a command says: to people in lines, to programs in JSON; and with which exit code it was stopped."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

_JOINERS = "\u200c\u200d"  # between letters, and inside of emoji


def printable(text: str) -> str:
    """A text on one line: what would move a terminal's cursor, or colour it, is written as an escape."""
    return "".join(
        letter if letter.isprintable() or letter in _JOINERS else letter.encode("unicode_escape").decode()
        for letter in text
    )


def print_json(content: Any) -> None:
    """The one document of a command, on standard output."""
    print(json.dumps(content, indent=2), flush=True)


def stop_code(stop: KeyboardInterrupt) -> int:
    """128 and the signal's number; without one it was Ctrl-C."""
    return 128 + int(stop.args[0] if stop.args else signal.SIGINT)


class Printer:
    """Lines for people: errors always, notes unless quiet, results unless quiet or a program reads."""

    def __init__(self, *, quiet: bool, json: bool) -> None:
        self.quiet, self.json = quiet, json
        self.bar: Any = None  # a progress bar to be written above

    def result(self, text: str) -> None:
        """What was done."""
        if not self.quiet and not self.json:
            self._line(text, sys.stdout)

    def note(self, text: str) -> None:
        """What a user may want to know."""
        if not self.quiet:
            self._line(text, sys.stderr)

    def error(self, text: str) -> None:
        """What could not be done."""
        self._line(text, sys.stderr)

    def _line(self, text: str, stream: TextIO | None) -> None:
        if stream is None:  # closed
            return
        if hasattr(self.bar, "write"):
            self.bar.write(printable(text), file=stream)
        else:
            print(printable(text), file=stream)
        stream.flush()  # also into a pipe: whoever reads it sees each image at once


@contextlib.contextmanager
def byte_bar(text: str) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar over bytes on a terminal; None where tqdm is not installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield None
        return
    with tqdm(desc=text, unit="B", unit_scale=True, unit_divisor=1000, disable=None, leave=False) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update


class _NoBar:
    """Stands for tqdm where it is not installed."""

    def update(self, more: int = 1) -> None: ...

    def set_postfix_str(self, text: str) -> None: ...

    def close(self) -> None: ...


def item_bar(total: int, unit: str, *, start: int = 0, quiet: bool = False) -> Any:
    """A progress bar over things, with their rate and the time left, on a terminal."""
    try:
        from tqdm import tqdm
    except ImportError:
        return _NoBar()
    return tqdm(total=total, initial=start, unit=unit, disable=True if quiet else None, leave=False)
