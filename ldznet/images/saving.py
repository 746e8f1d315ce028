"""Write images to files, and tell them apart by a digest of their pixels."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from ldznet.errors import ImageError
from ldznet.files import atomic_path
from ldznet.images.pixel_formats import from_array, require_size
from ldznet.images.sources import quote_path


def save_png(image: Image.Image | NDArray[Any], path: str | os.PathLike[str]) -> None:
    """Write an image, or an array as `load_image` takes them, to a PNG file: all of it or nothing.

    Missing folders are made, so that the work that led to the image is not lost for want of one. No size is too
    large, since a legend makes an image larger than the one that was read.

    Raises:
        ImageError: the file cannot be written.
    """
    pil_image = image if isinstance(image, Image.Image) else from_array(image, "The array", limited=False)
    require_size(pil_image.size, "The image", limited=False)
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as temporary:
            pil_image.save(temporary, format="PNG")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(
            f"{quote_path(target)} cannot be written ({reason}), and nothing was changed. "
            "Check that its folder may be written and that the disk has room, or choose another place."
        ) from error


def image_digest(image: Image.Image) -> str:
    """Return the SHA-256 over mode, size and pixels, in hex, which says to which image a mask belongs."""
    assert image.mode not in ("P", "PA"), "a palette is not among the pixels"
    width, height = image.size
    digest = hashlib.sha256(f"{image.mode} {width}x{height}\n".encode())
    for top in range(0, height, 256):  # in strips: `tobytes` of the whole would double the memory
        digest.update(image.crop((0, top, width, min(top + 256, height))).tobytes())
    return digest.hexdigest()
