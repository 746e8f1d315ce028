"""The img2img tab of the page that the webui is building.

"Reload UI" builds a new page, so the adapter is kept on the Blocks that it belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ldznet.webui.page.a1111 import A1111Page
from ldznet.webui.page.forge import ForgePage
from ldznet.webui.page.img2img_tab import Img2imgTab
from ldznet.webui.page.reforge import ReforgePage
from ldznet.webui.webui_kind import Kind, webui_kind

# The page of any other webui is AUTOMATIC1111's.
_PAGES: Mapping[Kind, Callable[[], Img2imgTab]] = {
    "forge": ForgePage,
    "neo": ForgePage,
    "reforge": ReforgePage,
}
_ATTRIBUTE = "_ldznet_page"  # of the Blocks


def current_page() -> Img2imgTab:
    """Return the page that is being built."""
    from gradio.context import Context  # type: ignore[import-not-found,import-untyped,unused-ignore]

    root = Context.root_block
    if root is None:  # components are made for their values only, outside of any page
        return _make_page()
    if not hasattr(root, _ATTRIBUTE):
        setattr(root, _ATTRIBUTE, _make_page())
    page: Img2imgTab = getattr(root, _ATTRIBUTE)
    return page


def remember(component: Any, **options: Any) -> None:
    """Take a component that the webui has just made: the work of its callback `on_after_component`."""
    from gradio.context import Context

    if Context.root_block is None:
        return
    page = current_page()
    if name := page.name_of(component, options.get("elem_id")):
        page.add(name, component)


def _make_page() -> Img2imgTab:
    return _PAGES.get(webui_kind().kind, A1111Page)()
