"""Text for the panel's status line, as HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable

# style.css colours it, and JavaScript looks for it before it opens another tab.
_ERROR_CLASS = "ldznet-error"


def error(text: object) -> str:
    """Return a message that cannot be overlooked."""
    return f'<div class="{_ERROR_CLASS}">{html.escape(str(text))}</div>'


def is_error(status: str | None) -> bool:
    """Return whether a status shows an error."""
    return _ERROR_CLASS in (status or "")


def lines(texts: Iterable[str]) -> str:
    """Return several lines."""
    return "".join(f"<div>{html.escape(text)}</div>" for text in texts)


def of_result(first: str, texts: Iterable[str]) -> str:
    """Return a sentence or an error in HTML, with room for two lines, and lines below."""
    return f'<div class="ldznet-first">{first}</div>{lines(texts)}'
