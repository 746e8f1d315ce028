"""Axes of ours for the webui's X/Y/Z plot.

The plot copies `p` for each cell and lets the axes change the copy; what they say of our controls lies in an
attribute of `p`, from where process.py takes it. A cell that differs in the mask's options alone runs no network:
what was found is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ldznet.errors import LdznetError
from ldznet.webui import head_files
from ldznet.webui.controls import BY_NAME, Control, read_value
from ldznet.webui.refusals import refusal

PREFIX = "[LD-ZNet] "
_OURS = "ldznet_axes"
# control -> what the plot reads its values as, and how slow a change is: the slowest axis goes in the outer loop
_AXES: dict[str, tuple[Callable[[Any], Any], float]] = {
    "prompt": (str, 0.2),
    "negative_prompt": (str, 0.2),
    "method": (str, 0.5),
    "head": (str, 0.6),
    "timesteps": (int, 0.2),
    "threshold": (float, 0.0),
    "grow": (int, 0.0),
    "feather": (float, 0.0),
    "objects": (str, 0.0),
}


def add() -> None:
    """The work of the script's `show`, when all scripts are loaded and no page is built yet."""
    from modules import scripts  # type: ignore[import-not-found]

    for data in scripts.scripts_data:
        if Path(data.path).name == "xyz_grid.py" and hasattr(data.module, "AxisOptionImg2Img"):
            there = {option.label for option in data.module.axis_options}
            new = [_axis(data.module.AxisOptionImg2Img, name) for name in _AXES]
            data.module.axis_options.extend(option for option in new if option.label not in there)


def changes(p: Any) -> dict[str, Any]:
    """What a plot says of our controls, by name; empty outside of one."""
    return dict(getattr(p, _OURS, {}))


def _axis(kind: Callable[..., Any], name: str) -> Any:
    control, (read, cost) = BY_NAME[name], _AXES[name]

    def apply(p: Any, value: Any, _all: Sequence[Any]) -> None:
        setattr(p, _OURS, {**changes(p), name: _value(control, value)})

    def confirm(p: Any, values: Sequence[Any]) -> None:
        try:
            for value in values:
                read_value(name, _value(control, value))
                if name == "head":
                    head_files.require_head(value)
        except LdznetError as why:
            if getattr(p, "is_api", False):
                raise refusal(why) from why
            raise

    choices = {"method": lambda: list(control.choices), "head": head_files.head_names}.get(name)
    return kind(PREFIX + control.label, read, apply, confirm=confirm, cost=cost, choices=choices)


def _value(control: Control, value: Any) -> Any:
    """A timestep is a number in the plot and a text, for several, in the panel."""
    return str(value) if control.kind == "text" else value
