"""The command line: python -m ldznet COMMAND.

Each command is a function from parsed arguments to an exit code:

    0  all done
    1  something could not be done; the error says what, why and what to do
    2  the command line itself is wrong
    130  stopped by Ctrl-C
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ldznet import __version__
from ldznet.errors import LdznetError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        code: int = parsed.run(parsed)
    except LdznetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `... | head`
        sys.stderr.close()
        return 0
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ldznet",
        description="Masks from words, with a Stable Diffusion model (LD-ZNet).",
        epilog="`python -m ldznet COMMAND --help` says more about a command.",
    )
    parser.add_argument("--version", action="version", version=f"ldznet {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_convert(commands)
    return parser


def _add_convert(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "convert",
        help="make a head's file from the released LD-ZNet checkpoint",
        description="Read the released LD-ZNet checkpoint (.ckpt) once, safely, and write the head alone as one "
        ".safetensors. The Stable Diffusion model inside the checkpoint is left out: the host has it already.",
    )
    parser.add_argument("source", type=Path, help="the released checkpoint (.ckpt, .safetensors, .index.json)")
    parser.add_argument(
        "target", type=Path, nargs="?", help="the file to write (default: beside the source, -ema.safetensors)"
    )
    parser.add_argument("--raw", action="store_true", help="take the raw weights instead of their average (EMA)")
    parser.add_argument(
        "--dtype",
        choices=("float16", "bfloat16", "float32"),
        default="float16",
        help="precision of the file (default: %(default)s)",
    )
    parser.add_argument(
        "--heads",
        type=int,
        metavar="N",
        help="attention heads; needed only for a head that has another width than the released one",
    )
    parser.add_argument("--force", action="store_true", help="overwrite the target if it exists")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, for programs")
    parser.set_defaults(run=_convert)


def _convert(parsed: argparse.Namespace) -> int:
    from ldznet.modeling.checkpoint import DTYPES, convert

    with _bar("converting") as progress:
        report = convert(
            parsed.source,
            parsed.target,
            weights="raw" if parsed.raw else "ema",
            dtype=DTYPES[parsed.dtype],
            heads=parsed.heads,
            overwrite=parsed.force,
            progress=progress,
        )
    if parsed.json:
        result = {
            "path": str(report.path),
            "config": json.loads(report.config.to_json()),
            "weights": report.weights,
            "dtype": report.dtype,
            "parameters": report.parameters,
            "bytes": report.bytes,
            "sha256": report.sha256,
            "source_sha256": report.source_sha256,
            "left_out": dict(report.left_out),
        }
        print(json.dumps(result, indent=2))
        return 0
    left_out = ", ".join(f"{group} ({count})" for group, count in report.left_out.items()) or "nothing"
    print(
        f"{report.path}\n"
        f"  {report.config.kind}, {report.parameters:,} parameters, {report.weights} weights, {report.dtype}, "
        f"{report.bytes / 1e6:,.1f} MB\n"
        f"  sha256 {report.sha256}\n"
        f"  left out: {left_out}"
    )
    return 0


@contextlib.contextmanager
def _bar(text: str) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar over bytes on a terminal; nothing where tqdm is not installed."""
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


if __name__ == "__main__":
    sys.exit(main())
