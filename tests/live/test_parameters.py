"""Test that a real AUTOMATIC1111 reads back the parameters of the images that it has made. See running.py."""

import base64
import json
import os
import random
import re
import subprocess
from pathlib import Path

import pytest
from embedded_scenes import SCENE, image_of
from host.control_values import some_values
from running import NEEDS_ANY_WEBUI, SIZE, URL, WEBUI, Client, make_data_folder, start, stop

from ldznet.webui.controls import CONTROLS

PLAYWRIGHT = WEBUI / "browser" / "node_modules" / "playwright-core" / "index.mjs"
WORDS = (
    'the "green" star',
    "two\nlines, a: b",
    "emoji 🪣 帽子",
    '"quoted"',
    "3x4",
    "back\\slash",
    " led by a space",
)
# What would take long, or a file that is not there; and the picture comes out whatever is found.
SET = {"head": "automatic", "resolution": 64, "refine": False, "on_nothing": "empty mask"}

CLIENT = Client(image_of(SCENE, SIZE))

pytestmark = NEEDS_ANY_WEBUI


def settings(number):
    """Return random values for every control."""
    draw = random.Random(number)
    prompts = {name: " | ".join(draw.sample(WORDS, 3)) for name in ("prompt", "negative_prompt")}
    return some_values(number) | SET | prompts


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    """Return settings, and for each the file of the image that was made with it and the text below it."""
    data = tmp_path_factory.mktemp("data")
    make_data_folder(data)
    start(data)
    try:
        yield [paint(data, number) for number in range(4)]
    finally:
        stop()


def paint(data, number):
    """Return settings, file and text."""
    values = settings(number)
    status, answer = CLIENT.run(values, steps=1)
    assert status == 200, answer
    file = data / f"{number}.png"
    file.write_bytes(base64.b64decode(answer["images"][0]))
    return values, file, json.loads(answer["info"])["infotexts"][0]


def our_part(text):
    """Return our parameters in a text by name; an automatic threshold is the last, any other in its place."""
    return dict(re.findall(r'LD-ZNet ([a-z ]+): ("(?:\\.|[^"\\])*"|\[.*?\]|[^,]*)', text))


def test_the_api_gets_the_same_run_from_the_text_alone(painted):
    for _, file, text in painted:
        status, answer = CLIENT.run(infotext=text, steps=1)
        again = json.loads(answer["info"])["infotexts"][0]

        assert status == 200
        assert our_part(again) == our_part(text) != {}
        assert base64.b64decode(answer["images"][0])[-2000:] == file.read_bytes()[-2000:]


def test_png_info_and_the_arrow_restore_every_control(painted):
    kinds = {control.name: control.kind for control in CONTROLS}
    script = Path(__file__).with_name("parameters.mjs")
    given = {
        "URL": URL,
        "TEXTS": json.dumps([text for *_, text in painted[:2]]),
        "PICTURES": json.dumps([str(file) for _, file, _ in painted[2:]]),
        "CONTROLS": json.dumps(kinds),
        "PLAYWRIGHT": os.environ.get("PLAYWRIGHT", str(PLAYWRIGHT)),
    }
    done = subprocess.run(
        ["node", str(script)], env=os.environ | given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    print(json.dumps(seen, indent=1))

    assert (seen.get("failed"), seen["errors"]) == (None, [])
    for (values, _, text), shown in zip(painted, [*seen["texts"], *seen["pictures"]], strict=True):
        used = {"automatic_threshold": False, "threshold": float(our_part(text)["threshold"])}
        assert shown == values | (used if values["automatic_threshold"] else {})
    assert seen["tab"] == "img2img"
