"""Art for fast tests: plain drawings in place of the artists', so that tests need neither npm nor its packages.

A noun is a polygon whose corners and colour come from its place in the list; an artist draws it with another
outline and shade. It looks like nothing, but it has the nouns, the artists and the form of the real art.
"""

from __future__ import annotations

import colorsys
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from ldznet.research.scenes.art import ARTISTS, fit_sprite
from ldznet.research.scenes.icon_samples import IconSamples
from ldznet.research.scenes.icons import IconWorld
from ldznet.research.scenes.nouns import NOUNS, nouns_digest
from ldznet.research.scenes.sprites import Array, Sprites, write_sprites

_SIDE = 96  # pixels of a drawing, before it becomes a sprite


@cache
def stand_in_world() -> IconWorld:
    """Return a world of icons whose art is drawn here."""
    hands = {
        name: Sprites(name, artist.look, {word: _draw(place, number) for place, word in enumerate(NOUNS)})
        for number, (name, artist) in enumerate(ARTISTS.items())
    }
    return IconWorld(hands, [name for name, artist in ARTISTS.items() if artist.trained_on])


def stand_in_samples(scenes, artist="noto", *, size=64, absent=1) -> IconSamples:
    """Return samples of the stand-in's scenes: of each three phrases for things in it, `absent` for others."""
    return IconSamples(stand_in_world(), (artist,), scenes, size=size, absent=absent)


def write_art(folder: Path) -> None:
    """Write the stand-in's art as `datasets art` does, for commands that run in another process."""
    for name, sprites in stand_in_world().hands.items():
        levels = {word: sprites.levels(word, "")[0] for word in sprites.words}
        write_sprites(folder / f"{name}.npz", levels, nouns_digest())


def _draw(place: int, artist: int) -> Array:
    """Return the sprite of the noun at a place of the list in an artist's hand."""
    corners, spike = 3 + place % 7, 0.55 + 0.45 * (place // 7 % 3) / 2
    turn = np.arange(2 * corners) * np.pi / corners - np.pi / 2
    radii = np.where(np.arange(2 * corners) % 2, spike, 1.0) * (0.42 * _SIDE)
    points = np.stack([radii * np.cos(turn), radii * np.sin(turn) * (0.7 + 0.1 * (place % 4))], 1) + _SIDE / 2
    hue = place / len(NOUNS) + artist * 0.01
    color = [round(255 * part) for part in colorsys.hsv_to_rgb(hue % 1, 0.8, 0.75 + 0.03 * artist)]
    image = np.zeros((_SIDE, _SIDE, 4), np.uint8)
    cv2.fillPoly(image, [np.round(points).astype(np.int32)], (*color, 255))
    if artist % 2:
        cv2.polylines(image, [np.round(points).astype(np.int32)], True, (20, 20, 20, 255), 3)
    return fit_sprite(image)
