"""A panel without a browser: its values as the page holds them, and its events."""

import pytest

pytest.importorskip("gradio")

from ldznet.webui.controls import CONTROLS
from ldznet.webui.page import a1111
from ldznet.webui.panel.callbacks import Callbacks


class Panel:
    """Keeps the values of components, as gradio does, and passes them to the events."""

    def __init__(self, session):
        self.callbacks = Callbacks(session, a1111.A1111Page())
        self.values = {control.name: control.default for control in CONTROLS} | {"prompt": "bright"}
        self.values |= {"task": "", "tab": 0, "chosen_in": "", "key": "", "given_mask": None, "offered": []}
        self.values |= {a1111.SKETCH_BLUR: 4, a1111.SKETCH_TRANSPARENCY: 0, "status": ""}

    def segment(self, image, *, tab=0, before=None, event="segment"):
        """Segment an image in a tab; return what the event answers."""
        self.values |= {name: None for names in a1111.TABS for name in names}
        self.values |= {a1111.TABS[tab][0]: image, "tab": tab, a1111.SKETCH_BEFORE: before}
        return self.do(event)

    def do(self, event, *click):
        """Call an event and keep its answer; return it."""
        answer = getattr(self.callbacks, event)(self.values, *click)
        for name, value in answer.items():
            is_update = isinstance(value, dict) and "__type__" in value
            self.values[name] = value.get("value", self.values.get(name)) if is_update else value
        return answer

    def arguments(self, **changes):
        """Return what the script's hooks get of this panel."""
        values = self.values | {"enabled": True} | changes
        return [values[name] for name in (*(control.name for control in CONTROLS), "chosen_in")]


@pytest.fixture
def session(webui, method):
    return webui.session


@pytest.fixture
def panel(session):
    return Panel(session)
