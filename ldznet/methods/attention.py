"""Masks from the attention of the UNet itself: which pixels attend to the prompt, and which to each other.

One pass over the noisy latent. Attention to the text says where a phrase is meant, compared with other words that
the sentence names for the rest of the scene; the attention of the finest map to itself spreads that over the
thing. No training. A phrase that wins nowhere against the other words is absent, and its map is empty. Where that
cannot separate things, noise predictions do (noise_evidence.py). The steps are in attention_maps.py, their options
in attention_options.py; docs/attention.md shows them.

Memory in addition to the plain pass: queries and keys of the finest level, 256 MB at most for all prompts unless a
single one needs more, and for one prompt at a time the affinity of its N pixels, 4 N^2 bytes, and 130 MB for work.
At 768 x 768 pixels, one prompt, float32 on a CPU, the UNet of Stable Diffusion 1.5 peaks at most 403 MB above its
plain pass, in three runs of:

    python -m ldznet bench --full-size --attention

Sources: Sun et al., iSeg, https://arxiv.org/abs/2409.03209 (levels, emphasis, the iterated refinement); Wang et
al., DiffSegmenter, https://arxiv.org/abs/2309.02773 (one refinement by the mean of all finest layers); GoCA (the
shares of content tokens).
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

_MOST_HELD = 2**28  # bytes of queries and keys that are held at a time


@dataclass(frozen=True)
class Stages:
    """The steps of one sentence with T phrases, all at the size of the map that refines."""

    # By the factor from the sides of a level to those of the latent: attention (L, h, w) to each token.
    levels: Mapping[int, Tensor]
    terms: tuple[Term, ...]
    shares: Tensor  # (T, h, w): the share of each phrase, against its rivals
    refined: Tensor  # (T, h, w): the shares, spread over pixels that attend to each other
    gates: Tensor  # (T,): how much each phrase is present
    probability: Tensor  # (T, h, w) in [0, 1]


class AttentionMethod:
    """Attention to the text, refined by the attention of the map to itself.

    Without arguments, it has the published values; `for_host` takes those that suit a model.
    """

    name = "attention"

    def __init__(self, options: AttentionOptions | None = None, defaults: Defaults = PUBLISHED) -> None:
        self.options = options or AttentionOptions()
        self.defaults = defaults

    @classmethod
    def for_host(cls, info: HostInfo) -> AttentionMethod:
        """Return the method with the options and defaults that suit a model."""
        return cls(*suited_options(info))

    @property
    def needs_all_prompts(self) -> bool:
        """Return whether the phrases are each other's rivals."""
        return self.options.together

    @property
    def record(self) -> Mapping[str, Any]:
        """Return all options."""
        return {"method": self.name, "method_options": dataclasses.asdict(self.options)}

    def check(self, host: HostInfo) -> None:
        """Refuse a model without the levels that the options read.

        Raises:
            HostError: it has fewer levels.
        """
        count = len(levels_of(host.unet))
        read = [level for level, weight in enumerate(self.options.cross_levels) if weight]
        needed = 1 + max(self.options.self_level, *read, 0)
        if count < needed:
            raise HostError(
                f"The attention method is set to read {needed} levels, but {host.name} "
                f"({FAMILY_NAMES[host.family]}) has transformers on {count} only. Give cross_levels of {count} "
                f"weights at most and a self_level below {count}, or leave both at their defaults, which fit "
                "every model."
            )

    @torch.no_grad()
    def probability(self, host: Host, encoded: EncodedImage, prompts: Prompts, inputs: RandomInputs) -> Tensor:
        """Return (P, h, w) float32 in [0, 1], at the size of the image's pixels.

        Raises:
            PromptError: the text encoder does not read any token of a phrase.
            FeatureError: the host runs its attention in a way that cannot be read.
        """
        maps = self._probability(host, encoded.latent, prompts, inputs)
        # The VAE is not symmetric, so that the mirrored pixels are encoded, not the mirrored latent.
        if self.options.flip:
            mirrored = host.encode_image(encoded.pixels.flip(-1))
            maps = (maps + self._probability(host, mirrored, prompts, inputs).flip(-1)) / 2
        if evidence := self.evidence(host, encoded.latent, prompts, maps, inputs.seed):
            evidence = Evidence(resize_like(evidence.gains, maps).to(maps), evidence.whole.to(maps))
            options = self.options
            maps = apply_evidence(
                maps, evidence, options.evidence_scale, options.presence_level, options.presence_width
            )
        maps = F.interpolate(maps[:, None], size=encoded.pixels.shape[-2:], mode="bicubic", align_corners=False)
        return maps[:, 0].clamp(0, 1)

    def _probability(self, host: Host, latent: Tensor, prompts: Prompts, inputs: RandomInputs) -> Tensor:
        """Return the maps (P, h', w') in [0, 1], without evidence."""
        return torch.cat([stages.probability for stages in self.stages(host, latent, prompts, inputs)])

    @torch.no_grad()
    def evidence(
        self, host: Host, latent: Tensor, prompts: Prompts, maps: Tensor, seed: int = 0
    ) -> Evidence | None:
        """Return the evidence for maps (P, h', w'); None if it is off, has no rivals, or all maps are empty."""
        options = self.options
        counts = torch.tensor(
            [[names_another_thing(p, rival) for rival in options.evidence_rivals] for p in prompts.phrases]
        )
        # The evidence costs most passes: it is skipped where it could change nothing.
        if not options.evidence or not counts.any() or not maps.any():
            return None
        phrases = (*prompts.phrases, *options.evidence_rivals)
        sentences = [options.evidence_template.replace("{}", phrase) for phrase in phrases]
        errors = self._errors(host, latent, prompts, sentences, seed)
        # The prompts come first in the list of sentences.
        errors, rivals = errors[:, : len(prompts)], errors[:, len(prompts) :]
        return compare(errors, rivals, counts, resize_like(maps.float().cpu(), errors), options.evidence_blur)

    def _errors(self, host: Host, latent: Tensor, prompts: Prompts, sentences: Sequence[str], seed: int) -> Tensor:
        """Return the errors of n noise predictions with each sentence: (n, sentences, h, w)."""
        noises = draw_noises(latent, self.options.evidence_noises, seed)
        return noise_errors(host, latent, prompts.encode(sentences), self.options.evidence, noises)

    @torch.no_grad()
    def stages(self, host: Host, latent: Tensor, prompts: Prompts, inputs: RandomInputs) -> Iterator[Stages]:
        """Yield the steps of each sentence, one after the other; together they have as many phrases as prompts."""
        templates = [name_rivals(template, self.options.distractors) for template in prompts.templates]
        if self.options.together and _alike(templates, inputs):
            sentence, spans = put_into(templates[0], prompts.phrases)
            context = prompts.encode([sentence])
            # Phrases beyond the end of the text encoder would have no tokens: then each has its own sentence.
            if not any(context.cut):
                terms = find_terms(host.count_tokens, sentence, spans, context.tokens.shape[1] - 2)
                first = RandomInputs(inputs.timesteps[:1], inputs.noise, inputs.seed)
                yield from self._pass(host, latent, context, [terms], first)
                return
        pairs = zip(templates, prompts.phrases, strict=True)
        sentences = [put_into(template, [phrase]) for template, phrase in pairs]
        context = prompts.encode([sentence for sentence, _ in sentences])
        length = context.tokens.shape[1] - 2  # without start and end
        rows = [find_terms(host.count_tokens, *one, length) for one in sentences]
        for part in self._parts(host, latent, len(prompts)):
            noise = inputs.noise[part] if len(inputs.noise) > 1 else inputs.noise
            own = RandomInputs(inputs.timesteps[part], noise, inputs.seed)
            yield from self._pass(host, latent, context[part], rows[part], own)

    def _parts(self, host: Host, latent: Tensor, prompts: int) -> Iterator[slice]:
        """Yield as many prompts at a time as leave few enough queries and keys to hold."""
        level = levels_of(host.info.unet)[self.options.self_level]
        modules: Mapping[str, Any] = host.feature_modules()
        layers = sum(len(modules[path].transformer_blocks) for path in level.paths)
        layers = layers if self.options.iterations else 0
        height, width = map_size(level, (latent.shape[-2], latent.shape[-1]))
        # Queries and keys: 2 for each layer.
        each = 2 * layers * height * width * level.channels * host.dtype.itemsize
        # At least one prompt, however large it is.
        step = max(1, _MOST_HELD // max(each, 1))
        return (slice(start, min(start + step, prompts)) for start in range(0, prompts, step))

    def _pass(
        self, host: Host, latent: Tensor, context: Context, rows: Sequence[Sequence[Term]], inputs: RandomInputs
    ) -> Iterator[Stages]:
        """Run one pass over B sentences, each with its terms, and yield the steps of each."""
        options = self.options
        tokens = context.tokens.clone()
        for index, terms in enumerate(rows):
            # A set, since two phrases may share a token, which must not be multiplied twice.
            for place in {place for term in terms for place in term.own}:
                tokens[index, place] *= options.emphasis
        context = Context(tokens, context.pooled, context.cut)
        levels = levels_of(host.info.unet)
        pairs = zip(levels, self._weights(len(levels)), strict=False)
        weights = {level: weight for level, weight in pairs if weight}
        own = levels[options.self_level]
        noisy_latent = host.add_noise(latent, inputs.noise, inputs.timesteps)
        text = [path for level in weights for path in level.paths]
        probes = self._probe(
            host, noisy_latent, inputs.timesteps, context, text, own.paths if options.iterations else ()
        )
        sides = (latent.shape[-2], latent.shape[-1])
        check_probes(probes, levels, sides, len(rows))
        size = map_size(own, sides)
        layers = [layer for path in own.paths for layer in probes.own.get(path, ())]
        for index, terms in enumerate(rows):
            maps = {level.factor: text_maps(probes, level, sides, size, index) for level in weights}
            shares, gates = share_out(list(zip(weights.values(), maps.values(), strict=True)), terms, options)
            refined = refine_maps(shares.flatten(1), layers, index, options).reshape(-1, *size)
            probability = calibrate(refined, options.halfway) * gates[:, None, None]
            yield Stages(maps, tuple(terms), shares, refined, gates, probability)

    def _probe(
        self,
        host: Host,
        noisy_latent: Tensor,
        timesteps: Tensor,
        context: Context,
        text: Sequence[str],
        own: Sequence[str],
    ) -> Probes:
        """Run the UNet as far as these paths, and return their attention to the text and to themselves."""
        last = self.options.blocks == "last"
        # The block ends the pass after the last probed layer, since the output of the UNet is not needed.
        with probe_attention(host.feature_modules(), text=text, own=own, last_block=last) as probes:
            host.predict_noise(noisy_latent, timesteps, context)
        return probes

    def _weights(self, levels: int) -> tuple[float, ...]:
        """Return the weight of each level, finest first."""
        if self.options.cross_levels:
            return self.options.cross_levels
        # iSeg has 0.3 at 32 x 32 and 0.7 at 16 x 16, for 512 pixels.
        return {1: (1.0,), 2: (0.3, 0.7)}.get(levels, (0.0, 0.3, 0.7))


def _alike(templates: Sequence[str], inputs: RandomInputs) -> bool:
    """Return whether all prompts have the same random inputs, so that one sentence can hold all of them."""
    return len(set(templates)) == 1 and len(inputs.noise) == 1 and len(set(inputs.timesteps.tolist())) == 1
