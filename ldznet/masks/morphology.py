"""Steps on one mask: connected parts, holes, growing, soft edges; and its area and box.

Plain numpy and OpenCV: nothing here knows of prompts, models, files or the UI. No function changes its argument,
and none returns it: results are new arrays.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ldznet.masks.checks import Mask, SoftMask, as_mask, as_soft_mask
from ldznet.options import MaskOptions

_LARGEST_DISC = 16  # pixels; up to here a disc is laid on each pixel in less time than distances are measured


def drop_small(mask: NDArray[Any], smallest_area: int) -> Mask:
    """Drop connected parts (8 neighbours) with fewer than `smallest_area` pixels."""
    MaskOptions(smallest_area=smallest_area)
    mask = as_mask(mask)
    # Every part has at least one pixel.
    if smallest_area <= 1:
        return mask.copy()
    labels, areas = _parts(mask, neighbours=8)
    return (areas >= smallest_area)[labels]


def largest_component(mask: NDArray[Any]) -> Mask:
    """Keep the connected part (8 neighbours) with most pixels; of equals, the first in reading order."""
    mask = as_mask(mask)
    labels, areas = _parts(mask, neighbours=8)
    # Of equally large parts, all are candidates; the first pixel of any decides.
    candidates = ((areas == areas.max()) & (areas > 0))[labels]
    return candidates & (labels == labels.flat[candidates.argmax()])


def fill_holes(mask: NDArray[Any]) -> Mask:
    """Fill background that the mask encloses: parts (4 neighbours) that do not reach the border of the image."""
    mask = as_mask(mask)
    labels, areas = _parts(~mask, neighbours=4)
    # Holes have 4 neighbours where parts have 8: a diagonal line of the mask closes a hole.
    outside = np.zeros(len(areas), bool)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        outside[edge] = True
    outside[0] = False  # label 0 is the mask itself
    return ~outside[labels]


def _parts(mask: Mask, neighbours: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return labels (H, W), 0 where mask is False, and areas in pixels by label, 0 for label 0."""
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=neighbours)
    areas = statistics[:, cv2.CC_STAT_AREA].astype(np.int64)
    # Label 0 is everything outside, which never is a part.
    areas[0] = 0
    return labels, areas


def grow(mask: NDArray[Any], pixels: int) -> Mask:
    """Add every pixel whose centre lies within `pixels` of the mask's; negative shrinks by as much.

    Distances are Euclidean and exact, so a point grows to a disc. Outside of the image is nothing: a mask
    that touches the border neither loses nor gains there.
    """
    MaskOptions(grow=pixels)
    mask = as_mask(mask)
    # Shrinking a mask is growing its background.
    if pixels < 0:
        return ~grow(~mask, -pixels)
    # Without a selected pixel, OpenCV gives distances that mean nothing.
    if pixels == 0 or not mask.any():
        return mask.copy()
    if pixels <= _LARGEST_DISC:
        rows, columns = np.ogrid[-pixels : pixels + 1, -pixels : pixels + 1]
        disc = (rows**2 + columns**2 <= pixels**2).astype(np.uint8)
        return cv2.dilate(mask.view(np.uint8), disc).view(np.bool_)
    distance = cv2.distanceTransform((~mask).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    grown: Mask = distance <= pixels
    return grown


def invert(mask: NDArray[Any]) -> Mask:
    """Return the mask of everything else."""
    return ~as_mask(mask)


def feather(mask: NDArray[Any], sigma: float) -> SoftMask:
    """Blur the edge of a mask, bool or soft, with a Gaussian of `sigma` pixels.

    Beyond the border the outermost pixels continue, so a mask that touches the border stays solid.
    A wide blur runs on a reduced copy: fast at any size, and no further from the full one than half
    a level of 8 bits.
    """
    MaskOptions(feather=sigma)
    soft = as_soft_mask(mask)
    if sigma == 0:
        return soft.copy()
    # Cells of a twelfth of sigma: the blur hides them, and the cost no longer grows with sigma.
    step = max(1, int(sigma // 12))
    blurred = _blur(soft, sigma) if step == 1 else _blur_reduced(soft, sigma, step)
    # Six decimals: the float noise of a kernel's sum must not make a solid mask 0.9999997.
    return np.clip(np.round(blurred, 6), 0, 1)


def _blur(soft: SoftMask, sigma: float) -> SoftMask:
    blurred: SoftMask = cv2.GaussianBlur(soft, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    return blurred


def _blur_reduced(soft: SoftMask, sigma: float, step: int) -> SoftMask:
    """Blur the means of cells of step x step pixels, and interpolate linearly back to pixels."""
    height, width = soft.shape
    # A cell of margin on every side, and whole cells: the interpolation meets no border within the image.
    margin = (step, step + -height % step, step, step + -width % step)
    padded = cv2.copyMakeBorder(soft, *margin, cv2.BORDER_REPLICATE)
    in_cells = (padded.shape[1] // step, padded.shape[0] // step)
    cells = cv2.resize(padded, in_cells, interpolation=cv2.INTER_AREA)
    back = cv2.resize(_blur(cells, sigma / step), padded.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return back[step : step + height, step : step + width]


def area(mask: NDArray[Any]) -> int:
    """Return the number of pixels that are selected at all; of a soft mask, all above 0."""
    return int(np.count_nonzero(_bool_or_soft(mask)))


def bounding_box(mask: NDArray[Any]) -> tuple[int, int, int, int] | None:
    """Return the box (x0, y0, x1, y1) around all selected pixels, x1 and y1 just outside; None without any."""
    checked = _bool_or_soft(mask)
    columns, rows = np.flatnonzero(checked.any(axis=0)), np.flatnonzero(checked.any(axis=1))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _bool_or_soft(mask: NDArray[Any]) -> Mask | SoftMask:
    """Return a checked mask; a bool one stays bool, since four bytes a pixel are only needed for soft edges."""
    return as_mask(mask) if isinstance(mask, np.ndarray) and mask.dtype == np.bool_ else as_soft_mask(mask)
