"""Read and write images in JSON as base64. No path and no address of a request is ever opened.

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
from ldznet.images.decoding import require_few_scans
from ldznet.images.reading import read_image
from ldznet.webui.limits import MOST_PIXELS
from ldznet.webui.request_cost import require_pixels

# Every decoder is one that strangers' bytes reach, so these are few; every Pillow has them.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
_DATA = re.compile(r"data:[\w.+/-]*(?:;[\w.=+-]*)*;base64,", re.IGNORECASE)


def decode(text: str, name: str) -> Image.Image:
    """Return the image in a base64 text or a data URL, RGB or RGBA and upright; `name` is the field, for errors.

    Raises:
        ImageError: it is not an image, too large, or a JPEG of too many scans; this is checked before decoding.
    """
    data = _decode_base64(text, name)
    image = _open(data, name)
    require_pixels(image.size, name)
    if image.format in ("JPEG", "MPO"):
        require_few_scans(io.BytesIO(data), image, name)
    try:
        return read_image(image)
    except ImageError as why:
        raise ImageError(f"{name}: {why}") from why


def _decode_base64(text: str, name: str) -> bytes:
    start = _DATA.match(text[:200])
    letters = text[start.end() :] if start else text
    try:
        return base64.b64decode(letters.replace("\n", "").replace("\r", ""), validate=True)
    except ValueError:
        raise ImageError(
            f"{name} is not base64, alone or as in data:image/png;base64,... Send the bytes of the file in this "
            "form; paths and addresses are not opened."
        ) from None


def _open(data: bytes, name: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as why:
        raise ImageError(
            f"{name} has more than the {MOST_PIXELS:,} pixels that are allowed. Make it smaller first."
        ) from why
    except Exception as why:  # strangers' bytes: plugins raise almost anything
        raise ImageError(
            f"{name} holds {len(data)} bytes in none of the formats {', '.join(FORMATS)}. Send a complete file in "
            "one of them."
        ) from why


def encode(image: Image.Image | NDArray[Any]) -> str:
    """Return an image, or an array in uint8 or uint16, as PNG in base64."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)  # here time matters more than size
    return base64.b64encode(file.getbuffer()).decode()


def encode_probability(probability: NDArray[np.float32]) -> str:
    """Return a map (H, W) in [0, 1] as a grey PNG of 16 bits in base64: 65535 is 1."""
    # 16 bits, so that a program's own threshold gives our mask, up to 1/65535.
    return encode(np.round(probability * np.float32(65535)).astype(np.uint16))
