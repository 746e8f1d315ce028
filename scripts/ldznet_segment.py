"""The script that the webui loads. It hands the webui's hooks to ldznet.webui; "Reload UI" runs it again.

If ldznet cannot be imported, or does not work in this webui, the script does nothing and says why.
"""

import logging

import gradio as gr
from modules import script_callbacks, scripts

try:
    from ldznet.webui import infotext, settings_page
    from ldznet.webui.api import routes
    from ldznet.webui.controls import TITLE
    from ldznet.webui.current_webui import webui_app, webui_session
    from ldznet.webui.page.current_page import current_page, remember
    from ldznet.webui.panel import layout
    from ldznet.webui.run import axes, hooks
    from ldznet.webui.webui_kind import webui_kind

    REFUSAL = webui_kind().reason
except Exception as why:
    logging.getLogger(__name__).exception("ldznet cannot be loaded")
    REFUSAL = f"ldznet cannot be loaded: {type(why).__name__}: {why}. The log has the details."
    # Under its own name the API would take it for a script without arguments, and repaint the whole image.
    SESSION, TITLE = None, "LD-ZNet segment cannot be loaded"
else:
    if REFUSAL:
        SESSION, TITLE = None, "LD-ZNet segment does not work here"
        script_callbacks.on_app_started(lambda _demo, fastapi_app: routes.register_refusal(fastapi_app, REFUSAL))
    else:
        APP, SESSION = webui_app(), webui_session()  # the same ones after "Reload UI"
        HOOKS = hooks.RunHooks(SESSION, APP)
        SESSION.head_files.make_folder()


class LdznetSegment(scripts.Script):
    """Masks from words, in img2img."""

    section = "inpaint"  # right below the image

    def title(self):
        """Return the name, which programs give under alwayson_scripts."""
        return TITLE

    def show(self, is_img2img):
        """Return where the script is shown: in img2img only.

        With --nowebui the plot is built before any callback, but after this.
        """
        if SESSION is not None:
            axes.add_axes(APP, SESSION.head_files)
        return scripts.AlwaysVisible if is_img2img else False

    def ui(self, is_img2img):
        """Build the controls, for the page and again in throw-away Blocks for the API's defaults."""
        if SESSION is None:
            with gr.Accordion(TITLE, open=False):
                gr.HTML(REFUSAL)
            return []
        components = layout.build(SESSION, current_page(), self.elem_id)
        self.infotext_fields = infotext.fields(components)
        return components

    def setup(self, p, *args):
        """Prepare a run that has no image yet."""
        if SESSION is not None:
            HOOKS.prepare(p)

    def process(self, p, *args):
        """Give the run its mask: the model is the right one, and the mask has not been read yet."""
        if SESSION is not None:
            HOOKS.apply(p, args)

    def postprocess(self, p, processed, *args):
        """Add to the results."""
        if SESSION is not None:
            HOOKS.finish(p, processed)


def register(category, callback):
    """Register a callback in this script's name: to find it out takes the webui 40 ms each time."""
    try:
        callbacks = script_callbacks.callback_map[f"callbacks_{category}"]
        script_callbacks.add_callback(callbacks, callback, category=category, filename=__file__)
    except (AttributeError, KeyError, TypeError):  # a webui older than 1.9
        getattr(script_callbacks, f"on_{category}")(callback)


if SESSION is not None:
    register("after_component", remember)
    register("ui_settings", lambda: settings_page.declare_settings(APP))
    register("infotext_pasted", infotext.complete)
    register("app_started", lambda _demo, fastapi_app: routes.register(fastapi_app, SESSION, APP))
    register("model_loaded", lambda _model: SESSION.forget_model())
