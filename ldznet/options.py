"""Every option, once: names, defaults, ranges and help for UI, API, command line and infotext.

A frozen dataclass per kind of work. Each field carries its range and a sentence of help in its
metadata, so that a slider, a JSON schema and `--help` are made from the same line.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields
from typing import Any

from ldznet.errors import OptionError

MOST_OBJECTS = 99  # that get a number in a mask


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    step: float | None = None,
    choices: tuple[str, ...] = (),
    kind: type | None = None,
) -> Any:
    """A dataclass field with its range (both ends included) or its choices, and one sentence of help.

    A tuple that may be empty says in `kind` of what it is.
    """
    metadata = {"help": help, "low": low, "high": high, "step": step, "choices": choices, "kind": kind}
    return field(default=default, metadata=metadata)


class Options:
    """Checks every field against its type, range and choices when an instance is made.

    Numbers of numpy become Python's: options are written as JSON.
    """

    def __post_init__(self) -> None:
        for item in fields(self):  # type: ignore[arg-type]
            value = _plain(getattr(self, item.name))
            object.__setattr__(self, item.name, value)  # the way of a frozen dataclass
            _check(item.name, value, item.default, item.metadata)


def require_options(value: object, kind: type[Options]) -> None:
    """Refuse what is not of this class of options.

    Raises:
        OptionError: it is something else.
    """
    if not isinstance(value, kind):
        raise OptionError(
            f"The options are of type {type(value).__name__}, but {kind.__name__} is wanted here. Give "
            f"{kind.__name__}(...), or leave them out."
        )


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return value.item() if getattr(value, "shape", None) == () else value  # a scalar of numpy


def _check(name: str, value: Any, default: Any, metadata: Any) -> None:
    if not isinstance(default, tuple):
        _check_one(name, value, type(default), default, metadata)
        return
    if not isinstance(value, tuple) or not (value or metadata["kind"]):
        least = "" if metadata["kind"] else " of at least one value"
        raise OptionError(f"{name} is {value!r}, but it must be a tuple{least} (default {default!r}).")
    for item in value:
        kind = type(default[0]) if default else metadata["kind"]
        _check_one(f"each of {name}", item, kind, default or "none", metadata)


def _check_one(name: str, value: Any, kind: Any, default: Any, metadata: Any) -> None:
    shown = default if default == "none" else repr(default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise OptionError(f"{name} is {value!r}, but it must be {_KINDS[kind]}: give one (default {shown}).")
    if metadata["choices"] and value not in metadata["choices"]:
        known = ", ".join(metadata["choices"])
        raise OptionError(f"{name} is {value!r}, which is not known: give one of {known} (default {shown}).")
    low, high = metadata["low"], metadata["high"]
    if kind is float and not math.isfinite(value):
        raise OptionError(f"{name} is {value}, but it must be a finite number (default {shown}).")
    if (low is not None and value < low) or (high is not None and value > high):
        if low is None or high is None:
            span = f"at least {low}" if high is None else f"at most {high}"
        else:
            span = f"from {low} to {high}"
        raise OptionError(f"{name} is {value}, but it must be {span}: {metadata['help']} (default {shown}).")


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


@dataclass(frozen=True, kw_only=True)
class MaskOptions(Options):
    """How probabilities become a mask. The steps run in the order in which they stand here."""

    threshold: float = option(
        0.5, "probability from which a pixel belongs to the mask", low=0.0, high=1.0, step=0.01
    )
    combine: str = option(
        "union",
        "several prompts: all of them, what they share, or the first without the others",
        choices=("union", "intersection", "difference"),
    )
    smallest_area: int = option(0, "connected parts with fewer pixels are dropped", low=0, high=2**26, step=1)
    largest_only: bool = option(False, "keep only the largest connected part")
    fill_holes: bool = option(False, "fill holes that the mask encloses")
    objects: tuple[int, ...] = option(
        (),
        "which objects to select, by their numbers: connected parts, cut where two things touch; 1 is the "
        "largest; none is all of them",
        low=1,
        high=MOST_OBJECTS,
        kind=int,
    )
    grow: int = option(0, "pixels by which the mask grows; negative shrinks it", low=-512, high=512, step=1)
    invert: bool = option(False, "select everything but the mask")
    brush: str = option(
        "replace",
        "what to do with a mask that was given: replace it, add to it, subtract from it, intersect with it",
        choices=("replace", "add", "subtract", "intersect"),
    )
    feather: float = option(
        0.0, "softness of the edge: sigma of a Gaussian blur, in pixels", low=0.0, high=256.0, step=0.5
    )


@dataclass(frozen=True, kw_only=True)
class SegmentOptions(Options):
    """How an image and prompts become probabilities. The defaults give the same mask every time."""

    resolution: int = option(
        0,
        "the image is scaled to the area of a square with this side; 0 is what suits the head or method",
        low=0,
        high=2048,
        step=64,
    )
    timesteps: tuple[int, ...] = option(
        (),
        "how much noise the UNet sees, 0 to 999; the results of several are averaged; none is what suits the head "
        "or method, 400 for the released one",
        low=0,
        high=999,
        kind=int,
    )
    seeds: tuple[int, ...] = option(
        (0,), "seeds of that noise; the results of several are averaged", low=0, high=2**63 - 1
    )
    template: str = option(
        "",
        "sentence around the prompt, {} stands for the prompt; none is what suits the head or method, "
        '"a photo of a {}." for the released one',
    )
    average_templates: bool = option(False, "average over the nine sentences that the heads were trained with")
    randomness: str = option(
        "fixed",
        "fixed: posterior mean and the settings above; released: sentence, timestep (300 to 499), noise and "
        "posterior drawn anew for every prompt, as the released code does, from the first seed",
        choices=("fixed", "released"),
    )
    refine: bool = option(
        False,
        "look again, at full resolution, at tiles of the image and at the parts where something was found: small "
        "things and finer edges, for up to 12 more runs of the network",
    )
    batch: int = option(0, "prompts that run at once; 0 is as many as fit", low=0, high=1024, step=1)
    background: str = option("#ffffff", "colour that shows through where the image is transparent")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.template and self.template.count("{}") != 1:
            raise OptionError(
                f"template is {self.template!r}, but it must hold {{}} once, where the prompt goes, as in "
                '"a photo of a {}.".'
            )
        if not re.fullmatch(r"#[0-9a-fA-F]{6}", self.background):
            raise OptionError(
                f"background is {self.background!r}, but it must be a colour such as #ffffff, which is white."
            )
