"""The panel's settings below a picture, and back: exactly, whatever the words hold."""

import importlib.util
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from host import infotext as host
from host.control_values import WORDS, some_values

from ldznet.webui import infotext
from ldznet.webui.controls import BY_NAME, CONTROLS, read_values

DEFAULTS = {control.name: control.default for control in CONTROLS}
OTHERS = {
    "enabled": True,
    "prompt": "bucket",
    "method": "difference",
    "head": 'my "best", head.safetensors',
    "threshold": 0.07,
    "automatic_threshold": False,
    "grow": -3,
    "invert": True,
    "seeds": "",
    "timesteps": "300, 400",
}


def texts(**values):
    return infotext.to_parameters({**DEFAULTS, **values})


@pytest.fixture
def fields():
    """Of a page whose controls all have been changed."""
    components = [
        SimpleNamespace(value=type(control.default)(OTHERS.get(control.name, 1))) for control in CONTROLS
    ]
    return infotext.fields(components)


def test_only_what_is_not_default_is_written_and_always_the_threshold():
    assert texts(enabled=True, prompt="bucket", threshold=0.25, invert=True, on_nothing="empty mask") == {
        "LD-ZNet prompt": "bucket",
        "LD-ZNet threshold": "0.25",
        "LD-ZNet invert": "True",
        "LD-ZNet on nothing": "empty mask",
    }
    assert texts(enabled=True, prompt="bucket") == {"LD-ZNet prompt": "bucket", "LD-ZNet threshold": "0.5"}


def test_a_threshold_of_an_image_is_no_longer_automatic_and_an_old_image_without_one_had_a_half(fields):
    names = list(DEFAULTS)
    for written, expected in (({"LD-ZNet threshold": "0.17"}, 0.17), ({}, 0.5)):
        pasted = host.paste(fields, host.write({"LD-ZNet prompt": "bucket", **written}))

        assert pasted[names.index("threshold")] == expected
        assert pasted[names.index("automatic_threshold")] is False


def test_plain_words_are_written_as_they_are():
    assert host.write(texts(prompt="bucket | red hat", negative_prompt="a, b")).endswith(
        'LD-ZNet prompt: bucket | red hat, LD-ZNet negative prompt: "a, b", LD-ZNet threshold: 0.5, '
        "Version: v1.10.1"
    )
    assert texts(prompt="two\nlines") == {"LD-ZNet prompt": "two\nlines", "LD-ZNet threshold": "0.5"}


@pytest.mark.parametrize("words", WORDS)
def test_any_words_come_back_as_they_were(fields, words):
    pasted = dict(
        zip(DEFAULTS, host.paste(fields, host.write(texts(prompt=words, negative_prompt=words))), strict=True)
    )

    assert pasted["prompt"] == words
    assert pasted["negative_prompt"] == words
    assert pasted["threshold"] == 0.5


@pytest.mark.parametrize("start", range(0, 300, 100))
def test_random_settings_come_back_on_the_page_and_over_the_api(fields, start):
    for number in range(start, start + 100):
        values = some_values(number) | {"automatic_threshold": False}
        text = host.write(infotext.to_parameters(values))

        assert read_values(host.paste(fields, text)) == values, number
        assert read_values(host.by_api(fields, text)) == values, number


def test_a_picture_made_without_us_switches_us_off_and_leaves_the_rest(fields):
    before = [component.value for component, _ in fields]

    pasted = host.paste(fields, host.write({}))

    assert pasted == [False, *before[1:]]


def test_what_cannot_be_used_is_the_default_and_told(fields, caplog):
    for text in ("high", "[", "[]", "[null]", "7"):
        pasted = host.paste(fields, host.write({"LD-ZNet prompt": "bucket", "LD-ZNet threshold": text}))
        assert pasted[list(DEFAULTS).index("threshold")] == 0.5
        assert "LD-ZNet threshold in the picture's parameters cannot be used" in caplog.text
        caplog.clear()
    pasted = host.paste(fields, host.write({"LD-ZNet timesteps": "early"}))
    assert pasted[list(DEFAULTS).index("timesteps")] == ""


def test_what_was_found_goes_to_programs_and_in_no_text():
    found = infotext.ReportForPrograms({"prompts": [{"prompt": "bucket", "box": (1, 2, 3, 4)}]})
    params = {"LD-ZNet prompt": "bucket", infotext.FOUND: found}

    assert "found" not in host.write(params)
    assert json.loads(json.dumps(params, default=lambda o: None))[infotext.FOUND] == {
        "prompts": [{"prompt": "bucket", "box": [1, 2, 3, 4]}]
    }


def test_a_sentence_of_the_settings_page_is_written_and_its_absence_is_the_default_one():
    with_one = host.read(host.write(infotext.to_parameters(DEFAULTS | {"prompt": "x"}, "a drawing of {}, in ink")))
    without = host.read(host.write(texts(prompt="x")))
    not_ours = host.read(host.write({}))
    for params in (with_one, without, not_ours):
        infotext.complete("", params)

    assert with_one["LD-ZNet template"] == "a drawing of {}, in ink"
    assert without["LD-ZNet template"] == ""
    assert "LD-ZNet template" not in not_ours


def test_the_texts_of_an_earlier_picture_are_taken_away():
    params = {"Denoising strength": 0.5, "LD-ZNet prompt": "bucket", "LD-ZNet found": infotext.ReportForPrograms()}

    infotext.clear(params)

    assert params == {"Denoising strength": 0.5}


def test_every_key_is_one_that_the_webui_reads():
    for name in BY_NAME:
        assert host.read(f"Steps: 1, Seed: 2, {infotext.key(name)}: 5")[infotext.key(name)] == "5"


@pytest.mark.webui
@pytest.mark.filterwarnings("ignore")  # of the webui's source
@pytest.mark.skipif("WEBUI_DIR" not in os.environ, reason="WEBUI_DIR names no webui")
def test_the_stand_in_reads_and_writes_as_the_real_webui(monkeypatch):
    for name in ("gradio", "modules", *(f"modules.{part}" for part in ("paths", "shared", "ui_tempdir"))):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    sys.modules["modules"].shared.opts.infotext_styles = "Ignore"
    sys.modules["modules"].prompt_parser.parse_prompt_attention.return_value = []
    path = Path(os.environ["WEBUI_DIR"]) / "webui" / "modules" / "infotext_utils.py"
    spec = importlib.util.spec_from_file_location("modules.infotext_utils", path)
    real = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "modules.infotext_utils", real)
    monkeypatch.setitem(sys.modules, "modules.generation_parameters_copypaste", real)
    spec.loader.exec_module(real)

    for number in range(300):
        text = host.write(infotext.to_parameters(some_values(number)))
        told = real.parse_generation_parameters(text, skip_fields=[])
        ours = {key: value for key, value in told.items() if key.startswith("LD-ZNet")}
        assert ours == {key: value for key, value in host.read(text).items() if key.startswith("LD-ZNet")}
    for text in ("LD-ZNet prompt: a", "b\nSteps: 2, LD-ZNet prompt: a", "b\nSteps: 2, Seed: 3, LD-ZNet prompt: a"):
        told = real.parse_generation_parameters(text, skip_fields=[])
        assert infotext.own_parameters(told) == infotext.own_parameters(host.read(text))
    for words in WORDS:
        assert str(real.quote(words)) == host.quoted(words)
