"""Blocks of the Stable Diffusion UNet and of the segmentation heads built on it.

Plain torch: nothing here knows of the host, of files or of images. Module names are those of the
released checkpoints, so that a state dict fits without translation.

    x         (B, C, h, w)      the running activation
    emb       (1 or B, 4C)      the timestep's embedding
    context   (B, L, D)         the prompt as the text encoder returns it
    feature   (B, F, h', w')    the output of one transformer of the host's UNet
    tokens    (B, h'w' + 1, F)  that feature after attention pooling

Wherever two of these meet, a batch of one stands for any batch: one latent serves many prompts.

Source: Rombach et al., CVPR 2022 (the UNet); PNVR et al., ICCV 2023, https://arxiv.org/abs/2303.12343
(pooling and fusion of features), with the details of the released weights.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldznet.heads.cpu_conv import Convolution


def timestep_embedding(timesteps: Tensor, width: int, max_period: float = 10000.0) -> Tensor:
    """Map (B,) to (B, width), float32: cosines in the first half, sines in the second."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    frequencies = torch.exp(-math.log(max_period) * steps / half)
    angles = timesteps[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class GroupNorm(nn.GroupNorm):
    """Group normalisation with 32 groups, computed in float32 at least, whatever the dtype of `x`."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__(32, channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape and dtype."""
        wide = torch.promote_types(x.dtype, torch.float32)
        weight, bias = self.weight.to(wide), self.bias.to(wide)
        return F.group_norm(x.to(wide), self.num_groups, weight, bias, self.eps).to(x.dtype)


def zeroed(module: nn.Conv2d) -> nn.Conv2d:
    """Set a layer to zero and return it, so that the block around it starts as its skip connection."""
    nn.init.zeros_(module.weight)
    assert module.bias is not None
    nn.init.zeros_(module.bias)
    return module


class ResBlock(nn.Module):
    """Two convolutions with the timestep added in between, and a skip connection."""

    def __init__(self, channels: int, out_channels: int, emb_width: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            GroupNorm(channels, eps=1e-5), nn.SiLU(), Convolution(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_width, out_channels))
        # The dropout is 0 in every published model; it keeps the place of the third name.
        self.out_layers = nn.Sequential(
            GroupNorm(out_channels, eps=1e-5),
            nn.SiLU(),
            nn.Dropout(0.0),
            zeroed(Convolution(out_channels, out_channels, 3, padding=1)),
        )
        self.skip_connection = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map (B, C, h, w), (1 or B, E) to (B, C_out, h, w)."""
        inner: Tensor = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(inner)


class Downsample(nn.Module):
    """A strided convolution to half the size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = Convolution(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, h/2, w/2)."""
        return self.op(x)


class Upsample(nn.Module):
    """Enlargement to twice the size (nearest neighbour), then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Convolution(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C, 2h, 2w)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) v: (B, heads, N, d), 2 x (B, heads, L, d) -> (B, heads, N, d).

    On a CPU bfloat16 is computed in float32: narrow heads, as those of small models, take many times as long in
    PyTorch's bfloat16 kernel.
    """
    if q.dtype != torch.bfloat16 or q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)


class Attention(nn.Module):
    """Multi-head attention of `x` to a context, or to itself."""

    def __init__(self, width: int, context_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = nn.Linear(context_width, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(0.0))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map (1 or B, N, C), (1 or B, L, D) to (B, N, C)."""
        context = x if context is None else context
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        # (B, tokens, C) -> (B, heads, tokens, C / heads)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        # Expanded after the projections, which then run once for a latent that serves many prompts.
        batch = max(len(q), len(k))
        q, k, v = (t.expand(batch, -1, -1, -1) for t in (q, k, v))
        attended = attend(q, k, v)
        return self.to_out(attended.transpose(1, 2).flatten(2))


class GEGLU(nn.Module):
    """A linear layer whose second half, through the exact GELU, gates its first."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * out_width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, C) to (B, N, C_out)."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """Two linear layers per token, over four times its width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GEGLU(width, 4 * width), nn.Dropout(0.0), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, C) to (B, N, C)."""
        return self.net(x)


class TransformerBlock(nn.Module):
    """Attention to itself and to the text, with `feature_width` also to the host's features, then feed-forward."""

    def __init__(self, width: int, context_width: int, heads: int, feature_width: int | None = None) -> None:
        super().__init__()
        self.attn1 = Attention(width, width, heads)
        self.ff = FeedForward(width)
        self.attn2 = Attention(width, context_width, heads)
        self.attn3 = None if feature_width is None else Attention(width, feature_width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm_sd = None if feature_width is None else nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, x: Tensor, context: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Map (1 or B, N, C), (B, L, D), (B, T, F) to (B, N, C)."""
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        if self.attn3 is not None:
            assert self.norm_sd is not None
            assert tokens is not None
            x = x + self.attn3(self.norm_sd(x), tokens)
        return x + self.ff(self.norm3(x))


class AttentionPool(nn.Module):
    """Attention over a feature map with its mean in front; all tokens are kept, none is pooled away.

    The table of positions was made for a square grid. A map with as many tokens as the table uses the
    table unchanged, whatever the shape of the map; for any other count the table is interpolated.
    """

    def __init__(self, channels: int, grid: int, heads: int) -> None:
        super().__init__()
        self.grid = grid
        self.heads = heads
        table = torch.empty(channels, grid * grid + 1)
        if not table.is_meta:  # random values there would import PyTorch's compiler, which takes seconds
            table = torch.randn_like(table) / channels**0.5
        self.positional_embedding = nn.Parameter(table)
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)
        self.c_proj = nn.Conv1d(channels, channels, 1)

    def positions(self, size: tuple[int, int]) -> Tensor:
        """Return positions (F, height * width + 1) for a feature (height, width); column 0 is for the mean."""
        table = self.positional_embedding
        if size[0] * size[1] == self.grid * self.grid:
            return table
        square = table[:, 1:].reshape(1, -1, self.grid, self.grid)
        # In float32: bicubic weights lose too much in half precision, and not every CPU has them there.
        wide = square.to(torch.promote_types(table.dtype, torch.float32))
        fitted = F.interpolate(wide, size=size, mode="bicubic", align_corners=False)[0]
        return torch.cat([table[:, :1], fitted.flatten(1).to(table.dtype)], dim=-1)

    def forward(self, feature: Tensor) -> Tensor:
        """Map (B, F, h, w) to tokens (B, h * w + 1, F), the mean first, then row by row."""
        flat = feature.flatten(2)
        x = torch.cat([flat.mean(dim=-1, keepdim=True), flat], dim=-1)
        x = x + self.positions((feature.shape[-2], feature.shape[-1])).to(x.dtype)
        # (B, 3F, T) -> 3 x (B, heads, T, F / heads), the last axis in one piece: PyTorch's fused kernels need it
        parts = self.qkv_proj(x).chunk(3, dim=1)
        q, k, v = (t.unflatten(1, (self.heads, -1)).transpose(2, 3).contiguous() for t in parts)
        # Scaling q and k by d^-1/4 each, as published, is the usual d^-1/2 of their product.
        attended = attend(q, k, v)
        return self.c_proj(attended.transpose(2, 3).flatten(1, 2)).mT


class Concatenation(nn.Module):
    """Join the channels of `x` and of a feature map, and reduce them to those of `x` by a 1 x 1 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(2 * channels, channels, 1)
        # Starts as `x` alone, so that it does not disturb weights that were trained without it.
        nn.init.dirac_(self.proj.weight)
        assert self.proj.bias is not None
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor, feature: Tensor) -> Tensor:
        """Map (1 or B, C, h, w), (1 or B, C, h', w') to (B, C, h, w)."""
        if feature.shape[-2:] != x.shape[-2:]:
            # In float32: not every CPU enlarges in half precision.
            wide = feature.to(torch.promote_types(feature.dtype, torch.float32))
            wide = F.interpolate(wide, size=x.shape[-2:], mode="bilinear", align_corners=False)
            feature = wide.to(feature.dtype)
        batch = max(len(x), len(feature))
        both = torch.cat([part.expand(batch, -1, -1, -1) for part in (x, feature)], dim=1)
        return self.proj(both)


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of `x`; with `pool_grid` they also read a feature map.

    The feature has as many channels as `x`, as in the UNet that both come from. With `concat` the feature is
    joined to `x` before everything else instead of being attended to.
    """

    def __init__(
        self,
        channels: int,
        context_width: int,
        heads: int,
        depth: int = 1,
        *,
        pool_grid: int | None = None,
        concat: bool = False,
        linear_projection: bool = False,
    ) -> None:
        super().__init__()
        self.concatenation = Concatenation(channels) if concat and pool_grid is not None else None
        pool_grid = None if concat else pool_grid
        feature_width = None if pool_grid is None else channels
        self.norm = GroupNorm(channels, eps=1e-6)
        self.linear_projection = linear_projection
        self.proj_in = nn.Linear(channels, channels) if linear_projection else nn.Conv2d(channels, channels, 1)
        self.attentionpool2D = None if pool_grid is None else AttentionPool(channels, pool_grid, heads)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, context_width, heads, feature_width) for _ in range(depth)
        )
        self.proj_out = nn.Linear(channels, channels) if linear_projection else nn.Conv2d(channels, channels, 1)
        # Starts as the identity, as in the published code: the transformer adds nothing before it is trained.
        nn.init.zeros_(self.proj_out.weight)
        assert self.proj_out.bias is not None
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, x: Tensor, context: Tensor, feature: Tensor | None = None) -> Tensor:
        """Map (1 or B, C, h, w), (B, L, D), (B, C, h', w') to (B, C, h, w)."""
        tokens = None
        if self.concatenation is not None:
            assert feature is not None
            x = self.concatenation(x, feature)
        if self.attentionpool2D is not None:
            assert feature is not None
            tokens = self.attentionpool2D(feature)
        pixels = self._project(self.norm(x))  # (B, hw, C)
        for block in self.transformer_blocks:
            pixels = block(pixels, context, tokens)
        if self.linear_projection:
            return x + self.proj_out(pixels).mT.reshape(-1, *x.shape[1:])
        return x + self.proj_out(pixels.mT.reshape(-1, *x.shape[1:]))

    def _project(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, hw, C)."""
        if self.linear_projection:
            return self.proj_in(x.flatten(2).mT)
        return self.proj_in(x).flatten(2).mT
