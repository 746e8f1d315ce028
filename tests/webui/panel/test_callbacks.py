"""What a click and a slider of the panel do, against the stand-in of the webui; and a run that must agree."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from host import infotext as infotext_format
from host.brightness import SIZE, half
from PIL import Image

from ldznet.webui import infotext, preview_scale
from ldznet.webui.controls import CONTROLS
from ldznet.webui.panel.preview import ThresholdChoice


def dots(*boxes, size=SIZE):
    """Return a dark image with bright boxes."""
    image = Image.new("RGB", size)
    for box in boxes:
        image.paste((255,) * 3, box)
    return image


def painted(*box):
    """Return a mask with a white box."""
    return dots(box).convert("L")


ONE = dots((8, 8, 56, 56))
TWO = dots((8, 8, 56, 56), (88, 16, 120, 48))
OTHER_TWO = dots((8, 8, 40, 40), (64, 8, 120, 56))
INPAINT, SKETCH, BATCH = 2, 3, 5  # tabs


def at(mask, x, y):
    return np.asarray(mask)[y, x] > 127


def test_segment_uses_the_settings_as_they_are_when_the_queue_is_free(panel, session, webui, monkeypatch):
    class RunThatEnds:
        def __enter__(self):
            webui.shared.opts.ldznet_template = ""

        def __exit__(self, *_):
            pass

    webui.shared.opts.ldznet_template = "a drawing of {}"  # overridden by a run
    monkeypatch.setattr(sys.modules["modules.call_queue"], "queue_lock", RunThatEnds())

    result = session.kept_result(panel.segment(TWO)["key"])

    assert result.segmentation.record["template"] == "a photo of a {}."  # the default


# --- numbers of objects belong to the result that they were chosen in ------------------------------------


def test_after_segment_the_numbers_belong_to_what_is_shown(panel):
    answer = panel.segment(TWO)

    assert answer["chosen_in"] == answer["key"] != ""


def test_numbers_of_another_image_are_dropped_by_segment(panel):
    panel.segment(TWO)
    panel.values["objects"] = "2"

    answer = panel.segment(OTHER_TWO)

    assert answer["objects"] == ""
    assert at(answer["mask_picture"], 20, 20)
    assert at(answer["mask_picture"], 90, 30)


def test_numbers_that_nothing_was_segmented_for_stay(panel):
    panel.values["objects"] = "2"

    answer = panel.segment(TWO)

    assert (at(answer["mask_picture"], 30, 30), at(answer["mask_picture"], 100, 30)) == (False, True)
    assert "objects" not in answer


def test_numbers_that_are_read_from_an_image_belong_to_nothing_that_was_shown():
    components = [SimpleNamespace(value=control.default) for control in CONTROLS]
    fields = infotext.fields([*components, SimpleNamespace(value="what was shown before")])
    ours = infotext_format.write({"LD-ZNet prompt": "bright", "LD-ZNet objects": "2"})

    *_, objects, chosen_in = infotext_format.paste(fields, ours)

    assert (objects, chosen_in) == ("2", "")
    assert infotext_format.paste(fields, infotext_format.write({}))[-1] == "what was shown before"


def test_generate_drops_numbers_of_another_image_and_says_so(run, p, panel):
    p.init_images = [OTHER_TWO]
    panel.segment(TWO)

    run.once(p, panel.arguments(objects="2"))

    assert at(p.read["image_mask"], 20, 20)
    assert at(p.read["image_mask"], 90, 30)
    assert any(text.startswith("Objects 2 were chosen in another picture") for text in p.comments)
    assert "LD-ZNet objects" not in p.extra_generation_params


def test_generate_takes_the_numbers_that_were_chosen_in_the_same_image(run, p, panel):
    p.init_images = [TWO]
    panel.segment(TWO)

    run.once(p, panel.arguments(objects="2"))

    assert (at(p.read["image_mask"], 30, 30), at(p.read["image_mask"], 100, 30)) == (False, True)
    assert p.extra_generation_params["LD-ZNet objects"] == "2"


def test_in_batch_the_numbers_are_of_each_file(run, p, panel):
    panel.segment(half())

    _, reads = run.batch(p, [TWO, OTHER_TWO], panel.arguments(objects="1"))

    assert [at(reads[0]["image_mask"], *place) for place in ((30, 30), (100, 30))] == [True, False]
    assert [at(reads[1]["image_mask"], *place) for place in ((20, 20), (90, 30))] == [False, True]


def test_a_click_on_an_object_chooses_it_in_what_is_shown_and_a_second_click_drops_it(panel):
    panel.segment(TWO)
    panel.values["chosen_in"] = ""

    first = panel.do("choose_object", [100, 30])
    second = panel.do("choose_object", [100, 30])

    assert first == {"objects": "2", "chosen_in": panel.values["key"]}
    assert second["objects"] == ""


# --- results that are not kept ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "click"), [("redraw", ()), ("redraw_all", ()), ("enlarge", ()), ("choose_object", ([1, 1],))]
)
def test_a_slider_whose_result_is_no_longer_kept_says_what_to_do(panel, session, event, click):
    panel.segment(TWO)
    session.unload()

    answer = panel.do(event, *click)

    assert list(answer) == ["status"]
    assert "Press Segment again" in answer["status"]


@pytest.mark.parametrize(
    ("changes", "strokes"),
    [
        ({"brush": "intersect"}, (100, 50, 120, 60)),
        ({"brush": "subtract"}, (8, 8, 56, 56)),
        ({"brush": "subtract"}, (20, 20, 40, 40)),
        ({"grow": -100}, None),
    ],
)
def test_a_mask_with_nothing_left_in_it_is_an_error_and_not_sent(panel, changes, strokes):
    panel.values |= changes
    image = {"image": ONE, "mask": painted(*strokes)} if strokes else ONE
    tab = INPAINT if strokes else 0

    answer = panel.segment(image, tab=tab)
    sent = panel.segment(image, tab=tab, event="send")

    assert "ldznet-error" in answer["status"]
    assert "the other options leave nothing of it" in answer["status"]
    assert not answer["mask_picture"].getbbox()
    assert "img_inpaint_mask" not in sent


def test_send_fills_inpaint_upload_and_the_size(panel):
    sent = panel.segment(TWO, event="send")

    assert sent["img_inpaint_base"].tobytes() == TWO.tobytes()
    assert sent["img_inpaint_mask"].tobytes() == sent["mask_picture"].tobytes()
    assert (sent["img2img_width"], sent["img2img_height"]) == SIZE


def test_after_a_refusal_the_sliders_act_on_what_is_still_shown(panel, session):
    panel.segment(TWO)
    panel.values["prompt"] = ""

    answer = panel.segment(TWO)

    assert list(answer) == ["status"]
    assert "There is no prompt" in answer["status"]
    assert session.kept_result(panel.values["key"]) is not None


def test_a_slider_before_anything_was_segmented_changes_nothing(panel):
    assert panel.do("redraw") == panel.do("redraw_all") == {}


def test_a_slider_draws_only_what_the_mask_changes(panel):
    panel.segment(half())

    moved, redrawn = panel.do("redraw"), panel.do("redraw_all")

    assert {"overlay", "mask_picture", "status"} <= moved.keys()
    assert not {"heat", "choices"} & moved.keys()
    assert redrawn.keys() - moved.keys() == {"choices", "offered"}


def test_a_value_that_no_control_allows_is_named(panel):
    panel.segment(half())
    panel.values["threshold"] = 7

    assert "Threshold is 7" in panel.do("redraw")["status"]


# --- thresholds to choose from ---------------------------------------------------------------------------


def test_a_click_on_a_threshold_empties_the_gallery_so_that_a_second_click_is_reported_too(panel):
    captions = {"tight 0.60": 0.6, "loose 0.20": 0.2}
    panel.values["offered"] = [ThresholdChoice(half(), caption, level) for caption, level in captions.items()]

    answer = panel.do("choose_threshold", 1)
    again = panel.do("show_choices")

    assert (answer["threshold"], answer["choices"]["value"]) == (0.2, [])
    assert [caption for _, caption in again["choices"]["value"]] == ["tight 0.60", "loose 0.20"]


# --- the open tab ----------------------------------------------------------------------------------------


def test_without_an_image_in_the_open_tab_it_says_what_to_do(panel):
    assert "Put one into the open tab" in panel.segment(None)["status"]


def test_the_tab_batch_has_no_image_to_show(panel):
    panel.values["tab"] = BATCH

    assert "The tab Batch shows no picture" in panel.do("segment")["status"]


def test_the_strokes_of_inpaint_sketch_are_its_mask(panel):
    before, drawn = dots((0, 0, 64, 64)), dots((0, 0, 64, 64))
    drawn.paste((255, 0, 0), (80, 10, 120, 40))
    panel.values |= {"brush": "add", "img2img_mask_blur": 0}

    answer = panel.segment(drawn, tab=SKETCH, before=before)

    assert np.array_equal(answer["given_mask"] > 0.5, np.asarray(painted(80, 10, 120, 40)) > 127)
    assert at(answer["mask_picture"], 100, 25)
    assert at(answer["mask_picture"], 20, 20)


# --- notes -----------------------------------------------------------------------------------------------


def test_the_page_says_that_only_the_painted_part_is_masked(panel):
    panel.values |= {"prompt": "unicorn", "brush": "add"}

    answer = panel.segment({"image": half(), "mask": painted(10, 10, 30, 30)}, tab=INPAINT)

    assert "only what is painted is masked" in answer["status"]
    assert "ldznet-error" not in answer["status"]


def test_the_page_says_that_a_feather_leaves_too_little(panel):
    panel.values |= {"feather": 6.0, "threshold": 0.7}

    assert "below 50%" in panel.segment(dots((60, 28, 66, 34)))["status"]
    panel.values["feather"] = 0.0
    assert "below 50%" not in panel.segment(dots((60, 28, 66, 34)))["status"]


def test_the_page_says_why_the_chosen_head_cannot_run_and_stops_saying_so(panel):
    panel.values["head"] = "nowhere.safetensors"
    refused = panel.do("explain_choice")
    panel.values["head"] = "automatic"

    assert "There is no head" in refused["status"]
    assert panel.do("explain_choice") == {"status": ""}
    assert panel.do("explain_choice") == {}


def test_unload_frees_the_results(panel, session):
    key = panel.segment(half())["key"]

    assert "nothing of LD-ZNet is in memory" in panel.do("unload")["status"]
    assert session.kept_result(key) is None


def test_the_page_opens_with_the_values_of_the_settings(panel, webui):
    webui.shared.opts.ldznet_on_nothing = "empty mask"

    answer = panel.do("first_values")

    assert answer["on_nothing"] == "empty mask"
    assert answer["head"]["choices"][0] == "automatic"


# --- large images ----------------------------------------------------------------------------------------


def test_the_page_shows_both_sizes_and_offers_the_whole_overlay(panel, monkeypatch):
    monkeypatch.setattr(preview_scale, "LONGEST", 128)

    answer = panel.segment(dots((20, 20, 150, 170), (250, 40, 340, 120), size=(384, 192)))

    assert "The mask is 384 x 192 pixels; the rest is shown at 128 x 64." in answer["status"]
    assert answer["enlarge"]["visible"] is True
    assert panel.do("enlarge")["overlay"].size == (384, 192)
    assert panel.segment(half())["enlarge"]["visible"] is False


def test_the_cutout_has_the_mask_as_its_alpha_until_another_mask_is_shown(panel):
    panel.segment(ONE)

    answer = panel.do("cut_out")["cutout_picture"]

    assert (answer["value"].mode, answer["value"].size, answer["visible"]) == ("RGBA", SIZE, True)
    assert answer["value"].getchannel("A").tobytes() == panel.values["mask_picture"].tobytes()
    assert panel.do("redraw")["cutout_picture"]["visible"] is False
    panel.values["smallest_area"] = SIZE[0] * SIZE[1]
    assert "Nothing to inpaint" in panel.do("cut_out")["status"]
