"""Masks from the attention of the UNet itself: which pixels look at the words, and which pixels belong together.

One pass over the noisy latent. Attention to the text says where a phrase is meant, against other words that
the sentence names for the rest of the scene; the attention of the finest map to itself spreads that over the
thing. No training. What wins nowhere against the other words is absent, and its map is empty.

    maps      (L, h, w)   attention to each token of the sentence, at the size of the map that refines
    found     (T, h, w)   one map for each phrase of a sentence
    affinity  (N, N)      attention of the N = h w pixels to each other; rows sum to 1

Memory beside the plain pass: queries and keys of the finest level, 256 MB at most for all prompts unless a single
one needs more, and for one prompt at a time the affinity, 4 N^2 bytes, and 130 MB for work. Measured at 768 x 768
pixels, one prompt, float32 on a CPU: the UNet of Stable Diffusion 1.5 peaks 192 MB above its plain pass, its five
finest transformers alone 346 MB above theirs.

Sources: Sun et al., iSeg, https://arxiv.org/abs/2409.03209 (levels, emphasis, the iterated refinement); Wang et
al., DiffSegmenter, https://arxiv.org/abs/2309.02773 (one refinement by the mean of all finest layers); GoCA (the
sharing out among content tokens).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ldznet.errors import FeatureError, HostError, OptionError
from ldznet.hosts.host import FAMILY_NAMES, Context, Host, HostInfo
from ldznet.hosts.probes import Level, Probes, QueriesAndKeys, attention_rows, levels_of, one_of, probe_attention
from ldznet.methods.method import Defaults, Draw, Picture, Prompts
from ldznet.methods.words import Term, find_terms, put_into
from ldznet.options import Options, option

# Bytes of queries and keys that are held at a time.
_HELD = 2**28
_TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class AttentionOptions(Options):
    """How attention becomes a probability. The steps run in the order in which they stand here."""

    together: bool = option(False, "all phrases in one sentence and one pass, where they fit")
    emphasis: float = option(1.6, "factor on the embeddings of the phrase's tokens; 1 is off", low=0.1, high=10.0)
    cross_levels: tuple[float, ...] = option(
        (),
        "weights of the attention to the text per level, finest first; none is 0, 0.3, 0.7 or what is left of it",
        low=0.0,
        high=1.0,
        kind=float,
    )
    blocks: str = option(
        "mean", "of several blocks inside a transformer: all, or the last", choices=("mean", "last")
    )
    normalise: str = option(
        "sum",
        "each token's map on each level: divided by its sum, scaled to 0 and 1, or left",
        choices=("sum", "minmax", "none"),
    )
    tokens: str = option(
        "mean", "of several tokens of a phrase: their mean, or the largest", choices=("mean", "max")
    )
    rescale: bool = option(True, "per pixel the phrase's share among all words that name something")
    self_level: int = option(0, "level whose attention to itself refines the map; 0 is the finest", low=0, high=7)
    column_max: bool = option(True, "divide the refining attention by the largest value of each column")
    eta: float = option(0.02, "size of its entropy step, which drops weak links; 0 is off", low=0.0, high=1.0)
    iterations: int = option(10, "how often it is applied; 0 is off", low=0, high=100)
    gate: tuple[float, ...] = option(
        (1.5, 3.0),
        "at its best pixel, times the mean of the other words: up to the first the phrase is absent, from the "
        "second it is there; none is off, and then something lights up in every picture",
        low=0.0,
        high=1000.0,
        kind=float,
    )
    flip: bool = option(False, "mean with what is found in the mirrored picture")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cross_levels and not any(self.cross_levels):
            raise OptionError(
                f"cross_levels is {self.cross_levels}, but one of the weights must be above 0: nothing would be "
                "left to look at. Give such as (0, 0.3, 0.7)."
            )
        if self.gate and not (len(self.gate) == 2 and self.gate[0] < self.gate[1]):
            raise OptionError(
                f"gate is {self.gate}, but it must be two numbers of which the second is larger, or none: give "
                "such as (1.5, 3.0)."
            )


class AttentionMethod:
    """Attention to the text, refined by the attention of the map to itself."""

    name = "attention"
    defaults = Defaults(
        resolution=512,
        timesteps=(100,),
        template="a photograph of a {} and other objects and background, ground, grass, tree, building, wall, "
        "sky, water",
    )

    def __init__(self, options: AttentionOptions | None = None) -> None:
        self.options = options or AttentionOptions()

    @property
    def record(self) -> Mapping[str, Any]:
        """All options."""
        return {"method": self.name, "method_options": dataclasses.asdict(self.options)}

    def check(self, host: HostInfo) -> None:
        """Refuse a model without the levels that are asked for.

        Raises:
            HostError: it has fewer.
        """
        has = len(levels_of(host.unet))
        read = [level for level, weight in enumerate(self.options.cross_levels) if weight]
        needed = 1 + max(self.options.self_level, *read, 0)
        if has < needed:
            raise HostError(
                f"The attention method is set to read {needed} levels, but {host.name} "
                f"({FAMILY_NAMES[host.family]}) has transformers on {has} only. Give cross_levels of {has} "
                f"weights at most and a self_level below {has}, or leave both at their defaults, which fit every "
                "model."
            )

    @torch.no_grad()
    def probability(self, host: Host, picture: Picture, prompts: Prompts, draw: Draw) -> Tensor:
        """-> (P, h, w) float32 in [0, 1], at the size of the picture's pixels.

        Raises:
            PromptError: nothing of a phrase is among the tokens that are read.
            FeatureError: the host runs its attention in a way that cannot be read.
        """
        found = self._found(host, picture.latent, prompts, draw)
        if self.options.flip:
            mirrored = host.encode_image(picture.pixels.flip(-1))
            found = (found + self._found(host, mirrored, prompts, draw).flip(-1)) / 2
        found = F.interpolate(found[:, None], size=picture.pixels.shape[-2:], mode="bicubic", align_corners=False)
        return found[:, 0].clamp(0, 1)

    def _found(self, host: Host, latent: Tensor, prompts: Prompts, draw: Draw) -> Tensor:
        """-> (P, h', w') in [0, 1]."""
        if self.options.together and (shared := _sharedput_into(prompts, draw)):
            context = prompts.encode([shared[0]])
            if not any(context.cut):
                terms = find_terms(host.count_tokens, *shared, context.tokens.shape[1] - 2)
                return self._pass(host, latent, context, [terms], Draw(draw.timesteps[:1], draw.noise, draw.seed))
        context, length = prompts.context, prompts.context.tokens.shape[1] - 2
        rows = [find_terms(host.count_tokens, *put_into(t, [p]), length) for t, p in _pairs(prompts)]
        found = []
        for part in self._parts(host, latent, len(prompts)):
            noise = draw.noise[part] if len(draw.noise) > 1 else draw.noise
            own = Draw(draw.timesteps[part], noise, draw.seed)
            found.append(self._pass(host, latent, context[part], rows[part], own))
        return torch.cat(found)

    def _parts(self, host: Host, latent: Tensor, prompts: int) -> Iterator[slice]:
        """As many prompts at a time as leave few enough queries and keys to hold."""
        level = levels_of(host.info.unet)[self.options.self_level]
        modules: Mapping[str, Any] = host.feature_modules()
        layers = sum(len(modules[path].transformer_blocks) for path in level.paths)
        layers = layers if self.options.iterations else 0
        pixels = latent.shape[-2] * latent.shape[-1] // level.factor**2
        each = 2 * layers * pixels * level.channels * host.dtype.itemsize
        step = max(1, _HELD // max(each, 1))
        return (slice(start, min(start + step, prompts)) for start in range(0, prompts, step))

    def _pass(
        self, host: Host, latent: Tensor, context: Context, rows: Sequence[Sequence[Term]], draw: Draw
    ) -> Tensor:
        """One pass over B sentences, each with its terms -> (all terms, h', w') in [0, 1]."""
        options = self.options
        tokens = context.tokens.clone()
        for index, terms in enumerate(rows):
            for place in {place for term in terms for place in term.own}:
                tokens[index, place] *= options.emphasis
        context = Context(tokens, context.pooled, context.cut)
        levels = levels_of(host.info.unet)
        pairs = zip(levels, self._weights(len(levels)), strict=False)
        weights = {level: weight for level, weight in pairs if weight}
        own = levels[options.self_level]
        noisy_latent = host.add_noise(latent, draw.noise, draw.timesteps)
        with probe_attention(
            host.feature_modules(),
            text=[path for level in weights for path in level.paths],
            own=own.paths if options.iterations else (),
            last_block=options.blocks == "last",
        ) as probes:
            host.predict_noise(noisy_latent, draw.timesteps, context)
        sides = (latent.shape[-2], latent.shape[-1])
        _check_probes(probes, levels, sides, len(rows))
        size = _map_size(own, sides)
        found = []
        for index, terms in enumerate(rows):
            maps = [(weight, _text_maps(probes, level, sides, size, index)) for level, weight in weights.items()]
            shapes, gates = self._terms(maps, terms)
            layers = [layer for path in own.paths for layer in probes.own.get(path, ())]
            shapes = refined(shapes.flatten(1), layers, index, options).reshape(-1, *size)
            found.append(_spread(shapes) * gates[:, None, None])
        return torch.cat(found)

    def _weights(self, levels: int) -> tuple[float, ...]:
        """Per level, finest first. iSeg has 0.3 at 32 x 32 and 0.7 at 16 x 16, for 512 pixels."""
        if self.options.cross_levels:
            return self.options.cross_levels
        return {1: (1.0,), 2: (0.3, 0.7)}.get(levels, (0.0, 0.3, 0.7))

    def _terms(self, maps: Sequence[tuple[float, Tensor]], terms: Sequence[Term]) -> tuple[Tensor, Tensor]:
        """Weighted maps (L, h, w) of the levels -> per term its map (T, h, w), and how much it is there (T,).

        A phrase is one competitor, however many tokens it has: they are reduced to one map before it is shared
        out. What says whether it is there goes by the plain weights, since normalising takes their level away.
        """
        options = self.options
        plain = torch.stack([weight * level for weight, level in maps]).sum(dim=0)
        normal = torch.stack([weight * _normal(level, options.normalise) for weight, level in maps]).sum(dim=0)
        shapes, gates = [], []
        for term in terms:
            own, rivals = list(term.own), list(term.rivals)
            shape, weight = (
                m[own].mean(dim=0) if options.tokens == "mean" else m[own].amax(dim=0) for m in (normal, plain)
            )
            gate = torch.ones_like(weight[0, 0])
            if options.rescale and rivals:
                shape = shape / (shape + normal[rivals].sum(dim=0)).clamp_min(_TINY)
            if options.gate and rivals:
                low, high = options.gate
                highest = (weight / plain[rivals].mean(dim=0).clamp_min(_TINY)).max()
                gate = ((highest - low) / (high - low)).clamp(0, 1)
            shapes.append(shape)
            gates.append(gate)
        return torch.stack(shapes), torch.stack(gates)


# --- maps --------------------------------------------------------------------------------------------------


def refined(maps: Tensor, layers: Sequence[QueriesAndKeys], index: int, options: AttentionOptions) -> Tensor:
    """(T, N) -> (T, N): each pixel's value becomes that of the pixels to which it attends.

    The affinity is the mean over heads and layers. It is only formed where it is needed whole: 4 N^2 bytes.
    """
    if not options.iterations:
        return maps
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
            rows.add_(entropy, alpha=options.eta).clamp_(min=0)
        # A pixel without any link keeps its own value.
        affinity.diagonal().masked_fill_(affinity.sum(dim=1) == 0, 1)
    affinity /= affinity.sum(dim=1, keepdim=True)
    found = maps.mT
    for _ in range(options.iterations):
        found = affinity @ found
        found = found - found.amin(dim=0)
        found = found / found.sum(dim=0).clamp_min(_TINY)
    return found.mT


def _text_maps(probes: Probes, level: Level, sides: tuple[int, int], size: tuple[int, int], index: int) -> Tensor:
    """The attention of one prompt's map to its L tokens on one level, mean over the layers -> (L, h, w)."""
    layers = [one_of(layer, index) for path in level.paths for layer in probes.text[path]]
    mean = torch.stack(layers).mean(dim=0).mT
    mean = mean.reshape(-1, *_map_size(level, sides))
    smaller = mean.shape[1] > size[0]
    return F.interpolate(mean[None], size=size, mode="bilinear", align_corners=False, antialias=smaller)[0]


def _map_size(level: Level, sides: tuple[int, int]) -> tuple[int, int]:
    return sides[0] // level.factor, sides[1] // level.factor


def _normal(maps: Tensor, how: str) -> Tensor:
    """Each map (L, h, w) on a scale of its own; all weigh the same then."""
    if how == "sum":
        return maps / maps.sum(dim=(1, 2), keepdim=True).clamp_min(_TINY)
    return _spread(maps) if how == "minmax" else maps


def _spread(maps: Tensor) -> Tensor:
    """Each map (T, h, w) from 0 to 1; one that is the same everywhere is 0."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp_min(_TINY)


def _check_probes(probes: Probes, levels: Sequence[Level], sides: tuple[int, int], rows: int) -> None:
    for level in levels:
        height, width = _map_size(level, sides)
        for path in level.paths:
            seen = [t for layer in probes.own.get(path, ()) for t in (layer.q, layer.k)]
            for layer in seen + probes.text.get(path, []):
                if layer.shape[1] != height * width:
                    raise FeatureError(
                        f"The attention at {path} ran over {layer.shape[1]} pixels, but its map has {height} x "
                        f"{width} = {height * width}. Token merging or a tiling of attention such as hypertile is "
                        "switched on. Switch it off and try again."
                    )
                if len(layer) not in (1, rows):
                    raise FeatureError(
                        f"The attention at {path} ran over a batch of {len(layer)}, but {rows} prompts were "
                        "given. This webui, or another extension, runs the UNet in its own way. Switch other "
                        "extensions off and try again."
                    )


# --- prompts -----------------------------------------------------------------------------------------------


def _pairs(prompts: Prompts) -> Iterator[tuple[str, str]]:
    return zip(prompts.templates, prompts.phrases, strict=True)


def _sharedput_into(prompts: Prompts, draw: Draw) -> tuple[str, list[tuple[int, int]]] | None:
    """One sentence for all, unless something was drawn for each."""
    alike = len(set(prompts.templates)) == 1 and len(draw.noise) == 1 and len(set(draw.timesteps.tolist())) == 1
    return put_into(prompts.templates[0], prompts.phrases) if alike else None
