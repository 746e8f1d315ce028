"""The page that the panel stands on: each webui, and `serve`, has an adapter of this shape.

The panel's own components are the same everywhere. An adapter knows the components around them: where images and
painted masks come from, and where a mask is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from PIL import Image


class Page(Protocol):
    """The components around the panel, and how images and masks are exchanged with them."""

    generates: bool  # whether the page repaints images; if not, the controls of inpainting are hidden
    input_names: Sequence[str]  # the components whose values `read_image` needs
    output_names: Sequence[str]  # the components that `send` fills

    @property
    def components(self) -> Mapping[str, Any]:
        """Return the page's own components by name, as far as they are built."""

    def when_complete(self, act: Callable[[], None]) -> None:
        """Call `act` when all components exist: at once, or when the last one is made; never if one is missing."""

    def read_image(self, values: Mapping[str, Any]) -> tuple[Image.Image, Image.Image | None]:
        """Return the image to segment, and the painted or uploaded mask if there is one.

        `values` has those of `input_names`, and `tab`, the number of the open tab.

        Raises:
            ImageError: there is no image.
        """

    def send(self, image: Image.Image, mask: Image.Image) -> dict[str, Any]:
        """Return values for `output_names` that bring an image and its mask to where the page inpaints."""

    def script_before_segment(self, names: Sequence[str]) -> str | None:
        """Return JavaScript that replaces the values of inputs with these names before they are sent, if any."""

    def script_after_send(self, names: Sequence[str]) -> str | None:
        """Return JavaScript that shows where a mask was sent; it gets `status`."""
