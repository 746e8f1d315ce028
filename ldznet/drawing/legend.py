"""Panels below an image that say what its colours mean.

A legend never covers the image. It makes it higher, and wider too where the image is narrower than the 140
(scale) or 224 (labels) pixels, more in a large image, that a legend needs; the image stays at the top left,
pixel for pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import cv2
import numpy as np

from ldznet.drawing.colors import PANEL, RgbImage, Shape, blend, color_of, ink
from ldznet.drawing.lettering import draw_text, elide, one_line, write


def stack(image: RgbImage, panel: RgbImage) -> RgbImage:
    """Return the image at the top left, with the panel below."""
    height = len(image)
    width = max(image.shape[1], panel.shape[1])
    canvas = np.full((height + len(panel), width, 3), PANEL, np.uint8)
    canvas[:height, : image.shape[1]] = image
    canvas[height:, : panel.shape[1]] = panel
    return canvas


def text_size(shape: Shape) -> int:
    """Return the pixels of an em: readable where the image is seen as a whole, and never below 14."""
    height, width = shape
    return max(14, round(min(max(shape), 3 * min(height, width)) / 42))


def draw_scale(bar: RgbImage, shape: Shape) -> RgbImage:
    """Draw the colour bar of a heat map, from 0 to 1."""
    em = text_size(shape)
    width = max(shape[1], 10 * em)
    panel = np.full((3 * em, width, 3), PANEL, np.uint8)
    # An em of margin on both sides, where half of the outer numbers lies.
    inner = width - 2 * em
    panel[em // 2 : em // 2 + em, em : em + inner] = cv2.resize(bar, (inner, em), interpolation=cv2.INTER_LINEAR)
    for text, share in (("0", 0.0), ("0.5", 0.5), ("1", 1.0)):
        glyphs = draw_text(text, em)
        left = round(em + share * inner - glyphs.shape[1] / 2)
        write(panel, glyphs, left, round(1.55 * em), ink(PANEL))
    return panel


def draw_legend(labels: Sequence[str], shape: Shape, opacity: float) -> RgbImage:
    """Draw a chip with its number and colour for each label, and its text; a long one takes several columns."""
    em = text_size(shape)
    # The units are ems, so that a legend looks the same at every size of the image.
    width, line = max(shape[1], 16 * em), round(1.7 * em)
    columns = (width - em) // (10 * em)
    column = (width - em) // columns
    before, after = round(2.5 * em), em  # room for the chip, and for the gap to the next entry
    # Longer labels are cut: a line of 30 ems can still be read at a glance.
    limit = min(30 * em, columns * column - before - after)
    texts = [draw_text(elide(one_line(label), em, limit), em) for label in labels]
    places, rows = _flow([ceil((before + text.shape[1] + after) / column) for text in texts], columns)
    panel = np.full((rows * line + em, width, 3), PANEL, np.uint8)
    for number, ((row, place), text) in enumerate(zip(places, texts, strict=True), start=1):
        left, top = em + place * column, em // 2 + row * line
        # As the colour looks in the image, where it is mixed with grey.
        color = blend(np.full((1, 1, 3), 128, np.uint8), color_of(number), opacity)[0, 0].tolist()
        chip = draw_chip(number, em, (color[0], color[1], color[2]))
        panel[top : top + chip.shape[0], left : left + chip.shape[1]] = chip
        write(panel, text, left + before, top, ink(PANEL))
    return panel


def draw_chip(number: int, em: int, color: tuple[int, int, int]) -> RgbImage:
    """Draw a number on a chip of its colour, which is 2 em wide, or wider for a long number."""
    text = draw_text(str(number), em)
    chip = np.full((text.shape[0], max(2 * em, text.shape[1] + em // 2), 3), color, np.uint8)
    write(chip, text, (chip.shape[1] - text.shape[1]) // 2, 0, ink(color))
    return chip


def _flow(spans: Sequence[int], columns: int) -> tuple[list[tuple[int, int]], int]:
    """Put entries, each some columns wide, into rows -> (row, column) of each, and the number of rows."""
    places, row, column = [], 0, 0
    for span in spans:
        # An entry is never split over two rows.
        if column + span > columns:
            row, column = row + 1, 0
        places.append((row, column))
        column += span
    return places, row + 1
