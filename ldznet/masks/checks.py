"""Types and checks of probabilities and masks.

    probability  (H, W) or (P, H, W)  float in [0, 1], one map for each prompt
    mask         (H, W)  bool; True is selected
    soft mask    (H, W)  float32 in [0, 1]; 1 is selected, what lies between is a soft edge

The parameter `maps` is always one (H, W) array, one (P, H, W) array, or an iterable of (H, W) arrays. An iterable
is read one map at a time, so a hundred prompts on a large image need the memory of a few maps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ldznet.errors import OptionError, ShapeError

Mask: TypeAlias = NDArray[np.bool_]
SoftMask: TypeAlias = NDArray[np.float32]
Maps: TypeAlias = NDArray[Any] | Iterable[NDArray[Any]]

ROUNDING = 1e-4  # how far outside [0, 1] a probability may lie before it counts as a mistake


def each_probability(maps: Maps, name: str = "probability") -> Iterator[SoftMask]:
    """Yield the maps as checked probabilities, all of one size."""
    return (as_probability(array, name) for array in each_map(maps, name))


def as_probability(array: NDArray[Any], name: str = "probability", dims: tuple[int, ...] = (2,)) -> SoftMask:
    """Return floats in [0, 1] as float32; values that rounding has put just outside are clipped.

    Raises:
        OptionError: the values are not probabilities. ShapeError: the shape is wrong.
    """
    _check_shape(array, name, dims)
    if not np.issubdtype(array.dtype, np.floating):
        raise OptionError(
            f"The {name} holds {array.dtype}, but it must hold floating-point numbers from 0 to 1: "
            "convert it, and divide 8-bit values by 255."
        )
    # NaN if any value is, so that no separate pass over the map looks for it.
    low, high = float(array.min()), float(array.max())
    if np.isnan(low):
        raise OptionError(
            f"The {name} has {np.count_nonzero(np.isnan(array))} of {array.size} values that are not numbers. "
            "Most likely the model ran in half precision and left its range: "
            "run it in full precision (in the webui: --no-half) and try again."
        )
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise OptionError(
            f"The {name} runs from {low:.6g} to {high:.6g}, but it must stay from 0 to 1. "
            "Logits need a sigmoid first, and 8-bit values must be divided by 255."
        )
    # Only where it is needed: clipping copies the map.
    if low < 0 or high > 1:
        array = np.clip(array, 0, 1)
    return np.ascontiguousarray(array, dtype=np.float32)


def as_mask(array: NDArray[Any], name: str = "mask") -> Mask:
    """Return a bool array (H, W), contiguous in memory.

    Raises:
        OptionError: the values are not bool. ShapeError: the shape is wrong.
    """
    _check_shape(array, name, (2,))
    if array.dtype != np.bool_:
        raise OptionError(
            f"The {name} holds {array.dtype}, but it must hold bool, because this step has no half-selected "
            "pixels: compare it first, for example mask >= 0.5."
        )
    # OpenCV reads memory row by row.
    return np.ascontiguousarray(array)


def as_soft_mask(array: NDArray[Any], name: str = "mask") -> SoftMask:
    """Return a bool or soft mask (H, W) as float32; see `as_probability`."""
    # Bool is exact, so that it needs no check of its range.
    if isinstance(array, np.ndarray) and array.dtype == np.bool_:
        return as_mask(array, name).astype(np.float32)
    return as_probability(array, name)


def each_map(maps: Maps, name: str) -> Iterator[NDArray[Any]]:
    """Yield the (H, W) arrays one at a time.

    Raises:
        ShapeError: they differ in size, or are not arrays.
    """
    if isinstance(maps, np.ndarray):
        _check_shape(maps, name, (2, 3), empty=True)
        # One map is a stack of one, so that the loop below is the only one.
        maps = maps[None] if maps.ndim == 2 else maps
    first = None
    # A tensor or None would fail further down with an error of numpy.
    if not hasattr(maps, "__iter__"):
        _check_shape(maps, name, (2, 3))  # raises: it is not an array
    for number, array in enumerate(maps, start=1):
        _check_shape(array, name, (2,))
        # Maps of another size would be broadcast by numpy without a word.
        first = array.shape if first is None else first
        if array.shape != first:
            raise ShapeError(
                f"The {name} of prompt {number} is {_size(array.shape)}, but that of the first is "
                f"{_size(first)} (height x width). They belong to one image: scale them to its size first."
            )
        yield array


def _check_shape(array: Any, name: str, dims: tuple[int, ...], *, empty: bool = False) -> None:
    if not isinstance(array, np.ndarray):
        raise ShapeError(
            f"The {name} is a {type(array).__name__}, but it must be a numpy array: "
            "convert it first (a tensor with .cpu().numpy(), an image with numpy.asarray)."
        )
    # No prompts (0, H, W) is an empty stack, which only the caller can judge; no pixels is always a mistake.
    if array.ndim not in dims or 0 in array.shape[-2:] or (array.size == 0 and not empty):
        shapes = " or ".join({2: "(height, width)", 3: "(prompts, height, width)"}[dim] for dim in dims)
        raise ShapeError(
            f"The {name} has the shape {array.shape}, but it must be {shapes} with at least one pixel: "
            "leave out empty images and the axis of channels."
        )


def require_one_size(name: str, array: NDArray[Any], other_name: str, other: NDArray[Any]) -> None:
    """Refuse two arrays of different sizes.

    Raises:
        ShapeError: the sizes differ; the text has both.
    """
    if array.shape != other.shape:
        raise ShapeError(
            f"The size of {name} is {_size(array.shape)}, but that of {other_name} is {_size(other.shape)} "
            "(height x width). They belong to one image: scale one to the size of the other."
        )


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(length) for length in shape[-2:])
