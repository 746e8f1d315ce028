"""Start a real webui for a test, with a copy of this checkout as its extension, and use its API.

WEBUI_DIR is a folder with start.sh and stop.sh, which start and stop a webui on $PORT with what arguments they are
given; the precision is said here. The webui itself is not touched: its data folder is a temporary one. WEBUI_DIR/
config.json, if there is one, has its first settings, such as built-in extensions that are off.

HOST is which webui it is, by its files; WEBUI_HOST says it of one that runs already: a1111, forge, neo or reforge.
AUTOMATIC1111 gets the embedded model and its head; the others, which refuse small models, get random ones
(random_model.py), whose masks mean nothing but are the same everywhere.

WEBUI_URL is the address of one that runs already, with --api, this checkout as its extension and that model as its
checkpoint: the tests of the panel and of parameters take it as it is, and leave out what needs its
files. What a run saves lies in its output folders.
"""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import embedded_scenes
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ldznet.methods.load import EMBEDDED

WEBUI = Path(os.environ.get("WEBUI_DIR", ""))
LOG = WEBUI / "run" / "webui.log"
PORT = os.environ.get("WEBUI_PORT", "7877")
GIVEN = "WEBUI_URL" in os.environ
URL = os.environ.get("WEBUI_URL", f"http://127.0.0.1:{PORT}").rstrip("/")
ROOT = Path(__file__).parents[2]
EXTENSION = (
    "ldznet",
    "scripts",
    "localizations",
    "javascript",
    "models",
    "install.py",
    "preload.py",
    "metadata.ini",
    "style.css",
)
SIZE = (192, 128)  # width, height


def host_in(folder):
    """Return which webui is installed in a folder, by the files that ldznet/webui/webui_kind.py looks for."""
    if not (folder / "modules_forge").is_dir():
        return "a1111"
    if not (folder / "backend").is_dir():
        return "reforge"
    return "forge" if (folder / "modules" / "sd_hijack.py").exists() else "neo"


HOST = os.environ.get("WEBUI_HOST") or host_in(WEBUI / "webui")
# How far two images of the same run are apart: Forge and its kin draw the latent of the image at random.
REPEATS_WITHIN = 0 if HOST == "a1111" else 1
# And an image that is shown from its file: Forge and reForge hide the parameters in its alpha channel
# (stealth_infotext.py), and a browser rounds where alpha is 254.
SHOWN_WITHIN = 1 if HOST in ("forge", "reforge") else 0
# For a smaller and a larger mask of what the tests ask for.
if HOST == "a1111":
    THRESHOLD, LOW_THRESHOLD = embedded_scenes.THRESHOLD, embedded_scenes.LOW_THRESHOLD
else:
    THRESHOLD, LOW_THRESHOLD = 0.95, 0.6
MODEL = "tiny.safetensors" if HOST == "a1111" else "rand.safetensors"
HEAD = "ld-znet.safetensors" if HOST == "a1111" else "rand-head.safetensors"  # the one that fits
ONLY_A1111 = pytest.mark.skipif(HOST != "a1111", reason="needs the embedded model, or a part of AUTOMATIC1111's")

# What starts a webui of its own, and what takes one that runs already as well.
NEEDS_A_WEBUI = [
    pytest.mark.webui,
    pytest.mark.skipif("WEBUI_DIR" not in os.environ, reason="WEBUI_DIR names no webui"),
]
NEEDS_ANY_WEBUI = [
    pytest.mark.webui,
    pytest.mark.skipif(not {"WEBUI_DIR", "WEBUI_URL"} & os.environ.keys(), reason="no webui is named"),
]

# Extensions that look in `process` whether the run is one with a mask, under the names of those that do. The other
# webuis have their own ControlNet, and Forge and Neo load no extension of that name.
OTHERS = {"adetailer/scripts/!adetailer.py": ("AfterDetailerScript", "ADetailer")}
if HOST == "a1111":
    OTHERS["sd-webui-controlnet/scripts/controlnet.py"] = ("Script", "ControlNet")
OTHER = """
from modules import scripts

class {kind}(scripts.Script):
    def title(self):
        return "{name}"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return []  # without this the webui lists no name

    def process(self, p, *args):
        p.extra_generation_params["Seen by {name}"] = str(getattr(p, "image_mask", None) is not None)
"""


def make_data_folder(data, *, others=False):
    """Make the data folder of a webui: extension, checkpoints, settings; return the folder of checkpoints."""
    (data / "tmp").mkdir()  # Neo writes the images of its page there, and makes no folder
    for name in EXTENSION:
        target = data / "extensions" / "sd-webui-ldznet" / name  # a folder as a user may call it
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target)
    for path, (kind, name) in OTHERS.items() if others else ():
        script = data / "extensions" / path
        script.parent.mkdir(parents=True)
        script.write_text(OTHER.format(kind=kind, name=name))
    (data / "config.json").write_text(json.dumps(_first_settings() | {"img2img_editor_height": 300}))
    folder = data / "checkpoints"
    folder.mkdir()
    if HOST != "a1111":
        _link_random_model(data, folder)
        return folder
    text = EMBEDDED.with_suffix(".yaml").read_text()
    words = next(line for line in text.splitlines() if line.strip().startswith("version:"))
    text = text.replace(words.strip(), f"version: {EMBEDDED.with_suffix('')}")
    shutil.copy(EMBEDDED, folder / "tiny.safetensors")
    (folder / "tiny.yaml").write_text(text)
    _write_inpainting(folder / "nine", text)
    return folder


def _first_settings():
    given, launch = WEBUI / "config.json", WEBUI / "webui" / "modules" / "launch_utils.py"
    settings = json.loads(given.read_text()) if given.exists() else {}
    if HOST == "neo" and launch.exists():  # settings without its version stop it until a key is pressed
        settings["VERSION_UID"] = re.search(r'VERSION_UID.* = "(.*)"', launch.read_text(encoding="utf-8"))[1]
    return settings


def _link_random_model(data, folder):
    """Give a webui the random checkpoint, and its head in addition to those of the extension."""
    import random_model

    random_model.write_random_model()
    (folder / MODEL).symlink_to(random_model.CHECKPOINT)
    for source, kind in ((random_model.HEAD, "ldznet"), (random_model.APPROXIMATION, "VAE-approx")):
        target = data / "models" / kind / source.name
        target.parent.mkdir(parents=True)
        target.symlink_to(source)


def _write_inpainting(path, text):
    """Write the same model as one for inpainting, which also reads a mask and an image, and ignores both."""
    tensors = load_file(EMBEDDED)
    name = "model.diffusion_model.input_blocks.0.0.weight"
    first = tensors[name]
    tensors[name] = torch.cat([first, first.new_zeros(first.shape[0], 5, *first.shape[2:])], dim=1)
    save_file(tensors, path.with_suffix(".safetensors"))
    text = text.replace("LatentDiffusion", "LatentInpaintDiffusion").replace("crossattn", "hybrid")
    text = text.replace("in_channels: 4", "in_channels: 9", 1)
    path.with_suffix(".yaml").write_text(text.replace("use_ema: false", "use_ema: false\n    finetune_keys: null"))


def start(data, *flags):
    """Start a webui, in full precision unless the flags set it. A webui that runs already stays as it is."""
    if GIVEN:
        return
    if HOST == "a1111" and not any(flag in flags for flag in ("--no-half", "--precision")):
        flags = ("--no-half", *flags)
    if HOST in ("forge", "neo"):  # gradio 4 serves files of named folders only; the webui names its data folder
        flags = ("--gradio-allowed-path", data, "--gradio-allowed-path", WEBUI / "webui", *flags)
    folder = data / "checkpoints"
    own = ["--data-dir", data, "--ckpt-dir", folder, "--ckpt", folder / MODEL, *flags]
    if HOST == "neo":  # it takes the first checkpoint
        own = ["--data-dir", data, "--ckpt-dirs", folder, *flags]
    done = subprocess.run(
        [WEBUI / "start.sh", *map(str, own)],
        env=os.environ | {"PORT": PORT},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def stop():
    if GIVEN:
        return
    subprocess.run([WEBUI / "stop.sh"], check=True, capture_output=True)


def resident():
    """Return the resident memory of the webui's process in bytes."""
    pid = (WEBUI / "run" / "pid").read_text().strip()
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) * 1024


def ask(route, body=None, at="sdapi/v1"):
    """Return status and answer; a body in bytes is sent as it is."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    url, kind = f"{URL}/{at}/{route}", {"Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, kind), timeout=600) as answer:
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
    """Requests img2img of one image."""

    def __init__(self, scene):
        self.scene = scene if isinstance(scene, Image.Image) else Image.open(scene)
        self.pixels = np.asarray(self.scene).astype(int)

    def run(self, *args, others=None, **more):
        """Return status and answer; `args` are our script's."""
        body = {"init_images": [encoded(self.scene)], "prompt": "a green star", "steps": 3, "seed": 1}
        body |= {"width": SIZE[0], "height": SIZE[1], "denoising_strength": 0.9, "save_images": False}
        body |= {"sampler_name": "Euler a", "inpainting_fill": 1, "mask_blur": 0, "inpaint_full_res": False}
        scripts = {"LD-ZNet segment": {"args": list(args)}} if args else {}
        return ask("img2img", body | {"alwayson_scripts": scripts | (others or {})} | more)

    def outside(self, found):
        """Return how much the first image of an answer differs outside its mask, the second one, and inside."""
        picture, mask = decoded(found["images"][0]), decoded(found["images"][1])[..., 0]
        apart = np.abs(picture - self.pixels).max(axis=-1)
        return apart[mask == 0].max(), apart[mask == 255].mean(), (mask > 127).mean()
