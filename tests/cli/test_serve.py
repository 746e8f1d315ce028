"""python -m ldznet serve: what it refuses, and the page itself, in a headless Chromium as a user would use it."""

import base64
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
from embedded_scenes import LOW_THRESHOLD, LOWEST_THRESHOLD, PHRASE, SCENE, SECOND_PHRASE, THRESHOLD, image_of
from PIL import Image

from ldznet.__main__ import main
from ldznet.cli import serve
from ldznet.errors import ImageError

ROOT = Path(__file__).parents[2]
SIZE = (192, 128)  # width, height
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


# --- what is refused -------------------------------------------------------------------------------------


def run_refused(capsys, *arguments):
    """Run the command; return its exit code and what it wrote to stderr."""
    code = main(["serve", "--no-browser", *arguments])
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.pdf", b"%PDF-1.4 and so on", "is a PDF, not an image"),
        ("b.png", b"", "is empty: it has 0 bytes"),
        ("c.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        ("d.txt", b"words", "is not an image: it holds text"),
    ],
)
def test_an_upload_that_is_no_image_is_an_error_in_words(tmp_path, name, content, text):
    pytest.importorskip("gradio")
    from gradio.data_classes import ImageData

    from ldznet.cli import standalone_page

    (tmp_path / name).write_bytes(content)
    upload = standalone_page._image(standalone_page.IMAGE, height=100)
    path = upload.preprocess(ImageData(path=str(tmp_path / name), orig_name=name))
    page = standalone_page.StandalonePage({}, None)

    with pytest.raises(ImageError, match=text) as refused:
        page.read_image({standalone_page.IMAGE: path, standalone_page.MASK: None}, None)

    assert str(tmp_path) not in str(refused.value)
    assert upload.get_block_name() == "image"  # the browser knows it by this name


def test_cancel_stops_the_work_that_runs_and_not_the_next(host, tmp_path, monkeypatch):
    from ldznet.cli.standalone_page import StandaloneApp
    from ldznet.webui.controls import read_panel_settings
    from ldznet.webui.progress import StoppedError
    from ldznet.webui.session import Session

    app = StandaloneApp(host, tmp_path)
    session, model = Session(app, lambda model: model), app.load_model()
    settings = read_panel_settings([{"prompt": "bucket", "method": "attention", "resolution": 64}])
    image, passes = Image.new("RGB", SIZE), []

    def cancel_and_encode(prompts):
        app.request_stop()
        return host.encode_prompt(prompts)

    monkeypatch.setattr(model, "encode_prompt", cancel_and_encode, raising=False)
    monkeypatch.setattr(host, "predict_noise", lambda *_: passes.append(1))
    with pytest.raises(StoppedError, match="interrupted"):
        app.run_exclusively(lambda: session.segment_image(model, image, settings))
    monkeypatch.undo()
    result = app.run_exclusively(lambda: session.segment_image(model, image, settings))

    assert passes == []
    assert result.segmentation.prompts == ("bucket",)


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
    image_of(SCENE, SIZE).save(path)
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


def pixels(url):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))))


def test_a_prompt_gives_a_mask_and_the_threshold_changes_it_without_the_model(page):
    set_threshold(page, THRESHOLD)
    segment(page, PHRASE)
    first = image_url(page, "mask_picture")
    mask = pixels(first)

    set_threshold(page, LOW_THRESHOLD)
    lower = pixels(image_url(page, "mask_picture", unlike=first))

    assert mask.shape == lower.shape == SIZE[::-1]
    assert set(np.unique(lower)) == {0, 255}
    assert 0.005 < (mask > 127).mean() < (lower > 127).mean() < 0.9
    status = page.locator("#ldznet_status").inner_text()
    assert status.startswith("Mask: ")
    assert f"{PHRASE}: " in status
    assert "ld-znet.safetensors fits tiny.safetensors" in status


def test_enter_after_several_prompts_gives_a_colour_map(page):
    set_threshold(page, LOW_THRESHOLD)
    segment(page, f"{PHRASE} | {SECOND_PHRASE}", by_key=True)

    assert pixels(image_url(page, "colors")).ndim == 3


def segment_share(page, prompt=PHRASE, level=LOWEST_THRESHOLD):
    """Segment, wait for the whole preview, and return the share of the mask."""
    set_threshold(page, level)
    segment(page, prompt)
    return (pixels(image_url(page, "mask_picture")) > 127).mean()


def numbers_of_objects(page):
    """Open Advanced and its part, and return the box of the numbers."""
    page.get_by_role("button", name="Advanced").click()
    page.locator("#ldznet_advanced_mask > button").click()
    box = page.locator("#ldznet_objects input, #ldznet_objects textarea")
    box.wait_for()
    return box


def test_a_click_chooses_one_of_several_thresholds(page):
    segment_share(page)
    choices = page.locator("#ldznet_choices .ldznet-threshold")
    choices.last.wait_for()
    captions = choices.all_inner_texts()

    for _ in range(2):
        before = image_url(page, "mask_picture")
        choices.first.click()
        moved = image_url(page, "mask_picture", unlike=before)
        level = page.locator("#ldznet_threshold input[type=number]").input_value()
        assert float(level) == float(captions[0].split()[-1])
        set_threshold(page, LOWEST_THRESHOLD)
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
    mask = pixels(second) > 127
    image_url(page, "objects_picture", unlike=drawn)
    objects.click(position=place_of(page, mask))
    page.wait_for_function(
        "() => document.querySelector('#ldznet_objects input, #ldznet_objects textarea').value === ''"
    )

    assert mask.any()
    assert mask.sum() < (pixels(whole) > 127).sum()
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

    segment(page, SECOND_PHRASE)

    image_url(page, "mask_picture", unlike=before)
    page.wait_for_function(
        "() => document.querySelector('#ldznet_objects input, #ldznet_objects textarea').value === ''"
    )


def test_keys_segment_and_move_the_threshold(page):
    set_threshold(page, 0.2)
    page.locator("#ldznet_prompt textarea").fill(PHRASE)
    left_out = page.locator("#ldznet_negative_prompt textarea")
    left_out.fill("unicorn")
    left_out.press("Enter")
    first = image_url(page, "mask_picture")
    level = page.locator("#ldznet_threshold input[type=number]")

    page.keyboard.press("Alt+ArrowDown")
    page.keyboard.press("Alt+ArrowDown")
    lower = image_url(page, "mask_picture", unlike=first)

    assert level.input_value() == "0.1"
    assert (pixels(lower) > 127).mean() > (pixels(first) > 127).mean()
    for _ in range(3):
        page.keyboard.press("Alt+ArrowDown")
    assert level.input_value() == "0"


def test_other_words_or_another_picture_mark_what_is_shown_and_no_slider_moves_it(page, scene):
    set_threshold(page, THRESHOLD)
    segment(page, PHRASE)
    first = image_url(page, "mask_picture")
    note = page.locator("#ldznet_outdated .ldznet-note")

    page.locator("#ldznet_prompt textarea").fill(SECOND_PHRASE)
    note.wait_for()
    said = note.inner_text()
    set_threshold(page, LOW_THRESHOLD)
    page.wait_for_timeout(2000)
    unmoved = image_url(page, "mask_picture")
    page.locator("#ldznet_prompt textarea").fill(PHRASE)
    image_url(page, "mask_picture", unlike=first)
    is_gone = not note.count()
    page.locator("#img_inpaint_base button[aria-label='Remove Image']").click()
    note.wait_for()

    assert said == "What is shown belongs to other words. Press Segment."
    assert (unmoved == first, is_gone) == (True, True)
    assert note.inner_text() == "What is shown belongs to another picture. Press Segment."


def test_a_click_opens_an_image_at_its_full_size_and_a_link_downloads_it(page):
    segment(page, PHRASE)
    shown = image_url(page, "mask_picture")
    page.locator("#ldznet_mask_picture .ldznet-open").click()
    size = page.locator("dialog.ldznet-window img").evaluate("image => [image.width, image.height]")
    page.keyboard.press("Escape")
    page.locator("dialog.ldznet-window").wait_for(state="detached")
    with page.expect_download() as download:
        page.locator("#ldznet_mask_picture .ldznet-download").click()

    assert size == [*SIZE]
    assert download.value.suggested_filename == "mask.png"
    assert Path(download.value.path()).read_bytes() == base64.b64decode(shown.split(",", 1)[1])


def test_nothing_moves_while_the_threshold_does(page):
    set_threshold(page, LOWEST_THRESHOLD)
    segment(page, PHRASE)
    image_url(page, "mask_picture")
    places = []
    for level in (0.05, 0.2, 0.4, 1):
        before = image_url(page, "mask_picture")
        set_threshold(page, level)
        if places:
            image_url(page, "mask_picture", unlike=before)
        places.append(
            page.evaluate(
                """() => ['threshold', 'status', 'overlay', 'heat', 'objects_picture', 'advanced'].map(name => {
                    const box = document.querySelector(`#ldznet_${name}`).getBoundingClientRect();
                    return [name, ...[box.x, box.y + scrollY, box.width, box.height].map(Math.round)];
                })"""
            )
        )

    assert places[0] == places[1] == places[2] == places[3]


@pytest.mark.parametrize("width", [1400, 390])
def test_every_label_can_be_read_and_picture_and_result_are_side_by_side_where_there_is_room(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    segment(page, PHRASE)
    image_url(page, "mask_picture")
    page.get_by_role("button", name="Advanced").click()
    for part in ("mask", "search"):
        page.locator(f"#ldznet_advanced_{part} > button").click()
    page.wait_for_timeout(1000)

    cut_off = page.evaluate(
        """() => [...document.querySelectorAll('#ldznet_panel :is(span, label, button)')].filter(one => {
            const box = one.getBoundingClientRect();
            return one.innerText?.trim() && box.width && (box.right > innerWidth + 1 || box.left < -1
                || one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).display !== 'inline');
        }).map(one => one.innerText)"""
    )
    picture, result = (page.locator(name).bounding_box() for name in ("#img_inpaint_base", "#ldznet_overlay"))
    text = page.locator("body").inner_text().lower()

    assert cut_off == []
    assert (picture["x"] + picture["width"] <= result["x"]) == (width == 1400)
    assert [word for word in ("img2img", "inpaint", " tab", "batch", "webui") if word in text] == []


def test_without_a_prompt_it_says_what_to_do(page):
    segment(page, "")

    page.wait_for_selector("#ldznet_status .ldznet-error")
    assert page.locator("#ldznet_status").inner_text().startswith("There is no prompt.")


def test_controls_for_runs_of_the_webui_are_hidden(page):
    page.get_by_role("button", name="Advanced").click()
    page.locator("#ldznet_advanced_mask > button").click()
    page.wait_for_selector("#ldznet_brush", state="visible")

    for name in ("send", "enabled", "fill", "area", "on_nothing", "append"):
        assert not page.locator(f"#ldznet_{name}").is_visible()
