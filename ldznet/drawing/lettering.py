"""Lines of text on images, in the first installed font that has the letters.

Nothing here knows of legends or prompts.

    text  (h, w)  uint8, how much of each pixel a line of text covers
"""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache
from math import ceil
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ldznet.drawing.colors import Color, RgbImage, blend

Coverage: TypeAlias = NDArray[np.uint8]
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Tried in this order: two for the letters of Europe, then those of Linux, Windows and macOS for Chinese, Japanese
# and Korean. The last, without a name, is Pillow's own, which is always there.
FONT_FILES = (
    "DejaVuSans.ttf",
    "arial.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "msyh.ttc",
    "YuGothM.ttc",
    "malgun.ttf",
    "Arial Unicode.ttf",
    "",
)
_LONGEST = 400  # letters; no line has room for more


def draw_text(text: str, size: int) -> Coverage:
    """Return how much of each pixel one line of text covers: (1.4 size, its width), 0 to 255."""
    font = font_for(text, size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        return _draw_bitmap(text, size, font)
    canvas = Image.new("L", (ceil(font.getlength(text)) + 1, round(1.4 * size)))
    ImageDraw.Draw(canvas).text((0, round(1.05 * size)), text, 255, font, anchor="ls")
    return np.asarray(canvas)


def _draw_bitmap(text: str, size: int, font: ImageFont.ImageFont) -> Coverage:
    """Draw in the one small font that Pillow before 10.1 brings: Latin-1, enlarged in whole steps."""
    latin = text.encode("latin-1", "replace").decode("latin-1")
    canvas = Image.new("L", (ceil(font.getlength(latin)) + 1, 12))
    ImageDraw.Draw(canvas).text((0, 0), latin, 255, font)
    times = max(1, round(size / 12))
    return np.asarray(canvas).repeat(times, axis=0).repeat(times, axis=1)


def write(panel: RgbImage, text: Coverage, left: int, top: int, ink: Color) -> None:
    """Put a line of text onto the panel, in place; parts outside the panel are cut."""
    place = panel[top : top + text.shape[0], left : left + text.shape[1]]
    coverage = text[: place.shape[0], : place.shape[1]] / 255
    place[:] = blend(place, ink, coverage)


def elide(text: str, size: int, limit: int) -> str:
    """Cut a text that is wider than `limit` pixels in its middle: prompts often differ at their ends."""

    def shorten(count: int) -> str:
        return text[: ceil(count / 2)] + "..." + text[len(text) - count // 2 :]

    def is_too_wide(text: str) -> bool:
        return draw_text(text, size).shape[1] > limit

    if len(text) <= _LONGEST and not is_too_wide(text):
        return text
    # Width grows with the number of letters, so that a binary search finds the longest that fits.
    counts = range(min(len(text), _LONGEST))
    first = bisect_left(counts, True, key=lambda count: is_too_wide(shorten(count)))
    return shorten(max(0, first - 1))


def one_line(label: str) -> str:
    """Return a label as one line of text, without the halves of letters that no font can draw."""
    return " ".join(label.encode("utf-8", "replace").decode().split()) or "(empty)"


def font_for(text: str, size: int) -> Font:
    """Return the first installed font with all letters of the text, else the one with most of them."""
    names = [name for name in FONT_FILES if _load_font(name, 16) is not None]
    letters = set(text[:_LONGEST])
    best = max(names, key=lambda name: sum(_has_letter(name, letter) for letter in letters))  # the first of equals
    font = _load_font(best, size)
    assert font is not None
    return font


@lru_cache(maxsize=4096)
def _has_letter(name: str, letter: str) -> bool:
    """Return whether a font draws this letter in another way than a letter that no font has."""
    font = _load_font(name, 16)
    if not isinstance(font, ImageFont.FreeTypeFont):
        return ord(letter) < 256
    glyph, placeholder = font.getmask(letter), font.getmask("\U0010fffe")
    return (glyph.size, bytes(glyph)) != (placeholder.size, bytes(placeholder))


@lru_cache(maxsize=256)
def _load_font(name: str, size: int) -> Font | None:
    """Load a font of the system by its file name, or Pillow's own for ""; None if it is not installed."""
    try:
        return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)
    except (OSError, ImportError, TypeError):
        # Pillow before 10.1 takes no size, and one without FreeType loads no font: only a bitmap font is left.
        return None if name else ImageFont.load_default()
