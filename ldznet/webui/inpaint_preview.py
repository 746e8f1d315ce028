"""Predict how the webui changes a mask before it repaints: inverted, blurred, rounded on the grid of latents.

After processing.py:1616 and 1739 of AUTOMATIC1111 1.10.1. Plain numpy, OpenCV and Pillow.

    levels  (H, W) uint8: a mask as it is written to an image of mode L; white is selected
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

HALF = 128  # the webui rounds: it leaves what is below as it is, unless Soft inpainting is on


def blur_levels(p: Any, levels: NDArray[Any]) -> NDArray[Any]:
    """Return a mask as the "Mask mode" and the mask blur of the run `p` leave it, (H, W)."""
    if p.inpainting_mask_invert:
        levels = 255 - levels
    for sigma, is_across in ((p.mask_blur_x, True), (p.mask_blur_y, False)):
        if sigma > 0:
            length = 2 * int(2.5 * sigma + 0.5) + 1  # the webui's own length of the kernel
            levels = cv2.GaussianBlur(levels, (length, 1) if is_across else (1, length), sigma)
    return levels


def is_faint(mask: Image.Image) -> bool:
    """Return whether a mask selects something, but nowhere enough for the webui to repaint."""
    return 0 < int(np.asarray(mask).max()) < HALF


def explain_unpainted(p: Any, levels: NDArray[Any]) -> str:
    """Return a warning if the run `p` would repaint nothing of a mask; empty if it would repaint something."""
    image = Image.fromarray(blur_levels(p, levels))
    if not p.inpaint_full_res:  # "Only masked" enlarges what is around the mask: there its own pixels count
        size = p.width, p.height
        image = image.resize(size, Image.Resampling.LANCZOS).resize((size[0] // 8, size[1] // 8))
    level = int(np.asarray(image).max())
    if level >= HALF:
        return ""
    return (
        f"The mask may be too faint or too small: the webui repaints from 50% on, in squares of 8 x 8 pixels, and "
        f"this mask reaches {level / 255:.0%} there. If the picture is unchanged, make feather and mask blur "
        'smaller, or choose "only masked".'
    )
