"""python -m ldznet datasets: fetch the art of the embedded model's world, the one dataset that may be fetched."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments to its parser."""
    parser.description = (
        "Fetch the icons that the embedded model's world is drawn with, to train it or to measure it: eight sets "
        "of art, 30 MB, from npm, rendered once. They are other people's work under their own licences, which "
        "docs/tiny.md lists; nothing of them is part of ldznet."
    )
    parser.epilog = "example:\n  python -m ldznet datasets art"
    parser.add_argument("data", metavar="DATA", choices=("art",), help="art")
    parser.add_argument(
        "--art", type=Path, metavar="FOLDER", help="where to keep the art (default: in the user's cache)"
    )


def run(parsed: argparse.Namespace) -> int:
    """Fetch what is missing; return 0."""
    from ldznet.research.scenes.art import default_art_folder, fetch_art

    fetch_art(parsed.art or default_art_folder())
    return 0
