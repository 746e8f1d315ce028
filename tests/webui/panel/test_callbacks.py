"""What a click and a slider of the panel do, against the stand-in of the webui; and a run that must agree."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from host import infotext as pictures
from host.brightness import SIZE, half
from host.process import Processing
from PIL import Image

from ldznet.errors import LdznetError
from ldznet.webui import infotext, preview_scale, session
from ldznet.webui.controls import CONTROLS
from ldznet.webui.page import tab_inputs

pytest.importorskip("gradio")

import gradio as gr

from ldznet.webui.panel import callbacks, preview

NO_SKETCH = (None, 4, 0)
OUTPUTS = (
    *("key", "brush", "chosen_in", "head", "objects"),
    *(
        "status",
        "preview",
        "overlay",
        "mask",
        "heat",
        "colors",
        "objects_picture",
        "enlarge",
        "choices",
        "offered",
    ),
)


def dots(*boxes, size=SIZE):
    """A dark picture with bright boxes."""
    picture = Image.new("RGB", size)
    for box in boxes:
        picture.paste((255,) * 3, box)
    return picture


TWO = dots((8, 8, 56, 56), (88, 16, 120, 48))
OTHER_TWO = dots((8, 8, 40, 40), (64, 8, 120, 56))


@pytest.fixture
def page(webui, method, monkeypatch):
    """The values of all controls, for clicks."""
    monkeypatch.setattr(session, "loaded_model", lambda: webui.model)
    return {control.name: control.default for control in CONTROLS} | {"enabled": True, "prompt": "bright"}


def asked(page, picture, chosen_in="", *, tab=0, sketch=NO_SKETCH):
    pictures = [picture if place == tab else None for place in range(len(tab_inputs.PICTURES))]
    return ["", tab, *pictures, *sketch, *page.values(), chosen_in]


def segment(page, picture, chosen_in="", **more):
    """-> what the page keeps and shows, by name."""
    return dict(zip(OUTPUTS, callbacks.segment(*asked(page, picture, chosen_in, **more)), strict=True))


def at(mask, x, y):
    return np.asarray(mask)[y, x] > 127


def test_segment_uses_the_page_as_it_is_when_the_queue_is_free_not_another_runs(page, webui, method, monkeypatch):
    class RunThatEnds:
        def __enter__(self):
            webui.shared.opts.ldznet_template = ""

        def __exit__(self, *_):
            pass

    webui.shared.opts.ldznet_template = "a drawing of {}"  # overridden by a run
    monkeypatch.setattr(sys.modules["modules.call_queue"], "queue_lock", RunThatEnds())

    found = webui.session.kept_result(segment(page, TWO)["key"])

    assert found.segmentation.record["template"] == "a photo of a {}."  # the default


# --- numbers of objects belong to what they were chosen in -----------------------------------------------


def test_after_segment_the_numbers_belong_to_what_is_shown(page):
    shown = segment(page, TWO)

    assert shown["chosen_in"] == shown["key"] != ""


def test_numbers_of_another_picture_are_let_go_by_segment(page):
    page["objects"] = "2"

    again = segment(page, OTHER_TWO, segment(page, TWO)["key"])

    assert again["objects"] == ""
    assert at(again["mask"], 20, 20)
    assert at(again["mask"], 90, 30)


def test_numbers_without_what_they_were_chosen_in_stay(page):
    page["objects"] = "2"

    shown = segment(page, TWO)

    assert (at(shown["mask"], 30, 30), at(shown["mask"], 100, 30)) == (False, True)
    assert shown["objects"] != ""


def test_numbers_that_are_read_from_a_picture_belong_to_nothing_that_was_shown():
    controls = [SimpleNamespace(value=control.default) for control in CONTROLS]
    fields = infotext.fields([*controls, SimpleNamespace(value="what was shown before")])
    ours = pictures.write({"LD-ZNet prompt": "bright", "LD-ZNet objects": "2"})

    *_, objects, chosen_in = pictures.paste(fields, ours)

    assert (objects, chosen_in) == ("2", "")
    assert pictures.paste(fields, pictures.write({}))[-1] == "what was shown before"


def test_generate_lets_numbers_of_another_picture_go_and_says_so(run, p, page):
    page["objects"] = "2"
    p.init_images = [OTHER_TWO]

    run.once(p, [*page.values(), segment(page, TWO)["key"]])

    assert at(p.read["image_mask"], 20, 20)
    assert at(p.read["image_mask"], 90, 30)
    assert any(text.startswith("Objects 2 were chosen in another picture") for text in p.comments)
    assert "LD-ZNet objects" not in p.extra_generation_params


def test_generate_takes_the_numbers_that_were_chosen_in_the_same(run, p, page):
    page["objects"] = "2"
    p.init_images = [TWO]

    run.once(p, [*page.values(), segment(page, TWO)["key"]])

    assert (at(p.read["image_mask"], 30, 30), at(p.read["image_mask"], 100, 30)) == (False, True)
    assert p.extra_generation_params["LD-ZNet objects"] == "2"


def test_in_batch_the_numbers_are_of_each_file(run, p, page):
    page["objects"] = "1"

    _, reads = run.batch(p, [TWO, OTHER_TWO], [*page.values(), segment(page, half())["key"]])

    assert [at(reads[0]["image_mask"], *place) for place in ((30, 30), (100, 30))] == [True, False]
    assert [at(reads[1]["image_mask"], *place) for place in ((20, 20), (90, 30))] == [False, True]


def test_a_click_on_an_object_says_what_it_was_chosen_in(page):
    key = segment(page, TWO)["key"]

    numbers, chosen_in, _ = callbacks.pick(SimpleNamespace(index=[100, 30]), key, *page.values())

    assert (numbers, chosen_in) == ("2", key)


# --- what was forgotten ----------------------------------------------------------------------------------


def test_a_slider_whose_segmentation_is_forgotten_says_what_to_do(page, webui):
    key = segment(page, TWO)["key"]
    webui.session.unload()

    moved = [act(key, None, *page.values()) for act in (callbacks.move, callbacks.redraw, callbacks.enlarge)]

    assert all("Press Segment again" in values[0] for values in moved)
    assert [len(values) for values in moved] == [8, 10, 2]
    assert "Press Segment again" in callbacks.pick(SimpleNamespace(index=[1, 1]), key, *page.values())[-1]


@pytest.mark.parametrize(
    ("changes", "strokes"),
    [
        ({"brush": "intersect"}, (100, 50, 120, 60)),
        ({"brush": "subtract"}, (20, 20, 40, 40)),
        ({"grow": -100}, None),
    ],
)
def test_a_mask_with_nothing_left_in_it_is_told_and_not_sent(page, changes, strokes):
    page |= changes
    picture = dots((8, 8, 56, 56))
    painted = picture
    if strokes:
        painted = {"image": picture, "mask": dots(strokes).convert("L")}

    shown = segment(page, painted, tab=2 if strokes else 0)
    sent = callbacks.send(*asked(page, painted, tab=2 if strokes else 0))

    assert "ldznet-error" in shown["status"]
    assert "the other options leave nothing of it" in shown["status"]
    assert sent[:4] == [gr.update()] * 4


def test_after_a_refusal_the_sliders_act_on_what_is_shown_still(page, webui):
    before = segment(page, TWO)
    page["prompt"] = ""

    refused = segment(page, TWO)

    assert "There is no prompt" in refused["status"]
    assert refused["key"] == gr.update()
    assert webui.session.kept_result(before["key"]) is not None


def test_a_slider_before_anything_was_segmented_says_nothing(page):
    assert "Press Segment again" not in str(callbacks.move("", None, *page.values()))


# --- thresholds to choose from ---------------------------------------------------------------------------


def test_a_click_on_a_threshold_empties_the_gallery_so_that_a_second_one_is_told_too():
    offered = [
        preview.ThresholdChoice(half(), "tight 0.60", 0.6),
        preview.ThresholdChoice(half(), "loose 0.20", 0.2),
    ]

    threshold, emptied = callbacks.choose(SimpleNamespace(index=1), offered)

    assert (threshold, emptied["value"]) == (0.2, [])
    assert [caption for _, caption in callbacks.offer(offered)["value"]] == ["tight 0.60", "loose 0.20"]


# --- Inpaint sketch --------------------------------------------------------------------------------------


def sketched():
    """A picture, the same with a stroke, and what the webui would make of both for a run (img2img.py:180)."""
    before = dots((0, 0, 64, 64))
    drawn = before.copy()
    drawn.paste((255, 0, 0), (80, 10, 120, 40))
    stroke = Image.new("L", SIZE)
    stroke.paste(255, (80, 10, 120, 40))
    return before, drawn, stroke


def test_the_strokes_of_inpaint_sketch_are_its_mask(page):
    before, drawn, stroke = sketched()
    page["brush"] = "add"

    shown = segment(page, drawn, tab=3, sketch=(before, 0, 0))

    assert np.array_equal(shown["brush"] > 0.5, np.asarray(stroke) > 127)
    assert at(shown["mask"], 100, 25)
    assert at(shown["mask"], 20, 20)


def test_preview_and_run_see_the_same_of_inpaint_sketch():
    before, drawn, _ = sketched()

    image, mask = tab_inputs.source(3, [None, None, None, drawn, None, None], (before, 4, 40))

    assert np.asarray(mask)[25, 100] == 153
    assert np.asarray(mask)[50, 20] == 0
    assert image.getpixel((100, 25))[0] in range(140, 160)  # the stroke shows at 60 %
    assert image.getpixel((20, 50)) == (255, 255, 255)


def test_without_a_stroke_inpaint_sketch_gives_the_picture_itself():
    before, _, _ = sketched()

    for known in (before, None):
        image, mask = tab_inputs.source(3, [None, None, None, before, None, None], (known, 4, 0))
        assert image.tobytes() == before.tobytes()
        assert not mask.getbbox()


# --- a painted mask where the words find nothing ---------------------------------------------------------


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

    with pytest.raises(Exception, match=said):
        run.once(p, [{"prompt": "unicorn", **more}])


def test_added_to_an_empty_painted_mask_there_is_nothing(run, p):
    p.image_mask = Image.new("L", SIZE)

    with pytest.raises(Exception, match="Nothing to inpaint"):
        run.once(p, [{"prompt": "unicorn", "brush": "add"}])


def test_the_page_says_that_only_the_painted_part_is_masked(page):
    page |= {"prompt": "unicorn", "brush": "add"}

    shown = segment(page, {"image": half(), "mask": painted()}, tab=2)

    assert "only what is painted is masked" in shown["status"]
    assert "ldznet-error" not in shown["status"]


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


def test_the_page_says_that_a_feather_leaves_too_little(page):
    page |= {"feather": 6.0, "threshold": 0.7}

    assert "below 50%" in segment(page, dots((60, 28, 66, 34)))["status"]
    page["feather"] = 0.0
    assert "below 50%" not in segment(page, dots((60, 28, 66, 34)))["status"]


# --- scripts of the drop-down ----------------------------------------------------------------------------


def test_where_a_script_counts_on_results_no_file_of_a_batch_is_left_out(run, p):
    p.script_args = (3,)  # the third script, as SD upscale

    with pytest.raises(LdznetError, match="Nothing to inpaint"):
        run.batch(p, [Image.new("RGB", SIZE)], [{"prompt": "bright"}])


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


# --- large pictures --------------------------------------------------------------------------------------


LARGE = dots((20, 20, 150, 170), (250, 40, 340, 120), size=(384, 192))


@pytest.fixture
def small_window(monkeypatch):
    """Show images reduced that are longer than 128 pixels."""
    monkeypatch.setattr(preview_scale, "LONGEST", 128)


def test_the_page_tells_both_sizes_and_offers_the_whole_overlay(page, small_window):
    shown = segment(page, LARGE)

    assert "The mask is 384 x 192 pixels; the rest is shown at 128 x 64." in shown["status"]
    assert shown["enlarge"]["visible"] is True
    assert callbacks.enlarge(shown["key"], None, *page.values())[1].size == (384, 192)
    assert segment(page, half())["enlarge"]["visible"] is False


def test_a_slider_leaves_the_probabilities_alone_which_it_does_not_change(page):
    shown = segment(page, half())

    moved = callbacks.move(shown["key"], None, *page.values())

    assert isinstance(shown["heat"], Image.Image)
    assert not isinstance(moved[4], Image.Image)
