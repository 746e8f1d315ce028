"""What the webui makes of a mask before it repaints: inverted, blurred, and rounded on the grid of latents.

After processing.py:1616 and 1739 of AUTOMATIC1111 1.10.1. Plain numpy, OpenCV and Pillow; masks are pictures of
mode L.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

HALF = 128  # the webui rounds: what is below is left as it is, unless Soft inpainting is on


def blurred(p: Any, mask: Image.Image) -> NDArray[Any]:
    """The mask as the run's "Mask mode" and mask blur leave it, (H, W)."""
    seen: NDArray[Any] = np.asarray(mask)
    if p.inpainting_mask_invert:
        seen = 255 - seen
    for sigma, across in ((p.mask_blur_x, True), (p.mask_blur_y, False)):
        if sigma > 0:
            length = 2 * int(2.5 * sigma + 0.5) + 1
            seen = cv2.GaussianBlur(seen, (length, 1) if across else (1, length), sigma)
    return seen


def is_faint(mask: Image.Image) -> bool:
    """Whether a mask has something in it, but nothing from which on the webui repaints."""
    return 0 < int(np.asarray(mask).max()) < HALF


def unpainted(p: Any, seen: NDArray[Any]) -> str:
    """What to tell if the webui would repaint nothing of a mask that is `blurred`; empty if it would.

    "Only masked" enlarges what is around the mask, so that there the mask's own pixels tell enough.
    """
    mask = Image.fromarray(seen)
    if not p.inpaint_full_res:
        size = p.width, p.height
        mask = mask.resize(size, Image.Resampling.LANCZOS).resize((size[0] // 8, size[1] // 8))
    level = int(np.asarray(mask).max())
    if level >= HALF:
        return ""
    return (
        f"The mask may be too faint or too small: the webui repaints from 50% on, in squares of 8 x 8 pixels, and "
        f"this mask reaches {level / 255:.0%} there. If the picture is as it was, make feather and mask blur "
        'smaller, or choose "only masked".'
    )
