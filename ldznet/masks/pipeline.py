"""From probabilities to a mask: small steps on arrays, and `make_mask`, which runs them in order.

Plain numpy and OpenCV: nothing here knows of prompts, models, files or the UI.

    probability  (H, W) or (P, H, W)  float in [0, 1], one map for each prompt
    mask         (H, W)  bool; True is selected
    soft mask    (H, W)  float32 in [0, 1]; 1 is selected, what lies between is a soft edge

The parameter `maps` is always one (H, W) array, one (P, H, W) array, or anything that yields (H, W)
arrays. What yields is read one map at a time, so a hundred prompts on a large picture need the memory
of a few maps. No function changes what it is given, and none returns it: results are arrays of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from ldznet.errors import OptionError, ShapeError
from ldznet.masks.objects import find_objects
from ldznet.options import MaskOptions, require_options

Mask: TypeAlias = NDArray[np.bool_]
SoftMask: TypeAlias = NDArray[np.float32]
Maps: TypeAlias = NDArray[Any] | Iterable[NDArray[Any]]

ROUNDING = 1e-4  # how far outside [0, 1] a probability may lie before it counts as a mistake


def make_mask(
    probabilities: Maps,
    options: MaskOptions,
    *,
    negatives: Maps | None = None,
    given_mask: NDArray[Any] | None = None,
) -> SoftMask:
    """Run all steps, in the order of the fields of MaskOptions -> soft mask (H, W).

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
    unwanted = _strongest(negatives)
    wanted = (_subtract(probability, unwanted) for probability in each_probability(probabilities))
    mask = _COMBINE[options.combine](threshold(probability, options.threshold) for probability in wanted)
    mask = drop_small(mask, options.smallest_area)
    if options.largest_only:
        mask = largest_component(mask)
    return fill_holes(mask) if options.fill_holes else mask


def finish_mask(mask: NDArray[Any], options: MaskOptions, *, given_mask: NDArray[Any] | None = None) -> SoftMask:
    """Run the steps of `make_mask` after `options.grow` on a mask (H, W) that has grown already."""
    if options.invert:
        mask = invert(mask)
    if given_mask is None:
        return feather(mask, options.feather)
    return feather(combine_with_given(mask, given_mask, options.brush), options.feather)


# Probabilities


def subtract_negatives(probability: NDArray[Any], negatives: Maps) -> SoftMask:
    """p * (1 - n), where n (H, W) is the most probable of the negatives at each pixel.

    The probability of "wanted, and none of the unwanted" if the two are independent. It stays in [0, 1],
    never rises, is left alone where n is 0, is 0 where n is 1, and cannot pass 0.5 where n is more likely
    than not.
    """
    return _subtract(as_probability(probability), _strongest(negatives)).copy()


def threshold(probability: NDArray[Any], level: float) -> Mask:
    """Where probability (..., H, W) reaches `level` -> bool, same shape.

    A probability of 0 never belongs, not even at level 0: what is not in the picture gives an empty mask.
    """
    MaskOptions(threshold=level)
    checked = as_probability(probability, dims=(2, 3))
    return (checked >= np.float32(level)) & (checked > 0)


def _subtract(probability: SoftMask, unwanted: SoftMask | None) -> SoftMask:
    if unwanted is None:
        return probability
    _same_size("the negative probability", unwanted, "the probability", probability)
    return probability * (1 - unwanted)


def _strongest(maps: Maps | None) -> SoftMask | None:
    """The largest probability at each pixel; None where there are no maps."""
    strongest = None
    for probability in each_probability(() if maps is None else maps, "negative probability"):
        if strongest is None:
            strongest = probability.copy()
        else:
            np.maximum(strongest, probability, out=strongest)
    return strongest


# Several masks to one


def union(maps: Maps) -> Mask:
    """Pixels of any of the masks."""
    return _fold(maps, np.logical_or)


def intersection(maps: Maps) -> Mask:
    """Pixels that all of the masks share."""
    return _fold(maps, np.logical_and)


def difference(maps: Maps) -> Mask:
    """Pixels of the first mask that are in none of the others."""
    return _fold(maps, np.greater)  # True > False: in the one and not in the other


_COMBINE = {"union": union, "intersection": intersection, "difference": difference}


def _fold(maps: Maps, join: np.ufunc) -> Mask:
    result = None
    for array in _each(maps, "mask"):
        mask = as_mask(array)
        if result is None:
            result = mask.copy()
        else:
            join(result, mask, out=result)
    if result is None:
        raise ShapeError("There is no map to make a mask of, because no prompt was given: give at least one.")
    return result


# Connected parts


def drop_small(mask: NDArray[Any], smallest_area: int) -> Mask:
    """Drop connected parts (8 neighbours) with fewer than `smallest_area` pixels."""
    MaskOptions(smallest_area=smallest_area)
    mask = as_mask(mask)
    if smallest_area <= 1:
        return mask.copy()
    labels, areas = _parts(mask, neighbours=8)
    return (areas >= smallest_area)[labels]


def largest_component(mask: NDArray[Any]) -> Mask:
    """Keep the connected part (8 neighbours) with most pixels; of equals, the one met first in reading order."""
    mask = as_mask(mask)
    labels, areas = _parts(mask, neighbours=8)
    candidates = ((areas == areas.max()) & (areas > 0))[labels]
    return candidates & (labels == labels.flat[candidates.argmax()])


def fill_holes(mask: NDArray[Any]) -> Mask:
    """Fill background that the mask encloses: parts (4 neighbours) that do not reach the picture's border."""
    mask = as_mask(mask)
    labels, areas = _parts(~mask, neighbours=4)
    outside = np.zeros(len(areas), bool)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        outside[edge] = True
    outside[0] = False  # label 0 is the mask itself
    return ~outside[labels]


def _parts(mask: Mask, neighbours: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """-> labels (H, W), 0 where mask is False; areas in pixels by label, 0 for label 0."""
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=neighbours)
    areas = statistics[:, cv2.CC_STAT_AREA].astype(np.int64)
    areas[0] = 0
    return labels, areas


# Shape


def grow(mask: NDArray[Any], pixels: int) -> Mask:
    """Add every pixel whose centre lies within `pixels` of the mask's; negative shrinks by as much.

    Distances are Euclidean and exact, so a point grows to a disc. Outside of the picture is nothing: a mask
    that touches the border neither loses nor gains there.
    """
    MaskOptions(grow=pixels)
    mask = as_mask(mask)
    if pixels < 0:
        return ~grow(~mask, -pixels)
    if pixels == 0 or not mask.any():
        return mask.copy()
    distance = cv2.distanceTransform((~mask).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    grown: Mask = distance <= pixels
    return grown


def invert(mask: NDArray[Any]) -> Mask:
    """Select everything else."""
    return ~as_mask(mask)


# Soft edges


def combine_with_given(mask: NDArray[Any], given_mask: NDArray[Any], mode: str) -> SoftMask:
    """Join a mask with a painted or uploaded one (both bool or soft) by MaskOptions.brush.

    replace: the mask alone; add: both together; subtract: the given mask without the mask; intersect: what both
    share. Soft values join as fuzzy sets do: the larger for "or", the smaller for "and", 1 - x for "not".
    """
    MaskOptions(brush=mode)
    soft, given = as_soft_mask(mask), as_soft_mask(given_mask, "given mask")
    _same_size("the given mask", given, "the mask", soft)
    if mode == "add":
        return np.maximum(given, soft)
    if mode == "subtract":
        return np.minimum(given, 1 - soft)
    if mode == "intersect":
        return np.minimum(given, soft)
    return soft.copy()


def feather(mask: NDArray[Any], sigma: float) -> SoftMask:
    """Blur the edge of a mask, bool or soft, with a Gaussian of `sigma` pixels.

    Beyond the border the picture goes on as it ends there, so a mask that touches the border stays solid.
    A wide blur runs on a reduced copy: fast at any size, and no further from the full one than half
    a level of 8 bits.
    """
    MaskOptions(feather=sigma)
    soft = as_soft_mask(mask)
    if sigma == 0:
        return soft.copy()
    step = max(1, int(sigma // 12))
    blurred = _blur(soft, sigma) if step == 1 else _blur_reduced(soft, sigma, step)
    # Six decimals: the float noise of a kernel's sum must not make a solid mask 0.9999997.
    return np.clip(np.round(blurred, 6), 0, 1)


def _blur(soft: SoftMask, sigma: float) -> SoftMask:
    blurred: SoftMask = cv2.GaussianBlur(soft, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    return blurred


def _blur_reduced(soft: SoftMask, sigma: float, step: int) -> SoftMask:
    """Mean over cells of step x step pixels, blur of the cells, linear interpolation back to pixels."""
    height, width = soft.shape
    # A cell of margin on every side, and whole cells: the interpolation meets no border within the picture.
    margin = (step, step + -height % step, step, step + -width % step)
    padded = cv2.copyMakeBorder(soft, *margin, cv2.BORDER_REPLICATE)
    in_cells = (padded.shape[1] // step, padded.shape[0] // step)
    cells = cv2.resize(padded, in_cells, interpolation=cv2.INTER_AREA)
    back = cv2.resize(_blur(cells, sigma / step), padded.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return back[step : step + height, step : step + width]


# Measures


def area(mask: NDArray[Any]) -> int:
    """Pixels that are selected at all; of a soft mask, all above 0."""
    return int(np.count_nonzero(as_soft_mask(mask)))


def bounding_box(mask: NDArray[Any]) -> tuple[int, int, int, int] | None:
    """The box (x0, y0, x1, y1) around all that is selected, x1 and y1 just outside; None if nothing is."""
    soft = as_soft_mask(mask)
    columns, rows = np.flatnonzero(soft.any(axis=0)), np.flatnonzero(soft.any(axis=1))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


# Checks


def each_probability(maps: Maps, name: str = "probability") -> Iterator[SoftMask]:
    """The maps one after another, checked, all of one size."""
    return (as_probability(array, name) for array in _each(maps, name))


def as_probability(array: NDArray[Any], name: str = "probability", dims: tuple[int, ...] = (2,)) -> SoftMask:
    """Check floats in [0, 1] -> float32; what rounding has put just outside is clipped."""
    _check_shape(array, name, dims)
    if not np.issubdtype(array.dtype, np.floating):
        raise OptionError(
            f"The {name} holds {array.dtype}, but it must hold floating-point numbers from 0 to 1: "
            "convert it, and divide 8-bit values by 255."
        )
    low, high = float(array.min()), float(array.max())  # NaN if any value is
    if np.isnan(low):
        raise OptionError(
            f"The {name} has {np.count_nonzero(np.isnan(array))} of {array.size} values that are not numbers. "
            "Most likely the model ran in half precision and left its range: "
            "run it in full precision (in the webui: --no-half) and try again."
        )
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise OptionError(
            f"The {name} runs from {low:.6g} to {high:.6g}, but it must stay from 0 to 1. "
            "Logits need a sigmoid first, and 8-bit values are to be divided by 255."
        )
    if low < 0 or high > 1:
        array = np.clip(array, 0, 1)
    return np.ascontiguousarray(array, dtype=np.float32)


def as_mask(array: NDArray[Any], name: str = "mask") -> Mask:
    """Check a bool array (H, W)."""
    _check_shape(array, name, (2,))
    if array.dtype != np.bool_:
        raise OptionError(
            f"The {name} holds {array.dtype}, but it must hold bool, because this step knows no half-selected "
            "pixels: compare it first, for example mask >= 0.5."
        )
    return np.ascontiguousarray(array)


def as_soft_mask(array: NDArray[Any], name: str = "mask") -> SoftMask:
    """Check a bool or soft mask (H, W) -> float32."""
    if isinstance(array, np.ndarray) and array.dtype == np.bool_:
        return as_mask(array, name).astype(np.float32)
    return as_probability(array, name)


def _each(maps: Maps, name: str) -> Iterator[NDArray[Any]]:
    """The (H, W) arrays one after another, all of one size."""
    if isinstance(maps, np.ndarray):
        _check_shape(maps, name, (2, 3), empty=True)
        maps = maps[None] if maps.ndim == 2 else maps
    first = None
    if not hasattr(maps, "__iter__"):
        _check_shape(maps, name, (2, 3))  # says that it is no array
    for number, array in enumerate(maps, start=1):
        _check_shape(array, name, (2,))
        first = array.shape if first is None else first
        if array.shape != first:
            raise ShapeError(
                f"The {name} of prompt {number} is {_size(array.shape)}, but that of the first is "
                f"{_size(first)} (height x width). They belong to one picture: scale them to its size first."
            )
        yield array


def _check_shape(array: Any, name: str, dims: tuple[int, ...], *, empty: bool = False) -> None:
    if not isinstance(array, np.ndarray):
        raise ShapeError(
            f"The {name} is a {type(array).__name__}, but it must be a numpy array: "
            "convert it first (a tensor with .cpu().numpy(), an image with numpy.asarray)."
        )
    if array.ndim not in dims or 0 in array.shape[-2:] or (array.size == 0 and not empty):
        wanted = " or ".join({2: "(height, width)", 3: "(prompts, height, width)"}[dim] for dim in dims)
        raise ShapeError(
            f"The {name} has the shape {array.shape}, but it must be {wanted} with at least one pixel: "
            "leave out empty pictures and the axis of channels."
        )


def _same_size(name: str, array: NDArray[Any], other_name: str, other: NDArray[Any]) -> None:
    if array.shape != other.shape:
        raise ShapeError(
            f"The size of {name} is {_size(array.shape)}, but that of {other_name} is {_size(other.shape)} "
            "(height x width). They belong to one picture: scale one to the size of the other."
        )


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(length) for length in shape[-2:])
