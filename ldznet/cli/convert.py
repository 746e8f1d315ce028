"""python -m ldznet convert: the released checkpoint to a head's file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ldznet.cli.printing import byte_bar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments to its parser."""
    parser.description = (
        "Read the released LD-ZNet checkpoint (.ckpt) once, safely, and write the head alone as one "
        ".safetensors. The Stable Diffusion model inside the checkpoint is left out: the host has it already."
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


def run(parsed: argparse.Namespace) -> int:
    """Convert and say what was written."""
    from ldznet.heads.convert import DTYPES, convert

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
