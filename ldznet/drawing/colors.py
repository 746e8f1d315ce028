"""What is painted with: colours that all eyes tell apart, hatching, and how one picture is mixed with another.

Plain numpy: nothing here knows of prompts, models or files.

    picture  (H, W, 3)  uint8 RGB
    numbers  (H, W)     uint16, 0 is nothing; every number from 1 on has a look of its own

Sources: Okabe and Ito, Color Universal Design, https://jfly.uni-koeln.de/color/ (palette);
relative luminance and contrast as in WCAG 2.2.
"""

from __future__ import annotations

from math import ceil, sqrt
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

RgbImage: TypeAlias = NDArray[np.uint8]
Shape: TypeAlias = tuple[int, ...]
Color: TypeAlias = tuple[int, int, int]

WHITE, BLACK, PANEL, EMPTY = (255, 255, 255), (0, 0, 0), (250, 250, 250), (225, 225, 225)
# Okabe and Ito without black, which is no colour for an object.
PALETTE = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (213, 94, 0),
    (0, 114, 178),
    (204, 121, 167),
    (240, 228, 66),
)
PATTERNS = 6  # plain, and five ways of hatching
TONES = ((WHITE, 0.0), (WHITE, 0.5), (BLACK, 0.5))  # what a colour is mixed with, and how much


def blend(under: RgbImage, over: RgbImage | Color, alpha: NDArray[np.floating[Any]] | float) -> RgbImage:
    """under * (1 - alpha) + over * alpha, some rows at a time, so that no large float picture is made."""
    result = np.empty_like(under)
    over = np.broadcast_to(np.asarray(over, np.uint8), under.shape)
    alpha = np.broadcast_to(np.asarray(alpha, np.float32), under.shape[:2])
    for top in range(0, len(under), 256):
        rows = slice(top, top + 256)
        share = alpha[rows, :, None]
        result[rows] = np.rint(under[rows] * (1 - share) + over[rows] * share)
    return result


def look(number: int) -> tuple[Color, Color, int]:
    """Colour, colour of the hatching and pattern of the prompt with this number, counted from 1."""
    rest, hue = divmod(number - 1, len(PALETTE))
    tone, pattern = divmod(rest, PATTERNS)
    color = _mix(PALETTE[hue], *TONES[tone % len(TONES)])
    return color, _mix(color, ink(color), 0.6), pattern


def _mix(color: Color, other: Color, share: float) -> Color:
    red, green, blue = (round(a * (1 - share) + b * share) for a, b in zip(color, other, strict=True))
    return red, green, blue


def ink(background: Color) -> Color:
    """Black or white, whichever is read more easily on this colour."""
    light = _luminance(background)
    on_white, on_black = 1.05 / (light + 0.05), (light + 0.05) / (_luminance(BLACK) + 0.05)
    return WHITE if on_white > on_black else BLACK


def _luminance(color: Color) -> float:
    red, green, blue = (
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (channel / 255 for channel in color)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def paint_numbers(numbers: NDArray[np.uint16], cell: int) -> RgbImage:
    """Every pixel in the colour and pattern of its prompt."""
    looks = [(EMPTY, EMPTY, 0), *(look(number) for number in range(1, int(numbers.max()) + 1))]
    colors, accents, patterns = (np.array(column, np.uint8) for column in zip(*looks, strict=True))
    picture: RgbImage = colors[numbers]
    for pattern in set(patterns.tolist()) - {0}:
        lines = (patterns == pattern)[numbers] & _hatching(pattern, cell, numbers.shape)
        picture[lines] = accents[numbers[lines]]
    return picture


def cell_width(shape: Shape) -> int:
    """How wide the lines of a hatching are."""
    return max(2, round(sqrt(shape[0] * shape[1]) / 150))


def _hatching(pattern: int, cell: int, shape: Shape) -> NDArray[np.bool_]:
    """Where the lines of a pattern, counted from 1, lie; each is `cell` pixels wide."""
    y, x = np.mgrid[: 6 * cell, : 6 * cell]  # a tile: whole periods of every pattern
    tile = (
        _lines(x + y, cell),
        _lines(x - y, cell),
        _lines(y, cell),
        (x // cell + y // cell) % 2 == 0,
        _lines(x, cell),
    )[pattern - 1]
    return np.tile(tile, [ceil(length / (6 * cell)) for length in shape])[: shape[0], : shape[1]]


def _lines(along: NDArray[np.int64], cell: int) -> NDArray[np.bool_]:
    return along // cell % 3 == 1
