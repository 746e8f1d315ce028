"""Measure how much each step of a method contributes: one option is changed at a time, on the same samples.

    setup = Setup.of(host.info, "attention")
    for variant in variants(setup, steps_for(setup, host.info)):
        row = bench.measure(variant)

Samples, latents, contexts and attention maps are cached: most rows differ only in what they compute from the same
attention, and need no pass through the UNet. With a folder every row is written as soon as it is measured, and is
not measured again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ldznet.files import write_text
from ldznet.hosts.attention_probes import Probes, levels_of
from ldznet.hosts.host import Context, Host, HostInfo
from ldznet.methods.attention import AttentionMethod
from ldznet.methods.attention_options import AttentionOptions, suited_options
from ldznet.methods.method import Defaults, EncodedImage, Method, Prompts, RandomInputs
from ldznet.methods.noise_difference import DifferenceMethod, DifferenceOptions
from ldznet.research.datasets.sample import Sample
from ldznet.research.evaluation.runner import PROTOCOL, Scores, predict

if TYPE_CHECKING:
    from ldznet.hosts.diffusers.host import DiffusersHost

log = logging.getLogger(__name__)

_CACHED = 1000  # passes whose attention is cached: about 1 MB per phrase on the embedded model
_TIMED = 8  # phrases to time a row with
_OF_DEFAULTS = tuple(item.name for item in dataclasses.fields(Defaults))


@dataclass(frozen=True)
class Setup:
    """The options and defaults of a method without a head."""

    options: AttentionOptions | DifferenceOptions
    defaults: Defaults

    @classmethod
    def of(cls, name: str, info: HostInfo) -> Setup:
        """Return the options that suit a model."""
        if name == "attention":
            return cls(*suited_options(info))
        method = DifferenceMethod.for_host(info)
        return cls(method.options, method.defaults)

    def having(self, **changes: Any) -> Setup:
        """Return a copy with other options or defaults, by name."""
        own = {name: value for name, value in changes.items() if name not in _OF_DEFAULTS}
        rest = {name: value for name, value in changes.items() if name in _OF_DEFAULTS}
        return Setup(dataclasses.replace(self.options, **own), dataclasses.replace(self.defaults, **rest))

    def value(self, name: str) -> Any:
        """Return the value of an option or default."""
        return getattr(self.defaults if name in _OF_DEFAULTS else self.options, name)

    def method(self) -> Method:
        """Return a method with these options."""
        if isinstance(self.options, AttentionOptions):
            return AttentionMethod(self.options, self.defaults)
        return DifferenceMethod(self.options, self.defaults)

    def record(self) -> dict[str, Any]:
        """Return the setup as JSON values."""
        return {"options": dataclasses.asdict(self.options), "defaults": dataclasses.asdict(self.defaults)}


@dataclass(frozen=True)
class AblationRow:
    """The measures of one method on all samples."""

    name: str
    numbers: Mapping[str, float]  # see Scores.numbers
    looks: Mapping[str, float]  # mIoU in percent, by look
    seconds: float  # per prompt, without encoding image and text; 0 if not timed

    @property
    def usefulness(self) -> float:
        """Return the mean IoU at 0.5 over all phrases; an absent object counts 100 with an empty mask, else 0.

        This is the metric gIoU of generalised referring segmentation (Liu et al., CVPR 2023, GRES), in percent.
        """
        present, absent = self.numbers.get("samples", 0), self.numbers.get("absent", 0)
        right = present * self.numbers.get("miou_0.5", 0) + absent * self.numbers.get("empty_0.5", 0)
        return right / max(1, present + absent)


class Workbench:
    """Measures methods on the same samples, with the same model."""

    def __init__(
        self, host: DiffusersHost, samples: Sequence[Sample], folder: Path | None = None, *, timed: bool = True
    ) -> None:
        self.host, self.samples, self.folder = cast("Host", _CachingHost(host)), samples, folder
        self._timed = timed
        # Everything that a stored row depends on, besides the method.
        model = [host.info.fingerprint, host.others, host.info.prediction, str(host.dtype), host.device.type]
        self._key = json.dumps([PROTOCOL, timed, model, [_digest(sample) for sample in samples]])
        self._probes: dict[bytes, Probes] = {}
        self._errors: dict[tuple[Any, ...], Tensor] = {}
        self.measured: dict[str, AblationRow] = {}

    def measure(self, name: str, method: Method) -> AblationRow:
        """Return the row of a method, from memory or disk if it was measured before."""
        state = json.dumps([self._key, dict(method.record), dataclasses.asdict(method.defaults)], default=str)
        # 24 hex digits are enough to tell thousands of rows apart.
        key = hashlib.sha256(state.encode()).hexdigest()[:24]
        path = self.folder / "rows" / f"{key}.json" if self.folder else None
        if key not in self.measured:
            stored = _read(path) if path is not None else None
            self.measured[key] = stored or self._measure(name, method)
            if path is not None and stored is None:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_text(path, json.dumps(dataclasses.asdict(self.measured[key]), indent=1))
        return dataclasses.replace(self.measured[key], name=name)

    def _measure(self, name: str, method: Method) -> AblationRow:
        """Measure a method on all samples, and time it on a few."""
        scores = Scores()
        sharing = _Sharing(method, self._probes, self._errors) if isinstance(method, AttentionMethod) else method
        for prediction in predict(self.host, sharing, self.samples):
            scores.update(prediction)
        # Timed last: the first runs are slower, and by now all sentences are encoded.
        timed = _Timed(method, self.host)
        few = list(predict(self.host, timed, self.samples[: _TIMED * self._timed]))
        looks = {
            title.removeprefix("look: "): 100 * part.result().miou.best
            for title, part in sorted(scores.categories.items())
            if title.startswith("look: ")
        }
        return AblationRow(name, scores.numbers(), looks, timed.seconds / max(1, len(few)))


def _digest(sample: Sample) -> str:
    """Return a digest of a sample: scenes with one key differ in size, and between versions of the art."""
    size, mask = sample.image.shape, sample.mask.tobytes()
    text = json.dumps([sample.key, sample.phrase, size, {**sample.categories}]).encode()
    return hashlib.sha256(text + sample.image.tobytes() + mask).hexdigest()


def _read(path: Path) -> AblationRow | None:
    """Return a stored row; None if it is missing, or unreadable, so that it must be measured again."""
    if not path.exists():
        return None
    try:
        return AblationRow(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as why:
        log.warning("%s cannot be read (%s): this row is measured again.", path, why)
        return None


class _CachingHost:
    """A host that encodes no image and no prompt twice."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._latents: dict[bytes, Tensor] = {}
        self._contexts: dict[str, Context] = {}
        self._counts: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._host, name)

    def encode_image(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        # A random latent must not be cached.
        if noise is not None:
            return self._host.encode_image(image, noise)
        key = hashlib.sha256(image.numpy().tobytes()).digest()
        if key not in self._latents:
            self._latents[key] = self._host.encode_image(image)
        return self._latents[key]

    def encode_prompt(self, prompts: Sequence[str]) -> Context:
        for text in prompts:
            if text not in self._contexts:
                self._contexts[text] = self._host.encode_prompt([text])
        return Context.join([self._contexts[text] for text in prompts])

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        if new := [text for text in dict.fromkeys(texts) if text not in self._counts]:
            self._counts |= dict(zip(new, self._host.count_tokens(new), strict=True))
        return [self._counts[text] for text in texts]


class _Sharing(AttentionMethod):
    """An attention method that shares the passes through the UNet with methods of other options."""

    def __init__(
        self, method: AttentionMethod, probes: dict[bytes, Probes], errors: dict[tuple[Any, ...], Tensor]
    ) -> None:
        super().__init__(method.options, method.defaults)
        self._probes, self._cached_errors = probes, errors

    def _errors(self, host: Host, latent: Tensor, prompts: Prompts, sentences: Sequence[str], seed: int) -> Tensor:
        image_key = hashlib.sha256(latent.float().cpu().numpy().tobytes()).digest()
        count, every = self.options.evidence_noises, []
        for timestep in self.options.evidence:
            keys = {text: (image_key, seed, count, timestep, text) for text in sentences}
            if new := [text for text, key in keys.items() if key not in self._cached_errors]:
                method = AttentionMethod(dataclasses.replace(self.options, evidence=(timestep,)), self.defaults)
                errors = method._errors(host, latent, prompts, new, seed)
                self._cached_errors |= {keys[text]: errors[:, index] for index, text in enumerate(new)}
            every.append(torch.stack([self._cached_errors[keys[text]] for text in sentences], dim=1))
        return torch.cat(every)

    def _probe(
        self,
        host: Host,
        noisy_latent: Tensor,
        timesteps: Tensor,
        context: Context,
        text: Sequence[str],
        own: Sequence[str],
    ) -> Probes:
        inputs = (noisy_latent, timesteps, context.tokens)
        digest = hashlib.sha256(self.options.blocks.encode())
        for tensor in inputs:
            digest.update(tensor.float().cpu().numpy().tobytes())
        key = digest.digest()
        if key in self._probes:
            return self._probes[key]
        # All levels at once: rows that read others of them then need no pass.
        levels = levels_of(host.info.unet)
        every = [path for level in levels for path in level.paths]
        probes = super()._probe(
            host, *inputs[:2], context, every, [path for level in levels[:2] for path in level.paths]
        )
        if len(self._probes) < _CACHED:
            self._probes[key] = probes
        return probes


class _Timed:
    """A method that counts its seconds: on a CPU those of this process, which other programs do not lengthen."""

    def __init__(self, method: Method, host: Host) -> None:
        self.name, self.defaults, self.needs_all_prompts = method.name, method.defaults, method.needs_all_prompts
        self.record, self.check = method.record, method.check
        self._method = method
        self._clock = time.process_time if host.device.type == "cpu" else time.perf_counter
        self.seconds = 0.0

    def probability(self, host: Host, encoded: EncodedImage, prompts: Prompts, inputs: RandomInputs) -> Tensor:
        start = self._clock()
        probability = self._method.probability(host, encoded, prompts, inputs).cpu()
        self.seconds += self._clock() - start
        return probability


def looks_of(samples: Sequence[Sample]) -> list[str]:
    """Return the looks of samples, in the order in which they occur."""
    return list(dict.fromkeys(sample.categories["look"][0] for sample in samples))


def ablation_table(rows: Sequence[AblationRow], base: AblationRow, looks: Sequence[str]) -> str:
    """Return all rows as Markdown; times are relative to `base`, the first row."""
    titles = ["mIoU", *looks, "IoU_FG", "AP", "mIoU at 0.5", "absent: empty", "time"]
    lines = ["| | " + " | ".join(titles) + " |", "|---|" + "---:|" * len(titles)]
    for row in (base, *rows):
        values = [row.numbers.get("miou"), *(row.looks.get(look) for look in looks)]
        values += [row.numbers.get(key) for key in ("fgiou", "ap", "miou_0.5", "empty_0.5")]
        cells = ["" if value is None else "–" if math.isnan(value) else f"{value:.1f}" for value in values]
        ratio = f"{row.seconds / base.seconds:.2f}" if base.seconds else ""
        lines.append(f"| {row.name} | " + " | ".join([*cells, ratio]) + " |")
    return "\n".join(lines)
