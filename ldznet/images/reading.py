"""Read images of every kind: upright, 8 bits a channel, without metadata.

Nothing here knows of models, prompts or masks, and a caller's image is never changed.

    source  path, bytes, binary file, PIL image or array    what users have (sources.py)
    image   PIL, mode "RGB"                                 what `load_image` makes of it
            or "RGBA", where it is not opaque               what `read_image` makes of it
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from ldznet.errors import OptionError
from ldznet.images.decoding import explain_errors, identify, quiet
from ldznet.images.pixel_formats import from_array, make_upright
from ldznet.images.sources import ImageSource, binary_file, source_name


def load_image(source: ImageSource, *, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """Read any image as an upright RGB one; what is transparent shows the background, red-green-blue.

    An animation or a file of many pages gives its first frame; a PIL image the frame it stands at.
    Arrays are (H, W) or (H, W, C): gray, gray and alpha, RGB or RGBA in uint8, uint16, bool, or
    float from 0 to 1. 16 bits are scaled by the range of the type, 65535 -> 255. Mode I counts as 8
    bits if no value exceeds 255, else as 16; mode F as 0 to 1 if no value exceeds 1, else as 0 to 255.

    Raises:
        ImageError: it cannot be read, and why. OutOfMemoryError: it does not fit into memory.
    """
    _check_background(background)
    return on_background(read_image(source), background)


def read_image(source: ImageSource) -> Image.Image:
    """Read any image as upright RGB, or as RGBA where it has an alpha channel; see `load_image`."""
    name = source_name(source)
    with quiet(), explain_errors(name):
        if isinstance(source, Image.Image):
            return make_upright(source, name)
        if isinstance(source, np.ndarray):
            return make_upright(from_array(source, name), name)
        with binary_file(source, name) as file, identify(file, name) as image:
            return make_upright(image, name)


def on_background(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Put an image from `read_image` on a background -> RGB; an opaque image is returned as it is."""
    _check_background(background)
    if image.mode == "RGB":
        return image
    with explain_errors("The image"):
        canvas = Image.new("RGB", image.size, background)
        canvas.paste(image, mask=image)
        return canvas


def _check_background(background: tuple[int, int, int]) -> None:
    if (
        not isinstance(background, tuple)
        or len(background) != 3
        or not all(isinstance(c, int) and 0 <= c <= 255 for c in background)
    ):
        raise OptionError(
            f"background is {background!r}, but it is a colour: "
            "give three whole numbers from 0 to 255 (default (255, 255, 255))."
        )
