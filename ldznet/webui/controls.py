"""Every control of the panel, once: for the page, for the script's arguments over the API, and for `Settings`.

The order of CONTROLS is the order of the script's arguments and of GET /sdapi/v1/script-info. Ranges, defaults and
help of masks and segmentations stand in options.py; here they get a label. Nothing here knows of gradio, of the
webui or of models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ldznet.errors import LdznetError, OptionError
from ldznet.methods.registry import METHOD_NAMES
from ldznet.options import MaskOptions, Options, SegmentOptions

Kind = Literal["switch", "text", "slider", "number", "choice"]

TITLE = "LD-ZNet segment"
AUTOMATIC = "automatic"
AS_IN_THE_TAB = "as set in the tab"
ON_NOTHING = ("stop", "empty mask", "without inpainting")
FILLS = ("fill", "original", "latent noise", "latent nothing")  # in the order of the webui's numbers
AREAS = ("whole picture", "only masked")


@dataclass(frozen=True)
class Control:
    """One control; `low` to `high` for numbers, `choices` for choices. `basic` ones are always in view."""

    name: str
    label: str
    kind: Kind
    default: Any
    help: str = ""
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()
    basic: bool = False

    def read(self, value: Any) -> Any:
        """What the page or the API has sent, checked; None is the default.

        Raises:
            OptionError: it cannot be used; the text names the control.
        """
        if value is None:
            return self.default
        return _READ[self.kind](self, value)

    @property
    def called(self) -> str:
        """For a refusal: as on the page and, where that is another, by the name that programs know."""
        alike = self.label.lower().replace(" ", "_") == self.name
        return self.label if alike else f"{self.label} ({self.name})"

    def refuse(self, value: Any, wanted: str) -> OptionError:
        """The error for a value that cannot be used."""
        return OptionError(f"{self.called} is {value!r}, but it must be {wanted} (default {self.default!r}).")


def _read_switch(control: Control, value: Any) -> bool:
    if not isinstance(value, bool):
        raise control.refuse(value, "true or false")
    return value


def _read_text(control: Control, value: Any) -> str:
    if not isinstance(value, str):
        raise control.refuse(value, "a text")
    return value


def _read_number(control: Control, value: Any) -> float | int:
    whole = isinstance(control.default, int)
    wanted = f"a {'whole ' if whole else ''}number from {control.low:g} to {control.high:g}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise control.refuse(value, wanted)
    if control.low is None or control.high is None or not control.low <= value <= control.high:
        raise control.refuse(value, wanted)
    if whole and value != int(value):
        raise control.refuse(value, wanted)
    return int(value) if whole else float(value)


def _read_choice(control: Control, value: Any) -> str:
    if not isinstance(value, str) or (control.choices and value not in control.choices):
        raise control.refuse(value, "one of " + ", ".join(control.choices) if control.choices else "a text")
    return value


_READ = {
    "switch": _read_switch,
    "text": _read_text,
    "slider": _read_number,
    "number": _read_number,
    "choice": _read_choice,
}


def _drawn(name: str, label: str, *, basic: bool = False, **changes: Any) -> Control:
    """A control of a field of MaskOptions or SegmentOptions: kind, default, range and help are the field's."""
    field = next(item for item in dataclasses.fields(_source(name)) if item.name == name)  # type: ignore[arg-type]
    meta = field.metadata
    kind: Kind = "slider"
    if isinstance(field.default, bool):
        kind = "switch"
    elif meta["choices"]:
        kind = "choice"
    control = Control(
        name,
        label,
        kind,
        field.default,
        meta["help"],
        meta["low"],
        meta["high"],
        meta["step"],
        meta["choices"],
        basic,
    )
    return dataclasses.replace(control, **changes)


def _source(name: str) -> type[Options]:
    return MaskOptions if name in _names(MaskOptions) else SegmentOptions


def _names(kind: type[Options]) -> tuple[str, ...]:
    return tuple(item.name for item in dataclasses.fields(kind))  # type: ignore[arg-type]


def _listed(name: str, label: str, default: str, hint: str) -> Control:
    """Several numbers in a text."""
    return _drawn(name, label, kind="text", default=default, low=None, high=None, step=None, help=hint)


CONTROLS: tuple[Control, ...] = (
    Control("enabled", TITLE, "switch", False, "find the mask anew whenever a picture is generated", basic=True),
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
    _drawn("threshold", "Threshold", basic=True),
    _drawn("grow", "Grow or shrink (px)", basic=True),
    _drawn("feather", "Feather (px)", basic=True),
    _drawn("invert", "Invert"),
    _drawn("smallest_area", "Smallest area (px)", kind="number"),
    _drawn("largest_only", "Largest part only"),
    _drawn("fill_holes", "Fill holes"),
    _drawn("combine", "Several prompts", help="all, what they share, or the first without the others"),
    _drawn("brush", "Painted or uploaded mask", help="what the words do with a mask that is there"),
    _drawn("resolution", "Resolution", help="0: what suits the method"),
    _listed("timesteps", "Timesteps", "", "what suits the method"),
    _listed("seeds", "Seeds of the mask", "0", "several, 0 1, are averaged"),
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
    _drawn("refine", "Refine small things"),
    _drawn("average_templates", "Average nine sentences"),
    _listed(
        "objects", "Objects", "", "by number, 1 is the largest; several: 1 3; none: all; in Batch: of each file"
    ),
)
BY_NAME: Mapping[str, Control] = {control.name: control for control in CONTROLS}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the controls say. Of the inpaint settings, None is: as set in the tab."""

    enabled: bool
    prompts: tuple[str, ...]
    negatives: tuple[str, ...]
    method: str
    head: str
    mask: MaskOptions
    segment: SegmentOptions
    on_nothing: str
    append: bool
    fill: int | None
    only_masked: bool | None
    padding: int | None
    mask_blur: int | None


def read_settings(args: Sequence[Any]) -> Settings:
    """The script's arguments -> Settings, without what the webui's settings say; see `read_values`."""
    return settings_of(read_values(args))


def read_values(args: Sequence[Any], defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The script's arguments -> the checked value of every control, by name.

    What is missing or None has its default: of `defaults`, where that has the control, else of CONTROLS. Over the
    API a single object with names, {"prompt": "bucket"}, will do too; it is enabled unless it says not.

    Raises:
        OptionError: a value cannot be used; the text names its control.
    """
    defaults = defaults or {}
    given = {name: value for name, value in _named(args, defaults).items() if value is not None}
    values = {**defaults, **given}
    return {name: control.read(values.get(name)) for name, control in BY_NAME.items()}


def read_value(name: str, value: Any) -> Any:
    """One control's value, checked as a whole: numbers in a text too.

    Raises:
        OptionError: it cannot be used; the text names the control.
    """
    checked = BY_NAME[name].read(value)
    settings_of({**{control.name: control.default for control in CONTROLS}, name: checked})
    return checked


def settings_of(values: Mapping[str, Any], *, template: str = "") -> Settings:
    """Checked values of all controls -> Settings; `template` as in SegmentOptions.

    Raises:
        OptionError: numbers in a text cannot be read.
    """
    objects = _integers(BY_NAME["objects"], values["objects"])
    return Settings(
        enabled=values["enabled"],
        prompts=split_prompts(values["prompt"]),
        negatives=split_prompts(values["negative_prompt"]),
        method=values["method"],
        head=values["head"],
        mask=MaskOptions(**{**{name: values[name] for name in _names(MaskOptions)}, "objects": objects}),
        segment=SegmentOptions(
            resolution=values["resolution"],
            timesteps=_integers(BY_NAME["timesteps"], values["timesteps"]),
            seeds=_integers(BY_NAME["seeds"], values["seeds"]) or (0,),
            refine=values["refine"],
            average_templates=values["average_templates"],
            template=template,
        ),
        on_nothing=values["on_nothing"],
        append=values["append"],
        fill=None if values["fill"] == AS_IN_THE_TAB else FILLS.index(values["fill"]),
        only_masked=None if values["area"] == AS_IN_THE_TAB else values["area"] == AREAS[1],
        padding=None if values["padding"] < 0 else values["padding"],
        mask_blur=None if values["mask_blur"] < 0 else values["mask_blur"],
    )


def is_enabled(args: Sequence[Any]) -> bool:
    """Whether there is anything to do; needs no other value to be right."""
    if not args:
        return False
    return bool(_switched(args[0])["enabled"] if isinstance(args[0], Mapping) else args[0])


def _named(args: Sequence[Any], defaults: Mapping[str, Any]) -> Mapping[str, Any]:
    if len(args) > len(CONTROLS):
        raise OptionError(
            f"{TITLE} was given {len(args)} arguments, but it has {len(CONTROLS)}: {', '.join(BY_NAME)}. "
            "Leave the rest out."
        )
    if args and isinstance(args[0], Mapping):
        for control, value in zip(CONTROLS[1:], args[1:], strict=False):
            # The webui fills up with what its page starts with; where there is a setting, it may be an old one.
            if value is not None and value != control.default and control.name not in defaults:
                raise OptionError(
                    f"{TITLE} was given an object with names and, after it, {value!r}, which stands where "
                    f"{control.name} stands. Give one object with names, or values in order, not both."
                )
        if unknown := sorted(args[0].keys() - BY_NAME.keys()):
            raise OptionError(f"{TITLE} has no control {unknown[0]!r}. Those there are: {', '.join(BY_NAME)}.")
        return _switched(args[0])
    return dict(zip(BY_NAME, args, strict=False))


def _switched(named: Mapping[str, Any]) -> Mapping[str, Any]:
    """An object switches on by itself, also where it leaves the switch open."""
    return {**named, "enabled": True if named.get("enabled") is None else named["enabled"]}


def split_prompts(text: str) -> tuple[str, ...]:
    """ "bucket | red hat" -> its parts, without the empty ones."""
    return tuple(part.strip() for part in text.split("|") if part.strip())


def _integers(control: Control, text: str) -> tuple[int, ...]:
    found = []
    for part in text.replace(",", " ").split():
        try:
            found.append(int(part))
        except ValueError:
            example = "300 400" if control.name == "timesteps" else "1 2"
            raise control.refuse(text, f"whole numbers, such as {example}") from None
    return tuple(_checked(control, text, found))


def _checked(control: Control, text: str, numbers: list[int]) -> list[int]:
    """The range stands in the options, which do not know how the control is called."""
    kind = _source(control.name)
    try:
        if numbers:
            kind(**{control.name: tuple(numbers)})
    except LdznetError as why:
        raise OptionError(f"{control.called} is {text!r}: {why}") from why
    return numbers
