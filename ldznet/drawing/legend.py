"""Panels below a picture that say what its colours mean.

A legend never covers the picture. It makes it higher, and wider too where the picture is narrower than the 140
(scale) or 224 (labels) pixels, more in a large picture, that a legend needs; the picture stays at the top left,
pixel for pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import cv2
import numpy as np

from ldznet.drawing.colors import PANEL, RgbImage, Shape, blend, cell_width, ink, look, paint_numbers
from ldznet.drawing.lettering import draw_text, elide, fonts_for, readable, spelled, write


def stack(picture: RgbImage, panel: RgbImage) -> RgbImage:
    """The picture at the top left, the panel below."""
    height = len(picture)
    width = max(picture.shape[1], panel.shape[1])
    canvas = np.full((height + len(panel), width, 3), PANEL, np.uint8)
    canvas[:height, : picture.shape[1]] = picture
    canvas[height:, : panel.shape[1]] = panel
    return canvas


def text_size(shape: Shape) -> int:
    """Pixels of an em: readable where the picture is seen as a whole, and never below 14."""
    height, width = shape
    return max(14, round(min(max(shape), 3 * min(height, width)) / 42))


def draw_scale(bar: RgbImage, shape: Shape) -> RgbImage:
    """The colour bar of a heat map, from 0 to 1."""
    em = text_size(shape)
    width = max(shape[1], 10 * em)
    panel = np.full((3 * em, width, 3), PANEL, np.uint8)
    inner = width - 2 * em
    panel[em // 2 : em // 2 + em, em : em + inner] = cv2.resize(bar, (inner, em), interpolation=cv2.INTER_LINEAR)
    for text, share in (("0", 0.0), ("0.5", 0.5), ("1", 1.0)):
        glyphs = draw_text(text, em, fonts_for(text))
        left = round(em + share * inner - glyphs.shape[1] / 2)
        write(panel, glyphs, left, round(1.55 * em), ink(PANEL))
    return panel


def draw_legend(labels: Sequence[str], shape: Shape, opacity: float) -> RgbImage:
    """For each label a chip with its number and its look, and its text; a long one takes several columns."""
    em, cell = text_size(shape), cell_width(shape)
    width, line = max(shape[1], 16 * em), round(1.7 * em)
    columns = (width - em) // (10 * em)
    column = (width - em) // columns
    before, after = 4 * em, em  # the chip, and the space to the next entry
    labels = [readable(label) for label in labels]
    fonts = fonts_for("".join(labels))
    limit = min(30 * em, columns * column - before - after)
    texts = [draw_text(elide(spelled(label, fonts), em, limit, fonts), em, fonts) for label in labels]
    places, rows = _flow([ceil((before + text.shape[1] + after) / column) for text in texts], columns)
    panel = np.full((rows * line + em, width, 3), PANEL, np.uint8)
    for number, ((row, place), text) in enumerate(zip(places, texts, strict=True), start=1):
        left, top = em + place * column, em // 2 + row * line
        chip = _chip(number, em, cell, opacity)
        panel[top : top + chip.shape[0], left : left + chip.shape[1]] = chip
        write(panel, text, left + before, top, ink(PANEL))
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


def _chip(number: int, em: int, cell: int, opacity: float) -> RgbImage:
    """The look of a prompt as it is over middle grey, and its number on the plain colour beside it."""
    height = round(1.4 * em)
    hatched = paint_numbers(np.full((height, em + em // 2), number, np.uint16), cell)
    plain = np.full((height, 2 * em, 3), look(number)[0], np.uint8)
    chip = np.concatenate([plain, hatched], axis=1)
    chip = blend(np.full_like(chip, 128), chip, opacity)
    text = draw_text(str(number), em, fonts_for("0123456789"))
    write(chip, text, max(0, (2 * em - text.shape[1]) // 2), 0, ink(tuple(chip[0, 0].tolist())))
    return chip
