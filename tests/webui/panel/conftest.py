"""A panel without a browser: its values as the page holds them, and its events."""

import asyncio

import pytest

pytest.importorskip("gradio")

from ldznet.webui.controls import CONTROLS
from ldznet.webui.page import tab_inputs
from ldznet.webui.page.a1111 import A1111Page
from ldznet.webui.panel.callbacks import Callbacks


class Panel:
    """Keeps the values of components, as gradio does, and passes them to the events."""

    def __init__(self, session):
        self.callbacks = Callbacks(session, A1111Page())
        self.values = {control.name: control.default for control in CONTROLS} | {"prompt": "bright"}
        self.values |= {"task": "", "tab": 0, "chosen_in": "", "key": "", "given_mask": None, "offered": []}
        self.values |= {tab_inputs.SKETCH_BLUR: 4, tab_inputs.SKETCH_TRANSPARENCY: 0, "status": ""}

    def segment(self, image, *, tab=0, before=None, event="segment"):
        """Segment an image in a tab; return what the event answers."""
        self.values |= dict.fromkeys(tab_inputs.IMAGES)
        self.values |= {tab_inputs.TABS[tab][0]: image, "tab": tab, tab_inputs.SKETCH_BEFORE: before}
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


@pytest.fixture
def closed_loops(monkeypatch):
    """Close the event loops that gradio makes with every Blocks, and forgets."""
    loops, make = [], asyncio.new_event_loop

    def make_and_note():
        loops.append(make())
        return loops[-1]

    monkeypatch.setattr(asyncio, "new_event_loop", make_and_note)
    yield
    for loop in loops:
        loop.close()
