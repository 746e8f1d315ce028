"""The img2img tab of Forge and Forge Neo; what a run reads of it is in img2img.py of Forge dfdcbab.

A canvas is three components: an HTML element with the known elem_id, then the strokes, then the image, both of
which share an elem_id that nobody knows before (forge_canvas/canvas.py:148). Both have RGBA images of one size; a
stroke is where the alpha of the strokes is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageFilter

from ldznet.images.given_mask import HALF
from ldznet.webui.page.img2img_tab import Img2imgTab
from ldznet.webui.page.tab_inputs import SKETCH_TAB, UPLOAD_IMAGE, UPLOAD_MASK, UPLOAD_TAB, require_image

_IMAGE_CLASS, _STROKES_CLASS = "logical_image_background", "logical_image_foreground"
_STROKES = "_strokes"  # after the name of a canvas: the name of its second image
_INPAINT_TAB = 2
TABS: Sequence[tuple[str, ...]] = (
    ("img2img_image",),  # nothing can be painted on this one
    ("img2img_sketch", "img2img_sketch" + _STROKES),
    ("img2maskimg", "img2maskimg" + _STROKES),
    ("inpaint_sketch", "inpaint_sketch" + _STROKES),
    (UPLOAD_IMAGE, UPLOAD_MASK),
    (),
)
_CANVASES = ("img2img_image", "img2img_sketch", "img2maskimg", "inpaint_sketch")


class ForgePage(Img2imgTab):
    """The components of the tab: a canvas by its elem_id, and its strokes by the same with an end."""

    tabs = TABS
    required_names = tuple(name for tab in TABS for name in tab)

    def __init__(self) -> None:
        super().__init__()
        self._canvas: str | None = None  # of which only the HTML element exists yet, or that and the strokes

    def name_of(self, component: Any, elem_id: str | None) -> str | None:
        """Return the name of an image of a canvas, or the component's elem_id."""
        classes = getattr(component, "elem_classes", None) or ()
        if _STROKES_CLASS in classes:
            return self._canvas and self._canvas + _STROKES
        if _IMAGE_CLASS in classes:
            return self._canvas
        # The two images follow at once: those after any other element are another extension's.
        self._canvas = elem_id if elem_id in _CANVASES else None
        return None if elem_id in _CANVASES else elem_id

    def read_tab(self, tab: int, values: Mapping[str, Any]) -> tuple[Image.Image, Image.Image | None]:
        """Return the image of a tab, and what is painted or uploaded there as its mask."""
        return read_tab(tab, values)


def read_tab(tab: int, values: Mapping[str, Any]) -> tuple[Image.Image, Image.Image | None]:
    """Return the image of a tab, and its mask if there is one; `values` has those of ForgePage.required_names.

    Raises:
        ImageError: there is no image.
    """
    image, second = (*(values[name] for name in TABS[tab]), None, None)[:2]
    # A canvas gives one `info` to all of its images (canvas.py:100); a copy has its own.
    image = require_image(image).copy()
    if second is None:
        return image, None
    if tab == UPLOAD_TAB:
        return image, _cut(second)
    painted = second.getchannel("A")
    if tab == _INPAINT_TAB:
        return image, _cut(painted)
    image = Image.alpha_composite(image.convert("RGBA"), second)
    if tab != SKETCH_TAB:  # in Sketch strokes are a part of the image only
        return image, None
    wide = 2 * int(0.015 * min(painted.size)) + 1  # so that no rim of a stroke stays (img2img.py:174)
    return image, _cut(painted.filter(ImageFilter.MaxFilter(wide)))


def _cut(mask: Image.Image) -> Image.Image:
    """Return a mask without levels between black and white, as Forge's page gives it to a run (img2img.py:182)."""
    return mask.point([255 * (level > HALF) for level in range(256)] * len(mask.getbands()))
