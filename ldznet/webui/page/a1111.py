"""The img2img tab of AUTOMATIC1111's webui, as the panel's page.

The webui calls `remember` for each of its components. The user decides about their order, so that they may come
before or after the panel. "Reload UI" builds a new page, so the adapter is kept on the Blocks that it belongs to.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image

from ldznet.webui.page import tab_inputs

WIDTH, HEIGHT = "img2img_width", "img2img_height"
_PROMPT = "img2img_prompt"  # the first component of the page
_ATTRIBUTE = "_ldznet_page"  # of the Blocks


class A1111Page:
    """Components of the img2img tab; those of the throw-away Blocks, which the API makes, never come."""

    generates = True
    input_names = (*tab_inputs.IMAGES, *tab_inputs.SKETCH_INPUTS)
    output_names = (tab_inputs.UPLOAD_IMAGE, tab_inputs.UPLOAD_MASK, WIDTH, HEIGHT)

    def __init__(self) -> None:
        self.components: dict[str, Any] = {}
        self._waiting: list[Callable[[], None]] = []

    def add(self, name: str, component: Any) -> None:
        """Take one of the webui's components if the panel needs it."""
        if name in (_PROMPT, *self.input_names, *self.output_names):
            self.components[name] = component
            self._call_if_complete()

    def when_complete(self, act: Callable[[], None]) -> None:
        """Call `act` when all components of the tab exist."""
        self._waiting.append(act)
        self._call_if_complete()

    def read_image(self, values: Mapping[str, Any]) -> tuple[Image.Image, Image.Image | None]:
        """Return the image of the open tab, and what is painted or uploaded there as its mask."""
        return tab_inputs.read_tab(int(values["tab"]), values)

    def send(self, image: Image.Image, mask: Image.Image) -> dict[str, Any]:
        """Return the values that fill the tab Inpaint upload, and width and height in the image's proportions."""
        width, height = tab_inputs.fitting_size(image.size)
        return {tab_inputs.UPLOAD_IMAGE: image, tab_inputs.UPLOAD_MASK: mask, WIDTH: width, HEIGHT: height}

    def script_before_segment(self, names: Sequence[str]) -> str:
        """Return JavaScript that says which tab is open, sends only its images, and starts the progress bar."""
        return f"(...values) => ldznetBeforeSegment({json.dumps(names)}, {json.dumps(tab_inputs.TABS)}, values)"

    def script_after_send(self, names: Sequence[str]) -> str:
        """Return JavaScript that opens the tab Inpaint upload, unless an error was shown."""
        return f"(...values) => ldznetAfterSend({json.dumps(names)}, {tab_inputs.UPLOAD_TAB}, values)"

    def _call_if_complete(self) -> None:
        if all(name in self.components for name in (*self.input_names, *self.output_names)):
            # Emptied first: wired once, even if a component of the same name comes again.
            waiting, self._waiting = self._waiting, []
            for act in waiting:
                act()


def current_page() -> A1111Page:
    """Return the page that is being built."""
    from gradio.context import Context  # type: ignore[import-not-found,import-untyped,unused-ignore]

    root = Context.root_block
    if root is None:  # components are made for their values only, outside of any page
        return A1111Page()
    if not hasattr(root, _ATTRIBUTE):
        setattr(root, _ATTRIBUTE, A1111Page())
    page: A1111Page = getattr(root, _ATTRIBUTE)
    return page


def remember(component: Any, **options: Any) -> None:
    """Take a component that the webui has just made: the work of its callback `on_after_component`."""
    import gradio as gr  # type: ignore[import-not-found,import-untyped,unused-ignore]
    from gradio.context import Context

    if Context.root_block is None:
        return
    page, name = current_page(), options.get("elem_id")
    if isinstance(component, gr.State) and name is None:
        if tab_inputs.SKETCH_IMAGE not in page.components or tab_inputs.SKETCH_BEFORE in page.components:
            return
        # The image before the strokes has no name; it is the first State after the canvas (ui.py:554).
        name = tab_inputs.SKETCH_BEFORE
    if name:
        page.add(name, component)
