"""The panel's components and where they stand; what they do is in callbacks.py, how they are wired in wiring.py.

The webui builds the panel once for its page and again, in throw-away Blocks, for the API's defaults. So nothing
of it is kept outside the Blocks that it belongs to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr  # type: ignore[import-not-found,import-untyped,unused-ignore]
from gradio.context import Context  # type: ignore[import-not-found,import-untyped,unused-ignore]

from ldznet.webui import settings_page
from ldznet.webui.app import App
from ldznet.webui.controls import BY_NAME, CONTROLS, TITLE, Control
from ldznet.webui.page.gradio_versions import lossless_image
from ldznet.webui.page.page import Page
from ldznet.webui.panel.callbacks import Callbacks
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
    panel = _Layout(session, callbacks, elem_id, generates=page.generates)
    components = panel.build()
    # The first component of the webui's page, its prompt, comes before every script.
    if not page.components:
        _leave_open(components)
    root = Context.root_block
    page.when_complete(lambda: wire(root, components, page, callbacks))
    return [*(components[control.name] for control in CONTROLS), components["chosen_in"]]


def _leave_open(components: dict[str, Any]) -> None:
    """Give controls that have a setting no value, in the throw-away Blocks from which the API takes its defaults.

    What the settings page says is then read when a request comes.
    """
    for name in settings_page.OF_CONTROLS:
        components[name].value = None


class _Layout:
    """The components by name, as they are made; a name is also the end of the component's elem_id."""

    def __init__(
        self, session: Session, callbacks: Callbacks, elem_id: Callable[[str], str], *, generates: bool
    ) -> None:
        self._app: App = session.app
        self._settings_page = session.settings_page
        self._callbacks = callbacks
        self._elem_id = elem_id
        self._generates = generates
        self._components: dict[str, Any] = {}

    def build(self) -> dict[str, Any]:
        """Make everything, from top to bottom."""
        components = self._components
        with self._app.accordion(label=TITLE, elem_id=self._elem_id("enabled")) as components["enabled"]:
            self._add_prompt()
            welcome = WELCOME if self._generates else WELCOME_ALONE
            self._add("status", gr.HTML, lines([welcome]), elem_classes=["ldznet-status"])
            self._add_preview()
            with self._app.form_row():
                self._add_controls("threshold", "grow", "feather")
            self._add_choices()
            with self._app.form_row():
                self._add_controls("negative_prompt", "method")
                self._add_controls("head", choices=self._callbacks.head_names())
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
            self._add("send", gr.Button, "Send to inpaint", visible=self._generates, **button)

    def _add_preview(self) -> None:
        # Out of view until there is something to show.
        classes = ["ldznet-preview"]
        with gr.Row(elem_id=self._elem_id("preview"), elem_classes=classes, visible=False) as preview:
            for name, label in (("overlay", "Overlay"), ("mask_picture", "Mask"), ("heat", "Probability")):
                self._add_image(name, label, min_width=120)
            self._add_image("colors", "Several prompts", min_width=120, visible=False)
        self._components["preview"] = preview
        self._add("enlarge", gr.Button, "Overlay at full size", size="sm", min_width=120, visible=False)

    def _add_choices(self) -> None:
        with gr.Row(elem_classes=["ldznet-preview"]):
            self._add_image("objects_picture", "Objects: click to choose", min_width=200, visible=False)
            self._add(
                "choices",
                gr.Gallery,
                label="Other thresholds: click one",
                columns=3,
                object_fit="contain",
                allow_preview=False,  # a click chooses a threshold and opens nothing
                elem_classes=["ldznet-choices"],
                visible=False,
                min_width=200,
            )

    def _add_advanced(self) -> None:
        row = self._app.form_row
        with gr.Accordion("Advanced", open=False, elem_id=self._elem_id("advanced")):
            with row():
                self._add_controls("refine", "average_templates", "invert", "largest_only", "fill_holes")
            with row():
                self._add_controls("combine", "brush")
            with row():
                self._add_controls("smallest_area")
                self._add_controls("objects", info=BY_NAME["objects"].help)
            with row():
                self._add_controls("resolution", "timesteps", "seeds")
            # Where nothing is repainted these are there, because CONTROLS has them, but out of view.
            with gr.Column(visible=self._generates):
                with row():
                    self._add_controls("on_nothing", "append")
                gr.HTML("<b>Inpainting</b>, whatever the tab shows or hides", elem_classes=["ldznet-status"])
                with row():
                    self._add_controls("fill", "area")
                with row():
                    self._add_controls("padding", "mask_blur")
            self._add("cut_out", gr.Button, "Cut out what is selected", size="sm")
            self._add_image("cutout_picture", "Cutout", min_width=200, visible=False, image_mode="RGBA")
            self._add("unload", gr.Button, "Unload: free the memory", size="sm")

    def _add_hidden(self) -> None:
        """Add hidden components that keep values between two events; JavaScript sets `task` and `tab`."""
        components = self._components
        # States stay on the server, one for each browser; the other three are sent by the page.
        for name, value in (("key", ""), ("given_mask", None), ("offered", [])):
            components[name] = gr.State(value)
        components["chosen_in"] = gr.Textbox("", visible=False, label="The page's own: leave it out")
        components["task"], components["tab"] = gr.Textbox("", visible=False), gr.Number(0, visible=False)
        for name in ("chosen_in", "task", "tab"):
            components[name].do_not_save_to_config = True

    # --- one component -------------------------------------------------------------------------------

    def _add(self, name: str, kind: Callable[..., Any], *values: Any, **options: Any) -> None:
        self._components[name] = kind(*values, elem_id=self._elem_id(name), **options)

    def _add_image(self, name: str, label: str, **options: Any) -> None:
        self._add(name, gr.Image, label=label, type="pil", interactive=False, **options, **lossless_image())

    def _add_controls(self, *names: str, **options: Any) -> None:
        for name in names:
            control = BY_NAME[name]
            more = dict(options)
            # A text has its help as placeholder; help below basic controls would make their rows higher.
            if control.help and control.kind not in ("text", "switch") and not control.basic:
                more["info"] = control.help
            value = self._settings_page.first_value(name)
            self._add(
                name, _KINDS[control.kind], **_arguments(control, more), value=value, label=control.label, **more
            )
            # ui-config.json would keep the first value for ever, whatever the settings page says.
            self._components[name].do_not_save_to_config = name in settings_page.OF_CONTROLS


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
