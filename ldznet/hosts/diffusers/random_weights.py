"""Models of the right structure with random weights: for tests and for measuring speed, not for masks."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from ldznet.heads.unet import UNet, UNetConfig
from ldznet.hosts.diffusers.host import DiffusersHost, tokenize_by_hash
from ldznet.hosts.diffusers.parts import SCALE, unet_fingerprint
from ldznet.hosts.diffusers.text import TextEncoder
from ldznet.hosts.diffusers.text_model import TextConfig, TextModel
from ldznet.hosts.diffusers.vae import Vae
from ldznet.hosts.host import FAMILY_NAMES, Family, HostInfo, Prediction, Schedule

Model = TypeVar("Model", bound=nn.Module)


def random_host(
    family: Family = "sd1",
    *,
    full_size: bool = False,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    in_channels: int = 4,
    prediction: Prediction = "noise",
) -> DiffusersHost:
    """Return a model of the right structure with random weights.

    `full_size` has the published widths; otherwise all is as narrow as the structure allows.
    """
    structure = published(family, in_channels) if full_size else _narrow(family, in_channels)
    # Width and layers of the text encoders; 2.x reads the text after layer 23 of 24.
    widths = {"sd1": [(768, 12)], "sd2": [(1024, 23)], "sdxl": [(768, 12), (1280, 32)]}[family]
    if not full_size:
        widths = [(structure.context_width // len(widths), 2)] * len(widths)
    # XL's UNet also reads the pooled state of the second text encoder, and embeddings of six sizes.
    label_width = widths[1][0] + 6 * (256 if full_size else 8) if family == "sdxl" else 0
    vocabulary = 49408 if full_size else 1024
    with torch.random.fork_rng(range(torch.cuda.device_count())):  # the CPU, too
        torch.manual_seed(seed)
        unet = _filled(UNet(structure, label_width=label_width))
        vae_widths = [128, 256, 512, 512] if full_size else [32, 32, 32, 32]
        vae = _filled(Vae(vae_widths, 2 if full_size else 1, 4, SCALE[family]))
        text = []
        for number, (width, layers) in enumerate(widths):
            config = TextConfig(
                vocabulary=vocabulary,
                width=width,
                inner_width=4 * width,
                layers=layers,
                heads=max(width // 64, 1),
                quick_gelu=family == "sd1",
                projection=width if number else 0,
            )
            model = _filled(TextModel(config))
            text.append(TextEncoder(model, tokenize_by_hash(vocabulary), penultimate=family == "sdxl"))
    size = "full size" if full_size else "small"
    info = HostInfo(
        f"random weights ({FAMILY_NAMES[family]}, {size}, seed {seed})",
        family,
        prediction,
        structure,
        unet_fingerprint(unet),
    )
    return DiffusersHost(info, unet, vae, text, Schedule.scaled_linear(), device=device, dtype=dtype)


def _filled(model: Model) -> Model:
    """Give random weights to layers that start as zero, or as whatever was in memory."""
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if isinstance(module, nn.Embedding) or (parameter.ndim > 1 and not parameter.any()):
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model


def published(family: Family, in_channels: int) -> UNetConfig:
    """Return the structure of the published models of a family."""
    if family == "sdxl":
        return UNetConfig(
            in_channels=in_channels,
            channel_mult=(1, 2, 4),
            depths=(0, 2, 10),
            middle_depth=10,
            head_channels=64,
            context_width=2048,
            linear_projection=True,
        )
    if family == "sd2":
        return UNetConfig(in_channels=in_channels, head_channels=64, context_width=1024, linear_projection=True)
    return UNetConfig(in_channels=in_channels)


def _narrow(family: Family, in_channels: int) -> UNetConfig:
    from dataclasses import replace

    full = published(family, in_channels)
    heads = {"heads": 2} if family == "sd1" else {"head_channels": 16}
    depths = tuple(min(depth, 2) for depth in full.depths)
    return replace(
        full,
        model_channels=32,
        context_width=64,
        depths=depths,
        middle_depth=min(full.middle_depth, 2),
        **heads,  # type: ignore[arg-type]
    )
