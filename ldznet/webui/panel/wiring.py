"""Connect the panel's events to callbacks.py, with the names of the components that each reads and fills.

What needs no server runs in the browser (javascript/ldznet.js): whether what is shown belongs to the picture and
the words that are there now, and which value of a moving slider is drawn next. It is drawn by our own route
(api/drawing.py), since each event that gradio sends renders the whole page of a webui several times. Only Segment
sends an image: with gradio 3, an image among the inputs of an event is uploaded each time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ldznet.webui import settings_page
from ldznet.webui.controls import AUTOMATIC_THRESHOLD, BY_NAME, MASK_CONTROLS
from ldznet.webui.page.page import Page
from ldznet.webui.panel.callbacks import AS_IN_TAB, Callbacks
from ldznet.webui.panel.events import Events

CONTROL_NAMES = tuple(BY_NAME)
# Masks of other thresholds do not depend on these controls.
_WITHOUT_CHOICES = ("threshold", AUTOMATIC_THRESHOLD, "objects")
# On what a result depends in addition to the picture. Where a part has changed, the panel says which one.
_PARTS = {
    "another picture": (),
    "other words": ("prompt", "negative_prompt"),
    "another method": ("method", "head"),
    "other settings of the search": ("resolution", "timesteps", "seeds", "refine", "average_templates"),
}
_SEARCH = tuple(name for names in _PARTS.values() for name in names)
OUTDATED = "What is shown belongs to {}. Press Segment."

# Components that remember a result, and that only Segment fills.
RESULT = ("key", "given_mask", "note")
# What depends on the options of the mask.
PREVIEW = ("status", "overlay", "mask_picture", "colors", "objects_picture", "cutout_picture")
CHOICES = ("choices",)
REDRAWN = ("threshold", *PREVIEW, *CHOICES)
SEGMENTED = (
    *(*RESULT, "shown", "view", "chosen_in", "head", "objects", "threshold"),
    *(*PREVIEW, "preview", "enlarge", "heat", *CHOICES),
)

_HIDDEN: dict[str, Any] = {"show_progress": "hidden"}
# Not through the queue, which opens a connection for each event.
_AT_ONCE: dict[str, Any] = {**_HIDDEN, "queue": False}


def wire(blocks: Any, components: dict[str, Any], page: Page, callbacks: Callbacks) -> None:
    """Wire the panel's components, and those of the page around it, within the Blocks that hold both."""
    events = Events({**page.components, **components})
    scripts = Scripts(page)
    _wire_segment(events, page, callbacks, scripts)
    _wire_notice(events, page, scripts)
    _wire_mask(events, callbacks)
    for name in ("method", "head"):
        inputs = ("status", *CONTROL_NAMES)
        events.on(f"{name}.change", callbacks.explain_choice, inputs, ("status",), **_HIDDEN)
    for name, switch in AS_IN_TAB.items():
        events.on(f"{switch}.input", partial(callbacks.use_value, name), (switch,), (name,), **_AT_ONCE)
        events.on(f"{name}.change", partial(callbacks.show_value, name), (name,), (name, switch), **_AT_ONCE)
    events.on("refresh.click", callbacks.refresh_heads, (), ("head",))
    events.on("unload.click", callbacks.unload, (), ("status",))
    outputs = (*settings_page.OF_CONTROLS, "head", *AS_IN_TAB, *AS_IN_TAB.values())
    # Whenever somebody opens the page.
    events.on_load(blocks, callbacks.first_values, tuple(AS_IN_TAB), outputs, **_AT_ONCE)


class Scripts:
    """The JavaScript of the events: a call of a function in javascript/ldznet.js with what it needs to know."""

    def __init__(self, page: Page) -> None:
        self._page = json.dumps(
            {
                "pictures": page.picture_names,
                "large": page.large_names,
                "parts": _PARTS,
                "mask": MASK_CONTROLS,
                "redrawn": REDRAWN,
                "outdated": OUTDATED,
            }
        )

    def call(self, function: str, *more: str) -> Callable[[Sequence[str]], str]:
        """Return what makes the JavaScript for the names of the inputs."""
        arguments = "".join(f"{json.dumps(one)}, " for one in more)
        return lambda names: (
            f"(...values) => {function}({json.dumps(list(names))}, {self._page}, {arguments}values)"
        )


def _wire_segment(events: Events, page: Page, callbacks: Callbacks, scripts: Scripts) -> None:
    """Wire what runs the network."""
    request = ("task", "tab", "asked", *page.input_names, *CONTROL_NAMES, "chosen_in")
    before = scripts.call("ldznetBeforeSegment")
    # The page says itself that something runs: gradio's sign would lie over the images.
    clicks = [
        events.on(trigger, callbacks.segment, request, SEGMENTED, script=before, **_HIDDEN)
        for trigger in ("segment.click", "prompt.submit", "negative_prompt.submit")
    ]
    # Not through the queue, in which it would wait for what it should stop.
    events.on("cancel.click", callbacks.cancel, (), ("status",), **_AT_ONCE)
    if page.generates:
        outputs = (*page.output_names, "enabled", *SEGMENTED)
        send_event = events.on("send.click", callbacks.send, request, outputs, script=before, **_HIDDEN)
        clicks.append(send_event)
        events.then(send_event, None, ("status",), (), script=page.script_after_send)
    after = scripts.call("ldznetAfterSegment")
    for event in clicks:  # and not after one of JavaScript alone, whose end gradio 3 does not report
        events.then(event, None, _notice_inputs(page), _NOTICE_OUTPUTS, script=after)


def _notice_inputs(page: Page) -> tuple[str, ...]:
    """Return what tells whether what is shown is up to date, and what it is drawn with; no picture is sent."""
    pictures = [name for of_tab in page.picture_names for name in of_tab]
    return (*pictures, *_SEARCH, *MASK_CONTROLS, "shown", "view")


_NOTICE_OUTPUTS = ("outdated", *REDRAWN)


def _wire_notice(events: Events, page: Page, scripts: Scripts) -> None:
    """Wire what marks the result as out of date, and what draws it again while it is not."""
    inputs = _notice_inputs(page)
    kinds = {name: "mask" if name in _WITHOUT_CHOICES else "all" for name in MASK_CONTROLS}
    triggers = {**dict.fromkeys([*page.picture_events, *(f"{name}.change" for name in _SEARCH)], "")}
    triggers |= {f"{name}.change": kind for name, kind in kinds.items()}
    for trigger, kind in triggers.items():
        script = scripts.call("ldznetNotice", kind)
        events.on(trigger, None, inputs, _NOTICE_OUTPUTS, script=script, **_HIDDEN)
    # Who moves the slider takes over; in the browser alone, so that a run that begins right after it knows of it.
    events.on("threshold.input", None, (), (AUTOMATIC_THRESHOLD,), script=lambda _: "ldznetTakeOver", **_HIDDEN)


def _wire_mask(events: Events, callbacks: Callbacks) -> None:
    """Wire clicks on what is shown. A click sets a control, whose change does the rest."""
    inputs = (*RESULT, *MASK_CONTROLS)
    events.on("enlarge.click", callbacks.enlarge, inputs, ("status", "overlay"), **_HIDDEN)
    events.on("cut_out.click", callbacks.cut_out, inputs, ("status", "cutout_picture"), **_HIDDEN)
    outputs = ("objects", "chosen_in", "status")
    events.on("clicked.change", callbacks.choose_object, (*inputs, "clicked"), outputs, **_AT_ONCE)
