"""What a second look is worth, and what it costs: masks at the image's own size, by the size of things.

Scenes of several sizes, larger than what the network sees, other ones in each look. Every scene is segmented
twice, in turn, so that the ratio of the times holds on a machine that does other things too; what the tiles alone
are worth is what was found without the patches.
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
from ldznet.research.scenes.samples import SceneSamples
from ldznet.result import Segmentation
from ldznet.segmenter import Segmenter

SIZES = ("small", "medium", "large")  # as scene_samples.py has them
STAGES = ("first look", "tiles", "tiles and boxes")


@dataclass
class Refinement:
    """Images of one size, after each of STAGES."""

    size: int  # side in pixels
    scores: tuple[Scores, ...] = field(default_factory=lambda: tuple(Scores() for _ in STAGES))
    seconds: list[float] = field(default_factory=lambda: [0.0, 0.0])  # without and with a second look
    passes: list[int] = field(default_factory=lambda: [0, 0])

    @property
    def cost(self) -> float:
        """Time with the second look over the time without, the image's first encoding left out."""
        return self.seconds[1] / max(self.seconds[0], 1e-9)

    @property
    def more_passes(self) -> float:
        """Passes through the network with the second look over those without."""
        return self.passes[1] / max(self.passes[0], 1)

    def numbers(self) -> dict[str, dict[str, Any]]:
        """Per size of things, and for all, percent after each stage."""
        found = {}
        for name in (*SIZES, "all"):
            parts = [one.clipseg if name == "all" else one.categories.get(f"size: {name}") for one in self.scores]
            results = [part.result() for part in parts if part is not None and len(part)]
            if len(results) == len(STAGES):
                found[name] = {
                    "samples": results[0].samples,
                    "miou": [100 * result.miou.best for result in results],
                    "miou_0.5": [100 * result.miou.at(0.5) for result in results],
                }
        return found

    def empty(self) -> list[float]:
        """Percent of the phrases for absent things whose mask at 0.5 is empty, after each stage."""
        return [one.numbers()["empty_0.5"] for one in self.scores if len(one.absent)]

    def record(self) -> dict[str, Any]:
        """All of it, fit for JSON."""
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
    looks: Sequence[str],
    size: int,
    scenes: int,
    *,
    progress: Callable[[int], None] = lambda _done: None,
) -> Refinement:
    """Segment the scenes of some looks at one size, all phrases of a scene at once."""
    found, segmenter = Refinement(size), Segmenter(host, method)
    clock = time.process_time if host.device.type == "cpu" else time.perf_counter
    for place, look in enumerate(looks):
        samples = SceneSamples(look, scenes, start=place * scenes, size=size)
        each = len(samples) // scenes
        for number in range(scenes):
            group = [samples[number * each + index] for index in range(each)]
            segmenter.set_image(group[0].image)
            phrases = [sample.phrase for sample in group]
            for turn in range(2):
                segmentation = _timed(found, segmenter, phrases, turn, clock)
                if turn:
                    _count(found.scores[1], dataclasses.replace(segmentation, patches=()), group)
                _count(found.scores[2 * turn], segmentation, group)
            progress(1)
    return found


def _timed(
    found: Refinement, segmenter: Segmenter, phrases: Sequence[str], turn: int, clock: Callable[[], float]
) -> Segmentation:
    """Segment without (0) or with (1) a second look, and count what it takes."""
    made = [0]
    start = clock()
    segmentation = segmenter.segment(
        phrases, SegmentOptions(refine=bool(turn)), progress=lambda done, _all: made.append(done)
    )
    found.seconds[turn] += clock() - start
    found.passes[turn] += made[-1]
    return segmentation


def _count(scores: Scores, found: Segmentation, group: Sequence[Sample]) -> None:
    for sample, probability in zip(group, found, strict=True):
        scores.update(Prediction(sample, probability, sample.mask))


def refinement_table(found: Sequence[Refinement]) -> str:
    """Markdown: mIoU at its best threshold and at 0.5, after each stage."""
    lines = ["| image | things | phrases | mIoU | mIoU at 0.5 | absent: empty | passes | time |"]
    lines.append("|---|---|" + "---:|" * 6)
    for one in found:
        for name, part in one.numbers().items():
            cells = [f"{one.size} px", name, f"{part['samples']:.0f}"]
            cells += [" -> ".join(f"{value:.1f}" for value in part[key]) for key in ("miou", "miou_0.5")]
            for_all = name == "all"
            cells.append(" -> ".join(f"{value:.0f}" for value in one.empty()) if for_all else "")
            cells += [f"x {value:.2f}" if for_all else "" for value in (one.more_passes, one.cost)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
