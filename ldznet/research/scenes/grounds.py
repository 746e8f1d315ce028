"""Grounds: what a scene's things stand before.

ground   (H, W, 3)  uint8, RGB
"""

from __future__ import annotations

import cv2
import numpy as np

from ldznet.research.scenes.sprites import Array

__all__ = ["GROUND_COLORS", "draw_ground"]

# A colour word, and the colour about which a ground's own is drawn.
GROUND_COLORS: dict[str, tuple[int, int, int]] = {
    "red": (196, 58, 56),
    "orange": (232, 146, 66),
    "yellow": (238, 214, 110),
    "green": (98, 160, 92),
    "blue": (86, 138, 206),
    "purple": (142, 104, 182),
    "pink": (236, 168, 190),
    "brown": (138, 100, 70),
    "gray": (142, 144, 148),
    "black": (38, 38, 44),
    "white": (236, 236, 232),
}
_KINDS = ("plain", "gradient", "horizon", "noise", "stripes", "checks", "blobs")
_KIND_SHARES = (0.2, 0.2, 0.16, 0.2, 0.1, 0.06, 0.08)


def draw_ground(color: str, size: tuple[int, int], rng: np.random.Generator) -> Array:
    """Return a ground, mostly in shades of one colour, `size` (height, width)."""
    kind = str(rng.choice(_KINDS, p=_KIND_SHARES))
    first = _near(GROUND_COLORS[color], 14, rng)
    spread = (10 if kind in ("stripes", "checks") else 34) * rng.uniform(0.4, 1.0)
    second = first + rng.choice((-1.0, 1.0)) * spread + rng.normal(0, 7, 3)
    share = np.asarray(_SHARES[kind](size, rng)[..., None], np.float32)
    ground = first.astype(np.float32) + share * (second - first).astype(np.float32)
    if rng.random() < 0.3:
        ground += rng.standard_normal((*size, 1), np.float32) * np.float32(rng.uniform(1, 4))
    return np.asarray(np.clip(ground + 0.5, 0, 255), np.uint8)


def _near(color: tuple[int, int, int], deviation: float, rng: np.random.Generator) -> Array:
    return np.clip(np.array(color, float) + rng.normal(0, deviation, 3) * 0.6 + rng.normal(0, deviation), 8, 247)


def _plain(size: tuple[int, int], rng: np.random.Generator) -> Array:
    return np.zeros(size)


def _gradient(size: tuple[int, int], rng: np.random.Generator) -> Array:
    y, x = np.mgrid[: size[0], : size[1]]
    angle = rng.uniform(0, 2 * np.pi)
    ramp = x / size[1] * np.cos(angle) + y / size[0] * np.sin(angle)
    return np.asarray((ramp - ramp.min()) / (np.ptp(ramp) + 1e-9))


def _horizon(size: tuple[int, int], rng: np.random.Generator) -> Array:
    """Return a floor and a wall, the border of the two a little soft."""
    line = rng.uniform(0.45, 0.8) * size[0]
    y = np.arange(size[0])[:, None] + np.zeros((1, size[1]))
    return np.asarray(np.clip((y - line) / rng.uniform(1, 4) + 0.5, 0, 1))


def _noise(size: tuple[int, int], rng: np.random.Generator) -> Array:
    field = np.zeros(size)
    for cells, weight in ((int(rng.integers(3, 6)), 1.0), (int(rng.integers(8, 16)), 0.5)):
        field += weight * cv2.resize(rng.random((cells, cells)), size[::-1], interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(field / 1.5, 0, 1))


def _stripes(size: tuple[int, int], rng: np.random.Generator) -> Array:
    y, x = np.mgrid[: size[0], : size[1]]
    angle, width = rng.uniform(0, np.pi), rng.uniform(8, 24) * min(size) / 128
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / (2 * width) + rng.uniform(0, 6))
    return np.asarray(np.clip(wave * 2 + 0.5, 0, 1))


def _checks(size: tuple[int, int], rng: np.random.Generator) -> Array:
    side = rng.uniform(12, 28) * min(size) / 128
    y, x = np.mgrid[: size[0], : size[1]]
    shift = rng.uniform(0, side, 2)
    return np.asarray(((x + shift[0]) // side + (y + shift[1]) // side) % 2, float)


def _blobs(size: tuple[int, int], rng: np.random.Generator) -> Array:
    canvas = np.zeros(size, np.float32)
    for _ in range(int(rng.integers(3, 9))):
        center = (int(rng.integers(size[1])), int(rng.integers(size[0])))
        cv2.circle(canvas, center, int(rng.uniform(0.05, 0.2) * min(size)), 1.0, -1, cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), rng.uniform(1.5, 5)), float)


_SHARES = {
    "plain": _plain,
    "gradient": _gradient,
    "horizon": _horizon,
    "noise": _noise,
    "stripes": _stripes,
    "checks": _checks,
    "blobs": _blobs,
}
