"""Objects: numbered as written out, cut where two things touch, and whole where one thing has a waist."""

import tracemalloc
from math import ceil

import cv2
import numpy as np
import pytest

from ldznet.masks.morphology import drop_small
from ldznet.masks.objects import find_objects
from ldznet.options import MOST_OBJECTS


def picture(text):
    return np.array([[letter == "#" for letter in row] for row in text.split()])


def discs(shape, *given):
    """Each is x, y, radius."""
    canvas = np.zeros(shape, np.uint8)
    for x, y, radius in given:
        cv2.circle(canvas, (x, y), radius, 1, -1)
    return canvas > 0


def drawn(shape, draw):
    canvas = np.zeros(shape, np.uint8)
    draw(canvas)
    return canvas > 0


def text(numbers):
    return " ".join("".join("." if number == 0 else str(number) for number in row) for row in numbers)


# --- numbers -----------------------------------------------------------------------------------------


def test_connected_parts_are_numbered_from_the_largest():
    objects = find_objects(picture("##..#. ##..#. ....#. #...#."))

    assert text(objects.numbers) == "11..2. 11..2. ....2. 3...2."
    assert objects.boxes == ((0, 0, 2, 2), (4, 0, 5, 4), (0, 3, 1, 4))
    assert len(objects) == 3


def test_of_equals_the_one_met_first_has_the_lower_number():
    assert text(find_objects(picture("...# #... ...#")).numbers) == "...1 2... ...3"


def test_corners_that_touch_join():
    assert text(find_objects(picture("#.. .#. ..#")).numbers) == "1.. .1. ..1"


def test_the_chosen_are_a_mask_and_numbers_that_no_object_has_select_nothing():
    objects = find_objects(picture("##.# ...."))

    assert objects.select((2,)).tolist() == picture("...# ....").tolist()
    assert objects.select((1, 2, 2)).tolist() == picture("##.# ....").tolist()
    assert not objects.select((3, MOST_OBJECTS)).any()
    assert not objects.select(()).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1), (2, 2), (1, 16384)])
def test_an_empty_mask_has_no_object_and_a_full_one_has_one(shape):
    empty, full = find_objects(np.zeros(shape, bool)), find_objects(np.ones(shape, bool))

    assert (len(empty), empty.numbers.any()) == (0, False)
    assert (full.boxes, (full.numbers == 1).all()) == (((0, 0, shape[1], shape[0]),), True)


@pytest.mark.parametrize("seed", range(12))
def test_every_pixel_of_the_mask_has_a_number_and_no_other_but_for_specks(seed):
    noise = np.random.default_rng(seed).standard_normal((60, 90)).astype(np.float32)
    mask = cv2.GaussianBlur(noise, (0, 0), 2) > (-0.2, 0.0, 0.2)[seed % 3]

    objects = find_objects(mask)

    assert ((objects.numbers > 0) == drop_small(mask, ceil((objects.numbers == 1).sum() / 300))).all()
    areas = [int((objects.numbers == number).sum()) for number in range(1, len(objects) + 1)]
    assert areas == sorted(areas, reverse=True)
    assert min(areas) > 0
    for number, (x0, y0, x1, y1) in enumerate(objects.boxes, start=1):
        rows, columns = np.nonzero(objects.numbers == number)
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x0, y0, x1, y1)


def test_the_smallest_of_too_many_have_no_number():
    mask = np.zeros((20, 2 * MOST_OBJECTS + 2), bool)
    mask[:10, ::2] = True
    mask[3:, -2] = False  # the last is the smallest

    objects = find_objects(mask)

    assert len(objects) == MOST_OBJECTS == 99
    assert not objects.numbers[:, -2].any()


def test_a_speck_beside_a_large_part_has_no_number():
    mask = np.zeros((40, 60), bool)
    mask[:30, :40] = True  # 1200 pixels
    mask[35, 50:54] = True
    mask[38, 50:53] = True

    assert find_objects(mask).boxes == ((0, 0, 40, 30), (50, 35, 54, 36))


# --- two that touch ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 12])  # as it is, and on a reduced copy
def test_two_discs_that_touch_are_cut_at_their_waist(scale):
    mask = discs(
        (70 * scale, 130 * scale), (35 * scale, 35 * scale, 28 * scale), (90 * scale, 35 * scale, 30 * scale)
    )

    objects = find_objects(mask)

    assert len(objects) == 2
    assert (objects.numbers > 0)[mask].all()
    waist = objects.boxes[0][0], objects.boxes[1][2]  # the larger one stands on the right
    assert waist == pytest.approx((61 * scale, 61 * scale), abs=2 * scale)
    assert objects.numbers[35 * scale, 35 * scale] == 2


def test_discs_that_lie_far_over_one_another_are_one():
    assert len(find_objects(discs((80, 120), (40, 40, 30), (80, 40, 30)))) == 1


def test_a_grid_of_discs_with_gaps_between_them_is_cut_into_all():
    grid = [(40 + 68 * column, 40 + 68 * row, 36) for row in range(3) for column in range(4)]

    assert len(find_objects(discs((230, 300), *grid))) == 12


def test_many_things_that_touch_in_a_large_picture_need_the_memory_of_a_few_masks():
    grid = [(30 + 60 * column, 30 + 60 * row, 30) for row in range(15) for column in range(15)]
    mask = discs((900, 900), *grid)

    tracemalloc.start()
    try:
        objects = find_objects(mask)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert len(objects) == MOST_OBJECTS  # of 225
    assert most < 60 * mask.nbytes


def test_three_discs_around_a_small_gap_are_three():
    assert len(find_objects(discs((130, 130), (33, 35, 30), (89, 35, 30), (61, 83, 30)))) == 3


ONE_THING = {
    "ring": lambda c: cv2.circle(c, (100, 100), 80, 1, 18),
    "open ring": lambda c: cv2.ellipse(c, (100, 100), (70, 70), 0, 30, 330, 1, 20),
    "heart": lambda c: (
        cv2.circle(c, (70, 70), 40, 1, -1),
        cv2.circle(c, (130, 70), 40, 1, -1),
        cv2.fillPoly(c, [np.array([[33, 85], [167, 85], [100, 170]])], 1),
    ),
    "star": lambda c: cv2.fillPoly(
        c,
        [
            np.array(
                [
                    [100 + (90, 36)[n % 2] * np.sin(np.pi / 5 * n), 100 - (90, 36)[n % 2] * np.cos(np.pi / 5 * n)]
                    for n in range(10)
                ],
                np.int32,
            )
        ],
        1,
    ),
    "bottle": lambda c: (
        cv2.rectangle(c, (85, 10), (115, 80), 1, -1),
        cv2.rectangle(c, (60, 70), (140, 190), 1, -1),
    ),
    "wine glass": lambda c: (
        cv2.ellipse(c, (100, 60), (40, 50), 0, 0, 360, 1, -1),
        cv2.rectangle(c, (97, 100), (103, 180), 1, -1),
        cv2.ellipse(c, (100, 185), (40, 8), 0, 0, 360, 1, -1),
    ),
    "with specks": lambda c: (
        cv2.circle(c, (100, 100), 60, 1, -1),
        *(cv2.circle(c, at, 2, 0, -1) for at in ((80, 80), (120, 95), (100, 130), (70, 110))),
    ),
}


@pytest.mark.parametrize("name", ONE_THING)
def test_one_thing_stays_one(name):
    assert len(find_objects(drawn((200, 200), ONE_THING[name]))) == 1


def test_a_small_thing_at_a_large_one_is_part_of_it():
    assert len(find_objects(discs((120, 160), (60, 60, 50), (121, 60, 15)))) == 1
