"""Masks from the attention of the UNet itself: which pixels look at the words, and which pixels belong together.

One pass over the noisy latent. Attention to the text says where a phrase is meant, against other words that
the sentence names for the rest of the scene; the attention of the finest map to itself spreads that over the
thing. No training. What wins nowhere against the other words is absent, and its map is empty. Where that cannot
tell things apart, noise predictions do (evidence.py). The steps are in attention_maps.py, their options in
attention_options.py; docs/attention.md shows them.

Memory beside the plain pass: queries and keys of the finest level, 256 MB at most for all prompts unless a single
one needs more, and for one prompt at a time the affinity of its N pixels, 4 N^2 bytes, and 130 MB for work. At 768
x 768 pixels, one prompt, float32 on a CPU, the UNet of Stable Diffusion 1.5 peaks at most 403 MB above its plain
pass, in three runs of:

    python -m ldznet bench --full-size --attention

Sources: Sun et al., iSeg, https://arxiv.org/abs/2409.03209 (levels, emphasis, the iterated refinement); Wang et
al., DiffSegmenter, https://arxiv.org/abs/2309.02773 (one refinement by the mean of all finest layers); GoCA (the
sharing out among content tokens).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ldznet.errors import HostError
from ldznet.hosts.attention_probes import Probes, levels_of, probe_attention
from ldznet.hosts.host import FAMILY_NAMES, Context, Host, HostInfo
from ldznet.methods.attention_maps import calibrate, check_probes, map_size, refine_maps, share_out, text_maps
from ldznet.methods.attention_options import PUBLISHED, AttentionOptions, suited_options
from ldznet.methods.method import Defaults, EncodedImage, Prompts, RandomInputs
from ldznet.methods.noise_evidence import (
    Evidence,
    apply_evidence,
    compare,
    draw_noises,
    names_another_thing,
    noise_errors,
    resize_like,
)
from ldznet.methods.token_spans import Term, find_terms, name_rivals, put_into

# Bytes of queries and keys that are held at a time.
_HELD = 2**28


@dataclass(frozen=True)
class Stages:
    """What one sentence with T phrases went through, all at the size of the map that refines."""

    levels: Mapping[int, Tensor]  # the latent's sides over the level's -> (L, h, w): attention to each token
    terms: tuple[Term, ...]
    shares: Tensor  # (T, h, w): of each phrase, against its rivals
    refined: Tensor  # (T, h, w): spread over what belongs together
    gates: Tensor  # (T,): how much it is there
    found: Tensor  # (T, h, w) in [0, 1]


class AttentionMethod:
    """Attention to the text, refined by the attention of the map to itself.

    Without arguments with the published values; `for_host` takes those that suit a model.
    """

    name = "attention"

    def __init__(self, options: AttentionOptions | None = None, defaults: Defaults = PUBLISHED) -> None:
        self.options = options or AttentionOptions()
        self.defaults = defaults

    @classmethod
    def for_host(cls, info: HostInfo) -> AttentionMethod:
        """With the options and defaults that suit a model."""
        return cls(*suited_options(info))

    @property
    def needs_all_prompts(self) -> bool:
        """Where the phrases are each other's rivals."""
        return self.options.together

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
    def probability(self, host: Host, picture: EncodedImage, prompts: Prompts, draw: RandomInputs) -> Tensor:
        """-> (P, h, w) float32 in [0, 1], at the size of the picture's pixels.

        Raises:
            PromptError: nothing of a phrase is among the tokens that are read.
            FeatureError: the host runs its attention in a way that cannot be read.
        """
        found = self._found(host, picture.latent, prompts, draw)
        if self.options.flip:
            mirrored = host.encode_image(picture.pixels.flip(-1))
            found = (found + self._found(host, mirrored, prompts, draw).flip(-1)) / 2
        if evidence := self.evidence(host, picture.latent, prompts, found, draw.seed):
            evidence = Evidence(resize_like(evidence.gains, found).to(found), evidence.whole.to(found))
            own = self.options
            found = apply_evidence(found, evidence, own.evidence_scale, own.presence_level, own.presence_width)
        found = F.interpolate(found[:, None], size=picture.pixels.shape[-2:], mode="bicubic", align_corners=False)
        return found[:, 0].clamp(0, 1)

    def _found(self, host: Host, latent: Tensor, prompts: Prompts, draw: RandomInputs) -> Tensor:
        """-> (P, h', w') in [0, 1]."""
        return torch.cat([stages.found for stages in self.stages(host, latent, prompts, draw)])

    @torch.no_grad()
    def evidence(
        self, host: Host, latent: Tensor, prompts: Prompts, found: Tensor, seed: int = 0
    ) -> Evidence | None:
        """What predicting noise says of phrases that were found (P, h', w'); None if there is nothing to ask."""
        options = self.options
        counts = torch.tensor(
            [[names_another_thing(p, rival) for rival in options.evidence_rivals] for p in prompts.phrases]
        )
        if not options.evidence or not counts.any() or not found.any():
            return None
        named = (*prompts.phrases, *options.evidence_rivals)
        sentences = [options.evidence_template.replace("{}", name) for name in named]
        errors = self._errors(host, latent, prompts, sentences, seed)
        errors, rivals = errors[:, : len(prompts)], errors[:, len(prompts) :]
        return compare(errors, rivals, counts, resize_like(found.float().cpu(), errors), options.evidence_blur)

    def _errors(self, host: Host, latent: Tensor, prompts: Prompts, sentences: Sequence[str], seed: int) -> Tensor:
        """Of n noise predictions with each sentence -> (n, sentences, h, w)."""
        noises = draw_noises(latent, self.options.evidence_noises, seed)
        return noise_errors(host, latent, prompts.encode(sentences), self.options.evidence, noises)

    @torch.no_grad()
    def stages(self, host: Host, latent: Tensor, prompts: Prompts, draw: RandomInputs) -> Iterator[Stages]:
        """What each sentence goes through, one after the other; as many phrases as there are prompts."""
        templates = [name_rivals(template, self.options.distractors) for template in prompts.templates]
        if self.options.together and _alike(templates, draw):
            sentence, spans = put_into(templates[0], prompts.phrases)
            context = prompts.encode([sentence])
            if not any(context.cut):
                terms = find_terms(host.count_tokens, sentence, spans, context.tokens.shape[1] - 2)
                first = RandomInputs(draw.timesteps[:1], draw.noise, draw.seed)
                yield from self._pass(host, latent, context, [terms], first)
                return
        said = [put_into(template, [phrase]) for template, phrase in zip(templates, prompts.phrases, strict=True)]
        context = prompts.encode([sentence for sentence, _ in said])
        length = context.tokens.shape[1] - 2
        rows = [find_terms(host.count_tokens, *one, length) for one in said]
        if self.options.tokens == "padding":
            counts = host.count_tokens([sentence for sentence, _ in said])
            rows = [
                [Term(tuple(range(count + 1, length + 2)), term.own)]
                for count, (term,) in zip(counts, rows, strict=True)
            ]
        for part in self._parts(host, latent, len(prompts)):
            noise = draw.noise[part] if len(draw.noise) > 1 else draw.noise
            own = RandomInputs(draw.timesteps[part], noise, draw.seed)
            yield from self._pass(host, latent, context[part], rows[part], own)

    def _parts(self, host: Host, latent: Tensor, prompts: int) -> Iterator[slice]:
        """As many prompts at a time as leave few enough queries and keys to hold."""
        level = levels_of(host.info.unet)[self.options.self_level]
        modules: Mapping[str, Any] = host.feature_modules()
        layers = sum(len(modules[path].transformer_blocks) for path in level.paths)
        layers = layers if self.options.iterations else 0
        height, width = map_size(level, (latent.shape[-2], latent.shape[-1]))
        each = 2 * layers * height * width * level.channels * host.dtype.itemsize
        step = max(1, _HELD // max(each, 1))
        return (slice(start, min(start + step, prompts)) for start in range(0, prompts, step))

    def _pass(
        self, host: Host, latent: Tensor, context: Context, rows: Sequence[Sequence[Term]], draw: RandomInputs
    ) -> Iterator[Stages]:
        """One pass over B sentences, each with its terms -> what each goes through."""
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
        text = [path for level in weights for path in level.paths]
        probes = self._probe(
            host, noisy_latent, draw.timesteps, context, text, own.paths if options.iterations else ()
        )
        sides = (latent.shape[-2], latent.shape[-1])
        check_probes(probes, levels, sides, len(rows))
        size = map_size(own, sides)
        layers = [layer for path in own.paths for layer in probes.own.get(path, ())]
        for index, terms in enumerate(rows):
            maps = {level.factor: text_maps(probes, level, sides, size, index) for level in weights}
            shares, gates = share_out(list(zip(weights.values(), maps.values(), strict=True)), terms, options)
            whole = refine_maps(shares.flatten(1), layers, index, options).reshape(-1, *size)
            found = calibrate(whole, options.halfway) * gates[:, None, None]
            yield Stages(maps, tuple(terms), shares, whole, gates, found)

    def _probe(
        self,
        host: Host,
        noisy_latent: Tensor,
        timesteps: Tensor,
        context: Context,
        text: Sequence[str],
        own: Sequence[str],
    ) -> Probes:
        """Run the UNet as far as the paths that are read, to the text and to themselves."""
        last = self.options.blocks == "last"
        with probe_attention(host.feature_modules(), text=text, own=own, last_block=last) as probes:
            host.predict_noise(noisy_latent, timesteps, context)
        return probes

    def _weights(self, levels: int) -> tuple[float, ...]:
        """Per level, finest first. iSeg has 0.3 at 32 x 32 and 0.7 at 16 x 16, for 512 pixels."""
        if self.options.cross_levels:
            return self.options.cross_levels
        return {1: (1.0,), 2: (0.3, 0.7)}.get(levels, (0.0, 0.3, 0.7))


def _alike(templates: Sequence[str], draw: RandomInputs) -> bool:
    """Whether nothing was drawn for each prompt, so that one sentence can stand for all."""
    return len(set(templates)) == 1 and len(draw.noise) == 1 and len(set(draw.timesteps.tolist())) == 1
