"""Add axes for our controls to the webui's X/Y/Z plot.

The plot copies `p` for each cell and lets the axes change the copy. The values of our controls are kept in an
attribute of `p`, from which hooks.py takes them. A cell that differs only in options of the mask runs no network,
since the session keeps its results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ldznet.errors import LdznetError
from ldznet.webui.app import GeneratingApp
from ldznet.webui.controls import BY_NAME, Control, read_value
from ldznet.webui.head_files import HeadFiles
from ldznet.webui.refusals import refusal

PREFIX = "[LD-ZNet] "
_ATTRIBUTE = "ldznet_axes"
# control -> the type as which the plot reads its values, and the cost of a change: the plot puts the axis with the
# highest cost into the outer loop
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


def add_axes(app: GeneratingApp, heads: HeadFiles) -> None:
    """Add our axes to the plot, once; call it when all scripts are loaded and no page is built yet."""
    for module in app.plot_modules():
        labels = {option.label for option in module.axis_options}
        # A start asks for it hundreds of times, once for each script.
        missing = [name for name in _AXES if _label(name) not in labels]
        module.axis_options.extend(_make_axis(module.AxisOptionImg2Img, name, heads) for name in missing)


def changes(p: Any) -> dict[str, Any]:
    """Return the values of our controls that a plot has set on `p`, by name; empty outside of a plot."""
    return dict(getattr(p, _ATTRIBUTE, {}))


def _make_axis(kind: Callable[..., Any], name: str, heads: HeadFiles) -> Any:
    control, (read, cost) = BY_NAME[name], _AXES[name]

    def apply(p: Any, value: Any, _all: Sequence[Any]) -> None:
        setattr(p, _ATTRIBUTE, {**changes(p), name: _control_value(control, value)})

    def confirm(p: Any, values: Sequence[Any]) -> None:
        try:
            for value in values:
                read_value(name, _control_value(control, value))
                if name == "head":
                    heads.require_name(value)
        except LdznetError as why:
            # The webui answers an exception of a plot with 500, but an HTTPException as it is.
            if getattr(p, "is_api", False):
                raise refusal(why) from why
            raise

    choices = {"method": lambda: list(control.choices), "head": heads.names}.get(name)
    return kind(_label(name), read, apply, confirm=confirm, cost=cost, choices=choices)


def _label(name: str) -> str:
    return PREFIX + BY_NAME[name].label


def _control_value(control: Control, value: Any) -> Any:
    """Return a value of the plot as the control has it: a timestep is a number there, and a text in the panel."""
    return str(value) if control.kind == "text" else value
