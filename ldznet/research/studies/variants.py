"""Alternatives for each step of a method: the rows of an ablation, and the values that a search tries.

A step changes one option or default. Its values are published ones and other plausible ones; words and sentences
are published ones and those that captions of scenes have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ldznet.hosts.attention_probes import levels_of
from ldznet.hosts.host import HostInfo
from ldznet.methods.attention_options import PUBLISHED, AttentionOptions
from ldznet.research.scenes.grounds import GROUND_COLORS
from ldznet.research.scenes.nouns import GROUPS
from ldznet.research.studies.ablation import Setup


@dataclass(frozen=True)
class Step:
    """One option or default, and the values to try."""

    name: str  # of the option or default
    values: tuple[Any, ...]
    search: str = "miou"  # what a search maximizes: "miou", "usefulness", or "" to leave the option as it is


# Lower ends of gates; the upper end is twice as much.
_GATES = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
_EVIDENCE = ((), (300,), (600,), (300, 500), (200, 400, 600), (400, 500, 600, 700), tuple(range(100, 701, 100)))
# One noun of each group, and three of none.
_NOUNS = (
    *("dog", "bird", "bee", "apple", "bread", "carrot", "car", "hammer", "shirt", "guitar", "tree", "rose"),
    *("bucket", "house", "book"),
)
_WORDS = {
    "none": (),
    "published": AttentionOptions().distractors,
    "nouns": _NOUNS,
    "groups": tuple(GROUPS),
    "colors": tuple(GROUND_COLORS),
}
_RIVALS = {
    "nothing": ("",),
    "of full-size models": AttentionOptions().evidence_rivals,
    "five nouns": _NOUNS[::3],
    "fifteen nouns": _NOUNS,
}


def steps_for(setup: Setup, info: HostInfo) -> list[Step]:
    """Return all steps of a method, in the order in which a search goes through them."""
    if not isinstance(setup.options, AttentionOptions):
        return [
            Step("timesteps", ((200,), (300,), (400,), (500,), (600,))),
            Step("template", _templates()),
            Step("noises", (1, 4, 10, 20), ""),
            Step("blur", (0.0, 0.5, 1.0, 2.0)),
            Step("clamp", (2.0, 3.0, 4.0, 6.0), "usefulness"),
        ]
    # The embedded model has fewer levels than Stable Diffusion.
    levels = len(levels_of(info.unet))
    return [
        Step("template", _templates()),
        Step("distractors", tuple(_WORDS.values())),
        Step("tokens", ("mean", "max")),
        Step("timesteps", ((1,), (50,), (100,), (200,), (300,), (400,))),
        Step("cross_levels", ((), *_mixes(levels))),
        Step("normalise", ("sum", "minmax", "none")),
        Step("rescale", (True, False)),
        Step("emphasis", (1.0, 1.6, 2.5)),
        Step("iterations", (0, 1, 2, 4, 10, 20)),
        Step("eta", (0.0, 0.002, 0.02, 0.2)),
        Step("column_max", (True, False)),
        Step("self_level", tuple(range(min(2, levels)))),
        Step("evidence", _EVIDENCE, "usefulness"),
        Step("evidence_rivals", tuple(_RIVALS.values()), "usefulness"),
        Step("evidence_template", _templates()[:3], "usefulness"),
        Step("evidence_blur", (0.0, 0.7, 1.0, 1.5, 2.0), "usefulness"),
        Step("evidence_scale", (0.0, 0.02, 0.05, 0.1, 0.2), "usefulness"),
        Step("presence_level", (-0.1, -0.07, -0.05, -0.03, -0.02, -0.01, 0.0, 0.01), "usefulness"),
        Step("presence_width", (0.002, 0.005, 0.01, 0.02), "usefulness"),
        Step("halfway", (0.2, 0.3, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8), "usefulness"),
        Step("gate", ((), *((low, 2 * low) for low in _GATES)), "usefulness"),
        Step("evidence_noises", (1, 2, 4), ""),
        Step("timesteps", ((50, 100, 150), (100, 200, 300)), ""),
        Step("flip", (False, True), ""),
        Step("together", (False, True), ""),
    ]


def _templates() -> tuple[str, ...]:
    """Return the sentences to try."""
    return ("{}", "a {}", "a photo of a {}", "a picture of {}", PUBLISHED.template)


def _mixes(levels: int) -> Iterator[tuple[float, ...]]:
    """Yield weights of levels: each alone, pairs of neighbors, and all equal."""
    for level in range(levels):
        yield (0.0,) * level + (1.0,)
    for level in range(levels - 1):
        yield (0.0,) * level + (0.3, 0.7)
        yield (0.0,) * level + (0.7, 0.3)
        yield (0.0,) * level + (0.5, 0.5)
    if levels > 2:
        yield (1.0,) * levels


def variants(setup: Setup, info: HostInfo) -> Iterator[tuple[str, Setup]]:
    """Yield title and setup for every other value of every step."""
    for step in steps_for(setup, info):
        if step.name.startswith(("evidence_", "presence_")) and not setup.value("evidence"):
            continue  # without evidence it changes nothing
        for value in step.values:
            if value != setup.value(step.name):
                title = f"{step.name.replace('_', ' ')}: {value_text(step.name, value)}"
                yield title, setup.having(**{step.name: value})


def value_text(name: str, value: Any) -> str:
    """Return a value as a table shows it."""
    if known := {"distractors": _WORDS, "evidence_rivals": _RIVALS}.get(name):
        return next((title for title, words in known.items() if words == value), ", ".join(value))
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ", ".join(f"{one:g}" for one in value) or "none"
    return f"`{value}`" if name.endswith("template") else str(value)
