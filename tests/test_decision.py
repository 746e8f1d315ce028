"""What is to be inpainted, decided from probabilities written out here."""

import numpy as np
import pytest
import torch

from ldznet.decision import Reason, decide, to_levels
from ldznet.options import MaskOptions
from ldznet.result import Segmentation

SIZE = (8, 12)  # wider than high


def result_of(*maps, prompts=None):
    stack = torch.from_numpy(np.stack([np.asarray(one, np.float32) for one in maps]))
    names = prompts or tuple(f"thing {number}" for number in range(len(maps)))
    return Segmentation(tuple(names), (), SIZE, stack, {}, ())


def left(level, columns=4):
    """A map whose first columns have a probability, and the others none."""
    array = np.zeros(SIZE, np.float32)
    array[:, :columns] = level
    return array


PAINTED = left(1.0, columns=2)[:, ::-1].copy()  # at the right edge
EMPTY = np.zeros(SIZE, np.float32)


@pytest.mark.parametrize(
    ("options", "given", "reason"),
    [
        ({}, None, Reason.NOT_FOUND),
        ({"invert": True}, None, Reason.NOT_FOUND),
        ({"brush": "subtract"}, PAINTED, Reason.NOTHING_TO_SUBTRACT),
        ({"brush": "subtract"}, EMPTY, Reason.NOT_FOUND),
        ({"brush": "intersect"}, PAINTED, Reason.NOT_FOUND),
        ({"brush": "replace"}, PAINTED, Reason.NOT_FOUND),
        ({"brush": "add"}, EMPTY, Reason.NOT_FOUND),
        ({"brush": "add", "invert": True}, PAINTED, Reason.NOT_FOUND),
    ],
)
def test_what_is_not_found_gives_an_empty_mask_and_a_reason(options, given, reason):
    decision = decide(result_of(left(0.3)), MaskOptions(**options), given)

    assert decision.reason is reason
    assert decision.mask.shape == SIZE
    assert not decision.mask.any()
    assert not decision.only_given


def test_what_is_painted_stays_where_prompts_that_are_not_found_should_be_added():
    decision = decide(result_of(left(0.3)), MaskOptions(brush="add"), PAINTED)

    assert decision.reason is None
    assert decision.only_given
    assert np.array_equal(decision.mask, PAINTED)


@pytest.mark.parametrize(
    "options",
    [{"smallest_area": 33}, {"objects": (2,)}, {"grow": -20}, {"feather": 200.0, "threshold": 0.6, "grow": -20}],
)
def test_what_is_found_and_then_taken_away_by_other_options_says_so(options):
    decision = decide(result_of(left(0.9)), MaskOptions(**options))

    assert decision.reason is Reason.OPTIONS
    assert not decision.mask.any()


def test_an_intersection_with_a_mask_elsewhere_leaves_nothing_by_the_options():
    assert decide(result_of(left(0.9)), MaskOptions(brush="intersect"), PAINTED).reason is Reason.OPTIONS


def test_a_whole_mask_that_is_inverted_leaves_nothing_by_the_options():
    assert decide(result_of(left(0.9, columns=12)), MaskOptions(invert=True)).reason is Reason.OPTIONS


def test_a_blur_that_leaves_nothing_makes_the_mask_too_faint():
    def blur(levels):
        return np.where(levels > 254, 0, 0)

    decision = decide(result_of(left(0.9)), MaskOptions(), blur=blur)

    assert decision.reason is Reason.FAINT
    assert not decision.mask.any()
    assert decide(result_of(left(0.9)), MaskOptions(), blur=lambda levels: levels).reason is None


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ({}, None),
        ({"invert": True}, None),
        ({"grow": 2, "feather": 1.5}, None),
        ({"grow": -1}, None),
        ({"objects": (1,)}, None),
        ({"brush": "add"}, PAINTED),
        ({"brush": "subtract"}, left(1.0, columns=6)),
        ({"brush": "intersect"}, left(1.0, columns=2)),
    ],
)
def test_what_is_found_is_the_mask_that_the_result_makes(options, given):
    result = result_of(left(0.9), prompts=("left",))
    decision = decide(result, MaskOptions(**options), given)

    assert decision.reason is None
    assert not decision.only_given
    assert np.array_equal(decision.mask, result.mask(MaskOptions(**options), given_mask=given))
    assert decision.mask.any()


def test_objects_are_those_before_one_is_chosen():
    two = left(0.9, columns=3) + left(0.8, columns=5)[:, ::-1]
    decision = decide(result_of(two), MaskOptions(objects=(2,)))

    assert len(decision.objects) == 2
    assert np.array_equal(decision.mask > 0, left(1.0, columns=3) > 0)
    assert np.array_equal(decision.objects.numbers, decide(result_of(two), MaskOptions()).objects.numbers)


def test_the_threshold_is_taken_once(monkeypatch):
    result, calls = result_of(left(0.9)), []
    whole = Segmentation.mask_before_objects
    monkeypatch.setattr(Segmentation, "mask_before_objects", lambda *given: calls.append(1) or whole(*given))

    decision = decide(result, MaskOptions(objects=(1,), grow=1))

    assert len(decision.objects) == 1
    assert calls == [1]


def test_levels_round_to_the_nearest():
    assert to_levels(np.array([[0.0, 0.001, 0.002, 0.5, 1.0]], np.float32)).tolist() == [[0, 0, 1, 128, 255]]
    every = np.arange(256, dtype=np.float32)[None] / 255
    assert to_levels(every).tolist() == [list(range(256))]
    soft = np.random.default_rng(0).random((30, 50), np.float32)
    assert np.array_equal(to_levels(soft), np.round(soft * 255).astype(np.uint8))
