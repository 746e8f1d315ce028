"""Identify and decode a file with Pillow: safely, quietly, and with errors that a user understands.

Pillow's and Python's global state stays as it is. No lock is held while a decoder runs.
"""

from __future__ import annotations

import codecs
import importlib
import logging
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from ldznet.errors import ImageError, LdznetError, OutOfMemoryError
from ldznet.images.pixel_formats import LIMIT

log = logging.getLogger(__name__)

# A progressive JPEG has about ten scans. Each is decoded over the whole image, however few bytes it has, so that a
# small file of thousands keeps a processor busy for minutes.
MOST_SCANS = 100
MOST_SCANNED = 2**31  # scans times pixels; 16 scans of the largest image
# 0xFF and a byte that is not stuffing (00), a restart (D0 to D7) or fill (FF).
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
_START_OF_IMAGE, _END_OF_IMAGE, _START_OF_SCAN, _TEMPORARY = 0xD8, 0xD9, 0xDA, 0x01
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def identify(file: BinaryIO, name: str) -> Image.Image:
    """Open a file with Pillow, without decoding it yet.

    Raises:
        ImageError: it is not an image, or one that is not decoded, and why.
    """
    try:
        image: Image.Image = Image.open(file)
    except UnidentifiedImageError as error:
        # Pillow has moved the position; 512 bytes are enough to recognise text and HEIC.
        file.seek(0)
        head = file.read(512)
        file.seek(0)
        if head[4:8] == b"ftyp" and head[8:12] in _HEIC:
            return _open_heic(file, name)
        raise ImageError(f"{name} {_why_unidentified(head)}") from error
    if image.format == "EPS":
        # Pillow would start Ghostscript on it, and a stranger's file may hold any program.
        raise ImageError(f"{name} is a PostScript file, which ldznet does not run. Save it as PNG first.")
    if image.format in ("JPEG", "MPO"):
        require_few_scans(file, image, name)
    # A photograph with a depth map or a second view is MPO: nobody thinks of that as several images.
    elif getattr(image, "is_animated", False):
        log.warning("%s is an animation or has several pages: its first frame is read.", name)
    return image


def _open_heic(file: BinaryIO, name: str) -> Image.Image:
    """Open a HEIC file where pillow-heif is installed, without registering it in Pillow."""
    try:
        # Not its plugin for Pillow, which would change how the whole process opens files.
        heif = importlib.import_module("pillow_heif")
    except ImportError as error:
        raise ImageError(
            f"{name} is a HEIC image, which Pillow cannot read alone. Install pillow-heif (pip install "
            "pillow-heif), or save the image as JPEG or PNG."
        ) from error
    image: Image.Image = heif.open_heif(file).to_pillow()
    return image


def require_few_scans(file: BinaryIO, image: Image.Image, name: str) -> None:
    """Refuse a JPEG whose scans would keep the decoder busy for long; reads the file, but decodes nothing.

    Raises:
        ImageError: it has too many scans.
    """
    position = file.tell()
    file.seek(0)
    scans = count_scans(file.read(), MOST_SCANS + 1)
    file.seek(position)
    if scans > MOST_SCANS or scans * image.width * image.height > MOST_SCANNED:
        raise ImageError(
            f"{name} is a JPEG of {image.width} x {image.height} pixels with {min(scans, MOST_SCANS)} scans or "
            "more: decoding it would take very long, and no camera writes so many. Save it again as PNG."
        )


def count_scans(data: bytes, most: int) -> int:
    """Return how many scans a JPEG has, counting up to `most`, by its markers alone."""
    scans, position = 0, 0
    while scans < most and (marker := _MARKER.search(data, position)):
        kind, position = marker[1][0], marker.end()
        if kind == _END_OF_IMAGE:
            break
        scans += kind == _START_OF_SCAN
        if kind not in (
            _START_OF_IMAGE,
            _TEMPORARY,
        ):  # all others say how long they are, which may hold thumbnails
            position += int.from_bytes(data[position : position + 2], "big")
    return scans


def _why_unidentified(head: bytes) -> str:
    if not head:
        return "is empty: it has 0 bytes, perhaps because a download or a copy broke off. Get the file again."
    if head.startswith(b"%PDF"):
        return "is a PDF, not an image. Save the page as PNG or JPEG, and give that."
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
    try:  # an incremental decoder accepts a character that is cut off at the end
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter.isspace() for letter in text)


class _Quiet:
    """Ignores warnings while at least one thread reads an image.

    The filters of warnings belong to the whole process. If each thread saved and restored them, two threads that
    leave in the order in which they came would leave "ignore" for good. So the first saves and the last restores.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._saved = ExitStack()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Ignore warnings until the block ends."""
        with self._lock:
            if self._readers == 0:
                self._saved.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            self._readers += 1
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1
                if self._readers == 0:
                    self._saved.close()


quiet = _Quiet()


@contextmanager
def explain_errors(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into an error that a user understands.

    Raises:
        ImageError: the image cannot be decoded. OutOfMemoryError: it does not fit into memory.
    """
    try:
        yield
    except LdznetError:
        raise
    except MemoryError as error:
        raise OutOfMemoryError(
            f"{name} does not fit into the memory that is free. Close other programs, or make it smaller."
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} has too many pixels. {LIMIT} (Pillow: {error})") from error
    except Exception as error:  # decoders raise almost anything on damaged files
        reason = str(error) or type(error).__name__
        raise ImageError(
            f"{name} cannot be decoded ({reason}). Part of it is missing or damaged, or it is of a kind that "
            "Pillow does not know. Get it again, or open it in another program and save it as PNG."
        ) from error
