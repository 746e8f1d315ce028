"""Pictures in JSON: base64 in, base64 out. No path and no address of a request is ever opened.

Images are Pillow's; masks are (H, W) float32 in [0, 1].
"""

from __future__ import annotations

import base64
import io
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldznet.errors import ImageError
from ldznet.images.reading import MAX_SIDE, read_image
from ldznet.webui.limits import MOST_PIXELS

# Each decoder more is one more that strangers' bytes reach; these every Pillow has.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
_DATA = re.compile(r"data:[\w.+/-]*(?:;[\w.=+-]*)*;base64,", re.IGNORECASE)


def decode(text: str, name: str) -> Image.Image:
    """A picture in base64, or in a data URL -> RGB or RGBA, upright; `name` is the field, for errors.

    Raises:
        ImageError: it is no picture, or too large; its size is looked at before it is decoded.
    """
    opened = _open(_bytes_of(text, name), name)
    width, height = opened.size
    if width * height > MOST_PIXELS or max(width, height) > MAX_SIDE:
        raise ImageError(
            f"{name} has {width} x {height} pixels, but at most {MAX_SIDE} a side and {MOST_PIXELS:,} in all are "
            "taken. Make it smaller first."
        )
    try:
        return read_image(opened)
    except ImageError as why:
        raise ImageError(f"{name}: {why}") from why


def _bytes_of(text: str, name: str) -> bytes:
    start = _DATA.match(text[:200])
    letters = text[start.end() :] if start else text
    try:
        return base64.b64decode(letters.replace("\n", "").replace("\r", ""), validate=True)
    except ValueError:
        raise ImageError(
            f"{name} is not base64, alone or as in data:image/png;base64,... Send the bytes of the file so; paths "
            "and addresses are not opened."
        ) from None


def _open(data: bytes, name: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as why:
        raise ImageError(
            f"{name} has more than the {MOST_PIXELS:,} pixels that are taken. Make it smaller first."
        ) from why
    except Exception as why:  # strangers' bytes: plugins raise almost anything
        raise ImageError(
            f"{name} holds {len(data)} bytes that are none of {', '.join(FORMATS)}. Send such a file, whole."
        ) from why


def encode(picture: Image.Image | NDArray[Any]) -> str:
    """A picture, or an array in uint8 or uint16 -> PNG in base64."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)  # time counts for more here than size
    return base64.b64encode(file.getbuffer()).decode()


def encode_probability(probability: NDArray[np.float32]) -> str:
    """(H, W) in [0, 1] -> PNG of 16 bits, grey: 65535 is 1."""
    return encode(np.round(probability * np.float32(65535)).astype(np.uint16))


def decode_probability(text: str) -> NDArray[np.float32]:
    """What `encode_probability` has made -> (H, W) in [0, 1]."""
    with Image.open(io.BytesIO(base64.b64decode(text)), formats=("PNG",)) as image:
        return np.asarray(image).astype(np.float32) / np.float32(65535)
