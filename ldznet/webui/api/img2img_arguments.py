"""Refuse in a request of img2img what the webui would drop silently.

The webui passes on as many arguments as there are controls and drops the rest, of a script's object it reads
only "args" (api.py:338 of 1.10.1), and it takes a short last line of `infotext` for a prompt. The run would start
without our script and repaint the whole image, and no hook of the run could notice. So `watch_img2img` puts a
check before the webui's route; everything else that is wrong, the hooks refuse.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.routing import APIRoute

from ldznet.errors import LdznetError, OptionError
from ldznet.webui import infotext
from ldznet.webui.app import GeneratingApp
from ldznet.webui.controls import CONTROLS, TITLE
from ldznet.webui.refusals import json_text

ROUTE = "/sdapi/v1/img2img"


def watch_img2img(fastapi_app: FastAPI, app: GeneratingApp) -> None:
    """Let the webui's route answer 422 to what it would drop."""
    for route in fastapi_app.routes:
        if isinstance(route, APIRoute) and route.path == ROUTE and route.dependant.call is not None:
            # FastAPI calls what the dependant names; the route's own `endpoint` is only for the schema.
            route.dependant.call = _checked(route.dependant.call, app)


def _checked(call: Callable[..., Any], app: GeneratingApp) -> Callable[..., Any]:
    @functools.wraps(call)
    def checked(**arguments: Any) -> Any:
        for body in arguments.values():  # whatever the webui calls its parameter
            try:
                require_script_object(getattr(body, "alwayson_scripts", None))
                require_infotext(app, getattr(body, "infotext", None))
            except LdznetError as why:
                raise HTTPException(422, json_text(str(why))) from why
        return call(**arguments)

    return checked


def require_script_object(scripts: Any) -> None:
    """Refuse an object of our script in `alwayson_scripts` of which the webui would use only a part.

    Raises:
        OptionError: something in it would be dropped; the text names it.
    """
    objects = scripts if isinstance(scripts, Mapping) else {}
    # The webui compares titles in lower case, and takes one of several.
    names = [name for name in objects if str(name).lower() == TITLE.lower()]
    if len(names) > 1:
        raise OptionError(
            f"alwayson_scripts has {TITLE} more than once ({', '.join(names)}), of which only one would be used. "
            "Give one of them."
        )
    for own in map(objects.get, names):
        if not isinstance(own, Mapping) or own.keys() - {"args"}:
            content = f"has {sorted(map(str, own))}" if isinstance(own, Mapping) else f"is {own!r}"
            raise OptionError(
                f'{TITLE} in alwayson_scripts {content}, but only "args" in an object is read. Give '
                '{"args": [{"prompt": "bucket"}]}.'
            )
        args = own.get("args", [])
        if args == []:
            raise OptionError(
                f"{TITLE} in alwayson_scripts has no values, so that the whole image would be repainted. Give "
                '{"args": [{"prompt": "bucket"}]}, or leave the script out.'
            )
        if not isinstance(args, list):
            raise OptionError(
                f'"args" of {TITLE} is {args!r}, but it must be a list: of one object with names, or of values '
                'in order. Give {"args": [{"prompt": "bucket"}]}.'
            )
        # After the controls GET script-info lists one value of the page, which is empty for programs.
        if any(value not in ("", None) for value in args[len(CONTROLS) :]) or len(args) > len(CONTROLS) + 1:
            raise OptionError(
                f'"args" of {TITLE} has {len(args)} values, but only the first {len(CONTROLS)} are used. Leave '
                "the rest out, or give one object with names."
            )


def require_infotext(app: GeneratingApp, text: str | None) -> None:
    """Refuse an `infotext` of whose parameters of ours the webui would use none, or another value.

    Raises:
        OptionError: they would be taken for a prompt, or cannot be used; the text says which.
    """
    if not text or infotext.PREFIX not in text:
        return
    parameters = app.parse_infotext(text)
    if infotext.is_ours(parameters):
        infotext.require_readable(parameters)
        return
    # With three parameters or more the last line is not a prompt (infotext_utils.py:255): would any be ours then?
    if infotext.is_ours(app.parse_infotext(f"{text.strip()}{', Steps: 1' * 3}")):
        raise OptionError(
            f"infotext has parameters of {TITLE}, but the webui takes a last line with fewer than three "
            "parameters for a prompt. Give the whole text of an image, or use alwayson_scripts."
        )
