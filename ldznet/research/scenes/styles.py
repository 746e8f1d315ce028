"""Looks: the same objects as a photo, a cartoon, a sketch or a painting.

A painter works from back to front on a canvas (height, width, 3), float32 in [0, 1], RGB. What an object
covers comes from its outline alone, so the masks of a scene are the same in every look. Nothing here knows
of phrases or captions; what is random comes from the generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from ldznet.research.scenes.brushes import (
    Patch,
    brush_strokes,
    make_patch,
    mix,
    paste,
    pattern,
    pencil_line,
    pixel_unit,
    smooth_noise,
    triangle_wave,
)
from ldznet.research.scenes.shapes import Array, SceneObject

GROUNDS = {
    "white": (240, 238, 233),
    "gray": (160, 161, 165),
    "yellow": (236, 222, 160),
    "green": (156, 188, 144),
    "blue": (154, 182, 216),
    "purple": (190, 174, 212),
    "pink": (238, 200, 210),
    "brown": (186, 152, 116),
}
MATERIALS = ("wood", "cloth", "stone", "sand")  # what the ground of a photo is made of

Painter = Callable[[Sequence[Patch], tuple[int, int], tuple[str, str], np.random.Generator], Array]

_INK = np.array([0.13, 0.11, 0.16], np.float32)


def paint(
    look: str,
    objects: Sequence[SceneObject],
    size: tuple[int, int],
    ground: tuple[str, str],
    rng: np.random.Generator,
) -> Array:
    """Paint objects, back to front, on a ground (colour, material) -> uint8 RGB (height, width, 3)."""
    canvas = LOOKS[look]([make_patch(item) for item in objects], size, ground, rng)
    return np.round(np.clip(canvas, 0, 1) * 255).astype(np.uint8)


# ---- photo ------------------------------------------------------------------------------------------


def _photo(
    patches: Sequence[Patch], size: tuple[int, int], ground: tuple[str, str], rng: np.random.Generator
) -> Array:
    unit = pixel_unit(size)
    turn = rng.uniform(0, 2 * np.pi)
    light = np.array([np.cos(turn), np.sin(turn)], np.float32)  # points to the lamp
    canvas = _material(ground, size, rng)
    softness = rng.uniform(0.05, 0.12)
    gloss = rng.uniform(0.1, 0.6)
    for patch in patches:
        _cast_shadow(canvas, patch, -light, softness)
        paste(canvas, patch.corner, _lit_surface(patch, light, gloss, rng), patch.alpha)
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in size)
    lamp = 1 + rng.uniform(0.05, 0.16) * (x * light[0] + (y * light[1])[:, None])
    lamp -= rng.uniform(0.02, 0.08) * (x * x + (y * y)[:, None])
    tint = 1 + rng.uniform(-0.025, 0.025, 3)
    canvas *= (lamp * rng.uniform(0.9, 1.04))[..., None] * tint.astype(np.float32)
    canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.3, 0.55) * unit**0.5)
    grain = rng.standard_normal(size, dtype=np.float32) * np.float32(rng.uniform(0.008, 0.022))
    return canvas + grain[..., None]


def _material(ground: tuple[str, str], size: tuple[int, int], rng: np.random.Generator) -> Array:
    color, material = ground
    relief = _MATERIALS[material](size, rng)
    base = np.array(GROUNDS[color], np.float32) / 255 * np.float32(rng.uniform(0.84, 1.0))
    shade = 1 + relief + np.float32(0.06) * smooth_noise(rng, size, (3, 3))
    # Shadows in a texture keep more of the colour than its lights: a power per channel does that.
    return np.clip(base, 0.02, 1) ** (2 - np.clip(shade, 0.2, 1.9)[..., None]) * np.clip(shade, 0, 1.15)[..., None]


def _wood(size: tuple[int, int], rng: np.random.Generator) -> Array:
    upright = bool(rng.integers(2))
    height, width = size[::-1] if upright else size
    unit = pixel_unit(size)
    planks = max(2, round(height / unit / rng.uniform(26, 44)))
    edges = np.linspace(0, planks, height, endpoint=False, dtype=np.float32)
    plank = edges.astype(int)
    grain = np.zeros((height, width), np.float32)
    for cells, weight in ((16, 0.06), (45, 0.05), (90, 0.04)):
        grain += np.float32(weight) * smooth_noise(
            rng, (height, width), (cells * height / min(size), 3 * width / min(size))
        )
    grain += rng.uniform(-0.07, 0.07, planks).astype(np.float32)[plank][:, None]
    gap = np.minimum(edges - plank, 1 - (edges - plank)) * height / planks / unit
    grain -= (np.float32(0.32) * np.exp(-gap * gap))[:, None]
    return grain.T if upright else grain


def _cloth(size: tuple[int, int], rng: np.random.Generator) -> Array:
    unit = pixel_unit(size)
    period = rng.uniform(3, 4.5) * max(1.0, unit**0.7)
    y, x = (np.arange(n, dtype=np.float32) * np.float32(2 * np.pi / period) for n in size)
    bend = smooth_noise(rng, size, (4, 4))
    weave = np.sin(x + bend) * np.sin(y[:, None] + bend)
    folds = smooth_noise(rng, size, (5, 2)) + smooth_noise(rng, size, (2, 4))
    threads = rng.standard_normal((size[0], 1), dtype=np.float32) + rng.standard_normal(
        (1, size[1]), dtype=np.float32
    )
    return np.float32(0.06) * weave + np.float32(0.09) * folds + np.float32(0.02) * threads


def _stone(size: tuple[int, int], rng: np.random.Generator) -> Array:
    rocky = np.zeros(size, np.float32)
    for cells, weight in ((4, 0.1), (11, 0.08), (28, 0.06), (60, 0.05)):
        rocky += np.float32(weight) * smooth_noise(rng, size, (cells, cells))
    veins = np.abs(smooth_noise(rng, size, (5, 5)) + np.float32(0.4) * smooth_noise(rng, size, (16, 16)))
    return rocky - np.float32(0.16) * np.exp(-((veins / np.float32(0.05)) ** 2))


def _sand(size: tuple[int, int], rng: np.random.Generator) -> Array:
    unit = pixel_unit(size)
    grains = rng.standard_normal(tuple(int(n / max(1.0, unit * 0.6)) for n in size), dtype=np.float32)
    grains = cv2.resize(grains, size[::-1], interpolation=cv2.INTER_LINEAR)
    turn = rng.uniform(0, np.pi)
    y, x = (np.arange(n, dtype=np.float32) / np.float32(unit) for n in size)
    along = x * np.float32(np.cos(turn)) + (y * np.float32(np.sin(turn)))[:, None]
    ripples = np.sin(along / np.float32(2.6) + np.float32(2.5) * smooth_noise(rng, size, (4, 4)))
    return np.float32(0.07) * grains + np.float32(0.05) * ripples


_MATERIALS = {"wood": _wood, "cloth": _cloth, "stone": _stone, "sand": _sand}


def _cast_shadow(canvas: Array, patch: Patch, away: Array, softness: float) -> None:
    """Darken what lies behind an object, on the side that is away from the lamp."""
    radius = patch.item.radius
    sigma = max(1.0, softness * radius)
    pad = int(3 * sigma) + 1
    shadow = cv2.copyMakeBorder(patch.alpha, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=0)
    shadow = cv2.GaussianBlur(shadow, (0, 0), sigma)
    shift = np.round(away * max(1.5, 0.14 * radius)).astype(int)
    corner = (patch.corner[0] - pad + int(shift[0]), patch.corner[1] - pad + int(shift[1]))
    paste(canvas, corner, np.float32(0.25) * _INK, np.float32(0.6) * shadow)


def _lit_surface(patch: Patch, light: Array, gloss: float, rng: np.random.Generator) -> Array:
    """Return the colours (h, w, 3) of an object with a rounded rim, lit from one side."""
    rim = max(2.5, rng.uniform(0.25, 0.5) * patch.item.radius)
    depth = np.minimum(patch.depth / np.float32(rim), 1)
    height = cv2.GaussianBlur(np.sqrt(depth * (2 - depth)) * np.float32(rim), (0, 0), max(0.6, rim * 0.22))
    slope_x, slope_y = (cv2.Sobel(height, cv2.CV_32F, *d, scale=1 / 8) for d in ((1, 0), (0, 1)))
    facing = -(slope_x * light[0] + slope_y * light[1]) / np.sqrt(1 + slope_x**2 + slope_y**2)
    shade = 1 + np.float32(0.42) * facing + np.float32(0.05) * smooth_noise(rng, patch.alpha.shape, (5, 5))
    color = patch.color * (1 + rng.uniform(-0.07, 0.07)) + rng.uniform(-0.02, 0.02, 3)
    color = np.clip(color, 0.03, 1).astype(np.float32)
    surface = mix(color, patch.second_color, pattern(patch)) * shade[..., None]
    shine = np.float32(gloss) * np.clip((facing - 0.35) / 0.4, 0, 1) ** 2
    return surface + (1 - surface) * shine[..., None]


# ---- cartoon ----------------------------------------------------------------------------------------


def _cartoon(
    patches: Sequence[Patch], size: tuple[int, int], ground: tuple[str, str], rng: np.random.Generator
) -> Array:
    canvas = _backdrop(np.array(GROUNDS[ground[0]], np.float32) / 255, size, rng)
    width = rng.uniform(1.5, 2.2) * pixel_unit(size)
    for patch in patches:
        paste(canvas, patch.corner, mix(patch.color, patch.second_color, pattern(patch)), patch.alpha)
        line = np.float32(min(width, 0.4 * patch.depth.max()))
        paste(canvas, patch.corner, _INK, np.clip(line + 0.5 - patch.depth, 0, 1) * patch.alpha)
    return canvas


def _backdrop(color: Array, size: tuple[int, int], rng: np.random.Generator) -> Array:
    """Return a flat backdrop in two close tints: plain, floor and wall, rays, bands, spots or hills."""
    height, width = size
    unit = pixel_unit(size)
    other = np.clip(color * np.float32(rng.choice([0.9, 1.08])), 0, 1)
    canvas = np.empty((height, width, 3), np.float32)
    canvas[:] = color
    x0, y0 = rng.uniform(0.2, 0.8, 2) * (width, height)
    dx = np.arange(width, dtype=np.float32) - np.float32(x0)
    dy = np.arange(height, dtype=np.float32)[:, None] - np.float32(y0)
    style = rng.choice(["plain", "floor", "rays", "bands", "spots", "hills"])
    phase = rng.uniform(0, 1)
    if style == "plain":
        return canvas
    if style == "floor":
        edge = np.broadcast_to(dy, size)
    elif style == "rays":
        sector = np.arctan2(dy, dx) / np.float32(np.pi) * 8
        edge = triangle_wave(sector + phase) * np.hypot(dx, dy) * np.float32(0.4)
    elif style == "bands":
        edge = triangle_wave((dx + dy) / np.float32(44 * unit) + phase) * np.float32(31 * unit)
    elif style == "spots":
        step = np.float32(26 * unit)
        edge = 5 * np.float32(unit) - np.hypot(dx - step * np.round(dx / step), dy - step * np.round(dy / step))
    else:
        edge = dy + np.sin(dx / np.float32(14 * unit)) * np.float32(7 * unit)
    return mix(canvas, other, np.clip(edge + 0.5, 0, 1))


# ---- sketch -----------------------------------------------------------------------------------------


def _sketch(
    patches: Sequence[Patch], size: tuple[int, int], ground: tuple[str, str], rng: np.random.Generator
) -> Array:
    unit = pixel_unit(size)
    paper = np.array(GROUNDS[ground[0]], np.float32) / 255
    paper = np.float32(1) - (1 - paper) * np.float32(0.62)
    tooth = rng.standard_normal(size, dtype=np.float32)
    tooth = cv2.GaussianBlur(tooth, (0, 0), 0.6 * max(1.0, unit**0.5))
    tooth /= tooth.std()
    canvas = (
        paper * (1 + np.float32(0.012) * tooth + np.float32(0.015) * smooth_noise(rng, size, (3, 3)))[..., None]
    )
    _shade_paper(canvas, rng)
    graphite = np.array([0.24, 0.24, 0.27], np.float32)
    blank = canvas.mean(axis=(0, 1))
    for patch in patches:
        paste(canvas, patch.corner, blank, patch.alpha)
        second = pattern(patch)
        paste(canvas, patch.corner, patch.second_color, np.float32(0.6) * second * patch.alpha)
        paste(canvas, patch.corner, patch.color, _hatching(patch, unit, rng) * (1 - second) * patch.alpha)
        for wobble in (0.3, 0.75):
            wobble_px = wobble * min(unit, patch.item.radius / 18)
            line = pencil_line(patch, 1.2 * unit, wobble_px, rng)
            rough = np.float32(0.78) + np.float32(0.3) * smooth_noise(rng, line.shape, (8, 8))
            paste(canvas, patch.corner, graphite, line * np.clip(rough, 0.3, 0.95))
    return canvas * (1 + np.float32(0.03) * tooth)[..., None]


def _shade_paper(canvas: Array, rng: np.random.Generator) -> None:
    """Draw loose strokes of a soft pencil across parts of the paper, in place."""
    size = canvas.shape[:2]
    unit = np.float32(pixel_unit(size))
    turn = rng.uniform(0, np.pi)
    y, x = (np.arange(n, dtype=np.float32) / unit for n in size)
    across = x * np.float32(np.cos(turn)) + (y * np.float32(np.sin(turn)))[:, None]
    lines = np.sin(across * np.float32(rng.uniform(1.1, 1.6)) + 2 * smooth_noise(rng, size, (5, 5)))
    where = np.clip(smooth_noise(rng, size, (2.5, 2.5)) + rng.uniform(-0.3, 0.2), 0, 1)
    canvas -= (np.float32(0.2) * where * np.clip(lines, 0, 1))[..., None]


def _hatching(patch: Patch, unit: float, rng: np.random.Generator) -> Array:
    """Return how much of a coloured pencil lies on each pixel (h, w): parallel strokes."""
    turn = rng.uniform(0, np.pi)
    size = patch.alpha.shape
    scale = np.float32(patch.item.radius / max(unit, 1.0))  # finer lines would melt into gray
    sway = smooth_noise(rng, size, (4, 4))
    across = (patch.u * np.float32(np.cos(turn)) + patch.v * np.float32(np.sin(turn))) * scale
    lines = np.sin(across * np.float32(rng.uniform(1.7, 2.1)) + 2 * sway)
    pressure = np.float32(0.76) + np.float32(0.22) * lines + np.float32(0.1) * smooth_noise(rng, size, (3, 3))
    return np.clip(pressure, 0.3, 0.96)


# ---- painting ---------------------------------------------------------------------------------------


def _painting(
    patches: Sequence[Patch], size: tuple[int, int], ground: tuple[str, str], rng: np.random.Generator
) -> Array:
    unit = pixel_unit(size)
    base = np.array(GROUNDS[ground[0]], np.float32) / 255
    strokes = brush_strokes(size, 7 * unit, rng.uniform(0, np.pi), rng)
    drift = np.stack([smooth_noise(rng, size, (3, 3)) for _ in range(3)], axis=2)
    canvas = np.float32(0.92) * base + np.float32(0.022) * drift + np.float32(0.3) * (strokes - 0.5)[..., None]
    relief = strokes.copy()
    for patch in patches:
        strokes = brush_strokes(patch.alpha.shape, max(2.2, 0.2 * patch.item.radius), rng.uniform(0, np.pi), rng)
        paste(canvas, patch.corner, _painted_surface(patch, strokes, unit, rng), patch.alpha)
        paste(relief[..., None], patch.corner, strokes[..., None], patch.alpha)
    light = cv2.Sobel(relief, cv2.CV_32F, 1, 1, ksize=3)
    y, x = (np.arange(n, dtype=np.float32) * np.float32(2 * np.pi / max(3.0, 3 * unit**0.7)) for n in size)
    weave = np.sin(x) * np.sin(y)[:, None]
    return canvas + (np.float32(0.1) * np.clip(light, -1, 1) + np.float32(0.022) * weave)[..., None]


def _painted_surface(patch: Patch, strokes: Array, unit: float, rng: np.random.Generator) -> Array:
    """Return the colours (h, w, 3) of an object in thick paint."""
    wobble = np.float32(0.07) * smooth_noise(rng, patch.alpha.shape, (6, 6))
    surface = mix(patch.color, patch.second_color, pattern(patch, wobble))
    turn = rng.uniform(0, 2 * np.pi)
    side = patch.u * np.float32(np.cos(turn)) + patch.v * np.float32(np.sin(turn))
    value = 1 + np.float32(0.12) * side + np.float32(0.62) * (strokes - 0.5)
    hue = rng.uniform(-0.06, 0.06, 3).astype(np.float32)
    surface = np.clip(surface * value[..., None] + hue * (strokes - 0.5)[..., None] * 4, 0, 1)
    rim = pencil_line(patch, 2 * unit, 0.5 * unit, rng) * np.float32(0.35)
    return mix(surface, surface * np.float32(0.5), rim)


LOOKS: dict[str, Painter] = {
    "photo": _photo,
    "cartoon": _cartoon,
    "sketch": _sketch,
    "painting": _painting,
}
