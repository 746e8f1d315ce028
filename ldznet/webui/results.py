"""What was found in a picture, and the words that are said of it. What the panel draws of it: panel/preview.py.

Plain arrays and Pillow, from the kept probabilities: nothing here runs a network. Sizes of pictures are Pillow's,
(width, height); masks are (H, W).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image, ImageColor

from ldznet.drawing.colors import RgbImage
from ldznet.errors import ImageError
from ldznet.masks.pipeline import SoftMask, area, bounding_box
from ldznet.options import MaskOptions
from ldznet.result import Segmentation
from ldznet.webui.preview_scale import reduce_picture, reduce_segmentation, shown_size


@dataclass(frozen=True)
class Found:
    """A segmentation, and what its pictures are made of."""

    key: str
    segmentation: Segmentation
    image: RgbImage
    reason: str  # which method ran, and why
    encoding: float = 0.0  # seconds that encoding the image took; 0 where it was encoded before
    digest: str = ""  # of the image

    @cached_property
    def shown(self) -> Found:
        """The same at the size that it is shown at: itself, unless the picture is large."""
        size = shown_size(self.segmentation.size)
        if size == self.segmentation.size:
            return self
        segmentation = reduce_segmentation(self.segmentation, size)
        return dataclasses.replace(self, segmentation=segmentation, image=reduce_picture(self.image, size))

    @property
    def scale(self) -> float:
        """The shown size by the picture's own."""
        return max(self.shown.segmentation.size) / max(self.segmentation.size)


def are_meant(found: Found, chosen_in: str) -> bool:
    """Whether numbers of objects that were chosen in what has this key mean something here.

    Numbers without one do everywhere: they come with a picture's parameters, or from a program.
    """
    return chosen_in in ("", found.key)


def let_go(numbers: Sequence[int]) -> str:
    """What to tell where they do not."""
    chosen = ", ".join(map(str, sorted(set(numbers))))
    return f"Objects {chosen} were chosen in another picture or with other words: all that is found is selected."


def is_something(found: Found, options: MaskOptions, brush: SoftMask | None = None) -> bool:
    """Whether there is anything to inpaint: the words select something, or add to a mask that is painted.

    A painted mask of which they take something away does not do: who names what to keep does not want it repainted
    because it is not found.
    """
    return _is_added_to(options, brush) or _select(found, options)


def only_painted(found: Found, options: MaskOptions, brush: SoftMask | None) -> str:
    """What to tell where the words add nothing to a painted mask; empty where they do, or where there is none."""
    if not _is_added_to(options, brush) or _select(found, options):
        return ""
    return f"{_heights(found)[0]}, and the threshold is {options.threshold:.2f}: only what is painted is masked."


def _is_added_to(options: MaskOptions, brush: SoftMask | None) -> bool:
    """Inverted, words that are not found would add everything."""
    return options.brush == "add" and not options.invert and brush is not None and bool(brush.any())


def _select(found: Found, options: MaskOptions) -> bool:
    """Whether the words select anything; inverted, nothing would be everything."""
    # What grows is there before; and growing takes a while with a large picture.
    plain = dataclasses.replace(options, invert=False, feather=0.0, grow=min(0, options.grow))
    return bool(found.segmentation.mask(plain).any())


def _heights(found: Found) -> tuple[str, float]:
    """How probable each prompt is at most, in words, and the most probable one."""
    highest = [float(wanted.max()) for wanted in found.segmentation.each_net_probability()]
    each = zip(found.segmentation.prompts, highest, strict=True)
    return "; ".join(f'"{prompt}" reaches {level:.2f}' for prompt, level in each), max(highest)


def nothing(found: Found, options: MaskOptions, brush: SoftMask | None = None) -> str:
    """What to tell where there is nothing to inpaint."""
    seen, highest = _heights(found)
    if highest > 0 and highest >= np.float32(options.threshold):
        return (
            f"Nothing to inpaint: {seen} and would be masked, but the other options leave nothing of it. Look at "
            "how prompts are combined, smallest area, objects, shrink, feather, mask blur, and the painted mask."
        )
    why = f"{seen}, and the threshold is {options.threshold:.2f}"
    if options.brush == "subtract" and brush is not None and brush.any():
        return (
            f"Nothing to inpaint: {why}, so that nothing can be taken away from the painted mask. Lower the "
            "threshold, use other words, or close the panel to repaint all that is painted."
        )
    return f"Nothing to inpaint: {why}. Lower the threshold, or use other words."


def answer(found: Found, options: MaskOptions, mask: SoftMask | None = None) -> dict[str, Any]:
    """For programs, fit for JSON: by which method, of each prompt and object area and box, and the mask's."""
    height, width = found.segmentation.size
    told: dict[str, Any] = {
        "method": found.reason,
        "size": [width, height],
        "prompts": found.segmentation.prompt_statistics(dataclasses.replace(options, invert=False)),
        "objects": found.segmentation.object_statistics(found.segmentation.objects(options), options.objects),
    }
    if mask is not None:
        told["mask"] = {"area": area(mask), "box": bounding_box(mask)}
    return told


def to_picture(mask: SoftMask) -> Image.Image:
    """(H, W) in [0, 1] -> a picture of mode L; white is selected."""
    return Image.fromarray(np.round(mask * 255).astype(np.uint8))


def flattened(image: Image.Image | None) -> Image.Image:
    """RGB as the webui makes it of an init image (images.flatten): no other background, no turning by EXIF."""
    if image is None:
        raise ImageError("There is no picture. Put one into the open tab of img2img.")
    from modules import shared  # type: ignore[import-not-found]

    if image.mode == "RGBA":
        try:
            color = ImageColor.getcolor(shared.opts.img2img_background_color, "RGBA")
        except (ValueError, AttributeError):
            color = (255, 255, 255, 255)
        image = Image.alpha_composite(Image.new("RGBA", image.size, color), image)
    return Image.fromarray(np.asarray(image.convert("RGB")))


def brush_of(mask: Image.Image, size: tuple[int, int]) -> SoftMask:
    """A painted or uploaded mask as the webui reads it, at the picture's size (width, height) -> (H, W)."""
    if mask.mode == "RGBA" and mask.getextrema()[-1] != (255, 255):
        mask = mask.getchannel("A").point([255 * (level > 128) for level in range(256)])
    else:
        mask = mask.convert("L")
    if mask.size != size:
        mask = mask.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(mask, np.float32) / np.float32(255)
