"""Draw what the panel shows of a result: mask, overlay, probability, objects, and masks of other thresholds.

Plain arrays and Pillow, from the cached probabilities: nothing here runs a network, and nothing here knows of
gradio. Sizes of images are Pillow's, (width, height); masks are (H, W). The mask has the image's own size;
everything else is drawn at the size of `result.shown`, which is reduced for a large image (preview_scale.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from PIL import Image

from ldznet.decision import Decision, cut_out
from ldznet.drawing.overlay import color_map, heat_map, object_map, overlay
from ldznet.masks.checks import SoftMask
from ldznet.masks.morphology import bounding_box
from ldznet.masks.objects import Objects
from ldznet.options import MaskOptions
from ldznet.webui.preview_scale import reduce_image, reduce_objects, reduce_options
from ldznet.webui.results import SegmentResult, mask_image

_THUMBNAIL = (384, 384)  # largest sides of the images of other thresholds: three share the panel's width


@dataclass(frozen=True)
class Preview:
    """Images that depend on the options of the mask."""

    mask: Image.Image  # mode L, white is selected
    overlay: Image.Image
    colors: Image.Image | None  # the prompts in colours; None for a single prompt
    objects: Image.Image | None  # the numbered objects; None if there are fewer than two


@dataclass(frozen=True)
class ThresholdChoice:
    """A mask of another threshold: its image, the caption on it, and the threshold."""

    image: Image.Image
    caption: str
    threshold: float


def draw_preview(result: SegmentResult, options: MaskOptions, decision: Decision) -> Preview:
    """Draw the images of a result for the mask that was decided on with these options."""
    segmentation, image = result.shown.segmentation, result.shown.image
    probabilities = list(segmentation.each_net_probability())
    colors = None
    if len(probabilities) > 1:
        labels = segmentation.prompts
        map_of_prompts = color_map(iter(probabilities), labels, image, background=options.threshold)
        colors = Image.fromarray(map_of_prompts.image)
    objects = None
    if len(decision.objects) > 1:
        objects = _draw_objects(result, decision.objects, probabilities, options.objects)
    return Preview(
        mask_image(decision.mask),
        Image.fromarray(overlay(image, reduce_image(decision.mask, segmentation.size))),
        colors,
        objects,
    )


def draw_probability(result: SegmentResult) -> Image.Image:
    """Draw the highest probability of all prompts over the image; no option of the mask changes it."""
    segmentation = result.shown.segmentation
    highest: SoftMask = reduce(np.maximum, segmentation.each_net_probability())
    return Image.fromarray(heat_map(highest, result.shown.image, legend=True))


def draw_whole_overlay(result: SegmentResult, decision: Decision) -> Image.Image:
    """Draw the overlay at the image's own size."""
    return Image.fromarray(overlay(result.image, decision.mask))


def draw_cutout(result: SegmentResult, decision: Decision) -> Image.Image:
    """Draw what the mask selects on a transparent background, RGBA at the image's own size."""
    return Image.fromarray(cut_out(result.image, decision.mask))


def draw_threshold_choices(result: SegmentResult, options: MaskOptions) -> list[ThresholdChoice]:
    """Draw the masks of other thresholds, the tightest first; empty where there is nothing to choose.

    The images show the part in which the masks lie.
    """
    segmentation, options = result.shown.segmentation, reduce_options(options, result.scale)
    candidates = segmentation.candidates(options)
    if len(candidates) < 2:  # nearly the same mask at every threshold
        return []
    each = (dataclasses.replace(options, threshold=one.threshold, objects=()) for one in candidates)
    masks = [segmentation.mask(one) for one in each]
    # The same part for all, so that they can be compared.
    part = _with_margin(bounding_box(np.maximum.reduce(masks)), segmentation.size)
    images = [Image.fromarray(overlay(result.shown.image, mask)).crop(part) for mask in masks]
    for image in images:
        image.thumbnail(_THUMBNAIL)
    return [
        ThresholdChoice(image, f"{one.name} {one.threshold:.2f}", one.threshold)
        for image, one in zip(images, candidates, strict=True)
    ]


def object_at(result: SegmentResult, decision: Decision, x: int, y: int) -> int:
    """Return the number of the object at a pixel of the image of objects; 0 where there is none."""
    height, width = result.shown.segmentation.size
    if not (0 <= x < width and 0 <= y < height):  # on the legend
        return 0
    numbers = decision.objects.numbers
    whole_height, whole_width = numbers.shape
    # The middle of the shown pixel, in pixels of the whole mask.
    return int(numbers[(2 * y + 1) * whole_height // (2 * height), (2 * x + 1) * whole_width // (2 * width)])


def describe_result(result: SegmentResult, options: MaskOptions, decision: Decision) -> list[str]:
    """Return lines for the page: each prompt's share and probability, the objects, the method, and notes."""
    segmentation, count = result.shown.segmentation, len(decision.objects)
    # The share of what the prompts name, also where the mask is everything else.
    plain = dataclasses.replace(reduce_options(options, result.scale), invert=False)
    lines = [
        f"{one['prompt']}: {one['share']:.1%} of the picture, probability up to {one['highest']:.2f}"
        for one in segmentation.prompt_statistics(plain)
    ]
    if count > 1 or options.objects:
        numbers = [str(number) for number in sorted(set(options.objects)) if number <= count]
        lines.append(f"Objects: {count}; selected: {', '.join(numbers) or ('none' if options.objects else 'all')}")
    if result.shown is not result:
        shown_size, full_size = (
            f"{width} x {height}" for height, width in (segmentation.size, result.segmentation.size)
        )
        lines.append(f"The mask is {full_size} pixels; the rest is shown at {shown_size}.")
    return [*lines, f"Method: {result.method_reason}", *result.segmentation.notes]


def _draw_objects(
    result: SegmentResult, objects: Objects, probabilities: Sequence[SoftMask], selection: Sequence[int]
) -> Image.Image:
    """Draw the numbered objects, each with its most probable prompt.

    `probabilities` are those of the prompts at the shown size.
    """
    areas = np.bincount(objects.numbers.ravel(), minlength=1 + len(objects))[1:]
    reduced = reduce_objects(objects, result.shown.segmentation.size)
    numbers = reduced.numbers.ravel()
    sums = [np.bincount(numbers, one.ravel(), minlength=1 + len(objects))[1:] for one in probabilities]
    prompts = [result.segmentation.prompts[index] for index in np.argmax(sums, axis=0)]
    labels = [f"{prompt}, {area / objects.numbers.size:.1%}" for prompt, area in zip(prompts, areas, strict=True)]
    return Image.fromarray(object_map(reduced, labels, result.shown.image, selection=selection))


def _with_margin(box: tuple[int, int, int, int] | None, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Widen a box by an eighth of its longer side, within `size` (height, width); all of `size` without a box."""
    height, width = size
    x0, y0, x1, y1 = box or (0, 0, width, height)
    margin = 1 + max(x1 - x0, y1 - y0) // 8
    return max(0, x0 - margin), max(0, y0 - margin), min(width, x1 + margin), min(height, y1 + margin)
