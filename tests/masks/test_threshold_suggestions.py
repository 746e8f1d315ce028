"""Candidates on maps whose levels are known: where areas are stable, and none where there is nothing to choose."""

import numpy as np
import pytest

from ldznet.errors import OptionError
from ldznet.masks.morphology import area
from ldznet.masks.pipeline import threshold
from ldznet.masks.threshold_suggestions import APART, find_candidates


def steps(*levels, shape=(60, 90)):
    """Boxes in one another, each with its probability and side."""
    probability = np.zeros(shape, np.float32)
    for level, side in levels:
        probability[:side, :side] = level
    return probability


def test_three_plateaus_give_three_masks_the_tightest_first():
    found = find_candidates(steps((0.2, 50), (0.5, 35), (0.9, 20)))

    assert found == [("tight", 0.7, 400), ("middle", 0.35, 1225), ("loose", 0.1, 2500)]


def test_two_plateaus_give_a_tight_and_a_loose_one():
    assert find_candidates(steps((0.3, 30), (0.8, 10))) == [("tight", 0.55, 100), ("loose", 0.15, 900)]


def test_a_map_of_two_values_has_one():
    assert find_candidates(steps((1.0, 20))) == [("middle", 0.5, 400)]


@pytest.mark.parametrize("value", [0.0, 0.04, 1.0])
def test_where_nothing_or_everything_is_selected_there_is_nothing_to_choose(value):
    assert find_candidates(np.full((6, 9), value, np.float32)) == []


def test_plateaus_of_nearly_the_same_area_are_one():
    assert find_candidates(steps((0.3, 40), (0.8, 38))) == [("middle", 0.55, 1444)]


def test_on_a_soft_edge_they_differ_in_area_and_threshold():
    y, x = np.mgrid[:200, :300]
    probability = (1 / (1 + np.exp((np.hypot(y - 100, x - 150) - 50) / 6))).astype(np.float32)

    tight, middle, loose = find_candidates(probability)

    assert tight.threshold > middle.threshold + 0.15 > loose.threshold + 0.3
    assert loose.area >= APART * middle.area >= APART**2 * tight.area
    assert middle.threshold == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("seed", range(6))
def test_areas_are_those_of_the_masks(seed):
    rng = np.random.default_rng(seed)
    probability = (rng.integers(0, 101, (40, 60)) / 100).astype(np.float32) ** (1 + seed % 3)

    for one in find_candidates(probability):
        assert one.area == area(threshold(probability, one.threshold))


def test_a_faint_map_has_candidates_within_its_own_range():
    levels = [one.threshold for one in find_candidates(steps((0.08, 50), (0.16, 35), (0.3, 20)))]

    assert len(levels) == 3
    assert max(levels) <= 0.3


def test_what_is_no_probability_is_refused():
    with pytest.raises(OptionError, match=r"runs from 0 to 255, but it must stay from 0 to 1"):
        find_candidates(np.array([[0.0, 255.0]]))
