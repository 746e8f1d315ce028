"""What stands before each of our routes: the host's name and password, the length of a body, errors that say why.

`GuardedRoute` knows nothing of what the routes do. A body is read after all that its head alone can refuse.
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

from ldznet.webui.limits import LONGEST_BODY
from ldznet.webui.refusals import refusal, sayable

Answer = Callable[[Request], Coroutine[Any, Any, Response]]

# FastAPI says no more than that there was an error.
_UNREADABLE = (
    "The body cannot be read: JSON must be text in UTF-8, not nested hundreds deep, and without numbers of "
    "thousands of digits. Send one JSON object; its fields are listed in /docs of the webui."
)


class GuardedRoute(APIRoute):
    """A route that refuses with 400, 401, 409, 413, 422, 500 or 503 and a text; never the end of the server."""

    def get_route_handler(self) -> Answer:
        """FastAPI asks for it once."""
        handle: Answer = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                authorize(request.headers.get("authorization", ""))
                return await handle(_bounded(request))
            except AnyHTTPException as why:  # FastAPI's is one of them
                if why.status_code == 400 and why.__cause__ is not None:
                    raise HTTPException(400, _UNREADABLE) from why
                raise
            except Exception as why:
                raise refusal(why) from why

        return guarded


class ShownBasic(HTTPBasic):
    """Basic authentication for the schema, and for the log-in of /docs, alone: FastAPI's takes ASCII only."""

    def __init__(self) -> None:
        super().__init__(scheme_name="HTTPBasic", auto_error=False)

    async def __call__(self) -> None:  # type: ignore[override]
        """The guard has looked already."""


def authorize(header: str) -> None:
    """By `--api-auth` of the webui, which is user:password, several with commas between them.

    Raises:
        HTTPException: 401, name or password is wrong or missing.
    """
    from modules import shared  # type: ignore[import-not-found]

    known = getattr(shared.cmd_opts, "api_auth", None)
    if not known:
        return
    scheme, _, token = header.partition(" ")
    try:
        given = base64.b64decode(token, validate=True) if scheme.lower() == "basic" else b""
    except ValueError:
        given = b""
    # All are compared, in constant time: how long it takes tells nothing.
    if sum([secrets.compare_digest(given, one.encode()) for one in known.split(",") if ":" in one]):
        return
    raise HTTPException(
        401,
        "Name or password is wrong or missing. This webui was started with --api-auth: send one of its pairs by "
        "HTTP basic authentication.",
        headers={"WWW-Authenticate": "Basic"},
    )


def _bounded(request: Request) -> Request:
    """The same request, whose body may not be longer than LONGEST_BODY, whatever its head says."""
    _require_length(_length(request))
    read = 0

    async def receive() -> Any:
        nonlocal read
        message = await request.receive()
        read += len(message.get("body", b""))
        _require_length(read)
        return message

    return Request(request.scope, receive)


def _length(request: Request) -> int:
    text = request.headers.get("content-length", "0")
    if not text.isdecimal() or len(text) > 18:
        raise HTTPException(400, f"The Content-Length is {sayable(text[:40])!r}, which is no length of a body.")
    return int(text)


def _require_length(length: int) -> None:
    if length > LONGEST_BODY:
        raise HTTPException(
            413,
            f"The request has {length:,} bytes or more, but at most {LONGEST_BODY:,} are read. Send a smaller "
            "picture, or the same as JPEG or WebP.",
        )
