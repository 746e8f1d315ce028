"""The page that the panel stands on: each webui, and `serve`, has an adapter of this shape.

The panel's own components are the same everywhere. An adapter knows the components around them: where images and
painted masks come from, and where a mask is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from ldznet.webui.app import App


@dataclass(frozen=True)
class PageImage:
    """The image to segment, the painted or uploaded mask if there is one, and a note for the user."""

    image: Image.Image
    mask: Image.Image | None = None
    note: str = ""


class Page(Protocol):
    """The components around the panel, and how images and masks are exchanged with them."""

    generates: bool  # whether the page repaints images; if not, the controls of inpainting are hidden
    output_names: Sequence[str]  # the components that `send` fills

    @property
    def input_names(self) -> Sequence[str]:
        """Return the components whose values `read_image` needs."""

    @property
    def picture_names(self) -> Sequence[Sequence[str]]:
        """Return the inputs that say which image `read_image` returns, for each tab; the browser compares them."""

    @property
    def large_names(self) -> Sequence[str]:
        """Return those of them that are large, so that they are sent only if their tab is open."""

    @property
    def components(self) -> Mapping[str, Any]:
        """Return the page's own components by name, as far as they are built."""

    @property
    def picture_events(self) -> Sequence[str]:
        """Return the events that may bring another image, such as "img2img_image.change"."""

    def when_complete(self, act: Callable[[], None]) -> None:
        """Call `act` when all components exist: at once, or when the last one is made; never if one is missing."""

    def result_column(self) -> AbstractContextManager[Any]:
        """Return the container for the results; a null context leaves them among the other components."""

    def read_image(self, values: Mapping[str, Any], app: App) -> PageImage:
        """Return the image to segment, and its mask.

        `values` has those of `input_names`, and `tab`, the number of the open tab.

        Raises:
            ImageError: there is no image.
        """

    def send(self, image: Image.Image, mask: Image.Image) -> dict[str, Any]:
        """Return values for `output_names` that bring an image and its mask to where the page inpaints."""

    def script_after_send(self, names: Sequence[str]) -> str | None:
        """Return JavaScript that shows where a mask was sent; it gets `status`."""
