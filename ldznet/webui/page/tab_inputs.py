"""What the tabs of img2img give: the picture of the open one, and what is painted or uploaded as its mask.

A button receives the pictures of all tabs; img2img.py of 1.10.1 is followed for what a run would get of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from ldznet.errors import ImageError

# By the number of the open tab; the tab Inpaint upload has two.
PICTURES = (
    "img2img_image",
    "img2img_sketch",
    "img2maskimg",
    "inpaint_sketch",
    "img_inpaint_base",
    "img_inpaint_mask",
)
# What the mask of Inpaint sketch depends on beside its picture: that before the strokes, and two sliders.
BEFORE = "inpaint_sketch_before"
SKETCH = (BEFORE, "img2img_mask_blur", "img2img_mask_alpha")
SKETCH_TAB, UPLOAD_TAB, BATCH_TAB = 3, 4, 5


def source(tab: int, pictures: Sequence[Any], sketch: Sequence[Any]) -> tuple[Image.Image, Image.Image | None]:
    """The values of PICTURES and of SKETCH -> the open tab's picture, and its mask if there is one.

    Raises:
        ImageError: there is no picture.
    """
    if tab == BATCH_TAB:
        raise ImageError(
            "The tab Batch shows no picture. When you press Generate, every file gets a mask of its own; to look "
            "at one beforehand, put it into the tab img2img."
        )
    image, mask = pictures[tab], pictures[tab + 1] if tab == UPLOAD_TAB else None
    if isinstance(image, dict):
        image, mask = image["image"], image["mask"]
    if image is None:
        raise ImageError("There is no picture. Put one into the open tab of img2img.")
    return _strokes(image, *sketch) if tab == SKETCH_TAB else (image, mask)


def fitting_size(size: tuple[int, int], most: int = 2048, multiple: int = 8) -> tuple[int, int]:
    """Return width and height for the webui's sliders, in the proportions of an image's (width, height)."""
    scale = min(1.0, most / max(size))
    width, height = (max(64, round(side * scale / multiple) * multiple) for side in size)
    return width, height


def _strokes(
    drawn: Image.Image, before: Image.Image | None, blur: float, transparency: float
) -> tuple[Image.Image, Image.Image]:
    """What is painted in colour is the mask; both it and the strokes are blurred into the picture below them."""
    if before is None or before.size != drawn.size:
        before = drawn
    painted = (np.asarray(drawn) != np.asarray(before)).any(axis=-1)
    mask = Image.blend(
        Image.new("L", drawn.size), Image.fromarray(255 * painted.astype(np.uint8)), 1 - transparency / 100
    )
    soft = ImageFilter.GaussianBlur(blur)
    return Image.composite(drawn.filter(soft), before, mask.filter(soft)), mask
