"""Write the panel's settings into the text below an image ("LD-ZNet threshold: 0.3"), and read them back.

Only values that differ from the control's default are written, and always the threshold that was used; an image
without one, of before thresholds were automatic, had 0.5. The webui quotes a value with a comma, a colon or
a new line in it (infotext_utils.py:57). A value that the webui would not read back as it was, such as a text in
quotes or 3x4, is written as a JSON list of one text.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ldznet.errors import LdznetError, OptionError
from ldznet.webui.controls import AUTOMATIC_THRESHOLD, BY_NAME, CONTROLS, Control, read_value
from ldznet.webui.settings_page import TEMPLATE_KEY

log = logging.getLogger(__name__)

PREFIX = "LD-ZNet "
FOUND = "LD-ZNet found"  # the report for programs; it is not in the text
# Any of our keys says "enabled", and the threshold that was used is written in place of "automatic".
_WRITTEN = tuple(control for control in CONTROLS if control.name not in ("enabled", AUTOMATIC_THRESHOLD))


class ReportForPrograms(dict[str, Any]):
    """A report that programs get in the `info` of the results, and that is not in the text below the images.

    The webui writes `p.extra_generation_params` into both. For the text it calls a value that can be called, and
    leaves out None (processing.py:790).
    """

    def __call__(self, **_: object) -> None:
        """Return None: no text."""


def key(name: str) -> str:
    """Return the key of a control: "LD-ZNet negative prompt" for "negative_prompt"."""
    return PREFIX + name.replace("_", " ")


def to_parameters(values: Mapping[str, Any], template: str = "") -> dict[str, str]:
    """Return the parameters for the text below an image, from the checked values of all controls.

    An automatic threshold is known only later: `set_threshold` writes it.
    """
    texts = {
        key(control.name): _encode(control, values[control.name])
        for control in _WRITTEN
        if values[control.name] != control.default
    }
    set_threshold(texts, values["threshold"])
    if template:
        texts[TEMPLATE_KEY] = _as_list(template) if template[0] in '"[' else template
    return texts


def set_threshold(params: dict[str, Any], threshold: float) -> None:
    """Write the threshold that was used."""
    params[key("threshold")] = str(threshold)


def clear(params: dict[str, Any]) -> None:
    """Remove our parameters, which an earlier file of Batch, or cell of a plot, has left."""
    for name in [name for name in params if name.startswith(PREFIX)]:
        del params[name]


def own_parameters(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return those parameters of an image that the panel has written."""
    return {name: value for name, value in params.items() if name.startswith(PREFIX)}


def is_ours(params: Mapping[str, Any]) -> bool:
    """Return whether an image with these parameters was made with the panel."""
    return any(name.startswith(PREFIX) for name in params)


def read_back(name: str, params: Mapping[str, Any]) -> Any:
    """Return a control's value from the parameters of an image; None leaves the control as it is.

    For an image that was made without the panel, the panel is switched off and nothing else changes.
    """
    if name == "enabled":
        return is_ours(params)
    if not is_ours(params):
        return None
    if name == AUTOMATIC_THRESHOLD:
        return False  # the image has a threshold of its own
    try:
        return _parameter_value(BY_NAME[name], params)
    except OptionError as why:
        log.warning("%s", why)
        return BY_NAME[name].default


def require_readable(params: Mapping[str, Any]) -> None:
    """Refuse values for which `read_back` would take the default.

    Raises:
        OptionError: a value cannot be used; the text says which.
    """
    for control in _WRITTEN:
        _parameter_value(control, params)


def _parameter_value(control: Control, params: Mapping[str, Any]) -> Any:
    if (text := params.get(key(control.name))) is None:
        return control.default
    try:
        return _decode(control, str(text))
    except (LdznetError, ValueError, LookupError, TypeError) as why:
        raise OptionError(f"{key(control.name)} in the picture's parameters cannot be used: {why}") from why


def fields(components: Sequence[Any]) -> list[tuple[Any, Callable[[Mapping[str, Any]], Any]]]:
    """Return the script's `infotext_fields`: components in the order of CONTROLS, each with its reader.

    The components after these say in which result the page's objects were chosen. The objects of an image's
    parameters were chosen in none that is shown, so these components become empty.
    """
    names = [control.name for control in CONTROLS]
    return [
        *((component, partial(read_back, name)) for name, component in zip(names, components, strict=False)),
        *((extra, lambda params: "" if is_ours(params) else None) for extra in components[len(names) :]),
    ]


def complete(_text: str, params: dict[str, Any]) -> None:
    """Do the work of the callback `on_infotext_pasted`: an image that names no sentence had the default one.

    The sentence has no control; the webui overrides the setting for the next runs.
    """
    if is_ours(params):
        params.setdefault(TEMPLATE_KEY, "")


# --- one value ---------------------------------------------------------------------------------------


def _encode(control: Control, value: Any) -> str:
    text = str(value)
    return _as_list(text) if _is_difficult(control, text) else text


def _as_list(text: str) -> str:
    return json.dumps([text], ensure_ascii=False)


def _is_difficult(control: Control, text: str) -> bool:
    """Return whether the webui would read back a text other than this one."""
    return (
        not text
        or text.strip() != text
        or text[:1] in ('"', "[")
        or text == key(control.name)  # it would write the key alone
        or re.fullmatch(r"\d+x\d+", text) is not None  # it would make two keys of it
        or not text.replace("\n", "").isprintable()  # such as a carriage return
    )


def _decode(control: Control, text: str) -> Any:
    if text.startswith("["):
        text = json.loads(text)[0]
    if control.kind in ("text", "choice"):
        value: Any = text
    elif control.kind == "switch":
        value = {"True": True, "False": False}.get(text, text)
    else:
        value = int(text) if isinstance(control.default, int) else float(text)
    return read_value(control.name, value)
