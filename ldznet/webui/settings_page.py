"""The section "LD-ZNet segment" of the webui's settings page: what holds for every run.

Values are read whenever something is done, so that a change acts at once. A flag of the command line wins over the
setting of the same thing. What stands here as a default of a control is what the panel starts with, and what a
call of the API gets that does not give the control.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ldznet.errors import OptionError
from ldznet.options import SegmentOptions
from ldznet.webui import controls
from ldznet.webui.controls import BY_NAME, TITLE, Settings

log = logging.getLogger(__name__)

PREFIX = "ldznet_"
PRECISIONS = ("auto", "float32", "float16", "bfloat16")
RESTS = ("GPU", "CPU", "unloaded")
TEMPLATE_KEY = "LD-ZNet template"


@dataclass(frozen=True)
class Setting:
    """One line of the page; its key in the webui's settings is "ldznet_" and the name."""

    name: str
    label: str
    default: Any
    help: str = ""
    choices: tuple[str, ...] = ()
    infotext: str | None = None  # a picture's parameters with this key override the setting
    of_the_page_alone: bool = False  # no program may change it


def _of_control(name: str, label: str) -> Setting:
    control = BY_NAME[name]
    return Setting(name, label, control.default, control.help, control.choices)


SETTINGS: tuple[Setting, ...] = (
    _of_control("method", "Method that the panel starts with"),
    # What names a folder to open is left to whoever has the page.
    Setting("heads", "Another folder with heads", "", "the flag --ldznet-heads wins", of_the_page_alone=True),
    Setting(
        "precision",
        "Precision of heads",
        "auto",
        "auto: float32 on a CPU, else as in the head's file; the flag --ldznet-precision wins",
        PRECISIONS,
    ),
    Setting(
        "rest",
        "Where the head stays between runs",
        "GPU",
        "GPU: quickest; CPU: it comes to the GPU for its own step only; unloaded: read from the disk anew for "
        "every run. With --medvram and --lowvram GPU is the same as CPU",
        RESTS,
    ),
    Setting(
        "template",
        "Sentence around the prompt",
        "",
        "{} stands for the prompt; empty: what the head was trained with",
        infotext=TEMPLATE_KEY,
    ),
    _of_control("average_templates", "Average nine sentences instead, unless the panel says otherwise"),
    _of_control("on_nothing", "If nothing is found, the panel starts with"),
    _of_control("append", "Append mask and overlay to the results, unless the panel says otherwise"),
    Setting(
        "save",
        "Save mask and overlay beside the picture",
        False,
        "named after the first picture of a run; only where the webui saves pictures",
    ),
)
_BY_NAME = {setting.name: setting for setting in SETTINGS}
OF_CONTROLS = tuple(name for name in _BY_NAME if name in BY_NAME)  # what the panel starts with


def declare() -> None:
    """The work of the callback `on_ui_settings`: put the section on the page."""
    import gradio as gr  # type: ignore[import-not-found,import-untyped,unused-ignore]
    from modules import shared  # type: ignore[import-not-found]

    for setting in SETTINGS:
        more: dict[str, Any] = {"infotext": setting.infotext} if setting.infotext else {}
        more |= {"restrict_api": True} if setting.of_the_page_alone else {}
        if setting.choices:
            more |= {"component": gr.Radio, "component_args": {"choices": list(setting.choices)}}
        option = shared.OptionInfo(setting.default, setting.label, section=("ldznet", TITLE), **more)
        shared.opts.add_option(PREFIX + setting.name, option.info(setting.help) if setting.help else option)


def setting(name: str) -> Any:
    """What the page says now.

    Raises:
        OptionError: it cannot be used, as when a program has set it.
    """
    from modules import shared

    known = _BY_NAME[name]
    value = getattr(shared.opts, PREFIX + name, known.default)
    if type(value) is not type(known.default) or (known.choices and value not in known.choices):
        wanted = f"one of {', '.join(known.choices)}" if known.choices else f"a {_KINDS[type(known.default)]}"
        raise OptionError(
            f"The setting {PREFIX}{name} is {value!r}, but it must be {wanted} (default {known.default!r}). "
            f'Choose it in Settings, section "{TITLE}".'
        )
    return value


_KINDS = {str: "text", bool: "switch, true or false"}


def unpacked(text: str) -> str:
    """A sentence that a picture names; one that the webui would not read back is in a JSON list (infotext.py)."""
    if text.startswith('["'):
        with contextlib.suppress(ValueError):
            text = str(json.loads(text)[0])
    return text


def template() -> str:
    """The sentence around the prompt; empty for what the method was made with.

    Raises:
        OptionError: it has no place for the prompt.
    """
    text: str = unpacked(setting("template").strip())
    try:
        SegmentOptions(template=text)
    except OptionError as why:
        raise OptionError(f'Settings, section "{TITLE}", "{_BY_NAME["template"].label}": {why}') from why
    return text


def defaults() -> dict[str, Any]:
    """Of the controls that the page has a setting for: name -> value.

    Raises:
        OptionError: see `setting`.
    """
    return {name: setting(name) for name in OF_CONTROLS}


def first_value(name: str) -> Any:
    """What is shown of a setting, or by a control when the page opens: its default if it cannot be used.

    That is told when something is done.
    """
    if name not in _BY_NAME:
        return BY_NAME[name].default
    try:
        return setting(name)
    except OptionError as why:
        log.warning("%s", why)
        return _BY_NAME[name].default


def read(args: Sequence[Any], changes: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], Settings]:
    """The script's arguments -> the value of every control, and Settings; with what the page says of the rest.

    `changes` are values of single controls that stand above the arguments, as of an X/Y/Z plot.

    Raises:
        OptionError: a value cannot be used; the text says which.
    """
    values = controls.read_values(args, defaults())
    for name, value in (changes or {}).items():
        values[name] = controls.read_value(name, value)
    found = controls.settings_of(values, template=template())
    return values, dataclasses.replace(found, enabled=found.enabled or bool(changes))


# --- what the command line may have said too ---------------------------------------------------------


def precision() -> str:
    """By the flag, else by the page."""
    from modules import shared

    given: str = getattr(shared.cmd_opts, "ldznet_precision", None) or "auto"
    return setting("precision") if given == "auto" else given


def folder() -> str:
    """Another folder with heads, by the flag, else by the page; empty if there is none."""
    from modules import shared

    given: str = getattr(shared.cmd_opts, "ldznet_heads", None) or ""
    return given or setting("heads").strip()
