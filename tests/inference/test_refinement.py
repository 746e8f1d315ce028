"""A second look at the parts of an image where something was found."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from stand_in_art import stand_in_world

from ldznet.inference import tiles
from ldznet.inference.passes import count_passes
from ldznet.inference.tiles import (
    RefinedPatch,
    add_tile,
    find_boxes,
    find_tiles,
    join,
    lay_over,
    merge,
)
from ldznet.methods.learned_head import random_head
from ldznet.methods.method import Defaults
from ldznet.options import MaskOptions, SegmentOptions
from ldznet.research.studies.refinement import STAGES, Refinement, measure_refinement, refinement_table
from ldznet.segmenter import Segmenter

REFINE = SegmentOptions(resolution=64, refine=True)
PLAIN = SegmentOptions(resolution=64)


def a_map(*parts, size=(32, 48)):
    """0.02 everywhere but in some boxes (xyxy, and a value)."""
    coarse = np.full(size, 0.02, np.float32)
    for left, top, right, bottom, value in parts:
        coarse[top:bottom, left:right] = value
    return coarse


# --- where to look -------------------------------------------------------------------------------------


def test_a_box_lies_around_what_stands_out_with_room_around_it():
    coarse = a_map((10, 8, 14, 12, 0.9))  # pixels 100 to 140 and 80 to 120 of the image: half of 40 on each side

    assert find_boxes(coarse, (320, 480), 128) == [(80, 60, 160, 140)]


def test_boxes_do_not_depend_on_how_probable_the_best_is():
    for value in (0.3, 0.7, 1.0):
        assert find_boxes(a_map((10, 8, 14, 12, value)), (320, 480), 128) == [(80, 60, 160, 140)]


def test_a_box_is_at_least_half_of_what_the_network_sees_and_lies_inside_the_image():
    coarse = a_map((0, 0, 1, 1, 0.9))

    assert find_boxes(coarse, (320, 480), 300) == [(0, 0, 150, 150)]
    assert find_boxes(coarse[::-1, ::-1], (320, 480), 300) == [(330, 170, 480, 320)]


def test_a_long_thing_gets_room_by_its_longer_side():
    coarse = a_map((10, 4, 11, 24, 0.9))  # 10 x 200 pixels

    assert find_boxes(coarse, (320, 480), 64) == [(0, 0, 210, 320)]


def test_two_parts_far_apart_get_a_box_each_the_more_probable_first():
    coarse = a_map((2, 2, 6, 6, 0.6), (36, 22, 40, 26, 0.9))

    assert find_boxes(coarse, (320, 480), 64) == [(340, 200, 420, 280), (0, 0, 80, 80)]


def test_boxes_that_overlap_become_one():
    coarse = a_map((10, 8, 14, 12, 0.9), (16, 9, 18, 11, 0.9))

    assert find_boxes(coarse, (320, 480), 64) == [(80, 60, 190, 140)]


def test_specks_beside_a_thing_are_left_as_they_are_and_there_are_never_many_boxes():
    speck = a_map((2, 2, 10, 10, 0.9), (40, 25, 41, 26, 0.9))
    many = a_map(*((4 * n, 10, 4 * n + 1, 11, 0.9) for n in range(12)))

    assert len(find_boxes(speck, (320, 480), 32)) == 1
    assert len(find_boxes(many, (320, 480), 16)) == tiles.PARTS


@pytest.mark.parametrize("coarse", [a_map(), a_map((4, 4, 44, 28, 0.9)), np.zeros((32, 48), np.float32)])
def test_where_nothing_is_found_or_nearly_everything_there_is_no_box(coarse):
    assert find_boxes(coarse, (320, 480), 128) == []


def test_a_box_that_shows_hardly_more_than_the_tiles_is_left_out():
    coarse = a_map((10, 8, 21, 19, 0.9))  # 220 x 220 of 320 x 480 pixels with its room: 0.32 of the image

    assert find_boxes(coarse, (320, 480), 128) == [(45, 25, 265, 245)]
    assert find_boxes(coarse, (320, 480), 128, tiles.TILE) == []
    assert find_boxes(a_map((10, 8, 14, 12, 0.9)), (320, 480), 128, tiles.TILE) == [(80, 60, 160, 140)]


# --- tiles ---------------------------------------------------------------------------------------------


def test_tiles_are_half_as_wide_and_high_and_overlap_by_half():
    tiles = find_tiles((320, 480), 128)

    assert tiles[:3] == [(0, 0, 240, 160), (120, 0, 360, 160), (240, 0, 480, 160)]
    assert tiles[-1] == (240, 160, 480, 320)
    assert len(tiles) == 9


def test_tiles_reach_to_the_borders_of_an_image_with_odd_sides():
    tiles = find_tiles((301, 503), 128)

    assert {(left, right) for left, _, right, _ in tiles} == {(0, 252), (125, 377), (251, 503)}
    assert {(top, bottom) for _, top, _, bottom in tiles} == {(0, 151), (75, 226), (150, 301)}


def test_an_image_that_is_hardly_larger_than_what_the_network_sees_has_no_tiles():
    assert find_tiles((191, 191), 128) == []
    assert len(find_tiles((192, 192), 128)) == 9
    assert len(find_tiles((96, 384), 128)) == 9


def test_what_all_tiles_say_stays_as_it_is():
    tiles = np.zeros((16, 32), np.float32)
    for number in range(9):
        add_tile(tiles, number, np.full((8, 16), 0.8, np.float32))

    assert np.allclose(tiles, np.log(4))


def test_each_tile_lies_in_its_place():
    for number, (top, left) in enumerate((top, left) for top in (0, 4, 8) for left in (0, 8, 16)):
        tiles = np.zeros((16, 32), np.float32)
        add_tile(tiles, number, np.full((8, 16), 0.8, np.float32))
        rows, columns = np.nonzero(tiles)
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (top, top + 7, left, left + 15)


def test_a_thing_that_only_the_tiles_see_well_is_found_where_the_first_look_was_in_doubt():
    coarse = np.full((8, 8), 0.02, np.float32)
    coarse[2:4, 2:4] = 0.2
    seen = np.full((16, 16), 0.02)
    seen[5:7, 5:7] = 0.9

    both = join(coarse, np.log(seen / (1 - seen)).astype(np.float32))

    assert both.shape == (16, 16)
    assert both[5:7, 5:7].min() > 0.5
    both[5:7, 5:7] = 0
    assert both.max() < 0.2


def test_a_prompt_takes_thirteen_passes_at_most():
    assert count_passes("head", SegmentOptions(refine=True), 1) == 13


# --- both looks together -------------------------------------------------------------------------------


def test_the_second_looks_edges_take_the_place_of_the_firsts_and_as_much_is_found_as_both_say():
    coarse = np.zeros((16, 24), np.float32)
    coarse[4:8, 8:12] = [[0.2, 0.4, 0.4, 0.2]] * 4  # pixels 80 to 120 and 40 to 80 of the image
    fine = np.full((20, 20), 0.01, np.float32)
    fine[4:12, 6:14] = 0.6

    both = merge(coarse, (160, 240), (60, 20, 140, 100), fine)

    inside = np.zeros((20, 20), bool)
    inside[4:12, 6:14] = True
    assert both.shape == (20, 20)
    assert both[inside].min() > 5 * both[~inside].max()
    # The first has 4 x 4 pixels of 0.3 in 8 x 8, the second 8 x 8 of 0.6 in 20 x 20: 0.075 and 0.104 on average.
    assert both.mean() == pytest.approx((0.075 * 0.104) ** 0.5, rel=0.1)


def test_a_part_that_the_first_look_missed_counts_less():
    """The second look sees two things of the kind, the first has found one of them."""
    coarse = np.full((16, 16), 0.01, np.float32)
    coarse[4:12, 2:6] = 0.9
    fine = np.full((16, 16), 0.01, np.float32)
    fine[4:12, 2:6] = fine[4:12, 10:14] = 0.8

    both = merge(coarse, (16, 16), (0, 0, 16, 16), fine)

    assert both[6, 4] > 0.7
    assert both[6, 12] < 0.35


def test_a_thing_that_fills_its_box_is_no_less_probable_for_that():
    coarse = np.full((16, 16), 0.01, np.float32)
    coarse[4:12, 4:12] = 0.8
    fine = np.where(coarse > 0.5, 0.1, 0.01).astype(np.float32)

    both = merge(coarse, (16, 16), (0, 0, 16, 16), fine)

    assert both.mean() == pytest.approx(coarse.mean(), rel=0.02)
    assert both[8, 8] > 0.75


# --- laying over ---------------------------------------------------------------------------------------


def test_a_patch_takes_the_maps_place_and_fades_towards_its_borders():
    whole = lay_over(np.zeros((40, 60), np.float32), [RefinedPatch((20, 10, 36, 26), np.ones((8, 8), np.float32))])

    assert whole[10:26, 20:36].min() > 0
    assert (whole[12:24, 22:34] == 1).all()
    assert whole[18, 19:23].tolist() == [0, 0.25, 0.75, 1]
    whole[10:26, 20:36] = 0
    assert not whole.any()


def test_at_the_images_own_border_nothing_fades():
    whole = lay_over(np.zeros((40, 60), np.float32), [RefinedPatch((0, 24, 16, 40), np.ones((8, 8), np.float32))])

    assert (whole[26:40, :14] == 1).all()
    assert whole[30, 13:17].tolist() == [1, 0.75, 0.25, 0]


# --- through the segmenter -----------------------------------------------------------------------------


class Bright:
    """A method that finds what is bright: its map is the picture itself."""

    name = "bright"
    defaults = Defaults(resolution=64)
    needs_all_prompts = False
    record = {"method": "bright"}  # noqa: RUF012

    def check(self, host):
        """Any will do."""

    def probability(self, _host, picture, prompts, _draw):
        return ((picture.pixels[:, 1] + 1) / 2).expand(len(prompts), -1, -1).clone()


def a_picture(*boxes, size=(512, 384)):
    """Black, with white boxes; PIL's size."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    for left, top, right, bottom in boxes:
        pixels[top:bottom, left:right] = 255
    return Image.fromarray(pixels)


@pytest.fixture
def segmenter(host):
    return Segmenter(host, Bright())


BARS = tuple((left, 101, left + 6, 131) for left in (200, 212, 224))  # closer than the network's 8 pixels


def off_by(found, boxes=BARS):
    expected = np.asarray(a_picture(*boxes))[..., 0] > 0
    return int(((found.mask() > 0.5) != expected).sum())


def test_a_second_look_finds_the_edges_of_small_things(segmenter):
    segmenter.set_image(a_picture(*BARS))

    plain, refined = (segmenter.segment("it", options) for options in (PLAIN, REFINE))

    assert plain.patches == ()
    assert (tuple(plain.maps.shape), tuple(refined.maps.shape)) == ((1, 64, 64), (1, 128, 128))
    assert off_by(plain) > 300
    assert off_by(refined) < 100
    assert refined.record["refine"] is True


def test_every_prompt_and_negative_prompt_is_looked_at_again_at_the_networks_size(host, segmenter, monkeypatch):
    sizes = []
    encode_image = host.encode_image
    monkeypatch.setattr(host, "encode_image", lambda x, n=None: sizes.append(x.shape[-2:]) or encode_image(x, n))
    segmenter.set_image(a_picture((203, 101, 243, 125), (400, 300, 420, 320)))
    progress = []

    found = segmenter.segment(
        ["it", "that"], REFINE, negative_prompts="other", progress=lambda *args: progress.append(args)
    )

    assert [len(patches) for patches in found.patches] == [2, 2, 2]
    assert len(sizes) == 1 + 9 + 6
    assert {max(size) for size in sizes} == {64}
    assert progress[0] == (3, 33)
    assert progress[-1] == (36, 36)
    assert max(done for done, _ in progress) <= 3 * 13
    assert progress == sorted(progress)
    assert not found.mask().any()  # the negative prompt takes away the very same, edge for edge


def test_nothing_is_looked_at_again_where_nothing_was_found(segmenter):
    segmenter.set_image(a_picture())
    progress = []

    found = segmenter.segment("it", REFINE, progress=lambda *args: progress.append(args))

    assert found.patches == ((),)
    assert progress == [(1, 11), (1, 1)]
    assert not found.mask(MaskOptions(threshold=0.1)).any()


class Noisy(Bright):
    """What is bright, more or less by the noise that was drawn."""

    def probability(self, host, picture, prompts, draw):
        noise = torch.nn.functional.interpolate(draw.noise[:, :1], size=picture.pixels.shape[-2:])[:, 0]
        return super().probability(host, picture, prompts, draw) * (0.8 + 0.2 * noise.sigmoid())


def test_only_what_was_found_is_looked_for_in_tiles(segmenter, monkeypatch):
    plain, rows = segmenter.method.probability, []

    def one_of_two(host, picture, prompts, draw):
        rows.append(prompts.phrases)
        found = plain(host, picture, prompts, draw)
        return found * torch.tensor([float(phrase == "it") for phrase in prompts.phrases])[:, None, None]

    monkeypatch.setattr(segmenter.method, "probability", one_of_two)
    segmenter.set_image(a_picture(*BARS))
    found = segmenter.segment(["other", "it"], REFINE)

    assert rows == [("other", "it"), *[("it",)] * 10]
    assert found.maps.shape[-2:] == (128, 128)
    assert not found.maps[0].any()
    assert [len(patches) for patches in found.patches] == [0, 1]


def test_an_image_of_the_networks_size_has_boxes_only(segmenter):
    segmenter.set_image(a_picture((20, 20, 32, 32), size=(80, 80)))

    found = segmenter.segment("it", REFINE)

    assert found.maps.shape[-2:] == (64, 64)
    assert len(found.patches[0]) == 1


def test_refining_is_repeatable_from_its_record(host):
    found, options = [], SegmentOptions(resolution=64, refine=True, seeds=(5, 6))
    for _ in range(2):
        segmenter = Segmenter(host, Noisy())
        segmenter.set_image(a_picture(*BARS))
        found.append(segmenter.segment(["cat", "dog"], options))
        options = SegmentOptions(**{name: found[0].record[name] for name in ("resolution", "refine", "seeds")})
        torch.randn(3)  # the user's own random numbers in between
    other = segmenter.segment(["cat", "dog"], REFINE)

    assert [len(patches) for patches in found[0].patches] == [1, 1]
    assert np.array_equal(found[0].probabilities(), found[1].probabilities())
    assert not np.array_equal(found[0].probabilities(), other.probabilities())


def test_released_randomness_is_drawn_for_each_look(segmenter):
    segmenter.set_image(a_picture(*BARS))

    found = segmenter.segment("it", SegmentOptions(resolution=64, refine=True, randomness="released"))

    assert off_by(found) < 100


def test_many_prompts_on_a_large_picture_keep_small_patches(segmenter):
    segmenter.set_image(a_picture((1000, 1000, 1150, 1150), (3000, 250, 3100, 300), size=(4096, 2048)))

    found = segmenter.segment([f"thing {n}" for n in range(10)], REFINE)

    patches = sum(found.patches, ())
    assert len(patches) == 20
    assert sum(patch.probability.nbytes for patch in patches) <= 20 * 64 * 64 * 4
    assert found.maps.nbytes <= 10 * 4 * 64 * 64 * 4


def test_out_of_memory_halves_the_first_look_and_the_second_runs_one_by_one(segmenter, monkeypatch):
    segmenter.set_image(a_picture((20, 20, 32, 32), size=(80, 80)))
    expected = segmenter.segment(["a", "b", "c"], REFINE)
    plain, rows = segmenter.method.probability, []

    def tight(host, picture, prompts, draw):
        rows.append(len(prompts))
        if len(prompts) > 1:
            raise MemoryError
        return plain(host, picture, prompts, draw)

    monkeypatch.setattr(segmenter.method, "probability", tight)
    found = segmenter.segment(["a", "b", "c"], REFINE)

    assert rows == [3, 1, 1, 1, 1, 1, 1]
    assert np.array_equal(found.probabilities(), expected.probabilities())


# --- its measurement -----------------------------------------------------------------------------------


def test_masks_are_measured_with_and_without_refinement_by_the_size_of_the_object(host):
    head = random_head(host.info.unet)
    head._defaults = Defaults(resolution=64)
    found = measure_refinement(host, head, stand_in_world(), ["noto"], 96, 2)

    record = json.loads(json.dumps(found.record()))
    assert record["size"] == 96
    assert record["numbers"]["all"]["samples"] == 6
    assert record["stages"] == list(STAGES)
    assert len(record["numbers"]["all"]["miou"]) == len(record["empty_0.5"]) == 3
    assert record["cost"] > 0
    assert 1 < record["passes"] <= 13
    assert sum(part["samples"] for name, part in record["numbers"].items() if name != "all") == 6


def test_the_table_shows_every_stage_and_the_cost():
    one = Refinement(256, seconds=[2.0, 5.0], passes=[4, 48])
    target = np.zeros((8, 8), bool)
    target[:4] = True
    from ldznet.research.datasets.sample import Sample
    from ldznet.research.evaluation.runner import Prediction

    sample = Sample("k", np.zeros((8, 8, 3), np.uint8), "it", target, {"size": ("small",)})
    for scores, rows in zip(one.scores, (2, 3, 4), strict=True):
        scores.update(
            Prediction(sample, (np.arange(8)[:, None] < rows) * np.full((8, 8), 0.9, np.float32), target)
        )

    shown = refinement_table([one])

    # 16 of 32 pixels, 24, and all of them; the protocol adds 1 to what is divided by
    stages = "48.5 -> 72.7 -> 97.0 | 48.5 -> 72.7 -> 97.0"
    assert f"| 256 px | small | 1 | {stages} |  |  |  |" in shown
    assert f"| 256 px | all | 1 | {stages} |  | x 12.00 | x 2.50 |" in shown
