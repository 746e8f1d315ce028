"""The panel's components and where they stand; what they do is in callbacks.py, how they are wired in wiring.py.

The webui builds the panel once for its page and again, in throw-away Blocks, for the API's defaults. So nothing
of it is kept outside the Blocks that it belongs to.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr  # type: ignore[import-not-found,import-untyped,unused-ignore]
from gradio.context import Context  # type: ignore[import-not-found,import-untyped,unused-ignore]

from ldznet.webui import settings_page
from ldznet.webui.app import App
from ldznet.webui.controls import AS_IN_THE_TAB, AUTOMATIC_THRESHOLD, BY_NAME, CONTROLS, TITLE, Control
from ldznet.webui.page.gradio_versions import out_of_view
from ldznet.webui.page.page import Page
from ldznet.webui.panel.callbacks import AS_IN_TAB, Callbacks
from ldznet.webui.panel.messages import lines
from ldznet.webui.panel.wiring import wire
from ldznet.webui.session import Session

WELCOME = "Type what to select. Segment shows what is found; Generate repaints that only. Nothing else is needed."
WELCOME_ALONE = "Type what to select. Segment shows what is found; then move the threshold."


def build(session: Session, page: Page, elem_id: Callable[[str], str]) -> list[Any]:
    """Build the panel; return the components whose values the script's hooks get.

    These are the controls in the order of CONTROLS, and after them `chosen_in`, which belongs to the page.
    """
    callbacks = Callbacks(session, page)
    panel = _Layout(session, callbacks, page, elem_id)
    components = panel.build()
    # The first component of the webui's page, its prompt, comes before every script.
    if not page.components:
        _leave_open(components)
    root = Context.root_block
    page.when_complete(lambda: wire(root, components, page, callbacks))
    return [*(components[control.name] for control in CONTROLS), components["chosen_in"]]


def _leave_open(components: dict[str, Any]) -> None:
    """Give some controls no value, in the throw-away Blocks from which the API takes its defaults.

    What the settings page says is then read when a request comes, and a threshold is one that the request gives.
    """
    for name in (*settings_page.OF_CONTROLS, "threshold", AUTOMATIC_THRESHOLD):
        components[name].value = None


class _Layout:
    """The components by name, as they are made; a name is also the end of the component's elem_id."""

    def __init__(self, session: Session, callbacks: Callbacks, page: Page, elem_id: Callable[[str], str]) -> None:
        self._app: App = session.app
        self._settings_page = session.settings_page
        self._callbacks = callbacks
        self._elem_id = elem_id
        self._page = page
        # In the throw-away Blocks, which describe the API, and in gradio 6, which refuses values out of range, the
        # sliders have their whole range.
        self._is_on_webui = page.generates and bool(page.components)
        self._components: dict[str, Any] = {}

    def build(self) -> dict[str, Any]:
        """Make everything, from top to bottom."""
        components = self._components
        with self._app.accordion(label=TITLE, elem_id=self._elem_id("enabled")) as components["enabled"]:
            self._add_prompt()
            # Above all that may change its height, so that no slider moves away from the pointer.
            for row in (("threshold", AUTOMATIC_THRESHOLD), ("grow", "feather")):
                with self._app.form_row():
                    self._add_controls(*row)
            with self._page.result_column():
                self._add_result()
            with self._app.form_row():
                # Narrow enough that the button stays in the row when the page is 1200 px wide.
                self._add_controls("negative_prompt", "method", min_width=120)
                self._add_controls("head", choices=self._callbacks.head_names(), min_width=120)
                components["refresh"] = self._app.tool_button(
                    "\U0001f504", elem_id=self._elem_id("refresh"), tooltip="Look for heads again"
                )
            self._add_advanced()
            self._add_hidden()
        return components

    def _add_prompt(self) -> None:
        with gr.Row(elem_classes=["ldznet-words"], variant="compact"):
            # The buttons keep their width whatever the language; the prompt takes the rest of the row.
            self._add_controls("prompt", scale=5)
            button = {"scale": 1, "min_width": 130}
            self._add("segment", gr.Button, "Segment", variant="primary", **button)
            self._add("send", gr.Button, "Send to inpaint", visible=self._page.generates, **button)
            # The webui has Interrupt.
            self._add("cancel", gr.Button, "Cancel", visible=not self._page.generates, **button)

    def _add_result(self) -> None:
        welcome = WELCOME if self._page.generates else WELCOME_ALONE
        self._add_html("outdated", "", "ldznet-outdated")
        self._add_html("status", lines([welcome]), "ldznet-status")
        # Out of view until there is something to show. The order is that on the page: style.css puts two in a row.
        with gr.Column(
            elem_id=self._elem_id("preview"), elem_classes=["ldznet-preview"], visible=False
        ) as preview:
            self._add_html("overlay", "", "ldznet-picture", "ldznet-wide")
            self._add("enlarge", gr.Button, "Overlay at full size", size="sm", visible=False)
            for name in ("mask_picture", "heat"):
                self._add_html(name, "", "ldznet-picture")
            self._add_html("colors", "", "ldznet-picture", "ldznet-wide")
            for name in ("objects_picture", "choices"):
                self._add_html(name, "", "ldznet-picture")
        self._components["preview"] = preview

    def _add_advanced(self) -> None:
        row, part = self._app.form_row, partial(gr.Accordion, open=False)
        with part("Advanced", elem_id=self._elem_id("advanced")):
            with part("Mask", elem_id=self._elem_id("advanced_mask")):
                with row():
                    self._add_controls("invert", "largest_only", "fill_holes")
                with row():
                    self._add_controls("combine", "brush")
                with row():
                    self._add_controls("smallest_area")
                    self._add_controls("objects", info=self._help("objects"))
                self._add("cut_out", gr.Button, "Cut out what is selected", size="sm")
                self._add_html("cutout_picture", "", "ldznet-picture", "ldznet-cutout")
            with part("Search", elem_id=self._elem_id("advanced_search")):
                with row():
                    self._add_controls("refine", "average_templates")
                with row():
                    self._add_controls("resolution")
                with row():
                    self._add_controls("timesteps", "seeds")
                self._add("unload", gr.Button, "Unload: free the memory", size="sm")
            # Where nothing is repainted these are there, because CONTROLS has them, but out of view.
            inpainting = part(
                "Inpainting", elem_id=self._elem_id("advanced_inpainting"), visible=self._page.generates
            )
            with inpainting:
                with row():
                    self._add_controls("on_nothing", "append")
                with row():
                    self._add_controls("fill", "area")
                for name, switch in AS_IN_TAB.items():
                    with row():
                        label = f"{BY_NAME[name].label}: {AS_IN_THE_TAB}"
                        self._add(switch, gr.Checkbox, True, label=label)
                        self._components[switch].do_not_save_to_config = True
                        low = {"minimum": 0} if self._is_on_webui else {}
                        self._add_controls(name, visible=False, info=None, **low)

    def _help(self, name: str) -> str:
        """Return the help of a control, without what only a webui has."""
        text = BY_NAME[name].help
        return text if self._page.generates else text.split("; in Batch")[0]

    def _add_hidden(self) -> None:
        """Add hidden components that keep values between two events; JavaScript sets those that the page sends."""
        components = self._components
        # States stay on the server, one for each browser.
        for name, value in (("key", ""), ("given_mask", None), ("note", "")):
            components[name] = gr.State(value)
        label = "The page's own: leave it out"
        components["chosen_in"] = gr.Textbox("", visible=out_of_view(), label=label)
        components["tab"] = gr.Number(0, visible=out_of_view())
        for name in ("task", "asked", "shown", "view", "clicked"):
            self._add(name, gr.Textbox, "", visible=out_of_view())
        for name in ("chosen_in", "tab", "task", "asked", "shown", "view", "clicked"):
            components[name].do_not_save_to_config = True

    # --- one component -------------------------------------------------------------------------------

    def _add(self, name: str, kind: Callable[..., Any], *values: Any, **options: Any) -> None:
        self._components[name] = kind(*values, elem_id=self._elem_id(name), **options)

    def _add_html(self, name: str, value: str, *classes: str) -> None:
        self._add(name, gr.HTML, value, elem_classes=[*classes])

    def _add_controls(self, *names: str, **options: Any) -> None:
        for name in names:
            control = BY_NAME[name]
            more = dict(options)
            # A text has its help as placeholder; help below basic controls would make their rows higher.
            if control.help and control.kind not in ("text", "switch") and not control.basic:
                more.setdefault("info", control.help)
            value = self._settings_page.first_value(name)
            more = {**_arguments(control, more), "value": value, "label": control.label, **more}
            self._add(name, _KINDS[control.kind], **more)
            # ui-config.json would keep the first value for ever: whatever the settings page says, against an
            # automatic threshold, and as "replace", the default of before, against a painted mask.
            is_kept = name not in (*settings_page.OF_CONTROLS, AUTOMATIC_THRESHOLD, "brush")
            self._components[name].do_not_save_to_config = not is_kept


_KINDS: dict[str, Callable[..., Any]] = {
    "switch": gr.Checkbox,
    "text": gr.Textbox,
    "number": gr.Number,
    "slider": gr.Slider,
    "choice": gr.Dropdown,
}


def _arguments(control: Control, options: dict[str, Any]) -> dict[str, Any]:
    """Return gradio's arguments for a control of this kind, in addition to `options`."""
    if control.kind == "text":
        return {"lines": 1, "placeholder": "" if "info" in options else control.help}
    if control.kind == "number":
        return {"precision": 0, "minimum": control.low, "maximum": control.high}
    if control.kind == "slider":
        return {"minimum": control.low, "maximum": control.high, "step": control.step}
    if control.kind == "choice" and "choices" not in options:
        return {"choices": list(control.choices)}
    return {}
