"""Which world the command line means: shapes or icons, in whose hands, and where their art is."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ldznet.errors import OptionError

if TYPE_CHECKING:
    from ldznet.research.scenes.icons import IconWorld
    from ldznet.research.scenes.world import World

WORLD_NAMES = ("shapes", "icons")


def add_world(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that choose a world and its artists."""
    parser.add_argument(
        "--world",
        choices=WORLD_NAMES,
        default="shapes",
        help="world of the scenes: coloured shapes, or everyday things in several artists' hands, whose art "
        "`python -m ldznet datasets art` fetches (default: %(default)s)",
    )
    parser.add_argument(
        "--artists",
        default="",
        metavar="LIST",
        help="icons: artists of the scenes (default: to train those whose art may be trained on, to measure all)",
    )
    parser.add_argument(
        "--art", type=Path, metavar="FOLDER", help="icons: folder of the art (default: in the user's cache)"
    )


def open_world(name: str, art: Path | None = None) -> World:
    """Return a world by its name; icons are read from the folder `art` (None: the default one).

    Raises:
        OptionError: no world has this name.
        ArtError: the art has not been fetched.
    """
    if name == "shapes":
        from ldznet.research.scenes.stream import ShapeWorld

        return ShapeWorld()
    if name == "icons":
        from ldznet.research.scenes.icons import IconWorld

        return IconWorld.read(art)
    raise OptionError(f"world is {name!r}, which is unknown. Give one of {', '.join(WORLD_NAMES)}.")


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
    if parsed.data != "scenes" or parsed.world != "icons":
        return str(parsed.data)
    return f"scenes of icons by {parsed.artists or 'all artists'}"
