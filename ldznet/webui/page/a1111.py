"""The img2img tab of AUTOMATIC1111's webui and of reForge; what a run reads of it is in img2img.py of 1.10.1.

A canvas is one component: its value has the image and the strokes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from ldznet.webui.page.img2img_tab import Img2imgTab
from ldznet.webui.page.tab_inputs import SKETCH_TAB, UPLOAD_IMAGE, UPLOAD_MASK, UPLOAD_TAB, require_image

SKETCH_IMAGE = "inpaint_sketch"
# The mask of Inpaint sketch also depends on its image before the strokes, and on two sliders.
SKETCH_BEFORE, SKETCH_BLUR, SKETCH_TRANSPARENCY = (
    "inpaint_sketch_before",
    "img2img_mask_blur",
    "img2img_mask_alpha",
)
TABS = (
    ("img2img_image",),
    ("img2img_sketch",),
    ("img2maskimg",),
    (SKETCH_IMAGE,),
    (UPLOAD_IMAGE, UPLOAD_MASK),
    (),
)


class A1111Page(Img2imgTab):
    """The components of the tab by name."""

    tabs = TABS
    required_names = (*(name for tab in TABS for name in tab), SKETCH_BEFORE, SKETCH_BLUR, SKETCH_TRANSPARENCY)
    sliders = MappingProxyType({SKETCH_TAB: (SKETCH_BLUR, SKETCH_TRANSPARENCY)})

    def name_of(self, component: Any, elem_id: str | None) -> str | None:
        """Return the component's elem_id, or the name of the image before the strokes."""
        import gradio as gr  # type: ignore[import-not-found,import-untyped,unused-ignore]

        if elem_id is not None or not isinstance(component, gr.State):
            return elem_id
        # The image before the strokes has no elem_id; it is the first State after the canvas (ui.py:554).
        is_first = SKETCH_IMAGE in self.components and SKETCH_BEFORE not in self.components
        return SKETCH_BEFORE if is_first else None

    def read_tab(self, tab: int, values: Mapping[str, Any]) -> tuple[Image.Image, Image.Image | None]:
        """Return the image of a tab, and what is painted or uploaded there as its mask."""
        return read_tab(tab, values)


def read_tab(tab: int, values: Mapping[str, Any]) -> tuple[Image.Image, Image.Image | None]:
    """Return the image of a tab, and its mask if there is one; `values` has those of A1111Page.required_names.

    Raises:
        ImageError: there is no image.
    """
    image = next((values[name] for name in TABS[tab]), None)
    mask = values[UPLOAD_MASK] if tab == UPLOAD_TAB else None
    if isinstance(image, dict):  # a canvas: the image, and the strokes on it
        image, mask = image["image"], image["mask"]
    image = require_image(image)
    if tab == SKETCH_TAB:
        return _read_sketch(image, values[SKETCH_BEFORE], values[SKETCH_BLUR], values[SKETCH_TRANSPARENCY])
    return image, mask


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
