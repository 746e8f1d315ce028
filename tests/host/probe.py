"""A script of the webui that segments inside its process, as the extension does; tests/live copies it there.

Its one argument is a job in JSON: the image, where to write, and what to look for. Nothing happens without one.
"""

import json
import sys
import time
import traceback
from pathlib import Path

import gradio as gr
import numpy as np
from modules import scripts, sd_hijack, sd_unet, shared

ROOT = Path("@ROOT@")
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "host")]

from state import changes, state_of  # noqa: E402

from ldznet.methods.attention import AttentionMethod, AttentionOptions  # noqa: E402
from ldznet.methods.learned_head import random_head  # noqa: E402
from ldznet.options import SegmentOptions  # noqa: E402
from ldznet.segmenter import Segmenter  # noqa: E402
from ldznet.webui.current_webui import webui_session  # noqa: E402


def methods(unet):
    """Return the same methods as in the test's own process."""
    return {"attention": AttentionMethod(AttentionOptions(gate=())), "learned": random_head(unet)}


def segment(host, image, prompts, options):
    """Return the probabilities (P, h, w) by method."""
    maps = {}
    for name, method in methods(host.info.unet).items():
        segmenter = Segmenter(host, method)
        segmenter.set_image(image, options)
        maps[name] = segmenter.segment(prompts, options).maps.numpy()
    return maps


def watched(model):
    return state_of(model, shared, sys.modules.get("networks"), sd_hijack.model_hijack, sd_unet)


def work(p, job):
    host = webui_session().make_host(p.sd_model)
    before = watched(p.sd_model)
    options = SegmentOptions(resolution=job["resolution"])
    start = time.perf_counter()
    if job.get("once"):
        with host.borrowed():
            maps = segment(host, job["image"], job["prompts"], options)
    else:
        maps = segment(host, job["image"], job["prompts"], options)
    info = {
        "name": host.info.name,
        "family": host.info.family,
        "prediction": host.info.prediction,
        "unet": repr(host.info.unet),
        "fingerprint": host.info.fingerprint,
        "tokens": host.count_tokens(job["prompts"]),
        "dtype": str(host.dtype),
    }
    seconds = time.perf_counter() - start
    changed = changes(before, watched(p.sd_model))
    names = {repr(getattr(module, "network_current_names", ())) for module in p.sd_model.modules()}
    return maps, {
        "info": info,
        "changed": changed,
        "seconds": seconds,
        "patched": sorted(names),
        "ratio": getattr(p.sd_model, "applied_token_merged_ratio", 0),
        "hypernetworks": len(shared.loaded_hypernetworks),
        "padding": sorted(
            {module.padding_mode for module in p.sd_model.modules() if hasattr(module, "padding_mode")}
        ),
    }


class Probe(scripts.Script):
    def title(self):
        return "ldznet probe"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [gr.Textbox("", label="job", visible=False)]

    def process(self, p, job=""):
        if not job:
            return
        job = json.loads(job)
        try:
            maps, report = work(p, job)
            np.savez(job["out"] + ".npz", **maps)
        except Exception:
            report = {"error": traceback.format_exc()}
        Path(job["out"] + ".json").write_text(json.dumps(report))
