"""A stand-in of the components of Forge's page that hold images: same names, same order, same traps.

After modules_forge/forge_canvas/canvas.py and modules/ui.py of Forge dfdcbab, which Forge Neo shares; none of its
code.
"""

import base64
import io
import uuid

import gradio as gr
from PIL import Image

HEADER = "data:image/png;base64,"


def make_logical_image(**options):
    """Make an image in a hidden text box; all images that it returns share one `info`."""
    box, shared_info = gr.Textbox(visible=False, **options), {}

    def preprocess(payload):
        if not isinstance(payload, str) or not payload.startswith(HEADER):
            return None
        image = Image.open(io.BytesIO(base64.b64decode(payload.removeprefix(HEADER)))).convert("RGBA")
        image.info = shared_info
        return image

    box.preprocess = preprocess
    return box


def text_of(image):
    """Return what a canvas's text box holds of an image."""
    buffer = io.BytesIO()
    image.convert("RGBA").save(buffer, format="PNG")
    return HEADER + base64.b64encode(buffer.getvalue()).decode()


def make_canvas(report, elem_id=None):
    """Make a canvas as the webui does, which reports each component; return its strokes and its image."""
    name = f"uuid_{uuid.uuid4().hex}"  # the same for both
    report(gr.HTML("<canvas>", elem_id=elem_id), elem_id=elem_id)
    layers = []
    for kind in ("foreground", "background"):
        classes = [f"logical_image_{kind}"]
        layers.append(make_logical_image(elem_id=name, elem_classes=classes))
        report(layers[-1], elem_id=name, elem_classes=classes)
    return layers


def make_tab(report):
    """Make the components of the tab img2img in the webui's order; `report` is its callback."""
    for elem_id, kind in (("img2img_prompt", gr.Textbox), ("mode_img2img", gr.HTML)):
        report(kind(elem_id=elem_id), elem_id=elem_id)
    report(gr.Number(0, visible=False))  # the number of the open tab
    for elem_id in ("img2img_image", "img2img_sketch", "img2maskimg", "inpaint_sketch"):
        make_canvas(report, elem_id)
    for elem_id in ("img_inpaint_base", "img_inpaint_mask"):
        report(gr.Image(type="pil", elem_id=elem_id), elem_id=elem_id)
    for elem_id in ("img2img_width", "img2img_height", "img2img_mask_blur", "img2img_mask_alpha"):
        report(gr.Slider(elem_id=elem_id), elem_id=elem_id)
