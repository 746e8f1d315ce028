"""Lines of text for pictures, in whatever fonts there are: any label can be drawn.

Pillow's own font is enough for most; letters that it lacks are taken from fonts of the system, where it has any.
Nothing here knows of legends or prompts.

    text  (h, w)  uint8, how much of each pixel a line of text covers
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from math import ceil
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ldznet.drawing.colors import Color, RgbImage, blend

Coverage: TypeAlias = NDArray[np.uint8]
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Tried in this order when a label has letters that Pillow's own font lacks; none is needed.
FONT_FILES = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "segoeui.ttf",
    "arial.ttf",
    "Arial Unicode.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "msyh.ttc",
    "YuGothM.ttc",
    "malgun.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "AppleSDGothicNeo.ttc",
    "NotoSansArabic-Regular.ttf",
    "NotoSansHebrew-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansThai-Regular.ttf",
    "Nirmala.ttf",
    "leelawui.ttf",
    "NotoEmoji-Regular.ttf",
    "seguiemj.ttf",
    "Symbola.ttf",
)


def draw_text(text: str, size: int, fonts: Sequence[str]) -> Coverage:
    """One line of text: how much of each pixel it covers, 0 to 255 -> (1.4 size, its width)."""
    if isinstance(own := _font("", size), ImageFont.ImageFont) and fonts == [""]:
        return _bitmap_text(text, size, own)
    runs = [(_font(name, size), "".join(letters)) for name, letters in _runs(text, fonts)]
    width = ceil(sum(font.getlength(run) for font, run in runs)) + 1
    canvas, left = Image.new("L", (width, round(1.4 * size))), 0.0
    for font, run in runs:
        ImageDraw.Draw(canvas).text((left, round(1.05 * size)), run, 255, font, anchor="ls")
        left += font.getlength(run)
    return np.asarray(canvas)


def _bitmap_text(text: str, size: int, font: ImageFont.ImageFont) -> Coverage:
    """The same in the one small font that Pillow before 10.1 brings: Latin-1, enlarged in whole steps."""
    known = text.encode("latin-1", "replace").decode("latin-1")
    canvas = Image.new("L", (ceil(font.getlength(known)) + 1, 12))
    ImageDraw.Draw(canvas).text((0, 0), known, 255, font)
    times = max(1, round(size / 12))
    return np.asarray(canvas).repeat(times, axis=0).repeat(times, axis=1)


def write(panel: RgbImage, text: Coverage, left: int, top: int, ink: Color) -> None:
    """Put a line of text onto the panel; what would lie outside is cut."""
    place = panel[top : top + text.shape[0], left : left + text.shape[1]]
    covered = text[: place.shape[0], : place.shape[1]] / 255
    place[:] = blend(place, ink, covered)


def elide(text: str, size: int, limit: int, fonts: Sequence[str]) -> str:
    """Cut a text that is wider than `limit` pixels in its middle: prompts often differ at their ends."""
    most = 400  # letters; no line of ours has room for more, and none is drawn to find out

    def shortened(keep: int) -> str:
        return text[: ceil(keep / 2)] + "..." + text[len(text) - keep // 2 :]

    def too_wide(text: str) -> bool:
        return draw_text(text, size, fonts).shape[1] > limit

    if len(text) <= most and not too_wide(text):
        return text
    first = bisect_left(range(min(len(text), most)), True, key=lambda keep: too_wide(shortened(keep)))
    return shortened(max(0, first - 1))


def _runs(text: str, fonts: Sequence[str]) -> Iterator[tuple[str, Iterator[str]]]:
    """Pieces of the text that one font can write; a letter that none has goes to the first."""
    return groupby(text, lambda letter: next((name for name in fonts if _covers(name, letter)), fonts[0]))


def readable(label: str) -> str:
    """On one line, without what is no text."""
    label = label.encode("utf-8", "replace").decode()  # half a surrogate pair
    return unicodedata.normalize("NFC", " ".join(label.split())) or "(empty)"


def spelled(text: str, fonts: Sequence[str]) -> str:
    """Emoji that no font has as their names; marks and joiners that none has left out."""

    def spell(letter: str) -> str:
        if any(_covers(name, letter) for name in fonts):
            return letter
        kind = unicodedata.category(letter)
        if kind == "So":
            return f"[{unicodedata.name(letter, 'symbol').lower()}]"
        return "" if kind in ("Cc", "Cf", "Me", "Mn", "Sk") else letter

    return "".join(map(spell, text))


def fonts_for(text: str) -> list[str]:
    """The fonts for a text, the one that knows most of its letters first; "" is Pillow's own."""
    letters, scalable = set(text), not isinstance(_font("", 16), ImageFont.ImageFont)
    if scalable and all(_covers("", letter) for letter in letters):
        return [""]
    found = [""] * scalable + [name for name in FONT_FILES if _installed(name)]
    return sorted(found, key=lambda name: -sum(_covers(name, letter) for letter in letters)) or [""]


@lru_cache(maxsize=4096)
def _covers(name: str, letter: str) -> bool:
    """Whether a font has this letter, that is, draws it in another way than a letter that no font has."""
    font = _font(name, 16)
    if isinstance(font, ImageFont.ImageFont):
        return ord(letter) < 256
    drawn, missing = font.getmask(letter), font.getmask("\U0010fffe")
    return (drawn.size, bytes(drawn)) != (missing.size, bytes(missing))


@lru_cache
def _installed(name: str) -> bool:
    try:
        return bool(_font(name, 16))
    except (OSError, ImportError):
        return False


@lru_cache(maxsize=256)
def _font(name: str, size: int) -> Font:
    """A font of the system by its file's name, or Pillow's own for ""."""
    if name:
        return ImageFont.truetype(name, size)
    try:
        return ImageFont.load_default(size)
    except (TypeError, ImportError):  # Pillow before 10.1, or without FreeType: one bitmap font, in one size
        return ImageFont.load_default()
