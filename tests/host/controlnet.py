"""A script of the webui beside the real ControlNet; tests/live/test_controlnet.py copies it there.

ControlNet reckons with the published UNet; this makes it take the embedded model's. And its routes look into the
webui's model, and make its next pass break off.
"""

import sys

import torch
from modules import script_callbacks, scripts, shared

FEATURES = 13  # of the published UNet, that ControlNet adds to


def fit(_demo, app):
    guess, net = sys.modules["scripts.controlnet_model_guess"], sys.modules["scripts.cldm"].ControlNet
    guess.controlnet_default_config |= {
        "model_channels": 64,
        "num_res_blocks": 1,
        "channel_mult": [1, 1, 2, 2],
        "num_heads": 4,
    }
    forward = net.forward

    def padded(self, *args, **more):
        found = list(forward(self, *args, **more))
        return [found[0].new_zeros(1)] * (FEATURES - len(found)) + found

    net.forward = padded
    for route in (order, state, break_off):
        app.add_api_route(f"/look/{route.__name__}", route)


def order():
    """Return the names of the scripts, in the order in which their `process` is called."""
    return [script.title().lower() for script in scripts.scripts_img2img.ordered_scripts("process")]


def state():
    """Return which code the UNet runs, and its output for the same noise."""
    unet = shared.sd_model.model.diffusion_model
    generator = torch.Generator().manual_seed(1)
    given = torch.randn(1, 4, 16, 24, generator=generator), torch.tensor([400])
    with torch.no_grad():
        answer = unet(*given, torch.randn(1, 77, 64, generator=generator))
    return {"forward": unet.forward.__qualname__, "own": "forward" in vars(unet), "sum": float(answer.abs().sum())}


def break_off():
    """Break off the sampling, as another extension or a lack of memory would."""

    def fail(_module, _args):
        handle.remove()
        raise RuntimeError("broken off by a test")

    handle = shared.sd_model.model.diffusion_model.middle_block.register_forward_pre_hook(fail)


script_callbacks.on_app_started(fit)
