"""python -m ldznet convert: make a head file from the released checkpoint."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ldznet.cli.printing import byte_bar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments to its parser."""
    parser.description = (
        "Read the released LD-ZNet checkpoint (.ckpt) without running code in it, and write the head alone as "
        "one .safetensors file. The Stable Diffusion model in the checkpoint is left out: you have one already."
    )
    parser.add_argument("source", type=Path, help="released checkpoint (.ckpt, .safetensors, .index.json)")
    parser.add_argument(
        "target",
        type=Path,
        nargs="?",
        help="file to write (default: next to the source, -ema.safetensors)",
    )
    parser.add_argument("--raw", action="store_true", help="use the raw weights instead of their average (EMA)")
    parser.add_argument(
        "--dtype",
        choices=("float16", "bfloat16", "float32", "int8"),
        default="float16",
        help="precision of the file; int8: 8 bits, half the size and memory of float16, nearly as exact (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--heads",
        type=int,
        metavar="N",
        help="number of attention heads; needed only if the width differs from the released head",
    )
    parser.add_argument("--force", action="store_true", help="overwrite the target if it exists")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, for programs")


def run(parsed: argparse.Namespace) -> int:
    """Convert the checkpoint and print what was written; return the exit code."""
    from ldznet.heads.convert import DTYPES, convert  # here, since --help needs no torch

    with byte_bar("converting") as progress:
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
            "config": json.loads(report.config.to_json()),  # as in the header of the file
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
