"""The img2img tab of a webui, as the panel's page: what the webuis have in common.

The webui reports each of its components (current_page.py). The user decides about their order, so that they may
come before or after the panel. a1111.py and forge.py know which components hold images, and how a run reads them.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any

from PIL import Image

from ldznet.webui.app import App
from ldznet.webui.page.page import PageImage
from ldznet.webui.page.tab_inputs import (
    BATCH_FILES,
    BATCH_FOLDER,
    BATCH_TAB,
    FOLDER_TAB,
    TAB_ITEMS,
    UPLOAD_IMAGE,
    UPLOAD_MASK,
    UPLOAD_TAB,
    fitting_size,
    read_first_file,
)

WIDTH, HEIGHT = "img2img_width", "img2img_height"
_PROMPT = "img2img_prompt"  # the first component of the page


class Img2imgTab(ABC):
    """Components of the img2img tab; those of the throw-away Blocks, which the API makes, never come."""

    generates = True
    # The components with images of each tab, in the order of the tabs; the last, Batch, has files instead.
    tabs: Sequence[Sequence[str]]
    required_names: Sequence[str]  # components that `read_tab` needs
    # Sliders on which the image of a tab depends, by the number of the tab.
    sliders: Mapping[int, Sequence[str]] = MappingProxyType({})
    output_names: Sequence[str] = (UPLOAD_IMAGE, UPLOAD_MASK, WIDTH, HEIGHT)

    def __init__(self) -> None:
        self.components: dict[str, Any] = {}
        self._waiting: list[Callable[[], None]] = []

    @property
    def input_names(self) -> Sequence[str]:
        """Return the components with images, and those of Batch that this webui has."""
        return (*self.required_names, *(name for name in (BATCH_FILES, BATCH_FOLDER) if name in self.components))

    @property
    def picture_names(self) -> Sequence[Sequence[str]]:
        """Return what says which image is shown in each tab; Batch has two of its own, files and a folder."""
        names = self.input_names
        batch = [[name] if name in names else [] for name in (BATCH_FILES, BATCH_FOLDER)]
        images = [[*of_tab, *self.sliders.get(number, ())] for number, of_tab in enumerate(self.tabs)]
        return [*images[:BATCH_TAB], *batch]

    @property
    def large_names(self) -> Sequence[str]:
        """Return the components with images or files."""
        sliders = {name for names in self.sliders.values() for name in names}
        return [name for of_tab in self.picture_names for name in of_tab if name not in sliders]

    @property
    def picture_events(self) -> Sequence[str]:
        """Return the events of images, of sliders that change one, and of the tabs that this webui has."""
        changes = [f"{name}.change" for of_tab in self.picture_names for name in of_tab]
        return [*changes, *(f"{name}.select" for name in TAB_ITEMS if name in self.components)]

    def result_column(self) -> AbstractContextManager[Any]:
        """Return a null context: the results stand among the other components."""
        return nullcontext()

    def read_image(self, values: Mapping[str, Any], app: App) -> PageImage:
        """Return the image of the open tab, and what is painted or uploaded there as its mask."""
        tab = int(values["tab"])
        if tab in (BATCH_TAB, FOLDER_TAB):
            return read_first_file(tab, values, app)
        return PageImage(*self.read_tab(tab, values))

    @abstractmethod
    def read_tab(self, tab: int, values: Mapping[str, Any]) -> tuple[Image.Image, Image.Image | None]:
        """Return the image of a tab other than Batch, and its mask if there is one.

        Raises:
            ImageError: there is no image.
        """

    @abstractmethod
    def name_of(self, component: Any, elem_id: str | None) -> str | None:
        """Return the name of a component that the webui has just made, None if it has none.

        It is called for every component, in order: some can only be told by the ones before them.
        """

    def add(self, name: str, component: Any) -> None:
        """Take one of the webui's components if the panel needs it."""
        names = (_PROMPT, *self.required_names, *self.output_names, BATCH_FILES, BATCH_FOLDER, *TAB_ITEMS)
        if name in names:
            self.components[name] = component
            self._call_if_complete()

    def when_complete(self, act: Callable[[], None]) -> None:
        """Call `act` when all components of the tab exist."""
        self._waiting.append(act)
        self._call_if_complete()

    def send(self, image: Image.Image, mask: Image.Image) -> dict[str, Any]:
        """Return the values that fill the tab Inpaint upload, and width and height in the image's proportions."""
        # 8 pixels; in Forge Neo the setting "Resolution Step", to which its own buttons round as well.
        step = int(getattr(self.components.get(WIDTH), "step", None) or 8)
        width, height = fitting_size(image.size, multiple=max(8, step))
        return {UPLOAD_IMAGE: image, UPLOAD_MASK: mask, WIDTH: width, HEIGHT: height}

    def script_after_send(self, names: Sequence[str]) -> str:
        """Return JavaScript that opens the tab Inpaint upload, unless an error was shown."""
        return f"(...values) => ldznetAfterSend({json.dumps(names)}, {UPLOAD_TAB}, values)"

    def _call_if_complete(self) -> None:
        if all(name in self.components for name in (*self.required_names, *self.output_names)):
            # Emptied first: wired once, even if a component of the same name comes again.
            waiting, self._waiting = self._waiting, []
            for act in waiting:
                act()
