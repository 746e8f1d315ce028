"""Images that a person looks at: a mask over its image, one probability, several prompts or objects in colours.

Plain numpy, OpenCV and Pillow: nothing here knows of models, files or the UI.

    image        (H, W, 3)  uint8 RGB, in and out
    probability  (H, W)     float in [0, 1]; several as in masks/pipeline.py: (P, H, W), or one at a time
    mask         (H, W)     bool or soft

Colours mean the same in every image: nothing is rescaled to the values that one image happens to have. A legend
stands on a panel below (legend.py); the image stays at the top left, pixel for pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ldznet.drawing.colors import (
    BLACK,
    PALETTE,
    WHITE,
    Color,
    RgbImage,
    Shape,
    blend,
    blend_table,
    color_of,
    colors_of,
    look_up,
    tint,
)
from ldznet.drawing.legend import draw_chip, draw_legend, draw_scale, stack, text_size
from ldznet.errors import OptionError, ShapeError
from ldznet.masks.checks import Maps, as_probability, as_soft_mask, each_probability
from ldznet.masks.morphology import grow
from ldznet.masks.objects import Objects
from ldznet.masks.pipeline import threshold

MAGENTA = (230, 0, 130)  # rare in photographs


class ColorMap(NamedTuple):
    """Several prompts in one image."""

    image: RgbImage  # with the legend, unless it was switched off
    numbers: NDArray[np.uint16]  # (H, W): 0 is background, 1 the first prompt, 2 the second, ...


def overlay(image: RgbImage, mask: NDArray[Any], *, color: Color = MAGENTA, opacity: float = 0.5) -> RgbImage:
    """Return the image with the selected part tinted, and a contour along 0.5.

    The contour is a light line inside and a dark one outside, so that it shows on every background; its width
    goes with the size of the image.
    """
    soft = as_soft_mask(mask)
    _check_image(image, soft.shape)
    _check_color(color)
    _check_fraction("opacity", opacity)
    tinted = tint(image, color, soft * np.float32(opacity))
    selected, width = soft >= 0.5, _line_width(soft.shape)
    # Dark outside and light inside: one of the two is visible on any background.
    _paint(tinted, grow(selected, width) & ~selected, BLACK)
    _paint(tinted, selected & ~grow(selected, -width), WHITE)
    return tinted


def heat_map(
    probability: NDArray[Any], image: RgbImage | None = None, *, opacity: float = 0.6, legend: bool = False
) -> RgbImage:
    """Return the probability as colour, from dark 0 to bright 1, with a legend below if asked for.

    The colour map is Inferno: perceptually uniform, also for colour-blind eyes and in grey. Over an image it is
    mixed with a flat grey version of it by `opacity`; the bar of the legend shows the mix with middle grey.
    """
    values = as_probability(probability)
    _check_fraction("opacity", opacity)
    bar = inferno_bar(0 if image is None else opacity)
    if image is None:
        colors = bar[0][_levels(values)]
    else:
        _check_image(image, values.shape)
        table = blend_table(inferno_bar(0)[0], np.full(256, opacity, np.float32))
        colors = look_up(table, _levels(values), _backdrop(image))
    return stack(colors, draw_scale(bar, values.shape)) if legend else colors


def inferno_bar(opacity: float = 0) -> RgbImage:
    """Return the 256 colours of a heat map from 0 to 1, (1, 256, 3); with an opacity, mixed with middle grey."""
    # OpenCV has its colour maps in the order blue, green, red.
    levels = np.arange(256, dtype=np.uint8)[None]
    bar: RgbImage = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    return blend(np.full_like(bar, 128), bar, opacity) if opacity else bar


def color_map(
    probabilities: Maps,
    labels: Sequence[str],
    image: RgbImage | None = None,
    *,
    background: float = 0.5,
    opacity: float = 0.6,
    legend: bool = True,
) -> ColorMap:
    """Return an image with each pixel in the colour of its most probable prompt, if that reaches `background`.

    Of equals, the first prompt has the pixel; a probability of 0 is always background. With more prompts than
    colours, each region has the number of its prompt drawn into it; the legend lists all numbers. Over an image,
    colours are mixed by `opacity` with a flat grey version of it; those of the legend with middle grey.
    """
    _check_fraction("background", background)
    _check_fraction("opacity", opacity)
    _check_labels(labels)
    numbers = _most_probable(probabilities, labels, background)
    alphas = np.full(len(labels) + 1, opacity, np.float32)
    alphas[0] = 0
    canvas = _paint_regions(numbers, image, alphas)
    if len(labels) > len(PALETTE):
        for number in range(1, len(labels) + 1):
            _number_regions(canvas, numbers == number, number)
    if legend:
        canvas = stack(canvas, draw_legend(labels, numbers.shape, 1 if image is None else opacity))
    return ColorMap(canvas, numbers)


def object_map(
    objects: Objects,
    labels: Sequence[str],
    image: RgbImage,
    *,
    selection: Sequence[int] = (),
    opacity: float = 0.6,
    legend: bool = True,
) -> RgbImage:
    """Return the image with each object in a colour, its number on it, and the legend below.

    With numbers in `selection`, all other objects are faint. Colours and legend are those of `color_map`.
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
    alphas = np.full(len(objects) + 1, 0.25 * opacity if selection else opacity, np.float32)
    # Numbers that no object has are ignored: they come from an older mask.
    alphas[[number for number in selection if number < len(alphas)]] = opacity
    alphas[0] = 0
    canvas = _paint_regions(numbers.astype(np.uint16), image, alphas)
    for number, (x0, y0, x1, y1) in enumerate(objects.boxes, start=1):
        _write_number(canvas, number, numbers[y0:y1, x0:x1] == number, x0, y0)
    return stack(canvas, draw_legend(labels, numbers.shape, opacity)) if legend and labels else canvas


def _most_probable(probabilities: Maps, labels: Sequence[str], background: float) -> NDArray[np.uint16]:
    """Return the number of the most probable prompt at each pixel; 0 is background."""
    count, best, numbers = 0, None, np.zeros((0, 0), np.uint16)
    for count, probability in enumerate(each_probability(probabilities), start=1):
        if best is None:
            best, numbers = np.zeros_like(probability), np.zeros(probability.shape, np.uint16)
        # Strictly larger, so that the first of equal prompts keeps the pixel.
        numbers[probability > best] = count
        np.maximum(best, probability, out=best)
    if best is None or count != len(labels):
        raise ShapeError(
            f"There are {count} probability maps and {len(labels)} labels, but each map needs its label: "
            "give as many labels as maps, and at least one."
        )
    numbers[~threshold(best, background)] = 0
    return numbers


def _paint_regions(numbers: NDArray[np.uint16], image: RgbImage | None, alphas: NDArray[np.float32]) -> RgbImage:
    """Return all regions in their colours with lines around them; over an image, mixed with a grey one.

    `alphas` has the opacity of each number, from 0 on.
    """
    colors = colors_of(len(alphas) - 1)
    if image is None:
        canvas = colors[numbers]
    else:
        _check_image(image, numbers.shape)
        canvas = look_up(blend_table(colors, alphas), numbers, _backdrop(image))
    _paint(canvas, _borders(numbers), WHITE)
    return canvas


def _paint(image: RgbImage, line: NDArray[np.bool_], color: Color) -> None:
    """Paint a thin line: by places, since most pixels do not belong to it."""
    assert image.flags.c_contiguous  # or `reshape` would make a copy
    image.reshape(-1, 3)[np.flatnonzero(line)] = color


def _borders(numbers: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Return the lines around the regions; between two regions, the line lies on the first one's pixels."""
    # Cross and square alternately grow a point to an octagon, nearly a disc.
    shapes = (cv2.MORPH_CROSS, cv2.MORPH_RECT)
    grown = numbers
    for step in range(_line_width(numbers.shape)):
        grown = cv2.dilate(grown, cv2.getStructuringElement(shapes[step % 2], (3, 3)))
    return grown > numbers


def _line_width(shape: Shape) -> int:
    # About one pixel at 512 x 512, five at 2048 x 2048.
    return max(1, round(sqrt(shape[0] * shape[1]) / 400))


def _number_regions(canvas: RgbImage, region: NDArray[np.bool_], number: int) -> None:
    """Write the number on each connected part with room for it, and on the largest part in any case."""
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(region.view(np.uint8), connectivity=8)
    areas = statistics[1:, cv2.CC_STAT_AREA]
    room = 4 * text_size(region.shape) ** 2  # a chip and a half, so that the colour stays visible around it
    for part in range(1, count):
        if areas[part - 1] >= min(room, areas.max()):
            x, y, width, height = (int(value) for value in statistics[part, :4])
            _write_number(canvas, number, labels[y : y + height, x : x + width] == part, x, y)


def _write_number(canvas: RgbImage, number: int, inside: NDArray[np.bool_], left: int, top: int) -> None:
    """Put the number where a part is thickest; `inside` is the box of the part, which begins at left and top."""
    # Padded, since a part that fills its box has no edge inside of it.
    padded = np.pad(inside, 1).view(np.uint8)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    height, width = canvas.shape[:2]
    chip = draw_chip(number, text_size((height, width)), color_of(number))[:height, :width]
    # Moved into the image, so that the number is whole at the border as well.
    y = min(max(0, top + int(row) - chip.shape[0] // 2), height - chip.shape[0])
    x = min(max(0, left + int(column) - chip.shape[1] // 2), width - chip.shape[1])
    canvas[y : y + chip.shape[0], x : x + chip.shape[1]] = chip


def _levels(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(values * 255).astype(np.uint8)


def _backdrop(image: RgbImage) -> NDArray[np.uint8]:
    """Return the image in grey with half its contrast, (H, W): colours look the same on dark and on light."""
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    levels: NDArray[np.uint8] = cv2.convertScaleAbs(grey, alpha=0.5, beta=64)
    return levels


# Checks


def _check_image(image: RgbImage, shape: Shape) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,):
        kind = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ShapeError(
            f"The image is {kind}, but it must be a numpy array of uint8 (height, width, 3), red, green and "
            'blue: convert it first, for example numpy.asarray(image.convert("RGB")).'
        )
    if image.shape[:2] != shape:
        raise ShapeError(
            f"The image is {image.shape[0]} x {image.shape[1]}, but what is drawn on it is "
            f"{shape[0]} x {shape[1]} (height x width). They belong to one image: scale one to the other's size."
        )


def _check_labels(labels: Sequence[str]) -> None:
    is_list = isinstance(labels, Sequence | np.ndarray) and not isinstance(labels, str)
    wrong = [label for label in labels if not isinstance(label, str)] if is_list else [labels]
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
