"""The img2img tab of a webui, as the panel's page: what the webuis have in common.

The webui reports each of its components (current_page.py). The user decides about their order, so that they may
come before or after the panel. a1111.py and forge.py know which components hold images, and how a run reads them.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image

from ldznet.webui.page.tab_inputs import UPLOAD_IMAGE, UPLOAD_MASK, UPLOAD_TAB, fitting_size

WIDTH, HEIGHT = "img2img_width", "img2img_height"
_PROMPT = "img2img_prompt"  # the first component of the page


class Img2imgTab(ABC):
    """Components of the img2img tab; those of the throw-away Blocks, which the API makes, never come."""

    generates = True
    # The components with images of each tab, in the order of the tabs; the last, Batch, has files instead.
    tabs: Sequence[Sequence[str]]
    input_names: Sequence[str]
    output_names: Sequence[str] = (UPLOAD_IMAGE, UPLOAD_MASK, WIDTH, HEIGHT)

    def __init__(self) -> None:
        self.components: dict[str, Any] = {}
        self._waiting: list[Callable[[], None]] = []

    @abstractmethod
    def read_image(self, values: Mapping[str, Any]) -> tuple[Image.Image, Image.Image | None]:
        """Return the image of the open tab, and what is painted or uploaded there as its mask."""

    @abstractmethod
    def name_of(self, component: Any, elem_id: str | None) -> str | None:
        """Return the name of a component that the webui has just made, None if it has none.

        It is called for every component, in order: some can only be told by the ones before them.
        """

    def add(self, name: str, component: Any) -> None:
        """Take one of the webui's components if the panel needs it."""
        if name in (_PROMPT, *self.input_names, *self.output_names):
            self.components[name] = component
            self._call_if_complete()

    def when_complete(self, act: Callable[[], None]) -> None:
        """Call `act` when all components of the tab exist."""
        self._waiting.append(act)
        self._call_if_complete()

    def send(self, image: Image.Image, mask: Image.Image) -> dict[str, Any]:
        """Return the values that fill the tab Inpaint upload, and width and height in the image's proportions."""
        width, height = fitting_size(image.size)
        return {UPLOAD_IMAGE: image, UPLOAD_MASK: mask, WIDTH: width, HEIGHT: height}

    def script_before_segment(self, names: Sequence[str]) -> str:
        """Return JavaScript that says which tab is open, sends only its images, and starts the progress bar."""
        return f"(...values) => ldznetBeforeSegment({json.dumps(names)}, {json.dumps(self.tabs)}, values)"

    def script_after_send(self, names: Sequence[str]) -> str:
        """Return JavaScript that opens the tab Inpaint upload, unless an error was shown."""
        return f"(...values) => ldznetAfterSend({json.dumps(names)}, {UPLOAD_TAB}, values)"

    def _call_if_complete(self) -> None:
        if all(name in self.components for name in (*self.input_names, *self.output_names)):
            # Emptied first: wired once, even if a component of the same name comes again.
            waiting, self._waiting = self._waiting, []
            for act in waiting:
                act()
