"""Every step against a slow version in plain loops, and a few pictures written out."""

import math
import weakref
from itertools import product

import numpy as np
import pytest

from ldznet.errors import OptionError, ShapeError
from ldznet.masks.morphology import (
    area,
    bounding_box,
    drop_small,
    feather,
    fill_holes,
    grow,
    invert,
    largest_component,
)
from ldznet.masks.pipeline import (
    combine_with_given,
    difference,
    intersection,
    make_mask,
    subtract_negatives,
    threshold,
    union,
)
from ldznet.options import MaskOptions, SegmentOptions

SHAPES = [(1, 1), (1, 9), (7, 1), (5, 8), (9, 17), (2, 40)]
CASES = [(shape, seed) for shape in SHAPES for seed in range(4)]
each_case = pytest.mark.parametrize(("shape", "seed"), CASES)


def picture(text: str) -> np.ndarray:
    """`#` is selected, `.` is not; one word a row."""
    return np.array([[letter == "#" for letter in row] for row in text.split()])


def text(mask: np.ndarray) -> str:
    return " ".join("".join("#" if value else "." for value in row) for row in mask)


def random_mask(shape, seed):
    """Some are sparse and some nearly full, so that parts, holes and borders all occur."""
    rng = np.random.default_rng(seed)
    return rng.random(shape) < (0.1, 0.35, 0.6, 0.85)[seed % 4]


def random_maps(count, shape, seed):
    """Many values lie on a grid, so that they meet thresholds and each other exactly."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 11, (count, *shape)) / 10).astype(np.float32)


# The slow versions


def slow_parts(mask, neighbours):
    """Parts as lists of pixels, in reading order of their first pixel."""
    height, width = mask.shape
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    if neighbours == 8:
        steps += [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    seen, parts = set(), []
    for start in product(range(height), range(width)):
        if not mask[start] or start in seen:
            continue
        seen.add(start)
        part, waiting = [], [start]
        while waiting:
            y, x = waiting.pop()
            part.append((y, x))
            for dy, dx in steps:
                near = (y + dy, x + dx)
                if 0 <= near[0] < height and 0 <= near[1] < width and mask[near] and near not in seen:
                    seen.add(near)
                    waiting.append(near)
        parts.append(part)
    return parts


def slow_of_parts(shape, parts):
    mask = np.zeros(shape, bool)
    for part in parts:
        for pixel in part:
            mask[pixel] = True
    return mask


def slow_drop_small(mask, smallest):
    return slow_of_parts(mask.shape, [part for part in slow_parts(mask, 8) if len(part) >= smallest])


def slow_largest(mask):
    parts = slow_parts(mask, 8)
    return slow_of_parts(mask.shape, [max(parts, key=len)] if parts else [])


def slow_fill_holes(mask):
    height, width = mask.shape

    def enclosed(part):
        return all(0 < y < height - 1 and 0 < x < width - 1 for y, x in part)

    holes = [part for part in slow_parts(~mask, 4) if enclosed(part)]
    return mask | slow_of_parts(mask.shape, holes)


def slow_grow(mask, pixels):
    if pixels < 0:
        return ~slow_grow(~mask, -pixels)
    selected = np.argwhere(mask).tolist()
    result = np.zeros_like(mask)
    for y, x in np.ndindex(mask.shape):
        result[y, x] = any((y - v) ** 2 + (x - u) ** 2 <= pixels**2 for v, u in selected)
    return result


def slow_feather(soft, sigma):
    if sigma == 0:
        return soft.astype(float)
    reach = math.ceil(5 * sigma)
    weights = [math.exp(-(offset**2) / (2 * sigma**2)) for offset in range(-reach, reach + 1)]
    weights = np.array(weights) / sum(weights)

    def along_rows(array):
        padded = np.pad(array, ((0, 0), (reach, reach)), mode="edge")
        return np.array([[row[x : x + len(weights)] @ weights for x in range(array.shape[1])] for row in padded])

    return along_rows(along_rows(soft.astype(float)).T).T


def slow_brush(mask, brush, mode):
    def one(m, b):
        return {"replace": m, "add": max(b, m), "subtract": min(b, 1 - m), "intersect": min(b, m)}[mode]

    return np.vectorize(one)(mask.astype(float), brush.astype(float))


def slow_combine(masks, mode):
    result = np.zeros(masks[0].shape, bool)
    for pixel in np.ndindex(result.shape):
        values = [bool(mask[pixel]) for mask in masks]
        result[pixel] = {
            "union": any(values),
            "intersection": all(values),
            "difference": values[0] and not any(values[1:]),
        }[mode]
    return result


def slow_make_mask(maps, options, negatives, brush):
    masks = []
    for probability in maps.astype(np.float32):
        unwanted = np.zeros_like(probability)
        for negative in negatives:
            unwanted = np.where(negative > unwanted, negative, unwanted)
        wanted = probability * (1 - unwanted)
        masks.append((wanted >= np.float32(options.threshold)) & (wanted > 0))
    mask = slow_combine(masks, options.combine)
    mask = slow_drop_small(mask, options.smallest_area)
    mask = slow_largest(mask) if options.largest_only else mask
    mask = slow_fill_holes(mask) if options.fill_holes else mask
    mask = slow_grow(mask, options.grow)
    mask = ~mask if options.invert else mask
    soft = mask.astype(float) if brush is None else slow_brush(mask, brush, options.brush)
    return slow_feather(soft, options.feather)


# Threshold


def test_a_pixel_belongs_from_the_threshold_on():
    probability = np.array([[0.0, 0.49, 0.5, 0.51, 1.0]], np.float32)

    assert text(threshold(probability, 0.5)) == "..###"


def test_a_probability_of_zero_never_belongs():
    probability = np.array([[0.0, 1e-6, 0.3]], np.float32)

    assert text(threshold(probability, 0.0)) == ".##"


def test_only_certainty_reaches_a_threshold_of_one():
    probability = np.array([[0.999, 1.0, 1.00005]], np.float32)

    assert text(threshold(probability, 1.0)) == ".##"


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_the_threshold_meets_probabilities_of_every_precision(kind):
    probability = np.array([[0.7, 0.6]], kind)

    assert text(threshold(probability, float(probability[0, 0]))) == "#."


def test_threshold_takes_many_maps_at_once():
    maps = random_maps(3, (4, 6), seed=0)

    result = threshold(maps, 0.3)

    for index in np.ndindex(maps.shape):
        assert result[index] == (maps[index] >= np.float32(0.3))


# Several prompts


@each_case
def test_masks_combine_as_a_loop_over_pixels_says(shape, seed):
    masks = random_maps(3, shape, seed) > 0.5

    assert text(union(masks)) == text(slow_combine(masks, "union"))
    assert text(intersection(masks)) == text(slow_combine(masks, "intersection"))
    assert text(difference(masks)) == text(slow_combine(masks, "difference"))


def test_masks_combine_as_written():
    masks = [picture("###..."), picture(".###.."), picture("..#..#")]

    assert text(union(masks)) == "####.#"
    assert text(intersection(masks)) == "..#..."
    assert text(difference(masks)) == "#....."


def test_one_mask_combines_to_itself():
    mask = picture("#.# .#.")

    for combine in (union, intersection, difference):
        assert text(combine(mask)) == text(combine([mask])) == "#.# .#."


# Negative prompts


@each_case
def test_negatives_subtract_as_a_loop_over_pixels_says(shape, seed):
    probability, *negatives = random_maps(3, shape, seed)

    result = subtract_negatives(probability, negatives)

    for pixel in np.ndindex(shape):
        expected = probability[pixel] * (1 - max(negative[pixel] for negative in negatives))
        assert result[pixel] == pytest.approx(expected, abs=1e-6)
    assert result.min() >= 0
    assert (result <= probability).all()


def test_a_negative_prompt_takes_away_what_it_finds():
    probability = np.array([[0.9, 0.9, 0.9, 0.2]], np.float32)
    negative = np.array([[0.0, 0.5, 1.0, 0.0]], np.float32)

    assert subtract_negatives(probability, negative) == pytest.approx(np.array([[0.9, 0.45, 0.0, 0.2]]))


def test_without_negatives_the_probability_stays():
    probability = random_maps(1, (3, 5), seed=1)[0]

    for none in ([], np.zeros((0, 3, 5), np.float32)):
        assert (subtract_negatives(probability, none) == probability).all()


# Connected parts


@each_case
@pytest.mark.parametrize("smallest", [0, 1, 2, 5, 30])
def test_small_parts_drop_as_a_flood_fill_says(shape, seed, smallest):
    mask = random_mask(shape, seed)

    assert text(drop_small(mask, smallest)) == text(slow_drop_small(mask, smallest))


def test_a_part_of_just_the_smallest_area_stays():
    mask = picture("##..# #...# ....#")

    assert text(drop_small(mask, 3)) == "##..# #...# ....#"
    assert text(drop_small(mask, 4)) == "..... ..... ....."


def test_pixels_that_touch_at_a_corner_are_one_part():
    assert text(drop_small(picture("#... .#.. ...#"), 2)) == "#... .#.. ...."


@each_case
def test_the_largest_part_is_the_one_of_a_flood_fill(shape, seed):
    mask = random_mask(shape, seed)

    assert text(largest_component(mask)) == text(slow_largest(mask))


def test_of_equal_parts_the_first_in_reading_order_stays():
    assert text(largest_component(picture("...#. ##.#. ....."))) == "...#. ...#. ....."
    # OpenCV numbers parts by blocks of 2 x 2 pixels, and would call the left one the first.
    assert text(largest_component(picture("..## #... #..."))) == "..## .... ...."


@each_case
def test_holes_fill_as_a_flood_from_the_border_says(shape, seed):
    mask = random_mask(shape, seed)

    assert text(fill_holes(mask)) == text(slow_fill_holes(mask))


def test_a_hole_fills_and_a_bay_at_the_border_does_not():
    mask = picture("#####.# #.#.#.# ###.### ..#####")

    assert text(fill_holes(mask)) == "#####.# #####.# ####### ..#####"


def test_a_ring_closed_only_at_its_corners_has_a_hole():
    assert text(fill_holes(picture("..... ..#.. .#.#. ..#.. ....."))) == "..... ..#.. .###. ..#.. ....."


# Growing


@each_case
@pytest.mark.parametrize("pixels", [-6, -2, -1, 0, 1, 2, 3, 6, 50])
def test_grow_and_shrink_measure_true_distances(shape, seed, pixels):
    mask = random_mask(shape, seed)

    assert text(grow(mask, pixels)) == text(slow_grow(mask, pixels))


def test_a_point_grows_to_a_disc():
    mask = np.zeros((7, 8), bool)
    mask[3, 3] = True

    assert text(grow(mask, 1)) == "........ ........ ...#.... ..###... ...#.... ........ ........"
    assert text(grow(mask, 2)) == "........ ...#.... ..###... .#####.. ..###... ...#.... ........"
    assert text(grow(mask, 3)) == "...#.... .#####.. .#####.. #######. .#####.. .#####.. ...#...."


@pytest.mark.parametrize("pixels", [15, 16, 17])
def test_growth_by_discs_and_by_distances_is_alike(pixels):
    mask = np.zeros((60, 90), bool)
    mask[[20, 33, 59], [0, 45, 88]] = True

    grown = grow(mask, pixels)

    y, x = np.mgrid[:60, :90]
    places = ((20, 0), (33, 45), (59, 88))
    assert (grown == np.any([(y - v) ** 2 + (x - u) ** 2 <= pixels**2 for v, u in places], axis=0)).all()


def test_growth_is_exact_at_the_largest_distance():
    mask = np.zeros((400, 900), bool)
    mask[5, 20] = True

    grown = grow(mask, 512)

    y, x = np.mgrid[:400, :900]
    assert (grown == ((y - 5) ** 2 + (x - 20) ** 2 <= 512**2)).all()


def test_growth_is_exact_far_out_in_a_wide_picture():
    mask = np.zeros((3, 20000), bool)
    mask[1, [7, 9000, 19500]] = True

    columns = np.flatnonzero(grow(mask, 499)[1])

    expected = [*range(7 + 499 + 1), *range(8501, 9500), *range(19001, 19500 + 499 + 1)]
    assert columns.tolist() == expected


def test_a_mask_at_the_border_does_not_shrink_away_from_it():
    assert text(grow(picture("###... ###... ###..."), -1)) == "##.... ##.... ##...."


def test_a_full_and_an_empty_mask_keep_their_size():
    full, empty = np.ones((3, 5), bool), np.zeros((3, 5), bool)

    assert grow(full, -512).all()
    assert not grow(empty, 512).any()


# The soft edge


@each_case
@pytest.mark.parametrize("sigma", [0.0, 0.4, 1.0, 3.5])
def test_feather_is_a_gaussian_that_goes_on_beyond_the_border(shape, seed, sigma):
    mask = random_mask(shape, seed)

    result = feather(mask, sigma)

    assert result.dtype == np.float32
    assert result == pytest.approx(slow_feather(mask, sigma), abs=2e-4)


@pytest.mark.parametrize("shape", [(1, 1), (40, 61), (2, 200), (150, 3)])
@pytest.mark.parametrize("sigma", [23.5, 24.0, 31.0, 100.0, 256.0])
def test_a_wide_feather_is_the_full_gaussian_to_half_a_level_of_8_bits(shape, sigma):
    mask = random_mask(shape, seed=1)
    mask[: shape[0] // 2, shape[1] // 3 :] = True

    assert feather(mask, sigma) == pytest.approx(slow_feather(mask, sigma), abs=0.5 / 255)


def test_a_feathered_edge_has_these_values():
    result = feather(picture("....####"), 1.0)

    # Sums of the discrete Gaussian, whose middle is 0.3989 and its neighbours 0.2420, 0.0540, 0.0044.
    expected = [0.0001, 0.0046, 0.0585, 0.3005, 0.6995, 0.9415, 0.9954, 0.9999]
    assert result[0] == pytest.approx(np.array(expected), abs=1e-4)


@pytest.mark.parametrize("sigma", [0.0, 0.5, 8.0, 23.9, 24.0, 256.0])
def test_a_full_mask_stays_exactly_full_and_an_empty_one_empty(sigma):
    assert (feather(np.ones((9, 30), bool), sigma) == 1).all()
    assert (feather(np.zeros((9, 30), bool), sigma) == 0).all()


def test_a_mask_at_the_border_stays_solid_there():
    mask = np.zeros((6, 40), bool)
    mask[:, :20] = True

    assert (feather(mask, 3)[:, :5] == 1).all()


def test_a_soft_mask_can_be_feathered_again():
    soft = np.array([[0.0, 0.25, 1.0, 0.5]], np.float32)

    assert feather(soft, 1.0) == pytest.approx(slow_feather(soft, 1.0), abs=2e-4)


# The brush

BRUSHED = {
    "replace": [0.0, 0.0, 1.0, 1.0, 0.4, 0.4],
    "add": [0.0, 1.0, 1.0, 1.0, 0.4, 0.9],
    "subtract": [0.0, 1.0, 0.0, 0.0, 0.1, 0.6],
    "intersect": [0.0, 0.0, 0.3, 1.0, 0.1, 0.4],
}


@pytest.mark.parametrize("mode", BRUSHED)
def test_the_brush_joins_as_written(mode):
    mask = np.array([[0.0, 0.0, 1.0, 1.0, 0.4, 0.4]], np.float32)
    brush = np.array([[0.0, 1.0, 0.3, 1.0, 0.1, 0.9]], np.float32)

    assert combine_with_given(mask, brush, mode)[0] == pytest.approx(np.array(BRUSHED[mode]))


@each_case
@pytest.mark.parametrize("mode", BRUSHED)
def test_the_brush_joins_as_a_loop_over_pixels_says(shape, seed, mode):
    mask, brush = random_maps(2, shape, seed)

    assert combine_with_given(mask, brush, mode) == pytest.approx(slow_brush(mask, brush, mode))


def test_mask_and_brush_may_be_bool():
    mask, brush = picture("##.."), picture("#.#.")

    joined = {mode: text(combine_with_given(mask, brush, mode)) for mode in BRUSHED}

    assert joined == {"replace": "##..", "add": "###.", "subtract": "..#.", "intersect": "#..."}


# All steps


def random_options(rng):
    return MaskOptions(
        threshold=float(rng.integers(0, 11)) / 10,
        combine=str(rng.choice(["union", "intersection", "difference"])),
        smallest_area=int(rng.integers(0, 6)),
        largest_only=bool(rng.integers(2)),
        fill_holes=bool(rng.integers(2)),
        grow=int(rng.integers(-2, 4)),
        invert=bool(rng.integers(2)),
        brush=str(rng.choice(["replace", "add", "subtract", "intersect"])),
        feather=float(rng.choice([0.0, 0.8, 2.0])),
    )


@pytest.mark.parametrize("seed", range(150))
def test_make_mask_runs_the_steps_as_the_slow_version_does(seed):
    rng = np.random.default_rng(seed)
    shape = SHAPES[seed % len(SHAPES)]
    maps = random_maps(rng.integers(1, 4), shape, seed)
    negatives = random_maps(rng.integers(0, 3), shape, seed + 1000) * np.float32(0.5)
    brush = random_maps(1, shape, seed + 2000)[0] if seed % 3 else None
    options = random_options(rng)

    result = make_mask(maps, options, negatives=negatives, given_mask=brush)

    assert result.dtype == np.float32
    assert result == pytest.approx(slow_make_mask(maps, options, negatives, brush), abs=2e-4)


def made(pictures, drawn=None, **options):
    """make_mask of written pictures -> a written picture."""
    maps = np.array([picture(each) for each in pictures], np.float32)
    mask = make_mask(maps, MaskOptions(**options), given_mask=drawn)
    assert set(mask.flat) <= {0, 1}
    return text(mask)


def test_the_threshold_comes_before_the_combination():
    maps = np.array([[[0.9, 0.9]], [[0.4, 0.1]]], np.float32)

    # Combined first, 0.9 without 0.4 would be more than 0.3 by any rule, and pass.
    assert make_mask(maps, MaskOptions(threshold=0.3, combine="difference")).tolist() == [[0, 1]]


def test_the_combination_comes_before_small_parts_are_dropped():
    maps = ["##.... ......", "..##.. .....#"]

    assert made(maps, smallest_area=3) == "####.. ......"


def test_small_parts_are_dropped_before_holes_are_filled():
    ring = "..... .###. .#.#. .###. ....."

    assert made([ring], smallest_area=9, fill_holes=True) == "..... ..... ..... ..... ....."
    assert made([ring], smallest_area=8, fill_holes=True) == "..... .###. .###. .###. ....."


def test_small_parts_are_dropped_before_the_mask_grows():
    assert made(["#....."], smallest_area=2, grow=2) == "......"


def test_the_largest_part_is_chosen_before_holes_are_filled():
    ring_and_bar = "###.### #.#.### ###.###"

    assert made([ring_and_bar], largest_only=True, fill_holes=True) == "....### ....### ....###"


def test_objects_are_numbered_after_small_parts_are_dropped_and_holes_are_filled():
    # Filled, the ring is the largest of the three; the single pixel has no number.
    ring_and_bars = "###.#.## #.#.#.## ###.#.## ........ #......."

    chosen = {
        number: made([ring_and_bars], objects=(number,), smallest_area=2, fill_holes=True) for number in (1, 3)
    }

    assert chosen[1] == "###..... ###..... ###..... ........ ........"
    assert chosen[3] == "....#... ....#... ....#... ........ ........"
    assert made([ring_and_bars], objects=(2, 4), smallest_area=2) == "......## ......## ......## ........ ........"


def test_objects_are_chosen_before_the_mask_grows_and_is_inverted():
    # Grown first, the two would be one.
    assert made(["##.#.."], objects=(2,), grow=1) == "..###."
    assert made(["##.#.."], objects=(2,), invert=True) == "###.##"


def test_an_object_that_is_not_there_selects_nothing():
    assert made(["##.#.."], objects=(3,)) == "......"


def test_holes_are_filled_before_the_mask_grows():
    # Grown first, the two sides would meet, close around the middle, and it would be filled.
    open_ring = "......... .###.###. .#.....#. .#.....#. .#.....#. .#.....#. .#######. ........."

    assert made([open_ring], fill_holes=True, grow=1) == (
        ".###.###. ######### ####.#### ###...### ###...### ######### ######### .#######."
    )


def test_the_mask_grows_before_it_is_inverted():
    assert made(["..#..."], grow=1, invert=True) == "#...##"


def test_the_mask_is_inverted_before_the_brush_joins():
    assert made(["##...."], picture("###..."), invert=True, brush="intersect") == "..#..."


def test_the_brush_joins_before_the_feather():
    brush = picture("...#####")

    result = make_mask(np.zeros((1, 8), np.float32), MaskOptions(brush="add", feather=1.0), given_mask=brush)

    assert 0.1 < result[0, 2] < 0.5 < result[0, 3] < 0.9


def test_negatives_are_subtracted_before_the_threshold():
    probability = np.array([[0.8, 0.8, 0.8]], np.float32)
    negatives = np.array([[[0.0, 0.3, 0.0]], [[0.0, 0.0, 0.6]]], np.float32)

    result = make_mask(probability, MaskOptions(threshold=0.5), negatives=negatives)

    assert result.tolist() == [[1.0, 1.0, 0.0]]


def test_what_is_not_in_the_picture_gives_an_empty_mask_at_any_threshold():
    nothing = np.zeros((2, 4, 6), np.float32)

    for level in (0.0, 0.01, 0.5, 1.0):
        mask = make_mask(nothing, MaskOptions(threshold=level, fill_holes=True, grow=9, feather=2.0))
        assert area(mask) == 0


def test_without_a_brush_its_option_does_nothing():
    for mode in BRUSHED:
        assert made(["##.."], brush=mode) == "##.."


def test_an_empty_brush_is_still_a_brush():
    empty = np.zeros((1, 4), np.float32)

    results = {mode: made(["##.."], empty, brush=mode) for mode in BRUSHED}

    assert results == {"replace": "##..", "add": "##..", "subtract": "....", "intersect": "...."}


@pytest.mark.parametrize(("combine", "level"), [("union", 0.7), ("intersection", 0.1), ("difference", 0.4)])
def test_maps_may_come_one_at_a_time(combine, level):
    maps, negatives = random_maps(4, (5, 9), seed=3), random_maps(2, (5, 9), seed=4) / 2
    options = MaskOptions(threshold=level, combine=combine)

    streamed = make_mask(iter(maps), options, negatives=(negative for negative in negatives))

    assert (streamed == make_mask(maps, options, negatives=negatives)).all()
    assert 0 < area(streamed) < 45


def test_maps_that_come_one_at_a_time_are_freed():
    alive, most = set(), 0

    def stream(count):
        nonlocal most
        for seed in range(count):
            probability = random_maps(1, (4, 6), seed)[0].copy()
            alive.add(seed)
            weakref.finalize(probability, alive.discard, seed)
            most = max(most, len(alive))
            yield probability

    make_mask(stream(50), MaskOptions(), negatives=stream(50))

    assert most <= 3


def test_a_stream_may_fill_the_same_array_again_and_again():
    maps = random_maps(4, (5, 9), seed=5)

    def stream():
        buffer = np.empty((5, 9), np.float32)
        for probability in maps:
            buffer[:] = probability
            yield buffer

    options = MaskOptions(combine="intersection", threshold=0.2)
    expected = make_mask(maps, options, negatives=maps / 4)

    assert (make_mask(stream(), options, negatives=maps / 4) == expected).all()
    assert (subtract_negatives(maps[0], stream()) == subtract_negatives(maps[0], maps)).all()


def test_nothing_that_is_given_is_changed_or_given_back():
    maps, brush, mask = random_maps(2, (5, 9), seed=6), random_maps(1, (5, 9), seed=7)[0], random_mask((5, 9), 1)
    for array in (maps, brush, mask):
        array.setflags(write=False)  # a write raises

    results = [
        make_mask(maps, MaskOptions(), negatives=maps, given_mask=brush),
        make_mask(maps[0], MaskOptions(brush="add"), given_mask=brush),
        combine_with_given(brush, brush, "replace"),
        subtract_negatives(maps[0], []),
        feather(brush, 0.0),
        *(step(mask) for step in (invert, fill_holes, largest_component, union, intersection, difference)),
        *(grow(mask, pixels) for pixels in (-1, 0, 1)),
        *(drop_small(mask, smallest) for smallest in (0, 3)),
    ]

    for result in results:
        assert result.flags.writeable
        assert not any(np.shares_memory(result, given) for given in (maps, brush, mask))


def test_arrays_may_lie_in_memory_in_any_order():
    maps, mask = random_maps(2, (5, 9), seed=8), random_mask((5, 9), 2)
    options = MaskOptions(threshold=0.4, smallest_area=2, fill_holes=True, grow=1, feather=1.0)
    turned = np.asfortranarray(mask)

    assert (make_mask(np.asfortranarray(maps), options) == make_mask(maps, options)).all()
    for step in (invert, fill_holes, largest_component):
        assert (step(turned) == step(mask)).all()
    assert (grow(mask[::-1, ::-1], 2)[::-1, ::-1] == grow(mask, 2)).all()


# Measures


@each_case
def test_area_and_bounding_box_measure_as_a_loop_says(shape, seed):
    mask = random_mask(shape, seed) & random_mask(shape, seed + 4)
    pixels = [(y, x) for y, x in np.ndindex(shape) if mask[y, x]]
    rows, columns = [y for y, _ in pixels], [x for _, x in pixels]
    box = (min(columns), min(rows), max(columns) + 1, max(rows) + 1) if pixels else None

    assert area(mask) == len(pixels)
    assert bounding_box(mask) == box


def test_a_soft_mask_is_measured_to_its_last_trace():
    soft = np.array([[0, 0, 0, 0], [0, 0.01, 0.5, 0]], np.float32)

    assert area(soft) == 2
    assert bounding_box(soft) == (1, 1, 3, 2)


def test_measures_are_plain_numbers():
    assert type(area(picture("#."))) is int
    assert [type(side) for side in bounding_box(picture("#.")) or ()] == [int] * 4


# What a user can cause


def raised(kind, function, *arguments, **options):
    with pytest.raises(kind) as caught:
        function(*arguments, **options)
    return str(caught.value)


def test_numbers_that_are_none_are_counted_and_explained():
    probability = np.full((2, 5), 0.5, np.float32)
    probability[0, :3] = np.nan

    assert raised(OptionError, make_mask, probability, MaskOptions()) == (
        "The probability has 3 of 10 values that are not numbers. Most likely the model ran in half precision "
        "and left its range: run it in full precision (in the webui: --no-half) and try again."
    )


@pytest.mark.parametrize("wrong", [-0.01, 1.01, np.inf, -np.inf, 255.0])
def test_values_outside_of_zero_to_one_are_refused(wrong):
    probability = np.array([[0.5, wrong]], np.float32)
    low, high = sorted([0.5, wrong])

    assert raised(OptionError, threshold, probability, 0.5) == (
        f"The probability runs from {low:.6g} to {high:.6g}, but it must stay from 0 to 1. "
        "Logits need a sigmoid first, and 8-bit values must be divided by 255."
    )


def test_what_rounding_puts_just_outside_is_clipped():
    soft = np.array([[-5e-5, 0.5, 1 + 5e-5]])

    assert feather(soft, 0.0).tolist() == [[0.0, 0.5, 1.0]]


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.complex64])
def test_whole_numbers_are_no_probabilities(kind):
    assert raised(OptionError, threshold, np.zeros((2, 3), kind), 0.5) == (
        f"The probability holds {np.dtype(kind)}, but it must hold floating-point numbers from 0 to 1: "
        "convert it, and divide 8-bit values by 255."
    )


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4), (0, 3), (3, 0)])
def test_a_mask_of_another_shape_is_refused(shape):
    assert raised(ShapeError, grow, np.zeros(shape, bool), 1) == (
        f"The mask has the shape {shape}, but it must be (height, width) with at least one pixel: "
        "leave out empty images and the axis of channels."
    )


@pytest.mark.parametrize("shape", [(3,), (2, 0, 4), (1, 2, 3, 4)])
def test_maps_of_another_shape_are_refused(shape):
    assert raised(ShapeError, make_mask, np.zeros(shape, np.float32), MaskOptions()) == (
        f"The probability has the shape {shape}, but it must be (height, width) or (prompts, height, width) "
        "with at least one pixel: leave out empty images and the axis of channels."
    )


@pytest.mark.parametrize("none", [[], np.zeros((0, 3, 4), np.float32)])
def test_no_prompt_at_all_is_refused(none):
    assert raised(ShapeError, make_mask, none, MaskOptions()) == (
        "There is no map to make a mask of, because no prompt was given: give at least one."
    )


@pytest.mark.parametrize("wrong", [[[[0.5]]], "word", [None]])
def test_what_is_no_array_is_refused(wrong):
    name = type(wrong[0]).__name__

    assert raised(ShapeError, make_mask, wrong, MaskOptions()) == (
        f"The probability is a {name}, but it must be a numpy array: "
        "convert it first (a tensor with .cpu().numpy(), an image with numpy.asarray)."
    )


def test_a_single_thing_that_is_no_array_is_refused_too():
    assert "The probability is a float, but" in raised(ShapeError, make_mask, 0.5, MaskOptions())
    assert "The mask is a NoneType, but" in raised(ShapeError, area, None)


def test_maps_of_different_sizes_are_refused():
    maps = [np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32)]

    assert raised(ShapeError, make_mask, maps, MaskOptions()) == (
        "The probability of prompt 3 is 3 x 2, but that of the first is 2 x 3 (height x width). "
        "They belong to one image: scale them to its size first."
    )


def test_negatives_of_another_size_are_refused():
    maps, negatives = np.zeros((2, 2, 3), np.float32), np.zeros((1, 4, 6), np.float32)

    assert raised(ShapeError, make_mask, maps, MaskOptions(), negatives=negatives) == (
        "The size of the negative probability is 4 x 6, but that of the probability is 2 x 3 "
        "(height x width). They belong to one image: scale one to the size of the other."
    )


def test_a_brush_of_another_size_is_refused():
    brush = np.zeros((4, 6), np.float32)

    assert raised(ShapeError, make_mask, np.zeros((2, 3), np.float32), MaskOptions(), given_mask=brush) == (
        "The size of the given mask is 4 x 6, but that of the mask is 2 x 3 "
        "(height x width). They belong to one image: scale one to the size of the other."
    )


def test_a_hard_step_refuses_a_soft_mask():
    assert raised(OptionError, grow, np.zeros((2, 3), np.float32), 1) == (
        "The mask holds float32, but it must hold bool, because this step has no half-selected pixels: "
        "compare it first, for example mask >= 0.5."
    )


@pytest.mark.parametrize(
    ("function", "argument", "beginning"),
    [
        (threshold, 1.5, "threshold is 1.5, but it must be from 0.0 to 1.0"),
        (grow, 513, "grow is 513, but it must be from -512 to 512"),
        (grow, 1.5, "grow is 1.5, but it must be a whole number"),
        (feather, -1.0, "feather is -1.0, but it must be from 0.0 to 256.0"),
        (drop_small, -1, "smallest_area is -1, but it must be from 0 to"),
    ],
)
def test_each_step_keeps_the_range_of_its_option(function, argument, beginning):
    array = np.zeros((2, 3), np.float32 if function in (threshold, feather) else bool)

    assert raised(OptionError, function, array, argument).startswith(beginning)


def test_an_unknown_brush_mode_is_refused():
    mask = np.zeros((2, 3), bool)

    assert raised(OptionError, combine_with_given, mask, mask, "erase").startswith(
        "brush is 'erase', which is not known: give one of replace, add, subtract, intersect"
    )


def test_options_of_another_class_are_refused():
    with pytest.raises(OptionError, match=r"options is SegmentOptions.*but it must be MaskOptions"):
        make_mask(np.zeros((4, 6), np.float32), SegmentOptions())
