"""The door and the one session of the webui that this process runs in, for the script.

"Reload UI" runs the script again, but not this file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from ldznet.webui.a1111_app import A1111App
from ldznet.webui.app import GeneratingApp
from ldznet.webui.forge_app import ForgeApp
from ldznet.webui.reforge_app import ReforgeApp
from ldznet.webui.session import Session
from ldznet.webui.webui_kind import Kind, webui_kind

# A webui that is not in the list is refused by the script, in the words of `webui_kind().reason`.
_APPS: Mapping[Kind, Callable[[], GeneratingApp]] = {
    "a1111": A1111App,
    "forge": ForgeApp,
    "neo": ForgeApp,
    "reforge": ReforgeApp,
}


@cache
def webui_app() -> GeneratingApp:
    """Return the door to the webui in which this process runs, always the same one."""
    return _APPS[webui_kind().kind]()


@cache
def webui_session() -> Session:
    """Return the webui's session, always the same one, so that a reload keeps the loaded head and the results."""
    app = webui_app()
    return Session(app, app.make_host)
