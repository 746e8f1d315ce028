"""The page of AUTOMATIC1111's webui, and the JavaScript that its buttons run."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from ldznet.webui.page.a1111 import A1111Page

SCRIPT = Path(__file__).parents[3] / "javascript" / "ldznet.js"
NODE = shutil.which("node")


def test_it_is_complete_once_with_the_last_component():
    page, calls = A1111Page(), []
    names = [*page.input_names, *page.output_names]
    page.when_complete(lambda: calls.append("wired"))

    for name in ("another extension's", *names[:-1]):
        page.add(name, object())
    before = list(calls)
    page.add(names[-1], object())
    page.add(names[-1], object())

    assert (before, calls) == ([], ["wired"])
    assert "another extension's" not in page.components


def test_what_is_sent_fills_inpaint_upload_and_the_sliders():
    image, mask = Image.new("RGB", (4096, 2048)), Image.new("L", (4096, 2048))

    sent = A1111Page().send(image, mask)

    assert list(sent.values()) == [image, mask, 2048, 1024]
    assert tuple(sent) == A1111Page.output_names


def run_script(call):
    """Return what a script of the page returns, and which tab it has opened."""
    code = f"""
        const opened = [];
        globalThis.document = {{ addEventListener() {{}} }};
        globalThis.switch_to_img2img_tab = tab => opened.push(tab);
        {SCRIPT.read_text()}
        console.log(JSON.stringify([{call}, opened]));
    """
    done = subprocess.run([NODE, "-e", code], capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


@pytest.mark.skipif(not NODE, reason="Node.js is not installed")
@pytest.mark.parametrize(("status", "opened"), [("a mask", [4]), ('<div class="ldznet-error">', [])])
def test_after_send_the_tab_is_opened_unless_there_is_an_error(status, opened):
    script = A1111Page().script_after_send(["status"])

    assert run_script(f"({script})({json.dumps(status)})")[1] == opened


def test_files_and_folder_of_batch_are_inputs_where_the_webui_has_them():
    page, bare = A1111Page(), A1111Page()
    for name in ("img2img_batch_upload", "img2img_batch_input_dir", "img2img_batch_tab"):
        page.add(name, object())

    assert page.input_names[-2:] == ("img2img_batch_upload", "img2img_batch_input_dir")
    assert page.picture_names[5:] == [["img2img_batch_upload"], ["img2img_batch_input_dir"]]
    assert bare.picture_names[5:] == [[], []]
    assert (
        "img2img_batch_tab.select" in page.picture_events,
        "img2img_batch_tab.select" in bare.picture_events,
    ) == (
        True,
        False,
    )
