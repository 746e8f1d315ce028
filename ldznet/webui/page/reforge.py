"""The img2img tab of reForge: AUTOMATIC1111's, whose canvas of Inpaint may have no strokes.

reForge changes a picture that is put there to RGB and sends it back, after which the page gives the picture alone
until something is painted. reForge's own reading of the canvas (gradio_extensons.py of 3b56b26) fails then, and
with it every button that has the canvas among its inputs, its Generate too.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from PIL import Image

from ldznet.webui.page.a1111 import A1111Page

_CANVAS = "img2maskimg"


class ReforgePage(A1111Page):
    """The components of the tab by name."""

    def __init__(self) -> None:
        super().__init__()
        # Not when the canvas is reported: reForge gives it its own reading after that.
        self.when_complete(lambda: read_without_strokes(self.components[_CANVAS]))


def read_without_strokes(canvas: Any) -> None:
    """Let a canvas be read as one with a blank mask where nothing is painted."""
    own = canvas.preprocess

    @wraps(own)
    def preprocess(value: Any) -> Any:
        if isinstance(value, str):
            value = {"image": value, "mask": None}
        read = own(value)
        if isinstance(read, dict) and read["mask"] is None:
            read["mask"] = Image.new("RGBA", read["image"].size, "black")
        return read

    canvas.preprocess = preprocess
