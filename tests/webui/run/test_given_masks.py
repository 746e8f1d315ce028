"""What a run makes of painted masks, faint masks, scripts of the drop-down and loops."""

import numpy as np
import pytest
from host.brightness import SIZE, half
from host.process import Processing
from PIL import Image


def dots(*boxes):
    """Return a dark image with bright boxes."""
    image = Image.new("RGB", SIZE)
    for box in boxes:
        image.paste((255,) * 3, box)
    return image


TWO = dots((8, 8, 56, 56), (88, 16, 120, 48))
OTHER_TWO = dots((8, 8, 40, 40), (64, 8, 120, 56))


def at(mask, x, y):
    return np.asarray(mask)[y, x] > 127


# --- a painted mask where the prompts find nothing --------------------------------------------------------


def painted():
    mask = Image.new("L", SIZE)
    mask.paste(255, (10, 10, 30, 30))
    return mask


def test_added_to_a_painted_mask_words_that_find_nothing_leave_that(run, p):
    p.image_mask = painted()

    run.once(p, [{"prompt": "unicorn", "brush": "add"}])

    assert np.array_equal(np.asarray(p.read["image_mask"]), np.asarray(painted()))
    told = '"unicorn" reaches 0.00, and the threshold is 0.50: only what is painted is masked.'
    assert list(p.comments) == [told]
    assert p.extra_generation_params["LD-ZNet found"]["notes"] == [told]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"brush": "subtract"}, "nothing can be subtracted from the painted mask"),
        ({"brush": "intersect"}, "Lower the threshold, or use another prompt"),
        ({"brush": "add", "invert": True}, "Lower the threshold, or use another prompt"),
    ],
)
def test_otherwise_words_that_find_nothing_stop_the_run(run, p, more, said):
    p.image_mask = painted()

    assert said in run.stopped(p, [{"prompt": "unicorn", **more}])


def test_added_to_an_empty_painted_mask_there_is_nothing(run, p):
    p.image_mask = Image.new("L", SIZE)

    assert "Nothing to inpaint" in run.stopped(p, [{"prompt": "unicorn", "brush": "add"}])


# --- a mask that fades away, or is too small -------------------------------------------------------------


def faint(webui, **more):
    picture = dots((60, 28, 66, 34))
    return Processing(webui.model, [picture], mask_blur_x=0, mask_blur_y=0, **more)


def test_a_mask_below_one_half_is_told(run, webui):
    p = faint(webui)

    run.once(p, [{"prompt": "bright", "feather": 6.0, "threshold": 0.7}])

    assert p.read["image_mask"].getbbox()
    assert p.read["image_mask"].getextrema()[1] < 128
    assert any("The mask may be too faint or too small" in text for text in p.comments)
    assert "LD-ZNet found" in p.extra_generation_params


def test_soft_inpainting_repaints_what_is_faint(run, webui):
    p = faint(webui, mask_round=False)

    run.once(p, [{"prompt": "bright", "feather": 6.0, "threshold": 0.7}])

    assert list(p.comments) == []


def test_a_mask_smaller_than_a_cell_is_told_unless_only_its_surroundings_are_painted(run, webui):
    whole, part = faint(webui, width=64, height=32), faint(webui, width=64, height=32, inpaint_full_res=True)

    for p in (whole, part):
        run.once(p, [{"prompt": "bright", "threshold": 0.7}])

    assert any('choose "only masked"' in text for text in whole.comments)
    assert list(part.comments) == []


# --- scripts of the drop-down ----------------------------------------------------------------------------


def test_where_a_script_counts_on_results_no_file_of_a_batch_is_left_out(run, p):
    p.script_args = (3,)  # the third script, as SD upscale
    p.init()

    whole, _ = run.batch(p, [Image.new("RGB", SIZE), TWO], [{"prompt": "bright"}])

    assert len(whole.images) == 2
    assert whole.comments.startswith("Nothing to inpaint")


@pytest.mark.parametrize(("chosen", "count"), [((0,), 3), ((3,), 1)])
def test_mask_and_overlay_do_not_join_what_a_script_puts_together(run, p, chosen, count):
    p.script_args = chosen

    processed = run.once(p, [{"prompt": "bright", "append": True}])

    assert len(processed.images) == len(processed.infotexts) == count


def test_the_mask_of_a_script_that_paints_beyond_the_edges_gives_way_to_ours(run, p):
    p.latent_mask = Image.new("L", SIZE)

    run.once(p, [{"prompt": "bright"}])

    assert p.latent_mask is None


def test_a_batch_with_the_panel_off_keeps_its_own_comments(run, p):
    files = [TWO, OTHER_TWO]
    p.comment("of the webui")
    first, _ = run.batch(p, files, [False, "bright"])
    before = first.comments

    p.comment("of the second file")
    run.process_images(p, [False, "bright"])

    assert first.comments == before == "of the webui\n"


# --- Loopback --------------------------------------------------------------------------------------------


def test_the_script_loopback_keeps_the_first_mask_over_all_loops(run, p, method):
    first = run.once(p, [{"prompt": "bright"}])
    mask, calls = p.read["image_mask"], method.calls
    written = dict(p.extra_generation_params)
    p.init_images = [first.images[0]]

    run.process_images(p, [{"prompt": "bright"}])

    assert p.read["image_mask"] is mask
    assert method.calls == calls
    assert p.extra_generation_params == written


def test_after_its_first_loop_the_masked_content_is_that_of_the_script_loopback(run, p):
    args = [{"prompt": "bright", "fill": "latent noise"}]
    first = run.once(p, args)
    own = p.read["inpainting_fill"]
    p.init_images, p.inpainting_fill = [first.images[0]], 1  # loopback.py:68

    run.process_images(p, args)

    assert (own, p.read["inpainting_fill"]) == (2, 1)


def test_another_picture_of_the_same_run_is_searched(run, p, method):
    run.once(p, [{"prompt": "bright"}])
    p.init_images = [half(0, 255)]

    run.process_images(p, [{"prompt": "bright"}])

    assert (at(p.read["image_mask"], 20, 20), at(p.read["image_mask"], 100, 20)) == (False, True)
