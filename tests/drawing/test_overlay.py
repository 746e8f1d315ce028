"""Pictures against slow versions in plain loops, and what a person must be able to see in them."""

import itertools
import weakref

import numpy as np
import pytest
from skimage.color import rgb2lab

from ldznet.drawing import colors, legend
from ldznet.drawing.colors import PALETTE
from ldznet.drawing.overlay import MAGENTA, color_map, heat_map, object_map, overlay
from ldznet.errors import OptionError, ShapeError
from ldznet.masks.objects import Objects

WHITE, BLACK, PANEL, EMPTY = (255, 255, 255), (0, 0, 0), (250, 250, 250), (225, 225, 225)
SHAPES = [(1, 1), (5, 9), (8, 1), (2, 30)]
each_case = pytest.mark.parametrize(("shape", "seed"), [(shape, seed) for shape in SHAPES for seed in range(3)])


def random_maps(count, shape, seed):
    """Values on a grid, so that prompts meet each other and the background level exactly."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 11, (count, *shape)) / 10).astype(np.float32)


def random_image(shape, seed):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def plain_image(shape, color):
    return np.full((*shape, 3), color, np.uint8)


def near(mask, y, x):
    """Whether a pixel or one of its four neighbours is in the mask."""
    around = [(y, x), (y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
    return any(0 <= v < mask.shape[0] and 0 <= u < mask.shape[1] and mask[v, u] for v, u in around)


@each_case
def test_a_tint_is_a_blend_with_one_colour(shape, seed):
    image, soft = random_image(shape, seed), random_maps(1, shape, seed)[0]
    hard = (soft > 0.5) * np.float32(0.4)

    for alpha in (soft, hard, np.zeros_like(soft)):
        assert np.array_equal(colors.tint(image, (230, 0, 130), alpha), colors.blend(image, (230, 0, 130), alpha))


@each_case
def test_a_table_of_blends_is_a_blend_of_each_pixel(shape, seed):
    grey, numbers = random_image(shape, seed)[..., 0], random_image(shape, seed)[..., 1] % 4
    palette, alphas = colors.colors_of(3), np.array([0, 0.25, 0.6, 1], np.float32)

    result = colors.look_up(colors.blend_table(palette, alphas), numbers, grey)

    under = np.repeat(grey[..., None], 3, axis=2)
    assert np.array_equal(result, colors.blend(under, palette[numbers], alphas[numbers]))


def contrast(one, other):
    """The contrast of WCAG 2.2, from 1 to 21."""

    def luminance(color):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in color)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


def lab(colors):
    return rgb2lab(np.asarray(colors, np.float64).reshape(-1, 1, 3) / 255)[:, 0]


# Overlay


@each_case
def test_overlay_is_tint_and_contour_as_a_loop_over_pixels_says(shape, seed):
    image, mask = random_image(shape, seed), random_maps(1, shape, seed + 10)[0]
    selected = mask >= 0.5

    result = overlay(image, mask, color=(10, 200, 90), opacity=0.4)

    assert result.shape == image.shape
    assert result.dtype == np.uint8
    for y, x in np.ndindex(shape):
        if selected[y, x] and near(~selected, y, x):
            expected = WHITE
        elif not selected[y, x] and near(selected, y, x):
            expected = BLACK
        else:
            share = 0.4 * mask[y, x]
            expected = image[y, x] * (1 - share) + np.array([10, 200, 90]) * share
        assert result[y, x] == pytest.approx(np.array(expected), abs=0.51)


def test_a_selected_square_looks_as_written():
    image = plain_image((5, 9), (100, 100, 100))
    mask = np.zeros((5, 9), bool)
    mask[:, 3:] = True

    result = overlay(image, mask, color=(200, 0, 100), opacity=0.5)

    row = [(100, 100, 100)] * 2 + [BLACK, WHITE] + [(150, 50, 100)] * 5
    assert result.tolist() == [[list(color) for color in row]] * 5


def test_the_lines_widen_with_the_picture():
    mask = np.zeros((800, 1600), bool)
    mask[400:] = True

    column = overlay(plain_image((800, 1600), (90, 90, 90)), mask)[:, 7].tolist()

    assert [y for y in range(800) if column[y] == list(BLACK)] == [397, 398, 399]
    assert [y for y in range(800) if column[y] == list(WHITE)] == [400, 401, 402]


@pytest.mark.parametrize("background", [WHITE, BLACK, MAGENTA, (128, 128, 128), (255, 220, 0), (0, 80, 200)])
def test_the_contour_can_be_seen_on_every_background(background):
    mask = np.zeros((9, 15), bool)
    mask[3:6, 4:11] = True

    result = overlay(plain_image((9, 15), background), mask)

    line = {tuple(result[2, x]) for x in range(4, 11)} | {tuple(result[3, x]) for x in range(4, 11)}
    assert line == {WHITE, BLACK}
    assert max(contrast(color, background) for color in line) > 4.5


def test_an_empty_mask_leaves_the_image_as_it_is():
    image = random_image((4, 6), seed=1)

    result = overlay(image, np.zeros((4, 6), np.float32))

    assert (result == image).all()
    assert not np.shares_memory(result, image)


def test_a_full_mask_has_no_contour():
    assert (overlay(plain_image((4, 6), BLACK), np.ones((4, 6), bool), opacity=1.0) == MAGENTA).all()


# Heat map


def test_the_heat_map_has_these_colors():
    probability = np.array([[0.0, 0.25, 0.5, 0.75, 1.0]], np.float32)

    assert heat_map(probability)[0].tolist() == [
        [0, 0, 4],
        [87, 16, 110],
        [188, 55, 84],
        [249, 140, 10],
        [252, 255, 164],
    ]


def test_the_heat_map_climbs_in_even_steps_of_lightness():
    every_level = np.linspace(0, 1, 256, dtype=np.float32)[None]

    steps = np.diff(lab(heat_map(every_level)[0])[::15, 0])

    assert steps.min() > 0.5 * steps.mean()
    assert steps.max() < 1.3 * steps.mean()


def test_a_probability_has_one_color_whatever_else_is_in_the_picture():
    probability = random_maps(1, (6, 11), seed=2)[0]

    result = heat_map(probability)

    for pixel in np.ndindex(probability.shape):
        assert (result[pixel] == heat_map(probability[pixel].reshape(1, 1))[0, 0]).all()


def test_the_heat_map_mixes_with_the_flat_grey_of_its_image():
    image, probability = random_image((4, 7), seed=3), random_maps(1, (4, 7), seed=4)[0]
    pure = heat_map(probability)

    result = heat_map(probability, image, opacity=0.25)

    for pixel in np.ndindex(probability.shape):
        red, green, blue = (int(channel) for channel in image[pixel])
        grey = 64 + 0.5 * (0.299 * red + 0.587 * green + 0.114 * blue)
        assert result[pixel] == pytest.approx(0.75 * grey + 0.25 * pure[pixel], abs=1.1)


@pytest.mark.parametrize("with_image", [False, True])
def test_the_heat_maps_legend_stands_below_and_hides_nothing(with_image):
    image = random_image((60, 300), seed=5) if with_image else None
    probability = np.linspace(0, 1, 60 * 300, dtype=np.float32).reshape(60, 300)

    alone, result = (heat_map(probability, image, legend=legend) for legend in (False, True))

    assert alone.shape == (60, 300, 3)
    assert result.shape == (60 + 42, 300, 3)
    assert (result[:60] == alone).all()


def test_a_narrow_heat_map_gets_a_bar_wide_enough_to_read():
    assert heat_map(np.ones((9, 4), np.float32), legend=True).shape == (9 + 42, 140, 3)


def test_the_heat_maps_bar_runs_through_all_colors():
    result = heat_map(np.zeros((60, 540), np.float32), legend=True)

    bar = result[60 + 14, 14:-14]
    expected = heat_map(np.linspace(0, 1, 540 - 28, dtype=np.float32)[None])[0]
    assert np.abs(bar.astype(int) - expected).max() <= 4
    assert (result[60 + 14, :14] == PANEL).all()


def test_the_bar_over_an_image_shows_the_mix_with_middle_grey():
    image = plain_image((60, 300), (128, 128, 128))

    result = heat_map(np.ones((60, 300), np.float32), image, legend=True)

    assert (result[60 + 14, -15] == result[0, 0]).all()


# Colour map


def slow_numbers(maps, background):
    numbers = np.zeros(maps.shape[1:], int)
    for pixel in np.ndindex(numbers.shape):
        values = [probability[pixel] for probability in maps]
        best = max(values)
        if best > 0 and best >= np.float32(background):
            numbers[pixel] = values.index(best) + 1
    return numbers


@each_case
@pytest.mark.parametrize("background", [0.0, 0.5, 0.9])
def test_each_pixel_goes_to_its_most_probable_prompt(shape, seed, background):
    maps = random_maps(4, shape, seed)

    _, numbers = color_map(maps, list("abcd"), background=background)

    assert numbers.dtype == np.uint16
    assert numbers.tolist() == slow_numbers(maps, background).tolist()


def test_the_first_of_equals_wins_and_nothing_is_background():
    maps = np.array([[[0.6, 0.6, 0.5, 0.4, 0.0]], [[0.6, 0.7, 0.5, 0.4, 0.0]]], np.float32)

    assert color_map(maps, ["one", "two"]).numbers.tolist() == [[1, 2, 1, 0, 0]]
    assert color_map(maps, ["one", "two"], background=0.0).numbers.tolist() == [[1, 2, 1, 1, 0]]


@each_case
def test_the_color_map_has_colors_and_lines_as_a_loop_over_pixels_says(shape, seed):
    maps = random_maps(4, shape, seed)

    picture, numbers = color_map(maps, list("abcd"), legend=False, background=0.8)

    assert picture.shape == (*shape, 3)
    for y, x in np.ndindex(shape):
        own = numbers[y, x]
        expected = WHITE if near(numbers > own, y, x) else (EMPTY, *PALETTE)[own]
        assert tuple(picture[y, x]) == expected


def test_over_an_image_colors_mix_and_the_background_stays_grey():
    image = plain_image((3, 9), (40, 90, 200))
    maps = np.zeros((2, 3, 9), np.float32)
    maps[0, :, :3], maps[1, :, 6:] = 1, 1

    row = color_map(maps, ["one", "two"], image, legend=False, opacity=0.75).image[1].tolist()

    grey = 64 + 0.5 * (0.299 * 40 + 0.587 * 90 + 0.114 * 200)
    mixed = [[0.25 * grey + 0.75 * channel for channel in color] for color in PALETTE[:2]]
    for place in (0, 1, 2):
        assert row[place] == pytest.approx(mixed[0], abs=1)
        assert row[8 - place] == pytest.approx(mixed[1], abs=1)
    assert row[3] == row[5] == list(WHITE)
    assert row[4] == pytest.approx([grey] * 3, abs=1)


def test_maps_may_come_one_at_a_time_and_are_freed():
    maps, alive, most = random_maps(30, (5, 9), seed=6), set(), 0

    def stream():
        nonlocal most
        for number in range(30):
            probability = maps[number].copy()
            alive.add(number)
            weakref.finalize(probability, alive.discard, number)
            most = max(most, len(alive))
            yield probability

    labels = [f"label {number}" for number in range(30)]
    streamed, at_once = color_map(stream(), labels), color_map(maps, labels)

    assert (streamed.numbers == at_once.numbers).all()
    assert (streamed.image == at_once.image).all()
    assert most <= 3


def test_with_more_prompts_than_colours_each_region_has_its_number():
    maps = np.zeros((10, 60, 600), np.float32)
    for number in range(10):
        maps[number, :, 60 * number : 60 * (number + 1)] = 1

    ten = color_map(maps, ["label"] * 10, legend=False).image
    eight = color_map(maps[:8], ["label"] * 8, legend=False).image

    assert (eight[20:40, 5:50] == PALETTE[0]).all()  # a colour says enough
    assert tuple(ten[5, 545]) == PALETTE[1]
    for number in range(10):  # the same chip as in the legend, in the middle of the region
        chip = legend.draw_chip(number + 1, 14, colors.color_of(number + 1))
        top, left = 30 - chip.shape[0] // 2, 60 * number + 30 - chip.shape[1] // 2
        assert any(
            (ten[top + dy : top + dy + 20, left + dx : left + dx + 28] == chip).all()
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
        )


def test_a_number_stands_on_every_large_part_and_on_one_small_one():
    maps = np.zeros((9, 60, 300), np.float32)
    maps[8, :, :80], maps[8, :, 220:] = 1, 1
    maps[8, 28:32, 150:154] = 1
    maps[7, 10:14, 100:104], maps[7, 40:44, 190:194] = 1, 1

    picture = color_map(maps, ["label"] * 9, plain_image((60, 300), (128,) * 3), legend=False).image

    def has_number(number, left, right):  # only the chip of a number has the colour unmixed
        return bool((picture[:, left:right] == colors.color_of(number)).all(axis=2).any())

    assert [has_number(9, *place) for place in ((0, 80), (220, 300), (130, 170))] == [True, True, False]
    assert has_number(8, 60, 210)


# Machado, Oliveira and Fernandes, 2009: colours as seen without one kind of cone, on linear RGB.
CONES = {
    "all": np.eye(3),
    "no red": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "no green": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "no blue": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


@pytest.mark.parametrize("cones", CONES)
def test_colour_blind_eyes_can_distinguish_the_palette(cones):
    linear = (np.array(PALETTE) / 255) ** 2.2 @ np.array(CONES[cones]).T
    seen = lab(np.clip(linear, 0, 1) ** (1 / 2.2) * 255)

    distances = [np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2)]

    assert min(distances) > 10  # one unit of Lab is about what can just be seen


def objects_of(*rows):
    """Numbers written out; each object's box is found here."""
    numbers = np.array([[int(letter) for letter in row] for row in rows], np.uint8)
    places = [np.nonzero(numbers == number) for number in range(1, int(numbers.max()) + 1)]
    return Objects(
        numbers, tuple((int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1) for y, x in places)
    )


def wide(*numbers, side=60):
    """Squares beside one another, each of one number."""
    return objects_of(*["".join(str(number) * side for number in numbers)] * side)


def test_each_object_has_its_colour_and_its_number_on_it():
    objects = wide(1, 0, 2)
    picture = object_map(objects, ["one", "two"], plain_image((60, 180), (128,) * 3), legend=False, opacity=1.0)

    assert tuple(picture[5, 5]) == PALETTE[0]
    assert tuple(picture[5, 175]) == PALETTE[1]
    assert tuple(picture[5, 90]) == (128, 128, 128)
    for column in (30, 150):  # the digit, dark on these colours
        assert picture[20:40, column - 10 : column + 10].max(axis=2).min() < 60


def test_objects_that_are_not_chosen_are_faint():
    image = plain_image((60, 180), (128,) * 3)
    plain, second = (
        object_map(wide(1, 0, 2), ["one", "two"], image, selection=chosen, legend=False).astype(int)
        for chosen in ((), (2,))
    )

    assert (plain[5, 175] == second[5, 175]).all()
    assert np.abs(second[5, 5] - 128).sum() < np.abs(plain[5, 5] - 128).sum() / 3


def test_a_number_is_whole_where_its_object_is_not():
    tiny = objects_of("1" + "0" * 59, *["0" * 60] * 39)

    picture = object_map(tiny, ["one"], plain_image((40, 60), (128,) * 3), legend=False)

    rows, columns = np.nonzero((picture == PALETTE[0]).all(axis=2))
    assert (rows.min(), columns.min()) == (0, 0)
    assert rows.max() + 1 == 20
    assert columns.max() + 1 >= 12


def test_objects_and_labels_must_be_as_many():
    with pytest.raises(ShapeError, match="There are 2 objects and 1 labels, but each object needs its label"):
        object_map(wide(1, 0, 2), ["one"], plain_image((60, 180), (0, 0, 0)))


# The legend


def entries(picture, height):
    """The panel below the picture as rows of booleans: where there is anything."""
    return (picture[height:] != PANEL).any(axis=2)


def test_the_legend_stands_below_and_hides_nothing():
    maps, image = random_maps(3, (50, 400), seed=7), random_image((50, 400), seed=8)

    alone, result = (
        color_map(maps, ["cat", "dog", "tree"], image, legend=legend).image for legend in (False, True)
    )

    assert alone.shape == (50, 400, 3)
    assert (result[:50] == alone).all()
    assert entries(result, 50).any()


def test_a_narrow_picture_gets_a_panel_wide_enough_to_read():
    picture = color_map(np.ones((1, 40, 30), np.float32), ["cat"], legend=True).image

    assert picture.shape == (40 + 38, 224, 3)
    assert (picture[:40, 30:] == PANEL).all()
    assert (picture[:40, :30] == PALETTE[0]).all()


def test_every_label_has_a_chip_in_its_color():
    maps = np.zeros((8, 60, 700), np.float32)

    picture = color_map(maps, [f"label {number}" for number in range(8)]).image

    found = {tuple(color) for color in picture[60:].reshape(-1, 3).tolist()}
    assert found >= set(PALETTE)


def test_a_chip_over_an_image_is_mixed_as_over_middle_grey():
    image = plain_image((60, 300), (128, 128, 128))

    picture = color_map(np.ones((1, 60, 300), np.float32), ["cat"], image).image

    assert (picture[60 + 8, 15] == picture[0, 0]).all()


def test_different_labels_give_different_legends():
    maps = np.zeros((1, 20, 300), np.float32)

    legends = [color_map(maps, [label]).image.tobytes() for label in ("cat", "dog", "Cat", "a cat", "")]

    assert len(set(legends)) == 5


def test_a_label_stands_beside_its_chip():
    cat, dog = (color_map(np.zeros((1, 20, 300), np.float32), [label]).image for label in ("cat", "dog"))

    changed = np.flatnonzero((cat != dog).any(axis=(0, 2)))

    chip_ends = 14 + 28
    assert (cat[20 + 8, 14:chip_ends] != PANEL).any(axis=1).all()
    assert changed.min() >= chip_ends + 7


@pytest.mark.parametrize("number", [1, 9, 99, 100, 800, 1000])
def test_every_chip_shows_its_number_whole(number):
    chip = legend.draw_chip(number, 14, (230, 159, 0))

    changed = np.flatnonzero((chip != (230, 159, 0)).any(axis=(0, 2)))
    assert chip.shape[1] >= 28
    assert changed.min() >= 3
    assert changed.max() < chip.shape[1] - 3


def test_text_grows_with_the_picture():
    sizes = {
        shape: legend.text_size(shape) for shape in [(1, 1), (512, 768), (1000, 1500), (8192, 8192), (3, 5000)]
    }

    assert sizes == {(1, 1): 14, (512, 768): 18, (1000, 1500): 36, (8192, 8192): 195, (3, 5000): 14}


def test_a_row_of_the_legend_takes_what_fits():
    assert legend._flow([1, 1, 1, 1], 3) == ([(0, 0), (0, 1), (0, 2), (1, 0)], 2)
    assert legend._flow([1, 3, 2, 2, 1], 3) == ([(0, 0), (1, 0), (2, 0), (3, 0), (3, 2)], 4)


def test_entries_of_the_legend_do_not_touch():
    labels = ["cat", "a rather long label for one thing", "dog", "W" * 200, "tree", "i" * 200, "grass"]
    panel = entries(color_map(np.zeros((7, 60, 640), np.float32), labels).image, 60)

    assert not panel[:, :14].any()
    assert not panel[:, -8:].any()
    rows = [row.any() for row in panel]
    lines = sum(after and not before for before, after in itertools.pairwise(rows))
    assert lines == 3  # cat, the long one and dog; W and tree; i, which is narrow, and grass


def test_ink_can_be_read_on_every_color():
    levels = range(0, 256, 15)

    worst = min(contrast(color, colors.ink(color)) for color in itertools.product(levels, repeat=3))

    assert worst > 4.5  # what WCAG asks for text


# Any size, nothing changed, and what a user can cause


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 5000), (5000, 3), (700, 40)])
def test_every_size_can_be_rendered(shape):
    image, probability = random_image(shape, seed=9), random_maps(1, shape, seed=9)[0]

    assert overlay(image, probability).shape == image.shape
    assert heat_map(probability, image).shape == image.shape
    alone = color_map([probability, 1 - probability], ["one", "two"], image, legend=False)
    assert alone.image.shape == image.shape
    for picture in (
        heat_map(probability, image, legend=True),
        color_map([probability, 1 - probability], ["one", "two"], image).image,
    ):
        assert picture.shape[0] > shape[0]
        assert picture.shape[1] >= shape[1]


def test_arguments_are_not_changed():
    image, maps = random_image((8, 12), seed=10), random_maps(2, (8, 12), seed=10)
    image.setflags(write=False)  # a write raises
    maps.setflags(write=False)

    pictures = [
        overlay(image, maps[0]),
        heat_map(maps[0], image),
        color_map(maps, ["one", "two"], image, legend=False).image,
    ]

    for picture in pictures:
        assert picture.flags.writeable
        assert not np.shares_memory(picture, image)


def test_an_image_may_lie_in_memory_in_any_order():
    image, maps = random_image((8, 12), seed=11), random_maps(2, (8, 12), seed=11)
    turned = image[::-1, :, ::-1].copy()[::-1, :, ::-1]

    assert (overlay(turned, maps[0]) == overlay(image, maps[0])).all()
    assert (heat_map(maps[0], turned) == heat_map(maps[0], image)).all()
    assert (color_map(maps, ["a", "b"], turned).image == color_map(maps, ["a", "b"], image).image).all()


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((4, 6), np.uint8), "uint8 (4, 6)"),
        (np.zeros((4, 6, 4), np.uint8), "uint8 (4, 6, 4)"),
        (np.zeros((4, 6, 3), np.float32), "float32 (4, 6, 3)"),
        ("picture.png", "str"),
    ],
)
def test_other_arrays_than_rgb_images_are_refused(image, found):
    expected = (
        f"The image is {found}, but it must be a numpy array of uint8 (height, width, 3), red, green and blue: "
        'convert it first, for example numpy.asarray(image.convert("RGB")).'
    )
    probability = np.zeros((4, 6), np.float32)

    for call in (
        lambda: overlay(image, probability),
        lambda: heat_map(probability, image),
        lambda: color_map(probability, ["cat"], image),
    ):
        with pytest.raises(ShapeError) as caught:
            call()
        assert str(caught.value) == expected


def test_an_image_of_another_size_is_refused():
    with pytest.raises(ShapeError) as caught:
        overlay(np.zeros((6, 4, 3), np.uint8), np.zeros((4, 6), bool))

    assert str(caught.value) == (
        "The image is 6 x 4, but what is drawn on it is 4 x 6 (height x width). "
        "They belong to one image: scale one to the other's size."
    )


@pytest.mark.parametrize(("maps", "labels"), [(2, 1), (2, 3), (0, 1), (0, 0)])
def test_each_map_needs_its_label(maps, labels):
    with pytest.raises(ShapeError) as caught:
        color_map([np.zeros((4, 6), np.float32)] * maps, ["label"] * labels)

    assert str(caught.value) == (
        f"There are {maps} probability maps and {labels} labels, but each map needs its label: "
        "give as many labels as maps, and at least one."
    )


@pytest.mark.parametrize("wrong", [-0.1, 1.5, float("nan")])
def test_fractions_stay_from_zero_to_one(wrong):
    image, probability = np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.float32)

    for name, call in (
        ("opacity", lambda: overlay(image, probability, opacity=wrong)),
        ("opacity", lambda: heat_map(probability, image, opacity=wrong)),
        ("opacity", lambda: color_map(probability, ["cat"], image, opacity=wrong)),
        ("background", lambda: color_map(probability, ["cat"], background=wrong)),
    ):
        with pytest.raises(OptionError) as caught:
            call()
        assert str(caught.value) == (
            f"{name} is {wrong}, but it must be from 0 to 1: give a number in that range."
        )


@pytest.mark.parametrize("wrong", [(1, 2), (0, 0, 256), (-1, 0, 0), None, "red", ("1", "2", "3")])
def test_a_color_is_three_numbers_of_8_bits(wrong):
    with pytest.raises(OptionError) as caught:
        overlay(np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), bool), color=wrong)

    assert str(caught.value) == (
        f"color is {wrong!r}, but it must be red, green and blue, each from 0 to 255: "
        "give three such numbers, for example (230, 0, 130)."
    )


def test_probabilities_are_checked_as_those_of_a_mask():
    with pytest.raises(OptionError, match=r"The probability runs from 0 to 3, but it must stay from 0 to 1\."):
        heat_map(np.array([[0.0, 3.0]], np.float32))
    with pytest.raises(ShapeError, match=r"The probability of prompt 2 is 3 x 2, but that of the first is 2 x 3"):
        color_map([np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32)], ["a", "b"])


@pytest.mark.parametrize(("labels", "wrong"), [(["cat", None], "None"), (None, "None"), ("ab", "'ab'")])
def test_labels_are_texts(labels, wrong):
    with pytest.raises(OptionError, match=f"labels holds {wrong}, but it must be a sequence of texts"):
        color_map(np.zeros((2, 4, 6), np.float32), labels)


def test_a_share_that_is_no_number_is_refused():
    with pytest.raises(OptionError, match="opacity is None, but it must be from 0 to 1"):
        overlay(np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), bool), opacity=None)
