"""Measure a method on a dataset: samples in, predictions and scores out, one sample at a time.

Every image is stretched to a square, as CLIPSeg's protocol and the paper do, and masks are compared there; by
PhraseCut's own protocol they are compared at the image's size, with the mask that it draws itself. A dataset is
measured in blocks of samples; neighbors in a block that have the same image share its latent. Block b belongs to
process b % world, and the counts are stored on disk, so scores have the same bits for any number of processes and
interruptions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ldznet.files import LruCache
from ldznet.hosts.host import Context, Host
from ldznet.images.tensors import to_image_size
from ldznet.methods.method import EncodedImage, Method, Prompts, RandomInputs
from ldznet.research.datasets.network_input import stretch_to_square
from ldznet.research.datasets.sample import Sample
from ldznet.research.datasets.samples import Samples, usable
from ldznet.research.datasets.skip_report import Report
from ldznet.research.metrics.accumulator import MetricError
from ldznet.research.metrics.clipseg_metrics import ClipSegMetrics, ClipSegResult
from ldznet.research.metrics.empty_metrics import EmptyMetrics, EmptyResult
from ldznet.research.metrics.phrasecut_metrics import PhraseCutMetrics, PhraseCutResult

Progress = Callable[[int], None]
PROTOCOL = 3  # version of what `Scores` counts; parts of other versions cannot be added


@dataclass(frozen=True)
class Prediction:
    """A method's answer for one sample, on the square."""

    sample: Sample
    probability: NDArray[np.float32]  # (S, S)
    target: NDArray[np.bool_]  # (S, S)


@dataclass
class Scores:
    """Both protocols over all phrases for present objects, and how often one for an absent object selects nothing.

    No names of samples are stored, so the size grows only with the kinds of objects: a reader gives no key twice,
    and `Part` makes sure that no block is added twice.
    """

    clipseg: ClipSegMetrics = field(default_factory=lambda: ClipSegMetrics(named=False))
    phrasecut: PhraseCutMetrics = field(default_factory=lambda: PhraseCutMetrics(named=False))
    absent: EmptyMetrics = field(default_factory=lambda: EmptyMetrics(named=False))
    categories: dict[str, ClipSegMetrics] = field(default_factory=dict)
    own_categories: dict[str, PhraseCutMetrics] = field(default_factory=dict)  # by PhraseCut's protocol
    report: Report = field(default_factory=Report)

    def update(self, prediction: Prediction) -> None:
        """Count one sample; by PhraseCut's protocol at a threshold of 0.5 and the image's size."""
        sample, probability = prediction.sample, prediction.probability
        # A target may be empty on the square although the image's mask is not; that counts as present.
        if not prediction.target.any() and not sample.mask.any():
            self.absent.update(probability, sample=sample.key)
            return
        # Measured once and merged into the whole and into each category.
        one = Scores()
        one.clipseg.update(probability, prediction.target, sample=sample.key)
        own = sample.mask if sample.own_mask is None else sample.own_mask
        one.phrasecut.update(to_image_size(probability, own.shape) > 0.5, own, sample=sample.key)
        # A set: a word that occurs twice in a phrase counts once.
        for name in sorted({f"{name}: {value}" for name, some in sample.categories.items() for value in some}):
            one.categories[name], one.own_categories[name] = one.clipseg, one.phrasecut
        self.merge(one)

    def _category(self, name: str) -> tuple[ClipSegMetrics, PhraseCutMetrics]:
        """Return the metrics of a category, new ones if it has none yet."""
        return (
            self.categories.setdefault(name, ClipSegMetrics(named=False)),
            self.own_categories.setdefault(name, PhraseCutMetrics(named=False)),
        )

    def merge(self, other: Scores) -> None:
        """Add what another process has counted."""
        self.clipseg.merge(other.clipseg)
        self.phrasecut.merge(other.phrasecut)
        self.absent.merge(other.absent)
        for name, part in other.categories.items():
            clipseg, phrasecut = self._category(name)
            clipseg.merge(part)
            phrasecut.merge(other.own_categories[name])
        self.report.merge(other.report)

    def state_dict(self) -> dict[str, Any]:
        """Return all counts as JSON values."""
        return {
            "clipseg": self.clipseg.state_dict(),
            "phrasecut": self.phrasecut.state_dict(),
            "absent": self.absent.state_dict(),
            "categories": {name: part.state_dict() for name, part in sorted(self.categories.items())},
            "own_categories": {name: part.state_dict() for name, part in sorted(self.own_categories.items())},
            "report": self.report.state_dict(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Scores:
        """Return the object whose `state_dict` this is."""
        return cls(
            ClipSegMetrics.from_state(state["clipseg"]),
            PhraseCutMetrics.from_state(state["phrasecut"]),
            EmptyMetrics.from_state(state["absent"]),
            {name: ClipSegMetrics.from_state(part) for name, part in state["categories"].items()},
            {name: PhraseCutMetrics.from_state(part) for name, part in state["own_categories"].items()},
            Report.from_state(state["report"]),
        )

    def numbers(self) -> dict[str, float]:
        """Return the measures in percent, at the best threshold and at 0.5, and the share of empty masks."""
        numbers: dict[str, float] = {}
        if len(self.clipseg):
            clipseg: ClipSegResult = self.clipseg.result()
            phrasecut: PhraseCutResult = self.phrasecut.result()
            numbers |= {
                "samples": clipseg.samples,
                "miou": 100 * clipseg.miou.best,
                "miou_threshold": clipseg.miou.best_threshold,
                "miou_0.5": 100 * clipseg.miou.at(0.5),
                "fgiou": 100 * clipseg.fgiou.best,
                "fgiou_0.5": 100 * clipseg.fgiou.at(0.5),
                "ap": 100 * clipseg.ap,
                "phrasecut_mean_iou": 100 * phrasecut.mean_iou,
                "phrasecut_cum_iou": 100 * phrasecut.cumulative_iou,
                **{f"phrasecut_above_{level}": 100 * share for level, share in phrasecut.accuracy.items()},
            }
        if len(self.absent):
            absent: EmptyResult = self.absent.result()
            numbers |= {"absent": absent.samples, "empty_0.5": 100 * absent.rate.at(0.5)}
        return numbers


@dataclass(frozen=True)
class Extreme:
    """One of the best or worst samples."""

    iou: float  # at a threshold of 0.5
    index: int  # position in the dataset


@dataclass
class Part:
    """The measurements of one process so far: its blocks, their scores, and the best and worst samples."""

    scores: Scores = field(default_factory=Scores)
    blocks: set[int] = field(default_factory=set)
    extremes: list[Extreme] = field(default_factory=list)

    def merge(self, other: Part) -> None:
        """Add what another process has measured.

        Raises:
            MetricError: a block would count twice.
        """
        if again := self.blocks & other.blocks:
            raise MetricError(
                f"{len(again)} blocks of samples were measured twice, first block {min(again)}: perhaps two "
                "launches wrote into one folder at the same time. Delete its folder parts, and measure again."
            )
        self.scores.merge(other.scores)
        self.blocks |= other.blocks
        self.extremes = _outermost([*self.extremes, *other.extremes])

    def state_dict(self) -> dict[str, Any]:
        """Return the part as JSON values."""
        return {
            "scores": self.scores.state_dict(),
            "blocks": sorted(self.blocks),
            "extremes": [[one.iou, one.index] for one in self.extremes],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Part:
        """Return the object whose `state_dict` this is."""
        extremes = [Extreme(float(iou), int(index)) for iou, index in state["extremes"]]
        return cls(Scores.from_state(state["scores"]), set(state["blocks"]), extremes)


def _outermost(extremes: Iterable[Extreme], each: int = 12) -> list[Extreme]:
    """Return the worst and the best few, sorted."""
    ordered = sorted(extremes, key=lambda extreme: (extreme.iou, extreme.index))
    return ordered if len(ordered) <= 2 * each else [*ordered[:each], *ordered[-each:]]


def measure(
    host: Host,
    method: Method,
    samples: Samples,
    *,
    size: int | None = None,
    limit: int | None = None,
    block: int = 64,
    process: tuple[int, int] = (0, 1),
    done: Set[int] = frozenset(),
    save: Callable[[Part], None] | None = None,
    progress: Progress | None = None,
) -> Part:
    """Measure the blocks of `process` (rank, how many there are) that are not done; call `save` after each."""
    count = min(len(samples), limit or len(samples))
    part = Part()
    for number in range(process[0], math.ceil(count / block), process[1]):
        if number in done:
            continue
        indices = range(number * block, min(count, (number + 1) * block))
        numbers: dict[str, int] = {}

        # Values are bound as defaults, because the generator runs later.
        def read(indices: range = indices, numbers: dict[str, int] = numbers) -> Iterator[Sample]:
            for index in indices:
                for sample in usable(samples, part.scores.report, (index,)):
                    numbers[sample.key] = index
                    yield sample

        for prediction in predict(host, method, read(), size=size):
            part.scores.update(prediction)
            if prediction.target.any():
                extreme = Extreme(intersection_over_union(prediction), numbers[prediction.sample.key])
                part.extremes = _outermost([*part.extremes, extreme])
        part.blocks.add(number)
        if save is not None:
            save(part)
        if progress is not None:
            progress(len(indices))
    return part


def intersection_over_union(prediction: Prediction, threshold: float = 0.5) -> float:
    """Return the IoU of the mask at a threshold, on the square; 1 where target and mask are both empty."""
    mask = prediction.probability > threshold
    union = int(np.count_nonzero(mask | prediction.target))
    return int(np.count_nonzero(mask & prediction.target)) / union if union else 1.0


def predict(
    host: Host,
    method: Method,
    samples: Iterable[Sample],
    *,
    size: int | None = None,
    batch: int = 16,
    seed: int = 0,
) -> Iterator[Prediction]:
    """Yield the method's answer for each sample, with its own sentence, averaged over its own timesteps."""
    cache = LruCache[str, Context](4096)

    def encode(sentences: Sequence[str]) -> Context:
        contexts = {
            text: cache.get(text) or cache.put(text, host.encode_prompt([text]))
            for text in dict.fromkeys(sentences)
        }
        return Context.join([contexts[text] for text in sentences])

    side = size or method.defaults.resolution
    for group in _same_image(samples, batch):
        squares = [stretch_to_square(sample.image, sample.mask, side) for sample in group]
        pixels = torch.from_numpy(squares[0][0])[None]
        encoded = EncodedImage(pixels, host.encode_image(pixels))
        prompts = Prompts(
            tuple(sample.phrase for sample in group), (method.defaults.template,) * len(group), encode
        )
        total = torch.zeros(len(group), side, side)
        for timestep in method.defaults.timesteps:
            # The same noise for every image, so that numbers do not depend on the order.
            noise = torch.randn(encoded.latent.shape, generator=torch.Generator().manual_seed(seed))
            draw = RandomInputs(torch.full((len(group),), timestep), noise, seed)
            total += method.probability(host, encoded, prompts, draw).cpu()
        probabilities = (total / len(method.defaults.timesteps)).clamp(0, 1).numpy()
        for sample, (_, target), probability in zip(group, squares, probabilities, strict=True):
            yield Prediction(sample, probability, target)


def _same_image(samples: Iterable[Sample], most: int) -> Iterator[list[Sample]]:
    """Yield groups of neighbors with the same image, of at most so many samples."""
    group: list[Sample] = []
    for sample in samples:
        if group and (not sample.source or sample.source != group[0].source or len(group) == most):
            yield group
            group = []
        group.append(sample)
    if group:
        yield group
