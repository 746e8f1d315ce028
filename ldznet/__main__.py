"""The command line: python -m ldznet COMMAND, or the console script `ldznet`.

Only the module of the chosen command is imported, and only its parser is built. A command's module has
`add_arguments(parser)` and `run(parsed)`, which returns the exit code:

    0  all done
    1  something could not be done; the error says what, why and what to do
    2  the command line itself is wrong
    130, 143, ...  stopped by Ctrl-C (128 + 2), by SIGTERM (128 + 15)
    141  stopped because nobody reads the output any more, as in `... | head`
"""

from __future__ import annotations

import argparse
import importlib
import io
import logging
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from ldznet import __version__
from ldznet.cli.printing import print_json, printable, stop_code
from ldznet.errors import LdznetError, OptionError, PromptError

PROGRAM = "python -m ldznet"
# command -> its module, by name so that nothing is imported for --help, and one line of help
COMMANDS = {
    "segment": ("ldznet.cli.segment", "find things in images by prompts and write masks"),
    "serve": ("ldznet.cli.serve", "open the webui's panel in the browser, without a webui"),
    "convert": ("ldznet.cli.convert", "make a head file from the released LD-ZNet checkpoint"),
    "download": ("ldznet.cli.download", "fetch a head from the web and check it"),
    "datasets": ("ldznet.research.cli.fetch_datasets", "fetch the art of the embedded model's world"),
    "train": ("ldznet.research.cli.train", "train a head for a Stable Diffusion model"),
    "evaluate": ("ldznet.research.cli.evaluate", "measure masks on a dataset"),
    "bench": ("ldznet.research.bench.bench", "measure speed and memory"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, by default the one of the process's own command line; return the exit code."""
    if arguments is None:
        _stop_on_signals()
        arguments = sys.argv[1:]
    as_json = "--json" in arguments  # also where the other arguments are wrong
    try:
        parsed = parse(arguments)
        as_json = getattr(parsed, "json", False)
        _prepare(quiet=getattr(parsed, "quiet", False))
        code: int = sys.modules[COMMANDS[parsed.command][0]].run(parsed)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return 128 + 13  # SIGPIPE, as a shell reports it
    except KeyboardInterrupt as stop:
        return _end(as_json, "stopped", stop_code(stop), prefix="")
    except LdznetError as error:
        return _end(as_json, str(error), 2 if isinstance(error, OptionError | PromptError) else 1)
    except ImportError as error:
        what = f"{error.name or error} is not installed, but this command needs it"
        # The laboratory needs more than `segment`: scikit-image, scipy, pycocotools and others.
        is_research = COMMANDS.get(next(iter(arguments), ""), ("",))[0].startswith("ldznet.research")
        extra = "research" if is_research else "standalone"
        return _end(as_json, f'{what}. In the folder of ldznet, run: pip install -e ".[{extra}]"', 1)
    except MemoryError:
        return _end(as_json, "There is not enough memory. Close other programs, or use a smaller model.", 1)
    except OSError as error:
        what = error.filename or "Standard output"
        if error.filename is None:
            _discard_output()
        return _end(as_json, f"{what} cannot be used: {error.strerror or error}. Check the disk.", 1)
    return code


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the values of a command line, with the command's name as `command`.

    Raises:
        OptionError: the command line is wrong.
        SystemExit: it asks for help or the version, which has been printed.
    """
    if not arguments or arguments[0] not in COMMANDS:
        _parse_without_command(arguments[:1])
    command, *rest = arguments
    parser = _Parser(prog=f"{PROGRAM} {command}", formatter_class=_HelpFormatter)
    importlib.import_module(COMMANDS[command][0]).add_arguments(parser)
    # Flags may also stand between the other arguments: segment photo.jpg --threshold 0.4 "bucket".
    parsed, unknown = parser.parse_known_intermixed_args(rest)
    if unknown:
        flags = [text for text in unknown if text.startswith("-")] or unknown
        suggestion = _suggestion(flags[0], parser._option_string_actions)
        parser.error(f"unrecognized arguments: {' '.join(flags)}{suggestion}")
    parsed.command = command
    return parsed


def _parse_without_command(arguments: Sequence[str]) -> NoReturn:
    """Print the help or the version, or raise an OptionError for what is no command."""
    width = max(map(len, COMMANDS))
    table = "\n".join(f"  {name:{width}}  {text}" for name, (_, text) in COMMANDS.items())
    parser = _Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [-h] [--version] COMMAND ...",
        description="Make masks from prompts, with a Stable Diffusion model (LD-ZNet).",
        epilog=f"commands:\n{table}\n\n`{PROGRAM} COMMAND --help` says more about a command.",
        formatter_class=_HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ldznet {__version__}")
    parser.add_argument("command", metavar="COMMAND", help=argparse.SUPPRESS)
    command = parser.parse_args(arguments).command
    parser.error(f"there is no command {command!r}{_suggestion(command, COMMANDS)}")


def _suggestion(text: str, known: Iterable[str]) -> str:
    """Return a sentence that names what was probably meant, or nothing."""
    close = get_close_matches(text.partition("=")[0], known, n=1)
    return f". Did you mean {close[0]}?" if close else ""


class _HelpFormatter(argparse.HelpFormatter):
    """Wrap descriptions, but keep the lines of examples and of the table of commands."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


class _Parser(argparse.ArgumentParser):
    """Raise an error of ours for a wrong command line, for people and programs alike."""

    def error(self, message: str) -> NoReturn:
        """Raise an OptionError, without argparse's twenty lines of usage."""
        raise OptionError(f"{message}{'' if message.endswith('?') else '.'} See {self.prog} --help.")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, and keep `--` in the first of the two passes of an intermixed parse.

        That pass reads only flags and returns the rest for the second one. Before Python 3.12 it drops `--`, so
        that the second pass took "-dash.png" after it for a flag.
        """
        positionals = self._get_positional_actions()
        if positionals and all(action.nargs == argparse.SUPPRESS for action in positionals) and "--" in args:
            end = args.index("--")
            namespace, rest = super().parse_known_args(args[:end], namespace)
            return namespace, [*rest, *args[end:]]
        return super().parse_known_args(args, namespace)


def _stop_on_signals() -> None:
    """Let SIGTERM and SIGHUP stop a command as Ctrl-C does, so that half-written files are removed."""

    def stop(number: int, _frame: object) -> None:
        raise KeyboardInterrupt(number)

    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores SIGHUP
            signal.signal(number, stop)


def _prepare(*, quiet: bool) -> None:
    """Set up logging and standard output for a command."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("ldznet").setLevel(logging.ERROR if quiet else logging.NOTSET)
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names and prompts need not fit the terminal's encoding
        sys.stdout.reconfigure(errors="backslashreplace")


def _end(as_json: bool, text: str, code: int, *, prefix: str = "error: ") -> int:
    """Report to people and to programs why a command ended; return its exit code."""
    print(printable(f"{prefix}{text}"), file=sys.stderr or io.StringIO())
    if as_json:
        try:
            print_json({"error": text})
        except OSError:  # the disk is full, or nobody reads it
            _discard_output()
    return code


def _discard_output() -> None:
    """Send what is still buffered to nowhere, so that Python does not complain when it ends."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
