"""Our script's arguments in a request of img2img, read before the webui reads them.

The webui passes on as many arguments as there are controls and forgets the rest, and of a script's object it looks
at "args" alone (api.py:338 of 1.10.1): what it leaves out, no hook of a run can refuse. So `watch` puts a check
before its route; nothing else of it is changed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.routing import APIRoute

from ldznet.errors import LdznetError, OptionError
from ldznet.webui.controls import TITLE, read_settings
from ldznet.webui.guard import sayable
from ldznet.webui.infotext import PREFIX
from ldznet.webui.passes import require_passes

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
                require_arguments(getattr(body, "alwayson_scripts", None), getattr(body, "infotext", None))
            except LdznetError as why:
                raise HTTPException(422, sayable(str(why))) from why
        return call(**given)

    return checked


def require_arguments(scripts: Any, infotext: str | None = None) -> None:
    """Check what the field alwayson_scripts of a request says of our script, also where that is switched off.

    The webui puts the settings of its field `infotext` where values in order stand, behind an object with names.

    Raises:
        OptionError: something of it would not be used, cannot be, or is too much; the text names it.
    """
    for name, said in scripts.items() if isinstance(scripts, Mapping) else ():
        if str(name).lower() != TITLE.lower():
            continue
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
        if args and isinstance(args[0], Mapping) and _says_ours(infotext):
            raise OptionError(
                f"The request says the settings of {TITLE} twice: in infotext, and by names in alwayson_scripts. "
                "Give one of them."
            )
        require_passes(read_settings(args))


def _says_ours(infotext: str | None) -> bool:
    """The webui reads the settings from the last line."""
    return re.search(rf"(^|,)\s*{PREFIX}[\w ]+:", (infotext or "").rstrip().rpartition("\n")[2]) is not None
