"""python -m ldznet download: fetch a head, or the released checkpoint and make a head of it, from the web."""

from __future__ import annotations

import argparse
from pathlib import Path

from ldznet.cli.printing import byte_bar, print_json
from ldznet.errors import CheckpointError, DownloadError
from ldznet.methods.load import MODELS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments to its parser."""
    parser.description = (
        "Fetch a head, or the released LD-ZNet checkpoint, which is then converted and removed. The same command "
        "resumes an interrupted download. The digest in a head file is checked, and --sha256 if given; no code in "
        "the file is run."
    )
    parser.epilog = (
        "examples:\n"
        "  python -m ldznet download https://example.org/bucket-head.safetensors\n"
        "  python -m ldznet download https://huggingface.co/OWNER/NAME/resolve/main/head.safetensors\n"
        "  python -m ldznet download https://example.org/ld-znet.ckpt --to stable-diffusion-webui/models/ldznet"
    )
    parser.add_argument("url", metavar="ADDRESS", help="https:// or http:// address of a weight file")
    parser.add_argument(
        "--to",
        type=Path,
        default=MODELS,
        metavar="FOLDER",
        help="folder for the head (default: models/ of ldznet, where `segment` looks for heads)",
    )
    parser.add_argument("--sha256", default="", metavar="DIGITS", help="refuse a file with another SHA-256")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, for programs")


def run(parsed: argparse.Namespace) -> int:
    """Fetch, check, convert if needed, and print where the head is; return the exit code."""
    from ldznet.cli.fetching import fetch
    from ldznet.heads.convert import convert
    from ldznet.heads.head_file import read_head_info, verify_digest
    from ldznet.heads.weight_files import open_tensors

    with (
        byte_bar("fetching") as progress,
        fetch(
            parsed.url,
            parsed.to,
            sha256=parsed.sha256,
            accept=lambda name: _require_missing(_target(parsed.to, name)),
            progress=progress,
        ) as source,
    ):
        try:
            with open_tensors(source) as tensors:
                is_head = "ldznet.config" in tensors.metadata
            if is_head:
                verify_digest(source, read_head_info(source).sha256)
        except CheckpointError:
            source.unlink()  # so that the same command fetches it anew
            raise
        path = _target(parsed.to, source.name)
        if is_head:
            _require_missing(path)  # again, since much time has passed
            source.replace(path)
        else:
            with byte_bar("converting") as converting:
                convert(source, path, progress=converting)
    info = read_head_info(path)
    if parsed.json:
        print_json({"path": str(path), "kind": info.config.kind, "sha256": info.sha256})
    else:
        print(f"{path}\n  {info.config.kind}, {path.stat().st_size / 1e6:,.1f} MB, sha256 {info.sha256}")
    return 0


def _target(folder: Path, name: str) -> Path:
    """Return the path of the head, fetched or converted: heads are looked for by this suffix."""
    return folder / f"{Path(name).stem}.safetensors"


def _require_missing(target: Path) -> None:
    if target.exists():
        raise DownloadError(
            f"{target} exists; it was left as it is. Move it away, or give another folder (--to), and repeat the "
            "command."
        )
