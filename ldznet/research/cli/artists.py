"""In whose hands the scenes of a command are drawn, and where their art is."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ldznet.errors import OptionError

if TYPE_CHECKING:
    from ldznet.research.scenes.icons import IconWorld


def add_artists(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that choose the artists of scenes."""
    parser.add_argument(
        "--artists",
        default="",
        metavar="LIST",
        help="scenes: their artists (default: to measure `scenes` all, else those whose art the embedded model is "
        "trained on)",
    )
    parser.add_argument(
        "--art",
        type=Path,
        metavar="FOLDER",
        help="scenes: folder of the art, which `python -m ldznet datasets art` fetches (default: in the user's "
        "cache)",
    )


def chosen_artists(parsed: argparse.Namespace, world: IconWorld, default: Sequence[str]) -> list[str]:
    """Return the artists of --artists, or the default.

    Raises:
        OptionError: an artist is unknown.
    """
    artists = [artist.strip() for artist in parsed.artists.split(",") if artist.strip()]
    if unknown := [artist for artist in artists if artist not in world.hands]:
        known = ", ".join(world.hands)
        raise OptionError(f"--artists names {unknown[0]!r}, who is unknown. Give some of {known}.")
    return artists or list(default)


def scenes_name(parsed: argparse.Namespace) -> str:
    """Return what a head records of the scenes that it was trained on."""
    if parsed.data != "scenes":
        return str(parsed.data)
    return f"scenes of icons by {parsed.artists or 'all artists'}"
