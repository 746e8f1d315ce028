"""The tabs of img2img: those that all webuis have in common, and what is refused in them.

Components have the webui's own names for them (elem_id).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ldznet.errors import ImageError
from ldznet.images.reading import read_image
from ldznet.images.sources import quote_path
from ldznet.webui.app import App
from ldznet.webui.page.page import PageImage

UPLOAD_IMAGE, UPLOAD_MASK = "img_inpaint_base", "img_inpaint_mask"
BATCH_FILES, BATCH_FOLDER = "img2img_batch_upload", "img2img_batch_input_dir"
# Batch has two tabs of its own: files that are uploaded, and a folder, which is counted as a tab after all others.
SKETCH_TAB, UPLOAD_TAB, BATCH_TAB, FOLDER_TAB = 3, 4, 5, 6
TAB_ITEMS = (
    "img2img_img2img_tab",
    "img2img_img2img_sketch_tab",
    "img2img_inpaint_tab",
    "img2img_inpaint_sketch_tab",
    "img2img_inpaint_upload_tab",
    "img2img_batch_tab",
    "img2img_batch_upload_tab",
    "img2img_batch_from_dir_tab",
)


def require_image(image: Image.Image | None) -> Image.Image:
    """Return the image of a tab.

    Raises:
        ImageError: there is no image.
    """
    if image is None:
        raise ImageError("There is no picture. Put one into the open tab of img2img.")
    return image


def read_first_file(tab: int, values: Mapping[str, Any], app: App) -> PageImage:
    """Return the first image of Batch, with a note that says which file it is.

    Raises:
        ImageError: there is no image.
    """
    if tab == FOLDER_TAB:
        paths = app.batch_files(values.get(BATCH_FOLDER) or "")
        names = [path.name for path in paths]
    else:
        files = values.get(BATCH_FILES) or []
        paths = [Path(getattr(file, "name", file)) for file in files]
        names = [
            Path(getattr(file, "orig_name", None) or path).name for file, path in zip(files, paths, strict=True)
        ]
    if not paths:
        where = "the input directory" if tab == FOLDER_TAB else "the tab Batch"
        raise ImageError(f"There is no picture in {where}. Segment shows the mask of the first one.")
    note = f"The first of {len(paths)} files: {names[0]}" if len(paths) > 1 else f"The only file: {names[0]}"
    image = _read_file(paths[0], names[0], uploaded=tab != FOLDER_TAB)
    return PageImage(image, note=f"{note}. When you press Generate, each file gets its own mask.")


def _read_file(path: Path, name: str, *, uploaded: bool) -> Image.Image:
    """Read one of Batch's files; errors call it by the user's name for it.

    Raises:
        ImageError: it cannot be read.
    """
    try:
        return read_image(path)
    except ImageError as why:
        if uploaded and path.exists() and not path.stat().st_size:
            raise ImageError(
                f"{name} is not here yet, or is empty. Wait until the tab Batch has uploaded it, and press "
                "Segment again."
            ) from why
        raise ImageError(str(why).replace(quote_path(path), name)) from why


def fitting_size(size: tuple[int, int], most: int = 2048, multiple: int = 8) -> tuple[int, int]:
    """Return width and height for the webui's sliders, in the proportions of an image's (width, height)."""
    # The sliders go from 64 to 2048 (ui.py:629).
    scale = min(1.0, most / max(size))
    width, height = (max(64, round(side * scale / multiple) * multiple) for side in size)
    return width, height
