"""The one session of AUTOMATIC1111's webui, for the script, which "Reload UI" runs again."""

from __future__ import annotations

from functools import cache

from ldznet.hosts.a1111.host import A1111Host
from ldznet.webui.app import A1111App
from ldznet.webui.session import Session


@cache
def webui_app() -> A1111App:
    """Return the door to the webui in which this process runs, always the same one."""
    return A1111App()


@cache
def webui_session() -> Session:
    """Return the webui's session, always the same one, so that a reload keeps the loaded head and the results."""
    app = webui_app()
    return Session(app, lambda sd_model: A1111Host(app.webui_modules(), sd_model))
