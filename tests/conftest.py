"""What several tests share: recorded tensors of the released network, a stand-in of the webui, reading."""

import asyncio
import json
import logging
import signal

import numpy as np
import pytest
import torch
from host.brightness import Brightness, half, use
from host.process import Processing, Run, fill_in_webui
from host.webui import Webui
from parity_weights import PARITY, released_checkpoint, unpack

from ldznet.heads.network import Head, HeadConfig
from ldznet.heads.unet import UNet, UNetConfig
from ldznet.hosts.diffusers.random_weights import random_host
from ldznet.methods import learned_head
from ldznet.methods.method import Defaults
from ldznet.research.datasets.samples import usable
from ldznet.research.datasets.skip_report import Report
from ldznet.webui.current_webui import webui_app, webui_session
from ldznet.webui.run.hooks import RunHooks

CASES = ("48x48_b1", "40x56_b1", "64x48_b1")

torch.set_num_threads(1)


def arrays(name):
    with np.load(PARITY / name) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


@pytest.fixture(autouse=True)
def as_it_was():
    """What a command sets for its whole process, `--quiet` and signals, ends with the test that ran it."""
    log = logging.getLogger("ldznet")
    level = log.level
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    log.setLevel(level)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _closed_loops(monkeypatch):
    """Close the event loops that gradio makes with every Blocks, and forgets."""
    loops, make = [], asyncio.new_event_loop

    def make_and_note():
        loops.append(make())
        return loops[-1]

    monkeypatch.setattr(asyncio, "new_event_loop", make_and_note)
    yield
    for loop in loops:
        if not loop.is_running():
            loop.close()


@pytest.fixture(scope="module")
def host():
    """A small model with random weights."""
    return random_host()


@pytest.fixture(scope="session")
def recorded():
    """case -> tensor name -> what the released code computed."""
    found = arrays("cases.npz")
    return {
        case: {key.split("/")[1]: value for key, value in found.items() if key.startswith(f"{case}/")}
        for case in CASES
    }


@pytest.fixture(scope="session")
def recorded_moments():
    return json.loads((PARITY / "cases.json").read_text())


@pytest.fixture(scope="session")
def released_shapes():
    """The released head's tensors at full size: name -> shape."""
    return {
        name: tuple(shape) for name, shape in json.loads((PARITY / "released_shapes.json").read_text()).items()
    }


@pytest.fixture(scope="session")
def small_unet_state():
    """The Stable Diffusion UNet that gave the recorded features, original names without prefix."""
    return unpack("sd_small.npz")[0]


@pytest.fixture(scope="session")
def small_config():
    unet = UNetConfig(model_channels=32, heads=4, context_width=64, out_channels=1)
    return HeadConfig(unet=unet)


@pytest.fixture(scope="session")
def released_state():
    """weights -> name -> tensor, for "ema" and "raw" of the recorded checkpoint."""
    state = torch.load(released_checkpoint(), weights_only=True)["state_dict"]
    prefix = "model.diffusion_model."
    raw = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    ema = {name: state["model_ema.diffusion_model" + name.replace(".", "")] for name in raw}
    return {"raw": raw, "ema": ema}


def build(module, state):
    module.load_state_dict(state)
    return module.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def small_unet(small_unet_state):
    shapes = {name: tuple(tensor.shape) for name, tensor in small_unet_state.items()}
    return build(UNet(UNetConfig.from_shapes(shapes, heads=4)), small_unet_state)


@pytest.fixture(scope="session")
def small_heads(small_config, released_state):
    """ "ema" and "raw" -> the recorded head."""
    return {weights: build(Head(small_config), state) for weights, state in released_state.items()}


def features_of(case):
    """The recorded features that the head reads, by path."""
    paths = ("input_blocks.8.1", "middle_block.1", "output_blocks.3.1", "output_blocks.4.1", "output_blocks.5.1")
    return {path: case[f"feat{index:02}"] for index, path in enumerate(paths, start=5)}


def iou(a, b):
    """Of two masks."""
    return (a & b).sum() / (a | b).sum()


def read_all(dataset):
    """All samples that can be read, and the report of what was left out."""
    report = Report()
    report.merge(dataset.report)
    return list(usable(dataset, report)), report


# --- a webui ---------------------------------------------------------------------------------------------


@pytest.fixture
def webui(monkeypatch, tmp_path):
    """Return the stand-in, with a model, an empty folder of heads, and a session of this test."""
    found = Webui(monkeypatch)
    fill_in_webui(found, monkeypatch, tmp_path)
    webui_app.cache_clear()  # in a webui both stay; a test has its own
    webui_session.cache_clear()
    found.session = webui_session()
    found.hooks = RunHooks(found.session, webui_app())
    return found


@pytest.fixture
def method(monkeypatch, webui):
    """Return the method that panel, runs and routes use."""
    return use(Brightness(), monkeypatch)


@pytest.fixture
def run(method, webui):
    """Return the hooks of our script, called as the webui calls them."""
    return Run(webui.hooks)


@pytest.fixture
def p(webui):
    """Return a run of img2img with an image whose left half is bright."""
    return Processing(webui.model, [half()])


@pytest.fixture
def small_squares(monkeypatch):
    """Let random heads work at 64 pixels, which takes no time."""
    whole = learned_head.random_head

    def small(*given):
        head = whole(*given)
        head._defaults = Defaults(64, (300,), "{}")
        return head

    monkeypatch.setattr(learned_head, "random_head", small)
