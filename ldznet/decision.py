"""Decide what is to be inpainted: one rule for the panel, runs, the API, the command line and `serve`.

A front gives a result, the options of the mask and the painted or uploaded mask, if there is one. It gets the
mask, or a reason code and an empty mask. Each front says the reason in its own words.

    mask, given_mask  (H, W) float32 in [0, 1], the image's size; 1 is selected

Nothing here runs a network, and nothing here knows of the webui.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ldznet.masks.checks import Mask, SoftMask
from ldznet.masks.morphology import grow
from ldznet.masks.objects import Objects, find_objects
from ldznet.masks.pipeline import finish_mask
from ldznet.options import MaskOptions
from ldznet.result import Segmentation

# A mask as 8-bit levels, (H, W) uint8, before and after the webui has blurred it.
Blur = Callable[[NDArray[np.uint8]], NDArray[Any]]


class Reason(Enum):
    """Why there is nothing to inpaint."""

    NOT_FOUND = "not found"  # no prompt reaches the threshold
    NOTHING_TO_SUBTRACT = "nothing to subtract"  # not found either, and the given mask was to lose it
    OPTIONS = "options"  # a prompt reaches the threshold, but the other options leave nothing of it
    FAINT = "too faint"  # the mask has something in it, but the webui's blur leaves nothing


@dataclass(frozen=True, eq=False)
class Decision:
    """The mask to inpaint, or the reason why there is none."""

    mask: SoftMask  # (H, W); all 0 if there is a reason
    reason: Reason | None  # None if there is something to inpaint
    only_given: bool  # the prompts select nothing, so that the mask is the given one alone
    before_objects: Mask  # (H, W), the mask in which objects are numbered
    options: MaskOptions  # with the threshold that was used

    @cached_property
    def objects(self) -> Objects:
        """Return the objects that `options.objects` chooses from."""
        return find_objects(self.before_objects)

    def use_objects(self, objects: Objects) -> None:
        """Use objects that were found earlier in the same mask, so that they are not looked for again."""
        self.__dict__["objects"] = objects  # where `cached_property` looks


def decide(
    result: Segmentation,
    options: MaskOptions,
    given_mask: SoftMask | None = None,
    *,
    blur: Blur | None = None,
) -> Decision:
    """Make the mask, or say why there is nothing to inpaint.

    Prompts that select nothing never select everything, also inverted. They leave nothing to inpaint, unless
    they are added to a given mask that has something in it: then that is the mask. A given mask from which
    they should be subtracted is not inpainted as a whole: the prompts name what to keep, which would otherwise be
    repainted only because it was not found. `blur` is what the webui does to the mask before it repaints.
    """
    options = result.settle(options)
    before_objects = result.mask_before_objects(options)
    objects = find_objects(before_objects) if options.objects else None
    selection = before_objects if objects is None else objects.select(options.objects)
    grown = grow(selection, options.grow)
    has_given = given_mask is not None and bool(given_mask.any())
    only_given, reason, mask = False, None, None
    if grown.any():
        mask = finish_mask(grown, options, given_mask=given_mask)
        levels = to_levels(mask)
        if not levels.any():
            reason = Reason.OPTIONS
        elif blur is not None and not blur(levels).any():
            reason = Reason.FAINT
    elif options.brush == "add" and not options.invert and has_given:
        mask, only_given = finish_mask(grown, options, given_mask=given_mask), True
        if blur is not None and not blur(to_levels(mask)).any():
            reason = Reason.FAINT
    elif _is_found(result, options):
        reason = Reason.OPTIONS
    else:
        reason = Reason.NOTHING_TO_SUBTRACT if options.brush == "subtract" and has_given else Reason.NOT_FOUND
    if reason is not None or mask is None:
        mask = np.zeros(result.size, np.float32)
    decision = Decision(mask, reason, only_given and reason is None, before_objects, options)
    if objects is not None:
        decision.use_objects(objects)
    return decision


def to_levels(mask: SoftMask) -> NDArray[np.uint8]:
    """Round a mask (H, W) in [0, 1] to 8-bit levels, as it is written to a file: white is selected."""
    # In one pass and without copies, which take 500 MB on an 8192 px square; the values are those of np.round.
    levels: NDArray[np.uint8] = cv2.convertScaleAbs(mask, alpha=255)
    return levels


def cut_out(image: NDArray[np.uint8], mask: SoftMask) -> NDArray[np.uint8]:
    """Return what a mask (H, W) selects of an image (H, W, 3) on a transparent background: RGBA, (H, W, 4).

    The hidden colours stay, so that a program can soften the edge or move it.
    """
    return np.dstack([image, to_levels(mask)])


def _is_found(result: Segmentation, options: MaskOptions) -> bool:
    """Return whether a prompt reaches the threshold anywhere."""
    highest = max(result.highest_probabilities(), default=0.0)
    return bool(0 < highest >= np.float32(options.level))
