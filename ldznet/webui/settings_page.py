"""The section "LD-ZNet segment" of the webui's settings page: options that hold for every run.

Values are read whenever something is done, so that a change acts at once. A command-line flag wins over the
setting of the same name. A setting that is the default of a control is what the panel starts with, and what a
request of the API gets that leaves the control out.
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
from ldznet.options import Option, SegmentOptions, check_value
from ldznet.webui import controls
from ldznet.webui.app import App, GeneratingApp
from ldznet.webui.controls import BY_NAME, TITLE, PanelSettings

log = logging.getLogger(__name__)

PREFIX = "ldznet_"
IN_8_BITS = "int8"
PRECISIONS = ("auto", "float32", "float16", "bfloat16", IN_8_BITS)
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
    infotext: str | None = None  # the key in an image's parameters that overrides the setting
    restrict_api: bool = False  # no program may change it


def _default_of(name: str, label: str) -> Setting:
    """Return the setting that is the default of a control."""
    control = BY_NAME[name]
    return Setting(name, label, control.default, control.help, control.choices)


SETTINGS: tuple[Setting, ...] = (
    _default_of("method", "Method that the panel starts with"),
    # It names a folder to open, so only the person at the page may set it.
    Setting("heads", "Another folder with heads", "", "the flag --ldznet-heads wins", restrict_api=True),
    Setting(
        "precision",
        "Precision of heads",
        "auto",
        "auto: float32 on a CPU, else as in the head's file; int8: as auto, with weights in 8 bits, which take "
        "half the memory of 16; the flag --ldznet-precision wins",
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
    _default_of("average_templates", "Average nine sentences instead, unless the panel says otherwise"),
    _default_of("on_nothing", "If nothing is found, the panel starts with"),
    _default_of("append", "Append mask and overlay to the results, unless the panel says otherwise"),
    Setting(
        "save",
        "Save mask and overlay beside the picture",
        False,
        "named after the first picture of a run; only where the webui saves pictures",
    ),
)
_BY_NAME = {setting.name: setting for setting in SETTINGS}
OF_CONTROLS = tuple(name for name in _BY_NAME if name in BY_NAME)  # the controls that have a setting


def declare_settings(app: GeneratingApp) -> None:
    """Put the section on the page: the work of the callback `on_ui_settings`."""
    for setting in SETTINGS:
        app.declare_setting(
            PREFIX + setting.name,
            setting.label,
            setting.default,
            section=("ldznet", TITLE),
            help=setting.help,
            choices=setting.choices,
            infotext=setting.infotext,
            restrict_api=setting.restrict_api,
        )


class SettingsPage:
    """Reads the settings of an app, checked."""

    def __init__(self, app: App) -> None:
        self.app = app

    def value(self, name: str) -> Any:
        """Return the value of a setting.

        Raises:
            OptionError: the value cannot be used, such as one that a program has set.
        """
        setting = _BY_NAME[name]
        # Programs write settings too, by POST /sdapi/v1/options, where nothing checks them.
        option = Option(setting.default, choices=setting.choices)
        try:
            return check_value(
                option, self.app.option(PREFIX + name, setting.default), f"The setting {PREFIX}{name}"
            )
        except OptionError as why:
            raise OptionError(f'{why} Choose it in Settings, section "{TITLE}".') from why

    def first_value(self, name: str) -> Any:
        """Return what a control shows when the page opens; its default if the setting cannot be used.

        The error is shown when something is done with the setting.
        """
        if name not in _BY_NAME:
            return BY_NAME[name].default
        try:
            return self.value(name)
        except OptionError as why:
            log.warning("%s", why)
            return _BY_NAME[name].default

    def defaults(self) -> dict[str, Any]:
        """Return the value of each setting that is the default of a control, by name.

        Raises:
            OptionError: a value cannot be used.
        """
        return {name: self.value(name) for name in OF_CONTROLS}

    def template(self) -> str:
        """Return the sentence around the prompt; empty for the one that suits the method.

        Raises:
            OptionError: the sentence has no place for the prompt.
        """
        text = decode_template(self.value("template").strip())
        try:
            SegmentOptions(template=text)
        except OptionError as why:
            raise OptionError(f'Settings, section "{TITLE}", "{_BY_NAME["template"].label}": {why}') from why
        return text

    def precision(self) -> str:
        """Return the precision of heads: by the flag, else by the page."""
        # "auto" is also the flag's default, so an explicit --ldznet-precision auto counts as no flag.
        flag: str = self.app.flag("ldznet_precision") or "auto"
        return self.value("precision") if flag == "auto" else flag

    def heads_folder(self) -> str:
        """Return another folder with heads: by the flag, else by the page; empty if none is set."""
        flag: str = self.app.flag("ldznet_heads") or ""
        return flag or self.value("heads").strip()

    def read(
        self, args: Sequence[Any], changes: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], PanelSettings]:
        """Return the value of every control, and the Settings that these values and the page make together.

        `args` are the script's arguments. `changes` are values of single controls that win over the arguments,
        such as those of an X/Y/Z plot.

        Raises:
            OptionError: a value cannot be used; the text says which.
        """
        values = controls.read_values(args, self.defaults())
        # A change is checked as a whole, since the numbers in a text are read only with the settings.
        for name, value in (changes or {}).items():
            values[name] = controls.read_value(name, value)
            if name == "threshold":
                values[controls.AUTOMATIC_THRESHOLD] = False
        settings = controls.settings_of(values, template=self.template())
        # A plot over our controls means that the panel is on, whatever its switch says.
        return values, dataclasses.replace(settings, enabled=settings.enabled or bool(changes))


def decode_template(text: str) -> str:
    """Return the sentence that an image's parameters hold, decoded.

    A sentence that the webui would not read back is written as a JSON list (infotext.py).
    """
    if text.startswith('["'):
        with contextlib.suppress(ValueError):
            text = str(json.loads(text)[0])
    return text
