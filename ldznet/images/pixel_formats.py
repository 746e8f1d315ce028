"""Convert every kind of pixels to 8 bits: RGB, or RGBA where something may be transparent."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldznet.errors import ImageError

MAX_SIDE = 16384
# Twice the square of 8192. Pillow itself refuses files above 178,956,970 pixels; to allow more, its global limit
# would have to be changed.
MAX_PIXELS = 2**27
LIMIT = (
    f"At most {MAX_SIDE} a side and {MAX_PIXELS:,} in all are taken, so that the work fits into memory. "
    "Make the image smaller first."
)

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_ALPHA = ("LA", "PA", "RGBA", "RGBa", "P")  # P: its palette may have alpha
_COLOUR_KEY = ("1", "L", "RGB")  # one colour may stand for transparent

_ORIENTATION = 0x0112
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def from_array(array: NDArray[Any], name: str, *, limited: bool = True) -> Image.Image:
    """Return an array (H, W) or (H, W, C) as an image; `name` is what errors call it.

    Raises:
        ImageError: its shape or type is not that of an image, or it is too large and `limited`.
    """
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 2, 3, 4)):
        raise ImageError(
            f"{name} has the shape {array.shape}, but an image is (height, width) or "
            "(height, width, channels) with 1 to 4 channels, the channels last. Reshape it."
        )
    require_size((array.shape[1], array.shape[0]), name, limited=limited)
    levels = _to_bytes(array, name)
    if levels.shape[2:] == (1,):
        levels = levels[:, :, 0]
    return Image.fromarray(levels)


def make_upright(image: Image.Image, name: str) -> Image.Image:
    """Return an image as upright RGB or RGBA with 8 bits and without metadata.

    Raises:
        ImageError: it is too large, or its values have no known range.
    """
    require_size(image.size, name)
    image.load()
    turn = _turn(image)
    plain = _eight_bit_colors(image, name)
    if turn is not None:
        plain = plain.transpose(turn)
    plain.info = {}  # an orientation left there would turn the image again
    return plain


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return how the image must be turned, by the orientation in its EXIF block."""
    # Not ImageOps.exif_transpose: that rewrites the EXIF block, and fails where it is broken.
    if image.format == "TIFF":
        return None  # Pillow turns it when it loads it; older ones leave the orientation there all the same
    try:
        return _TO_UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata fails in any way, and the pixels are still good
        return None


def _eight_bit_colors(image: Image.Image, name: str) -> Image.Image:
    """Convert any mode to RGB, or to RGBA where something may be transparent."""
    if image.mode in (*_SIXTEEN_BIT, "I", "F"):
        image = _eight_bit(image, name)
    elif image.mode == "La":
        image = image.convert("LA")  # Pillow knows no other way from it
    if image.mode in _ALPHA or (image.mode in _COLOUR_KEY and "transparency" in image.info):
        return image.convert("RGBA")
    return image.convert("RGB")


def _eight_bit(image: Image.Image, name: str) -> Image.Image:
    """Convert the modes I;16, I and F to L, or to LA if one value stands for transparent."""
    values = stored = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "I":
        if low < 0 or high > 65535:
            raise ImageError(
                f"{name} holds 32-bit values from {low} to {high}, and which of them is white is not "
                "known. Scale them to 0 to 65535, or save the image with 8 or 16 bits."
            )
        values = values.astype(np.uint16 if high > 255 else np.uint8)
    elif image.mode == "F" and low >= -255 * _SLACK and 1 + _SLACK < high <= 255 * (1 + _SLACK):
        values = values / 255
    gray = Image.fromarray(_to_bytes(values, name))
    key = image.info.get("transparency")
    if isinstance(key, int):
        gray.putalpha(Image.fromarray(_to_bytes(stored != key, name)))
    return gray


_SLACK = 1e-3  # what arithmetic may leave beyond 0 and 1


def _to_bytes(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Scale values of any type to 8 bits, by the range of the type, floats from 0 to 1."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if values.dtype.kind != "f":
        raise ImageError(
            f"{name} holds numbers of type {values.dtype}, whose range is not known. "
            "Convert it to uint8, uint16, bool, or float from 0 to 1."
        )
    low, high = float(values.min()), float(values.max())
    if not (low >= -_SLACK and high <= 1 + _SLACK):  # NaN ends here too
        content = "NaN" if math.isnan(low) else f"values from {low:g} to {high:g}"
        raise ImageError(f"{name} holds {content}, but floats must lie between 0 and 1. Scale it to that range.")
    levels = np.multiply(values, 255, dtype=np.float32)
    return np.clip(np.rint(levels, out=levels), 0, 255, out=levels).astype(np.uint8)


def require_size(size: tuple[int, int], name: str, *, limited: bool = True) -> None:
    """Refuse an image without pixels, and one that is too large if `limited`; `size` is PIL's (width, height)."""
    width, height = size
    if min(size) < 1:
        raise ImageError(f"{name} has no pixels: it is {width} x {height}. Give one with at least one pixel.")
    if limited and (max(size) > MAX_SIDE or width * height > MAX_PIXELS):
        raise ImageError(f"{name} is {width} x {height} pixels. {LIMIT}")
