"""Open an image given as a path, bytes or a file object; an error says why it cannot be opened."""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldznet.errors import ImageError

ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | NDArray[Any]

_URL = re.compile(r"data:|[a-z][a-z0-9+.-]+://", re.IGNORECASE)


@contextmanager
def binary_file(source: Any, name: str) -> Iterator[BinaryIO]:
    """Yield a file that can seek, for a path, bytes or a file; a file of the caller stays open."""
    if isinstance(source, (str, os.PathLike)):
        # Our own file, so it is closed when the block ends.
        with open_path(source) as file:
            yield file
    elif isinstance(source, (bytes, bytearray, memoryview)):
        yield io.BytesIO(source)
    elif isinstance(source, io.TextIOBase):
        raise ImageError(f'{name} is a file opened as text, but images are bytes. Open it with mode "rb".')
    elif hasattr(source, "read"):
        try:
            source.seek(0)
        except (AttributeError, OSError):  # a stream, such as standard input
            source = io.BytesIO(source.read())
        yield source
    else:
        raise ImageError(
            f"An image cannot be read from an object of type {type(source).__name__}. "
            "Give a path, bytes, a binary file, a PIL image or a numpy array."
        )


def is_address(path: str | os.PathLike[str]) -> bool:
    """Return whether this is a URL instead of a path."""
    return bool(_URL.match(os.fsdecode(path)))


def open_path(source: str | os.PathLike[str]) -> BinaryIO:
    """Open an image file.

    Raises:
        ImageError: it cannot be opened or is not a file, and why.
    """
    path, name = os.fsdecode(source), quote_path(source)
    if is_address(path):
        raise ImageError(
            f"{name} is an address, not a path, and ldznet opens no connections. Download the image first "
            "(or decode it, if it stands in the address), then give the file."
        )
    try:
        # `os.stat` follows links, so that a link to a pipe is refused too.
        kind = os.stat(path).st_mode
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):  # reading it could wait or continue for ever
            raise ImageError(
                f"{name} is a pipe or a device, not a file. Give a file, or on the command line - with the image "
                "on standard input."
            )
        return open(path, "rb")
    except FileNotFoundError as error:
        if os.path.islink(path):
            raise ImageError(f"{name} is a link to a file that does not exist. Fix the link.") from error
        raise ImageError(
            f"{name} does not exist. Check the spelling; a path that is not absolute "
            "starts from the folder in which the program was started."
        ) from error
    except (OSError, ValueError) as error:
        # First, since opening a folder is a PermissionError on Windows.
        if os.path.isdir(path):
            raise ImageError(f"{name} is a folder, not an image. Give the path of one file in it.") from error
        if isinstance(error, PermissionError):
            raise ImageError(
                f"{name} cannot be opened: its permissions do not allow it. "
                "Change them, or copy the file to a place that may be read."
            ) from error
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{name} cannot be opened ({reason}). Check the path, or move the file.") from error


def source_name(source: object) -> str:
    """Return what an error calls the source, to begin a sentence with."""
    if isinstance(source, (str, os.PathLike)):
        return quote_path(source)
    if isinstance(source, np.ndarray):
        return "The array"
    filename = getattr(source, "filename", None) or getattr(source, "name", None)
    if filename and isinstance(filename, str):
        return quote_path(filename)
    return "The image" if isinstance(source, Image.Image) else "The data"


def quote_path(path: str | os.PathLike[str]) -> str:
    """Return a path in quotes, shortened, as errors show it."""
    # `repr` shows line breaks and control characters, which would tear a message apart.
    text = os.fsdecode(path)
    return repr(text if len(text) <= 200 else f"{text[:100]} ... {text[-90:]}")
