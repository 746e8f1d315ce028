"""Draw what the panel shows of a result: mask, overlay, probability, objects, and masks of other thresholds.

Plain arrays, from the cached probabilities: nothing here runs a network, and nothing here knows of gradio or HTML.
The mask has the image's own size; everything else is drawn at the size of `result.shown`, which is reduced for a
large image (preview_scale.py), and objects and other thresholds, which are shown small, at half of that.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from ldznet.decision import Decision, cut_out, to_levels
from ldznet.drawing.colors import RgbImage
from ldznet.drawing.overlay import color_map, heat_map, object_map, overlay
from ldznet.masks.checks import SoftMask
from ldznet.masks.morphology import bounding_box
from ldznet.options import MaskOptions
from ldznet.webui.inpaint_preview import HALF
from ldznet.webui.preview_scale import (
    SMALL,
    reduce_image,
    reduce_objects,
    reduce_options,
    reduce_segmentation,
    size_within,
)
from ldznet.webui.results import SegmentResult

OPACITY = 0.6  # of the colours of prompts, objects and probabilities over the image
_THUMBNAIL = 320  # longest side of the images of other thresholds: three share half of the panel's width


@dataclass(frozen=True)
class Preview:
    """Images that depend on the options of the mask."""

    mask: NDArray[np.uint8]  # (H, W), white is selected
    overlay: RgbImage
    colors: RgbImage | None  # the prompts in colours; None for a single prompt, or without objects
    objects: RgbImage | None  # the numbered objects, if they were asked for
    object_labels: tuple[str, ...]  # of each object: its most probable prompt, and its share of the image


@dataclass(frozen=True)
class ThresholdChoice:
    """A mask of another threshold: its image, the caption below it, and the threshold."""

    image: RgbImage
    caption: str
    threshold: float


def draw_preview(
    result: SegmentResult, options: MaskOptions, decision: Decision, *, with_objects: bool = True
) -> Preview:
    """Draw the images of a result for the mask that was decided on with these options.

    Without objects, prompts are not drawn either: neither changes where only what follows the objects does.
    """
    segmentation, image = result.shown.segmentation, result.shown.image
    colors = None
    if len(segmentation) > 1 and with_objects:
        maps, labels = segmentation.each_net_probability(), segmentation.prompts
        colors = color_map(maps, labels, image, background=options.level, opacity=OPACITY, legend=False).image
    return Preview(
        to_levels(decision.mask),
        overlay(image, reduce_image(decision.mask, segmentation.size)),
        colors,
        *(_draw_objects(result, options, decision) if with_objects else (None, ())),
    )


def draw_probability(result: SegmentResult) -> RgbImage:
    """Draw the highest probability of all prompts over the image; no option of the mask changes it."""
    segmentation = result.shown.segmentation
    highest: SoftMask = reduce(np.maximum, segmentation.each_net_probability())
    return heat_map(highest, result.shown.image, opacity=OPACITY)


def draw_whole_overlay(result: SegmentResult, decision: Decision) -> RgbImage:
    """Draw the overlay at the image's own size."""
    return overlay(result.image, decision.mask)


def draw_cutout(result: SegmentResult, decision: Decision) -> NDArray[np.uint8]:
    """Draw what the mask selects on a transparent background, RGBA at the image's own size."""
    return cut_out(result.image, decision.mask)


def draw_threshold_choices(result: SegmentResult, options: MaskOptions) -> list[ThresholdChoice]:
    """Draw the masks of other thresholds, the tightest first; empty where there is nothing to choose.

    The images show the part in which the masks lie, with hard edges.
    """
    segmentation, image = result.shown.segmentation, result.shown.image
    small = reduce_segmentation(segmentation, size_within(segmentation.size, SMALL))
    candidates = small.candidates(options)
    if len(candidates) < 2:  # nearly the same mask at every threshold
        return []
    options = dataclasses.replace(reduce_options(options, result.scale), objects=(), feather=0.0)
    masks = [segmentation.mask(dataclasses.replace(options, threshold=one.threshold)) for one in candidates]
    # The same part for all, so that they can be compared.
    x0, y0, x1, y1 = _with_margin(bounding_box(np.maximum.reduce(masks)), segmentation.size)
    size = size_within((y1 - y0, x1 - x0), _THUMBNAIL)
    part = reduce_image(image[y0:y1, x0:x1], size)
    images = [overlay(part, reduce_image(mask[y0:y1, x0:x1], size)) for mask in masks]
    return [
        ThresholdChoice(image, f"{one.name} {one.threshold:.2f}", one.threshold)
        for image, one in zip(images, candidates, strict=True)
    ]


def object_at(decision: Decision, across: float, down: float) -> int:
    """Return the number of the object at a place, given as parts of the image's width and height; 0 for none."""
    numbers = decision.objects.numbers
    height, width = numbers.shape
    if not (0 <= across < 1 and 0 <= down < 1):
        return 0
    return int(numbers[int(down * height), int(across * width)])


def masked_share(mask: NDArray[np.uint8]) -> float:
    """Return the part of the image that a mask selects: from one half on, where the webui repaints."""
    return np.count_nonzero(mask >= HALF) / mask.size


def describe_result(result: SegmentResult, options: MaskOptions, decision: Decision) -> list[str]:
    """Return lines for the page: each prompt's share and probability, the objects, the method, and notes.

    They are as many for every mask of a result, so that nothing moves when a slider does.
    """
    segmentation, count = result.shown.segmentation, len(decision.objects)
    # The share of what the prompts name, also where the mask is everything else, before it grows.
    if len(segmentation) == 1:
        shares = [np.count_nonzero(decision.before_objects) / decision.before_objects.size]
    else:
        plain = dataclasses.replace(reduce_options(options, result.scale), invert=False, grow=0, feather=0.0)
        shares = [one["share"] for one in segmentation.prompt_statistics(plain)]
    lines = [
        f"{prompt}: {share:.1%} of the picture, probability up to {highest:.2f}"
        for prompt, share, highest in zip(segmentation.prompts, shares, result.shown.highest, strict=True)
    ]
    numbers = [str(number) for number in sorted(set(options.objects)) if number <= count]
    lines.append(f"Objects: {count}; selected: {', '.join(numbers) or ('none' if options.objects else 'all')}")
    if result.shown is not result:
        shown_size, full_size = (
            f"{width} x {height}" for height, width in (segmentation.size, result.segmentation.size)
        )
        lines.append(f"The mask is {full_size} pixels; the rest is shown at {shown_size}.")
    return [*lines, f"Method: {result.method_reason}", *result.segmentation.notes]


def _draw_objects(
    result: SegmentResult, options: MaskOptions, decision: Decision
) -> tuple[RgbImage, tuple[str, ...]]:
    """Draw the numbered objects; return their labels, with the most probable prompt of each, too."""
    objects, segmentation = decision.objects, result.shown.segmentation
    image = result.small_image
    size = image.shape[:2]
    reduced, count = reduce_objects(objects, size), 1 + len(objects)
    prompts = [segmentation.prompts[0]] * len(objects)
    if len(segmentation) > 1:
        numbers, maps = reduced.numbers.ravel(), reduce_segmentation(segmentation, size).each_net_probability()
        sums = [np.bincount(numbers, one.ravel(), minlength=count)[1:] for one in maps]
        prompts = [segmentation.prompts[index] for index in np.argmax(sums, axis=0)]
    areas = np.bincount(objects.numbers.ravel(), minlength=count)[1:]
    labels = tuple(
        f"{prompt}, {area / objects.numbers.size:.1%}" for prompt, area in zip(prompts, areas, strict=True)
    )
    drawn = object_map(reduced, labels, image, selection=options.objects, opacity=OPACITY, legend=False)
    return drawn, labels


def _with_margin(box: tuple[int, int, int, int] | None, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Widen a box by an eighth of its longer side, within `size` (height, width); all of `size` without a box."""
    height, width = size
    x0, y0, x1, y1 = box or (0, 0, width, height)
    margin = 1 + max(x1 - x0, y1 - y0) // 8
    return max(0, x0 - margin), max(0, y0 - margin), min(width, x1 + margin), min(height, y1 + margin)
