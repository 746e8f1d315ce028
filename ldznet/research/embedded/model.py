"""The embedded model's structure, its recipe, and the model in memory: autoencoder, text encoder, UNet.

Source: Rombach et al., Latent Diffusion Models, CVPR 2022, https://arxiv.org/abs/2112.10752
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ldznet.heads.unet import UNet, UNetConfig
from ldznet.hosts.diffusers.parts import vae_settings
from ldznet.hosts.diffusers.tokenizers import tokenize_with
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
    vae_batch: int = 4  # small: an autoencoder gains more from steps than from pictures
    encoder_steps: int = 3000
    decoder_steps: int = 3000
    unet_steps: int = 2400
    vae_crop: int = 64  # side of the autoencoder's crops; it is convolutional
    encoder_rate: float = 1e-3
    decoder_rate: float = 1e-3
    kl_weight: float = 1e-5
    scenes: int = 24576  # whose latents are kept for the UNet
    unet_rate: float = 1e-3
    # Of the signal-to-noise ratio, where a timestep's weight in the loss follows it: less noise weighs no more,
    # and more noise, where it is decided what a thing is, no less. (0, infinity) weighs all noise alike.
    snr_range: tuple[float, float] = (0.4, 5.0)
    warmup: int = 200
    encoder_warmup: int = 500
    caption_dropout: float = 0.1  # empty captions, for guidance and for the difference method
    ema: float = 0.999


class TinyModel(nn.Module):
    """Autoencoder, text encoder and UNet together."""

    def __init__(self, config: TinyConfig, tokenizer_folder: Path) -> None:
        super().__init__()
        from diffusers import AutoencoderKL
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

        self.config = config
        vocabulary = write_tokenizer(tokenizer_folder)
        self.tokenize = tokenize_with(CLIPTokenizer.from_pretrained(tokenizer_folder, local_files_only=True))
        self.vae = AutoencoderKL(**vae_settings(list(config.vae_widths), config.vae_blocks, 4, 1.0))
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
        """-> (B, 77, D)."""
        ids, _ = self.tokenize(captions)
        states: Tensor = self.text(ids.to(self.scale.device)).last_hidden_state
        return states

    @torch.no_grad()
    def latent(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> the posterior's mean, scaled to a deviation of 1."""
        mean: Tensor = self.vae.encode(images).latent_dist.mean
        return mean * self.scale
