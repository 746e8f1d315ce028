"""Shapes: the outline of each kind of object, and one object as it stands in a scene.

Plain geometry: nothing here knows of colours, looks or phrases.

    outline  closed polygons (N, 2) of x, y within the unit circle, y downwards; a second one is a hole
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

SUBPIXELS = 3  # per side; odd, so that no pixel is half one object and half another
_SHIFT = 4  # fractional bits of OpenCV's polygon coordinates


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene: what words can say of it, and where it is, in pixels."""

    kind: str  # a key of KINDS
    color: str
    fill: str  # "solid", "striped", "dotted" or "checkered"
    size_word: str  # "small", "large", or "" between the two
    position: tuple[float, float]  # x, y of the outline's centre
    radius: float  # of the circle around the outline
    angle: float  # radians, clockwise
    centroid: tuple[float, float] = (0.0, 0.0)  # x, y of what is visible
    box: tuple[int, int, int, int] = (0, 0, 0, 0)  # xyxy around what is visible; x1 and y1 are outside
    visible: float = 1.0  # share of the outline's area that is neither covered nor cropped

    def contours(self) -> list[Array]:
        """Return the outline's polygons (N, 2) in pixels of the picture."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        turn = self.radius * np.array([[cos, sin], [-sin, cos]])
        return [polygon @ turn + self.position for polygon in outline(self.kind)]

    def area(self) -> float:
        """Return the area of the whole outline in square pixels, hidden parts too."""
        outer, *holes = (abs(_signed_area(polygon)) for polygon in self.contours())
        return outer - sum(holes)


@dataclass(frozen=True)
class Kind:
    """A kind of object."""

    plural: str
    tilt: float  # radians by which it may be turned either way
    draw: Callable[[], list[Array]]
    small_fills: int = 4  # for how many of the fills, plain ones first, a small one has room


@cache
def outline(kind: str) -> tuple[Array, ...]:
    """Return the polygons of a kind, moved and scaled so that they just fit the unit circle."""
    polygons = KINDS[kind].draw()
    center, radius = cv2.minEnclosingCircle(polygons[0].astype(np.float32))
    return tuple((polygon - center) / radius for polygon in polygons)


@cache
def balance(kind: str) -> float:
    """Return by how much to enlarge a kind so that slim and full outlines look equally large."""
    outer, *holes = (abs(_signed_area(polygon)) for polygon in outline(kind))
    return float((0.6 * np.pi / (outer - sum(holes))) ** 0.25)


def fill_polygons(canvas: Array, contours: Sequence[Array], value: int) -> None:
    """Fill polygons, given in pixels, on a uint8 canvas that has SUBPIXELS times as many pixels per side."""
    outer, *holes = (polygon * SUBPIXELS - 0.5 for polygon in contours)
    # OpenCV fills the line around a polygon too, half a pixel too far.
    inset = [_inset(outer, 0.5), *(_inset(hole, -0.5) for hole in holes)]
    fixed = [np.round(polygon * 2**_SHIFT).astype(np.int32) for polygon in inset]
    cv2.fillPoly(canvas, fixed, value, lineType=cv2.LINE_8, shift=_SHIFT)


def _inset(polygon: Array, amount: float) -> Array:
    """Move the edges of a polygon inwards, by the amount along x or y, whichever is the shorter way."""
    edges = np.roll(polygon, -1, axis=0) - polygon
    inwards = edges[:, ::-1] * (-1, 1) / np.hypot(*edges.T)[:, None] * np.sign(_signed_area(polygon))
    before = np.roll(inwards, 1, axis=0)
    along = (inwards + before) / np.maximum(0.2, 1 + (inwards * before).sum(axis=1))[:, None]
    reach = np.abs(inwards).max(axis=1)
    return polygon + along * (amount * (reach + np.roll(reach, 1)) / 2)[:, None]


def _signed_area(polygon: Array) -> float:
    x, y = polygon.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def _polar(radii: Array, start: float = -np.pi / 2) -> Array:
    turn = start + np.arange(len(radii)) * 2 * np.pi / len(radii)
    return np.stack([radii * np.cos(turn), radii * np.sin(turn)], axis=1)


def _arc(center: tuple[float, float], radius: float, start: float, stop: float, count: int = 24) -> Array:
    turn = np.linspace(start, stop, count)
    return np.stack([center[0] + radius * np.cos(turn), center[1] + radius * np.sin(turn)], axis=1)


def _regular(corners: int, start: float = -np.pi / 2) -> list[Array]:
    return [_polar(np.ones(corners), start)]


def _star() -> list[Array]:
    return [_polar(np.tile([1.0, 0.45], 5))]


def _heart() -> list[Array]:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return [np.stack([16 * np.sin(t) ** 3, -y], axis=1)]


def _ring() -> list[Array]:
    return [_polar(np.ones(48)), _polar(np.full(48, 0.48))]


def _cross() -> list[Array]:
    a = 0.32
    corner = [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a)]
    return [np.array([*corner, *((-x, -y) for x, y in corner)], float)]


def _crescent() -> list[Array]:
    # The inner circle, of radius 0.8 about (0.52, 0), cuts the unit circle at +-65 degrees.
    x = (1 + 0.52**2 - 0.8**2) / (2 * 0.52)
    outer = np.arccos(x)
    inner = np.arctan2(np.sqrt(1 - x * x), x - 0.52)
    return [
        np.concatenate(
            [
                _arc((0, 0), 1, outer, 2 * np.pi - outer, 40),
                _arc((0.52, 0), 0.8, 2 * np.pi - inner, inner, 32)[1:-1],
            ]
        )
    ]


def _arrow() -> list[Array]:
    upper = [(-1, -0.26), (0.05, -0.26), (0.05, -0.72), (1, 0)]
    return [np.array([*upper, *((x, -y) for x, y in upper[-2::-1])], float)]


def _drop() -> list[Array]:
    round_part = _arc((0, 0.38), 0.62, -np.pi / 6, np.pi + np.pi / 6, 32)
    return [np.concatenate([[(0.0, -1.0)], round_part])]


def _leaf() -> list[Array]:
    # Two arcs between (0, -1) and (0, 0.75), and a stem.
    bow, height = 0.54, 0.875
    radius = (height**2 + bow**2) / (2 * bow)
    half = np.arcsin(height / radius)
    right = _arc((bow - radius, -0.125), radius, -half, half - 0.07, 18)
    left = right[::-1] * (-1, 1)
    return [np.concatenate([right, [(0.08, 1.1), (-0.08, 1.1)], left[:-1]])]


def _flower() -> list[Array]:
    t = np.arange(80) * 2 * np.pi / 80
    return [_polar(0.5 + 0.5 * np.abs(np.cos(2.5 * t)) ** 0.75)]


def _cloud() -> list[Array]:
    puffs = [
        _arc((-0.62, 0.1), 0.38, np.pi / 2, np.pi * 1.42, 12),
        _arc((-0.16, -0.28), 0.48, np.pi * 1.03, np.pi * 1.75, 14),
        _arc((0.42, -0.12), 0.38, np.pi * 1.4, np.pi * 1.95, 12),
        _arc((0.7, 0.18), 0.3, np.pi * 1.6, np.pi * 2.5, 12),
    ]
    return [np.concatenate(puffs)]


_ANY = np.pi

KINDS = {
    "circle": Kind("circles", _ANY, lambda: _regular(48)),
    "square": Kind("squares", 0.4, lambda: _regular(4, np.pi / 4)),
    "triangle": Kind("triangles", _ANY, lambda: _regular(3), small_fills=2),
    "star": Kind("stars", _ANY, _star, small_fills=2),
    "heart": Kind("hearts", 0.8, _heart),
    "ring": Kind("rings", _ANY, _ring, small_fills=1),
    "cross": Kind("crosses", 0.4, _cross, small_fills=1),
    "crescent": Kind("crescents", _ANY, _crescent, small_fills=1),
    "arrow": Kind("arrows", _ANY, _arrow, small_fills=1),
    "hexagon": Kind("hexagons", _ANY, lambda: _regular(6)),
    "drop": Kind("drops", 0.8, _drop, small_fills=2),
    "leaf": Kind("leaves", _ANY, _leaf, small_fills=1),
    "flower": Kind("flowers", _ANY, _flower, small_fills=2),
    "cloud": Kind("clouds", 0.3, _cloud, small_fills=2),
}
