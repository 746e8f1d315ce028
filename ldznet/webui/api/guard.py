"""Guard our routes: check name and password and the length of a body, and answer errors with a reason.

Nothing here knows what the routes do. A body is read only after all checks that need no more than its headers.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBasic
from starlette.exceptions import HTTPException as AnyHTTPException

from ldznet.webui.app import App
from ldznet.webui.limits import LONGEST_BODY
from ldznet.webui.refusals import json_text, refusal

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

# FastAPI says no more than that there was an error.
_UNREADABLE = (
    "The body cannot be read: JSON must be text in UTF-8, not nested hundreds deep, and without numbers of "
    "thousands of digits. Send one JSON object; its fields are listed in /docs of the webui."
)


def guarded_route(app: App) -> type[APIRoute]:
    """Return a class of routes that refuse with 400, 401, 409, 413, 422, 500 or 503 and a text."""

    class GuardedRoute(APIRoute):
        """A route behind the guard."""

        def get_route_handler(self) -> Handler:
            """Return the guarded handler; FastAPI asks for it once."""
            handle: Handler = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                try:
                    # Here and not in a dependency: FastAPI reads the body before it runs dependencies.
                    authorize(app.flag("api_auth"), request.headers.get("authorization", ""))
                    return await handle(_bounded(request))
                except AnyHTTPException as why:  # FastAPI's is one of them
                    # FastAPI answers an unreadable body with a text that says nothing.
                    if why.status_code == 400 and why.__cause__ is not None:
                        raise HTTPException(400, _UNREADABLE) from why
                    raise
                except Exception as why:
                    raise refusal(why) from why

            return guarded

    return GuardedRoute


class DocumentedBasic(HTTPBasic):
    """Basic authentication that only the schema and the log-in of /docs see: FastAPI's own takes ASCII only."""

    def __init__(self) -> None:
        super().__init__(scheme_name="HTTPBasic", auto_error=False)

    async def __call__(self) -> None:  # type: ignore[override]
        """Do nothing: the guard has checked the request already."""


def authorize(pairs: str | None, header: str) -> None:
    """Check name and password in the header Authorization.

    `pairs` is the flag --api-auth of the webui: user:password, several with commas between them.

    Raises:
        HTTPException: 401, name or password is wrong or missing.
    """
    if not pairs:
        return
    scheme, _, token = header.partition(" ")
    try:
        credentials = base64.b64decode(token, validate=True) if scheme.lower() == "basic" else b""
    except ValueError:
        credentials = b""
    # All pairs are compared, each in constant time, so that the time of an answer says nothing.
    if sum([secrets.compare_digest(credentials, pair.encode()) for pair in pairs.split(",") if ":" in pair]):
        return
    raise HTTPException(
        401,
        "Name or password is wrong or missing. This webui was started with --api-auth: send one of its pairs by "
        "HTTP basic authentication.",
        headers={"WWW-Authenticate": "Basic"},
    )


def _bounded(request: Request) -> Request:
    """Return the same request, whose body may not be longer than LONGEST_BODY, whatever its headers say."""
    _require_length(_length(request))
    read = 0  # a body may be longer than its headers say, or have no length at all

    async def receive() -> Any:
        nonlocal read
        message = await request.receive()
        read += len(message.get("body", b""))
        _require_length(read)
        return message

    return Request(request.scope, receive)


def _length(request: Request) -> int:
    text = request.headers.get("content-length", "0")
    if not text.isdecimal() or len(text) > 18:  # int() takes long for endless numbers
        raise HTTPException(400, f"The Content-Length is {json_text(text[:40])!r}, which is no length of a body.")
    return int(text)


def _require_length(length: int) -> None:
    if length > LONGEST_BODY:
        raise HTTPException(
            413,
            f"The request has {length:,} bytes or more, but at most {LONGEST_BODY:,} are read. Send a smaller "
            "image, or the same one as JPEG or WebP.",
        )
