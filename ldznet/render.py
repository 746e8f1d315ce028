"""Pictures that a person looks at: a mask over its image, one probability, several prompts or objects in colours.

Plain numpy, OpenCV and Pillow: nothing here knows of models, files or the UI.

    image        (H, W, 3)  uint8 RGB, in and out
    probability  (H, W)     float in [0, 1]; several as in `ldznet.mask`: (P, H, W), or one at a time
    mask         (H, W)     bool or soft

Colours mean the same in every picture: nothing is rescaled to the values that one picture happens to
have. A legend never covers the image. It stands on a panel below, which makes the picture higher, and
wider too where the image is narrower than the 140 (heat map) or 224 (colour map) pixels, more in a large
picture, that a legend needs; the image stays at the top left, pixel for pixel.

Sources: Okabe and Ito, Color Universal Design, https://jfly.uni-koeln.de/color/ (palette);
relative luminance and contrast as in WCAG 2.2.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from math import ceil, sqrt
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ldznet.errors import OptionError, ShapeError
from ldznet.mask import Maps, as_probability, as_soft_mask, each_probability, grow, threshold
from ldznet.objects import Objects

Picture: TypeAlias = NDArray[np.uint8]
Shape: TypeAlias = tuple[int, ...]
Coverage: TypeAlias = NDArray[np.uint8]
Color: TypeAlias = tuple[int, int, int]
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

WHITE, BLACK, PANEL, EMPTY = (255, 255, 255), (0, 0, 0), (250, 250, 250), (225, 225, 225)
MAGENTA = (230, 0, 130)  # rare in photographs
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


class ColorMap(NamedTuple):
    """Several prompts in one picture."""

    picture: Picture  # with the legend, if one was asked for
    numbers: NDArray[np.uint16]  # (H, W): 0 is background, 1 the first prompt, 2 the second, ...


def overlay(image: Picture, mask: NDArray[Any], *, color: Color = MAGENTA, opacity: float = 0.5) -> Picture:
    """The image with what is selected tinted, and a contour along 0.5 -> the image's size.

    The contour is a light line inside and a dark one outside, so that it shows on every background; its
    width goes with the picture's size.
    """
    soft = as_soft_mask(mask)
    _check_image(image, soft.shape)
    _check_color(color)
    _check_fraction("opacity", opacity)
    tinted = _blend(image, color, soft * np.float32(opacity))
    selected, width = soft >= 0.5, _line_width(soft.shape)
    tinted[grow(selected, width) & ~selected] = BLACK
    tinted[selected & ~grow(selected, -width)] = WHITE
    return tinted


def heat_map(
    probability: NDArray[Any], image: Picture | None = None, *, opacity: float = 0.6, legend: bool = False
) -> Picture:
    """The probability as colour, from dark 0 to bright 1 -> the image's size, and the legend's panel below.

    The colour map is Inferno: perceptually uniform, also for colour-blind eyes and in grey. Over an image
    it is mixed with a flat grey version of that by `opacity`; the legend's bar shows the mix with middle grey.
    """
    values = as_probability(probability)
    _check_fraction("opacity", opacity)
    colors = _inferno(values)
    bar = _inferno(np.linspace(0, 1, 256, dtype=np.float32)[None])
    if image is not None:
        _check_image(image, values.shape)
        colors = _blend(_backdrop(image), colors, opacity)
        bar = _blend(np.full_like(bar, 128), bar, opacity)
    return _stack(colors, _scale(bar, values.shape)) if legend else colors


def color_map(
    probabilities: Maps,
    labels: Sequence[str],
    image: Picture | None = None,
    *,
    background: float = 0.5,
    opacity: float = 0.6,
    legend: bool = True,
) -> ColorMap:
    """Each pixel in the colour of its most probable prompt, if that reaches `background`.

    Of equals, the first prompt has it; a probability of 0 is always background. Colours suit colour-blind
    eyes; after the seventh prompt they return with hatching, after the 42nd in other tones as well, so that
    126 prompts look different. The legend gives each its number. Over an image, colours are mixed by
    `opacity` with a flat grey version of that; the legend's are mixed with middle grey.
    """
    _check_fraction("background", background)
    _check_fraction("opacity", opacity)
    _check_labels(labels)
    numbers = _most_probable(probabilities, labels, background)
    picture = _painted(numbers, image, (numbers > 0) * np.float32(opacity))
    if legend:
        picture = _stack(picture, _legend(labels, numbers.shape, 1 if image is None else opacity))
    return ColorMap(picture, numbers)


def object_map(
    objects: Objects,
    labels: Sequence[str],
    image: Picture,
    *,
    chosen: Sequence[int] = (),
    opacity: float = 0.6,
    legend: bool = True,
) -> Picture:
    """The image with each object in a colour, its number on it -> the image's size, and the legend's panel below.

    If some are `chosen`, by their numbers, the others are faint. Colours and legend are those of `color_map`.
    """
    _check_fraction("opacity", opacity)
    _check_labels(labels)
    numbers = objects.numbers
    _check_image(image, numbers.shape)
    if len(labels) != len(objects):
        raise ShapeError(
            f"There are {len(objects)} objects and {len(labels)} labels, but each object needs its label: give as "
            "many labels as objects."
        )
    shown = np.full(len(objects) + 1, 0.25 * opacity if chosen else opacity, np.float32)
    shown[[number for number in chosen if number < len(shown)]] = opacity
    shown[0] = 0
    picture = _painted(numbers.astype(np.uint16), image, shown[numbers])
    for number, box in enumerate(objects.boxes, start=1):
        _write_number(picture, number, numbers, box)
    return _stack(picture, _legend(labels, numbers.shape, opacity)) if legend and labels else picture


def _painted(numbers: NDArray[np.uint16], image: Picture | None, alpha: NDArray[np.float32]) -> Picture:
    """Everything in the look of its number, with lines around it; over an image, mixed with a grey one."""
    picture = _paint(numbers, _cell(numbers.shape))
    if image is not None:
        _check_image(image, numbers.shape)
        picture = _blend(_backdrop(image), picture, alpha)
    picture[_borders(numbers)] = WHITE
    return picture


def _write_number(picture: Picture, number: int, numbers: NDArray[Any], box: tuple[int, int, int, int]) -> None:
    """Put the number on its own colour where the object is thickest; whole, wherever that is."""
    x0, y0, x1, y1 = box
    inside = np.pad(numbers[y0:y1, x0:x1] == number, 1)
    depth = cv2.distanceTransform(inside.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    height, width = picture.shape[:2]
    em = _text_size((height, width))
    text = _text(str(number), em, _fonts("0123456789"))
    chip = np.full((text.shape[0], text.shape[1] + em // 2, 3), _look(number)[0], np.uint8)
    _write(chip, text, em // 4, 0, _ink(_look(number)[0]))
    chip = chip[:height, :width]
    top = min(max(0, y0 + int(row) - chip.shape[0] // 2), height - chip.shape[0])
    left = min(max(0, x0 + int(column) - chip.shape[1] // 2), width - chip.shape[1])
    picture[top : top + chip.shape[0], left : left + chip.shape[1]] = chip


def _most_probable(probabilities: Maps, labels: Sequence[str], background: float) -> NDArray[np.uint16]:
    count, best, numbers = 0, None, np.zeros((0, 0), np.uint16)
    for count, probability in enumerate(each_probability(probabilities), start=1):
        if best is None:
            best, numbers = np.zeros_like(probability), np.zeros(probability.shape, np.uint16)
        numbers[probability > best] = count
        np.maximum(best, probability, out=best)
    if best is None or count != len(labels):
        raise ShapeError(
            f"There are {count} probability maps and {len(labels)} labels, but each map needs its label: "
            "give as many labels as maps, and at least one."
        )
    numbers[~threshold(best, background)] = 0
    return numbers


# Colour


def _inferno(values: NDArray[np.float32]) -> Picture:
    levels = np.rint(values * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def _backdrop(image: Picture) -> Picture:
    """The image in grey and with half its contrast, so that colours keep their look on dark and on light."""
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    return cv2.cvtColor(cv2.convertScaleAbs(grey, alpha=0.5, beta=64), cv2.COLOR_GRAY2RGB)


def _blend(under: Picture, over: Picture | Color, alpha: NDArray[np.floating[Any]] | float) -> Picture:
    """under * (1 - alpha) + over * alpha, some rows at a time, so that no large float picture is made."""
    result = np.empty_like(under)
    over = np.broadcast_to(np.asarray(over, np.uint8), under.shape)
    alpha = np.broadcast_to(np.asarray(alpha, np.float32), under.shape[:2])
    for top in range(0, len(under), 256):
        rows = slice(top, top + 256)
        share = alpha[rows, :, None]
        result[rows] = np.rint(under[rows] * (1 - share) + over[rows] * share)
    return result


def _look(number: int) -> tuple[Color, Color, int]:
    """Colour, colour of the hatching and pattern of the prompt with this number, counted from 1."""
    rest, hue = divmod(number - 1, len(PALETTE))
    tone, pattern = divmod(rest, PATTERNS)
    color = _mix(PALETTE[hue], *TONES[tone % len(TONES)])
    return color, _mix(color, _ink(color), 0.6), pattern


def _mix(color: Color, other: Color, share: float) -> Color:
    red, green, blue = (round(a * (1 - share) + b * share) for a, b in zip(color, other, strict=True))
    return red, green, blue


def _ink(background: Color) -> Color:
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


def _paint(numbers: NDArray[np.uint16], cell: int) -> Picture:
    """Every pixel in the colour and pattern of its prompt."""
    looks = [(EMPTY, EMPTY, 0), *(_look(number) for number in range(1, int(numbers.max()) + 1))]
    colors, accents, patterns = (np.array(column, np.uint8) for column in zip(*looks, strict=True))
    picture: Picture = colors[numbers]
    for pattern in set(patterns.tolist()) - {0}:
        lines = (patterns == pattern)[numbers] & _hatching(pattern, cell, numbers.shape)
        picture[lines] = accents[numbers[lines]]
    return picture


def _borders(numbers: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Lines around the prompts: on the background, and of two prompts on the first one's pixels."""
    # Cross and square in turn grow a point to an octagon, nearly a disc.
    shapes = (cv2.MORPH_CROSS, cv2.MORPH_RECT)
    spread = numbers
    for step in range(_line_width(numbers.shape)):
        spread = cv2.dilate(spread, cv2.getStructuringElement(shapes[step % 2], (3, 3)))
    return spread > numbers


def _cell(shape: Shape) -> int:
    """How wide the lines of a hatching are."""
    return max(2, round(sqrt(shape[0] * shape[1]) / 150))


def _line_width(shape: Shape) -> int:
    return max(1, round(sqrt(shape[0] * shape[1]) / 400))


# Panels


def _stack(picture: Picture, panel: Picture) -> Picture:
    """The picture at the top left, the panel below."""
    height = len(picture)
    width = max(picture.shape[1], panel.shape[1])
    canvas = np.full((height + len(panel), width, 3), PANEL, np.uint8)
    canvas[:height, : picture.shape[1]] = picture
    canvas[height:, : panel.shape[1]] = panel
    return canvas


def _text_size(shape: Shape) -> int:
    """Pixels of an em: readable where the picture is seen as a whole, and never below 14."""
    height, width = shape
    return max(14, round(min(max(shape), 3 * min(height, width)) / 42))


def _scale(bar: Picture, shape: Shape) -> Picture:
    """The colour bar of a heat map, from 0 to 1."""
    em = _text_size(shape)
    width = max(shape[1], 10 * em)
    panel = np.full((3 * em, width, 3), PANEL, np.uint8)
    inner = width - 2 * em
    panel[em // 2 : em // 2 + em, em : em + inner] = cv2.resize(bar, (inner, em), interpolation=cv2.INTER_LINEAR)
    for text, share in (("0", 0.0), ("0.5", 0.5), ("1", 1.0)):
        glyphs = _text(text, em, _fonts(text))
        left = round(em + share * inner - glyphs.shape[1] / 2)
        _write(panel, glyphs, left, round(1.55 * em), _ink(PANEL))
    return panel


def _legend(labels: Sequence[str], shape: Shape, opacity: float) -> Picture:
    """For each label a chip with its number and its look, and its text; a long one takes several columns."""
    em, cell = _text_size(shape), _cell(shape)
    width, line = max(shape[1], 16 * em), round(1.7 * em)
    columns = (width - em) // (10 * em)
    column = (width - em) // columns
    before, after = 4 * em, em  # the chip, and the space to the next entry
    labels = [_readable(label) for label in labels]
    fonts = _fonts("".join(labels))
    limit = min(30 * em, columns * column - before - after)
    texts = [_text(_elide(_spelled(label, fonts), em, limit, fonts), em, fonts) for label in labels]
    places, rows = _flow([ceil((before + text.shape[1] + after) / column) for text in texts], columns)
    panel = np.full((rows * line + em, width, 3), PANEL, np.uint8)
    for number, ((row, place), text) in enumerate(zip(places, texts, strict=True), start=1):
        left, top = em + place * column, em // 2 + row * line
        chip = _chip(number, em, cell, opacity)
        panel[top : top + chip.shape[0], left : left + chip.shape[1]] = chip
        _write(panel, text, left + before, top, _ink(PANEL))
    return panel


def _flow(spans: Sequence[int], columns: int) -> tuple[list[tuple[int, int]], int]:
    """Put entries, each some columns wide, into rows one after another -> (row, column) of each; rows."""
    places, row, column = [], 0, 0
    for span in spans:
        if column + span > columns:
            row, column = row + 1, 0
        places.append((row, column))
        column += span
    return places, row + 1


def _chip(number: int, em: int, cell: int, opacity: float) -> Picture:
    """The look of a prompt as it is over middle grey, and its number on the plain colour beside it."""
    height = round(1.4 * em)
    look = _paint(np.full((height, em + em // 2), number, np.uint16), cell)
    plain = np.full((height, 2 * em, 3), _look(number)[0], np.uint8)
    chip = np.concatenate([plain, look], axis=1)
    chip = _blend(np.full_like(chip, 128), chip, opacity)
    text = _text(str(number), em, _fonts("0123456789"))
    _write(chip, text, max(0, (2 * em - text.shape[1]) // 2), 0, _ink(tuple(chip[0, 0].tolist())))
    return chip


# Text

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


def _text(text: str, size: int, fonts: Sequence[str]) -> Coverage:
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


def _write(panel: Picture, text: Coverage, left: int, top: int, ink: Color) -> None:
    """Put a line of text onto the panel; what would lie outside is cut."""
    place = panel[top : top + text.shape[0], left : left + text.shape[1]]
    covered = text[: place.shape[0], : place.shape[1]] / 255
    place[:] = _blend(place, ink, covered)


def _elide(text: str, size: int, limit: int, fonts: Sequence[str]) -> str:
    """Cut a text that is wider than `limit` pixels in its middle: prompts often differ at their ends."""
    most = 400  # letters; no line of ours has room for more, and none is drawn to find out

    def shortened(keep: int) -> str:
        return text[: ceil(keep / 2)] + "..." + text[len(text) - keep // 2 :]

    def too_wide(text: str) -> bool:
        return _text(text, size, fonts).shape[1] > limit

    if len(text) <= most and not too_wide(text):
        return text
    first = bisect_left(range(min(len(text), most)), True, key=lambda keep: too_wide(shortened(keep)))
    return shortened(max(0, first - 1))


def _runs(text: str, fonts: Sequence[str]) -> Iterator[tuple[str, Iterator[str]]]:
    """Pieces of the text that one font can write; a letter that none has goes to the first."""
    return groupby(text, lambda letter: next((name for name in fonts if _covers(name, letter)), fonts[0]))


def _readable(label: str) -> str:
    """On one line, without what is no text."""
    label = label.encode("utf-8", "replace").decode()  # half a surrogate pair
    return unicodedata.normalize("NFC", " ".join(label.split())) or "(empty)"


def _spelled(text: str, fonts: Sequence[str]) -> str:
    """Emoji that no font has as their names; marks and joiners that none has left out."""

    def spell(letter: str) -> str:
        if any(_covers(name, letter) for name in fonts):
            return letter
        kind = unicodedata.category(letter)
        if kind == "So":
            return f"[{unicodedata.name(letter, 'symbol').lower()}]"
        return "" if kind in ("Cc", "Cf", "Me", "Mn", "Sk") else letter

    return "".join(map(spell, text))


def _fonts(text: str) -> list[str]:
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


# Checks


def _check_image(image: Picture, shape: Shape) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,):
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ShapeError(
            f"The image is {found}, but it must be a numpy array of uint8 (height, width, 3), red, green and "
            'blue: convert it first, for example numpy.asarray(image.convert("RGB")).'
        )
    if image.shape[:2] != shape:
        raise ShapeError(
            f"The image is {image.shape[0]} x {image.shape[1]}, but what is drawn on it is "
            f"{shape[0]} x {shape[1]} (height x width). They belong to one picture: scale one to the other's size."
        )


def _check_labels(labels: Sequence[str]) -> None:
    listed = isinstance(labels, Sequence | np.ndarray) and not isinstance(labels, str)
    wrong = [label for label in labels if not isinstance(label, str)] if listed else [labels]
    if wrong:
        raise OptionError(f"labels holds {wrong[0]!r}, but it must be a sequence of texts: give one for each map.")


def _check_color(color: Color) -> None:
    channels = list(color) if isinstance(color, Sequence | np.ndarray) else []
    if len(channels) != 3 or not all(isinstance(c, int | float | np.number) and 0 <= c <= 255 for c in channels):
        raise OptionError(
            f"color is {color!r}, but it must be red, green and blue, each from 0 to 255: "
            f"give three such numbers, for example {MAGENTA}."
        )


def _check_fraction(name: str, value: float) -> None:
    if not isinstance(value, int | float | np.number) or not 0 <= value <= 1:
        raise OptionError(f"{name} is {value!r}, but it must be from 0 to 1: give a number in that range.")
