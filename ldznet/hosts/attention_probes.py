"""Compute the attention of the host's UNet a second time, because fused attention never forms the probabilities.

Hooks read the inputs of chosen attention layers and apply the layers' own `to_q` and `to_k`; the computation of
the host and its result stay the same. Two layouts are known, the original one (ours and A1111's) and that of
diffusers: both have `transformer_blocks`, each with an `attn1` (to the map itself) and an `attn2` (to the text). A
hook fires in every thread that runs the UNet; threads other than the one that opened the probe are ignored.

    q            (1 or B, N, heads * d)   one query per pixel of the map, N = h * w, row by row
    k            (1 or B, L, heads * d)   one key per token of the text, or per pixel
    probability  (N, L)                   softmax(q k^T / sqrt(d)), mean over the heads; rows sum to 1

Source: Vaswani et al., https://arxiv.org/abs/1706.03762, eq. 1; Rombach et al., https://arxiv.org/abs/2112.10752.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from ldznet.errors import FeatureError
from ldznet.heads.unet import UNetConfig
from ldznet.hosts.capture import capture

# Scores that exist at a time, of all heads: 64 MB in float32, and as much again for their softmax.
_SCORES = 2**24


@dataclass(frozen=True)
class QueriesAndKeys:
    """The queries and keys of one attention layer: a small part of the size of its probabilities."""

    q: Tensor
    k: Tensor
    heads: int

    def of(self, index: int) -> tuple[Tensor, Tensor]:
        """Return q (heads, N, d), scaled by 1 / sqrt(d), and k (heads, L, d) of one prompt, both float32."""
        # In float32, whatever the host computes in, since many small probabilities are averaged.
        q, k = (one_of(t, index).float() for t in (self.q, self.k))
        q, k = (t.reshape(len(t), self.heads, -1).transpose(0, 1) for t in (q, k))
        return q * q.shape[-1] ** -0.5, k


@dataclass(frozen=True)
class Probes:
    """The attention in one pass, by the path of the transformer; one entry per block inside it."""

    text: dict[str, list[Tensor]] = field(default_factory=dict)  # probabilities (1 or B, N, L), float32
    own: dict[str, list[QueriesAndKeys]] = field(default_factory=dict)


@dataclass(frozen=True)
class Level:
    """The transformers whose maps have the same size."""

    factor: int  # the latent's sides over the map's
    channels: int
    paths: tuple[str, ...]


def levels_of(unet: UNetConfig) -> list[Level]:
    """Return the levels that have transformers, finest first: four in Stable Diffusion 1.x and 2.x, two in XL."""
    paths_of: dict[int, list[str]] = {}
    for path in unet.transformer_paths():
        paths_of.setdefault(unet.level_of(path), []).append(path)
    return [
        Level(2**level, unet.model_channels * unet.channel_mult[level], tuple(paths))
        for level, paths in sorted(paths_of.items())
    ]


def one_of(batch: Tensor, index: int) -> Tensor:
    """Return the tensor of one prompt; a batch of one stands for all."""
    return batch[index if len(batch) > 1 else 0]


def attention_rows(layers: Sequence[QueriesAndKeys], index: int) -> Iterator[Tensor]:
    """Yield the probabilities of one prompt, mean over heads and layers, in groups of rows (n, L).

    In addition to a result of 4 N L bytes this holds 130 MB at most, however large the map is.
    """
    pixels, tokens = (one_of(t, index).shape[0] for t in (layers[0].q, layers[0].k))
    step = max(1, _SCORES // (max(layer.heads for layer in layers) * tokens))
    for start in range(0, pixels, step):
        total: Tensor | None = None
        for layer in layers:
            q, k = layer.of(index)
            rows = (q[:, start : start + step] @ k.mT).softmax(dim=-1).mean(dim=0)
            total = rows if total is None else total.add_(rows)
        assert total is not None
        yield total.div_(len(layers))


@contextmanager
def probe_attention(
    transformers: Mapping[str, nn.Module],
    *,
    text: Collection[str] = (),
    own: Collection[str] = (),
    last_block: bool = False,
) -> Iterator[Probes]:
    """Collect the attention of some transformers to the text, and to their own map, while the UNet runs once.

    `transformers` are all of them, in the order in which they run: the pass ends after the last one that is
    needed, and with it the block (see `capture`). With `last_block` only the last block inside each is read. For
    `own` queries and keys are kept, for `text` probabilities. The hooks are removed however the block ends, and
    other threads are ignored.

    Raises:
        FeatureError: the block ended, but some layers were never called.
    """
    needed = [path for path in transformers if path in text or path in own]
    assert len(needed) == len({*text, *own}) > 0
    layers: list[tuple[str, str, Any]] = []  # path, its own path, the layer
    for path in needed:
        blocks = dict(cast("Any", transformers[path]).transformer_blocks.named_children())
        for number in list(blocks)[-1 if last_block else 0 :]:
            inside = f"{path}.transformer_blocks.{number}"
            if path in own:
                layers.append((path, f"{inside}.attn1", blocks[number].attn1))
            if path in text:
                layers.append((path, f"{inside}.attn2", blocks[number].attn2))
    probes, silent, thread = Probes(), {layer for _, layer, _ in layers}, threading.get_ident()
    with ExitStack() as undo:
        for path, layer, module in layers:
            # PyTorch omits the keywords if the hook is removed while another thread calls the layer.
            def keep(attention: Any, args: Any, kwargs: Any = None, path: str = path, layer: str = layer) -> None:
                if threading.get_ident() != thread:
                    return
                layer_input = _queries_and_keys(attention, args, kwargs)
                if layer.endswith("attn1"):
                    probes.own.setdefault(path, []).append(layer_input)
                else:
                    probes.text.setdefault(path, []).append(_probabilities(layer_input))
                silent.discard(layer)

            undo.callback(module.register_forward_pre_hook(keep, with_kwargs=True).remove)
        # Ends the pass after the last transformer that is needed; its output itself is not used.
        with capture({needed[-1]: transformers[needed[-1]]}):
            yield probes
    if silent:
        raise FeatureError(
            f"The UNet ran, but {len(silent)} of its attention layers were never called, first {min(silent)}. "
            "This webui, or another extension, runs attention in its own way. "
            "Switch other extensions off and try again; if it stays, report your webui's version."
        )


def _queries_and_keys(attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> QueriesAndKeys:
    """Return queries and keys of a layer from the arguments of its call, named as in either layout."""
    x, context = (
        args[place] if len(args) > place else next((kwargs[name] for name in names if name in kwargs), None)
        for place, names in enumerate((("x", "hidden_states"), ("context", "encoder_hidden_states")))
    )
    return QueriesAndKeys(attention.to_q(x), attention.to_k(x if context is None else context), attention.heads)


def _probabilities(layer: QueriesAndKeys) -> Tensor:
    """Return all probabilities (1 or B, N, L); for the text, whose L is small."""
    batch = max(len(layer.q), len(layer.k))
    return torch.stack([torch.cat(list(attention_rows([layer], index))) for index in range(batch)])
