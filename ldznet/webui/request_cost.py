"""How many passes through the network a request asks for, and that these are not too many (limits.py)."""

from __future__ import annotations

from ldznet.errors import OptionError
from ldznet.inference.prompts import TEMPLATES
from ldznet.inference.tiles import most_passes
from ldznet.methods.noise_difference import DifferenceOptions
from ldznet.options import SegmentOptions
from ldznet.webui.controls import Settings
from ldznet.webui.limits import MOST_PASSES, MOST_PROMPTS


def require_passes(settings: Settings) -> None:
    """Refuse what would keep all others waiting.

    Raises:
        OptionError: there are too many prompts, or passes; the text says how many, and how many may be.
    """
    words = len(settings.prompts) + len(settings.negatives)
    if words > MOST_PROMPTS:
        raise OptionError(
            f"prompt and negative_prompt have {words} parts together, but at most {MOST_PROMPTS} are taken. Ask "
            "several times."
        )
    passes = words * _of_a_prompt(settings.segment)
    if settings.method == "difference":
        passes *= DifferenceOptions().noises
    if passes > MOST_PASSES:
        raise OptionError(
            f"Prompts, timesteps, seeds, noises, sentences and second looks make up to {passes} passes through "
            f"the network, but at most {MOST_PASSES} are made at once. Give fewer of them."
        )


def _of_a_prompt(options: SegmentOptions) -> int:
    """If there is as much to look at again as there can be."""
    each = (len(TEMPLATES) if options.average_templates else 1) * (most_passes() if options.refine else 1)
    return max(1, len(options.timesteps)) * len(options.seeds) * each
