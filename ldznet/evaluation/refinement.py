"""What a second look is worth, and what it costs: masks at the image's own size, by the size of things.

Scenes of several sizes, larger than what the network sees. Every scene is segmented twice, in turn, so that the
ratio of the times holds on a machine that does other things too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ldznet.evaluation.runner import Prediction, Scores
from ldznet.hosts.host import Host
from ldznet.methods.method import Method
from ldznet.options import SegmentOptions
from ldznet.segmenter import Segmentation, Segmenter
from ldznet.training.samples import Sample
from ldznet.training.scene_samples import SceneSamples

SIZES = ("small", "medium", "large")  # as scene_samples.py has them


@dataclass
class Refinement:
    """Images of one size, without and with a second look."""

    size: int  # side in pixels
    plain: Scores = field(default_factory=Scores)
    refined: Scores = field(default_factory=Scores)
    seconds: list[float] = field(default_factory=lambda: [0.0, 0.0])  # without and with it

    @property
    def cost(self) -> float:
        """Time with the second look over the time without, the image's first encoding left out."""
        return self.seconds[1] / max(self.seconds[0], 1e-9)

    def numbers(self) -> dict[str, dict[str, float]]:
        """Per size of things, and for all, percent before and after."""
        found = {}
        for name in (*SIZES, "all"):
            parts = [
                scores.clipseg if name == "all" else scores.categories.get(f"size: {name}")
                for scores in (self.plain, self.refined)
            ]
            if parts[0] is None or parts[1] is None or not len(parts[0]):
                continue
            before, after = (part.result() for part in parts if part is not None)
            found[name] = {
                "samples": before.samples,
                "miou": 100 * before.miou.best,
                "miou_refined": 100 * after.miou.best,
                "miou_0.5": 100 * before.miou.at(0.5),
                "miou_0.5_refined": 100 * after.miou.at(0.5),
            }
        return found

    def empty(self) -> tuple[float, float] | None:
        """Percent of the phrases for absent things whose mask at 0.5 is empty, before and after."""
        before, after = (scores.numbers().get("empty_0.5") for scores in (self.plain, self.refined))
        return None if before is None or after is None else (before, after)

    def record(self) -> dict[str, Any]:
        """All of it, fit for JSON."""
        return {"size": self.size, "numbers": self.numbers(), "empty_0.5": self.empty(), "cost": self.cost}


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
    for look in looks:
        samples = SceneSamples(look, scenes, size=size)
        each = len(samples) // scenes
        for number in range(scenes):
            group = [samples[number * each + place] for place in range(each)]
            segmenter.set_image(group[0].image)
            phrases = [sample.phrase for sample in group]
            for turn, scores in enumerate((found.plain, found.refined)):
                start = clock()
                segmentation = segmenter.segment(phrases, SegmentOptions(refine=bool(turn)))
                found.seconds[turn] += clock() - start
                _count(scores, segmentation, group)
            progress(1)
    return found


def _count(scores: Scores, found: Segmentation, group: Sequence[Sample]) -> None:
    for sample, probability in zip(group, found, strict=True):
        scores.update(Prediction(sample, probability, sample.mask))


def table(found: Sequence[Refinement]) -> str:
    """Markdown: mIoU at its best threshold and at 0.5, without -> with the second look."""
    lines = ["| image | things | phrases | mIoU | mIoU at 0.5 | absent: empty | time |", "|---|---|" + "---:|" * 5]
    for one in found:
        for name, part in one.numbers().items():
            cells = [f"{one.size} px", name, f"{part['samples']:.0f}"]
            cells += [f"{part[key]:.1f} -> {part[f'{key}_refined']:.1f}" for key in ("miou", "miou_0.5")]
            empty = one.empty() if name == "all" else None
            cells.append(f"{empty[0]:.0f} -> {empty[1]:.0f}" if empty else "")
            cells.append(f"x {one.cost:.2f}" if name == "all" else "")
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
