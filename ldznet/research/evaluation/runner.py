"""Measuring a method on a dataset: samples in, predictions and scores out, one sample at a time.

Every image is stretched to a square, as CLIPSeg's protocol and the paper do, and masks are compared there;
by PhraseCut's own protocol at the image's size, with the mask that it draws itself. A dataset is measured in
blocks of samples; those of one block that follow one another and share an image share its latent. Block b
belongs to process b % world, and what each has counted is kept on disk, so that scores are bit for bit the
same for any number of processes and interruptions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

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
PROTOCOL = 3  # of what `Scores` counts: parts of another cannot be added


@dataclass(frozen=True)
class Prediction:
    """What a method found of one sample, on the square."""

    sample: Sample
    probability: NDArray[np.float32]  # (S, S)
    target: NDArray[np.bool_]  # (S, S)


@dataclass
class Scores:
    """Both protocols over all phrases for things that are there, and how often one that is not gives nothing.

    No names are kept, so that it does not grow with the dataset, only with the kinds of things in it: a reader
    gives no key twice, and `Part` sees to it that no block is added twice.
    """

    clipseg: ClipSegMetrics = field(default_factory=lambda: ClipSegMetrics(named=False))
    phrasecut: PhraseCutMetrics = field(default_factory=lambda: PhraseCutMetrics(named=False))
    absent: EmptyMetrics = field(default_factory=lambda: EmptyMetrics(named=False))
    categories: dict[str, ClipSegMetrics] = field(default_factory=dict)
    own_categories: dict[str, PhraseCutMetrics] = field(default_factory=dict)  # the same by PhraseCut's protocol
    report: Report = field(default_factory=Report)

    def update(self, found: Prediction) -> None:
        """Count one sample; by PhraseCut's protocol at a threshold of 0.5 and the image's size."""
        sample = found.sample
        if not found.target.any() and not sample.mask.any():
            self.absent.update(found.probability, sample=sample.key)
            return
        one = Scores()
        one.clipseg.update(found.probability, found.target, sample=sample.key)
        own = sample.mask if sample.own_mask is None else sample.own_mask
        one.phrasecut.update(to_image_size(found.probability, own.shape) > 0.5, own, sample=sample.key)
        for name in sorted({f"{name}: {value}" for name, some in sample.categories.items() for value in some}):
            one.categories[name], one.own_categories[name] = one.clipseg, one.phrasecut
        self.merge(one)

    def _category(self, name: str) -> tuple[ClipSegMetrics, PhraseCutMetrics]:
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
        """All that was counted, fit for JSON."""
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
        """Go on from what `state_dict` gave."""
        return cls(
            ClipSegMetrics.from_state(state["clipseg"]),
            PhraseCutMetrics.from_state(state["phrasecut"]),
            EmptyMetrics.from_state(state["absent"]),
            {name: ClipSegMetrics.from_state(part) for name, part in state["categories"].items()},
            {name: PhraseCutMetrics.from_state(part) for name, part in state["own_categories"].items()},
            Report.from_state(state["report"]),
        )

    def numbers(self) -> dict[str, float]:
        """The measures of the paper in percent, at their best threshold and at 0.5, and the empty masks."""
        found: dict[str, float] = {}
        if len(self.clipseg):
            clipseg: ClipSegResult = self.clipseg.result()
            phrasecut: PhraseCutResult = self.phrasecut.result()
            found |= {
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
            found |= {"absent": absent.samples, "empty_0.5": 100 * absent.rate.at(0.5)}
        return found


@dataclass(frozen=True)
class Extreme:
    """One of the best or worst samples."""

    iou: float  # at a threshold of 0.5
    index: int  # in the dataset


@dataclass
class Part:
    """What one process has measured so far."""

    scores: Scores = field(default_factory=Scores)
    blocks: set[int] = field(default_factory=set)
    extremes: list[Extreme] = field(default_factory=list)

    def merge(self, other: Part) -> None:
        """Add what another has measured.

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
        """All of it, fit for JSON."""
        return {
            "scores": self.scores.state_dict(),
            "blocks": sorted(self.blocks),
            "extremes": [[one.iou, one.index] for one in self.extremes],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Part:
        """Go on from what `state_dict` gave."""
        extremes = [Extreme(float(iou), int(index)) for iou, index in state["extremes"]]
        return cls(Scores.from_state(state["scores"]), set(state["blocks"]), extremes)


def _outermost(extremes: Iterable[Extreme], each: int = 12) -> list[Extreme]:
    """The worst and the best few, in an order of their own."""
    ordered = sorted(extremes, key=lambda one: (one.iou, one.index))
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
    """Measure the blocks of this process (its rank, how many there are) that are not done; `save` after each."""
    count = min(len(samples), limit or len(samples))
    mine = Part()
    for number in range(process[0], math.ceil(count / block), process[1]):
        if number in done:
            continue
        indices = range(number * block, min(count, (number + 1) * block))
        numbers: dict[str, int] = {}

        def read(indices: range = indices, numbers: dict[str, int] = numbers) -> Iterator[Sample]:
            for index in indices:
                for sample in usable(samples, mine.scores.report, (index,)):
                    numbers[sample.key] = index
                    yield sample

        for found in predict(host, method, read(), size=size):
            mine.scores.update(found)
            if found.target.any():
                extreme = Extreme(intersection_over_union(found), numbers[found.sample.key])
                mine.extremes = _outermost([*mine.extremes, extreme])
        mine.blocks.add(number)
        if save is not None:
            save(mine)
        if progress is not None:
            progress(len(indices))
    return mine


def intersection_over_union(found: Prediction, threshold: float = 0.5) -> float:
    """Of the mask at a threshold, on the square; 1 where nothing was expected and nothing found."""
    mask = found.probability > threshold
    union = int(np.count_nonzero(mask | found.target))
    return int(np.count_nonzero(mask & found.target)) / union if union else 1.0


def predict(
    host: Host,
    method: Method,
    samples: Iterable[Sample],
    *,
    size: int | None = None,
    batch: int = 16,
    seed: int = 0,
) -> Iterator[Prediction]:
    """What a method finds of each sample, with its own timesteps and sentence, averaged over the timesteps."""
    contexts: dict[str, Context] = {}

    def encode(sentences: Sequence[str]) -> Context:
        for text in dict.fromkeys(sentences):
            if text not in contexts:
                while len(contexts) >= 4096:
                    contexts.pop(next(iter(contexts)))
                contexts[text] = host.encode_prompt([text])
        return Context.join([contexts[text] for text in sentences])

    side = size or method.defaults.resolution
    for group in _same_picture(samples, batch):
        squares = [stretch_to_square(sample.image, sample.mask, side) for sample in group]
        pixels = torch.from_numpy(squares[0][0])[None]
        picture = EncodedImage(pixels, host.encode_image(pixels))
        prompts = Prompts(
            tuple(sample.phrase for sample in group), (method.defaults.template,) * len(group), encode
        )
        total = torch.zeros(len(group), side, side)
        for timestep in method.defaults.timesteps:
            noise = torch.randn(picture.latent.shape, generator=torch.Generator().manual_seed(seed))
            draw = RandomInputs(torch.full((len(group),), timestep), noise, seed)
            total += method.probability(host, picture, prompts, draw).cpu()
        probabilities = (total / len(method.defaults.timesteps)).clamp(0, 1).numpy()
        for sample, (_, target), probability in zip(group, squares, probabilities, strict=True):
            yield Prediction(sample, probability, target)


def _same_picture(samples: Iterable[Sample], most: int) -> Iterator[list[Sample]]:
    """Samples that follow one another and share an image, at most so many at once."""
    group: list[Sample] = []
    for sample in samples:
        if group and (not sample.source or sample.source != group[0].source or len(group) == most):
            yield group
            group = []
        group.append(sample)
    if group:
        yield group
