"""The colours of prompts and objects, and how one image is mixed with another.

Plain numpy and OpenCV: nothing here knows of prompts, models or files.

    image    (H, W, 3)  uint8 RGB
    numbers  (H, W)     uint16; 0 is nothing, 1 the first prompt or object, and so on

Sources: Okabe and Ito, Color Universal Design, https://jfly.uni-koeln.de/color/ (palette);
relative luminance and contrast as in WCAG 2.2.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

RgbImage: TypeAlias = NDArray[np.uint8]
Shape: TypeAlias = tuple[int, ...]
Color: TypeAlias = tuple[int, int, int]

WHITE, BLACK, PANEL, EMPTY = (255, 255, 255), (0, 0, 0), (250, 250, 250), (225, 225, 225)
# Okabe and Ito's, with a dark red in the place of black, which would look like a shadow in a photograph. A test
# sees them without each kind of cone: all eyes tell them apart.
PALETTE = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (213, 94, 0),
    (0, 114, 178),
    (204, 121, 167),
    (240, 228, 66),
    (100, 20, 60),
)


def color_of(number: int) -> Color:
    """Return the colour of a prompt or object, counted from 1; after the last colour, the first comes again."""
    return PALETTE[(number - 1) % len(PALETTE)]


def blend(under: RgbImage, over: RgbImage | Color, alpha: NDArray[np.floating[Any]] | float) -> RgbImage:
    """Return under * (1 - alpha) + over * alpha, rounded."""
    result = np.empty_like(under)
    over = np.broadcast_to(np.asarray(over, np.uint8), under.shape)
    alpha = np.broadcast_to(np.asarray(alpha, np.float32), under.shape[:2])
    for top in range(0, len(under), 256):  # in strips: a float copy of the whole would take 12 bytes a pixel
        rows = slice(top, top + 256)
        share = alpha[rows, :, None]
        result[rows] = np.rint(under[rows] * (1 - share) + over[rows] * share)
    return result


def tint(image: RgbImage, color: Color, alpha: NDArray[np.float32]) -> RgbImage:
    """Return `blend` of an image and one colour, quickly: most of a mask has the largest alpha, or none."""
    result, most = image.copy(), alpha.max(initial=0)
    levels = np.arange(256, dtype=np.uint8).reshape(1, 256, 1).repeat(3, axis=2)
    # With one alpha, each level of the image has one result: a table instead of arithmetic.
    tinted: Any = cv2.LUT(np.ascontiguousarray(image), blend(levels, color, most))
    cv2.copyTo(tinted, (alpha == most).view(np.uint8), result)
    soft = (alpha > 0) & (alpha < most)
    if soft.any():
        result[soft] = blend(image[soft][None], color, alpha[soft][None])[0]
    return result


def blend_table(colors: NDArray[np.uint8], alphas: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Return `blend` of each grey level and each colour (N, 3), with the alpha of the colour (N,): (N, 256, 3)."""
    levels = np.arange(256, dtype=np.uint8).reshape(1, 256, 1)
    under = np.broadcast_to(levels, (len(colors), 256, 3))
    over = np.broadcast_to(colors[:, None], under.shape)
    return blend(under, over, np.broadcast_to(np.asarray(alphas)[:, None], under.shape[:2]))


def look_up(table: NDArray[np.uint8], index: NDArray[Any], grey: NDArray[np.uint8]) -> RgbImage:
    """Return the colours of a `blend_table` for each pixel, from its colour number (H, W) and its grey (H, W)."""
    flat = index.astype(np.int32)
    flat *= 256
    flat += grey
    return np.take(table.reshape(-1, 3), flat, axis=0)


def ink(background: Color) -> Color:
    """Return black or white, whichever is read more easily on this colour."""
    light = _luminance(background)
    on_white, on_black = 1.05 / (light + 0.05), (light + 0.05) / (_luminance(BLACK) + 0.05)
    return WHITE if on_white > on_black else BLACK


def _luminance(color: Color) -> float:
    red, green, blue = (
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (channel / 255 for channel in color)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def colors_of(count: int) -> NDArray[np.uint8]:
    """Return the colours of nothing and of the first `count` prompts or objects, (1 + count, 3)."""
    return np.array([EMPTY, *(color_of(number) for number in range(1, count + 1))], np.uint8)
