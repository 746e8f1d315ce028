"""The tabs of img2img: those that all webuis have in common, and what is refused in them.

Components have the webui's own names for them (elem_id).
"""

from __future__ import annotations

from PIL import Image

from ldznet.errors import ImageError

UPLOAD_IMAGE, UPLOAD_MASK = "img_inpaint_base", "img_inpaint_mask"
SKETCH_TAB, UPLOAD_TAB, BATCH_TAB = 3, 4, 5


def require_image(tab: int, image: Image.Image | None) -> Image.Image:
    """Return the image of a tab.

    Raises:
        ImageError: there is no image.
    """
    if tab == BATCH_TAB:
        raise ImageError(
            "The tab Batch shows no picture. When you press Generate, every file gets a mask of its own; to look "
            "at one beforehand, put it into the tab img2img."
        )
    if image is None:
        raise ImageError("There is no picture. Put one into the open tab of img2img.")
    return image


def fitting_size(size: tuple[int, int], most: int = 2048, multiple: int = 8) -> tuple[int, int]:
    """Return width and height for the webui's sliders, in the proportions of an image's (width, height)."""
    # The sliders go from 64 to 2048 in steps of 8 (ui.py:629).
    scale = min(1.0, most / max(size))
    width, height = (max(64, round(side * scale / multiple) * multiple) for side in size)
    return width, height
