"""The steps from attention to a map, on tensors: nothing here runs a model or knows of prompts.

    maps      (L, h, w)   attention to each token of the sentence, at the size of the map that refines
    shares    (T, h, w)   one map for each phrase of a sentence
    affinity  (N, N)      attention of the N = h w pixels to each other; rows sum to 1

Sources: see attention.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ldznet.errors import FeatureError
from ldznet.hosts.attention_probes import Level, Probes, QueriesAndKeys, attention_rows, one_of
from ldznet.methods.attention_options import AttentionOptions
from ldznet.methods.token_spans import Term

_TINY = 1e-12
_EVEN = 1e-6  # part of its largest value: a map that varies less holds rounding errors only


def refine_maps(maps: Tensor, layers: Sequence[QueriesAndKeys], index: int, options: AttentionOptions) -> Tensor:
    """Replace the value of each pixel of (T, N) by those of the pixels to which it attends.

    The affinity is the mean over heads and layers. It is only formed where it is needed whole: 4 N^2 bytes.
    A map that is the same everywhere becomes 0: later steps would enlarge its rounding errors to a map.
    """
    highest = maps.amax(dim=1, keepdim=True)
    # Relative to the highest value, since maps differ by orders of magnitude.
    maps = maps.masked_fill(highest - maps.amin(dim=1, keepdim=True) <= _EVEN * highest, 0)
    if not options.iterations:
        return maps
    # The usual case of small models needs no affinity in memory: its rows are used one part at a time.
    if options.iterations == 1 and not options.column_max and not options.eta:
        return torch.cat([rows @ maps.mT for rows in attention_rows(layers, index)]).mT
    affinity = maps.new_empty(maps.shape[1], maps.shape[1])
    start = 0
    for rows in attention_rows(layers, index):
        affinity[start : start + len(rows)] = rows
        start += len(rows)
    if options.column_max:
        affinity /= affinity.amax(dim=0).clamp_min(_TINY)
    if options.eta:
        for rows in torch.split(affinity, 256):  # views: changed where they are
            entropy = rows.clamp_min(_TINY).mul_(math.e).log10_()
            # Links so weak that this step makes them negative are dropped.
            rows.add_(entropy, alpha=options.eta).clamp_(min=0)
        # A pixel without any link keeps its own value.
        affinity.diagonal().masked_fill_(affinity.sum(dim=1) == 0, 1)
    affinity /= affinity.sum(dim=1, keepdim=True)
    spread = maps.mT
    for _ in range(options.iterations):
        spread = affinity @ spread
        spread = spread - spread.amin(dim=0)
        spread = spread / spread.sum(dim=0).clamp_min(_TINY)
    return spread.mT


def share_out(
    maps: Sequence[tuple[float, Tensor]], terms: Sequence[Term], options: AttentionOptions
) -> tuple[Tensor, Tensor]:
    """Turn weighted maps (L, h, w) of the levels into a map per term (T, h, w) and its presence (T,).

    A phrase is one competitor, however many tokens it has: they are reduced to one map first.
    Its presence is read off the plain maps, since normalising removes their level.
    """
    plain = torch.stack([weight * level for weight, level in maps]).sum(dim=0)
    normal = torch.stack([weight * normalise_maps(level, options.normalise) for weight, level in maps]).sum(dim=0)
    shares, gates = [], []
    for term in terms:
        own, rivals = list(term.own), list(term.rivals)
        share, weight = (
            m[own].amax(dim=0) if options.tokens == "max" else m[own].mean(dim=0) for m in (normal, plain)
        )
        gate = torch.ones_like(weight[0, 0])
        # Without rivals, a share would be 1 everywhere.
        if options.rescale and rivals:
            share = share / (share + normal[rivals].sum(dim=0)).clamp_min(_TINY)
        if options.gate and rivals:
            # Linear between the two, so that a small change of the image changes the mask little.
            low, high = options.gate
            highest = (weight / plain[rivals].mean(dim=0).clamp_min(_TINY)).max()
            gate = ((highest - low) / (high - low)).clamp(0, 1)
        shares.append(share)
        gates.append(gate)
    return torch.stack(shares), torch.stack(gates)


def text_maps(probes: Probes, level: Level, sides: tuple[int, int], size: tuple[int, int], index: int) -> Tensor:
    """Return the attention of a prompt's map to its L tokens on one level, the mean of the layers: (L, h, w)."""
    layers = [one_of(layer, index) for path in level.paths for layer in probes.text[path]]
    mean = torch.stack(layers).mean(dim=0).mT
    mean = mean.reshape(-1, *map_size(level, sides))
    # Antialiasing only where the map shrinks; it would blur one that grows.
    smaller = mean.shape[1] > size[0]
    return F.interpolate(mean[None], size=size, mode="bilinear", align_corners=False, antialias=smaller)[0]


def map_size(level: Level, sides: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) of a level's map, from those of the latent; the UNet rounds up when it halves."""
    return -(-sides[0] // level.factor), -(-sides[1] // level.factor)


def normalise_maps(maps: Tensor, how: str) -> Tensor:
    """Scale each map (L, h, w) separately, so that all weigh the same."""
    if how == "sum":
        return maps / maps.sum(dim=(1, 2), keepdim=True).clamp_min(_TINY)
    return stretch(maps) if how == "minmax" else maps


def stretch(maps: Tensor) -> Tensor:
    """Scale each map (T, h, w) to 0 and 1; one that is the same everywhere becomes 0."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp_min(_TINY)


def calibrate(maps: Tensor, halfway: float) -> Tensor:
    """Scale each map (T, h, w) to 0 and 1, so that `halfway` between its least and largest value is 0.5."""
    return stretch(maps) ** (math.log(0.5) / math.log(halfway))


def check_probes(probes: Probes, levels: Sequence[Level], sides: tuple[int, int], rows: int) -> None:
    """Refuse attention that was not probed over the whole map, or not for all prompts.

    Raises:
        FeatureError: names the path, and what may be the cause.
    """
    for level in levels:
        height, width = map_size(level, sides)
        for path in level.paths:
            own = [tensor for layer in probes.own.get(path, ()) for tensor in (layer.q, layer.k)]
            for layer in own + probes.text.get(path, []):
                if layer.shape[1] != height * width:
                    raise FeatureError(
                        f"The attention at {path} ran over {layer.shape[1]} pixels, but its map has {height} x "
                        f"{width} = {height * width}. Token merging or a tiling of attention such as hypertile is "
                        "switched on. Switch it off and try again."
                    )
                # A batch of 1 is shared by all prompts.
                if len(layer) not in (1, rows):
                    raise FeatureError(
                        f"The attention at {path} ran over a batch of {len(layer)}, but {rows} prompts were "
                        "given. This webui, or another extension, runs the UNet in its own way. Switch other "
                        "extensions off and try again."
                    )
