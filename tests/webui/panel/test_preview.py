"""What the panel shows of a result: its images, numbers and lines, also where they are reduced."""

import numpy as np
import pytest
import torch
from host.brightness import SIZE, half
from PIL import Image

from ldznet.decision import decide
from ldznet.inference.tiles import RefinedPatch
from ldznet.masks.objects import find_objects
from ldznet.options import MaskOptions
from ldznet.result import Segmentation
from ldznet.webui import preview_scale
from ldznet.webui.controls import read_panel_settings
from ldznet.webui.page.tab_inputs import fitting_size
from ldznet.webui.panel import preview


def dots(*boxes, size=SIZE):
    """Return a dark image with bright boxes."""
    image = Image.new("RGB", size)
    for box in boxes:
        image.paste((255,) * 3, box)
    return image


TWO = dots((8, 8, 56, 56), (88, 16, 120, 48))


@pytest.fixture
def find(webui, session):
    """Return a function that segments an image."""

    def find(image, prompt="bright", **more):
        return session.segment_image(webui.model, image, read_panel_settings([{"prompt": prompt, **more}]))

    return find


def show(result, **options):
    options = MaskOptions(**options)
    return preview.draw_preview(result, options, decide(result.segmentation, options))


def describe(result, **options):
    options = MaskOptions(**options)
    return preview.describe_result(result, options, decide(result.segmentation, options))


def object_at(result, x, y, size=SIZE):
    """Return the number of the object at a pixel of an image of this size."""
    return preview.object_at(decide(result.segmentation, MaskOptions()), (x + 0.5) / size[0], (y + 0.5) / size[1])


def test_the_same_request_runs_once_and_sliders_run_nothing(find, session, method):
    result = find(half(), "bright | dark", negative_prompt="unicorn")
    calls = method.calls
    again = find(half(), "bright | dark", negative_prompt="unicorn")
    previews = [show(result, threshold=level) for level in (0.3, 0.6)]

    assert again is result
    assert session.kept_result(result.key) is result
    assert method.calls == calls
    assert all(shown.mask.shape == shown.overlay.shape[:2] == SIZE[::-1] for shown in previews)
    assert all(shown.colors is not None for shown in previews)


def test_the_heat_map_is_of_all_prompts(find):
    one, both = (find(half(), prompt) for prompt in ("bright", "bright | dark"))

    assert show(one).colors is None
    assert (preview.draw_probability(one)[30, 120] != preview.draw_probability(both)[30, 120]).any()


def test_the_status_says_what_was_found_and_how(find):
    lines = describe(find(half()))

    assert lines[0].startswith("bright: ")
    assert lines[1:] == ["Objects: 1; selected: all", "Method: brightness, of a test"]


@pytest.mark.parametrize(
    ("size", "expected"),
    [((192, 128), (192, 128)), ((4096, 2048), (2048, 1024)), ((30, 100), (64, 96)), ((513, 511), (512, 512))],
)
def test_the_size_fits_the_webuis_sliders(size, expected):
    assert fitting_size(size) == expected


def test_the_preview_numbers_the_objects_and_names_their_shares(find):
    one, two = find(half()), find(TWO)

    assert show(one).object_labels == ("bright, 50.0%",)
    assert show(two).object_labels == ("bright, 28.1%", "bright, 12.5%")
    assert show(two).objects.shape == (*SIZE[::-1], 3)
    assert show(find(TWO, "unicorn")).object_labels == ()
    assert describe(two)[1] == "Objects: 2; selected: all"
    assert describe(two, objects=(2, 9))[1] == "Objects: 2; selected: 2"
    assert describe(two, objects=(9,))[1] == "Objects: 2; selected: none"


def test_an_object_is_found_by_a_pixel_of_its_image(find):
    result = find(TWO)

    places = [(30, 30), (100, 30), (70, 30), (5, SIZE[1] + 5), (SIZE[0] + 5, 5)]
    assert [object_at(result, x, y) for x, y in places] == [1, 2, 0, 0, 0]


def test_masks_to_choose_from_show_the_same_part_with_their_thresholds(find):
    grey = Image.new("RGB", SIZE)
    for level, side in ((70, 60), (130, 44), (230, 24)):
        grey.paste((level,) * 3, (2, 2, 2 + side, 2 + side))
    steps, plain = find(grey), find(half())

    choices = preview.draw_threshold_choices(steps, MaskOptions())

    assert [choice.caption.split()[0] for choice in choices] == ["tight", "middle", "loose"]
    assert all(choice.caption.endswith(f" {choice.threshold:.2f}") for choice in choices)
    shares = [steps.segmentation.mask(MaskOptions(threshold=choice.threshold)).sum() for choice in choices]
    assert shares == pytest.approx([24**2, 44**2, 60**2], rel=0.15)
    assert len({choice.image.shape for choice in choices}) == 1
    assert choices[0].image.shape[1] < SIZE[0]
    assert preview.draw_threshold_choices(plain, MaskOptions()) == []


def test_inverted_prompts_that_find_nothing_show_an_empty_mask(find):
    assert not show(find(half(), "unicorn"), invert=True).mask.any()


# --- large pictures --------------------------------------------------------------------------------------


@pytest.fixture
def small_window(monkeypatch):
    """Show images reduced that are longer than 128 pixels."""
    monkeypatch.setattr(preview_scale, "LONGEST", 128)


LARGE = dots((20, 20, 150, 170), (250, 40, 340, 120), size=(384, 192))


@pytest.fixture
def large(find, small_window):
    """Return a result with two things, in three times as many pixels as are shown."""
    return find(LARGE)


def test_a_large_picture_is_shown_reduced_and_masked_at_its_own_size(large):
    look = show(large)

    assert look.mask.shape == (192, 384)
    assert look.overlay.shape == look.objects.shape == (64, 128, 3)
    assert preview.draw_whole_overlay(large, decide(large.segmentation, MaskOptions())).shape == (192, 384, 3)


def test_a_reduced_overlay_shows_what_the_mask_has(large):
    look = show(large)

    tinted = look.overlay.astype(int)
    selected = np.asarray(Image.fromarray(look.mask).resize((128, 64), Image.Resampling.BOX)) > 127
    inside = np.abs(tinted - np.array([242, 128, 192])).max(axis=-1) < 8  # white, half magenta
    assert (inside & selected).sum() > 0.8 * selected.sum()
    assert not (inside & ~selected).any()


def test_in_a_reduced_picture_a_click_finds_the_same_object(large):
    places = [(28, 30), (98, 26), (65, 20), (60, 70)]  # the last is below the image

    assert [object_at(large, x, y, (128, 64)) for x, y in places] == [1, 2, 0, 0]
    numbers = large.segmentation.objects(MaskOptions()).numbers
    assert (numbers[90, 84], numbers[78, 294]) == (1, 2)


def test_the_status_of_a_reduced_picture_tells_the_share_of_the_whole_before_it_grows(large):
    options = {"smallest_area": 1000}
    line = describe(large, grow=6, feather=3.0, **options)[0]

    exact = large.segmentation.prompt_statistics(MaskOptions(**options))[0]["share"]
    assert float(line.split()[1].rstrip("%")) / 100 == pytest.approx(exact, abs=0.01)


def test_what_a_second_look_has_found_is_reduced_too():
    patch = RefinedPatch((100, 50, 200, 150), np.ones((8, 8), np.float32))
    whole = Segmentation(("a",), (), (200, 300), torch.zeros(1, 8, 12), {}, (), ((patch,),))

    small = preview_scale.reduce_segmentation(whole, (100, 150)).net_probability(0)

    assert small.shape == (100, 150)
    assert (small[50, 75], small[10, 75], small[50, 10]) == (1, 0, 0)


def test_an_object_that_is_too_small_to_be_shown_has_its_number_and_a_box():
    mask = np.zeros((400, 400), bool)
    mask[10:26, 10:26] = mask[201, 203] = True

    small = preview_scale.reduce_objects(find_objects(mask), (20, 20))

    assert small.boxes == ((0, 0, 1, 1), (10, 10, 11, 11))
    assert len(small) == 2
