"""Write a checkpoint and a head of random weights for webuis that refuse small models.

Forge takes a file for Stable Diffusion 1 only if its UNet starts with 320 channels and its VAE and text encoder
have their full sizes; the number of channels need not grow. That makes 640 MB, written once: RANDOM_MODEL is the
folder, by default one below the folder for temporary files. Seeded, so that all webuis have the same weights.
"""

import os
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from ldznet.heads.head_file import save_head
from ldznet.heads.unet import UNet, UNetConfig
from ldznet.hosts.host import Schedule
from ldznet.methods.learned_head import random_head
from ldznet.research.embedded.ldm_names import vae_state
from ldznet.research.embedded.model import vae_settings

FOLDER = Path(os.environ.get("RANDOM_MODEL", Path(tempfile.gettempdir()) / "ldznet-random-model"))
CHECKPOINT, HEAD = FOLDER / "rand.safetensors", FOLDER / "rand-head.safetensors"
APPROXIMATION = FOLDER / "model.pt"  # of the VAE: reForge looks for one before it generates, and downloads it
STRUCTURE = UNetConfig(channel_mult=(1, 1, 1, 1))
TEXT = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "hidden_act": "quick_gelu",
}


def write_random_model():
    """Write the files that are not there yet."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(7)
    if not CHECKPOINT.exists():
        _replace(CHECKPOINT, lambda path: save_file(_state(), path))
    if not HEAD.exists():
        head = random_head(STRUCTURE).head
        _replace(HEAD, lambda path: save_head(head, path, source={"origin": "random"}, overwrite=True))
    if not APPROXIMATION.exists():
        _replace(APPROXIMATION, lambda path: torch.save(_approximation(), path))


def _replace(path, write):
    """Write a file under another name first: a test that broke off must leave no half file."""
    partial = path.with_name(f"partial-{path.name}")
    write(partial)
    partial.replace(path)


def unet_state(structure):
    """Return the tensors of a UNet, under their original names."""
    unet = UNet(structure)
    for parameter in unet.parameters():
        spread = parameter[0].numel() if parameter.ndim > 1 else 1
        torch.nn.init.normal_(parameter, std=0.5 / spread**0.5)
    return {f"model.diffusion_model.{name}": tensor.detach() for name, tensor in unet.state_dict().items()}


def _state():
    """Return the tensors of a checkpoint, in half precision, under their original names."""
    vae = AutoencoderKL(**vae_settings([128, 256, 512, 512], 2))
    with torch.no_grad():  # the posterior has no spread: images are repeatable
        vae.quant_conv.weight[4:] = 0
        vae.quant_conv.bias[4:] = -20
    text = CLIPTextModel(CLIPTextConfig(**TEXT))
    state = unet_state(STRUCTURE)
    state |= {f"first_stage_model.{name}": tensor for name, tensor in vae_state(vae.state_dict()).items()}
    prefix = "cond_stage_model.transformer.text_model."
    state |= {
        f"{prefix}{name.removeprefix('text_model.')}": tensor
        for name, tensor in text.state_dict().items()
        if not name.endswith("position_ids")
    }
    state = {name: tensor.detach().half().contiguous().clone() for name, tensor in state.items()}
    return state | {"alphas_cumprod": Schedule.scaled_linear().alphas_cumprod.float()}


def _approximation():
    """Return the weights of the webui's VAEApprox."""
    widths = ((4, 8, 7), (8, 16, 5), (16, 32, 3), (32, 64, 3), (64, 32, 3), (32, 16, 3), (16, 8, 3), (8, 3, 3))
    state = {}
    for number, (before, after, side) in enumerate(widths, start=1):
        layer = torch.nn.Conv2d(before, after, side)
        state |= {f"conv{number}.{name}": tensor.detach() for name, tensor in layer.state_dict().items()}
    return state
