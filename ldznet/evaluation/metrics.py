"""The numbers of the paper: CLIPSeg's protocol, PhraseCut's own, and how often nothing gives nothing.

Three accumulators that see one sample at a time and forget it. What they keep are whole numbers (pixel
counts, and sums of IoUs in fixed point, which holds a float exactly), so the order of the samples, and how
they were divided among processes, cannot change a bit of the result. What is kept grows with the dataset by the
names of the samples alone (so that nothing is scored twice; with `named=False` they are only counted, and the
caller sees to that), and by 100 counts for each class that is named.

    probability  (H, W)  float in [0, 1]; compared in float32
    target       (H, W)  bool; True is the thing
    valid        (H, W)  bool; False is not counted

Nothing here knows of models, files or datasets. Which grid the arrays lie on is the caller's: CLIPSeg
stretches both to a square (352 pixels, LD-ZNet 384), PhraseCut measures at the image's own size.

Sources: Lüddecke and Ecker, CVPR 2022, github.com/timojl/clipseg metrics.py (FixedIntervalMetrics); Wu et
al., CVPR 2020, github.com/ChenyunWu/PhraseCutDataset utils/evaluator.py, iou.py, data_transfer.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ldznet.errors import LdznetError, OptionError, ShapeError
from ldznet.mask import Mask, as_mask, as_probability
from ldznet.options import MaskOptions

if TYPE_CHECKING:
    from typing import Self  # Python 3.11

THRESHOLDS: tuple[float, ...] = tuple(np.linspace(0, 1, 51)[1:-1].tolist())  # 0.02, 0.04 ... 0.98
ACCURACY_LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)  # PhraseCut counts tasks whose IoU is above these

_LEVELS = np.array(THRESHOLDS, dtype=np.float32)  # torch compares a float32 tensor with a number in float32
_BINS = len(THRESHOLDS) + 1
# An IoU is 0 or at least 2**-43 (a picture has fewer pixels than that), so 96 bits hold all 53 of its own.
_POINT = 96
_CLASS = "class "  # before the name of a class


class MetricError(LdznetError):
    """There is nothing to measure, or the same thing would be measured twice."""


# Results


@dataclass(frozen=True)
class Curve:
    """One measure at each of the 49 thresholds."""

    values: tuple[float, ...]  # as long as THRESHOLDS, in its order

    @property
    def best(self) -> float:
        """The largest value."""
        return max(self.values)

    @property
    def best_threshold(self) -> float:
        """Where the largest value is reached; the lowest such threshold, as numpy's argmax."""
        return THRESHOLDS[self.values.index(self.best)]

    def at(self, threshold: float) -> float:
        """The value at one of the 49 thresholds, for example 0.5."""
        index = round(threshold * _BINS) - 1 if math.isfinite(threshold) else -1
        if not 0 <= index < len(THRESHOLDS) or abs(THRESHOLDS[index] - threshold) > 1e-9:
            raise OptionError(
                f"The threshold is {threshold}, but the curve holds only 0.02, 0.04 ... 0.98, because CLIPSeg's "
                "protocol measures at these: give one of them."
            )
        return self.values[index]


@dataclass(frozen=True)
class ClipSegResult:
    """CLIPSeg's measures (metrics.py, FixedIntervalMetrics.value); the paper's mIoU, IoU_FG and AP.

    A pixel is positive where p > t. The 1 in each denominator is the protocol's: a perfect mask of n pixels
    has an IoU of n / (n + 1), and an empty target has 0 whatever is predicted.
    """

    samples: int  # at least 1
    classes: int  # at least 1; a sample without a class is a class of its own
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
        """The numbers that CLIPSeg's code returns, by its names: `ap`, `fgiou_best`, `fgiou_best_t` ..."""
        found = {"ap": self.ap}
        for name, curve in (("fgiou", self.fgiou), ("miou", self.miou), ("biniou", self.biniou)):
            found |= {f"{name}_best": curve.best, f"{name}_best_t": curve.best_threshold}
            found |= {f"{name}_{level}": curve.at(level) for level in (0.1, 0.2, 0.3, 0.5)}
        return found


@dataclass(frozen=True)
class TaskScore:
    """One phrase by PhraseCut's protocol (utils/iou.py, iou_polygons_masks)."""

    intersection: int  # pixels
    union: int  # pixels
    iou: float  # [0, 1]: I / U, and 0 where I is 0, so also where nothing is predicted and nothing was there


@dataclass(frozen=True)
class PhraseCutResult:
    """PhraseCut's measures (utils/evaluator.py, analyze_stats); `mean_iou` and `cumulative_iou` of its table."""

    evaluated: int  # tasks with a prediction; at least 1
    missing: int  # tasks without one
    mean_iou: float  # [0, 1]: mean of the evaluated tasks' IoUs
    cumulative_iou: float  # [0, 1]: sum of I / sum of U; nan where all unions are empty
    accuracy: Mapping[float, float]  # level -> [0, 1]: share of the evaluated tasks with IoU > level
    mean_iou_of_all: float  # [0, 1]: mean_iou * evaluated / (evaluated + missing); the original only prints it


@dataclass(frozen=True)
class EmptyResult:
    """How often a phrase for an absent thing selects nothing; a measure of ours (no published source)."""

    samples: int  # at least 1
    area: int  # pixels; a mask with fewer is empty
    rate: Curve  # [0, 1]: share of the samples with an empty mask


# Accumulators


class _Accumulator:
    """The names of the samples, each once, and sums of whole numbers: all that can be added in any order."""

    kind = ""

    def __init__(self, settings: Mapping[str, float], named: bool, **lengths: int) -> None:
        # The arguments of __init__; `named` where it is not the default, as states of before have none.
        self._settings = {**settings, **({} if named else {"named": False})}
        self._named, self._unnamed = named, 0
        self._samples: set[str] = set()
        self._sums = {name: [0] * length for name, length in lengths.items()}

    def __len__(self) -> int:
        return len(self._samples) + self._unnamed

    def __contains__(self, sample: str) -> bool:
        return sample in self._samples

    def merge(self, other: Self) -> None:
        """Add what another process has counted, as if this one had; the order makes no difference."""
        if type(other) is not type(self) or other._settings != self._settings:
            raise MetricError(
                f"A part measured as {other.kind} {other._settings} cannot be added to one measured as "
                f"{self.kind} {self._settings}, because they do not mean the same: measure all parts with the "
                "same options."
            )
        self._refuse_again(other._samples)
        self._samples |= other._samples
        self._unnamed += other._unnamed
        for name, numbers in other._sums.items():
            self._add(name, numbers)

    def state_dict(self) -> dict[str, Any]:
        """All that was counted, fit for JSON; some whole numbers are larger than 64 bits."""
        return {
            "kind": self.kind,
            "settings": dict(self._settings),
            "samples": sorted(self._samples) if self._named else self._unnamed,
            "sums": {name: list(self._sums[name]) for name in sorted(self._sums)},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Go on from what `state_dict` gave."""
        try:
            if state["kind"] != cls.kind:
                raise ValueError(f"its kind is {state['kind']!r}")
            metrics = cls(**state["settings"])
            if metrics._named:
                metrics._samples = set(state["samples"])
            else:
                metrics._unnamed = int(state["samples"])
            if missing := metrics._sums.keys() - state["sums"].keys():
                raise ValueError(f"it has no {min(missing)}")
            for name, numbers in state["sums"].items():
                if any(type(number) is not int or number < 0 for number in numbers):
                    raise ValueError(f"{name} has a number that is no count")
                metrics._add(name, numbers)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MetricError(
                f"What was saved is no state of {cls.kind} metrics ({type(error).__name__}: {error}). The file is "
                "damaged, or belongs to another measurement: delete it and measure again."
            ) from error
        return metrics

    def _add(self, name: str, numbers: Sequence[int]) -> None:
        mine = self._sums.get(name, [0] * len(numbers))
        self._sums[name] = [a + b for a, b in zip(mine, numbers, strict=True)]

    def _note(self, sample: str) -> None:
        if self._named:
            self._samples.add(sample)
        else:
            self._unnamed += 1

    def _refuse_again(self, samples: Iterable[str]) -> None:
        if again := self._samples.intersection(samples):
            raise MetricError(
                f"{len(again)} of the samples would be counted twice, first {min(again)!r}. Either the dataset "
                "names it twice or two processes were given it: skip what is `in` the metrics, and divide the "
                "dataset without padding."
            )

    def _refuse_nothing(self, count: int) -> None:
        if count == 0:
            raise MetricError(
                "There is nothing to measure: 0 samples have a prediction. The dataset is empty, or every sample "
                "was skipped: look at what the report says was skipped."
            )


class ClipSegMetrics(_Accumulator):
    """CLIPSeg's protocol: `update` with each sample, then `result`."""

    kind = "clipseg"

    def __init__(self, named: bool = True) -> None:
        # Samples without a class, and the sum of their IoUs in fixed point; those of a class: its pixels.
        super().__init__({}, named, pixels=2 * _BINS, singles=1, single_ious=len(THRESHOLDS))

    def update(
        self,
        probability: NDArray[Any],
        target: NDArray[Any],
        valid: NDArray[Any] | None = None,
        *,
        sample: str,
        class_id: str | None = None,
    ) -> Curve:
        """Count one sample -> its own IoU, TP / (1 + TP + FP + FN).

        Counts are summed inside a class before its IoU is taken. Without `class_id` the sample is a class of
        its own, as on PhraseCut.
        """
        self._refuse_again([sample])
        pixels = _histogram(probability, target, valid)
        ious = _ious(_confusion(pixels))
        self._add("pixels", pixels)
        if class_id is None:
            self._add("singles", [1])
            self._add("single_ious", [_fixed(iou) for iou in ious])
        else:
            self._add(_CLASS + class_id, pixels)
        self._note(sample)
        return Curve(ious)

    def result(self) -> ClipSegResult:
        """The measures of all that was counted so far."""
        self._refuse_nothing(len(self))
        counts = _confusion(self._sums["pixels"])
        fgiou = _ious(counts)
        background = [tn / (1 + tn + fn + fp) for _, fp, fn, tn in zip(*counts, strict=True)]
        ious = self._sums["single_ious"]
        given = [pixels for name, pixels in self._sums.items() if name.startswith(_CLASS)]
        for pixels in given:
            ious = [total + _fixed(iou) for total, iou in zip(ious, _ious(_confusion(pixels)), strict=True)]
        classes = self._sums["singles"][0] + len(given)
        ap, points = average_precision(counts.tp, counts.fp, counts.fn)
        return ClipSegResult(
            samples=len(self),
            classes=classes,
            fgiou=Curve(fgiou),
            miou=Curve(tuple(_mean(total, classes) for total in ious)),
            biniou=Curve(tuple(0.5 * f + 0.5 * b for f, b in zip(fgiou, background, strict=True))),
            ap=ap,
            ap_note="" if points else "No pixel is above 0.02, so there is no precision to average.",
            precision_recall=points,
            **counts._asdict(),
        )


class PhraseCutMetrics(_Accumulator):
    """PhraseCut's own protocol: `update` with each task, `miss` what has no prediction, then `result`."""

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
        found = _selected(np.asarray(prediction), expected.shape, self._settings["score_threshold"])
        intersection = int(np.count_nonzero(found & expected))
        union = int(np.count_nonzero(found | expected))
        score = TaskScore(intersection, union, intersection / union if intersection else 0.0)
        self._add("intersection", [intersection])
        self._add("union", [union])
        self._add("iou", [_fixed(score.iou)])
        self._add("above", [int(score.iou > level) for level in ACCURACY_LEVELS])
        self._note(sample)
        return score

    def miss(self, sample: str) -> None:
        """Note a task that has no prediction; it stays out of the means, as in the original."""
        self._refuse_again([sample])
        self._add("missing", [1])
        self._note(sample)

    def result(self) -> PhraseCutResult:
        """The measures of all that was counted so far."""
        missing, intersection, union, iou = (
            self._sums[name][0] for name in ("missing", "intersection", "union", "iou")
        )
        evaluated = len(self) - missing
        self._refuse_nothing(evaluated)
        mean = _mean(iou, evaluated)
        return PhraseCutResult(
            evaluated=evaluated,
            missing=missing,
            mean_iou=mean,
            cumulative_iou=intersection / union if union else math.nan,
            accuracy={level: n / evaluated for level, n in zip(ACCURACY_LEVELS, self._sums["above"], strict=True)},
            mean_iou_of_all=mean * evaluated / len(self),
        )


class EmptyMetrics(_Accumulator):
    """How often phrases for absent things select nothing: `update` with each, then `result`."""

    kind = "empty"

    def __init__(self, area: int = 1, named: bool = True) -> None:
        super().__init__({"area": _checked_area(area)}, named, empty=len(THRESHOLDS))

    def update(self, probability: NDArray[Any], *, sample: str) -> None:
        """Count one phrase for what is not in the image: empty if fewer than `area` pixels have p > t."""
        self._refuse_again([sample])
        checked = as_probability(probability)
        selected = _confusion(_histogram(checked, np.ones(checked.shape, bool))).tp
        self._add("empty", [int(pixels < self._settings["area"]) for pixels in selected])
        self._note(sample)

    def result(self) -> EmptyResult:
        """The rate of all that was counted so far."""
        self._refuse_nothing(len(self))
        rate = Curve(tuple(n / len(self) for n in self._sums["empty"]))
        return EmptyResult(samples=len(self), area=int(self._settings["area"]), rate=rate)


def empty_rate(probabilities: Iterable[NDArray[Any]], threshold: float = 0.5, area: int = 1) -> float:
    """The share of maps (H, W) with fewer than `area` pixels of p > threshold, at any one threshold."""
    MaskOptions(threshold=threshold)
    _checked_area(area)
    level = np.float32(threshold)
    empty = [np.count_nonzero(as_probability(map_) > level) < area for map_ in probabilities]
    if not empty:
        raise MetricError("There is no map to take the empty rate of: give at least one.")
    return sum(empty) / len(empty)


def average_precision(
    tp: Sequence[int], fp: Sequence[int], fn: Sequence[int]
) -> tuple[float, tuple[tuple[float, float], ...]]:
    """CLIPSeg's AP from pixel counts at each threshold -> (AP, sorted distinct (recall, precision)).

    precision = TP / (1 + TP + FP) and recall = TP / (1 + TP + FN) where anything was predicted; Simpson's rule
    over recall, without going on to recall 0 or 1. Its quirks are kept: pairs that occur twice count once;
    pairs of equal recall stay in the order in which a Python set of all pairs yields them; one pair gives 0.
    For an even number of pairs SciPy from 1.11 corrects the end in another way than before (Cartwright's), and
    this is SciPy's as installed; of 49 thresholds that is rare. Without any pair the original stops with an
    AssertionError; here the AP is nan, as all other measures are still good.
    """
    from scipy.integrate import simpson

    made = [(t, p, n) for t, p, n in zip(tp, fp, fn, strict=True) if t + p > 0]
    if not made:
        return math.nan, ()
    pairs = {(t / (1 + t + n), t / (1 + t + p)) for t, p, n in made}
    recalls, precisions = zip(*sorted(pairs, key=lambda pair: pair[0]), strict=True)
    return float(simpson(precisions, x=recalls)), tuple(sorted(pairs))


# Counting


class _Confusion(NamedTuple):
    """Pixels at each threshold."""

    tp: tuple[int, ...]
    fp: tuple[int, ...]
    fn: tuple[int, ...]
    tn: tuple[int, ...]


def _histogram(probability: NDArray[Any], target: NDArray[Any], valid: NDArray[Any] | None = None) -> list[int]:
    """-> 2 * 50 counts: of background and then of foreground, the pixels that are above exactly k thresholds."""
    found = as_probability(probability)
    expected = as_mask(target, "target")
    _same_size("target", expected, found.shape)
    if valid is not None:
        counted = as_mask(valid, "valid mask")
        _same_size("valid mask", counted, found.shape)
        found, expected = found[counted], expected[counted]
    passed = np.searchsorted(_LEVELS, found.ravel(), side="left")  # how many t < p
    passed[expected.ravel()] += _BINS
    counts: list[int] = np.bincount(passed, minlength=2 * _BINS).tolist()
    return counts


def _confusion(pixels: Sequence[int]) -> _Confusion:
    counts = np.array(pixels, np.int64).reshape(2, _BINS)
    positive = counts[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]  # (2, 49): above threshold j are all k > j
    negative = counts.sum(axis=1, keepdims=True) - positive
    (tn, fn), (fp, tp) = negative.tolist(), positive.tolist()
    return _Confusion(tuple(tp), tuple(fp), tuple(fn), tuple(tn))


def _ious(counts: _Confusion) -> tuple[float, ...]:
    return tuple(tp / (1 + tp + fp + fn) for tp, fp, fn, _ in zip(*counts, strict=True))


def _fixed(value: float) -> int:
    return int(math.ldexp(value, _POINT))


def _mean(total: int, count: int) -> float:
    """The mean from a sum in fixed point, rounded once."""
    return total / (count << _POINT)


def _selected(prediction: NDArray[Any], size: tuple[int, ...], score_threshold: float) -> Mask:
    if prediction.ndim == 1 and prediction.dtype == np.uint8:
        pixels = math.prod(size)
        if prediction.size != -(-pixels // 8):
            raise ShapeError(
                f"The prediction is {prediction.size} bytes of packed bits, but the image of {size[0]} x "
                f"{size[1]} pixels needs {-(-pixels // 8)}: it belongs to another image, or is cut."
            )
        return np.unpackbits(prediction, count=pixels).reshape(size).astype(bool)
    _same_size("prediction", prediction, size)
    if prediction.dtype == np.bool_:
        return prediction
    if prediction.dtype.kind not in "iuf" or not (prediction >= 0).all():  # NaN is not, either
        raise OptionError(
            f"The prediction ({prediction.dtype}) has values that are not scores of at least 0. PhraseCut counts "
            "what is not zero as selected: give a bool mask, or probabilities and a score_threshold."
        )
    selected: Mask = prediction > score_threshold
    return selected


def _same_size(name: str, array: NDArray[Any], size: tuple[int, ...]) -> None:
    if array.shape != size:
        raise ShapeError(
            f"The {name} has the shape {array.shape}, but what it is compared with has {size} (height, width). "
            "Both must lie on one grid: resize one of them, or check that they belong to the same image."
        )


def _checked_area(area: int) -> int:
    if area < 1:
        raise OptionError(
            f"area is {area}, but a mask is empty if it has fewer pixels, so it must be at least 1 (default 1)."
        )
    return area


# Polygons to masks


@dataclass(frozen=True)
class PolygonFault:
    """A polygon that is no proper outline, and what became of it."""

    index: int  # its place in the list, from 0
    fault: str  # what is wrong with it, as the end of the sentence "polygon 3 ..."
    drawn: bool  # whether it left any pixel, as the original code would draw it

    def __str__(self) -> str:
        return f"polygon {self.index} {self.fault} ({'drawn' if self.drawn else 'left out'})"


@dataclass(frozen=True)
class Raster:
    """The union of polygons, and which of them are degenerate."""

    mask: Mask  # (H, W)
    faults: tuple[PolygonFault, ...]  # at most one for each polygon, in their order


Polygons = Sequence[Sequence[Sequence[float]]]  # polygon, point, (x, y) in pixels
_Points = list[tuple[float, float]]


def rasterize_pillow(polygons: Polygons, size: tuple[int, int]) -> Raster:
    """PhraseCut's mask (utils/data_transfer.py, polygons_to_mask): Pillow, the outline included.

    Coordinates are cut to whole pixels by int(); polygons of fewer than 2 points are skipped; the others are
    drawn even where they are degenerate. PhraseCut's `Polygons` are lists of such lists, one for each instance.
    `size` is (height, width).
    """

    def draw(points: _Points) -> Mask:
        canvas = Image.new("L", (size[1], size[0]))
        ImageDraw.Draw(canvas).polygon(points, outline=1, fill=1)
        return np.array(canvas) > 0

    return _rasterize(polygons, size, draw, least=2, whole=True)


def rasterize_skimage(polygons: Polygons, size: tuple[int, int]) -> Raster:
    """CLIPSeg's and LD-ZNet's mask (datasets/phrasecut.py): `skimage.draw.polygon2mask`, coordinates as they are.

    Its masks are a little smaller than Pillow's. Where the original stops, at a polygon without points or a
    phrase without polygons, there is a fault or an empty mask. `size` is (height, width).
    """
    from skimage.draw import polygon2mask

    def draw(points: _Points) -> Mask:
        drawn: Mask = polygon2mask(size, [(y, x) for x, y in points])
        return drawn

    return _rasterize(polygons, size, draw, least=1, whole=False)


def _rasterize(
    polygons: Polygons, size: tuple[int, int], draw: Callable[[_Points], Mask], *, least: int, whole: bool
) -> Raster:
    if min(size) < 1:
        raise ShapeError(
            f"The size is {size} (height, width), but an image has at least one pixel each way: check the "
            "annotations."
        )
    mask = np.zeros(size, bool)
    faults = []
    for index, polygon in enumerate(polygons):
        drawn, fault = False, "is not a list of points [x, y]"
        if (points := _points(polygon)) is not None:
            fault = "has coordinates that are not finite"
            if all(math.isfinite(value) for point in points for value in point):
                if whole:
                    points = [(int(x), int(y)) for x, y in points]
                fault = "" if len(points) >= 3 else f"has {len(points)} of at least 3 points"
                if len(points) >= least:
                    part = draw(points)
                    mask |= part
                    drawn = bool(part.any())
                    fault = fault or (
                        "encloses no area" if _is_flat(points) else "" if drawn else "covers no pixel"
                    )
        if fault:
            faults.append(PolygonFault(index, fault, drawn))
    return Raster(mask, tuple(faults))


def _points(polygon: object) -> _Points | None:
    """The points, or None where these are no points."""
    try:
        return [(float(x), float(y)) for x, y in polygon]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return None


def _is_flat(points: _Points) -> bool:
    """Whether all points lie on one line."""
    x0, y0 = points[0]
    dx, dy = next(((x - x0, y - y0) for x, y in points if (x, y) != (x0, y0)), (0.0, 0.0))
    return all((x - x0) * dy == (y - y0) * dx for x, y in points)
