"""Every option, once: names, defaults, ranges and help for UI, API, command line and infotext.

One frozen dataclass per kind of work. Each field carries an `Option`: its range or choices and a sentence of
help, from which a slider, a JSON schema and `--help` are made. `check_value` is the one check of a value.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Any

from ldznet.errors import OptionError

MOST_OBJECTS = 99  # objects that get a number in a mask
STANDARD_THRESHOLD = 0.5  # where nothing better was measured

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


@dataclass(frozen=True)
class Option:
    """The default, the range or choices, and the help of one value."""

    default: Any
    help: str = ""
    low: float | None = None  # both ends belong to the range
    high: float | None = None
    step: float | None = None  # of a slider; other values in the range are fine too
    choices: tuple[str, ...] = ()
    kind: type | None = None  # type of the items of a tuple that may be empty, or of a value that may be None

    @property
    def item_kind(self) -> Any:
        """Return the type of the value; of a tuple, the type of its items."""
        if isinstance(self.default, tuple):
            return self.kind or type(self.default[0])
        return self.kind if self.default is None else type(self.default)

    @property
    def default_text(self) -> str:
        """Return the default as errors name it; None stands for a value that is found automatically."""
        if self.default is None:
            return "automatic"
        return "none" if self.default == () else repr(self.default)


def option(default: Any, help: str, **limits: Any) -> Any:
    """Return a dataclass field with an `Option`; `limits` are the option's low, high, step, choices and kind."""
    details = vars(Option(default, help, **limits))
    return field(default=default, metadata={name: details[name] for name in details if name != "default"})


def options_of(kind: type[Options]) -> dict[str, Option]:
    """Return the `Option` of each field of a class of options, by the field's name."""
    items = dataclasses.fields(kind)  # type: ignore[arg-type]
    return {item.name: Option(item.default, **item.metadata) for item in items}


def check_value(option: Option, value: Any, name: str) -> Any:
    """Return the value as a plain Python value, after checking its type, its choices and its range.

    Numbers of numpy become Python's, since options are written as JSON, and whole floats become ints where a
    whole number is needed, since JavaScript has no ints. `name` is what the value is called in the error.

    Raises:
        OptionError: the value cannot be used.
    """
    if value is None and option.default is None:
        return None
    default = option.default_text
    if not isinstance(option.default, tuple):
        return _check_item(option, value, name, default)
    if not isinstance(value, tuple) or not (value or option.kind):
        least = "" if option.kind else " of at least one value"
        raise OptionError(f"{name} is {value!r}, but it must be a tuple{least} (default {option.default!r}).")
    return tuple(_check_item(option, item, f"each of {name}", default) for item in value)


def _check_item(option: Option, value: Any, name: str, default: str) -> Any:
    kind = option.item_kind
    # Numpy is not imported for this: an array without axes has an empty shape.
    if getattr(value, "shape", None) == ():
        value = value.item()  # a scalar of numpy
    is_whole = type(value) is float and value.is_integer()
    if (kind is float and type(value) is int) or (kind is int and is_whole):
        value = kind(value)
    # `type`, not `isinstance`: True is an int to Python, and never a number here.
    if type(value) is not kind:
        raise OptionError(f"{name} is {value!r}, but it must be {_KINDS[kind]}: give one (default {default}).")
    if option.choices and value not in option.choices:
        known = ", ".join(option.choices)
        raise OptionError(f"{name} is {value!r}, which is not known: give one of {known} (default {default}).")
    # NaN would pass every comparison below.
    if kind is float and not math.isfinite(value):
        raise OptionError(f"{name} is {value}, but it must be a finite number (default {default}).")
    low, high = option.low, option.high
    if (low is not None and value < low) or (high is not None and value > high):
        if low is None or high is None:
            span = f"at least {low}" if high is None else f"at most {high}"
        else:
            span = f"from {low} to {high}"
        raise OptionError(f"{name} is {value}, but it must be {span}: {option.help} (default {default}).")
    return value


class Options:
    """Checks every field when an instance is made; the base of all classes of options."""

    def __post_init__(self) -> None:
        """Check every field, and keep its value as plain Python.

        Raises:
            OptionError: a value has a wrong type or lies outside its range; the text names the field.
        """
        for name, item in options_of(type(self)).items():
            # `object.__setattr__` is how a frozen dataclass sets its own fields.
            object.__setattr__(self, name, check_value(item, getattr(self, name), name))


def require_options(value: object, kind: type[Options]) -> None:
    """Refuse a value that is not of this class of options.

    Raises:
        OptionError: the value is something else.
    """
    if not isinstance(value, kind):
        raise OptionError(
            f"options is {value!r}, but it must be {kind.__name__}: give {kind.__name__}(...), or leave it out "
            "for the defaults."
        )


@dataclass(frozen=True, kw_only=True)
class MaskOptions(Options):
    """Options by which probabilities become a mask. The steps run in the order of the fields."""

    threshold: float | None = option(
        None,
        "probability from which a pixel belongs to the mask; automatic: as suits the head or method",
        low=0.0,
        high=1.0,
        step=0.01,
        kind=float,
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
        "numbers of the objects to select: connected parts, cut where two things touch; 1 is the largest; without "
        "numbers, all are selected",
        low=1,
        high=MOST_OBJECTS,
        kind=int,
    )
    grow: int = option(0, "pixels by which the mask grows; negative shrinks it", low=-512, high=512, step=1)
    invert: bool = option(False, "select everything but the mask")
    brush: str = option(
        "add",
        "what to do with a painted or uploaded mask: replace it, add to it, subtract from it, intersect with it",
        choices=("replace", "add", "subtract", "intersect"),
    )
    feather: float = option(
        0.0, "softness of the edge: sigma of a Gaussian blur, in pixels", low=0.0, high=256.0, step=0.5
    )

    @property
    def level(self) -> float:
        """Return the threshold, or the standard one where no method has settled it."""
        return STANDARD_THRESHOLD if self.threshold is None else self.threshold


@dataclass(frozen=True, kw_only=True)
class SegmentOptions(Options):
    """Options by which an image and prompts become probabilities. The defaults give the same mask every time."""

    resolution: int = option(
        0,
        "the image is scaled to the area of a square with this side; 0: as suits the head or method",
        low=0,
        high=2048,
        step=64,
    )
    timesteps: tuple[int, ...] = option(
        (),
        "how much noise the UNet sees, 0 to 999; the results of several are averaged; none: as suits the head or "
        "method, 400 for the released one",
        low=0,
        high=999,
        kind=int,
    )
    seeds: tuple[int, ...] = option(
        (0,), "seeds of the noise; the results of several are averaged", low=0, high=2**63 - 1
    )
    template: str = option(
        "",
        "sentence around the prompt, {} stands for the prompt; none: as suits the head or method, "
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
        "run the network again, at full resolution, on tiles of the image and on the parts where something was "
        "found: small things and finer edges, for up to 12 more runs",
    )
    batch: int = option(0, "prompts that run at once; 0: as many as fit", low=0, high=1024, step=1)
    background: str = option("#ffffff", "colour that shows through where the image is transparent")

    def __post_init__(self) -> None:
        """Check every field, and the forms of `template` and `background`."""
        super().__post_init__()
        # These two have a form, which an Option cannot say.
        if self.template and self.template.count("{}") != 1:
            raise OptionError(
                f"template is {self.template!r}, but it must hold {{}} once, where the prompt goes, as in "
                '"a photo of a {}.".'
            )
        if not re.fullmatch(r"#[0-9a-fA-F]{6}", self.background):
            raise OptionError(
                f"background is {self.background!r}, but it must be a colour such as #ffffff, which is white."
            )
