"""Print what a command reports: lines for people, JSON for programs, progress bars."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

_JOINERS = "\u200c\u200d"  # not "printable", but they stand between letters and inside emoji


def printable(text: str) -> str:
    """Return a text on one line, with escapes for what would move a terminal's cursor or colour its text."""
    return "".join(
        letter if letter.isprintable() or letter in _JOINERS else letter.encode("unicode_escape").decode()
        for letter in text
    )


def print_json(content: Any) -> None:
    """Print the one JSON document of a command on standard output."""
    print(json.dumps(content, indent=2), flush=True)


def stop_code(stop: KeyboardInterrupt) -> int:
    """Return 128 and the signal's number; an interrupt without a number is Ctrl-C."""
    return 128 + int(stop.args[0] if stop.args else signal.SIGINT)


class Printer:
    """Lines for people: errors always, notes unless quiet, results unless quiet or a program reads."""

    def __init__(self, *, quiet: bool, json: bool) -> None:
        self.quiet, self.json = quiet, json
        self.bar: Any = None  # a progress bar, above which lines are printed

    def result(self, text: str) -> None:
        """Print what was done."""
        if not self.quiet and not self.json:
            self._print(text, sys.stdout)

    def note(self, text: str) -> None:
        """Print what a user may want to know."""
        if not self.quiet:
            self._print(text, sys.stderr)

    def error(self, text: str) -> None:
        """Print what could not be done."""
        self._print(text, sys.stderr)

    def _print(self, text: str, stream: TextIO | None) -> None:
        if stream is None:  # closed
            return
        if hasattr(self.bar, "write"):
            self.bar.write(printable(text), file=stream)
        else:
            print(printable(text), file=stream)
        stream.flush()  # a program that reads a pipe gets the line of each image at once


# --- progress bars ---------------------------------------------------------------------------------


@contextlib.contextmanager
def byte_bar(text: str) -> Iterator[Callable[[int, int], None] | None]:
    """Show a progress bar over bytes on a terminal; yield its update, or None where tqdm is not installed."""
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
    """A progress bar that shows nothing, for where tqdm is not installed."""

    def update(self, more: int = 1) -> None: ...

    def set_postfix_str(self, text: str) -> None: ...

    def close(self) -> None: ...


def item_bar(total: int, unit: str, *, start: int = 0, quiet: bool = False) -> Any:
    """Return a progress bar over items, with their rate and the time left; it shows on a terminal only."""
    try:
        from tqdm import tqdm
    except ImportError:
        return _NoBar()
    return tqdm(total=total, initial=start, unit=unit, disable=True if quiet else None, leave=False)
