"""Count the pixels and the passes through the network that a request asks for, and refuse too many (limits.py).

Both are the same for our routes and for runs of img2img over the API.
"""

from __future__ import annotations

from ldznet.errors import ImageError, OptionError
from ldznet.hosts.host import HostInfo
from ldznet.images.pixel_formats import MAX_SIDE
from ldznet.inference.passes import count_passes
from ldznet.methods.choose import best_head
from ldznet.methods.registry import AUTO
from ldznet.webui.controls import PanelSettings
from ldznet.webui.head_files import HeadFiles
from ldznet.webui.limits import MOST_PASSES, MOST_PIXELS, MOST_PROMPTS, MOST_SMALL_PASSES


def require_pixels(size: tuple[int, int], name: str) -> None:
    """Refuse an image of (width, height) pixels that is too large; `name` is the field, for the error.

    Raises:
        ImageError: there are too many pixels; the text says how many, and how many are allowed.
    """
    width, height = size
    if width * height > MOST_PIXELS or max(size) > MAX_SIDE:
        raise ImageError(
            f"{name} has {width} x {height} pixels, but at most {MAX_SIDE} a side and {MOST_PIXELS:,} in all are "
            "allowed. Make it smaller first."
        )


def require_passes(settings: PanelSettings, heads: HeadFiles, info: HostInfo | None = None) -> None:
    """Refuse a request that would keep all others waiting.

    Before the model is known, without `info`, a head for a full-size model is assumed: the fewest passes. That
    limit holds for every model; with `info` the passes of the method that really runs are counted as well.

    Raises:
        OptionError: there are too many prompts, or passes; the text says how many, and how many are allowed.
    """
    prompts = len(settings.prompts) + len(settings.negatives)
    if prompts > MOST_PROMPTS:
        raise OptionError(
            f"prompt and negative_prompt have {prompts} parts together, but at most {MOST_PROMPTS} are allowed. "
            "Send several requests."
        )
    # Counted, not measured: a request must be refused before it takes any time.
    for known in (None,) if info is None else (None, info):
        passes = count_passes(_running_method(settings, heads, known), settings.segment, prompts, known)
        # A pass of a small model is quick, but its attention needs many more of them.
        most = MOST_SMALL_PASSES if known is not None and known.is_small else MOST_PASSES
        if passes > most:
            raise OptionError(
                f"Prompts, timesteps, seeds, noises, sentences and refined parts make up to {passes} passes "
                f"through the network, but at most {most} are allowed in one request. Ask for fewer of them."
            )


def _running_method(settings: PanelSettings, heads: HeadFiles, info: HostInfo | None) -> str:
    """Return the method that runs; auto is attention if the model is known and no head fits it."""
    if settings.method != AUTO:
        return settings.method
    if info is None or heads.waiting_checkpoint(settings):  # that becomes a head when the run begins
        return "head"
    return "head" if best_head(heads.candidates(settings), info) else "attention"
