"""Measure what the second look gains and costs: masks at the image's own size, by the size of objects.

The scenes are larger than what the network sees, and other ones for each artist. Each is segmented alternately
without and with the second look, so that the ratio of the times holds on a busy machine. The result of the tiles
alone is the final one without its patches.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ldznet.hosts.host import Host
from ldznet.methods.method import Method
from ldznet.options import SegmentOptions
from ldznet.research.datasets.sample import Sample
from ldznet.research.evaluation.runner import Prediction, Scores
from ldznet.research.scenes.icon_samples import IconSamples
from ldznet.research.scenes.icons import IconWorld
from ldznet.result import Segmentation
from ldznet.segmenter import Segmenter

SIZES = ("small", "medium", "large")  # as in scenes/icon_samples.py
STAGES = ("first look", "tiles", "tiles and boxes")


@dataclass
class Refinement:
    """Measures of images of one size, after each of STAGES."""

    size: int  # side in pixels
    scores: tuple[Scores, ...] = field(default_factory=lambda: tuple(Scores() for _ in STAGES))
    seconds: list[float] = field(default_factory=lambda: [0.0, 0.0])  # without and with a second look
    passes: list[int] = field(default_factory=lambda: [0, 0])

    @property
    def cost(self) -> float:
        """Return the time with the second look relative to that without; encoding the image is not counted."""
        return self.seconds[1] / max(self.seconds[0], 1e-9)

    @property
    def more_passes(self) -> float:
        """Return the passes through the network with the second look, relative to those without."""
        return self.passes[1] / max(self.passes[0], 1)

    def numbers(self) -> dict[str, dict[str, Any]]:
        """Return percentages after each stage, by size of objects and for all."""
        numbers = {}
        for name in (*SIZES, "all"):
            parts = [
                scores.clipseg if name == "all" else scores.categories.get(f"size: {name}")
                for scores in self.scores
            ]
            results = [part.result() for part in parts if part is not None and len(part)]
            if len(results) == len(STAGES):
                numbers[name] = {
                    "samples": results[0].samples,
                    "miou": [100 * result.miou.best for result in results],
                    "miou_0.5": [100 * result.miou.at(0.5) for result in results],
                }
        return numbers

    def empty(self) -> list[float]:
        """Return the percentage of phrases for absent objects with an empty mask at 0.5, after each stage."""
        return [scores.numbers()["empty_0.5"] for scores in self.scores if len(scores.absent)]

    def record(self) -> dict[str, Any]:
        """Return the measures as JSON values."""
        return {
            "size": self.size,
            "stages": STAGES,
            "numbers": self.numbers(),
            "empty_0.5": self.empty(),
            "cost": self.cost,
            "passes": self.more_passes,
        }


def measure_refinement(
    host: Host,
    method: Method,
    world: IconWorld,
    artists: Sequence[str],
    size: int,
    scenes: int,
    *,
    progress: Callable[[int], None] = lambda _done: None,
) -> Refinement:
    """Segment the scenes of some artists at one size, all phrases of a scene at once."""
    result, segmenter = Refinement(size), Segmenter(host, method)
    # Other programs do not lengthen the processor's time.
    clock = time.process_time if host.device.type == "cpu" else time.perf_counter
    for place, artist in enumerate(artists):
        samples = IconSamples(world, (artist,), scenes, start=place * scenes, size=size)
        each = len(samples) // scenes
        for number in range(scenes):
            group = [samples[number * each + index] for index in range(each)]
            segmenter.set_image(group[0].image)
            phrases = [sample.phrase for sample in group]
            for turn in range(2):
                segmentation = _timed(result, segmenter, phrases, turn, clock)
                # Without its patches the result is that of the tiles alone.
                if turn:
                    _count(result.scores[1], dataclasses.replace(segmentation, patches=()), group)
                _count(result.scores[2 * turn], segmentation, group)
            progress(1)
    return result


def _timed(
    result: Refinement, segmenter: Segmenter, phrases: Sequence[str], turn: int, clock: Callable[[], float]
) -> Segmentation:
    """Segment without (turn 0) or with (turn 1) the second look, and count time and passes."""
    passes = [0]
    start = clock()
    segmentation = segmenter.segment(
        phrases, SegmentOptions(refine=bool(turn)), progress=lambda done, _all: passes.append(done)
    )
    result.seconds[turn] += clock() - start
    result.passes[turn] += passes[-1]
    return segmentation


def _count(scores: Scores, segmentation: Segmentation, group: Sequence[Sample]) -> None:
    """Add the masks of a scene to the scores."""
    for sample, probability in zip(group, segmentation, strict=True):
        scores.update(Prediction(sample, probability, sample.mask))


def refinement_table(refinements: Sequence[Refinement]) -> str:
    """Return a Markdown table of the mIoU at its best threshold and at 0.5, after each stage."""
    lines = ["| image | things | phrases | mIoU | mIoU at 0.5 | absent: empty | passes | time |"]
    lines.append("|---|---|" + "---:|" * 6)
    for refinement in refinements:
        for name, part in refinement.numbers().items():
            cells = [f"{refinement.size} px", name, f"{part['samples']:.0f}"]
            cells += [" -> ".join(f"{value:.1f}" for value in part[key]) for key in ("miou", "miou_0.5")]
            for_all = name == "all"
            cells.append(" -> ".join(f"{value:.0f}" for value in refinement.empty()) if for_all else "")
            cells += [f"x {value:.2f}" if for_all else "" for value in (refinement.more_passes, refinement.cost)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
