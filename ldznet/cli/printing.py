"""What a command says: to people in lines, to programs in JSON; and with which exit code it was stopped."""

from __future__ import annotations

import json
import signal
import sys
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


class Voice:
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
