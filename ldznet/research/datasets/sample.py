"""One sample of a dataset: an image, a phrase and its mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ldznet.masks.checks import Mask


@dataclass(frozen=True, eq=False)
class Sample:
    """An image, a phrase, and the mask of what the phrase names."""

    key: str  # unique in its dataset
    image: NDArray[np.uint8]  # (H, W, 3)
    phrase: str
    mask: Mask  # (H, W)
    categories: Mapping[str, tuple[str, ...]]  # for breakdowns: "name" -> ("dog",), "attributes" -> ...
    source: str = ""  # the image's file; samples of one image are neighbors
    faults: tuple[str, ...] = ()  # parts of the annotation that are invalid
    own_mask: Mask | None = None  # (H, W), if the dataset's own protocol draws it in another way
