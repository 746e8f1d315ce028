"""The door and the one session of the webui that this process runs in, for the script.

"Reload UI" runs the script again, but not this file.
"""

from __future__ import annotations

from functools import cache

from ldznet.webui.app import GeneratingApp
from ldznet.webui.session import Session
from ldznet.webui.webui_kind import webui_kind


@cache
def webui_app() -> GeneratingApp:
    """Return the door to the webui in which this process runs, always the same one."""
    # A webui's start need not read the files for others. One that is not known is refused by the script, in the
    # words of `webui_kind().reason`.
    match webui_kind().kind:
        case "forge" | "neo":
            from ldznet.webui.forge_app import ForgeApp

            return ForgeApp()
        case "reforge":
            from ldznet.webui.reforge_app import ReforgeApp

            return ReforgeApp()
        case _:
            from ldznet.webui.a1111_app import A1111App

            return A1111App()


@cache
def webui_session() -> Session:
    """Return the webui's session, always the same one, so that a reload keeps the loaded head and the results."""
    app = webui_app()
    return Session(app, app.make_host)
