"""The command line: python -m ldznet COMMAND.

Each command is a function from parsed arguments to an exit code:

    0  all done
    1  something could not be done; the error says what, why and what to do
    2  the command line itself is wrong
    130, 143, ...  stopped: by Ctrl-C (128 + 2), by a signal to end (128 + 15)
    141  stopped, because nobody reads the output any more, as in `... | head`

Ctrl-C before a command has begun, or after it, ends the program as it ends those that are not Python.
"""

from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # first, since the other imports take a while

import argparse
import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from ldznet import __version__
from ldznet.cli import convert, download, segment, serve
from ldznet.cli.printing import print_json, printable, stop_code
from ldznet.cli.signals import stoppable
from ldznet.errors import LdznetError, OptionError, PromptError
from ldznet.research.bench import bench
from ldznet.research.cli import evaluate, train


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    as_json = "--json" in arguments  # also where the rest of them is wrong
    try:
        with stoppable():
            parsed = make_parser().parse_args(arguments)
            as_json = getattr(parsed, "json", False)
            _prepare(quiet=getattr(parsed, "quiet", False))
            code: int = parsed.run(parsed)
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return 128 + 13
    except KeyboardInterrupt as stop:
        return _end(as_json, "stopped", stop_code(stop), prefix="")
    except LdznetError as error:
        return _end(as_json, str(error), 2 if isinstance(error, OptionError | PromptError) else 1)
    except ImportError as error:
        what = f"{error.name or error} is not installed, which this command needs. Install it"
        return _end(as_json, f'{what}: pip install "ldznet[standalone]"', 1)
    except MemoryError:
        return _end(as_json, "There is not enough memory. Close other programs, or take a smaller model.", 1)
    except OSError as error:
        what = error.filename or "Standard output"
        if error.filename is None:
            _discard_output()
        return _end(as_json, f"{what} cannot be used: {error.strerror or error}. Check the disk.", 1)
    return code


def _prepare(*, quiet: bool) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("ldznet").setLevel(logging.ERROR if quiet else logging.NOTSET)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be text
        sys.stdout.reconfigure(errors="backslashreplace")


def _end(as_json: bool, text: str, code: int, *, prefix: str = "error: ") -> int:
    """Say why a command ended, to people and to programs."""
    print(printable(f"{prefix}{text}"), file=sys.stderr or io.StringIO())
    if as_json:
        try:
            print_json({"error": text})
        except OSError:  # full, or nobody reads it
            _discard_output()
    return code


def _discard_output() -> None:
    """What is still to be written goes nowhere, so that Python does not complain of it when it ends."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong by an error of ours, for people and programs alike."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        raise OptionError(f"{message}. See {self.prog} --help.")


class _CommandParser(_Parser):
    """Takes flags also between the other arguments: segment photo.jpg --threshold 0.4 "bucket"."""

    _calls = 0

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Called for a command, and from there by argparse for two passes: flags first, then what is left."""
        self._calls += 1
        if self._calls == 1:
            try:
                return self.parse_known_intermixed_args(args, namespace)
            finally:
                self._calls = 0
        if self._calls == 2 and "--" in args:  # behind it there are no flags; Python 3.11 forgets that
            end = args.index("--")
            found, left = super().parse_known_args(args[:end], namespace)
            return found, [*left, *args[end:]]
        return super().parse_known_args(args, namespace)


def make_parser() -> argparse.ArgumentParser:
    """The parser with all commands."""
    parser = _Parser(
        prog="python -m ldznet",
        description="Masks from words, with a Stable Diffusion model (LD-ZNet).",
        epilog="`python -m ldznet COMMAND --help` says more about a command.",
    )
    parser.add_argument("--version", action="version", version=f"ldznet {__version__}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=_CommandParser
    )
    for command in (segment, serve, convert, download, train, evaluate, bench):
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
