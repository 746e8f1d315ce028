"""Both published protocols against what the published codes returned, and against slow versions in plain loops."""

import json
import math
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from ldznet.errors import OptionError, ShapeError
from ldznet.research.datasets.polygons import rasterize_pillow, rasterize_skimage
from ldznet.research.metrics.accumulator import MetricError
from ldznet.research.metrics.clipseg_metrics import ClipSegMetrics, average_precision
from ldznet.research.metrics.counts import THRESHOLDS, Curve
from ldznet.research.metrics.empty_metrics import EmptyMetrics, empty_rate
from ldznet.research.metrics.phrasecut_metrics import ACCURACY_LEVELS, PhraseCutMetrics

DATA = Path(__file__).parents[2] / "data"
RECORDED = json.loads((DATA / "metrics_cases.json").read_text())
EXACT = 1e-15  # means are summed in another order than numpy's
BEFORE_SCIPY_1_11 = {"c15_resize_pred": 0.3814545589578798}  # the only case where the AP depends on SciPy


@pytest.fixture(scope="session")
def arrays():
    with np.load(DATA / "metrics_cases.npz") as file:
        return dict(file)


# CLIPSeg


def clipseg_samples(arrays, case):
    """The recorded predictions as probabilities, targets, valid masks and class ids, one sample at a time."""
    options = RECORDED["clipseg"][case]["kwargs"]
    for batch in range(RECORDED["clipseg"][case]["batches"]):
        found = torch.from_numpy(arrays[f"{case}/pred{batch}"])
        target = arrays[f"{case}/gt{batch}"][:, 0] > 0
        valid = arrays.get(f"{case}/valid{batch}")
        if options["sigmoid"]:
            found = torch.sigmoid(found)
        if options.get("resize_pred"):
            found = functional.interpolate(found, target.shape[-2:], mode="bilinear", align_corners=True)
        for index, class_id in enumerate(arrays[f"{case}/cls{batch}"].tolist()):
            mask = None if valid is None else valid[index, 0] > 0
            yield found[index, 0].numpy(), target[index], mask, str(class_id)


@pytest.fixture(params=RECORDED["clipseg"])
def clipseg_case(request, arrays):
    """-> name, recorded result, ours."""
    metrics = ClipSegMetrics()
    for index, (found, target, valid, class_id) in enumerate(clipseg_samples(arrays, request.param)):
        metrics.update(found, target, valid, sample=str(index), class_id=class_id)
    return request.param, RECORDED["clipseg"][request.param]["result"], metrics.result()


def test_the_thresholds_are_the_recorded_ones():
    assert RECORDED["thresholds"] == list(THRESHOLDS)


def test_counts_are_the_recorded_ones(clipseg_case):
    _, recorded, result = clipseg_case

    for name in ("tp", "fp", "fn", "tn"):
        assert list(getattr(result, name)) == recorded["summed"][name]


def test_curves_are_the_recorded_ones(clipseg_case):
    _, recorded, result = clipseg_case

    assert list(result.fgiou.values) == recorded["curves"]["fgiou"]
    assert list(result.biniou.values) == recorded["curves"]["biniou"]
    assert result.miou.values == pytest.approx(recorded["curves"]["miou"], rel=0, abs=EXACT)


def test_the_summary_is_the_recorded_one(clipseg_case):
    _, recorded, result = clipseg_case
    summary = result.summary()

    assert summary.pop("ap") == pytest.approx(recorded["ap_scipy_1.17.1"], rel=0, abs=1e-14)
    assert summary == pytest.approx({name: recorded[name] for name in summary}, rel=0, abs=EXACT)
    assert {name for name in recorded if name.split("_")[0] in ("fgiou", "miou", "biniou")} == set(summary)


def test_the_recall_and_precision_are_the_recorded_ones(clipseg_case):
    _, recorded, result = clipseg_case

    assert [list(pair) for pair in result.precision_recall] == recorded["pr_curve"]


def test_the_ap_is_that_of_the_newer_scipy(clipseg_case):
    name, recorded, result = clipseg_case

    assert recorded["ap_scipy_1.10.1"] == BEFORE_SCIPY_1_11.get(name, recorded["ap_scipy_1.17.1"])
    if name in BEFORE_SCIPY_1_11:
        assert abs(result.ap - BEFORE_SCIPY_1_11[name]) > 0.001


@pytest.mark.parametrize("case", RECORDED["clipseg"])
def test_a_sample_without_a_class_is_a_class_of_its_own(arrays, case):
    samples = list(clipseg_samples(arrays, case))
    without, named = ClipSegMetrics(), ClipSegMetrics()
    for index, (found, target, valid, _) in enumerate(samples):
        without.update(found, target, valid, sample=str(index))
        named.update(found, target, valid, sample=str(index), class_id=str(index))

    assert without.result() == named.result()
    assert without.result().classes == len(samples)


def grid(*rows):
    return np.array([[letter == "#" for letter in row] for row in rows])


FIRST = (grid(".##.", ".##.", "....", "...."), grid("##..", "##..", "....", "...."))  # prediction, target
SECOND = (grid("....", "....", "....", "...#"), grid("....", "....", "....", "...#"))


def test_the_first_tiny_example():
    clipseg, phrasecut = ClipSegMetrics(), PhraseCutMetrics()
    # as recorded (x01): 0.9 inside and 0.1 outside
    ours = [
        clipseg.update(np.where(mask, 0.9, 0.1).astype(np.float32), target, sample=name).at(0.5)
        for name, (mask, target) in (("1", FIRST), ("2", SECOND))
    ]
    theirs = [phrasecut.update(*FIRST, sample="1"), phrasecut.update(*SECOND, sample="2")]

    assert ours == [2 / 7, 1 / 2]
    assert clipseg.result().miou.at(0.5) == pytest.approx(0.392857, abs=1e-6)
    assert clipseg.result().fgiou.at(0.5) == 3 / 8
    assert clipseg.result().biniou.at(0.5) == pytest.approx(0.604167, abs=1e-6)
    assert clipseg.result().ap == pytest.approx(0.108586, abs=1e-6)
    assert [(score.intersection, score.union, score.iou) for score in theirs] == [(2, 6, 1 / 3), (1, 1, 1.0)]
    assert phrasecut.result().mean_iou == pytest.approx(2 / 3, rel=0, abs=EXACT)
    assert phrasecut.result().cumulative_iou == 3 / 7


def test_the_second_tiny_example_one_pixel_each_all_found():
    metrics = ClipSegMetrics()
    for index in range(3):
        target = np.zeros((12, 16), bool)
        target[index, index + 4] = True
        metrics.update(np.where(target, 0.97, 0.12).astype(np.float32), target, sample=str(index))
    result = metrics.result()

    assert (result.fgiou.at(0.5), result.miou.at(0.5), result.ap) == (0.75, 0.5, 0.0)
    assert result.biniou.at(0.5) == pytest.approx(0.874129, abs=1e-6)


def test_a_pixel_at_the_threshold_is_not_positive_though_float32_has_rounded_it_up():
    assert float(np.float32(0.1)) > 0.1
    probability = np.array([[0.1, np.nextafter(np.float32(0.1), np.float32(1))]], np.float32)

    metrics = ClipSegMetrics()
    metrics.update(probability, np.ones((1, 2), bool), sample="a")

    assert metrics.result().tp[4] == 1  # 0.1
    assert metrics.result().tp[3] == 2  # 0.08


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_every_threshold_parts_its_neighbours_as_torch_does(threshold):
    middle = np.float32(threshold)
    probability = np.array([[np.nextafter(middle, np.float32(0)), middle, np.nextafter(middle, np.float32(1))]])
    metrics = ClipSegMetrics()
    metrics.update(probability, np.ones((1, 3), bool), sample="a")

    expected = [int((torch.from_numpy(probability) > level).sum()) for level in np.linspace(0, 1, 51)[1:-1]]
    assert list(metrics.result().tp) == expected


def random_samples(seed, count=9):
    """Of every kind: thresholds hit exactly, empty targets, masks without a valid pixel, several sizes."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        size = (int(rng.integers(1, 9)), int(rng.integers(9, 20)))
        target = rng.random(size) < (0, 0.1, 0.5, 1)[index % 4]
        probability = (0.6 * rng.random(size) + 0.4 * target).astype(np.float32)
        if index % 2:
            probability = (np.round(probability * 50) / 50).astype(np.float32)
        valid = (None, rng.random(size) < 0.7, np.zeros(size, bool))[index % 3 if index % 5 else 0]
        yield f"sample {index:02}", probability, target, valid, (None, "dog", "cat")[int(rng.integers(3))]


def slow_clipseg(samples):
    """The protocol as METRICS.md says it, all in memory -> fgiou, miou, biniou at each threshold, and the AP."""
    pooled, per_class = [], []
    for level in np.linspace(0, 1, 51)[1:-1].astype(np.float32):
        classes = {}
        for name, probability, target, valid, class_id in samples:
            counts = classes.setdefault((class_id, None if class_id else name), [0, 0, 0, 0])
            for place in np.ndindex(target.shape):
                if valid is None or valid[place]:
                    counts[2 * bool(probability[place] > level) + bool(target[place])] += 1
        per_class.append([tp / (1 + tp + fp + fn) for _, fn, fp, tp in classes.values()])
        pooled.append([sum(column) for column in zip(*classes.values(), strict=True)])
    fgiou = [tp / (1 + tp + fp + fn) for tn, fn, fp, tp in pooled]
    other = [tn / (1 + tn + fp + fn) for tn, fn, fp, tp in pooled]
    miou = [np.mean(ious) for ious in per_class]
    biniou = [(f + o) / 2 for f, o in zip(fgiou, other, strict=True)]
    return fgiou, miou, biniou, [(tp, fp, fn) for _, fn, fp, tp in pooled]


@pytest.mark.parametrize("seed", range(6))
def test_streaming_equals_the_slow_version(seed):
    samples = list(random_samples(seed))
    metrics = ClipSegMetrics()
    for name, probability, target, valid, class_id in samples:
        metrics.update(probability, target, valid, sample=name, class_id=class_id)
    result = metrics.result()
    fgiou, miou, biniou, counts = slow_clipseg(samples)

    assert list(zip(result.tp, result.fp, result.fn, strict=True)) == counts
    assert list(result.fgiou.values) == fgiou
    assert result.miou.values == pytest.approx(miou, rel=0, abs=EXACT)
    assert result.biniou.values == pytest.approx(biniou, rel=0, abs=EXACT)


def test_the_mean_is_the_exact_mean_of_the_rounded_ious():
    rng = np.random.default_rng(0)
    metrics = ClipSegMetrics()
    ious = [
        metrics.update(rng.random((5, 7), np.float32), rng.random((5, 7)) < 0.5, sample=str(index)).at(0.5)
        for index in range(101)
    ]

    assert metrics.result().miou.at(0.5) == math.fsum(ious) / 101


def test_nothing_predicted_gives_no_ap_and_says_why():
    metrics = ClipSegMetrics()
    metrics.update(np.full((3, 5), 0.02, np.float32), np.ones((3, 5), bool), sample="a")
    result = metrics.result()

    assert math.isnan(result.ap)
    assert result.ap_note == "No pixel is above 0.02, so there is no precision to average."
    assert result.precision_recall == ()
    assert (result.fgiou.best, result.fgiou.best_threshold, result.miou.best) == (0, 0.02, 0)


def test_an_empty_target_counts_as_an_iou_of_0_even_where_nothing_is_predicted():
    metrics = ClipSegMetrics()
    empty = np.zeros((3, 5), bool)
    metrics.update(empty.astype(np.float32), empty, sample="absent")
    metrics.update(np.ones((3, 5), np.float32), ~empty, sample="all")

    assert metrics.result().miou.at(0.5) == (0 + 15 / 16) / 2


def test_equal_recalls_keep_the_order_of_a_set():
    # three precisions at one recall: only the trapezium before or after them depends on their order
    tp, fp, fn = (8, 8, 8, 4), (40, 20, 10, 1), (2, 2, 2, 6)
    pairs = {(t / (1 + t + n), t / (1 + t + p)) for t, p, n in zip(tp, fp, fn, strict=True)}
    recalls, precisions = zip(*sorted(pairs, key=lambda pair: pair[0]), strict=True)
    from scipy.integrate import simpson

    ap, points = average_precision(tp, fp, fn)

    assert ap == float(simpson(precisions, x=recalls))
    assert points == tuple(sorted(pairs))


# PhraseCut


def phrasecut_tasks(case):
    for image in RECORDED["phrasecut"][case]["images"]:
        for task in image["tasks"]:
            polygons = [polygon for instance in task["Polygons"] for polygon in instance]
            yield task["id"], polygons, (image["h"], image["w"])


@pytest.mark.parametrize("case", RECORDED["phrasecut"])
def test_phrasecut_is_the_recorded_one(arrays, case):
    recorded = RECORDED["phrasecut"][case]["result"]
    metrics = PhraseCutMetrics(RECORDED["phrasecut"][case]["mask_score_thresh"])
    scores = {
        task: metrics.update(arrays[f"{case}/{task}/pred"], rasterize_pillow(polygons, size).mask, sample=task)
        for task, polygons, size in phrasecut_tasks(case)
    }
    result = metrics.result()

    assert {task: score.iou for task, score in scores.items()} == recorded["per_task_iou"]
    assert [score.intersection for score in scores.values()] == recorded["i"]
    assert [score.union for score in scores.values()] == recorded["u"]
    assert result.mean_iou == pytest.approx(recorded["mean_mask_iou"], rel=0, abs=EXACT)
    assert result.cumulative_iou == recorded["cum_mask_iou"]
    assert {str(level): share for level, share in result.accuracy.items()} == recorded["pred_mask_acc"]
    assert (result.evaluated, result.evaluated + result.missing) == (recorded["evaluated"], recorded["task_num"])
    assert result.mean_iou_of_all == result.mean_iou


@pytest.mark.parametrize("case", RECORDED["phrasecut"])
def test_both_rasterisers_draw_the_recorded_masks(arrays, case):
    for task, polygons, size in phrasecut_tasks(case):
        pixels = RECORDED["phrasecut"][case]["result"]["gt_pixels"][task]
        pillow, skimage = rasterize_pillow(polygons, size), rasterize_skimage(polygons, size)

        np.testing.assert_array_equal(pillow.mask, arrays[f"{case}/{task}/gt_pil"])
        np.testing.assert_array_equal(skimage.mask, arrays[f"{case}/{task}/gt_skimage"])
        assert pillow.mask.sum() == pixels["pillow_phrasecut"]
        assert skimage.mask.sum() == pixels["skimage_clipseg_ldznet"]
        between = (pillow.mask & skimage.mask).sum() / (pillow.mask | skimage.mask).sum()
        assert between == pixels["iou_between"]


def test_packed_bits_are_the_mask():
    mask, target = np.random.default_rng(0).random((2, 5, 7)) < 0.5

    packed = PhraseCutMetrics().update(np.packbits(mask), target, sample="a")

    assert packed == PhraseCutMetrics().update(mask, target, sample="a")


def test_scores_count_above_the_score_threshold():
    scores = np.array([[0.0, 0.2, 0.5, 0.7]])
    target = np.array([[False, False, True, True]])

    assert PhraseCutMetrics().update(scores, target, sample="a").iou == 2 / 3
    assert PhraseCutMetrics(0.5).update(scores, target, sample="a").iou == 1 / 2


def test_nothing_predicted_where_nothing_was_is_an_iou_of_0():
    metrics = PhraseCutMetrics()
    empty = np.zeros((3, 5), bool)

    assert metrics.update(empty, empty, sample="a").iou == 0
    assert metrics.result().mean_iou == 0
    assert math.isnan(metrics.result().cumulative_iou)


def test_an_accuracy_counts_ious_above_its_level_and_not_at_it():
    target = grid("#####.....")
    metrics = PhraseCutMetrics()
    for index, mask in enumerate([grid("##########"), grid("####......"), grid("#####.....")]):
        metrics.update(mask, target, sample=str(index))  # 0.5, 0.8, 1

    assert metrics.result().accuracy == {0.5: 2 / 3, 0.6: 2 / 3, 0.7: 2 / 3, 0.8: 1 / 3, 0.9: 1 / 3}


def test_tasks_without_a_prediction_stay_out_of_the_mean():
    metrics = PhraseCutMetrics()
    metrics.update(*SECOND, sample="found")
    metrics.miss("lost")
    result = metrics.result()

    assert (result.evaluated, result.missing, result.mean_iou, result.mean_iou_of_all) == (1, 1, 1.0, 0.5)
    assert "lost" in metrics


# Absent things


def test_the_empty_rate_counts_masks_with_fewer_pixels_than_the_area():
    maps = [np.full((3, 5), 0.1, np.float32) for _ in range(4)]
    maps[1][0, 0] = 0.9
    maps[2][0, :3] = 0.9
    one, three = EmptyMetrics(), EmptyMetrics(area=3)
    for index, probability in enumerate(maps):
        one.update(probability, sample=str(index))
        three.update(probability, sample=str(index))

    assert [one.result().rate.at(level) for level in (0.08, 0.1, 0.5, 0.92)] == [0, 0.5, 0.5, 1]
    assert [three.result().rate.at(level) for level in (0.08, 0.1, 0.5, 0.92)] == [0, 0.75, 0.75, 1]
    assert (three.result().samples, three.result().area) == (4, 3)
    assert empty_rate(maps, 0.5) == 0.5
    assert empty_rate(maps, 0.5, area=3) == 0.75
    assert empty_rate(maps, 0.95) == 1


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_the_streaming_empty_rate_equals_the_one_of_all_maps(threshold):
    maps = [probability for _, probability, *_ in random_samples(0)]
    metrics = EmptyMetrics(area=4)
    for index, probability in enumerate(maps):
        metrics.update(probability, sample=str(index))

    assert metrics.result().rate.at(threshold) == empty_rate(maps, threshold, area=4)


# Merging and going on


def feed(metrics, sample):
    name, probability, target, valid, class_id = sample
    if isinstance(metrics, ClipSegMetrics):
        metrics.update(probability, target, valid, sample=name, class_id=class_id)
    elif isinstance(metrics, EmptyMetrics):
        metrics.update(probability, sample=name)
    elif name.endswith("3"):
        metrics.miss(name)
    else:
        metrics.update(probability, target, sample=name)
    return metrics


KINDS = {
    "clipseg": ClipSegMetrics,
    "phrasecut": lambda: PhraseCutMetrics(0.3),
    "empty": lambda: EmptyMetrics(area=5),
}
each_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


def fed(make, samples):
    metrics = make()
    for sample in samples:
        feed(metrics, sample)
    return metrics


@each_kind
@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_shards_in_any_order_give_the_very_result_of_one_process(make, order):
    samples = list(random_samples(1, count=14))
    single = fed(make, samples)
    shards = [fed(make, reversed(samples[rank::4])) for rank in range(4)]

    merged = make()
    for rank in order:
        merged.merge(shards[rank])

    assert merged.result() == single.result()
    assert json.dumps(merged.state_dict()) == json.dumps(single.state_dict())
    assert len(merged) == 14


@each_kind
def test_merging_leaves_the_other_as_it_was(make):
    samples = list(random_samples(1))
    first, second = fed(make, samples[:4]), fed(make, samples[4:])
    before = json.dumps(second.state_dict())

    first.merge(second)
    feed(first, ("another", *samples[0][1:]))

    assert json.dumps(second.state_dict()) == before


@each_kind
@pytest.mark.parametrize("stop", [0, 1, 5, 9])
def test_going_on_from_saved_json_gives_the_very_result(make, stop):
    samples = list(random_samples(2))
    first = fed(make, samples[:stop])
    second = type(first).from_state(json.loads(json.dumps(first.state_dict())))
    for sample in samples[stop:]:
        assert sample[0] not in second
        feed(second, sample)

    assert second.result() == fed(make, samples).result()


@each_kind
def test_what_is_kept_does_not_grow_with_the_samples_but_for_their_names(make):
    def numbers(metrics):
        return sum(len(values) for values in metrics.state_dict()["sums"].values())

    few, many = (list(random_samples(3, count)) for count in (20, 60))

    assert numbers(fed(make, few)) == numbers(fed(make, many))


@each_kind
def test_a_sample_is_not_counted_twice(make):
    samples = list(random_samples(1))
    metrics, other = fed(make, samples[:3]), fed(make, samples[2:])
    before = metrics.state_dict()

    with pytest.raises(MetricError, match=r"1 of the samples would be counted twice, first 'sample 02'\. Either"):
        feed(metrics, samples[2])
    with pytest.raises(MetricError, match=r"1 of the samples would be counted twice, first 'sample 02'\. Either"):
        metrics.merge(other)
    assert metrics.state_dict() == before


@each_kind
def test_nothing_counted_is_refused(make):
    with pytest.raises(MetricError, match="There is nothing to measure: 0 samples have a prediction"):
        make().result()


def test_parts_measured_in_different_ways_are_not_merged():
    with pytest.raises(MetricError, match=r"\{'area': 2\} cannot be added to one measured as empty \{'area': 1\}"):
        EmptyMetrics().merge(EmptyMetrics(area=2))
    with pytest.raises(MetricError, match=r"A part measured as phrasecut .* cannot be added to one .* clipseg"):
        ClipSegMetrics().merge(PhraseCutMetrics())


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        ({"kind": "phrasecut"}, "its kind is 'phrasecut'"),
        ({"sums": {}}, "it has no pixels"),
        ({"sums": {"pixels": [1]}}, "it has no single"),
        ({"sums": {"pixels": [0] * 99, "singles": [0], "single_ious": [0] * 49}}, "ValueError"),
        ({"sums": {"pixels": [0.5] * 100, "singles": [0], "single_ious": [0] * 49}}, "is not a count"),
        ({"sums": {"pixels": [-1] * 100, "singles": [0], "single_ious": [0] * 49}}, "is not a count"),
        ({"settings": {"area": 1}}, "TypeError"),
        ({"samples": None}, "TypeError"),
    ],
)
def test_a_damaged_state_is_refused(damage, text):
    with pytest.raises(MetricError, match=f"The saved data are not a state of clipseg metrics .*{text}"):
        ClipSegMetrics.from_state({**ClipSegMetrics().state_dict(), **damage})


# What a caller can get wrong


def test_an_update_that_is_refused_counts_nothing():
    metrics = ClipSegMetrics()
    target = np.ones((3, 5), bool)

    with pytest.raises(OptionError, match="Logits need a sigmoid first"):
        metrics.update(np.full((3, 5), 7.5, np.float32), target, sample="a")
    with pytest.raises(
        ShapeError, match=r"The target has the shape \(3, 5\), but .* has \(5, 3\) \(height, width\)"
    ):
        metrics.update(np.zeros((5, 3), np.float32), target, sample="a")
    with pytest.raises(ShapeError, match=r"The valid mask has the shape \(5, 3\)"):
        metrics.update(np.zeros((3, 5), np.float32), target, np.ones((5, 3), bool), sample="a")
    with pytest.raises(OptionError, match="The target holds float32, but it must hold bool"):
        metrics.update(np.zeros((3, 5), np.float32), target.astype(np.float32), sample="a")
    assert metrics.state_dict() == ClipSegMetrics().state_dict()


@pytest.mark.parametrize(
    ("prediction", "error", "text"),
    [
        (np.full((3, 5), np.nan), OptionError, "not scores of at least 0"),
        (np.full((3, 5), -0.5), OptionError, "not scores of at least 0"),
        (np.full((3, 5), "yes"), OptionError, "not scores of at least 0"),
        (np.zeros((5, 3), bool), ShapeError, r"The prediction has the shape \(5, 3\)"),
        (np.zeros(3, np.uint8), ShapeError, "is 3 bytes of packed bits, but the image of 3 x 5 pixels needs 2"),
    ],
)
def test_a_prediction_that_is_none_is_refused(prediction, error, text):
    metrics = PhraseCutMetrics()

    with pytest.raises(error, match=text):
        metrics.update(prediction, np.ones((3, 5), bool), sample="a")
    assert len(metrics) == 0


@pytest.mark.parametrize("score_threshold", [-0.1, math.nan, math.inf])
def test_a_score_threshold_that_is_none_is_refused(score_threshold):
    with pytest.raises(OptionError, match="but a score is at least 0"):
        PhraseCutMetrics(score_threshold)


def test_an_area_or_a_threshold_that_is_none_is_refused():
    maps = [np.zeros((3, 5), np.float32)]

    with pytest.raises(OptionError, match=r"area is 0, but .* at least 1 \(default 1\)"):
        EmptyMetrics(area=0)
    with pytest.raises(OptionError, match="area is 0"):
        empty_rate(maps, area=0)
    with pytest.raises(OptionError, match=r"threshold is 1\.5, but it must be from 0\.0 to 1\.0"):
        empty_rate(maps, 1.5)
    with pytest.raises(MetricError, match="needs at least one map"):
        empty_rate([])


@pytest.mark.parametrize("threshold", [0.0, 0.01, 0.5001, 1.0, -0.02, 7.0, math.nan, math.inf])
def test_a_curve_has_no_value_between_its_thresholds(threshold):
    with pytest.raises(OptionError, match=r"the curve holds only 0\.02, 0\.04 \.\.\. 0\.98"):
        Curve(THRESHOLDS).at(threshold)


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_a_curve_knows_each_threshold_also_as_it_is_written(threshold):
    assert Curve(THRESHOLDS).at(threshold) == Curve(THRESHOLDS).at(round(threshold, 2)) == threshold


def test_the_lowest_of_equal_best_thresholds_is_named():
    curve = Curve((0.1, 0.7, 0.3, 0.7) + (0.0,) * 45)

    assert (curve.best, curve.best_threshold) == (0.7, 0.04)


def test_the_levels_of_the_accuracy_are_those_of_the_code_not_of_its_readme():
    assert ACCURACY_LEVELS == (0.5, 0.6, 0.7, 0.8, 0.9)
