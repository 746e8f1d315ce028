"""A panel without a browser: its values as the page holds them, and its events."""

import base64
import io
import re

import pytest
from PIL import Image

pytest.importorskip("gradio")

from ldznet.webui.controls import CONTROLS
from ldznet.webui.page import a1111
from ldznet.webui.page.tab_inputs import BATCH_FILES, BATCH_FOLDER
from ldznet.webui.panel.callbacks import Callbacks


def image_of(html):
    """Return the image in a figure of the panel."""
    data = re.search(r'<img src="data:image/(?:png|jpeg);base64,([^"]+)"', html).group(1)
    return Image.open(io.BytesIO(base64.b64decode(data)))


class Panel:
    """Keeps the values of components, as gradio does, and passes them to the events."""

    def __init__(self, session):
        self.session = session
        self.callbacks = Callbacks(session, a1111.A1111Page())
        self.values = {control.name: control.default for control in CONTROLS} | {"prompt": "bright"}
        self.values |= {"task": "", "tab": 0, "chosen_in": "", "key": "", "given_mask": None, "note": ""}
        self.values |= {"asked": "1", "drawn": None, "kind": "all", "clicked": ""}
        self.values |= {"padding_of_tab": True, "mask_blur_of_tab": True}
        self.values |= {a1111.SKETCH_BLUR: 4, a1111.SKETCH_TRANSPARENCY: 0, "status": ""}

    def segment(self, image, *, tab=0, before=None, event="segment", **changes):
        """Segment an image in a tab, after changes of controls; return what the event answers."""
        self.values |= changes
        inputs = [*(names[0] for names in a1111.TABS[:5]), BATCH_FILES, BATCH_FOLDER]
        self.values |= {name: None for names in a1111.TABS for name in names} | dict.fromkeys(inputs)
        self.values |= {inputs[tab]: image, "tab": tab, a1111.SKETCH_BEFORE: before}
        return self.do(event)

    def redraw(self, kind="all"):
        """Draw the mask anew, as if a control of it had changed; return the answer."""
        self.values |= {"drawn": None, "kind": kind}
        return self.do("redraw")

    def do(self, event):
        """Call an event and keep its answer; return it."""
        answer = getattr(self.callbacks, event)(self.values)
        for name, value in answer.items():
            is_update = isinstance(value, dict) and "__type__" in value
            self.values[name] = value.get("value", self.values.get(name)) if is_update else value
        if "view" in answer:
            self.values["drawn"] = self.session.views.get(answer["view"]).drawn
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
