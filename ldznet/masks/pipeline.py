"""From probabilities to a mask: `make_mask` runs all steps, in the order of the fields of MaskOptions.

Nothing here knows of prompts, models, files or the UI. Types, shapes and the parameter `maps` are those of
checks.py; the steps on one mask are in morphology.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldznet.errors import ShapeError
from ldznet.masks.checks import (
    Maps,
    Mask,
    SoftMask,
    as_mask,
    as_probability,
    as_soft_mask,
    each_map,
    each_probability,
    require_one_size,
)
from ldznet.masks.morphology import drop_small, feather, fill_holes, grow, invert, largest_component
from ldznet.masks.objects import find_objects
from ldznet.options import MaskOptions, require_options


def make_mask(
    probabilities: Maps,
    options: MaskOptions,
    *,
    negatives: Maps | None = None,
    given_mask: NDArray[Any] | None = None,
) -> SoftMask:
    """Run all steps on the probabilities of all prompts -> soft mask (H, W).

    `negatives` are the maps of the negative prompts; they are subtracted before the threshold. `given_mask`
    (H, W), bool or soft, is painted or uploaded; without one, `options.brush` has no effect. An empty given
    mask counts as given: intersected with it, nothing is left.
    """
    mask = mask_before_objects(probabilities, options, negatives=negatives)
    if options.objects:
        mask = find_objects(mask).select(options.objects)
    return finish_mask(grow(mask, options.grow), options, given_mask=given_mask)


def mask_before_objects(probabilities: Maps, options: MaskOptions, *, negatives: Maps | None = None) -> Mask:
    """Run the steps of `make_mask` before `options.objects` -> the mask (H, W) in which objects are numbered."""
    require_options(options, MaskOptions)
    # Joined once, not once per prompt.
    negative = _strongest(negatives)
    # Generators from here to the fold: one map is in memory at a time.
    net = (_subtract(probability, negative) for probability in each_probability(probabilities))
    mask = _COMBINE[options.combine](threshold(probability, options.level) for probability in net)
    mask = drop_small(mask, options.smallest_area)
    if options.largest_only:
        mask = largest_component(mask)
    return fill_holes(mask) if options.fill_holes else mask


def finish_mask(mask: NDArray[Any], options: MaskOptions, *, given_mask: NDArray[Any] | None = None) -> SoftMask:
    """Run the steps of `make_mask` after `options.grow` on a mask (H, W) that has grown already."""
    # Before the given mask is joined: "everything but the prompt, without what I painted".
    if options.invert:
        mask = invert(mask)
    if given_mask is None:
        return feather(mask, options.feather)
    return feather(combine_with_given(mask, given_mask, options.brush), options.feather)


def subtract_negatives(probability: NDArray[Any], negatives: Maps) -> SoftMask:
    """Return p * (1 - n), where n (H, W) is the most probable of the negatives at each pixel.

    This is the probability of the prompt and none of the negatives, if they are independent. It stays in [0, 1],
    never rises, is p where n is 0, is 0 where n is 1, and cannot pass 0.5 where n is more likely than not.
    """
    return _subtract(as_probability(probability), _strongest(negatives)).copy()


def threshold(probability: NDArray[Any], level: float) -> Mask:
    """Return where probability (..., H, W) reaches `level`: bool, of the same shape.

    A probability of 0 never belongs, not even at level 0: what is not in the image gives an empty mask.
    """
    # Raises an OptionError for a level outside its range.
    MaskOptions(threshold=level)
    # The level is rounded to float32 as the map is, else 0.3 would not reach 0.3.
    checked = as_probability(probability, dims=(2, 3))
    return (checked >= np.float32(level)) & (checked > 0)


def _subtract(probability: SoftMask, negative: SoftMask | None) -> SoftMask:
    if negative is None:
        return probability
    require_one_size("the negative probability", negative, "the probability", probability)
    return probability * (1 - negative)


def _strongest(maps: Maps | None) -> SoftMask | None:
    """Return the largest probability at each pixel; None without maps."""
    strongest = None
    # A copy first, since the maximum is written into it and the caller keeps the map.
    for probability in each_probability(() if maps is None else maps, "negative probability"):
        if strongest is None:
            strongest = probability.copy()
        else:
            np.maximum(strongest, probability, out=strongest)
    return strongest


def union(maps: Maps) -> Mask:
    """Return the pixels of any of the masks."""
    return _fold(maps, np.logical_or)


def intersection(maps: Maps) -> Mask:
    """Return the pixels that all of the masks share."""
    return _fold(maps, np.logical_and)


def difference(maps: Maps) -> Mask:
    """Return the pixels of the first mask that are in none of the others."""
    return _fold(maps, np.greater)  # True > False: in the first and not in the other


_COMBINE = {"union": union, "intersection": intersection, "difference": difference}


def _fold(maps: Maps, join: np.ufunc) -> Mask:
    result = None
    for array in each_map(maps, "mask"):
        mask = as_mask(array)
        if result is None:
            result = mask.copy()
        else:
            # In place: a new mask for each of a hundred prompts would double the memory.
            join(result, mask, out=result)
    if result is None:
        raise ShapeError("There is no map to make a mask of, because no prompt was given: give at least one.")
    return result


def combine_with_given(mask: NDArray[Any], given_mask: NDArray[Any], mode: str) -> SoftMask:
    """Join a mask with a painted or uploaded one (both bool or soft) by MaskOptions.brush.

    replace: the mask alone; add: both together; subtract: the given mask without the mask; intersect: what both
    share. Soft values join as fuzzy sets do: the larger for "or", the smaller for "and", 1 - x for "not".
    """
    # Raises an OptionError for an unknown mode.
    MaskOptions(brush=mode)
    soft, painted = as_soft_mask(mask), as_soft_mask(given_mask, "given mask")
    require_one_size("the given mask", painted, "the mask", soft)
    # Fuzzy sets: these are exact for hard masks, and keep soft edges soft.
    if mode == "add":
        return np.maximum(painted, soft)
    if mode == "subtract":
        return np.minimum(painted, 1 - soft)
    if mode == "intersect":
        return np.minimum(painted, soft)
    return soft.copy()
