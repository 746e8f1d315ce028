"""Read a painted or uploaded mask: one rule for the panel, runs, the API, the command line and `serve`.

The rule is the webui's (`create_binary_mask` in modules/processing.py of AUTOMATIC1111 1.10.1): where a mask has
an alpha channel that is not opaque everywhere, what is opaque by more than half is selected, whatever its
colour; else its luminance counts, white is selected and grey is selected in part.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HALF = 128  # an alpha above this level is selected


def read_given_mask(image: Image.Image, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return the mask that an image file holds, (H, W) float32 in [0, 1]; `size` is the image's (height, width).

    A mask of another size is scaled to it.
    """
    if image.mode in ("LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode == "RGBA" and image.getextrema()[-1] != (255, 255):
        mask = image.getchannel("A").point([255 * (level > HALF) for level in range(256)])
    else:
        mask = image.convert("L")
    height, width = size
    if mask.size != (width, height):
        mask = mask.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(mask, np.float32) / np.float32(255)
