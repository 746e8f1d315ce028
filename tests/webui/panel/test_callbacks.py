"""What a click and a slider of the panel do, against the stand-in of the webui; and a run that must agree."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from host import infotext as infotext_format
from host.brightness import SIZE, Brightness, half
from PIL import Image
from webui.panel.conftest import image_of

from ldznet.methods.method import Defaults, SuitedThreshold
from ldznet.webui import infotext, preview_scale
from ldznet.webui.controls import CONTROLS


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
INPAINT, SKETCH, BATCH, FOLDER = 2, 3, 5, 6  # tabs


def at(mask, x, y):
    """Return whether a pixel is selected, in an image or in a figure of the panel."""
    return np.asarray(image_of(mask) if isinstance(mask, str) else mask)[y, x] > 127


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


# --- the threshold ----------------------------------------------------------------------------------------


@pytest.fixture
def suited(monkeypatch):
    """Let the method have a threshold of its own."""
    defaults = Defaults(resolution=64, threshold=SuitedThreshold(0.3, "measured for this test"))
    monkeypatch.setattr(Brightness, "defaults", defaults)


@pytest.mark.usefixtures("suited")
def test_segment_moves_the_slider_to_the_automatic_threshold_and_says_where_it_comes_from(panel):
    answer = panel.segment(half(), prompt="dim")

    assert answer["threshold"] == 0.3
    assert "Threshold: 0.30, measured for this test" in answer["status"]
    assert at(answer["mask_picture"], 20, 20)
    assert panel.do("redraw") == {}  # what the slider's own change would draw is drawn


@pytest.mark.usefixtures("suited")
def test_a_slider_that_is_moved_takes_over_before_the_switch_follows(panel):
    panel.segment(half(), prompt="dim")
    panel.values["threshold"] = 0.39

    assert "Threshold: 0.39, asked for" in panel.do("redraw")["status"]

    panel.values["automatic_threshold"] = False  # by JavaScript
    assert panel.do("redraw") == {}
    panel.values["threshold"] = 0.6
    assert "the threshold is 0.60" in panel.do("redraw")["status"]


@pytest.mark.usefixtures("suited")
def test_automatic_that_is_switched_on_again_moves_the_slider_back(panel):
    panel.values |= {"threshold": 0.6, "automatic_threshold": False}
    assert "threshold" not in panel.segment(half(), prompt="dim")
    panel.values["automatic_threshold"] = True

    answer = panel.do("redraw")

    assert answer["threshold"] == 0.3
    assert at(answer["mask_picture"], 20, 20)
    assert panel.do("redraw") == {}


def test_a_method_that_was_never_measured_says_so(panel):
    assert "Threshold: 0.50, never measured for this method" in panel.segment(half())["status"]


# --- a painted mask -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("brush", "text"),
    [
        ("add", "The painted mask stays, and what is found is added to it."),
        ("subtract", "What is found is left out of the painted mask."),
        ("intersect", "Only what is found inside the painted mask is masked."),
        ("replace", "The painted mask is not used: only what is found is masked."),
    ],
)
def test_the_panel_says_what_happens_to_a_painted_mask(panel, brush, text):
    canvas = {"image": TWO, "mask": painted(20, 20, 100, 40)}

    assert text in panel.segment(canvas, tab=INPAINT, brush=brush)["status"]


def test_where_nothing_is_painted_the_panel_says_nothing_of_a_mask(panel):
    canvas = {"image": TWO, "mask": painted(0, 0, 0, 0)}

    assert "painted mask" not in panel.segment(canvas, tab=INPAINT)["status"]


def test_a_painted_mask_stays_unless_something_else_is_chosen(panel):
    mask = panel.segment({"image": ONE, "mask": painted(90, 20, 110, 40)}, tab=INPAINT)["mask_picture"]

    assert at(mask, 30, 30)
    assert at(mask, 100, 30)


def test_send_switches_the_panel_off_and_a_mask_that_is_not_sent_leaves_it_on(panel):
    assert panel.segment(ONE, event="send")["enabled"] is False
    assert "enabled" not in panel.segment(ONE, event="send", prompt="unicorn")


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

    values = infotext_format.paste(fields, ours)

    assert values[[control.name for control in CONTROLS].index("objects")] == "2"
    assert values[-1] == ""  # the page's own, which says where the numbers were chosen
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

    panel.values["clicked"] = f"{100.5 / SIZE[0]} {30.5 / SIZE[1]} 1"
    first, second = panel.do("choose_object"), panel.do("choose_object")

    assert first == {"objects": "2", "chosen_in": panel.values["key"]}
    assert second["objects"] == ""


def test_an_object_is_chosen_by_its_number_below_the_image_too(panel):
    panel.segment(TWO)
    panel.values["clicked"] = "#2 0 1"

    assert panel.do("choose_object")["objects"] == "2"
    assert 'data-number="2" aria-pressed="true"' in panel.redraw()["objects_picture"]
    assert 'data-number="1" aria-pressed="false"' in panel.values["objects_picture"]


# --- results that are not kept ---------------------------------------------------------------------------


@pytest.mark.parametrize("event", ["redraw", "enlarge", "cut_out", "choose_object"])
def test_a_slider_whose_result_is_no_longer_kept_says_what_to_do(panel, session, event):
    panel.segment(TWO)
    session.unload()

    answer = panel.do(event)

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
    assert not image_of(answer["mask_picture"]).getbbox()
    assert "img_inpaint_mask" not in sent


def test_send_fills_inpaint_upload_and_the_size(panel):
    sent = panel.segment(TWO, event="send")

    assert sent["img_inpaint_base"].tobytes() == TWO.tobytes()
    assert sent["img_inpaint_mask"].tobytes() == image_of(sent["mask_picture"]).tobytes()
    assert (sent["img2img_width"], sent["img2img_height"]) == SIZE


def test_after_a_refusal_the_sliders_act_on_what_is_still_shown(panel, session):
    panel.segment(TWO)
    panel.values["prompt"] = ""

    answer = panel.segment(TWO)

    assert list(answer) == ["status"]
    assert "There is no prompt" in answer["status"]
    assert session.kept_result(panel.values["key"]) is not None


def test_a_slider_before_anything_was_segmented_changes_nothing(panel):
    assert panel.do("redraw") == {}


def test_a_value_that_changes_nothing_draws_nothing(panel):
    panel.segment(half())

    assert panel.do("redraw") == {}
    panel.values["grow"] = 1
    assert "overlay" in panel.do("redraw")
    assert panel.do("redraw") == {}


def test_a_slider_draws_only_what_the_mask_changes(panel):
    panel.segment(half())

    moved, redrawn = panel.redraw("mask"), panel.redraw("all")

    assert {"overlay", "mask_picture", "status"} <= moved.keys()
    assert not {"heat", "choices"} & moved.keys()
    assert redrawn.keys() - moved.keys() == {"choices"}


def test_a_value_that_no_control_allows_is_named(panel):
    panel.segment(half())
    panel.values["threshold"] = 7

    assert "Threshold is 7" in panel.do("redraw")["status"]


# --- the sentence below the prompt -----------------------------------------------------------------------


def told_share(answer):
    """Return the share that the first sentence tells."""
    return float(re.search(r"Mask: ([\d.]+)% of the picture will be repainted", answer["status"]).group(1)) / 100


@pytest.mark.parametrize(
    ("brush", "share"), [("replace", 0.5), ("add", 0.75), ("subtract", 0.25), ("intersect", 0.25)]
)
def test_the_sentence_tells_the_share_of_the_mask_that_is_painted(panel, brush, share):
    strokes = painted(0, 0, SIZE[0] // 4, SIZE[1])
    strokes.paste(255, (3 * SIZE[0] // 4, 0, *SIZE))
    panel.values["brush"] = brush

    answer = panel.segment({"image": half(), "mask": strokes}, tab=INPAINT)

    assert told_share(answer) == pytest.approx(share, abs=0.02)


def test_the_sentence_tells_the_share_after_growth_and_feather(panel):
    panel.segment(half())

    panel.values["grow"] = 16
    assert told_share(panel.redraw()) == pytest.approx(80 / 128, abs=0.02)
    panel.values["feather"] = 5.0
    assert told_share(panel.redraw()) == pytest.approx(80 / 128, abs=0.02)


def test_the_status_has_as_many_lines_for_every_mask_of_a_result(panel):
    panel.segment(TWO)
    counts = []
    for threshold in (0.1, 0.5, 1.0):
        panel.values |= {"threshold": threshold, "smallest_area": 1500 if threshold == 1.0 else 0}
        counts.append(panel.redraw()["status"].count("</div>"))

    assert counts[0] == counts[1] == counts[2]


# --- the images ------------------------------------------------------------------------------------------


def test_the_mask_arrives_exactly_and_photographs_as_jpeg(panel):
    answer = panel.segment(half())

    assert set(np.unique(np.asarray(image_of(answer["mask_picture"])))) == {0, 255}
    assert "data:image/png" in answer["mask_picture"]
    for name in ("overlay", "heat", "objects_picture"):
        assert "data:image/jpeg" in answer[name]


def test_no_text_of_a_prompt_becomes_part_of_the_page(panel):
    panel.values["prompt"] = "<b onclick=x>bright | dark"

    answer = panel.segment(half())

    assert "<b onclick" not in answer["colors"] + answer["objects_picture"] + answer["status"]
    assert "&lt;b onclick=x&gt;bright" in answer["colors"]


def test_the_legend_names_all_of_ten_prompts(panel):
    names = [f"bright thing number {number}" for number in range(10)]
    panel.values["prompt"] = " | ".join(names)

    assert all(f"</b>{name}</li>" in panel.segment(half())["colors"] for name in names)


# --- the open tab ----------------------------------------------------------------------------------------


def test_without_an_image_in_the_open_tab_it_says_what_to_do(panel):
    assert "Put one into the open tab" in panel.segment(None)["status"]


def uploaded(tmp_path, *images):
    """Return images as gradio gives uploaded files: under names of its own, and with those of the user."""
    files = []
    for number, image in enumerate(images):
        image.save(tmp_path / f"upload{number}.png")
        files.append(SimpleNamespace(name=str(tmp_path / f"upload{number}.png"), orig_name=f"photo{number}.png"))
    return files


def test_in_batch_the_first_file_is_shown_and_named(panel, tmp_path):
    answer = panel.segment(uploaded(tmp_path, TWO, ONE), tab=BATCH)

    assert "The first of 2 files: photo0.png" in answer["status"]
    assert at(answer["mask_picture"], 100, 30)
    assert "photo0.png" in panel.redraw()["status"]


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "photo0.png is not here yet, or is empty. Wait"), (b"no image", "photo0.png ")]
)
def test_in_batch_a_file_that_cannot_be_read_has_the_name_that_the_user_knows(panel, tmp_path, content, said):
    files = uploaded(tmp_path, ONE)
    Path(files[0].name).write_bytes(content)

    status = panel.segment(files, tab=BATCH)["status"]

    assert said in status
    assert str(tmp_path) not in status


def test_in_batch_the_first_file_of_a_folder_is_shown_and_named(panel, tmp_path, monkeypatch, session):
    uploaded(tmp_path, ONE)
    monkeypatch.setattr(session.app, "batch_files", lambda folder: sorted(Path(folder).iterdir()), raising=False)

    answer = panel.segment(str(tmp_path), tab=FOLDER)

    assert "The only file: upload0.png" in answer["status"]
    assert (at(answer["mask_picture"], 30, 30), at(answer["mask_picture"], 100, 30)) == (True, False)


@pytest.mark.parametrize(("tab", "where"), [(BATCH, "the tab Batch"), (FOLDER, "the input directory")])
def test_batch_without_files_says_so(panel, session, monkeypatch, tab, where):
    monkeypatch.setattr(session.app, "batch_files", lambda _folder: [], raising=False)

    assert f"There is no picture in {where}" in panel.segment(None, tab=tab)["status"]


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


# --- as set in the tab -----------------------------------------------------------------------------------


def test_a_slider_that_the_tab_has_too_is_hidden_until_it_is_wanted(panel):
    for name, first in (("padding", 32), ("mask_blur", 4)):
        opened = panel.callbacks.show_value(name, panel.values)
        panel.values[f"{name}_of_tab"] = False
        wanted = panel.callbacks.use_value(name, panel.values)
        panel.values[f"{name}_of_tab"] = True
        given_up = panel.callbacks.use_value(name, panel.values)

        assert (opened[name]["visible"], opened[f"{name}_of_tab"]) == (False, True)
        assert (wanted[name]["visible"], wanted[name]["value"]) == (True, first)
        assert (given_up[name]["visible"], given_up[name]["value"]) == (False, -1)


def test_a_value_that_parameters_bring_shows_its_slider(panel):
    panel.values["mask_blur"] = 0

    answer = panel.callbacks.show_value("mask_blur", panel.values)

    assert (answer["mask_blur"]["visible"], answer["mask_blur_of_tab"]) == (True, False)


# --- large images ----------------------------------------------------------------------------------------


def test_the_page_shows_both_sizes_and_offers_the_whole_overlay(panel, monkeypatch):
    monkeypatch.setattr(preview_scale, "LONGEST", 128)

    answer = panel.segment(dots((20, 20, 150, 170), (250, 40, 340, 120), size=(384, 192)))

    assert "The mask is 384 x 192 pixels; the rest is shown at 128 x 64." in answer["status"]
    assert answer["enlarge"]["visible"] is True
    assert image_of(panel.do("enlarge")["overlay"]).size == (384, 192)
    assert panel.segment(half())["enlarge"]["visible"] is False


def test_the_cutout_has_the_mask_as_its_alpha_until_another_mask_is_shown(panel):
    panel.segment(ONE)

    image = image_of(panel.do("cut_out")["cutout_picture"])

    assert (image.mode, image.size) == ("RGBA", SIZE)
    assert image.getchannel("A").tobytes() == image_of(panel.values["mask_picture"]).tobytes()
    assert panel.redraw()["cutout_picture"] == ""
    panel.values["smallest_area"] = SIZE[0] * SIZE[1]
    assert "Nothing to inpaint" in panel.do("cut_out")["status"]
