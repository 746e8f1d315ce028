"""PhraseCut's own protocol: masks compared at the image's own size, phrase by phrase.

Nothing here knows of models, files or datasets.

    prediction  (H, W)  bool, or scores of at least 0; or packed bits
    target      (H, W)  bool; True is the object

Source: Wu et al., CVPR 2020, github.com/ChenyunWu/PhraseCutDataset utils/evaluator.py, iou.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldznet.errors import OptionError, ShapeError
from ldznet.masks.checks import Mask, as_mask
from ldznet.research.metrics.accumulator import Accumulator, mean_of, to_fixed
from ldznet.research.metrics.counts import require_same_size

ACCURACY_LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)  # tasks are counted whose IoU is above these


@dataclass(frozen=True)
class TaskScore:
    """One phrase by PhraseCut's protocol (utils/iou.py, iou_polygons_masks)."""

    intersection: int  # pixels
    union: int  # pixels
    iou: float  # [0, 1]: I / U, and 0 where I is 0, even if target and prediction are both empty


@dataclass(frozen=True)
class PhraseCutResult:
    """PhraseCut's measures (utils/evaluator.py, analyze_stats); `mean_iou` and `cumulative_iou` of its table."""

    evaluated: int  # tasks with a prediction; at least 1
    missing: int  # tasks without one
    mean_iou: float  # [0, 1]: mean of the evaluated tasks' IoUs
    cumulative_iou: float  # [0, 1]: sum of I / sum of U; nan where all unions are empty
    accuracy: Mapping[float, float]  # level -> [0, 1]: share of the evaluated tasks with IoU > level
    mean_iou_of_all: float  # [0, 1]: mean_iou * evaluated / (evaluated + missing); the original only prints it


class PhraseCutMetrics(Accumulator):
    """PhraseCut's own protocol: `update` with each task, `miss` tasks without a prediction, then `result`."""

    kind = "phrasecut"

    def __init__(self, score_threshold: float = 0.0, named: bool = True) -> None:
        if not 0 <= score_threshold < math.inf:
            raise OptionError(
                f"score_threshold is {score_threshold}, but a score is at least 0: give 0 for all pixels that are "
                "not zero (default), or a number above which a pixel counts."
            )
        # The sum of the IoUs is in fixed point; `above` counts tasks for each of ACCURACY_LEVELS.
        super().__init__(
            {"score_threshold": score_threshold},
            named,
            missing=1,
            intersection=1,
            union=1,
            iou=1,
            above=len(ACCURACY_LEVELS),
        )

    def update(self, prediction: NDArray[Any], target: NDArray[Any], *, sample: str) -> TaskScore:
        """Count one task.

        `prediction` is (H, W), bool or scores of at least 0, of which the nonzero ones count (with a
        `score_threshold` above 0, those above it); or (ceil(H * W / 8),) uint8, the mask as packed bits.
        """
        self._refuse_again([sample])
        expected = as_mask(target, "target")
        selected = _selected(np.asarray(prediction), expected.shape, self._settings["score_threshold"])
        intersection = int(np.count_nonzero(selected & expected))
        union = int(np.count_nonzero(selected | expected))
        score = TaskScore(intersection, union, intersection / union if intersection else 0.0)
        self._add("intersection", [intersection])
        self._add("union", [union])
        self._add("iou", [to_fixed(score.iou)])
        self._add("above", [int(score.iou > level) for level in ACCURACY_LEVELS])
        self._note(sample)
        return score

    def miss(self, sample: str) -> None:
        """Count a task without a prediction; it is not part of the means, as in the original."""
        self._refuse_again([sample])
        self._add("missing", [1])
        self._note(sample)

    def result(self) -> PhraseCutResult:
        """Return the measures of all tasks so far."""
        missing, intersection, union, iou = (
            self._sums[name][0] for name in ("missing", "intersection", "union", "iou")
        )
        evaluated = len(self) - missing
        self._refuse_nothing(evaluated)
        mean = mean_of(iou, evaluated)
        return PhraseCutResult(
            evaluated=evaluated,
            missing=missing,
            mean_iou=mean,
            cumulative_iou=intersection / union if union else math.nan,
            accuracy={level: n / evaluated for level, n in zip(ACCURACY_LEVELS, self._sums["above"], strict=True)},
            mean_iou_of_all=mean * evaluated / len(self),
        )


def _selected(prediction: NDArray[Any], size: tuple[int, ...], score_threshold: float) -> Mask:
    """Return the mask of a prediction: bool, scores, or packed bits."""
    if prediction.ndim == 1 and prediction.dtype == np.uint8:
        pixels = math.prod(size)
        if prediction.size != -(-pixels // 8):
            raise ShapeError(
                f"The prediction is {prediction.size} bytes of packed bits, but the image of {size[0]} x "
                f"{size[1]} pixels needs {-(-pixels // 8)}: it belongs to another image, or is incomplete."
            )
        return np.unpackbits(prediction, count=pixels).reshape(size).astype(bool)
    require_same_size("prediction", prediction, size)
    if prediction.dtype == np.bool_:
        return prediction
    if prediction.dtype.kind not in "iuf" or not (prediction >= 0).all():  # false for NaN, too
        raise OptionError(
            f"The prediction ({prediction.dtype}) has values that are not scores of at least 0. PhraseCut counts "
            "every nonzero pixel as selected: give a bool mask, or probabilities and a score_threshold."
        )
    selected: Mask = prediction > score_threshold
    return selected
