"""The autoencoder of Stable Diffusion in plain torch, under the names that diffusers gives its tensors.

Each level of the encoder but the last halves the sides.

    image    (B, 3, H, W)      in [-1, 1]
    latent   (B, 4, H/8, W/8)  not scaled: the host multiplies it by `scale`

Source: Esser et al., Taming Transformers, CVPR 2021, https://arxiv.org/abs/2012.09841; Rombach et al., CVPR 2022,
https://arxiv.org/abs/2112.10752
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass
class Posterior:
    """The distribution of the latents of an image."""

    mean: Tensor
    std: Tensor


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class _ResBlock(nn.Module):
    """Two convolutions and a skip connection."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = _norm(channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.norm2 = _norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = None if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C_out, h, w)."""
        inner = self.conv1(F.silu(self.norm1(x)))
        inner = self.conv2(F.silu(self.norm2(inner)))
        return inner + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class _Attention(nn.Module):
    """Attention of all pixels to each other, with a single head as wide as the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.group_norm = _norm(channels)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.Sequential(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape."""
        pixels = self.group_norm(x).flatten(2).mT[:, None]  # (B, 1, hw, C)
        q, k, v = self.to_q(pixels), self.to_k(pixels), self.to_v(pixels)
        attended = self.to_out(F.scaled_dot_product_attention(q, k, v)[:, 0])  # (B, hw, C)
        return x + attended.mT.reshape(x.shape)


class _Middle(nn.Module):
    """Residual block, attention, residual block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_ResBlock(channels, channels) for _ in range(2))
        self.attentions = nn.ModuleList([_Attention(channels)])

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape."""
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class _Down(nn.Module):
    """A strided convolution to half the size; zeros stand right of and below the image only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, h/2, w/2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class _Up(nn.Module):
    """Enlargement to twice the size (nearest neighbour), then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, 2h, 2w)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class _Level(nn.Module):
    """The residual blocks of one level, then the change of size, if any."""

    def __init__(self, widths: Sequence[int], down: Sequence[_Down] = (), up: Sequence[_Up] = ()) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(map(_ResBlock, widths, widths[1:]))
        self.downsamplers = nn.ModuleList(down)
        self.upsamplers = nn.ModuleList(up)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C_out, h', w')."""
        for layer in (*self.resnets, *self.downsamplers, *self.upsamplers):
            x = layer(x)
        return x


class _Encoder(nn.Module):
    """From an image to mean and logarithm of the variance."""

    def __init__(self, widths: Sequence[int], blocks: int, latent_channels: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        channels, levels = widths[0], list[_Level]()
        for width in widths:
            is_last = len(levels) == len(widths) - 1
            levels.append(_Level([channels, *[width] * blocks], down=() if is_last else [_Down(width)]))
            channels = width
        self.down_blocks = nn.ModuleList(levels)
        self.mid_block = _Middle(channels)
        self.conv_norm_out = _norm(channels)
        self.conv_out = nn.Conv2d(channels, 2 * latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 8, h, w)."""
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class _Decoder(nn.Module):
    """From a latent to an image; each level has one block more than the encoder's."""

    def __init__(self, widths: Sequence[int], blocks: int, latent_channels: int) -> None:
        super().__init__()
        channels = widths[-1]
        self.conv_in = nn.Conv2d(latent_channels, channels, 3, padding=1)
        self.mid_block = _Middle(channels)
        levels = list[_Level]()
        for width in reversed(widths):
            is_last = len(levels) == len(widths) - 1
            levels.append(_Level([channels, *[width] * (blocks + 1)], up=() if is_last else [_Up(width)]))
            channels = width
        self.up_blocks = nn.ModuleList(levels)
        self.conv_norm_out = _norm(channels)
        self.conv_out = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 4, h, w) to (B, 3, H, W)."""
        x = self.mid_block(self.conv_in(x))
        for level in self.up_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class Vae(nn.Module):
    """Encoder and decoder; `widths` are the channels of each level, `blocks` those of a level of the encoder."""

    def __init__(self, widths: Sequence[int], blocks: int, latent_channels: int, scale: float) -> None:
        super().__init__()
        self.scale = scale  # latent of the UNet = latent * scale
        self.encoder = _Encoder(widths, blocks, latent_channels)
        self.decoder = _Decoder(widths, blocks, latent_channels)
        self.quant_conv = nn.Conv2d(2 * latent_channels, 2 * latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, 1)

    def encode(self, image: Tensor) -> Posterior:
        """Map (B, 3, H, W) to the distribution of the latents (B, 4, H/8, W/8)."""
        mean, log_variance = self.quant_conv(self.encoder(image)).chunk(2, dim=1)
        # The limits of the published code, which keep a strange image from an overflow.
        return Posterior(mean, torch.exp(0.5 * log_variance.clamp(-30.0, 20.0)))

    def decode(self, latent: Tensor) -> Tensor:
        """Map (B, 4, h, w) to (B, 3, 8 h, 8 w), about in [-1, 1]."""
        image: Tensor = self.decoder(self.post_quant_conv(latent))
        return image
