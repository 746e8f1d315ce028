"""The panel in the img2img tab: where the controls stand, and what a click or a slider does.

`build` makes the components; the webui calls it once for the page and again, in throw-away Blocks, for the API's
defaults, so nothing of it is kept beside the Blocks that it belongs to. The webui's own components, which come
before or after ours by the user's settings, are met by `remember`; once all are there, they are wired.
"""

from __future__ import annotations

import html
import logging
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr  # type: ignore[import-not-found,import-untyped,unused-ignore]
from gradio.context import Context  # type: ignore[import-not-found,import-untyped,unused-ignore]
from PIL import Image

from ldznet.errors import ImageError, LdznetError
from ldznet.mask import SoftMask
from ldznet.options import MaskOptions
from ldznet.webui import found as finds
from ldznet.webui import runs
from ldznet.webui.controls import AUTOMATIC, BY_NAME, CONTROLS, TITLE, Control, read_settings

log = logging.getLogger(__name__)

# The pictures of the tabs, in the order in which the button receives them after the open tab's number.
PICTURES = (
    "img2img_image",
    "img2img_sketch",
    "img2maskimg",
    "inpaint_sketch",
    "img_inpaint_base",
    "img_inpaint_mask",
)
SIZES = ("img2img_width", "img2img_height")
UPLOAD_TAB, BATCH_TAB = 4, 5
MASKS = tuple(name for name in BY_NAME if name in MaskOptions.__dataclass_fields__)

# Only what the open tab shows is sent to the server.
_OPEN_TAB = """(...given) => {
    const tab = get_tab_index('mode_img2img');
    const shown = [[1], [2], [3], [4], [5, 6]][tab] || [];
    return given.slice(0, %d).map((value, place) =>
        place == 0 ? tab : place <= %d && !shown.includes(place) ? null : value);
}"""
_TO_UPLOAD = "(status) => { if (!status.includes('ldznet-error')) { switch_to_img2img_tab(4); } return []; }"

WELCOME = "Type what to select. Segment shows what is found; Generate repaints that only. Nothing else is needed."

_host_parts: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()
_our_parts: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()


def build(elem_id: Callable[[str], str]) -> list[Any]:
    """All components; those that the script's hooks receive, in the order of CONTROLS."""
    from modules.ui_components import FormRow, InputAccordion, ToolButton  # type: ignore[import-not-found]

    made: dict[str, Any] = {}

    def make(*names: str, **more: Any) -> None:
        for name in names:
            made[name] = _component(BY_NAME[name], elem_id(name), **more)

    with InputAccordion(False, label=TITLE, elem_id=elem_id("enabled")) as enabled:
        made["enabled"] = enabled
        with gr.Row(elem_classes=["ldznet-words"], variant="compact"):
            make("prompt", scale=5)
            for name, label, look in (("segment", "Segment", "primary"), ("send", "Send to inpaint", "secondary")):
                made[name] = gr.Button(label, variant=look, elem_id=elem_id(name), scale=1, min_width=130)
        made["status"] = gr.HTML(_lines([WELCOME]), elem_id=elem_id("status"), elem_classes=["ldznet-status"])
        with gr.Row(elem_id=elem_id("preview"), elem_classes=["ldznet-preview"], visible=False) as preview:
            for name, label in (
                ("overlay", "Overlay"),
                ("mask_picture", "Mask"),
                ("heat", "Probability"),
                ("colors", "Several prompts"),
            ):
                made[name] = gr.Image(
                    label=label,
                    type="pil",
                    interactive=False,
                    elem_id=elem_id(name),
                    visible=name != "colors",
                    min_width=120,
                )
        made["preview"] = preview
        with FormRow():
            make("threshold", "grow", "feather")
        with FormRow():
            make("negative_prompt")
            make("method")
            made["head"] = _component(BY_NAME["head"], elem_id("head"), choices=_heads())
            made["refresh"] = ToolButton("\U0001f504", elem_id=elem_id("refresh"), tooltip="Look for heads again")
        with gr.Accordion("Advanced", open=False, elem_id=elem_id("advanced")):
            with FormRow():
                make("invert", "largest_only", "fill_holes")
            with FormRow():
                make("combine", "brush", "smallest_area")
            with FormRow():
                make("resolution", "timesteps", "seeds")
            with FormRow():
                make("on_nothing")
                make("append")
            gr.HTML("<b>Inpainting</b>, whatever the tab shows or hides", elem_classes=["ldznet-status"])
            with FormRow():
                make("fill", "area")
            with FormRow():
                make("padding", "mask_blur")
        made["key"] = gr.State("")
        made["brush_state"] = gr.State(None)
        made["tab"] = gr.Number(0, visible=False)
    if Context.root_block is not None:
        _our_parts[Context.root_block] = made
        _wire_if_complete(Context.root_block)
    return [made[control.name] for control in CONTROLS]


def remember(component: Any, **given: Any) -> None:
    """Meet one of the webui's components."""
    name = given.get("elem_id")
    if Context.root_block is not None and name in (*PICTURES, *SIZES):
        _host_parts.setdefault(Context.root_block, {})[name] = component
        _wire_if_complete(Context.root_block)


def _component(control: Control, elem_id: str, **more: Any) -> Any:
    if control.help and control.kind not in ("text", "switch") and not control.basic:
        more["info"] = control.help
    given = {"label": control.label, "value": control.default, "elem_id": elem_id, **more}
    if control.kind == "switch":
        return gr.Checkbox(**given)
    if control.kind == "text":
        return gr.Textbox(placeholder=control.help, lines=1, **given)
    if control.kind == "number":
        return gr.Number(precision=0, minimum=control.low, maximum=control.high, **given)
    if control.kind == "slider":
        return gr.Slider(control.low, control.high, step=control.step, **given)
    choices = given.pop("choices", list(control.choices))
    return gr.Dropdown(choices, **given)


def _heads() -> list[str]:
    try:
        return runs.head_names()
    except Exception:
        log.exception("The folders of heads cannot be read")
        return [AUTOMATIC]


# --- wiring ------------------------------------------------------------------------------------------


def _wire_if_complete(root: Any) -> None:
    ours, hosts = _our_parts.get(root), _host_parts.get(root, {})
    if ours is None or any(name not in hosts for name in (*PICTURES, *SIZES)):
        return
    del _our_parts[root]  # once
    controls = [ours[control.name] for control in CONTROLS]
    asked = [ours["tab"], *(hosts[name] for name in PICTURES), *controls]
    shown = [ours[name] for name in ("status", "preview", "overlay", "mask_picture", "heat", "colors")]
    kept = [ours["key"], ours["brush_state"]]
    script = _OPEN_TAB % (len(asked), len(PICTURES))

    for event in (ours["segment"].click, ours["prompt"].submit):
        event(segment, inputs=asked, outputs=[*kept, *shown], _js=script)
    sent = [hosts["img_inpaint_base"], hosts["img_inpaint_mask"], *(hosts[name] for name in SIZES)]
    ours["send"].click(send, inputs=asked, outputs=[*sent, *kept, *shown], _js=script).then(
        None, inputs=[ours["status"]], outputs=[], _js=_TO_UPLOAD
    )
    for name in MASKS:
        ours[name].change(redraw, inputs=[*kept, *controls], outputs=shown, show_progress="hidden")
    for name in ("method", "head"):
        ours[name].change(explain, inputs=controls, outputs=[ours["status"]], show_progress="hidden")
    ours["refresh"].click(lambda: gr.update(choices=_heads()), inputs=[], outputs=[ours["head"]])


# --- what a click does -------------------------------------------------------------------------------


def segment(progress: Any = gr.Progress(), *asked: Any) -> list[Any]:  # noqa: B008
    """Find what is asked for in the picture of the open tab, and show it."""
    try:
        found, brush, settings = _find(progress, asked)
        return [found.key, brush, *_shown(found, settings.mask, brush)]
    except LdznetError as why:
        return ["", None, *_refused(why)]


def send(progress: Any = gr.Progress(), *asked: Any) -> list[Any]:  # noqa: B008
    """The same, into the tab Inpaint upload; if nothing is found, that tab stays as it is."""
    try:
        found, brush, settings = _find(progress, asked)
        shown = _shown(found, settings.mask, brush)
        mask = finds.to_picture(found.segmentation.mask(settings.mask, brush=brush))
        if not finds.is_something(found, settings.mask) or not mask.getbbox():
            return [*[gr.update()] * 4, found.key, brush, *shown]
        width, height = finds.fitting_size(mask.size)
        return [Image.fromarray(found.image), mask, width, height, found.key, brush, *shown]
    except LdznetError as why:
        return [*[gr.update()] * 4, "", None, *_refused(why)]


def redraw(key: str, brush: SoftMask | None, *args: Any) -> list[Any]:
    """Show what was found with other options of the mask: from the kept probabilities."""
    found = runs.RUNS.kept(key) if key else None
    if found is None:
        return [gr.update()] * 6
    try:
        return _shown(found, read_settings(args).mask, brush)
    except LdznetError as why:
        return _refused(why)


def explain(*args: Any) -> str:
    """Why the chosen method cannot run with the loaded checkpoint, if it cannot."""
    from modules import shared  # type: ignore[import-not-found]

    try:
        return _error(runs.RUNS.why_not(shared.sd_model, read_settings(args)))
    except LdznetError as why:
        return _error(str(why))


def _find(progress: Any, asked: tuple[Any, ...]) -> tuple[finds.Found, SoftMask | None, Any]:
    from modules import shared
    from modules.call_queue import queue_lock  # type: ignore[import-not-found]

    tab, *rest = asked
    pictures, args = rest[: len(PICTURES)], rest[len(PICTURES) :]
    settings = read_settings(args)
    image, mask = _source(int(tab), pictures)
    if not settings.prompts:
        # Before the lock: another run may hold it for long.
        return runs.RUNS.find(None, image, settings), None, settings

    def report(done: int, total: int) -> None:
        progress((done, total), desc=", ".join(settings.prompts))

    with queue_lock:
        shared.state.begin(job="ldznet")
        try:
            found = runs.RUNS.find(shared.sd_model, image, settings, report)
        finally:
            shared.state.end()
    return found, None if mask is None else finds.brush_of(mask, image.size), settings


def _source(tab: int, pictures: list[Any]) -> tuple[Image.Image, Image.Image | None]:
    """-> the open tab's picture, and what is painted or uploaded as its mask."""
    if tab == BATCH_TAB:
        raise ImageError(
            "The tab Batch shows no picture. When you press Generate, every file gets a mask of its own; to look "
            "at one beforehand, put it into the tab img2img."
        )
    image, mask = pictures[tab], pictures[tab + 1] if tab == UPLOAD_TAB else None
    if isinstance(image, dict):
        image, mask = image["image"], image["mask"]
    if image is None:
        raise ImageError("There is no picture. Put one into the open tab of img2img.")
    return image, mask


# --- what the page shows -----------------------------------------------------------------------------


def _shown(found: finds.Found, options: MaskOptions, brush: SoftMask | None) -> list[Any]:
    look = finds.show(found, options, brush)
    status = _lines(finds.describe(found, options))
    if not finds.is_something(found, options):
        status = _error(finds.nothing(found, options))
    several = gr.update(value=look.colors, visible=look.colors is not None)
    return [status, gr.update(visible=True), look.overlay, look.mask, look.heat, several]


def _refused(why: LdznetError) -> list[Any]:
    return [_error(str(why)), *[gr.update()] * 5]


def _error(text: str) -> str:
    return f'<div class="ldznet-error">{html.escape(text)}</div>' if text else ""


def _lines(lines: list[str]) -> str:
    return "".join(f"<div>{html.escape(line)}</div>" for line in lines)
