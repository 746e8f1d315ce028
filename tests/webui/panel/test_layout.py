"""The panel among the webui's own components, which come before or after it."""

import re

import gradio as gr
import pytest
from host import forge_page
from PIL import Image

from ldznet.webui.controls import CONTROLS
from ldznet.webui.page import a1111, current_page, forge
from ldznet.webui.panel import layout
from ldznet.webui.webui_kind import WebuiKind

IMAGES = {name: gr.Image for tab in a1111.TABS for name in tab} | {"img2img_batch_upload": gr.Files}
SLIDERS = dict.fromkeys(("img2img_mask_blur", "img2img_mask_alpha", "img2img_width", "img2img_height"), gr.Slider)


@pytest.fixture(autouse=True)
def containers(webui, monkeypatch, session):
    """Give the app plain containers: the stand-in of the webui has none."""
    from contextlib import contextmanager

    @contextmanager
    def accordion(*, label, elem_id):
        with gr.Accordion(label):
            yield gr.Checkbox(elem_id=elem_id)

    monkeypatch.setattr(session.app, "form_row", gr.Row)
    monkeypatch.setattr(session.app, "accordion", accordion)
    monkeypatch.setattr(session.app, "tool_button", lambda text, **_: gr.Button(text))


def make_webuis_components():
    for name, kind in {"img2img_prompt": gr.Textbox, **IMAGES, **SLIDERS}.items():
        current_page.remember(kind(), elem_id=name)
        if name == a1111.SKETCH_IMAGE:
            current_page.remember(gr.State(None))
            current_page.remember(gr.State(None))  # another extension's


def build(session):
    return layout.build(session, current_page.current_page(), "ldznet_{}".format)


def dependencies(blocks):
    return blocks.get_config_file()["dependencies"]


@pytest.mark.parametrize("panel_first", [True, False])
def test_the_panel_is_wired_once_when_all_components_are_there(session, panel_first):
    with gr.Blocks() as blocks:
        if panel_first:
            build(session)
            assert dependencies(blocks) == []
        make_webuis_components()
        if not panel_first:
            build(session)

    segment, *_ = dependencies(blocks)
    assert len([one for one in dependencies(blocks) if "ldznetBeforeSegment" in str(one["js"])]) == 4
    names = re.search(r'\(\["(.*?)"\]', str(segment["js"])).group(1).split('", "')
    assert len(names) == len(segment["inputs"])
    assert {"task", "tab", "chosen_in", *IMAGES, *(control.name for control in CONTROLS)} <= set(names)


def test_nothing_waits_for_an_event_of_javascript_alone(session):
    with gr.Blocks() as blocks:
        make_webuis_components()
        build(session)
    events = {event.get("id", number): event for number, event in enumerate(dependencies(blocks))}

    waiting = [event for event in events.values() if event["trigger_after"] is not None]

    assert len([event for event in waiting if "ldznetAfterSegment" in str(event["js"])]) == 4
    assert [event for event in waiting if not events[event["trigger_after"]]["backend_fn"]] == []


@pytest.mark.parametrize("panel_first", [True, False])
@pytest.mark.parametrize("kind", ["forge", "neo"])
def test_in_forge_the_panel_is_wired_to_the_images_of_its_canvases(session, monkeypatch, kind, panel_first):
    monkeypatch.setattr(current_page, "webui_kind", lambda: WebuiKind(kind, "Forge"))
    with gr.Blocks() as blocks:
        if panel_first:
            build(session)
        forge_page.make_tab(current_page.remember)
        if not panel_first:
            build(session)
    page = blocks._ldznet_page

    segment, *_ = dependencies(blocks)

    assert isinstance(page, forge.ForgePage)
    wanted = {page.components[name]._id for tab in forge.TABS for name in tab}
    assert wanted < set(segment["inputs"])
    assert len([one for one in dependencies(blocks) if "ldznetBeforeSegment" in str(one["js"])]) == 4


def test_in_throw_away_blocks_what_a_request_may_leave_open_has_no_value_and_nothing_is_wired(session):
    with gr.Blocks() as blocks:
        *controls, chosen_in = build(session)

    values = {control.name: component.value for control, component in zip(CONTROLS, controls, strict=True)}
    left_open = ("method", "threshold", "average_templates", "on_nothing", "append", "automatic_threshold")
    assert [name for name, value in values.items() if value is None] == [
        control.name for control in CONTROLS if control.name in left_open
    ]
    assert chosen_in.value == ""
    assert dependencies(blocks) == []


def test_segment_runs_through_gradio_by_name(session, webui):
    with gr.Blocks() as blocks:
        make_webuis_components()
        build(session)
    call = blocks.fns[0].fn
    components = {component._id: component for component in blocks.blocks.values()}
    inputs = [components[number] for number in dependencies(blocks)[0]["inputs"]]
    values = {component: getattr(component, "value", None) for component in inputs}
    page = a1111.A1111Page()
    assert page.components == {}

    answer = call(values)

    assert any("There is no picture" in str(value) for value in answer.values())
    image = next(component for component in inputs if isinstance(component, gr.Image))
    answer = call(values | {image: Image.new("RGB", (128, 64))})
    assert any("There is no prompt" in str(value) for value in answer.values())
