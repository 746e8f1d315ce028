"""Events are wired by name, with the gradio that is installed."""

import gradio as gr
import pytest

from ldznet.webui.panel.events import Events


@pytest.fixture
def blocks():
    with gr.Blocks() as blocks:
        yield blocks


def function_of(blocks, number=0):
    return blocks.fns[number].fn


def test_a_function_gets_values_by_name_and_answers_by_name(blocks):
    text, number, button = gr.Textbox(), gr.Number(), gr.Button()
    received = []

    def act(values):
        received.append(values)
        return {"number": 2}

    events = Events({"text": text, "number": number, "button": button})
    events.on("button.click", act, ("number", "text"), ("text", "number"))

    assert function_of(blocks)({text: "a", number: 1}) == {number: 2}
    assert received == [{"text": "a", "number": 1}]


def test_an_empty_answer_leaves_everything_as_it_is(blocks):
    text, number, button = gr.Textbox(), gr.Number(), gr.Button()
    events = Events({"text": text, "number": number, "button": button})
    events.on("button.click", lambda _values: {}, (), ("text", "number"))

    assert function_of(blocks)({}) == {text: gr.update(), number: gr.update()}


def test_javascript_gets_the_names_of_its_values_in_the_order_of_the_values(blocks):
    last, first, button = gr.Textbox(), gr.State(), gr.Button()
    more = gr.Number()
    components = {"more": more, "first": first, "button": button, "last": last}
    events = Events(components)
    script = "(...values) => {}"
    names = []

    def write(order):
        names.extend(order)
        return script

    events.on("button.click", lambda _values: {}, ("more", "first", "last"), ("last",), script=write)

    wired = blocks.get_config_file()["dependencies"][0]
    assert [components[name]._id for name in names] == wired["inputs"]
    assert script in str(wired["js"])
