"""Patches: one object at a time on pixels of its own, and the strokes, textures and patterns to fill it.

A canvas is (height, width, 3), float32 in [0, 1], RGB. What an object covers comes from its outline alone,
so that masks are the same in every look. Nothing here knows which look asks; what is random comes from the
generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ldznet.research.scenes.shapes import SUBPIXELS, Array, SceneObject, fill_polygons

COLORS = {
    "red": (214, 30, 38),
    "orange": (248, 130, 14),
    "yellow": (252, 214, 30),
    "green": (34, 150, 58),
    "cyan": (40, 200, 212),
    "blue": (36, 74, 210),
    "purple": (124, 48, 170),
    "pink": (250, 120, 184),
    "brown": (116, 66, 30),
    "black": (34, 33, 38),
}
FILLS = ("solid", "striped", "dotted", "checkered")

_PALE = (250, 248, 240)


@dataclass(frozen=True)
class Patch:
    """One object on a square of pixels of its own, which may reach beyond the picture."""

    item: SceneObject
    corner: tuple[int, int]  # x, y of its first pixel in the picture
    alpha: Array  # (h, w) share of each pixel that the object covers
    depth: Array  # (h, w) pixels from there to the outline; 0 outside
    u: Array  # (h, w) coordinates in the outline's own frame: 1 is the radius
    v: Array
    contours: list[Array]  # in pixels of the patch

    @property
    def color(self) -> Array:
        """The colour that names the object, RGB in [0, 1]."""
        return np.array(COLORS[self.item.color], np.float32) / 255

    @property
    def second_color(self) -> Array:
        """The colour of stripes, dots and squares."""
        rgb = (120, 78, 0) if self.item.color == "yellow" else _PALE
        return np.array(rgb, np.float32) / 255


def make_patch(item: SceneObject) -> Patch:
    """Return an object on pixels of its own, with some room around it."""
    (x, y), reach = item.position, 1.15 * item.radius + 2
    left, top = int(np.floor(x - reach)), int(np.floor(y - reach))
    right, bottom = int(np.ceil(x + reach)), int(np.ceil(y + reach))
    contours = [polygon - (left, top) for polygon in item.contours()]
    dx = (np.arange(left, right, dtype=np.float32) + np.float32(0.5 - x)) / np.float32(item.radius)
    dy = (np.arange(top, bottom, dtype=np.float32) + np.float32(0.5 - y)) / np.float32(item.radius)
    cos, sin = np.float32(np.cos(item.angle)), np.float32(np.sin(item.angle))
    u = dx * cos + (dy * sin)[:, None]
    v = -dx * sin + (dy * cos)[:, None]
    return Patch(item, (left, top), *_coverage(contours, u.shape), u, v, contours)


def _coverage(contours: Sequence[Array], size: tuple[int, int]) -> tuple[Array, Array]:
    """Return alpha and depth (h, w), float32, of polygons that are given in pixels."""
    height, width = size
    fine = np.zeros((height * SUBPIXELS, width * SUBPIXELS), np.uint8)
    fill_polygons(fine, contours, 255)
    depth = cv2.distanceTransform(fine, cv2.DIST_L2, 5)
    alpha, depth = (cv2.resize(a, (width, height), interpolation=cv2.INTER_AREA) for a in (fine, depth))
    return alpha.astype(np.float32) / np.float32(255), depth / np.float32(SUBPIXELS)


def paste(canvas: Array, corner: tuple[int, int], color: Array, alpha: Array) -> None:
    """Blend a colour, (3,) or (h, w, 3), into the canvas in place where alpha (h, w) says so."""
    (x, y), (h, w) = corner, alpha.shape
    x0, y0 = max(-x, 0), max(-y, 0)
    x1, y1 = min(w, canvas.shape[1] - x), min(h, canvas.shape[0] - y)
    if x0 >= x1 or y0 >= y1:
        return
    part = canvas[y + y0 : y + y1, x + x0 : x + x1]
    cut = color[y0:y1, x0:x1] if color.ndim == 3 else color
    part += (cut - part) * alpha[y0:y1, x0:x1, None]


def pattern(patch: Patch, wobble: Array | float = 0.0) -> Array:
    """Return the share (h, w) of the second colour in each pixel; `wobble` shifts the pattern, in units.

    A rim keeps the first colour, so that the outline stays whole on a ground like the second one.
    """
    if patch.item.fill == "solid":
        return np.zeros_like(patch.alpha)
    rim = max(1.5, 0.1 * patch.item.radius)
    return _full_pattern(patch, wobble) * np.clip(patch.depth - np.float32(rim - 0.5), 0, 1)


def _full_pattern(patch: Patch, wobble: Array | float) -> Array:
    item = patch.item
    step = max(5.2, 0.42 * item.radius) / item.radius  # the period
    sharp = np.float32(step * item.radius)
    if item.fill == "striped":
        wave = triangle_wave((0.5 * patch.u + 0.866 * patch.v + wobble) / step)
        return np.clip(wave * sharp + 0.5, 0, 1)
    if item.fill == "checkered":
        step, sharp = step * 1.25, sharp * 1.25
        across = np.clip(triangle_wave((patch.u + wobble) / step) * sharp, -0.5, 0.5)
        along = np.clip(triangle_wave((patch.v + wobble) / step) * sharp, -0.5, 0.5)
        return 0.5 - 2 * across * along
    row = np.round((patch.v + wobble) / (step * 0.87))
    x = patch.u / step + 0.5 * (row % 2)
    distance = np.hypot((x - np.round(x)), (patch.v + wobble) / step - 0.87 * row)
    return np.clip((0.3 - distance) * sharp + 0.5, 0, 1)


def triangle_wave(x: Array) -> Array:
    """Period 1, from -0.25 to 0.25, zero where a stripe begins or ends."""
    return np.abs(x - np.floor(x) - 0.5) - np.float32(0.25)


def mix(first: Array, second: Array, share: Array) -> Array:
    """Return (h, w, 3): the second colour where share (h, w) is 1, the first where it is 0."""
    return first + (second - first) * share[..., None]


def smooth_noise(rng: np.random.Generator, size: tuple[int, int], cells: tuple[float, float]) -> Array:
    """Return smooth noise (height, width), about -1 to 1, with so many cells down and across."""
    rows, columns = (max(2, round(n) + 1) for n in cells)
    coarse = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


def pixel_unit(size: tuple[int, int]) -> float:
    """Pixels of this picture per pixel of one whose shorter side is 128."""
    return min(size) / 128


def pencil_line(patch: Patch, thickness: float, wobble: float, rng: np.random.Generator) -> Array:
    """Return a line (h, w) in [0, 1] along the outline that wanders by about `wobble` pixels."""
    stroke = np.zeros(patch.alpha.shape, np.uint8)
    for polygon in patch.contours:
        path = polygon + wobble * _drift(len(polygon), rng)
        fixed = np.round((path - 0.5) * 16).astype(np.int32)
        cv2.polylines(stroke, [fixed], True, 255, max(1, round(thickness)), cv2.LINE_AA, shift=4)
    return stroke.astype(np.float32) / np.float32(255)


def _drift(count: int, rng: np.random.Generator) -> Array:
    """Return a slow closed path (count, 2) about zero."""
    turn = np.arange(count)[:, None, None] * 2 * np.pi / count * np.array([1, 2, 3])
    phase, weight = rng.uniform(0, 2 * np.pi, (2, 3)), rng.uniform(-1, 1, (2, 3))
    return np.asarray((weight * np.sin(turn + phase)).sum(axis=2))


def brush_strokes(size: tuple[int, int], width: float, turn: float, rng: np.random.Generator) -> Array:
    """Return overlapping brush strokes (height, width) of random lightness in [0, 1]."""
    height, span = size
    count = int(3.2 * height * span / (width * width * 2.5)) + 8
    strokes = np.full(size, 128, np.uint8)
    start = rng.uniform(-0.05, 1.05, (count, 2)) * (span, height)
    turns = turn + rng.normal(0, 0.3, count)
    reach = np.stack([np.cos(turns), np.sin(turns)], 1) * (rng.uniform(0.8, 2.2, count) * width)[:, None]
    ends = np.round(np.concatenate([start - reach, start + reach], 1) * 8).astype(np.int32).tolist()
    tones = rng.integers(64, 192, count).tolist()
    thick = max(1, round(width))
    for (x0, y0, x1, y1), tone in zip(ends, tones, strict=True):
        cv2.line(strokes, (x0, y0), (x1, y1), tone, thick, cv2.LINE_AA, shift=3)
    return strokes.astype(np.float32) / np.float32(255)
