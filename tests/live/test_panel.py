"""The panel inside a real AUTOMATIC1111: through its API, and in a headless Chromium (panel.mjs).

WEBUI_DIR as in test_host.py. For the browser: node, PLAYWRIGHT (playwright-core's index.mjs; by default that of
WEBUI_DIR/browser) and CHROMIUM (/usr/bin/chromium). SHOTS is a folder for screenshots of each step. The extension
is a copy of this checkout in a temporary data folder; its head has random weights, so masks mean nothing here.
"""

import base64
import io
import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldznet.hosts.diffusers import DiffusersHost
from ldznet.methods.learned import random_head
from ldznet.modeling.checkpoint import save_head
from ldznet.training.scenes import make_scene
from ldznet.webui.controls import CONTROLS

WEBUI = Path(os.environ.get("WEBUI_DIR", ""))
PORT = "7873"
ROOT = Path(__file__).parents[2]
# A folder with tiny.safetensors and its .yaml
CHECKPOINTS = Path(os.environ.get("CHECKPOINTS", WEBUI / "webui" / "models" / "Stable-diffusion"))
PLAYWRIGHT = WEBUI / "browser" / "node_modules" / "playwright-core" / "index.mjs"
EXTENSION = ("ldznet", "scripts", "localizations", "install.py", "preload.py", "metadata.ini", "style.css")
SOFT_INPAINTING = {"args": [True, 1, 0.5, 4, 0, 0.5, 2]}
SIZE = (192, 128)

pytestmark = [
    pytest.mark.webui,
    pytest.mark.skipif("WEBUI_DIR" not in os.environ, reason="WEBUI_DIR names no webui"),
]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    paths = [folder / f"scene{seed}.png" for seed in (1, 3, 5)]
    for seed, path in zip((1, 3, 5), paths, strict=True):
        Image.fromarray(make_scene(seed, size=SIZE[::-1]).image).save(path)
    return paths


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A webui with the extension runs meanwhile -> its log's path."""
    data = tmp_path_factory.mktemp("data")
    extension = data / "extensions" / "ldznet"
    extension.mkdir(parents=True)
    for name in EXTENSION:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, extension / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, extension)
    heads = data / "models" / "ldznet"
    heads.mkdir(parents=True)
    checkpoint = CHECKPOINTS / "tiny.safetensors"
    head = random_head(DiffusersHost.load(checkpoint).info.unet).head
    save_head(head, heads / "random.safetensors", source={})
    own = ["--data-dir", data, "--ckpt-dir", CHECKPOINTS, "--ckpt", checkpoint]
    started = subprocess.run(
        [WEBUI / "start.sh", *map(str, own)],
        env=os.environ | {"PORT": PORT},
        capture_output=True,
        text=True,
        check=False,
    )
    assert started.returncode == 0, started.stdout
    yield WEBUI / "run" / "webui.log"
    subprocess.run([WEBUI / "stop.sh"], check=True, capture_output=True)


def ask(route, body=None):
    """-> status, answer."""
    data = None if body is None else json.dumps(body).encode()
    url, kind = f"http://127.0.0.1:{PORT}/sdapi/v1/{route}", {"Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, kind), timeout=300) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


def encoded(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def decoded(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")).astype(int)


class Client:
    def __init__(self, scene):
        self.scene = Image.open(scene)
        self.pixels = np.asarray(self.scene).astype(int)

    def run(self, *args, others=None, **more):
        """One img2img at the scene's size -> status, answer."""
        body = {"init_images": [encoded(self.scene)], "prompt": "a green star", "steps": 3, "seed": 1}
        body |= {"width": SIZE[0], "height": SIZE[1], "denoising_strength": 0.9, "save_images": False}
        body |= {"sampler_name": "Euler a", "inpainting_fill": 1, "mask_blur": 0, "inpaint_full_res": False}
        scripts = {"LD-ZNet segment": {"args": list(args)}} if args else {}
        return ask("img2img", body | {"alwayson_scripts": scripts | (others or {})} | more)


@pytest.fixture(scope="module")
def client(log, scenes):
    client = Client(scenes[0])
    client.run()  # the first run of a webui starts from other random states than all later ones
    return client


# --- the API ---------------------------------------------------------------------------------------------


def test_script_info_lists_every_control_with_its_range(client):
    _, found = ask("script-info")

    ours = next(script for script in found if script["name"] == "ld-znet segment")
    assert [arg["label"] for arg in ours["args"]] == [control.label for control in CONTROLS]
    assert [arg["value"] for arg in ours["args"]] == [control.default for control in CONTROLS]
    ranges = {arg["label"]: (arg["minimum"], arg["maximum"]) for arg in ours["args"]}
    assert (ranges["Threshold"], ranges["Grow or shrink (px)"]) == ((0.0, 1.0), (-512, 512))


def test_only_what_is_masked_is_repainted(client):
    status, found = client.run({"prompt": "orange circle", "append": True})

    assert status == 200
    picture, mask = decoded(found["images"][0]), decoded(found["images"][1])[..., 0]
    apart = np.abs(picture - client.pixels).max(axis=-1)
    assert 0.005 < (mask > 127).mean() < 0.9
    assert apart[mask == 0].max() == 0
    assert apart[mask == 255].mean() > 20


def test_by_place_and_by_name_is_the_same(client):
    by_place, by_name = client.run(True, "orange circle"), client.run({"prompt": "orange circle"})

    assert by_place[1]["images"] == by_name[1]["images"]


def test_a_run_without_us_is_the_same_before_and_after(client):
    before = client.run()[1]["images"]
    client.run({"prompt": "orange circle"})

    assert client.run()[1]["images"] == before
    assert client.run(False, "orange circle")[1]["images"] == before


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([{"prompt": "orange circle", "threshold": 1.0, "grow": -512}], "Nothing to inpaint"),
        ([True, ""], "There is no prompt"),
        ([True, "orange circle", "", "magic"], "Method is 'magic'"),
        ([{"prompt": "orange circle", "head": "two.safetensors"}], "There is no head 'two.safetensors'"),
    ],
)
def test_a_run_that_cannot_be_masked_is_refused_and_paints_nothing(client, given, said):
    status, found = client.run(*given)

    assert status == 422
    assert found["detail"].startswith(said)


@pytest.mark.parametrize("whole", [True, False])
def test_an_empty_mask_leaves_the_picture_as_it_is(client, whole):
    nothing = {"prompt": "orange circle", "threshold": 1.0, "grow": -512, "on_nothing": "empty mask"}

    _, found = client.run(nothing, inpaint_full_res=not whole)

    assert np.array_equal(decoded(found["images"][0]), client.pixels)


def test_soft_inpainting_sees_the_mask(client):
    _, found = client.run({"prompt": "orange circle"}, others={"Soft inpainting": SOFT_INPAINTING})

    assert json.loads(found["info"])["extra_generation_params"]["Soft inpainting enabled"] is True


def test_batch_count_and_size_share_the_mask(client):
    _, found = client.run({"prompt": "orange circle", "append": True}, batch_size=2, n_iter=2)

    *pictures, mask, _ = (decoded(image) for image in found["images"])
    assert len(pictures) in (4, 5)  # the grid, by the webui's settings
    for picture in pictures[-4:]:
        assert np.abs(picture - client.pixels)[mask[..., 0] == 0].max() == 0


@pytest.mark.parametrize("fill", ["fill", "original", "latent noise", "latent nothing"])
@pytest.mark.parametrize("area", ["whole picture", "only masked"])
def test_every_fill_and_area_paints_inside_only(client, fill, area):
    _, found = client.run({"prompt": "orange circle", "append": True, "fill": fill, "area": area})

    picture, mask = decoded(found["images"][0]), decoded(found["images"][1])[..., 0]
    assert np.abs(picture - client.pixels)[mask == 0].max() == 0


# --- the browser -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen(log, scenes):
    """What panel.mjs has seen."""
    settings = {
        "URL": f"http://127.0.0.1:{PORT}",
        "SCENES": ",".join(map(str, scenes)),
        "PHRASE": os.environ.get("PHRASE", "orange circle"),
        "PHRASES": os.environ.get("PHRASES", "orange circle | purple circle"),
        "THRESHOLD": "0.3",
        "BATCH_THRESHOLD": "0.13",  # just above what a random head says of most pixels
        "PLAYWRIGHT": os.environ.get("PLAYWRIGHT", str(PLAYWRIGHT)),
    }
    script = Path(__file__).with_name("panel.mjs")
    done = subprocess.run(
        ["node", str(script)], env=os.environ | settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(json.dumps(found, indent=1))
    assert "failed" not in found, found["failed"]
    return found


def test_the_page_has_no_errors(seen):
    assert seen["errors"] == []


def test_segment_shows_the_mask_and_says_what_was_found(seen):
    assert seen["withoutPrompt"].startswith("There is no prompt")
    assert seen["status"].startswith("orange circle: ")
    assert 0.005 < seen["share"] < 0.9


def test_the_threshold_acts_live(seen):
    assert seen["shareLower"] > seen["share"]
    assert seen["thresholdMs"] < 5000


def test_generate_in_the_tab_img2img_paints_inside_only(seen):
    outside, inside = seen["img2img"]
    assert (outside, inside > 20) == (0, True)


def test_send_fills_inpaint_upload_and_leaves_the_own_tab(seen):
    assert (seen["tab"], seen["size"]) == (4, [str(side) for side in SIZE])
    assert seen["sentShare"] == pytest.approx(seen["shareLower"], abs=1e-6)
    assert seen["ownTabKept"]


def test_generate_in_inpaint_upload_paints_inside_only(seen):
    outside, inside = seen["inpaint"]
    assert (outside, inside > 20) == (0, True)


def test_segment_and_generate_work_in_other_tabs(seen):
    for name in ("sketch", "inpaint"):
        assert 0.001 < seen["tabs"][name]["masked"] < 0.999
        assert 0.05 < seen["tabs"][name]["same"] < 0.9999, seen["tabs"][name]


def test_nothing_found_is_told_on_the_page(seen):
    assert "Nothing to inpaint" in seen["nothing"]


def test_in_batch_each_file_is_partly_as_it_was(seen):
    assert len(seen["batch"]) == 3
    assert all(0.05 < share < 0.999 for share in seen["batch"])


def test_reload_ui_leaves_a_panel_that_works(seen):
    assert seen["reloaded"].startswith("orange circle: ")


def test_the_log_has_no_error_of_ours(seen, log):
    text = log.read_text()
    assert "Error running" not in text
    assert "Error calling" not in text
