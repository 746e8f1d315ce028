"""Models of the right structure with random weights: for tests and for measuring speed, not for masks."""

from __future__ import annotations

import torch

from ldznet.heads.unet import UNetConfig
from ldznet.hosts.diffusers.host import DiffusersHost, tokenize_by_hash
from ldznet.hosts.diffusers.parts import SCALE, fingerprint, unet_settings, vae_settings
from ldznet.hosts.diffusers.text import TextEncoder
from ldznet.hosts.host import FAMILY_NAMES, Family, HostInfo, Prediction, Schedule


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
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    structure = published(family, in_channels) if full_size else _narrow(family, in_channels)
    with torch.random.fork_rng(range(torch.cuda.device_count())):  # the CPU, too
        torch.manual_seed(seed)
        settings = unet_settings(structure, family)
        # Width and layers of the text encoders; 2.x reads the text after layer 23 of 24.
        widths = {"sd1": [(768, 12)], "sd2": [(1024, 23)], "sdxl": [(768, 12), (1280, 32)]}[family]
        if not full_size:
            widths = [(structure.context_width // len(widths), 2)] * len(widths)
        if family == "sdxl":
            # XL's UNet also reads the pooled state of the second text encoder, and embeddings of six sizes.
            settings["addition_time_embed_dim"] = 256 if full_size else 8
            settings["projection_class_embeddings_input_dim"] = (
                widths[1][0] + 6 * settings["addition_time_embed_dim"]
            )
        unet = UNet2DConditionModel(**settings)
        vae_widths = [128, 256, 512, 512] if full_size else [32, 32, 32, 32]
        vae = AutoencoderKL(**vae_settings(vae_widths, 2 if full_size else 1, 4, SCALE[family]))
        text = []
        vocabulary = 49408 if full_size else 1024
        for number, (width, layers) in enumerate(widths):
            kind = CLIPTextModelWithProjection if number else CLIPTextModel
            config = CLIPTextConfig(
                vocab_size=vocabulary,
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=layers,
                num_attention_heads=max(width // 64, 1),
                projection_dim=width,
                bos_token_id=vocabulary - 2,
                eos_token_id=vocabulary - 1,
                hidden_act="quick_gelu" if family == "sd1" else "gelu",
            )
            text.append(TextEncoder(kind(config), tokenize_by_hash(vocabulary), penultimate=family == "sdxl"))
    size = "full size" if full_size else "small"
    info = HostInfo(
        f"random weights ({FAMILY_NAMES[family]}, {size}, seed {seed})",
        family,
        prediction,
        structure,
        fingerprint(unet.state_dict()),
    )
    return DiffusersHost(info, unet, vae, text, Schedule.scaled_linear(), device=device, dtype=dtype)


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
