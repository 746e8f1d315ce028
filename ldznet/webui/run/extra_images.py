"""Add mask and overlay to the results of a run, and save them in the folder of the first saved image.

File names and lines are those of AUTOMATIC1111 1.10.1.
"""

from __future__ import annotations

import glob
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ldznet.webui import infotext
from ldznet.webui.app import GeneratingApp

log = logging.getLogger(__name__)


def append_images(processed: Any, images: Mapping[str, Image.Image]) -> None:
    """Append images to the results; each needs a text, and gets that of the first result."""
    for image in images.values():
        processed.images.append(image)
        processed.infotexts.append(processed.infotexts[0] if processed.infotexts else "")


def save_images(app: GeneratingApp, p: Any, processed: Any, images: Mapping[str, Image.Image]) -> None:
    """Save images next to the first saved result, under its name: 00012-1.png, 00012-1-ldznet-mask.png.

    Nothing is saved where the webui has saved nothing, by its settings or those of a request.
    """
    results = processed.images[processed.index_of_first_image :]
    names = (getattr(image, "already_saved_as", None) for image in results)
    first = next((Path(name) for name in names if name), None)
    if first is None:
        return
    text = processed.infotexts[0] if processed.infotexts else None
    try:
        for name, image in images.items():
            suffix = "png" if name == "mask" else app.option("samples_format", "png")  # a mask must be exact
            # `with_suffix` would take a part of a name with dots in it for the suffix.
            app.save_image(image, first.parent / f"{first.stem}-ldznet-{name}.{suffix}", text=text, p=p)
    except Exception as why:  # such as WebP's, of which no side may be longer than 16383 pixels
        _warn_not_saved(p, processed, first, getattr(why, "strerror", None) or why)


def _warn_not_saved(p: Any, processed: Any, first: Path, reason: object) -> None:
    warning = (
        f"Mask and overlay could not be saved beside {first.name} ({reason}). Check the disk, and the file "
        "format in the webui's settings."
    )
    log.warning("%s", warning)
    processed.comments += f"{warning}\n"
    if infotext.FOUND in p.extra_generation_params:
        p.extra_generation_params[infotext.FOUND]["not_saved"] = warning  # programs get no comments
    # The webui writes a temporary file first, and leaves it where writing fails (images.py:716).
    for partial in first.parent.glob(f"{glob.escape(first.stem)}-ldznet-*.tmp"):
        partial.unlink(missing_ok=True)
