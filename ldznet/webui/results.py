"""A cached segmentation, and the texts and reports of panel, runs and API about it; panel/preview.py draws it.

Plain arrays and Pillow, from the cached probabilities: nothing here runs a network. Sizes of Pillow's images are
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

from ldznet.decision import Decision, Reason, to_levels
from ldznet.drawing.colors import RgbImage
from ldznet.errors import ImageError
from ldznet.masks.checks import SoftMask
from ldznet.masks.morphology import area, bounding_box
from ldznet.options import MaskOptions
from ldznet.result import Segmentation
from ldznet.webui.preview_scale import SMALL, reduce_image, reduce_segmentation, shown_size, size_within


@dataclass(frozen=True)
class SegmentResult:
    """A segmentation, the image that it is of, and how it was made."""

    key: str
    segmentation: Segmentation
    image: RgbImage
    method_reason: str  # the method, and why it was chosen
    encoding: float = 0.0  # seconds that encoding the image took; 0 if it was encoded before
    digest: str = ""  # of the image

    @cached_property
    def shown(self) -> SegmentResult:
        """Return the result at the size at which the page shows it: itself, unless the image is large."""
        size = shown_size(self.segmentation.size)
        if size == self.segmentation.size:
            return self
        segmentation = reduce_segmentation(self.segmentation, size)
        return dataclasses.replace(self, segmentation=segmentation, image=reduce_image(self.image, size))

    @cached_property
    def small_image(self) -> RgbImage:
        """Return the image at the size at which objects are shown."""
        image = self.shown.image
        return reduce_image(image, size_within(image.shape[:2], SMALL))

    @cached_property
    def highest(self) -> tuple[float, ...]:
        """Return the highest probability of each prompt."""
        return self.segmentation.highest_probabilities()

    @property
    def scale(self) -> float:
        """Return the shown size divided by the image's own."""
        return max(self.shown.segmentation.size) / max(self.segmentation.size)


# --- texts for panel and run -------------------------------------------------------------------------


def explain_reason(result: SegmentResult, options: MaskOptions, reason: Reason) -> str:
    """Return why there is nothing to inpaint, and what to do about it, for people at the page."""
    levels, options = list_highest(result), result.segmentation.settle(options)
    if reason is Reason.FAINT:
        return (
            f'Nothing to inpaint: {levels}, but "Mask mode" and mask blur of the webui leave nothing of the mask. '
            "Make feather and mask blur smaller, or let the mask grow."
        )
    if reason is Reason.OPTIONS:
        return (
            f"Nothing to inpaint: {levels} and would be masked, but the other options leave nothing of it. Look "
            "at how prompts are combined, smallest area, objects, shrink, feather, and the painted mask."
        )
    why = f"{levels}, and the threshold is {options.level:.2f}"
    if reason is Reason.NOTHING_TO_SUBTRACT:
        return (
            f"Nothing to inpaint: {why}, so that nothing can be subtracted from the painted mask. Lower the "
            "threshold, use another prompt, or close the panel to repaint all that is painted."
        )
    return f"Nothing to inpaint: {why}. Lower the threshold, or use another prompt."


def explain_only_given(result: SegmentResult, options: MaskOptions) -> str:
    """Return a note for a mask that is the painted one alone, because the prompts add nothing to it."""
    levels, options = list_highest(result), result.segmentation.settle(options)
    return f"{levels}, and the threshold is {options.level:.2f}: only what is painted is masked."


# What happens to a given mask, by MaskOptions.brush; {} stands for what the front calls it.
_GIVEN = {
    "add": "{} stays, and what is found is added to it.",
    "subtract": "What is found is left out of {}.",
    "intersect": "Only what is found inside {} is masked.",
    "replace": "{} is not used: only what is found is masked.",
}


def explain_given_mask(given_mask: SoftMask | None, options: MaskOptions, name: str = "the painted mask") -> str:
    """Return what happens to a painted or uploaded mask; empty if there is none, or nothing in it."""
    if given_mask is None or not given_mask.any():
        return ""
    text = _GIVEN[options.brush].format(name)
    return text[0].upper() + text[1:]


def explain_threshold(result: SegmentResult, options: MaskOptions) -> str:
    """Return the threshold in use, and where it comes from."""
    segmentation = result.segmentation
    return f"Threshold: {segmentation.settle(options).level:.2f}, {segmentation.threshold_reason(options)}"


def list_highest(result: SegmentResult) -> str:
    """Return the highest probability of each prompt as text."""
    each = zip(result.segmentation.prompts, result.segmentation.highest_probabilities(), strict=True)
    return "; ".join(f'"{prompt}" reaches {highest:.2f}' for prompt, highest in each)


# --- texts for programs ------------------------------------------------------------------------------


def explain_to_program(result: SegmentResult, decision: Decision) -> str | None:
    """Return why the prompts select nothing, and what to do, in terms of a request; None if they do."""
    if decision.reason is None and not decision.only_given:
        return None
    levels = list_highest(result)
    if decision.reason is Reason.FAINT:
        return (
            f"{levels}, but inpainting_mask_invert and mask_blur leave nothing of the mask. Lower feather and "
            "mask_blur, or raise grow."
        )
    if decision.reason is Reason.OPTIONS:
        return (
            f"{levels}, which is enough, but the other options leave nothing of it. Look at combine, "
            "smallest_area, objects, grow, feather, invert, brush and mask."
        )
    why = f"{levels}, and threshold is {decision.options.level:.2f}"
    if decision.only_given:
        return f"{why}: the given mask is used alone. Lower threshold, or use another prompt."
    if decision.reason is Reason.NOTHING_TO_SUBTRACT:
        return f"{why}: nothing can be subtracted from the given mask. Lower threshold, or use another prompt."
    return f"{why}: nothing was found. Lower threshold, or use another prompt."


# --- the numbers of objects --------------------------------------------------------------------------


def numbers_apply(result: SegmentResult, chosen_in: str) -> bool:
    """Return whether numbers of objects that were chosen in the result with the key `chosen_in` apply to this one.

    Numbers with an empty key apply everywhere: they come from an image's parameters, or from a program.
    """
    return chosen_in in ("", result.key)


def explain_dropped_numbers(numbers: Sequence[int]) -> str:
    """Return a note for numbers of objects that do not apply."""
    text = ", ".join(map(str, sorted(set(numbers))))
    return f"Objects {text} were chosen in another picture or with another prompt: all that is found is selected."


# --- for programs ------------------------------------------------------------------------------------


def report(result: SegmentResult, options: MaskOptions, decision: Decision) -> dict[str, Any]:
    """Return method, area and box of each prompt and object, and those of the mask, fit for JSON."""
    height, width = result.segmentation.size
    return {
        "method": result.method_reason,
        "size": [width, height],
        "threshold": decision.options.level,
        "threshold_reason": result.segmentation.threshold_reason(options),
        # Inverted, each prompt would be described by all that it is not.
        "prompts": result.segmentation.prompt_statistics(dataclasses.replace(options, invert=False)),
        "objects": result.segmentation.object_statistics(decision.objects, options.objects),
        "mask": {"area": area(decision.mask), "box": bounding_box(decision.mask)},
    }


# --- images ------------------------------------------------------------------------------------------


def mask_image(mask: SoftMask) -> Image.Image:
    """Return a mask (H, W) in [0, 1] as an image of mode L; white is selected."""
    return Image.fromarray(to_levels(mask))


def flatten_image(image: Image.Image | None, background: str) -> Image.Image:
    """Return RGB as the webui makes it of an init image (images.flatten): `background` shows through, no EXIF."""
    if image is None:
        raise ImageError("There is no picture. Put one into the open tab of img2img.")
    if image.mode == "RGB" and not image.info and type(image) is Image.Image:
        return image  # read and upright already: a copy of an 8192 px square takes 268 MB
    if image.mode == "RGBA":
        try:
            color = ImageColor.getcolor(background, "RGBA")
        except (ValueError, AttributeError):  # the setting is a free text
            color = (255, 255, 255, 255)
        image = Image.alpha_composite(Image.new("RGBA", image.size, color), image)
    return Image.fromarray(np.asarray(image.convert("RGB")))
