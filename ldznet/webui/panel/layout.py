"""The panel in the img2img tab: where the controls stand, and what they are wired to (callbacks.py).

`build` makes the components; the webui calls it once for the page and again, in throw-away Blocks, for the API's
defaults, so nothing of it is kept beside the Blocks that it belongs to. The webui's own components, which come
before or after ours by the user's settings, are met by `remember`; once all are there, they are wired.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr  # type: ignore[import-not-found,import-untyped,unused-ignore]
from gradio.context import Context  # type: ignore[import-not-found,import-untyped,unused-ignore]

from ldznet.options import MaskOptions
from ldznet.webui import settings_page
from ldznet.webui.controls import BY_NAME, CONTROLS, TITLE, Control
from ldznet.webui.page.tab_inputs import BEFORE, PICTURES, SKETCH
from ldznet.webui.panel import callbacks

SIZES = ("img2img_width", "img2img_height")
HOSTS = (*PICTURES, *SKETCH, *SIZES)
_SHOWN = ("overlay", "mask_picture", "heat", "colors", "objects_picture", "enlarge")
MASKS = tuple(name for name in BY_NAME if name in MaskOptions.__dataclass_fields__)

# Only what the open tab shows is sent to the server. The webui's own bar, Interrupt and Skip are there meanwhile.
_OPEN_TAB = """(...given) => {
    const tab = get_tab_index('mode_img2img');
    const shown = [[0], [1], [2], [3], [4, 5]][tab] || [];
    let task = '';
    if (typeof requestProgress === 'function') {
        task = randomId();
        showSubmitButtons('img2img', false);
        requestProgress(task, gradioApp().getElementById('img2img_gallery_container'), null,
            () => showSubmitButtons('img2img', true));
    }
    return [task, tab, ...given.slice(2, %d).map((value, place) =>
        place < %d && !shown.includes(place) ? null : value)];
}"""
_TO_UPLOAD = "(status) => { if (!status.includes('ldznet-error')) { switch_to_img2img_tab(4); } return []; }"
_OLD = gr.__version__.startswith("3.")
_JS = "_js" if _OLD else "js"
_EXACT: dict[str, Any] = {} if _OLD else {"format": "png"}  # newer ones would make a lossy picture of a mask

WELCOME = "Type what to select. Segment shows what is found; Generate repaints that only. Nothing else is needed."
WELCOME_ALONE = "Type what to select. Segment shows what is found; then move the threshold."

# Attributes of a page's Blocks, so that they go with it: "Reload UI" makes another one.
_HOSTS_PARTS, _OUR_PARTS = "_ldznet_hosts_parts", "_ldznet_parts"


def build(elem_id: Callable[[str], str], *, generates: bool = True) -> list[Any]:
    """All components; those that the script's hooks receive: in the order of CONTROLS, and behind them what the
    numbers of objects were chosen in, which is the page's own.

    Where nothing `generates` pictures (alone.py), what says how that goes is there, but out of view.
    """
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
                shown = generates or name == "segment"
                more = {"scale": 1, "min_width": 130, "visible": shown}
                made[name] = gr.Button(label, variant=look, elem_id=elem_id(name), **more)
        welcome = callbacks.lines([WELCOME if generates else WELCOME_ALONE])
        made["status"] = gr.HTML(welcome, elem_id=elem_id("status"), elem_classes=["ldznet-status"])
        _preview(made, elem_id)
        with FormRow():
            make("threshold", "grow", "feather")
        _to_choose(made, elem_id)
        with FormRow():
            make("negative_prompt")
            make("method")
            make("head", choices=callbacks.head_choices())
            made["refresh"] = ToolButton("\U0001f504", elem_id=elem_id("refresh"), tooltip="Look for heads again")
        _advanced(made, make, elem_id, generates=generates)
        made["key"] = gr.State("")
        made["chosen_in"] = gr.Textbox("", visible=False, label="The page's own: leave it out")
        made["chosen_in"].do_not_save_to_config = True
        made["brush_state"] = gr.State(None)
        made["offered"] = gr.State([])
        made["task"], made["tab"] = gr.Textbox("", visible=False), gr.Number(0, visible=False)
        made["task"].do_not_save_to_config = made["tab"].do_not_save_to_config = True
    if Context.root_block is not None:
        if generates and not hasattr(Context.root_block, _HOSTS_PARTS):
            _leave_open(made)
        setattr(Context.root_block, _OUR_PARTS, made)
        _wire_if_complete(Context.root_block)
    return [*(made[control.name] for control in CONTROLS), made["chosen_in"]]


def remember(component: Any, **given: Any) -> None:
    """Meet one of the webui's components."""
    root, name = Context.root_block, given.get("elem_id")
    if root is None:
        return
    if isinstance(component, gr.State) and name is None:
        there = getattr(root, _HOSTS_PARTS, {})
        if "inpaint_sketch" not in there or BEFORE in there:
            return
        name = BEFORE  # right behind the picture, and without a name of its own (ui.py:554)
    if name in (*HOSTS, "img2img_prompt"):  # the prompt comes first
        if not hasattr(root, _HOSTS_PARTS):
            setattr(root, _HOSTS_PARTS, {})
        getattr(root, _HOSTS_PARTS)[name] = component
        _wire_if_complete(root)


def _leave_open(made: dict[str, Any]) -> None:
    """In the Blocks that are thrown away, the API reads the values of arguments that a call does not give.

    What the settings page decides is decided when the call comes.
    """
    for name in settings_page.OF_CONTROLS:
        made[name].value = None


def _preview(made: dict[str, Any], elem_id: Callable[[str], str]) -> None:
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
                **_EXACT,
            )
    made["preview"] = preview
    made["enlarge"] = gr.Button(
        "Overlay at full size", elem_id=elem_id("enlarge"), size="sm", min_width=120, visible=False
    )


def _to_choose(made: dict[str, Any], elem_id: Callable[[str], str]) -> None:
    with gr.Row(elem_classes=["ldznet-preview"]):
        made["objects_picture"] = gr.Image(
            label="Objects: click to choose",
            type="pil",
            interactive=False,
            elem_id=elem_id("objects_picture"),
            visible=False,
            min_width=200,
            **_EXACT,
        )
        made["choices"] = gr.Gallery(
            label="Other thresholds: click one",
            columns=3,
            object_fit="contain",
            allow_preview=False,
            elem_id=elem_id("choices"),
            elem_classes=["ldznet-choices"],
            visible=False,
            min_width=200,
        )


def _advanced(
    made: dict[str, Any], make: Callable[..., None], elem_id: Callable[[str], str], *, generates: bool
) -> None:
    from modules.ui_components import FormRow

    with gr.Accordion("Advanced", open=False, elem_id=elem_id("advanced")):
        with FormRow():
            make("refine", "average_templates", "invert", "largest_only", "fill_holes")
        with FormRow():
            make("combine", "brush")
        with FormRow():
            make("smallest_area")
            make("objects", info=BY_NAME["objects"].help)
        with FormRow():
            make("resolution", "timesteps", "seeds")
        with gr.Column(visible=generates):
            with FormRow():
                make("on_nothing")
                make("append")
            gr.HTML("<b>Inpainting</b>, whatever the tab shows or hides", elem_classes=["ldznet-status"])
            with FormRow():
                make("fill", "area")
            with FormRow():
                make("padding", "mask_blur")
        made["unload"] = gr.Button("Unload: free the memory", elem_id=elem_id("unload"), size="sm")


def _component(control: Control, elem_id: str, **more: Any) -> Any:
    if control.help and control.kind not in ("text", "switch") and not control.basic:
        more["info"] = control.help
    value = settings_page.first_value(control.name)
    component = _of_kind(control, {"label": control.label, "value": value, "elem_id": elem_id, **more})
    # ui-config.json would keep the first value for ever.
    component.do_not_save_to_config = control.name in settings_page.OF_CONTROLS
    return component


def _of_kind(control: Control, given: dict[str, Any]) -> Any:
    if control.kind == "switch":
        return gr.Checkbox(**given)
    if control.kind == "text":
        return gr.Textbox(placeholder="" if "info" in given else control.help, lines=1, **given)
    if control.kind == "number":
        return gr.Number(precision=0, minimum=control.low, maximum=control.high, **given)
    if control.kind == "slider":
        return gr.Slider(control.low, control.high, step=control.step, **given)
    choices = given.pop("choices", list(control.choices))
    return gr.Dropdown(choices, **given)


def _wire_if_complete(root: Any) -> None:
    ours, hosts = getattr(root, _OUR_PARTS, None), getattr(root, _HOSTS_PARTS, {})
    if ours is None or any(name not in hosts for name in HOSTS):
        return
    delattr(root, _OUR_PARTS)  # once
    controls = [ours[control.name] for control in CONTROLS]
    given = [hosts[name] for name in (*PICTURES, *SKETCH)]
    asked = [ours["task"], ours["tab"], *given, *controls, ours["chosen_in"]]
    shown = [ours[name] for name in ("status", "preview", *_SHOWN)]
    every = [*shown, ours["choices"], ours["offered"]]
    kept = [ours["key"], ours["brush_state"]]
    found = [*kept, ours["chosen_in"], ours["head"], ours["objects"], *every]
    script = {_JS: _OPEN_TAB % (len(asked), len(PICTURES))}

    for event in (ours["segment"].click, ours["prompt"].submit, ours["negative_prompt"].submit):
        event(callbacks.segment, inputs=asked, outputs=found, **script)
    sent = [hosts["img_inpaint_base"], hosts["img_inpaint_mask"], *(hosts[name] for name in SIZES)]
    ours["send"].click(callbacks.send, inputs=asked, outputs=[*sent, *found], **script).then(
        None, inputs=[ours["status"]], outputs=[], **{_JS: _TO_UPLOAD}
    )
    for name in MASKS:
        act, answer = (callbacks.move, shown) if name in ("threshold", "objects") else (callbacks.redraw, every)
        ours[name].change(act, inputs=[*kept, *controls], outputs=answer, show_progress="hidden")
    _wire_choices(ours, controls)
    status = ours["status"]
    ours["enlarge"].click(callbacks.enlarge, inputs=[*kept, *controls], outputs=[status, ours["overlay"]])
    for name in ("method", "head"):
        ours[name].change(callbacks.explain, inputs=[status, *controls], outputs=[status], show_progress="hidden")
    ours["refresh"].click(callbacks.refresh, inputs=[], outputs=[ours["head"]])
    ours["unload"].click(callbacks.unload, inputs=[], outputs=[status])
    # Whenever somebody opens the page; past the queue, which opens a connection for each.
    fresh = [ours[name] for name in (*settings_page.OF_CONTROLS, "head")]
    root.load(callbacks.fresh, inputs=[], outputs=fresh, queue=False, show_progress="hidden")


def _wire_choices(ours: dict[str, Any], controls: list[Any]) -> None:
    """Wire clicks in a picture: they set a control, whose change does the rest."""
    threshold, objects, status = (ours[name] for name in ("threshold", "objects", "status"))
    choices, hidden = ours["choices"], {"show_progress": "hidden"}
    choices.select(callbacks.choose, inputs=[ours["offered"]], outputs=[threshold, choices], **hidden).then(
        callbacks.offer, inputs=[ours["offered"]], outputs=[choices], **hidden
    )
    ours["objects_picture"].select(
        callbacks.pick, inputs=[ours["key"], *controls], outputs=[objects, ours["chosen_in"], status], **hidden
    )
