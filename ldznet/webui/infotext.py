"""The panel's settings in the text below a picture ("LD-ZNet threshold: 0.3"), and back into the panel.

Only what is not the control's own default is written. The webui quotes a value that has a comma, a colon or a
new line in it (infotext_utils.py:57), and what would not come back from it as it was, such as a text in quotes or
3x4, is written as a JSON list of one text.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ldznet.errors import LdznetError, OptionError
from ldznet.webui.controls import BY_NAME, CONTROLS, Control, read_value
from ldznet.webui.settings_page import TEMPLATE_KEY

log = logging.getLogger(__name__)

PREFIX = "LD-ZNet "
FOUND = "LD-ZNet found"  # what was found, for programs; in no text
_WRITTEN = tuple(control for control in CONTROLS if control.name != "enabled")  # any key says that


class Answer(dict[str, Any]):
    """Goes to programs with the results' `info`, and stays out of the text below the pictures.

    The webui writes what is in `p.extra_generation_params` into both. A value that can be called is asked for its
    text, and None is no text (processing.py:790).
    """

    def __call__(self, **_: object) -> None:
        """Nothing for the text."""


def key(name: str) -> str:
    """ "negative_prompt" -> "LD-ZNet negative prompt"."""
    return PREFIX + name.replace("_", " ")


def written(values: Mapping[str, Any], template: str = "") -> dict[str, str]:
    """Checked values of all controls -> what goes into the text below the picture."""
    texts = {
        key(control.name): _encoded(control, values[control.name])
        for control in _WRITTEN
        if values[control.name] != control.default
    }
    return {**texts, TEMPLATE_KEY: _listed(template) if template[0] in '"[' else template} if template else texts


def clear(params: dict[str, Any]) -> None:
    """Take away what an earlier file of a batch, or cell of a plot, has left."""
    for name in [name for name in params if name.startswith(PREFIX)]:
        del params[name]


def ours(params: Mapping[str, Any]) -> dict[str, Any]:
    """What of a picture's parameters is ours."""
    return {name: value for name, value in params.items() if name.startswith(PREFIX)}


def is_ours(params: Mapping[str, Any]) -> bool:
    """Whether a picture with these parameters was made with the panel."""
    return any(name.startswith(PREFIX) for name in params)


def read_back(name: str, params: Mapping[str, Any]) -> Any:
    """A control's value by the parameters of a picture; None leaves it as it is.

    Of a picture that was made without the panel, nothing is known but that it was off.
    """
    if name == "enabled":
        return is_ours(params)
    if not is_ours(params):
        return None
    try:
        return _written_value(BY_NAME[name], params)
    except OptionError as why:
        log.warning("%s", why)
        return BY_NAME[name].default


def require_readable(params: Mapping[str, Any]) -> None:
    """Refuse what `read_back` would take the default for.

    Raises:
        OptionError: a value cannot be used; the text says which.
    """
    for control in _WRITTEN:
        _written_value(control, params)


def _written_value(control: Control, params: Mapping[str, Any]) -> Any:
    if (text := params.get(key(control.name))) is None:
        return control.default
    try:
        return _decoded(control, str(text))
    except (LdznetError, ValueError, LookupError, TypeError) as why:
        raise OptionError(f"{key(control.name)} in the picture's parameters cannot be used: {why}") from why


def fields(components: Sequence[Any]) -> list[tuple[Any, Callable[[Mapping[str, Any]], Any]]]:
    """For the script's `infotext_fields`: components, in the order of CONTROLS, with what reads their values.

    What comes behind these is the page's own: a picture's numbers of objects were chosen in nothing that is shown.
    """
    names = [control.name for control in CONTROLS]
    return [
        *((component, partial(read_back, name)) for name, component in zip(names, components, strict=False)),
        *((own, lambda params: "" if is_ours(params) else None) for own in components[len(names) :]),
    ]


def complete(_text: str, params: dict[str, Any]) -> None:
    """The work of the callback `on_infotext_pasted`: a sentence that a picture does not name is the default one.

    It has no control; the webui overrides the setting for the next runs.
    """
    if is_ours(params):
        params.setdefault(TEMPLATE_KEY, "")


# --- one value ---------------------------------------------------------------------------------------


def _encoded(control: Control, value: Any) -> str:
    text = str(value)
    return _listed(text) if _is_difficult(control, text) else text


def _listed(text: str) -> str:
    return json.dumps([text], ensure_ascii=False)


def _is_difficult(control: Control, text: str) -> bool:
    """Whether the webui would read another text back."""
    return (
        not text
        or text.strip() != text
        or text[:1] in ('"', "[")
        or text == key(control.name)  # it would write the key alone
        or re.fullmatch(r"\d+x\d+", text) is not None  # it would make two keys of it
        or not text.replace("\n", "").isprintable()  # a carriage return, above all
    )


def _decoded(control: Control, text: str) -> Any:
    if text.startswith("["):
        text = json.loads(text)[0]
    if control.kind in ("text", "choice"):
        value: Any = text
    elif control.kind == "switch":
        value = {"True": True, "False": False}.get(text, text)
    else:
        value = int(text) if isinstance(control.default, int) else float(text)
    return read_value(control.name, value)
