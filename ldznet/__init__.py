"""Make masks from prompts, with the Stable Diffusion model that is already loaded.

    import ldznet

    segmenter = ldznet.Segmenter.load("sd15.safetensors")
    segmenter.set_image("photo.jpg")
    result = segmenter.segment(["bucket"])
    mask = result.mask(ldznet.MaskOptions(threshold=0.4))  # (H, W) float32 in [0, 1]

`ldznet` reads what the UNet of a Stable Diffusion model knows about an image and turns it into a
probability map per prompt (LD-ZNet, PNVR et al., ICCV 2023, https://arxiv.org/abs/2303.12343).
Importing this package is quick and loads nothing: each name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldznet.options import MaskOptions, SegmentOptions
    from ldznet.segmenter import Segmenter

__all__ = ["MaskOptions", "SegmentOptions", "Segmenter"]
__version__ = "0.2.0"

_HOMES = {
    "MaskOptions": "ldznet.options",
    "SegmentOptions": "ldznet.options",
    "Segmenter": "ldznet.segmenter",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value  # so that the next access finds it without this function
    return value


def __dir__() -> list[str]:
    """Return the names of the module, with those that are not imported yet."""
    return sorted({*globals(), *__all__})
