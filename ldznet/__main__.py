"""The command line: python -m ldznet COMMAND.

Each command is a function from parsed arguments to an exit code:

    0  all done
    1  something could not be done; the error says what, why and what to do
    2  the command line itself is wrong
    130  stopped by Ctrl-C
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import signal
import sys
import threading
from collections.abc import Sequence

from ldznet import __version__
from ldznet.commands import bench, convert, evaluate, segment, train
from ldznet.errors import LdznetError, OptionError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = make_parser()
    parsed = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be text
        sys.stdout.reconfigure(errors="backslashreplace")
    for name in ("SIGTERM", "SIGHUP"):  # leave as from Ctrl-C, so that nothing half written stays behind
        if hasattr(signal, name) and threading.current_thread() is threading.main_thread():
            signal.signal(getattr(signal, name), _terminate)
    try:
        code: int = parsed.run(parsed)
    except LdznetError as error:
        print(f"error: {error}", file=sys.stderr)
        if getattr(parsed, "json", False):
            print(json.dumps({"error": str(error)}))
        return 2 if isinstance(error, OptionError) else 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `... | head`
        sys.stderr.close()
        return 0
    except ImportError as error:
        print(
            f"error: {error.name or error} is not installed, which this command needs. Install it: pip install "
            '"ldznet[standalone]"',
            file=sys.stderr,
        )
        return 1
    return code


def _terminate(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def make_parser() -> argparse.ArgumentParser:
    """The parser with all commands."""
    parser = argparse.ArgumentParser(
        prog="python -m ldznet",
        description="Masks from words, with a Stable Diffusion model (LD-ZNet).",
        epilog="`python -m ldznet COMMAND --help` says more about a command.",
    )
    parser.add_argument("--version", action="version", version=f"ldznet {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (segment, convert, train, evaluate, bench):
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
