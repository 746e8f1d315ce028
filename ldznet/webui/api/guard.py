"""Guard our routes: check name and password and the body, and answer errors with a reason.

Nothing here knows what the routes do. A body is read only after all checks that need no more than its headers, and
parsed only after its values were counted, since the server answers nobody else while it parses.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Coroutine, Mapping
from typing import Any
from urllib.parse import urlsplit

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBasic
from starlette.exceptions import HTTPException as AnyHTTPException

from ldznet.webui.app import App
from ldznet.webui.limits import LONGEST_BODY, MOST_SIGNS, MOST_VALUES
from ldznet.webui.refusals import json_text, refusal

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

# All bytes but quotes and commas, which `require_few_values` looks at.
_OTHER_BYTES = bytes(set(range(256)) - set(b'",'))

# FastAPI says no more than that there was an error.
_UNREADABLE = (
    "The body cannot be read: JSON must be text in UTF-8, not nested hundreds deep, and without numbers of "
    "thousands of digits. Send one JSON object; its fields are listed in /docs of the webui."
)


def guarded_route(app: App, *, needs_password: bool = True) -> type[APIRoute]:
    """Return a class of routes that refuse with 400, 401, 403, 409, 413, 422, 500 or 503 and a text."""

    class GuardedRoute(APIRoute):
        """A route behind the guard."""

        def get_route_handler(self) -> Handler:
            """Return the guarded handler; FastAPI asks for it once."""
            handle: Handler = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                try:
                    # Here and not in a dependency: FastAPI reads the body before it runs dependencies.
                    if needs_password:
                        authorize(app.flag("api_auth"), request.headers.get("authorization", ""))
                    bounded = _bounded(request)
                    if self.body_field is not None:  # the other routes read no body
                        require_few_values(await bounded.body())  # the request keeps its body for FastAPI
                    return await handle(bounded)
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


def require_few_values(body: bytes) -> None:
    """Refuse JSON of more values than any request has, before parsing it, which would take seconds and memory.

    Each step here is one pass in C over the body, so that 96 MB take a fraction of a second.

    Raises:
        HTTPException: 400, the body is not UTF-8; 422, it has too many values.
    """
    if b"\0" in body:  # UTF-16 and UTF-32, which Python's json would read as well
        raise HTTPException(400, _UNREADABLE)
    # Of values without commas between them only nested ones can be many, and Python refuses to nest deep.
    commas = body.count(b",")
    if commas <= MOST_VALUES:
        return
    # Prompts may have commas too, so those outside of the texts are counted, unless that would take long itself.
    if commas + body.count(b'"') + body.count(b"\\") <= MOST_SIGNS:
        # An escaped quote does not end its text, and an escaped backslash escapes nothing.
        plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
        outside = plain.translate(None, _OTHER_BYTES).split(b'"')[::2]
        if sum(map(len, outside)) <= MOST_VALUES:
            return
    raise HTTPException(
        422,
        f"The JSON of the request has more than {MOST_VALUES:,} fields and items, or texts with more than "
        f"{MOST_SIGNS:,} commas, quotes and backslashes. No request needs so many: send one object with the "
        "fields that are listed in /docs of the webui.",
    )


def require_own_site(headers: Mapping[str, str]) -> None:
    """Refuse a request that a browser sends for a page of another site; programs send neither header.

    Raises:
        HTTPException: 403, the headers name another site.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        is_foreign = site.strip().lower() not in ("same-origin", "none")
    else:  # browsers send Sec-Fetch-Site only over HTTPS and to localhost
        is_foreign = origin is not None and not _is_host(origin, headers.get("host", ""))
    if is_foreign:
        raise HTTPException(
            403,
            "A page of another site asked for this, so it was refused: no other site may free this webui's "
            "memory. Use the panel on the webui's own page, or send the request with a program such as curl.",
        )


def _is_host(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.strip().lower()
    except ValueError:  # a broken address is nobody's
        return False
