"""Test the adapter inside a real AUTOMATIC1111: its results, and that the webui's images stay the same.

WEBUI_DIR is a folder with start.sh and stop.sh, which start and stop a webui on $PORT with what arguments they are
given, and webui/models/Stable-diffusion/tiny.safetensors. The webui itself is not touched: its data folder is a
temporary one, with a script of ours (tests/host/probe.py) that segments in its process.
"""

import base64
import io
import json
import os
import subprocess
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from lora import write_lora
from PIL import Image
from running import NEEDS_A_WEBUI, ONLY_A1111
from safetensors.torch import save_file

from ldznet.hosts.diffusers.host import DiffusersHost
from ldznet.methods.attention import AttentionMethod, AttentionOptions
from ldznet.methods.learned_head import random_head
from ldznet.options import SegmentOptions
from ldznet.segmenter import Segmenter

WEBUI = Path(os.environ.get("WEBUI_DIR", ""))
PORT = "7871"
ROOT = Path(__file__).parents[2]
CHECKPOINTS = WEBUI / "webui" / "models" / "Stable-diffusion"
PROMPTS = ["red circle", "a (blue:1.5) [square] AND BREAK <lora:rand:1>", "circle"]
RESOLUTION = 256

pytestmark = [*NEEDS_A_WEBUI, ONLY_A1111]


# --- what the webui is given -----------------------------------------------------------------------------


def write_hypernetwork(path, width):
    generator = torch.Generator().manual_seed(6)

    def half():
        shapes = {"linear.0.weight": (2 * width, width), "linear.0.bias": (2 * width,)}
        shapes |= {"linear.1.weight": (width, 2 * width), "linear.1.bias": (width,)}
        return {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}

    path.parent.mkdir(parents=True)
    whole = {width: [half(), half()], "layer_structure": [1, 2, 1], "name": "rand", "step": 1}
    torch.save(whole, path, _use_new_zipfile_serialization=False)  # the webui refuses today's format


class Client:
    """A webui that runs, and the folder that the probe writes to."""

    def __init__(self, folder, unet):
        self.folder, self.count = folder, 0
        self.image = folder / "image.png"
        noise = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
        Image.fromarray(noise).resize((192, 128), Image.Resampling.BICUBIC).save(self.image)
        write_lora(folder / "models" / "Lora" / "rand.safetensors", unet)
        write_hypernetwork(folder / "models" / "hypernetworks" / "rand.pt", unet.context_width)
        (folder / "embeddings").mkdir()
        save_file({"emb_params": torch.ones(2, unet.context_width)}, folder / "embeddings" / "circle.safetensors")
        script = folder / "extensions" / "ldznet-probe" / "scripts" / "ldznet_probe.py"
        script.parent.mkdir(parents=True)
        source = (ROOT / "tests" / "host" / "probe.py").read_text()
        script.write_text(source.replace("@ROOT@", str(ROOT)))

    def start(self, *arguments):
        own = [
            "--data-dir",
            str(self.folder),
            "--ckpt-dir",
            str(CHECKPOINTS),
            "--ckpt",
            str(CHECKPOINTS / "tiny.safetensors"),
            "--no-half",
        ]
        done = subprocess.run(
            [WEBUI / "start.sh", *own, *arguments],
            env=os.environ | {"PORT": PORT},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        # The webui restores only those overridden settings that were set before (processing.py:823).
        settings = self.ask("options")
        self.ask("options", {name: settings[name] for case in CASES.values() for name in case.get("settings", ())})

    def ask(self, route, body=None):
        """Send GET, or POST if there is a body; return the answer."""
        data = None if body is None else json.dumps(body).encode()
        url, kind = f"http://127.0.0.1:{PORT}/sdapi/v1/{route}", {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(url, data, kind), timeout=300) as answer:
            return json.load(answer)

    def paint(self, job=None, **more):
        """Run txt2img once and return its image."""
        body = {"prompt": "a red circle", "seed": 1, "steps": 3, "width": 256, "height": 256, "save_images": False}
        body |= {"sampler_name": "Euler a", "scheduler": "automatic"}
        if job:
            body["alwayson_scripts"] = {"ldznet probe": {"args": [json.dumps(job)]}}
        settings = {"override_settings": more.pop("settings", {}), "override_settings_restore_afterwards": True}
        found = self.ask("txt2img", body | settings | more)
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(found["images"][0]))))

    def segment(self, once=False, **more):
        """Run txt2img once with the probe; return its image, the probabilities by method, and its report."""
        self.count += 1
        out = str(self.folder / f"job{self.count}")
        job = {"image": str(self.image), "out": out, "prompts": PROMPTS, "resolution": RESOLUTION, "once": once}
        picture = self.paint(job, **more)
        report = json.loads(Path(out + ".json").read_text())
        assert "error" not in report, report["error"]
        with np.load(out + ".npz") as file:
            return picture, dict(file), report


@pytest.fixture(scope="module")
def reference():
    """Return the same checkpoint, loaded by diffusers in this process."""
    return DiffusersHost.load(CHECKPOINTS / "tiny.safetensors")


@pytest.fixture(scope="module")
def make_client(reference, tmp_path_factory):
    def make(*arguments):
        client = Client(tmp_path_factory.mktemp("webui"), reference.info.unet)
        client.start(*arguments)
        return client

    yield make
    subprocess.run([WEBUI / "stop.sh"], check=True, capture_output=True)


@pytest.fixture(scope="module")
def client(make_client):
    return make_client()


@pytest.fixture(scope="module")
def expected(reference, client):
    """Return the probabilities by method, as diffusers gives them."""
    found = {}
    options = SegmentOptions(resolution=RESOLUTION)
    methods = {
        "attention": AttentionMethod(AttentionOptions(gate=())),
        "learned": random_head(reference.info.unet),
    }
    for name, method in methods.items():
        segmenter = Segmenter(reference, method)
        segmenter.set_image(client.image, options)
        found[name] = segmenter.segment(PROMPTS, options).maps.numpy()
    return found


@pytest.fixture(scope="module")
def plain(client):
    """Return an image, and the probabilities while nothing special is at work."""
    return client.paint(), client.segment()


def differences(found, expected):
    return {name: float(np.abs(found[name] - expected[name]).max()) for name in expected}


# --- alone -----------------------------------------------------------------------------------------------


def test_the_probabilities_are_those_of_the_checkpoint_in_diffusers(plain, expected, reference, record_property):
    _, (_, maps, report) = plain

    found = differences(maps, expected)
    record_property("differences", found)
    print(found, f"{report['seconds']:.1f} s")
    assert max(found.values()) < 1e-3
    assert all(value.std() > 0.01 for value in expected.values())
    assert report["info"]["unet"] == repr(reference.info.unet)
    assert report["info"]["prediction"] == reference.info.prediction
    assert report["info"]["tokens"] == reference.count_tokens(PROMPTS)
    assert report["info"]["name"].startswith("tiny.safetensors")
    assert len(report["info"]["fingerprint"]) == 64


def test_model_random_states_and_picture_are_as_without_us(client, plain):
    before, (during, _, report) = plain

    assert report["changed"] == []
    assert np.array_equal(during, before)
    assert np.array_equal(client.paint(), before)


# --- with what a run can have switched on ----------------------------------------------------------------

CASES = {
    "clip skip": {"settings": {"CLIP_stop_at_last_layers": 2}},
    "token merging": {"settings": {"token_merging_ratio": 0.5}},
    "LoRA": {"prompt": "a red circle <lora:rand:1>"},
    "hypernetwork": {"prompt": "a red circle <hypernet:rand:1>"},
    "LoRA, old way": {"prompt": "a red circle <lora:rand:1>", "settings": {"lora_functional": True}},
    "emphasis": {"prompt": "a (red:1.5) circle", "settings": {"emphasis": "No norm"}},
    "old emphasis": {"prompt": "a (red:1.5) circle", "settings": {"use_old_emphasis_implementation": True}},
    "tiling": {"tiling": True},
    "hypertile": {"settings": {"hypertile_enable_unet": True, "hypertile_max_tile_unet": 128}},
    "downcast alphas": {"settings": {"use_downcasted_alpha_bar": True}},
    "zero terminal SNR": {"settings": {"sd_noise_schedule": "Zero Terminal SNR"}},
    "textual inversion": {"prompt": "a red circle circle circle"},
}


@pytest.mark.parametrize("name", CASES)
def test_nothing_that_is_at_work_changes_the_result_or_is_changed(client, plain, name):
    without, (_, maps, _) = plain
    alone = client.paint(**CASES[name])  # a LoRA is loaded only now: the segmentation finds it in the weights

    picture, found, report = client.segment(**CASES[name])

    print(name, differences(found, maps), f"{report['seconds']:.1f} s", report["patched"], report["ratio"])
    assert report["changed"] == []
    assert np.array_equal(picture, alone)
    assert not np.array_equal(alone, without)  # it was really at work
    assert all(np.array_equal(found[method], maps[method]) for method in maps)
    assert np.array_equal(client.paint(), without)


def test_a_lora_of_the_last_run_is_not_seen_in_the_next(client, plain):
    without, (_, maps, _) = plain
    client.paint(prompt="a red circle <lora:rand:1>")

    picture, found, report = client.segment(once=True)

    assert any("rand" in names for names in report["patched"])
    assert report["changed"] == []
    assert np.array_equal(picture, without)
    assert all(np.array_equal(found[method], maps[method]) for method in maps)


def test_one_block_around_all_finds_the_same(client, plain):
    client.paint(prompt="a red circle <lora:rand:1>")
    _, maps, each = client.segment(prompt="a red circle <lora:rand:1>")

    _, found, once = client.segment(prompt="a red circle <lora:rand:1>", once=True)

    print(f"each call {each['seconds']:.2f} s, once {once['seconds']:.2f} s")
    assert all(np.array_equal(found[method], maps[method]) for method in maps)


# --- other ways to start the webui -----------------------------------------------------------------------


@pytest.fixture
def restart(make_client):
    def restart(*arguments):
        subprocess.run([WEBUI / "stop.sh"], check=True, capture_output=True)
        return make_client(*arguments)

    return restart


@pytest.mark.parametrize("flag", ["--medvram", "--lowvram"])
def test_low_memory_modes_change_nothing(restart, plain, flag):
    without, (_, maps, _) = plain
    client, lora = restart(flag), "a red circle <lora:rand:1>"

    picture, found, report = client.segment()

    assert report["changed"] == []
    assert all(np.array_equal(found[method], maps[method]) for method in maps)
    assert np.array_equal(picture, without)
    alone = client.paint(prompt=lora)
    picture, found, report = client.segment(prompt=lora)
    assert report["changed"] == []
    assert all(np.array_equal(found[method], maps[method]) for method in maps)
    assert np.array_equal(picture, alone)


def test_fp8_storage_works(restart, plain):
    client = restart()
    client.ask("options", {"fp8_storage": "Enable"})
    alone = client.paint()

    picture, found, report = client.segment()

    print("fp8", differences(found, plain[1][1]))
    assert not any(np.array_equal(found[method], plain[1][1][method]) for method in found)  # it is switched on
    assert report["changed"] == []
    assert np.array_equal(picture, alone)
    assert all(np.isfinite(value).all() and value.std() > 0.01 for value in found.values())
