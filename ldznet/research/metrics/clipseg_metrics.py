"""CLIPSeg's protocol, by which the paper measures mIoU, IoU_FG and AP.

Nothing here knows of models, files or datasets; shapes are those of counts.py.

Source: Lüddecke and Ecker, CVPR 2022, github.com/timojl/clipseg metrics.py (FixedIntervalMetrics).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ldznet.research.metrics.accumulator import Accumulator, mean_of, to_fixed
from ldznet.research.metrics.counts import BINS, THRESHOLDS, Curve, confusion, histogram, ious_of

_CLASS = "class "  # before the name of a class


@dataclass(frozen=True)
class ClipSegResult:
    """CLIPSeg's measures (metrics.py, FixedIntervalMetrics.value); the paper's mIoU, IoU_FG and AP.

    A pixel is positive where p > t. The 1 in each denominator is the protocol's: a perfect mask of n pixels
    has an IoU of n / (n + 1), and an empty target has 0 whatever is predicted.
    """

    samples: int  # at least 1
    classes: int  # at least 1; a sample without a class is a separate class
    fgiou: Curve  # [0, 1): TP / (1 + TP + FP + FN), counts of all samples together; the paper's IoU_FG
    miou: Curve  # [0, 1): the same inside each class, plain mean over classes; the paper's mIoU
    biniou: Curve  # [0, 1): half of fgiou plus half of TN / (1 + TN + FN + FP); not the paper's mIoU
    ap: float  # about [0, 1]; 0 where the curve is a single point; nan where nothing was predicted
    ap_note: str  # why `ap` is nan, else ""
    precision_recall: tuple[tuple[float, float], ...]  # distinct (recall, precision), sorted; each in [0, 1)
    tp: tuple[int, ...]  # pixels of all samples, at each threshold; so are the next three
    fp: tuple[int, ...]
    fn: tuple[int, ...]
    tn: tuple[int, ...]

    def summary(self) -> dict[str, float]:
        """Return the numbers of CLIPSeg's code, by its names: `ap`, `fgiou_best`, `fgiou_best_t` ..."""
        numbers = {"ap": self.ap}
        for name, curve in (("fgiou", self.fgiou), ("miou", self.miou), ("biniou", self.biniou)):
            numbers |= {f"{name}_best": curve.best, f"{name}_best_t": curve.best_threshold}
            numbers |= {f"{name}_{level}": curve.at(level) for level in (0.1, 0.2, 0.3, 0.5)}
        return numbers


class ClipSegMetrics(Accumulator):
    """CLIPSeg's protocol: `update` with each sample, then `result`."""

    kind = "clipseg"

    def __init__(self, named: bool = True) -> None:
        # For samples without a class the sum of their IoUs, in fixed point; for each class its pixels.
        super().__init__({}, named, pixels=2 * BINS, singles=1, single_ious=len(THRESHOLDS))

    def update(
        self,
        probability: NDArray[Any],
        target: NDArray[Any],
        valid: NDArray[Any] | None = None,
        *,
        sample: str,
        class_id: str | None = None,
    ) -> Curve:
        """Count one sample, and return its own IoU, TP / (1 + TP + FP + FN).

        Counts are summed inside a class before its IoU is computed. Without `class_id` the sample is a separate
        class, as on PhraseCut.
        """
        self._refuse_again([sample])
        pixels = histogram(probability, target, valid)
        ious = ious_of(confusion(pixels))
        self._add("pixels", pixels)
        if class_id is None:
            self._add("singles", [1])
            self._add("single_ious", [to_fixed(iou) for iou in ious])
        else:
            self._add(_CLASS + class_id, pixels)
        self._note(sample)
        return Curve(ious)

    def result(self) -> ClipSegResult:
        """Return the measures of all samples so far."""
        self._refuse_nothing(len(self))
        counts = confusion(self._sums["pixels"])
        fgiou = ious_of(counts)
        background = [tn / (1 + tn + fn + fp) for _, fp, fn, tn in zip(*counts, strict=True)]
        ious = self._sums["single_ious"]
        by_class = [pixels for name, pixels in self._sums.items() if name.startswith(_CLASS)]
        for pixels in by_class:
            ious = [total + to_fixed(iou) for total, iou in zip(ious, ious_of(confusion(pixels)), strict=True)]
        classes = self._sums["singles"][0] + len(by_class)
        ap, points = average_precision(counts.tp, counts.fp, counts.fn)
        return ClipSegResult(
            samples=len(self),
            classes=classes,
            fgiou=Curve(fgiou),
            miou=Curve(tuple(mean_of(total, classes) for total in ious)),
            biniou=Curve(tuple(0.5 * f + 0.5 * b for f, b in zip(fgiou, background, strict=True))),
            ap=ap,
            ap_note="" if points else "No pixel is above 0.02, so there is no precision to average.",
            precision_recall=points,
            **counts._asdict(),
        )


def average_precision(
    tp: Sequence[int], fp: Sequence[int], fn: Sequence[int]
) -> tuple[float, tuple[tuple[float, float], ...]]:
    """Return CLIPSeg's AP from pixel counts at each threshold, and the sorted distinct (recall, precision).

    precision = TP / (1 + TP + FP) and recall = TP / (1 + TP + FN) where anything was predicted; Simpson's rule
    over recall, without extending the curve to recall 0 or 1. Its quirks stay: pairs that occur twice count once;
    pairs of equal recall have the order in which a Python set of all pairs yields them; a single pair gives 0.
    For an even number of pairs SciPy since 1.11 corrects the end in another way (Cartwright's) than before, and
    the installed SciPy decides; with 49 thresholds an even number is rare. Without any pair the original stops
    with an AssertionError; here the AP is nan, because all other measures are still valid.
    """
    from scipy.integrate import simpson

    counts = [(t, p, n) for t, p, n in zip(tp, fp, fn, strict=True) if t + p > 0]
    if not counts:
        return math.nan, ()
    pairs = {(t / (1 + t + n), t / (1 + t + p)) for t, p, n in counts}
    recalls, precisions = zip(*sorted(pairs, key=lambda pair: pair[0]), strict=True)
    return float(simpson(precisions, x=recalls)), tuple(sorted(pairs))
