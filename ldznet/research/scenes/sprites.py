"""Sprites: every artist's image of every noun, and how one of them is tinted and put into a scene.

sprite   (S, S, 4)  uint8 RGBA, colours multiplied by alpha; the thing's longer side is S - 4 pixels
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ldznet.files import atomic_path
from ldznet.research.scenes.nouns import NOUNS

SPRITE_SIDE = 160
_LEAST_MAIN_PART = 0.42  # of a thing's area, in its main colour; of a bus less is, and "red bus" would mislead
Array = npt.NDArray[Any]

# Colour words: hue in turns, how much of the saturation there must be at least and at most, factor and least
# amount of brightness.
_TINTS: dict[str, tuple[float, tuple[float, float], float, float]] = {
    "red": (0.995, (0.75, 1.0), 0.95, 0.0),
    "orange": (0.075, (0.8, 1.0), 1.0, 0.2),
    "yellow": (0.142, (0.7, 1.0), 1.1, 0.3),
    "green": (0.345, (0.6, 0.9), 0.85, 0.0),
    "blue": (0.6, (0.65, 1.0), 0.95, 0.0),
    "purple": (0.77, (0.5, 0.8), 0.85, 0.0),
    "pink": (0.92, (0.25, 0.45), 1.1, 0.35),
    "black": (0.6, (0.0, 0.1), 0.32, 0.0),
    "white": (0.6, (0.0, 0.05), 1.15, 0.45),
}


def write_sprites(path: Path, sprites: Mapping[str, Array], nouns: str) -> None:
    """Write one artist's sprites and the digest of the nouns; the file has its name only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file, words=np.array(list(sprites)), sprites=np.stack(list(sprites.values())), nouns=nouns
        )


def digest_of_nouns(path: Path) -> str:
    """Return the digest that `write_sprites` wrote; empty where no such file can be read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return str(file["nouns"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return ""


class Sprites:
    """One artist's sprites, at the resolutions that scenes need."""

    def __init__(self, artist: str, look: str, sprites: Mapping[str, Array]) -> None:
        self.artist, self.look = artist, look
        self.words = tuple(sorted(sprites))
        self._sprites = dict(sprites)
        self._takes_color: dict[str, bool] = {}
        self._fullness: dict[str, float] = {}
        self._levels: dict[tuple[str, str], tuple[Array, ...]] = {}

    @classmethod
    def read(cls, path: Path, look: str) -> Sprites:
        """Read what `write_sprites` wrote."""
        with np.load(path, allow_pickle=False) as file:
            words, sprites = file["words"].tolist(), file["sprites"]
        return cls(path.stem, look, {word: sprites[i] for i, word in enumerate(words) if word in NOUNS})

    def levels(self, word: str, color: str) -> tuple[Array, ...]:
        """Return the sprite of a word, tinted, at SPRITE_SIDE, half and a quarter of it, for clean scaling."""
        if (word, color) not in self._levels:
            self._levels[word, color] = self._make_levels(self._sprites[word], color)
        return self._levels[word, color]

    def _make_levels(self, sprite: Array, color: str) -> tuple[Array, ...]:
        levels = [tint(sprite, color) if color else sprite]
        for _ in range(2):
            side = levels[-1].shape[0] // 2
            levels.append(cv2.resize(levels[-1], (side, side), interpolation=cv2.INTER_AREA))
        return tuple(levels)

    def takes_color(self, word: str) -> bool:
        """Return whether a colour word is true of the thing when it is tinted: its main part is large."""
        if word not in self._takes_color:
            sprite = self._sprites[word]
            alpha = sprite[..., 3] / 255
            main = NOUNS[word].takes_color and float(
                (_main_part(*_hsv(sprite), alpha) * alpha).sum() / alpha.sum()
            )
            self._takes_color[word] = main > _LEAST_MAIN_PART
        return self._takes_color[word]

    def fullness(self, word: str) -> float:
        """Return the share of its square that the thing covers."""
        if word not in self._fullness:
            self._fullness[word] = float((self._sprites[word][..., 3] > 127).mean())
        return self._fullness[word]


def tint(sprite: Array, color: str) -> Array:
    """Return a sprite in another colour: its main colour is replaced, outlines and small parts stay."""
    alpha = sprite[..., 3:].astype(np.float32) / 255
    pixels = sprite[..., :3].astype(np.float32) / 255 / np.maximum(alpha, 1 / 255)
    hue, saturation, value = _hsv(sprite)
    target, (least, most), factor, floor = _TINTS[color]
    main = _main_part(hue, saturation, value, alpha[..., 0])
    part = main[..., None]
    level = _level(saturation, value, main)
    new_saturation = np.clip(saturation * 1.1, least, most) * np.clip(3.5 - 2.6 * level, 0.35, 1.0)
    new_value = np.clip(floor + (1 - floor) * np.clip(level, 0, 1) ** 0.8 * factor, 0, 1)
    shade = np.stack([np.full_like(hue, target * 360), new_saturation, new_value], -1).astype(np.float32)
    tinted = cv2.cvtColor(shade, cv2.COLOR_HSV2RGB)
    mixed = pixels * (1 - part) + tinted * part
    return np.concatenate([np.round(np.clip(mixed, 0, 1) * alpha * 255).astype(np.uint8), sprite[..., 3:]], -1)


def _hsv(sprite: Array) -> tuple[Array, Array, Array]:
    """Return hue in turns, saturation and value, (S, S) each, of a sprite's own colours."""
    alpha = sprite[..., 3:].astype(np.float32) / 255
    pixels = sprite[..., :3].astype(np.float32) / 255 / np.maximum(alpha, 1 / 255)
    hsv = cv2.cvtColor(np.clip(pixels, 0, 1), cv2.COLOR_RGB2HSV)
    return hsv[..., 0] / 360, hsv[..., 1], hsv[..., 2]


def _main_part(hue: Array, saturation: Array, value: Array, alpha: Array) -> Array:
    """Return (S, S) in [0, 1]: how much a pixel belongs to the thing's main colour."""
    colorful = np.clip((saturation * value - 0.15) / 0.15, 0, 1) * alpha
    if colorful.sum() < 0.22 * alpha.sum():  # a grey thing: all of it that is not nearly black or white
        return np.asarray(np.clip((value - 0.12) / 0.1, 0, 1), np.float32)
    weights, _ = np.histogram(hue, bins=36, range=(0, 1), weights=colorful)
    smooth = weights + 0.7 * (np.roll(weights, 1) + np.roll(weights, -1))
    center = (int(np.argmax(smooth)) + 0.5) / 36
    distance = np.abs((hue - center + 0.5) % 1 - 0.5)
    return np.asarray(
        np.clip((0.14 - distance) / 0.05, 0, 1) * np.clip((saturation - 0.12) / 0.13, 0, 1), np.float32
    )


def _level(saturation: Array, value: Array, main: Array) -> Array:
    """Return (S, S): brightness relative to the main part's own, near 0.85 where it is usual."""
    shade = value * (1 - 0.35 * saturation)
    weights = main.sum()
    mean = float((shade * main).sum() / weights) if weights > 1 else 0.7
    return np.asarray(0.85 * shade / max(mean, 0.05), np.float32)


def warp(
    levels: Sequence[Array],
    side: float,
    angle: float,
    mirrored: bool,
    center: tuple[float, float],
    size: tuple[int, int],
) -> Array:
    """Return (H, W, 4) uint8: a sprite of `side` pixels on its longer side, turned by `angle`, about (x, y)."""
    # The smallest level that is not enlarged: a larger one would be read with gaps.
    level = next((level for level in reversed(levels) if level.shape[0] >= side), levels[0])
    own = level.shape[0]
    scale = side / (own - 4 * own / SPRITE_SIDE)
    cosine, sine = np.cos(angle) * scale, np.sin(angle) * scale
    flip = -1 if mirrored else 1
    middle = (own - 1) / 2
    matrix = np.array(
        [
            [flip * cosine, -sine, center[0] - 0.5 - flip * cosine * middle + sine * middle],
            [flip * sine, cosine, center[1] - 0.5 - flip * sine * middle - cosine * middle],
        ]
    )
    return np.asarray(cv2.warpAffine(level, matrix, size[::-1], flags=cv2.INTER_LINEAR))
