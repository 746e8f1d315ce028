"""POST /ldznet/draw: the page's own route, which draws another mask of what a browser shows.

A step of a slider that goes through gradio renders the whole page of a webui several times. This route is there
with and without --api, and in `serve`. It needs no password: only the browser that shows a view knows its random
name (views.py).
"""

from __future__ import annotations

import json
from typing import Any, Literal

from fastapi import APIRouter, FastAPI, Response
from pydantic import BaseModel

from ldznet.errors import LdznetError
from ldznet.webui.api.guard import guarded_route
from ldznet.webui.controls import MASK_CONTROLS
from ldznet.webui.session import Session


class DrawRequest(BaseModel):
    """The view, and the values of the mask's controls."""

    view: str
    kind: Literal["mask", "all"]
    values: dict[str, Any]


def register_drawing(fastapi_app: FastAPI, session: Session) -> None:
    """Add the route to the application that serves the page."""
    router = APIRouter(route_class=guarded_route(session.app, needs_password=False))

    @router.post("/ldznet/draw", include_in_schema=False)
    def draw(request: DrawRequest) -> Response:
        """Draw another mask of what is shown."""
        return answer_drawing(session, request)

    fastapi_app.include_router(router)


def answer_drawing(session: Session, request: DrawRequest) -> Response:
    """Return what changes on the page, as JSON.

    Raises:
        LdznetError: the view is no longer cached.
    """
    view = session.views.get(request.view)
    if view is None:
        raise LdznetError(
            "What is shown is no longer cached: the program was started again, or the memory was freed. Press "
            "Segment again; then the controls act on it."
        )
    values = {name: request.values.get(name) for name in MASK_CONTROLS}
    text = json.dumps(view.draw(values, kind=request.kind))
    # A webui packs what is not marked as encoded: for images in base64 that takes longer than to send them.
    return Response(text, media_type="application/json", headers={"content-encoding": "identity"})
