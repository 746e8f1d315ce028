"""Turn an exception into the answer that a program gets: a status and a text."""

from __future__ import annotations

import logging

from fastapi import HTTPException
from fastapi.exceptions import RequestValidationError

from ldznet.errors import LdznetError, OutOfMemoryError
from ldznet.webui.session import StoppedError, UnforeseenError

log = logging.getLogger(__name__)

_LONGEST_REFUSAL = 2000  # characters; a text may quote a value of the request


def refusal(why: Exception) -> HTTPException:
    """Return the answer to a request that failed; the status, 409, 422, 500 or 503, says whose fault it is."""
    if isinstance(why, RequestValidationError):
        return HTTPException(422, json_text(_name_fields(why)))
    # The order matters: these are kinds of LdznetError, which is answered as the program's own mistake below.
    if isinstance(why, OutOfMemoryError):
        return HTTPException(503, json_text(str(why)))
    if isinstance(why, StoppedError):
        return HTTPException(409, "The segmentation was interrupted in the webui. Send the request again.")
    if isinstance(why, UnforeseenError):
        return HTTPException(500, json_text(str(why)))
    if isinstance(why, LdznetError):
        return HTTPException(422, json_text(str(why)))
    # Nothing of an unforeseen exception but its name is sent: its text may hold paths of the server.
    log.error("A request failed", exc_info=why)
    return HTTPException(
        500,
        f"The request failed by a fault of ldznet ({type(why).__name__}). The webui's log has the details.",
    )


def _name_fields(why: RequestValidationError) -> str:
    """Return which fields are wrong; their values are not repeated, since they can be whole images."""
    problems: dict[str, list[str]] = {}
    for error in why.errors():
        place = [part for part in error["loc"] if part != "body"]  # pydantic 1 and 2 both name the body first
        name = str(place[0])[:80] if place and isinstance(place[0], str) else "the body"
        text = "is no field of this request" if "extra" in error["type"] else str(error["msg"])
        texts = problems.setdefault(name, [])
        if text not in texts:
            texts.append(text)
    lines = [f"{name}: {', or '.join(texts[:4])}" for name, texts in problems.items()]
    more = f"; and {len(lines) - 10} more" if len(lines) > 10 else ""
    return f"{'; '.join(lines[:10])}{more}. The fields are listed in /docs of the webui."


def json_text(text: str) -> str:
    """Return a text of limited length that JSON can hold, whatever a request has put into it."""
    plain = text.encode(errors="backslashreplace").decode()
    return plain if len(plain) <= _LONGEST_REFUSAL else f"{plain[:_LONGEST_REFUSAL]} ..."
