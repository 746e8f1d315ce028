"""Pictures of every kind in, the network's pixels out; probabilities back to the picture's own size.

Nothing here knows of models, prompts or masks. Pillow's and Python's global state stays as it is
found, and a caller's picture is never changed.

    source       path, bytes, binary file, PIL image or array    what users have
    image        PIL, mode "RGB", upright, no metadata           what `load_image` makes of it
                 or "RGBA", where it is not opaque               what `read_image` makes of it
    pixels       (1, 3, h, w) float32 in [-1, 1]                 h, w from `network_size`
    probability  (h, w) or (P, h, w) -> (H, W) or (P, H, W)      float32 in [0, 1]

The size rule is that of the released code of LD-ZNet (PNVR et al., ICCV 2023).
"""

from __future__ import annotations

import codecs
import hashlib
import io
import math
import os
import re
import secrets
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ldznet.errors import ImageError, LdznetError, OptionError, OutOfMemoryError

ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | NDArray[Any]

MAX_SIDE = 16384
# Twice the square of 8192. Pillow itself refuses files above 178,956,970 pixels; to go beyond,
# its global limit would have to be changed.
MAX_PIXELS = 2**27


def load_image(source: ImageSource, *, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """Read any image as an upright RGB one; what is transparent shows the background, red-green-blue.

    An animation or a file of many pages gives its first picture; a PIL image the frame it stands at.
    Arrays are (H, W) or (H, W, C): gray, gray and alpha, RGB or RGBA in uint8, uint16, bool, or
    float from 0 to 1. 16 bits are scaled by the range of the type, 65535 -> 255. Mode I counts as 8
    bits if no value exceeds 255, else as 16; mode F as 0 to 1 if no value exceeds 1, else as 0 to 255.
    """
    _check_background(background)
    return on_background(read_image(source), background)


def read_image(source: ImageSource) -> Image.Image:
    """The same with what is transparent left so: RGB, or RGBA where the image has an alpha channel."""
    name = _name(source)
    with _quiet(), _explained(name):
        if isinstance(source, Image.Image):
            return _upright(source, name)
        if isinstance(source, np.ndarray):
            return _upright(_from_array(source, name), name)
        with _binary_file(source, name) as file, _identified(file, name) as image:
            return _upright(image, name)


def on_background(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """What `read_image` gives -> RGB; an opaque image is given back as it is."""
    _check_background(background)
    if image.mode == "RGB":
        return image
    with _explained("The image"):
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


def network_size(size: tuple[int, int], side: int = 384, multiple: int = 64) -> tuple[int, int]:
    """The (height, width) at which the network sees an image of this size.

    Both are multiples of `multiple`, with about the image's shape and an area of at most side².
    The released rule, except where that would give a side of 0 (thinner than about 36:1, or a tiny
    `side`): then the short side is one multiple and the long one what the area allows.
    """
    height, width = size
    assert min(height, width, side, multiple) >= 1, (size, side, multiple)
    ratio = height / width
    # The height follows from the width before that is floored: the order of the released code.
    fitting_width = int(math.sqrt(side * side / ratio))
    fitting_height = int(ratio * fitting_width)
    if min(fitting_height, fitting_width) >= multiple:
        return fitting_height // multiple * multiple, fitting_width // multiple * multiple
    longest = max(multiple, side * side // multiple // multiple * multiple)
    return (longest, multiple) if height > width else (multiple, longest)


def to_tensor(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """RGB image -> (1, 3, h, w) float32 in [-1, 1], resized to `size` (h, w) with LANCZOS."""
    assert image.mode == "RGB", image.mode
    height, width = size
    resized = image.resize((width, height), Image.Resampling.LANCZOS)
    levels = np.array(resized, dtype=np.float32) / 255  # (h, w, 3)
    return torch.from_numpy(2 * levels - 1).permute(2, 0, 1)[None].contiguous()


def from_tensor(pixels: Tensor) -> Image.Image:
    """(1, 3, h, w) in [-1, 1] -> RGB image, rounded to the nearest level; beyond the range is clipped."""
    assert pixels.shape[:-2] == (1, 3), tuple(pixels.shape)
    levels = (pixels.detach().float()[0] + 1) * 127.5
    return Image.fromarray(levels.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy())


def to_image_size(probability: Tensor | NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """(h, w) or (P, h, w) -> float32 (H, W) or (P, H, W) in [0, 1], resized to `size` (H, W).

    An axis that shrinks is averaged over its area, so that nothing aliases; one that grows is
    interpolated bicubically between pixel centres, and what overshoots is clipped.
    """
    if isinstance(probability, Tensor):
        probability = probability.detach().float().cpu().numpy()
    maps = np.ascontiguousarray(probability, dtype=np.float32)
    assert maps.ndim in (2, 3), maps.shape
    height, width = size
    result = np.empty((*maps.shape[:-2], height, width), np.float32)
    sources, targets = maps.reshape(-1, *maps.shape[-2:]), result.reshape(-1, height, width)
    # OpenCV and not torch: it fills memory that is there already, which counts when one map takes
    # 256 MB, and it can average one axis alone. The values are those of torch's bicubic.
    for source, target in zip(sources, targets, strict=True):
        smaller = (min(width, source.shape[1]), min(height, source.shape[0]))
        averaged = cv2.resize(source, smaller, interpolation=cv2.INTER_AREA)
        cv2.resize(averaged, (width, height), dst=target, interpolation=cv2.INTER_CUBIC)
    return np.clip(result, 0, 1, out=result)


def save_png(image: Image.Image | NDArray[Any], path: str | os.PathLike[str]) -> None:
    """Write an image, or an array as `load_image` takes them, to a PNG file: all of it or nothing.

    Missing folders are made: the work that led to the image should not be lost for want of one. Nor is any size
    too large, since a legend makes a picture larger than what was read.
    """
    picture = image if isinstance(image, Image.Image) else _from_array(image, "The array", limited=False)
    _check_size(picture.size, "The image", limited=False)
    target = Path(path)
    partial = target.parent / f".{secrets.token_hex(8)}.partial"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "xb") as file:
            picture.save(file, format="PNG")
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(
            f"{quote_path(target)} cannot be written ({reason}), and nothing was changed. "
            "Check that its folder may be written and that the disk has room, or choose another place."
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def image_digest(image: Image.Image) -> str:
    """SHA-256 over mode, size and pixels, in hex: says to which picture a mask belongs."""
    assert image.mode not in ("P", "PA"), "a palette is not among the pixels"
    width, height = image.size
    digest = hashlib.sha256(f"{image.mode} {width}x{height}\n".encode())
    for top in range(0, height, 256):  # in strips: `tobytes` of the whole would double the memory
        digest.update(image.crop((0, top, width, min(top + 256, height))).tobytes())
    return digest.hexdigest()


# From a source to an open PIL image.

_URL = re.compile(r"data:|[a-z][a-z0-9+.-]+://", re.IGNORECASE)


@contextmanager
def _binary_file(source: Any, name: str) -> Iterator[BinaryIO]:
    """What a path, bytes or a file hold, as a file that can seek; a file of the caller's stays open."""
    if isinstance(source, (str, os.PathLike)):
        with open_path(source) as file:
            yield file
    elif isinstance(source, (bytes, bytearray, memoryview)):
        yield io.BytesIO(source)
    elif isinstance(source, io.TextIOBase):
        raise ImageError(f'{name} is a file opened as text, but images are bytes. Open it with mode "rb".')
    elif hasattr(source, "read"):
        try:
            source.seek(0)
        except (AttributeError, OSError):  # a stream
            source = io.BytesIO(source.read())
        yield source
    else:
        raise ImageError(
            f"An image cannot be read from an object of type {type(source).__name__}. "
            "Give a path, bytes, a binary file, a PIL image or a numpy array."
        )


def is_address(path: str | os.PathLike[str]) -> bool:
    """Whether this is a URL instead of a path."""
    return bool(_URL.match(os.fsdecode(path)))


def open_path(source: str | os.PathLike[str]) -> BinaryIO:
    """Open a file of an image.

    Raises:
        ImageError: it cannot be opened or is no file, and why.
    """
    path, name = os.fsdecode(source), quote_path(source)
    if is_address(path):
        raise ImageError(
            f"{name} is an address, not a path, and ldznet opens no connections. Download the image first "
            "(or decode it, if it stands in the address), then give the file."
        )
    try:
        kind = os.stat(path).st_mode
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):  # reading it could wait, or go on, for ever
            raise ImageError(
                f"{name} is a pipe or a device, not a file. Give a file, or on the command line - with the image "
                "on standard input."
            )
        return open(path, "rb")
    except FileNotFoundError as error:
        if os.path.islink(path):
            raise ImageError(f"{name} is a link to a file that does not exist. Mend the link.") from error
        raise ImageError(
            f"{name} does not exist. Check the spelling; a path that is not absolute "
            "starts from the folder in which the program was started."
        ) from error
    except (OSError, ValueError) as error:
        if os.path.isdir(path):
            raise ImageError(f"{name} is a folder, not an image. Give the path of one file in it.") from error
        if isinstance(error, PermissionError):
            raise ImageError(
                f"{name} cannot be opened: its permissions do not allow it. "
                "Change them, or copy the file to a place that may be read."
            ) from error
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{name} cannot be opened ({reason}). Check the path, or move the file.") from error


def _identified(file: BinaryIO, name: str) -> Image.Image:
    try:
        image: Image.Image = Image.open(file)
    except UnidentifiedImageError as error:
        file.seek(0)
        raise ImageError(f"{name} {_why_unidentified(file.read(512))}") from error
    if image.format == "EPS":
        # Pillow would start Ghostscript on it, and a stranger's file may hold any program.
        raise ImageError(f"{name} is a PostScript file, which ldznet does not run. Save it as PNG first.")
    return image


def _why_unidentified(head: bytes) -> str:
    if not head:
        return "is empty: it has 0 bytes, perhaps because a download or a copy broke off. Get the file again."
    if _is_text(head):
        return (
            "is not an image: it holds text, perhaps a web page or an SVG drawing. "
            "Give the image itself, as PNG, JPEG or WebP."
        )
    return (
        "is not an image that Pillow can read, or its beginning is damaged. "
        "If another program can open it, save it there as PNG."
    )


def _is_text(head: bytes) -> bool:
    try:  # the decoder minds no character that is cut off at the end
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter.isspace() for letter in text)


def _from_array(array: NDArray[Any], name: str, *, limited: bool = True) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 2, 3, 4)):
        raise ImageError(
            f"{name} has the shape {array.shape}, but an image is (height, width) or "
            "(height, width, channels) with 1 to 4 channels, the channels last. Reshape it."
        )
    _check_size((array.shape[1], array.shape[0]), name, limited=limited)
    levels = _to_bytes(array, name)
    if levels.shape[2:] == (1,):
        levels = levels[:, :, 0]
    return Image.fromarray(levels)


# From a PIL image to an upright one in RGB or RGBA.

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


def _upright(image: Image.Image, name: str) -> Image.Image:
    _check_size(image.size, name)
    image.load()
    turn = _turn(image)
    plain = _eight_bit_colors(image, name)
    if turn is not None:
        plain = plain.transpose(turn)
    plain.info = {}  # an orientation left there would turn the image again
    return plain


def _turn(image: Image.Image) -> Image.Transpose | None:
    # Not ImageOps.exif_transpose: that rewrites the EXIF block, and fails where it is broken.
    if image.format == "TIFF":
        return None  # turned when it was loaded; older Pillows leave the orientation there all the same
    try:
        return _TO_UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # metadata of strangers can fail in any way, and the pixels are still good
        return None


def _eight_bit_colors(image: Image.Image, name: str) -> Image.Image:
    """Any mode -> RGB, or RGBA where something may be transparent."""
    if image.mode in (*_SIXTEEN_BIT, "I", "F"):
        image = _eight_bit(image, name)
    elif image.mode == "La":
        image = image.convert("LA")  # Pillow knows no other way from it
    if image.mode in _ALPHA or (image.mode in _COLOUR_KEY and "transparency" in image.info):
        return image.convert("RGBA")
    return image.convert("RGB")


def _eight_bit(image: Image.Image, name: str) -> Image.Image:
    """Modes I;16, I and F -> L, or LA if one value stands for transparent."""
    values = stored = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "I":
        if low < 0 or high > 65535:
            raise ImageError(
                f"{name} holds 32-bit values from {low} to {high}, and which of them is white cannot "
                "be told. Scale them to 0 to 65535, or save the image with 8 or 16 bits."
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
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if values.dtype.kind != "f":
        raise ImageError(
            f"{name} holds numbers of type {values.dtype}, whose range cannot be told. "
            "Convert it to uint8, uint16, bool, or float from 0 to 1."
        )
    low, high = float(values.min()), float(values.max())
    if not (low >= -_SLACK and high <= 1 + _SLACK):  # NaN ends here too
        found = "NaN" if math.isnan(low) else f"values from {low:g} to {high:g}"
        raise ImageError(f"{name} holds {found}, but floats must lie between 0 and 1. Scale it to that range.")
    levels = np.multiply(values, 255, dtype=np.float32)
    return np.clip(np.rint(levels, out=levels), 0, 255, out=levels).astype(np.uint8)


def _check_size(size: tuple[int, int], name: str, *, limited: bool = True) -> None:
    """PIL's (width, height); what we have drawn is not limited."""
    width, height = size
    if min(size) < 1:
        raise ImageError(f"{name} has no pixels: it is {width} x {height}. Give one with at least one pixel.")
    if limited and (max(size) > MAX_SIDE or width * height > MAX_PIXELS):
        raise ImageError(f"{name} is {width} x {height} pixels. {_LIMIT}")


_LIMIT = (
    f"At most {MAX_SIDE} a side and {MAX_PIXELS:,} in all are taken, so that the work fits into memory. "
    "Make the image smaller first."
)


# Errors and warnings of the libraries below.

_warning_filters = threading.Lock()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings of Pillow to ourselves.

    The filters belong to the whole process: two threads that leave in the order in which they came
    would leave "ignore" behind for good, hence the lock.
    """
    with _warning_filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Whatever a decoder raises becomes an error that a user understands."""
    try:
        yield
    except LdznetError:
        raise
    except MemoryError as error:
        raise OutOfMemoryError(
            f"{name} does not fit into the memory that is free. Close other programs, or make it smaller."
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} has too many pixels. {_LIMIT} (Pillow: {error})") from error
    except Exception as error:  # decoders raise almost anything on damaged files
        reason = str(error) or type(error).__name__
        raise ImageError(
            f"{name} cannot be decoded ({reason}). Part of it is missing or damaged, or it is of a kind that "
            "Pillow does not know. Get it again, or open it in another program and save it as PNG."
        ) from error


def _name(source: object) -> str:
    """How an error calls the source, to begin a sentence with."""
    if isinstance(source, (str, os.PathLike)):
        return quote_path(source)
    if isinstance(source, np.ndarray):
        return "The array"
    filename = getattr(source, "filename", None) or getattr(source, "name", None)
    if filename and isinstance(filename, str):
        return quote_path(filename)
    return "The image" if isinstance(source, Image.Image) else "The data"


def quote_path(path: str | os.PathLike[str]) -> str:
    """How an error calls a path."""
    text = os.fsdecode(path)
    return repr(text if len(text) <= 200 else f"{text[:100]} ... {text[-90:]}")
