"""The embedded model's structure, its recipe, and the model in memory: autoencoder, text encoder, UNet.

Source: Rombach et al., Latent Diffusion Models, CVPR 2022, https://arxiv.org/abs/2112.10752
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ldznet.heads.unet import UNet, UNetConfig
from ldznet.hosts.diffusers.tokenizers import count_tokens, read_tokenizer
from ldznet.research.embedded.tokenizer import write_tokenizer


@dataclass(frozen=True, kw_only=True)
class TinyConfig:
    """Structure and recipe of the embedded model."""

    unet: UNetConfig = field(
        default_factory=lambda: UNetConfig(
            model_channels=64, channel_mult=(1, 1, 2, 2), res_blocks=1, heads=4, context_width=64
        )
    )
    # Of 32 channels each would be normalised alone, in 32 groups, and the level of a whole picture would be
    # lost: its colour, and whether a thing is there at all.
    vae_widths: tuple[int, ...] = (64, 64, 64, 64)
    vae_blocks: int = 0  # in the encoder; the decoder has one more
    text_layers: int = 3
    size: int = 128  # side of the pictures
    batch: int = 32  # of the UNet
    # Of a step. Small: an autoencoder gains more from steps than from images.
    encoder_scenes: int = 8
    encoder_crops: int = 2  # of each scene
    decoder_scenes: int = 4  # with one crop each
    encoder_steps: int = 4000
    decoder_steps: int = 4000
    text_steps: int = 4000
    unet_steps: int = 32_000
    vae_crop: int = 64  # side of the autoencoder's crops; it is convolutional
    encoder_rate: float = 1e-3
    decoder_rate: float = 1e-3
    kl_weight: float = 1e-5
    text_batch: int = 128  # scenes and captions that are compared with each other
    text_rate: float = 1e-3
    shard: int = 4096  # scenes whose latents are made together for the UNet
    uses: int = 4  # how often each of them is seen before the next shard is made
    window: int = 24  # latest shards from which a step's scenes are drawn
    unet_rate: float = 1e-3
    unet_plateau: float = 0.75  # share of the UNet's steps before its rate falls
    # Of the signal-to-noise ratio, where a timestep's weight in the loss follows it: less noise weighs no more,
    # and more noise, where it is decided what a thing is, no less. (0, infinity) weighs all noise alike.
    snr_range: tuple[float, float] = (0.4, 5.0)
    warmup: int = 200
    encoder_warmup: int = 500
    caption_dropout: float = 0.1  # empty captions, for guidance and for the difference method
    ema: float = 0.999


def vae_settings(widths: Sequence[int], blocks: int) -> dict[str, Any]:
    """Return the arguments of diffusers' AutoencoderKL."""
    return {
        "block_out_channels": list(widths),
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "latent_channels": 4,
        "layers_per_block": blocks,
        "scaling_factor": 1.0,
    }


class TinyModel(nn.Module):
    """Autoencoder, text encoder and UNet together; its tokenizer knows `words` whole."""

    def __init__(self, config: TinyConfig, tokenizer_folder: Path, words: Sequence[str]) -> None:
        super().__init__()
        from diffusers import AutoencoderKL
        from transformers import CLIPTextConfig, CLIPTextModel

        self.config = config
        vocabulary = write_tokenizer(tokenizer_folder, words)
        self.tokenize = read_tokenizer(tokenizer_folder)
        self.vae = AutoencoderKL(**vae_settings(config.vae_widths, config.vae_blocks))
        width = config.unet.context_width
        self.text_settings = {
            "vocab_size": vocabulary,
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": config.text_layers,
            "num_attention_heads": max(width // 32, 1),
            "max_position_embeddings": 77,
            "hidden_act": "quick_gelu",
            "bos_token_id": vocabulary - 2,
            "eos_token_id": vocabulary - 1,
        }
        self.text = CLIPTextModel(CLIPTextConfig(**self.text_settings))
        self.unet = UNet(config.unet)
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(0.18215))

    def context(self, captions: Sequence[str]) -> Tensor:
        """Return the contexts (B, 77, D) of B captions."""
        ids, _ = self.tokenize(captions)
        states: Tensor = self.text(ids.to(self.scale.device)).last_hidden_state
        return states

    def context_at_ends(self, captions: Sequence[str]) -> Tensor:
        """Return the contexts (B, D) at the end tokens of B captions, without computing the padding after them."""
        ids, _ = self.tokenize(captions)
        ends = [1 + count for count in count_tokens(ids)]
        # A token reads only those before it, so what is cut off changes nothing.
        states: Tensor = self.text(ids[:, : max(ends) + 1].to(self.scale.device)).last_hidden_state
        return states[torch.arange(len(ends)), ends]

    def count_tokens(self, captions: Sequence[str]) -> list[int]:
        """Return the number of tokens of each caption, without start and end."""
        ids, _ = self.tokenize(captions)
        return count_tokens(ids)

    @torch.no_grad()
    def latent(self, images: Tensor) -> Tensor:
        """Return the posterior's mean, scaled to a deviation of 1: (B, 3, H, W) in [-1, 1] -> (B, 4, H/8, W/8)."""
        mean: Tensor = self.vae.encode(images).latent_dist.mean
        return mean * self.scale
