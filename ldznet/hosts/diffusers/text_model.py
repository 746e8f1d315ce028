"""CLIP's text encoder in plain torch, under the names that transformers gives its tensors.

    ids      (P, L)     token ids, with start and end marks, padded
    states   (P, L, D)  one per token; a token reads itself and those before it

Stable Diffusion 1.x uses OpenAI's weights with the quick GELU, 2.x and the second encoder of XL use OpenCLIP's.

Source: Radford et al., CLIP, ICML 2021, https://arxiv.org/abs/2103.00020
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The structure of a text encoder."""

    vocabulary: int
    width: int
    inner_width: int  # of the feed-forward layers
    layers: int
    heads: int
    length: int = 77  # positions that were trained
    quick_gelu: bool = True
    eps: float = 1e-5
    projection: int = 0  # width of the pooled state; 0: the encoder has none


class TextStates(NamedTuple):
    """What the encoder computed."""

    last: Tensor  # (P, L, D) after the final norm
    penultimate: Tensor  # (P, L, D) before the last layer, without a norm
    pooled: Tensor | None  # (P, E) the projected state of the end mark


class _Attention(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (
            nn.Linear(config.width, config.width) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (P, L, D) to the same shape."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (P, heads, L, D / heads)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.quick_gelu = config.quick_gelu
        self.fc1 = nn.Linear(config.width, config.inner_width)
        self.fc2 = nn.Linear(config.inner_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (P, L, D) to the same shape."""
        inner = self.fc1(x)
        # The quick GELU approximates the exact one; the weights were trained with one of the two.
        return self.fc2(inner * torch.sigmoid(1.702 * inner) if self.quick_gelu else F.gelu(inner))


class _Layer(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.self_attn = _Attention(config)
        self.layer_norm1 = nn.LayerNorm(config.width, eps=config.eps)
        self.mlp = _FeedForward(config)
        self.layer_norm2 = nn.LayerNorm(config.width, eps=config.eps)

    def forward(self, x: Tensor) -> Tensor:
        """Map (P, L, D) to the same shape."""
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class _Embeddings(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        # nn.Embedding() draws random values, which on the meta device imports PyTorch's compiler: seconds.
        self.token_embedding, self.position_embedding = (
            nn.Embedding(rows, config.width, _weight=torch.empty(rows, config.width))
            for rows in (config.vocabulary, config.length)
        )

    def forward(self, ids: Tensor) -> Tensor:
        """Map (P, L) to (P, L, D)."""
        return self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]


class _Layers(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (P, L, D) to the states before and after the last layer."""
        before = x
        for layer in self.layers:
            before, x = x, layer(x)
        return before, x


class TextModel(nn.Module):
    """The whole encoder: embeddings, layers, final norm, and a projection where the structure has one."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = _Embeddings(config)
        self.encoder = _Layers(config)
        self.final_layer_norm = nn.LayerNorm(config.width, eps=config.eps)
        self.text_projection = (
            nn.Linear(config.width, config.projection, bias=False) if config.projection else None
        )

    def forward(self, ids: Tensor) -> TextStates:
        """Map (P, L) to the states of all tokens."""
        penultimate, x = self.encoder(self.embeddings(ids))
        last = self.final_layer_norm(x)
        pooled = None
        if self.text_projection is not None:
            # The end mark has the largest id of all; what follows the first one is padding.
            ends = last[torch.arange(len(ids), device=ids.device), ids.argmax(dim=-1)]
            pooled = self.text_projection(ends)
        return TextStates(last, penultimate, pooled)
