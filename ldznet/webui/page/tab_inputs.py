"""Read the open tab of img2img: its image, and what is painted or uploaded there as a mask.

Values come by the names of the webui's components (elem_id). What a run would get of them is in img2img.py of
AUTOMATIC1111 1.10.1; the panel must see the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from ldznet.errors import ImageError

SKETCH_IMAGE = "inpaint_sketch"
UPLOAD_IMAGE, UPLOAD_MASK = "img_inpaint_base", "img_inpaint_mask"
# The components with images of each tab, in the order of the tabs; the last, Batch, has files instead.
TABS: tuple[tuple[str, ...], ...] = (
    ("img2img_image",),
    ("img2img_sketch",),
    ("img2maskimg",),
    (SKETCH_IMAGE,),
    (UPLOAD_IMAGE, UPLOAD_MASK),
    (),
)
IMAGES = tuple(name for tab in TABS for name in tab)
SKETCH_TAB, UPLOAD_TAB, BATCH_TAB = 3, 4, 5
# The mask of Inpaint sketch also depends on its image before the strokes, and on two sliders.
SKETCH_BEFORE, SKETCH_BLUR, SKETCH_TRANSPARENCY = (
    "inpaint_sketch_before",
    "img2img_mask_blur",
    "img2img_mask_alpha",
)
SKETCH_INPUTS = (SKETCH_BEFORE, SKETCH_BLUR, SKETCH_TRANSPARENCY)


def read_tab(tab: int, values: Mapping[str, Any]) -> tuple[Image.Image, Image.Image | None]:
    """Return the image of a tab, and its mask if there is one; `values` has those of IMAGES and SKETCH_INPUTS.

    Raises:
        ImageError: there is no image.
    """
    if tab == BATCH_TAB:
        raise ImageError(
            "The tab Batch shows no picture. When you press Generate, every file gets a mask of its own; to look "
            "at one beforehand, put it into the tab img2img."
        )
    image = values[TABS[tab][0]]
    mask = values[UPLOAD_MASK] if tab == UPLOAD_TAB else None
    if isinstance(image, dict):  # a canvas: the image, and the strokes on it
        image, mask = image["image"], image["mask"]
    if image is None:
        raise ImageError("There is no picture. Put one into the open tab of img2img.")
    if tab == SKETCH_TAB:
        return _read_sketch(image, values[SKETCH_BEFORE], values[SKETCH_BLUR], values[SKETCH_TRANSPARENCY])
    return image, mask


def fitting_size(size: tuple[int, int], most: int = 2048, multiple: int = 8) -> tuple[int, int]:
    """Return width and height for the webui's sliders, in the proportions of an image's (width, height)."""
    # The sliders go from 64 to 2048 in steps of 8 (ui.py:629).
    scale = min(1.0, most / max(size))
    width, height = (max(64, round(side * scale / multiple) * multiple) for side in size)
    return width, height


def _read_sketch(
    sketch: Image.Image, original: Image.Image | None, blur: float, transparency: float
) -> tuple[Image.Image, Image.Image]:
    """Return the image with its coloured strokes, and the strokes as its mask.

    As in a run, both are blurred, and strokes let the image through by `transparency` percent.
    """
    if original is None or original.size != sketch.size:
        original = sketch  # the webui has not noted the image before the strokes yet: no stroke can be seen
    painted = (np.asarray(sketch) != np.asarray(original)).any(axis=-1)
    mask = Image.blend(
        Image.new("L", sketch.size), Image.fromarray(255 * painted.astype(np.uint8)), 1 - transparency / 100
    )
    soft = ImageFilter.GaussianBlur(blur)  # the tab's mask blur, for the image too
    return Image.composite(sketch.filter(soft), original, mask.filter(soft)), mask
