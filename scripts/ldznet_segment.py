"""The script that the webui loads: its hooks go to ldznet.webui; what is broken there breaks nothing here."""

import logging

import gradio as gr
from modules import script_callbacks, scripts

try:
    from ldznet.webui import infotext, session, settings_page
    from ldznet.webui.api import routes
    from ldznet.webui.controls import TITLE
    from ldznet.webui.panel import layout
    from ldznet.webui.run import axes, hooks
except Exception as why:
    logging.getLogger(__name__).exception("ldznet cannot be loaded")
    # Under its own name the API would take it for a script without arguments, and repaint the whole picture.
    layout, TITLE, BROKEN = None, "LD-ZNet segment cannot be loaded", f"{type(why).__name__}: {why}"


class LdznetSegment(scripts.Script):
    """Masks from words, in img2img."""

    section = "inpaint"  # right below the picture

    def title(self):
        """The name under alwayson_scripts as well."""
        return TITLE

    def show(self, is_img2img):
        """In img2img only. With --nowebui the plot's page is built before any callback, but behind this."""
        if layout is not None:
            axes.add()
        return scripts.AlwaysVisible if is_img2img else False

    def ui(self, is_img2img):
        """The page's controls, and a throw-away set for the API's defaults."""
        if layout is None:
            with gr.Accordion(TITLE, open=False):
                gr.HTML(f"ldznet cannot be loaded: {BROKEN}. The log has the whole story.")
            return []
        components = layout.build(self.elem_id)
        self.infotext_fields = infotext.fields(components)
        return components

    def setup(self, p, *args):
        """Before there are pictures."""
        if layout is not None:
            hooks.prepare(p)

    def process(self, p, *args):
        """The model is the right one, and the mask has not been read yet."""
        if layout is not None:
            hooks.apply(p, args)

    def postprocess(self, p, processed, *args):
        """The results are there."""
        if layout is not None:
            hooks.finish(p, processed)


if layout is not None:
    script_callbacks.on_after_component(layout.remember)
    script_callbacks.on_ui_settings(settings_page.declare)
    script_callbacks.on_infotext_pasted(infotext.complete)
    script_callbacks.on_app_started(lambda _demo, app: routes.register(app))
    script_callbacks.on_model_loaded(lambda _model: session.RUNS.forget_model())
