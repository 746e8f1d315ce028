"""Every control of the panel, once: for the page, for the script's arguments, and for `PanelSettings`.

The order of CONTROLS is the order of the script's arguments and of GET /sdapi/v1/script-info, so a new control
goes to the end. Ranges, defaults and help of masks and segmentations are in options.py; here they get a label.
Nothing here knows of gradio, of the webui or of models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ldznet.errors import OptionError
from ldznet.inference.prompts import split_prompts
from ldznet.methods.registry import METHOD_NAMES
from ldznet.options import (
    STANDARD_THRESHOLD,
    MaskOptions,
    Option,
    SegmentOptions,
    check_value,
    options_of,
)

ControlKind = Literal["switch", "text", "slider", "number", "choice"]

TITLE = "LD-ZNet segment"
AUTOMATIC = "automatic"
AUTOMATIC_THRESHOLD = "automatic_threshold"  # the switch that stands for an option without a threshold
AS_IN_THE_TAB = "as set in the tab"
ON_NOTHING = ("stop", "empty mask", "without inpainting")
FILLS = ("fill", "original", "latent noise", "latent nothing")  # in the order of the webui's numbers
AREAS = ("whole picture", "only masked")


@dataclass(frozen=True)
class Control:
    """One control of the panel, and one argument of the script."""

    name: str  # for programs
    label: str  # on the page; also its key in the webui's ui-config.json
    kind: ControlKind
    default: Any
    help: str = ""
    low: float | None = None  # of numbers; both ends belong to the range
    high: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()
    basic: bool = False  # always in view, not under Advanced

    def read(self, value: Any) -> Any:
        """Return a value from the page or a program after checking it; None becomes the default.

        Raises:
            OptionError: the value cannot be used; the text names the control.
        """
        if value is None:
            return self.default
        option = Option(self.default, self.help, self.low, self.high, self.step, self.choices)
        return check_value(option, value, self.title)

    @property
    def title(self) -> str:
        """Return what errors call the control: its label and, where that differs, its name for programs."""
        is_alike = self.label.lower().replace(" ", "_") == self.name
        return self.label if is_alike else f"{self.label} ({self.name})"


# No name is in both classes, so that a control's name says which option it is.
_MASK_OPTIONS, _SEGMENT_OPTIONS = options_of(MaskOptions), options_of(SegmentOptions)
_OPTIONS = {**_SEGMENT_OPTIONS, **_MASK_OPTIONS}


def _of_option(name: str, label: str, *, basic: bool = False, **changes: Any) -> Control:
    """Return the control of an option, with the option's kind, default, range and help except for `changes`."""
    option = _OPTIONS[name]
    kind: ControlKind = "slider"
    if isinstance(option.default, bool):
        kind = "switch"
    elif option.choices:
        kind = "choice"
    limits = (option.low, option.high, option.step)
    control = Control(name, label, kind, option.default, option.help, *limits, option.choices, basic)
    return dataclasses.replace(control, **changes)


def _of_numbers(name: str, label: str, default: str, help: str) -> Control:
    """Return the control of an option that is several numbers: they are typed as a text."""
    return Control(name, label, "text", default, help)


CONTROLS: tuple[Control, ...] = (
    Control("enabled", TITLE, "switch", False, "make a new mask for every picture that is generated", basic=True),
    Control("prompt", "What to select", "text", "", "a word or phrase; several: bucket | red hat", basic=True),
    Control("negative_prompt", "What to leave out", "text", "", "a word or phrase", basic=True),
    Control(
        "method",
        "Method",
        "choice",
        "auto",
        "auto: the best that fits the loaded checkpoint",
        choices=METHOD_NAMES,
        basic=True,
    ),
    Control("head", "Head", "choice", AUTOMATIC, "a trained file in models/ldznet", basic=True),
    _of_option(
        "threshold",
        "Threshold",
        basic=True,
        default=STANDARD_THRESHOLD,
        help="probability from which a pixel belongs to the mask",
    ),
    _of_option("grow", "Grow or shrink (px)", basic=True),
    _of_option("feather", "Feather (px)", basic=True),
    _of_option("invert", "Invert"),
    _of_option("smallest_area", "Smallest area (px)", kind="number"),
    _of_option("largest_only", "Largest part only"),
    _of_option("fill_holes", "Fill holes"),
    _of_option("combine", "Several prompts", help="all, what they share, or the first without the others"),
    _of_option("brush", "Painted or uploaded mask", help="how the prompts change a painted or uploaded mask"),
    _of_option("resolution", "Resolution", help="0: as suits the method"),
    _of_numbers("timesteps", "Timesteps", "", "empty: as suits the method"),
    _of_numbers("seeds", "Seeds of the mask", "0", "the results of several, such as 0 1, are averaged"),
    Control(
        "on_nothing",
        "If nothing is found",
        "choice",
        "stop",
        "stop: nothing is generated; empty mask: the picture stays as it is; without inpainting: all is repainted",
        choices=ON_NOTHING,
    ),
    Control("append", "Append mask and overlay to the results", "switch", False),
    Control("fill", "Masked content", "choice", AS_IN_THE_TAB, choices=(AS_IN_THE_TAB, *FILLS)),
    Control("area", "Inpaint area", "choice", AS_IN_THE_TAB, choices=(AS_IN_THE_TAB, *AREAS)),
    Control("padding", "Only masked padding (px)", "slider", -1, f"-1: {AS_IN_THE_TAB}", -1, 256, 1),
    Control("mask_blur", "Mask blur (px)", "slider", -1, f"-1: {AS_IN_THE_TAB}", -1, 64, 1),
    _of_option("refine", "Refine small things"),
    _of_option("average_templates", "Average nine sentences"),
    _of_numbers(
        "objects", "Objects", "", "by number, 1 is the largest; several: 1 3; none: all; in Batch: of each file"
    ),
    Control(
        AUTOMATIC_THRESHOLD,
        "Automatic threshold",
        "switch",
        True,
        "the threshold that suits the head or method; a program that gives a threshold switches it off",
        basic=True,
    ),
)
BY_NAME: Mapping[str, Control] = {control.name: control for control in CONTROLS}
MASK_CONTROLS = tuple(name for name in BY_NAME if name in _MASK_OPTIONS or name == AUTOMATIC_THRESHOLD)


@dataclass(frozen=True, kw_only=True)
class PanelSettings:
    """The values of all controls, checked and grouped by what reads them."""

    enabled: bool
    prompts: tuple[str, ...]
    negatives: tuple[str, ...]
    method: str
    head: str
    mask: MaskOptions
    segment: SegmentOptions
    on_nothing: str
    append: bool
    # How to inpaint; None is as set in the tab.
    fill: int | None
    only_masked: bool | None
    padding: int | None
    mask_blur: int | None


def read_panel_settings(args: Sequence[Any]) -> PanelSettings:
    """Return the settings of the script's arguments, without the webui's settings page; see `read_values`."""
    return settings_of(read_values(args))


def read_values(args: Sequence[Any], defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the checked value of every control, by name.

    `args` are the script's arguments in order, or a single object with names, {"prompt": "bucket"}, which switches
    the script on unless it says otherwise. A value that is missing or None is taken from `defaults`, else from
    CONTROLS.

    Raises:
        OptionError: a value cannot be used; the text names its control.
    """
    defaults = defaults or {}
    # The API fills up with None what a request leaves out.
    values = {name: value for name, value in _by_name(args, defaults).items() if value is not None}
    # Who gives a threshold wants it.
    values = {AUTOMATIC_THRESHOLD: "threshold" not in values, **defaults, **values}
    return {name: control.read(values.get(name)) for name, control in BY_NAME.items()}


def read_value(name: str, value: Any) -> Any:
    """Return the checked value of one control; numbers in a text are checked too.

    Raises:
        OptionError: the value cannot be used; the text names the control.
    """
    checked = BY_NAME[name].read(value)
    if isinstance(_OPTIONS[name].default if name in _OPTIONS else None, tuple):
        _read_numbers(name, checked)
    return checked


def read_mask_options(values: Mapping[str, Any]) -> MaskOptions:
    """Return the options of the mask from the values of MASK_CONTROLS, by name.

    Raises:
        OptionError: a value cannot be used; the text names its control.
    """
    return _mask_options({name: BY_NAME[name].read(values.get(name)) for name in MASK_CONTROLS})


def settings_of(values: Mapping[str, Any], *, template: str = "") -> PanelSettings:
    """Return the settings from checked values of all controls; `template` is that of SegmentOptions.

    Raises:
        OptionError: numbers in a text cannot be read.
    """
    return PanelSettings(
        enabled=values["enabled"],
        prompts=split_prompts(values["prompt"]),
        negatives=split_prompts(values["negative_prompt"]),
        method=values["method"],
        head=values["head"],
        mask=_mask_options(values),
        segment=SegmentOptions(
            resolution=values["resolution"],
            timesteps=_read_numbers("timesteps", values["timesteps"]),
            seeds=_read_numbers("seeds", values["seeds"]) or (0,),
            refine=values["refine"],
            average_templates=values["average_templates"],
            template=template,
        ),
        on_nothing=values["on_nothing"],
        append=values["append"],
        fill=None if values["fill"] == AS_IN_THE_TAB else FILLS.index(values["fill"]),
        only_masked=None if values["area"] == AS_IN_THE_TAB else values["area"] == AREAS[1],
        # -1 stands for None, since a slider has no empty place.
        padding=None if values["padding"] < 0 else values["padding"],
        mask_blur=None if values["mask_blur"] < 0 else values["mask_blur"],
    )


def is_enabled(args: Sequence[Any]) -> bool:
    """Return whether the script is on, ignoring invalid values elsewhere."""
    if not args:
        return False
    return bool(_switched_on(args[0])["enabled"] if isinstance(args[0], Mapping) else args[0])


def _by_name(args: Sequence[Any], defaults: Mapping[str, Any]) -> Mapping[str, Any]:
    if len(args) > len(CONTROLS):
        raise OptionError(
            f"{TITLE} was given {len(args)} arguments, but it has {len(CONTROLS)}: {', '.join(BY_NAME)}. "
            "Leave the rest out."
        )
    if not args or not isinstance(args[0], Mapping):
        return dict(zip(BY_NAME, args, strict=False))
    for control, value in zip(CONTROLS[1:], args[1:], strict=False):
        # The webui fills up with what its page starts with; where there is a setting, that may be an old value.
        if value is not None and value != control.default and control.name not in defaults:
            raise OptionError(
                f"{TITLE} was given an object with names and, after it, {value!r} at the place of {control.name}. "
                "Give one object with names, or values in order, not both."
            )
    if unknown := sorted(args[0].keys() - BY_NAME.keys()):
        raise OptionError(f"{TITLE} has no control {unknown[0]!r}. Its controls are: {', '.join(BY_NAME)}.")
    return _switched_on(args[0])


def _switched_on(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return values in which `enabled` is true unless an object with names says otherwise."""
    return {**values, "enabled": True if values.get("enabled") is None else values["enabled"]}


def _mask_options(values: Mapping[str, Any]) -> MaskOptions:
    """Return the options of the mask from checked values, by name."""
    options = {name: values[name] for name in MASK_CONTROLS if name != AUTOMATIC_THRESHOLD}
    if values[AUTOMATIC_THRESHOLD]:
        options["threshold"] = None
    return MaskOptions(**{**options, "objects": _read_numbers("objects", values["objects"])})


def _read_numbers(name: str, text: str) -> tuple[int, ...]:
    """Return the numbers in the text of a control, checked against the range of its option.

    Raises:
        OptionError: something in the text is not a whole number, or out of range.
    """
    control, numbers = BY_NAME[name], []
    for part in text.replace(",", " ").split():
        try:
            numbers.append(int(part))
        except ValueError:
            example = "300 400" if name == "timesteps" else "1 2"
            raise OptionError(
                f"{control.title} is {text!r}, but it must be whole numbers, such as {example} "
                f"(default {control.default!r})."
            ) from None
    if not numbers:  # an empty text is fine, also where the option itself needs a number
        return ()
    try:
        checked: tuple[int, ...] = check_value(_OPTIONS[name], tuple(numbers), name)
    except OptionError as why:
        raise OptionError(f"{control.title} is {text!r}: {why}") from why
    return checked
