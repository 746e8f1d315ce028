"""Connect the panel's events to callbacks.py, with the names of the components that each reads and fills."""

from __future__ import annotations

from typing import Any

from ldznet.webui import settings_page
from ldznet.webui.controls import BY_NAME, MASK_CONTROLS
from ldznet.webui.page.page import Page
from ldznet.webui.panel.callbacks import Callbacks
from ldznet.webui.panel.events import Events

CONTROL_NAMES = tuple(BY_NAME)
# Masks of other thresholds do not depend on these two controls.
_WITHOUT_CHOICES = ("threshold", "objects")

# Components that remember a result, that depend on the options of the mask, and that only Segment fills.
RESULT = ("key", "given_mask")
PREVIEW = (
    "status",
    "preview",
    "overlay",
    "mask_picture",
    "colors",
    "objects_picture",
    "enlarge",
    "cutout_picture",
)
CHOICES = ("choices", "offered")
SEGMENTED = (*RESULT, "chosen_in", "head", "objects", *PREVIEW, "heat", *CHOICES)

_HIDDEN: dict[str, Any] = {"show_progress": "hidden"}


def wire(blocks: Any, components: dict[str, Any], page: Page, callbacks: Callbacks) -> None:
    """Wire the panel's components, and those of the page around it, within the Blocks that hold both."""
    events = Events({**page.components, **components})
    _wire_segment(events, page, callbacks)
    _wire_mask(events, callbacks)
    for name in ("method", "head"):
        inputs = ("status", *CONTROL_NAMES)
        events.on(f"{name}.change", callbacks.explain_choice, inputs, ("status",), **_HIDDEN)
    events.on("refresh.click", callbacks.refresh_heads, (), ("head",))
    events.on("unload.click", callbacks.unload, (), ("status",))
    # Whenever somebody opens the page; not through the queue, which opens a connection for each event.
    events.on_load(blocks, callbacks.first_values, (*settings_page.OF_CONTROLS, "head"), queue=False, **_HIDDEN)


def _wire_segment(events: Events, page: Page, callbacks: Callbacks) -> None:
    """Wire what runs the network."""
    request = ("task", "tab", *page.input_names, *CONTROL_NAMES, "chosen_in")
    script = page.script_before_segment
    for trigger in ("segment.click", "prompt.submit", "negative_prompt.submit"):
        events.on(trigger, callbacks.segment, request, SEGMENTED, script=script)
    if page.generates:
        send_event = events.on(
            "send.click", callbacks.send, request, (*page.output_names, *SEGMENTED), script=script
        )
        events.then(send_event, None, ("status",), (), script=page.script_after_send)


def _wire_mask(events: Events, callbacks: Callbacks) -> None:
    """Wire what draws another mask of the same result. A click sets a control, whose change does the rest."""
    inputs = (*RESULT, *MASK_CONTROLS)
    for name in MASK_CONTROLS:
        if name in _WITHOUT_CHOICES:
            events.on(f"{name}.change", callbacks.redraw, inputs, PREVIEW, **_HIDDEN)
        else:
            events.on(f"{name}.change", callbacks.redraw_all, inputs, (*PREVIEW, *CHOICES), **_HIDDEN)
    events.on("enlarge.click", callbacks.enlarge, inputs, ("status", "overlay"))
    events.on("cut_out.click", callbacks.cut_out, inputs, ("status", "cutout_picture"))
    click_event = events.on(
        "choices.select", callbacks.choose_threshold, ("offered",), ("threshold", "choices"), **_HIDDEN
    )
    events.then(click_event, callbacks.show_choices, ("offered",), ("choices",), **_HIDDEN)
    outputs = ("objects", "chosen_in", "status")
    events.on("objects_picture.select", callbacks.choose_object, inputs, outputs, **_HIDDEN)
