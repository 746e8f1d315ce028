"""python -m ldznet serve: what it refuses, and the page itself, in a headless Chromium as a user would use it."""

import importlib.metadata
import importlib.util
import io
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ldznet.__main__ import main
from ldznet.cli import serve
from ldznet.research.scenes.scenes import make_scene

ROOT = Path(__file__).parents[2]
SIZE = (192, 128)  # width, height
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


# --- what is refused -------------------------------------------------------------------------------------


def run_refused(capsys, *arguments):
    """Run the command; return its exit code and what it wrote to stderr."""
    code = main(["serve", "--no-browser", *arguments])
    return code, capsys.readouterr().err


def test_without_gradio_it_says_how_to_install_it(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)

    code, text = run_refused(capsys)

    assert code == 1
    assert (
        text
        == "error: gradio, which draws the page, is not installed. Install it: in the folder of ldznet, run pip "
        'install -e ".[serve]"\n'
    )


def test_the_webuis_gradio_is_refused(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: True)
    monkeypatch.setattr(serve, "version", lambda _name: "3.41.2")

    code, text = run_refused(capsys)

    assert code == 1
    assert text.startswith(
        "error: gradio 3.41.2 is installed, but the page needs gradio 6. Install it in an environ"
    )


@pytest.fixture
def gradio(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: True)
    monkeypatch.setattr(serve, "version", lambda _name: "6.31.0")


def test_a_number_that_is_not_a_port_is_refused(capsys, gradio):
    code, text = run_refused(capsys, "--port", "70000")

    assert (code, text.startswith("error: --port is 70000, but a port is a number from 1 to 65535")) == (2, True)


def test_a_port_in_use_is_reported_before_a_model_is_loaded(capsys, gradio):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        code, text = run_refused(capsys, "--port", str(port))

    assert (code, text.startswith(f"error: The page cannot be opened at 127.0.0.1, port {port}: ")) == (1, True)
    assert text.endswith("If another program has the port, give another one with --port.\n")


def test_a_folder_of_heads_that_does_not_exist_is_refused(capsys, gradio):
    code, text = run_refused(capsys, "--heads", "nowhere")

    assert (code, text) == (
        2,
        "error: --heads is nowhere, which is not a folder. Give the folder that has the heads.\n",
    )


def test_without_the_embedded_model_a_checkpoint_is_needed(capsys, gradio, monkeypatch, tmp_path):
    monkeypatch.setattr(serve, "EMBEDDED", tmp_path / "tiny.safetensors")

    code, text = run_refused(capsys)

    assert (code, "Give a Stable Diffusion model with --checkpoint." in text) == (2, True)


# --- the page --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    try:
        importlib.metadata.version("gradio")
        from playwright.sync_api import sync_playwright
    except ImportError as why:
        pytest.skip(f'{why.name} is not installed: pip install -e ".[dev]"')
    if not CHROMIUM:
        pytest.skip("there is no Chromium: apt-get install chromium, or name one in CHROMIUM")
    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def address(browser):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ldznet", "serve", "--no-browser", "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as served:
        line = served.stdout.readline()
        assert line == f"http://127.0.0.1:{port}/  (Ctrl-C ends it)\n"
        yield line.split()[0]
        served.terminate()
        assert served.wait(60) == 128 + 15


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    path = tmp_path_factory.mktemp("scene") / "scene.png"
    Image.fromarray(make_scene(1, size=SIZE[::-1]).image).save(path)
    return path


@pytest.fixture
def page(browser, address, scene):
    """Open the page with a scene as its image; at the end there must be no error of JavaScript."""
    errors = []
    page = browser.new_page(viewport={"width": 1200, "height": 1300})
    page.set_default_timeout(120_000)
    page.on("pageerror", lambda error: errors.append(error.message))
    page.goto(address, wait_until="domcontentloaded")
    page.locator("#img_inpaint_base input[type=file]").set_input_files(scene)
    page.wait_for_selector("#img_inpaint_base img")
    yield page
    if shots := os.environ.get("SHOTS"):
        page.screenshot(path=f"{shots}/serve.png", full_page=True)
    page.close()
    assert errors == []


def segment(page, prompt, *, by_key=False):
    box = page.locator("#ldznet_prompt textarea")
    box.fill(prompt)
    if by_key:
        box.press("Enter")
    else:
        page.locator("#ldznet_segment").click()


def set_threshold(page, value):
    box = page.locator("#ldznet_threshold input[type=number]")
    box.fill(str(value))
    box.blur()


def image_url(page, name, unlike=None):
    """Return the address of an image of the preview, as soon as it is another one than `unlike`."""
    script = """([id, old]) => {
        const now = document.querySelector(id);
        return now && now.complete && now.src && now.src !== old ? now.src : null;
    }"""
    return page.wait_for_function(script, arg=[f"#ldznet_{name} img", unlike]).json_value()


def pixels(page, url):
    path = url.rsplit("/", 1)[-1]
    assert path.endswith(".png")  # a mask that is downloaded is exact
    for _ in range(20):
        try:
            return np.asarray(Image.open(io.BytesIO(page.request.get(url).body())))
        except OSError:  # gradio writes a file anew that has the same content as one that it shows
            page.wait_for_timeout(500)
    raise AssertionError(f"{url} is not an image.")


def test_a_prompt_gives_a_mask_and_the_threshold_changes_it_without_the_model(page):
    set_threshold(page, 0.2)
    segment(page, "orange circle")
    first = image_url(page, "mask_picture")
    mask = pixels(page, first)

    set_threshold(page, 0.1)
    lower = pixels(page, image_url(page, "mask_picture", unlike=first))

    assert mask.shape == lower.shape == SIZE[::-1]
    assert set(np.unique(lower)) == {0, 255}
    assert 0.005 < (mask > 127).mean() < (lower > 127).mean() < 0.9
    status = page.locator("#ldznet_status").inner_text()
    assert status.startswith("orange circle: ")
    assert "ld-znet.safetensors fits tiny.safetensors" in status


def test_enter_after_several_prompts_gives_a_colour_map(page):
    set_threshold(page, 0.1)
    segment(page, "orange circle | purple circle", by_key=True)

    assert pixels(page, image_url(page, "colors")).ndim == 3


def segment_share(page, prompt="circle", level=0.05):
    """Segment, wait for the whole preview, and return the share of the mask."""
    set_threshold(page, level)
    segment(page, prompt)
    return (pixels(page, image_url(page, "mask_picture")) > 127).mean()


def numbers_of_objects(page):
    """Open Advanced and return the box of the numbers, before images arrive that move it."""
    page.get_by_role("button", name="Advanced").click()
    box = page.locator("#ldznet_objects input, #ldznet_objects textarea")
    box.wait_for()
    return box


def click_until_threshold(page, what, level):
    """Click until the threshold is set: a click is lost while the gallery is being drawn."""
    box = page.locator("#ldznet_threshold input[type=number]")
    for _ in range(4):
        what.click()
        for _ in range(150):  # a second click's answer, if the first is only late, would undo what comes after it
            if box.input_value() == level:
                return
            page.wait_for_timeout(200)
    raise AssertionError(f"The threshold is {box.input_value()}, but {level} was clicked.")


def test_a_click_chooses_one_of_several_thresholds(page):
    segment_share(page)
    choices = page.locator("#ldznet_choices .thumbnail-item")
    choices.last.wait_for()
    captions = page.locator("#ldznet_choices .caption-label").all_inner_texts()

    for _ in range(2):  # a gallery keeps in mind what was clicked last
        before = image_url(page, "mask_picture")
        click_until_threshold(page, choices.first, f"{float(captions[0].split()[-1]):g}")
        choices.first.wait_for()
        moved = image_url(page, "mask_picture", unlike=before)
        set_threshold(page, 0.05)
        image_url(page, "mask_picture", unlike=moved)

    names = [caption.split()[0] for caption in captions]
    assert names in (["tight", "loose"], ["tight", "middle", "loose"])


def test_objects_are_chosen_by_clicks_in_their_picture_and_by_their_numbers(page):
    box = numbers_of_objects(page)
    segment_share(page)
    whole, drawn = image_url(page, "mask_picture"), image_url(page, "objects_picture")
    objects = page.locator("#ldznet_objects_picture img")

    box.fill("2")
    second = image_url(page, "mask_picture", unlike=whole)
    mask = pixels(page, second) > 127
    image_url(page, "objects_picture", unlike=drawn)
    objects.click(position=place_of(page, mask))
    page.wait_for_function(
        "() => document.querySelector('#ldznet_objects input, #ldznet_objects textarea').value === ''"
    )

    assert mask.any()
    assert mask.sum() < (pixels(page, whole) > 127).sum()
    assert "selected: " in page.locator("#ldznet_status").inner_text()


def place_of(page, mask):
    """Return where the innermost pixel of a mask lies on the shown image of objects."""
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    shown = page.locator("#ldznet_objects_picture img").evaluate(
        "image => [image.clientWidth, image.clientHeight, image.naturalWidth, image.naturalHeight]"
    )
    scale = min(shown[0] / shown[2], shown[1] / shown[3])
    return {"x": (column + 0.5) * scale, "y": (row + 0.5) * scale}


def test_another_prompt_selects_all_objects_again(page):
    box = numbers_of_objects(page)
    segment_share(page)
    whole = image_url(page, "mask_picture")
    box.fill("2")
    before = image_url(page, "mask_picture", unlike=whole)

    segment(page, "star")

    image_url(page, "mask_picture", unlike=before)
    page.wait_for_function(
        "() => document.querySelector('#ldznet_objects input, #ldznet_objects textarea').value === ''"
    )


def test_keys_segment_and_move_the_threshold(page):
    set_threshold(page, 0.2)
    page.locator("#ldznet_prompt textarea").fill("circle")
    left_out = page.locator("#ldznet_negative_prompt textarea")
    left_out.fill("unicorn")
    left_out.press("Enter")
    first = image_url(page, "mask_picture")
    level = page.locator("#ldznet_threshold input[type=number]")

    page.keyboard.press("Alt+ArrowDown")
    page.keyboard.press("Alt+ArrowDown")
    lower = image_url(page, "mask_picture", unlike=first)

    assert level.input_value() == "0.1"
    assert (pixels(page, lower) > 127).mean() > (pixels(page, first) > 127).mean()
    for _ in range(3):
        page.keyboard.press("Alt+ArrowDown")
    assert level.input_value() == "0"


def test_without_a_prompt_it_says_what_to_do(page):
    segment(page, "")

    page.wait_for_selector("#ldznet_status .ldznet-error")
    assert page.locator("#ldznet_status").inner_text().startswith("There is no prompt.")


def test_controls_for_runs_of_the_webui_are_hidden(page):
    page.get_by_role("button", name="Advanced").click()
    page.wait_for_selector("#ldznet_brush", state="visible")

    for name in ("send", "enabled", "fill", "area", "on_nothing", "append"):
        assert not page.locator(f"#ldznet_{name}").is_visible()
