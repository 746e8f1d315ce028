"""Turn an exception into the answer that a program gets: a status and a text."""

from __future__ import annotations

import logging

from fastapi import HTTPException
from fastapi.exceptions import RequestValidationError

from ldznet.errors import LdznetError, OutOfMemoryError
from ldznet.webui import session

log = logging.getLogger(__name__)


def refusal(why: Exception) -> HTTPException:
    """What a program is answered, by whose fault it is: 409, 422, 500 or 503, with a text."""
    if isinstance(why, RequestValidationError):
        return HTTPException(422, sayable(_named(why)))
    if isinstance(why, OutOfMemoryError):
        return HTTPException(503, sayable(str(why)))
    if isinstance(why, session.StoppedError):
        return HTTPException(409, "The segmentation was interrupted in the webui. Ask again.")
    if isinstance(why, session.UnforeseenError):
        return HTTPException(500, sayable(str(why)))
    if isinstance(why, LdznetError):
        return HTTPException(422, sayable(str(why)))
    log.error("A request failed", exc_info=why)
    return HTTPException(
        500,
        f"The request failed by a fault of ldznet ({type(why).__name__}). The webui's log has the whole story.",
    )


def _named(why: RequestValidationError) -> str:
    """Which fields are wrong; their values are not repeated, they can be whole pictures."""
    problems: dict[str, list[str]] = {}
    for error in why.errors():
        place = [part for part in error["loc"] if part != "body"]
        name = str(place[0])[:80] if place and isinstance(place[0], str) else "the body"
        text = "is no field of this request" if "extra" in error["type"] else str(error["msg"])
        found = problems.setdefault(name, [])
        if text not in found:
            found.append(text)
    listed = [f"{name}: {', or '.join(texts[:4])}" for name, texts in problems.items()]
    more = f"; and {len(listed) - 10} more" if len(listed) > 10 else ""
    return f"{'; '.join(listed[:10])}{more}. The fields are listed in /docs of the webui."


def sayable(text: str) -> str:
    """A text that fits into JSON, whatever strangers have put into it, and is not endless."""
    plain = text.encode(errors="backslashreplace").decode()
    return plain if len(plain) <= 2000 else f"{plain[:2000]} ..."
