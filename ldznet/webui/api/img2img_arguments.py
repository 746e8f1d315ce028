"""Our script's arguments in a request of img2img, read before the webui reads them.

The webui passes on as many arguments as there are controls and forgets the rest, and of a script's object it looks
at "args" alone (api.py:338 of 1.10.1): what it leaves out, no hook of a run can refuse. So `watch` puts a check
before its route; nothing else of it is changed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.routing import APIRoute

from ldznet.errors import LdznetError, OptionError
from ldznet.webui import infotext, settings_page
from ldznet.webui.controls import CONTROLS, TITLE, read_settings
from ldznet.webui.refusals import sayable
from ldznet.webui.request_cost import require_passes

ROUTE = "/sdapi/v1/img2img"


def watch(app: FastAPI) -> None:
    """Let the webui's img2img refuse with 422 what it would leave out."""
    for route in app.routes:
        if isinstance(route, APIRoute) and route.path == ROUTE and route.dependant.call is not None:
            route.dependant.call = _checked(route.dependant.call)


def _checked(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def checked(**given: Any) -> Any:
        for body in given.values():
            try:
                params = read_infotext(getattr(body, "infotext", None))
                require_arguments(getattr(body, "alwayson_scripts", None), params)
                _complete(body, params)
            except LdznetError as why:
                raise HTTPException(422, sayable(str(why))) from why
        return call(**given)

    return checked


def read_infotext(text: str | None) -> Mapping[str, Any]:
    """The field `infotext` as the webui will read it; empty if nothing of it is ours.

    Raises:
        OptionError: what is ours in it would be taken for a prompt, or cannot be used; the text names it.
    """
    if not text or infotext.PREFIX not in text:
        return {}
    from modules import infotext_utils  # type: ignore[import-not-found]

    params: dict[str, Any] = infotext_utils.parse_generation_parameters(text)
    if infotext.is_ours(params):
        infotext.require_readable(params)
        return params
    # Of three settings and more the last line is no prompt (infotext_utils.py:255): would any be ours then?
    if infotext.is_ours(infotext_utils.parse_generation_parameters(f"{text.strip()}{', Steps: 1' * 3}")):
        raise OptionError(
            f"infotext has settings of {TITLE}, but the webui takes a last line with fewer than three settings "
            "for a prompt. Give the whole text of a picture, or use alwayson_scripts."
        )
    return {}


def _complete(body: Any, params: Mapping[str, Any]) -> None:
    """A sentence that a picture does not name is the default one; for programs the webui asks no callback."""
    if params and settings_page.TEMPLATE_KEY not in params:
        body.override_settings = {f"{settings_page.PREFIX}template": "", **(body.override_settings or {})}


def require_arguments(scripts: Any, params: Mapping[str, Any]) -> None:
    """Check what the field alwayson_scripts of a request says of our script, also where that is switched off.

    The webui puts `params`, of its field `infotext`, where values in order stand, behind an object with names.

    Raises:
        OptionError: something of it would not be used, cannot be, or is too much; the text names it.
    """
    given = scripts if isinstance(scripts, Mapping) else {}
    names = [name for name in given if str(name).lower() == TITLE.lower()]
    if len(names) > 1:
        raise OptionError(
            f"alwayson_scripts has {TITLE} more than once ({', '.join(names)}), of which one would be used. Give "
            "one of them."
        )
    for said in map(given.get, names):
        if not isinstance(said, Mapping) or said.keys() - {"args"}:
            found = f"has {sorted(map(str, said))}" if isinstance(said, Mapping) else f"is {said!r}"
            raise OptionError(
                f'{TITLE} in alwayson_scripts {found}, but only "args" in an object is read. Give '
                '{"args": [{"prompt": "bucket"}]}.'
            )
        args = said.get("args", [])
        if not isinstance(args, list):
            raise OptionError(
                f'"args" of {TITLE} is {args!r}, but it must be a list: of one object with names, or of values in '
                'order. Give {"args": [{"prompt": "bucket"}]}.'
            )
        if args and isinstance(args[0], Mapping) and params:
            raise OptionError(
                f"The request says the settings of {TITLE} twice: in infotext, and by names in alwayson_scripts. "
                "Give one of them."
            )
        require_passes(read_settings(_without_pages_own(args)))


def _without_pages_own(args: list[Any]) -> list[Any]:
    """Behind the controls GET script-info shows what belongs to the page; programs may send it back as it is."""
    return args[:-1] if len(args) == len(CONTROLS) + 1 and args[-1] in ("", None) else args
