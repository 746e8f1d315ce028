"""What each step of a method is worth: one thing changed at a time, measured on the same samples.

    setup = Setup.of(host.info, "attention")
    for variant in variants(setup, steps_for(setup, host.info)):
        row = bench.measure(variant)

Samples, latents and contexts are kept, and so is the attention that was seen: most rows differ only in what is
made of it, and cost no pass through the UNet. With a folder every row is kept as soon as it is measured, and not
measured again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

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

_KEPT = 1000  # passes whose attention is kept: about 1 MB a phrase on the embedded model
_TIMED = 8  # phrases that a row is timed with
_OF_DEFAULTS = tuple(item.name for item in dataclasses.fields(Defaults))


@dataclass(frozen=True)
class Setup:
    """All that a method without a head depends on."""

    options: AttentionOptions | DifferenceOptions
    defaults: Defaults

    @classmethod
    def of(cls, name: str, info: HostInfo) -> Setup:
        """What suits a model."""
        if name == "attention":
            return cls(*suited_options(info))
        method = DifferenceMethod.for_host(info)
        return cls(method.options, method.defaults)

    def having(self, **changes: Any) -> Setup:
        """The same with other options or defaults, by name.

        Of what excludes each other the newer one counts: distractors, and reading the padding.
        """
        if changes.get("tokens") == "padding":
            changes = {"distractors": (), "together": False, **changes}
        elif (changes.get("distractors") or changes.get("together")) and getattr(
            self.options, "tokens", ""
        ) == "padding":
            changes = {"tokens": "mean", **changes}
        own = {name: value for name, value in changes.items() if name not in _OF_DEFAULTS}
        rest = {name: value for name, value in changes.items() if name in _OF_DEFAULTS}
        return Setup(dataclasses.replace(self.options, **own), dataclasses.replace(self.defaults, **rest))

    def value(self, name: str) -> Any:
        """Of an option or default."""
        return getattr(self.defaults if name in _OF_DEFAULTS else self.options, name)

    def method(self) -> Method:
        """The method that it describes."""
        if isinstance(self.options, AttentionOptions):
            return AttentionMethod(self.options, self.defaults)
        return DifferenceMethod(self.options, self.defaults)

    def record(self) -> dict[str, Any]:
        """All of it, fit for JSON."""
        return {"options": dataclasses.asdict(self.options), "defaults": dataclasses.asdict(self.defaults)}


@dataclass(frozen=True)
class AblationRow:
    """One method on all samples."""

    name: str
    numbers: Mapping[str, float]  # see Scores.numbers
    looks: Mapping[str, float]  # mIoU in percent, by look
    seconds: float  # of a prompt, without encoding image and text; 0 where that was not asked for

    @property
    def usefulness(self) -> float:
        """Mean over all phrases of the IoU at 0.5; what is absent counts 100 with an empty mask, else 0.

        So the metric gIoU of generalised referring segmentation (Liu et al., CVPR 2023, GRES), in percent.
        """
        there, absent = self.numbers.get("samples", 0), self.numbers.get("absent", 0)
        right = there * self.numbers.get("miou_0.5", 0) + absent * self.numbers.get("empty_0.5", 0)
        return right / max(1, there + absent)


class Workbench:
    """Measures methods on the same samples with the same model."""

    def __init__(
        self, host: DiffusersHost, samples: Sequence[Sample], folder: Path | None = None, *, timed: bool = True
    ) -> None:
        self.host, self.samples, self.folder = cast("Host", _Remembering(host)), samples, folder
        self._timed = timed
        model = [host.info.fingerprint, host.others, host.info.prediction, str(host.dtype), host.device.type]
        self._key = json.dumps([PROTOCOL, timed, model, [_digest(sample) for sample in samples]])
        self._seen: dict[bytes, Probes] = {}
        self._errors: dict[tuple[Any, ...], Tensor] = {}
        self.measured: dict[str, AblationRow] = {}

    def measure(self, name: str, method: Method) -> AblationRow:
        """The row of a method, from memory or disk where it has been measured before."""
        state = json.dumps([self._key, dict(method.record), dataclasses.asdict(method.defaults)], default=str)
        key = hashlib.sha256(state.encode()).hexdigest()[:24]
        path = self.folder / "rows" / f"{key}.json" if self.folder else None
        if key not in self.measured:
            found = _read(path) if path is not None else None
            self.measured[key] = found or self._measure(name, method)
            if path is not None and found is None:
                _write(path, dataclasses.asdict(self.measured[key]))
        return dataclasses.replace(self.measured[key], name=name)

    def _measure(self, name: str, method: Method) -> AblationRow:
        scores = Scores()
        sharing = _Sharing(method, self._seen, self._errors) if isinstance(method, AttentionMethod) else method
        for found in predict(self.host, sharing, self.samples):
            scores.update(found)
        # Behind the others: what runs for the first time is slower, and by now all sentences are encoded.
        timed = _Timed(method, self.host)
        few = list(predict(self.host, timed, self.samples[: _TIMED * self._timed]))
        looks = {
            title.removeprefix("look: "): 100 * part.result().miou.best
            for title, part in sorted(scores.categories.items())
            if title.startswith("look: ")
        }
        return AblationRow(name, scores.numbers(), looks, timed.seconds / max(1, len(few)))


def _digest(sample: Sample) -> str:
    """Of all that a row knows of a sample: scenes of one key differ in size, and as their painters change."""
    size, mask = sample.image.shape, sample.mask.tobytes()
    said = json.dumps([sample.key, sample.phrase, size, {**sample.categories}]).encode()
    return hashlib.sha256(said + sample.image.tobytes() + mask).hexdigest()


def _read(path: Path) -> AblationRow | None:
    """A row that was kept; None where there is none, or where it cannot be read and has to be measured again."""
    if not path.exists():
        return None
    try:
        return AblationRow(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as why:
        log.warning("%s cannot be read (%s): this row is measured again.", path, why)
        return None


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1))
    os.replace(partial, path)


class _Remembering:
    """A host that encodes no image and no prompt twice."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._latents: dict[bytes, Tensor] = {}
        self._contexts: dict[str, Context] = {}
        self._counts: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._host, name)

    def encode_image(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
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
    """An attention method that looks at the same pass once, whatever it makes of it."""

    def __init__(
        self, method: AttentionMethod, seen: dict[bytes, Probes], errors: dict[tuple[Any, ...], Tensor]
    ) -> None:
        super().__init__(method.options, method.defaults)
        self._seen, self._known = seen, errors

    def _errors(self, host: Host, latent: Tensor, prompts: Prompts, sentences: Sequence[str], seed: int) -> Tensor:
        picture = hashlib.sha256(latent.float().cpu().numpy().tobytes()).digest()
        count, every = self.options.evidence_noises, []
        for timestep in self.options.evidence:
            keys = {text: (picture, seed, count, timestep, text) for text in sentences}
            if new := [text for text, key in keys.items() if key not in self._known]:
                one = AttentionMethod(dataclasses.replace(self.options, evidence=(timestep,)), self.defaults)
                errors = one._errors(host, latent, prompts, new, seed)
                self._known |= {keys[text]: errors[:, place] for place, text in enumerate(new)}
            every.append(torch.stack([self._known[keys[text]] for text in sentences], dim=1))
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
        given = (noisy_latent, timesteps, context.tokens)
        digest = hashlib.sha256(self.options.blocks.encode())
        for tensor in given:
            digest.update(tensor.float().cpu().numpy().tobytes())
        key = digest.digest()
        if key in self._seen:
            return self._seen[key]
        levels = levels_of(host.info.unet)
        every = [path for level in levels for path in level.paths]
        probes = super()._probe(
            host, *given[:2], context, every, [path for level in levels[:2] for path in level.paths]
        )
        if len(self._seen) < _KEPT:
            self._seen[key] = probes
        return probes


class _Timed:
    """A method that counts its seconds; of the processor where that computes, which other work leaves alone."""

    def __init__(self, method: Method, host: Host) -> None:
        self.name, self.defaults, self.needs_all_prompts = method.name, method.defaults, method.needs_all_prompts
        self.record, self.check = method.record, method.check
        self._method = method
        self._clock = time.process_time if host.device.type == "cpu" else time.perf_counter
        self.seconds = 0.0

    def probability(self, host: Host, picture: EncodedImage, prompts: Prompts, draw: RandomInputs) -> Tensor:
        start = self._clock()
        found = self._method.probability(host, picture, prompts, draw).cpu()
        self.seconds += self._clock() - start
        return found


def looks_of(samples: Sequence[Sample]) -> list[str]:
    """The looks that occur in samples, in their order."""
    return list(dict.fromkeys(sample.categories["look"][0] for sample in samples))


def ablation_table(rows: Sequence[AblationRow], base: AblationRow, looks: Sequence[str]) -> str:
    """All rows as Markdown; times are those of `base`, which stands first."""
    titles = ["mIoU", *looks, "IoU_FG", "AP", "mIoU at 0.5", "absent: empty", "time"]
    lines = ["| | " + " | ".join(titles) + " |", "|---|" + "---:|" * len(titles)]
    for row in (base, *rows):
        values = [row.numbers.get("miou"), *(row.looks.get(look) for look in looks)]
        values += [row.numbers.get(key) for key in ("fgiou", "ap", "miou_0.5", "empty_0.5")]
        cells = ["" if value is None else "–" if math.isnan(value) else f"{value:.1f}" for value in values]
        ratio = f"{row.seconds / base.seconds:.2f}" if base.seconds else ""
        lines.append(f"| {row.name} | " + " | ".join([*cells, ratio]) + " |")
    return "\n".join(lines)
