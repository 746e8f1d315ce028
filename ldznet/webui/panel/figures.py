"""Images of the panel as HTML: encoded for a browser, under a caption, with a legend below.

gradio lays the label over the image, and sends every image as PNG, which takes longer than all the rest for a
photograph. Here photographs are JPEG, and masks, which must arrive exactly, are PNG. The size of an image is known
before it is decoded, so that nothing moves when another one comes. javascript/ldznet.js opens an image that is
clicked, and downloads it.

Arrays as in drawing/: images (H, W, 3) uint8 RGB, masks (H, W) uint8.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ldznet.drawing.colors import Color, RgbImage, blend, color_of, ink
from ldznet.drawing.overlay import inferno_bar
from ldznet.errors import LdznetError

_QUALITY = 90  # of JPEG; the thin lines around a mask are still clean
_FASTEST = 1  # of PNG's nine levels: a mask is hardly larger than with the others


def encode_photograph(image: RgbImage) -> str:
    """Return an image as the data URL of a JPEG."""
    return _encode(".jpg", "image/jpeg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])


def encode_exactly(image: NDArray[np.uint8]) -> str:
    """Return a mask (H, W), or an image with alpha (H, W, 4), as the data URL of a PNG."""
    return _encode(".png", "image/png", image, [cv2.IMWRITE_PNG_COMPRESSION, _FASTEST])


def figure(
    source: str, size: tuple[int, int], caption: str, *, download: str = "", details: str = "", act: str = "open"
) -> str:
    """Return an image with a caption above it, and `details`, such as a legend, below.

    `source` is a data URL, `size` that of the image (height, width), `download` the name of the file, if there is
    to be a link to it. A click on the image opens it at full size, unless `act` is "objects": then it chooses.
    """
    height, width = size
    ratio = f"--width: {width}; --height: {height}"
    image = f'<img src="{source}" alt="{html.escape(caption)}" style="{ratio}" decoding="sync" draggable="false">'
    link = f'<a class="ldznet-download" href="#" download="{download}" title="Download">⤓</a>' if download else ""
    return (
        f'<figure class="ldznet-figure"><figcaption><span>{html.escape(caption)}</span>{link}</figcaption>'
        f'<button type="button" class="ldznet-{act}">{image}</button>{details}</figure>'
    )


def color_legend(labels: Sequence[str], opacity: float) -> str:
    """Return the colours of prompts with their numbers and names."""
    entries = (f"<li>{_chip(number, opacity)}{html.escape(text)}</li>" for number, text in enumerate(labels, 1))
    return f'<ul class="ldznet-legend">{"".join(entries)}</ul>'


def object_legend(labels: Sequence[str], selection: Iterable[int], opacity: float) -> str:
    """Return the colours of objects with their numbers and names, as buttons that choose them."""
    selection = set(selection)
    entries = (
        f'<li><button type="button" class="ldznet-object" data-number="{number}" '
        f'aria-pressed="{str(number in selection).lower()}">'
        f"{_chip(number, opacity)}{html.escape(text)}</button></li>"
        for number, text in enumerate(labels, 1)
    )
    return f'<ul class="ldznet-legend ldznet-objects-legend">{"".join(entries)}</ul>'


def probability_scale(opacity: float) -> str:
    """Return the colour bar of a heat map, from 0 to 1."""
    stops = ", ".join(_css(tuple(color)) for color in inferno_bar(opacity)[0, ::32].tolist())
    numbers = "".join(f"<span>{number}</span>" for number in ("0", "0.5", "1"))
    return f'<div class="ldznet-scale"><i style="background: linear-gradient(90deg, {stops})"></i>{numbers}</div>'


def thumbnails(caption: str, choices: Iterable[tuple[str, str, float]]) -> str:
    """Return small images to choose from: the data URL, the caption and the threshold of each."""
    buttons = "".join(
        f'<button type="button" class="ldznet-threshold" data-threshold="{threshold:.2f}">'
        f'<img src="{source}" alt="" decoding="sync" draggable="false"><span>{html.escape(text)}</span></button>'
        for source, text, threshold in choices
    )
    if not buttons:
        return ""
    return (
        f'<figure class="ldznet-figure"><figcaption><span>{html.escape(caption)}</span></figcaption>'
        f'<div class="ldznet-thumbnails">{buttons}</div></figure>'
    )


def _encode(suffix: str, kind: str, image: NDArray[np.uint8], options: list[int]) -> str:
    # OpenCV has its channels in the order blue, green, red.
    orders = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    pixels: Any = cv2.cvtColor(image, orders[image.shape[2]]) if image.ndim == 3 else image
    is_encoded, data = cv2.imencode(suffix, pixels, options)
    if not is_encoded:
        raise LdznetError(
            f"An image of {image.shape[1]} x {image.shape[0]} pixels could not be encoded for the page."
        )
    return f"data:{kind};base64,{base64.b64encode(data.tobytes()).decode()}"


def _chip(number: int, opacity: float) -> str:
    # As the colour looks in the image, where it is mixed with grey.
    mixed = blend(np.full((1, 1, 3), 128, np.uint8), color_of(number), opacity)[0, 0].tolist()
    color: Color = (mixed[0], mixed[1], mixed[2])
    return f'<b style="background: {_css(color)}; color: {_css(ink(color))}">{number}</b>'


def _css(color: Sequence[int]) -> str:
    return f"rgb({', '.join(map(str, color))})"
