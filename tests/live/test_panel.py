"""Test the panel inside a real webui: through its API, and in a headless Chromium (panel.mjs).

WEBUI_DIR, WEBUI_URL and WEBUI_HOST as in running.py. For the browser: node, PLAYWRIGHT (playwright-core's
index.mjs; by default that of WEBUI_DIR/browser) and CHROMIUM (/usr/bin/chromium). SHOTS is a folder for
screenshots of each step.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from embedded_scenes import OTHER, PHRASE, SCENE, SECOND_PHRASE, THIRD, image_of
from PIL import Image
from running import (
    GIVEN,
    HOST,
    LOG,
    LOW_THRESHOLD,
    MODEL,
    NEEDS_ANY_WEBUI,
    ONLY_A1111,
    OTHERS,
    REPEATS_WITHIN,
    SHOWN_WITHIN,
    SIZE,
    THRESHOLD,
    URL,
    WEBUI,
    Client,
    ask,
    decoded,
    encoded,
    make_data_folder,
    start,
    stop,
)

from ldznet.webui.controls import CONTROLS

PLAYWRIGHT = WEBUI / "browser" / "node_modules" / "playwright-core" / "index.mjs"
SOFT_INPAINTING = {"args": [True, 1, 0.5, 4, 0, 0.5, 2]}
MASKED = {
    "prompt": PHRASE,
    "negative_prompt": "",
    "method": "auto",
    "head": "automatic",
    "threshold": THRESHOLD,
}
NOTHING = MASKED | {"threshold": 1.0, "grow": -512}

pytestmark = NEEDS_ANY_WEBUI
WITH_FILES = pytest.mark.skipif("WEBUI_URL" in os.environ, reason="the files of the webui are not at hand")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    names = (SCENE, OTHER, THIRD)
    paths = [folder / f"{number}-{name}.png" for number, name in enumerate(names)]  # in this order in Batch too
    for name, path in zip(names, paths, strict=True):
        image_of(name, SIZE).save(path)
    return paths


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_data_folder(folder, others=True)
    return folder


@pytest.fixture(scope="module")
def log(data):
    """Run a webui with the extension; return the path of its log."""
    start(data)
    yield LOG
    stop()


@pytest.fixture(scope="module")
def client(log, scenes):
    client = Client(scenes[0])
    client.run()  # the first run of a webui starts from other random states than all later ones
    return client


# --- the API ---------------------------------------------------------------------------------------------


def test_script_info_lists_every_control_with_its_range(client):
    _, found = ask("script-info")

    ours = next(script for script in found if script["name"] == "ld-znet segment")
    *controls, pages_own = ours["args"]
    assert [arg["label"] for arg in controls] == [control.label for control in CONTROLS]
    assert [arg["value"] for arg in controls] == [control.default for control in CONTROLS]
    assert pages_own["value"] == ""
    ranges = {arg["label"]: (arg["minimum"], arg["maximum"]) for arg in ours["args"]}
    assert (ranges["Threshold"], ranges["Grow or shrink (px)"]) == ((0.0, 1.0), (-512, 512))


def test_only_what_is_masked_is_repainted(client):
    status, found = client.run(MASKED | {"append": True})

    assert status == 200
    outside, inside, share = client.outside(found)
    assert 0.005 < share < 0.9
    assert (outside, inside > 20) == (0, True)


def test_arguments_by_place_and_by_name_give_the_same(client):
    by_place, by_name = client.run(True, *MASKED.values()), client.run(MASKED)

    one, other = (decoded(found["images"][0]) for _, found in (by_place, by_name))
    assert np.abs(one - other).max() <= REPEATS_WITHIN


def test_a_run_without_us_is_the_same_before_and_after(client):
    before = decoded(client.run()[1]["images"][0])
    client.run(MASKED)

    for again in (client.run(), client.run(False, PHRASE)):
        assert np.abs(decoded(again[1]["images"][0]) - before).max() <= REPEATS_WITHIN


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([NOTHING], f'"{PHRASE}" reaches'),
        ([True, ""], "There is no prompt"),
        ([True, PHRASE, "", "magic"], "Method is 'magic'"),
        ([{"prompt": PHRASE, "head": "two.safetensors"}], "There is no head 'two.safetensors'"),
    ],
)
def test_a_run_that_cannot_be_masked_is_refused_and_paints_nothing(client, given, said):
    status, found = client.run(*given)

    assert status == 422
    assert found["detail"].startswith(said)


@pytest.mark.parametrize("whole", [True, False])
def test_an_empty_mask_leaves_the_picture_as_it_is(client, whole):
    _, found = client.run(NOTHING | {"on_nothing": "empty mask"}, inpaint_full_res=not whole)

    assert np.array_equal(decoded(found["images"][0]), client.pixels)


def test_soft_inpainting_sees_the_mask(client):
    _, found = client.run(MASKED, others={"Soft inpainting": SOFT_INPAINTING})

    assert json.loads(found["info"])["extra_generation_params"]["Soft inpainting enabled"] is True


def test_batch_count_and_size_share_the_mask(client):
    _, found = client.run(MASKED | {"append": True}, batch_size=2, n_iter=2)

    *pictures, mask, _ = (decoded(image) for image in found["images"])
    assert len(pictures) in (4, 5)  # the grid, by the webui's settings
    for picture in pictures[-4:]:
        assert np.abs(picture - client.pixels)[mask[..., 0] == 0].max() == 0


@pytest.mark.parametrize("fill", ["fill", "original", "latent noise", "latent nothing"])
@pytest.mark.parametrize("area", ["whole picture", "only masked"])
def test_every_fill_and_area_paints_inside_only(client, fill, area):
    _, found = client.run(MASKED | {"append": True, "fill": fill, "area": area})

    assert client.outside(found)[0] == 0


@WITH_FILES
def test_other_extensions_see_the_mask(client):
    _, found = client.run(MASKED)

    seen = json.loads(found["info"])["extra_generation_params"]
    assert [seen[f"Seen by {name}"] for _, name in OTHERS.values()] == ["True"] * len(OTHERS)
    order = [name.lower() for name in ask("scripts")[1]["img2img"]]
    later = [order.index(name) for name in ("controlnet", "soft inpainting") if name in order]
    assert order.index("ld-znet segment") < min(later)


def test_the_script_loopback_keeps_the_mask_of_the_first_loop(client):
    _, once = client.run(MASKED | {"append": True})
    mask = decoded(once["images"][1])[..., 0]

    _, found = client.run(MASKED, script_name="Loopback", script_args=[3, 0.9, "Linear", "None"])

    loops = [decoded(image) for image in found["images"][-3:]]
    assert [np.abs(loop - client.pixels)[mask == 0].max() for loop in loops] == [0, 0, 0]
    assert np.abs(loops[0] - loops[2])[mask == 255].mean() > 5


def test_a_large_picture_is_masked_at_its_size(client, scenes):
    large = Client(client.scene.resize((2048, 1368), Image.Resampling.BICUBIC))

    _, found = large.run(MASKED | {"append": True, "area": "only masked"})

    assert decoded(found["images"][0]).shape == (1368, 2048, 3)
    outside, inside, share = large.outside(found)
    assert (outside, inside > 10) == (0, True)
    assert 0.005 < share < 0.9


@WITH_FILES
@ONLY_A1111
def test_an_inpainting_checkpoint_is_masked_by_attention(client):
    nine = {"override_settings": {"sd_model_checkpoint": "nine.safetensors"}}

    status, found = client.run(MASKED | {"append": True, "threshold": 0.5}, **nine)
    refused, why = client.run(MASKED | {"method": "head"}, **nine)

    assert (status, client.outside(found)[0]) == (200, 0)
    assert refused == 422
    assert "not the 9 of an inpainting model" in why["detail"]


# --- the browser -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(log, scenes):
    """Return the report of panel.mjs: what each of its parts has seen."""
    settings = {
        "URL": URL,
        "SCENES": ",".join(map(str, scenes)),
        "PHRASE": os.environ.get("PHRASE", PHRASE),
        "PHRASES": os.environ.get("PHRASES", f"{PHRASE} | {SECOND_PHRASE}"),
        "HOST": HOST,
        "FIRST_THRESHOLD": str(THRESHOLD),
        "THRESHOLD": str(LOW_THRESHOLD),
        "WIDTH": str(SIZE[0]),
        "HEIGHT": str(SIZE[1]),
        "LOG": "" if GIVEN else str(LOG),
        "PLAYWRIGHT": os.environ.get("PLAYWRIGHT", str(PLAYWRIGHT)),
    }
    script = Path(__file__).with_name("panel.mjs")
    done = subprocess.run(
        ["node", str(script)], env=os.environ | settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(json.dumps(found, indent=1))
    return found


@pytest.fixture
def seen(report):
    """Return a function that gives what one part has seen, so that a part that fails fails its own tests only."""

    def of_part(name):
        assert "failed" not in report[name], report[name]["failed"]
        assert report[name]["errors"] == []
        return report[name]

    return of_part


def test_segment_shows_the_mask_and_says_what_was_found(seen):
    part = seen("segment")
    assert part["withoutPrompt"].startswith("There is no prompt")
    sentence, *lines = part["status"].splitlines()
    assert sentence == f"Mask: {part['share']:.1%} of the picture will be repainted."
    assert any(line.startswith(f"{PHRASE}: ") for line in lines)
    assert f"fits {MODEL}" in part["status"]  # though the run before had another checkpoint
    assert 0.005 < part["share"] < 0.9


def test_the_threshold_acts_live(seen):
    assert seen("segment")["shareLower"] > seen("segment")["share"]


def test_mask_and_overlay_can_be_downloaded(seen):
    assert seen("segment")["downloads"] == [["mask.png", True], ["overlay.jpg", True]]


def test_a_click_opens_an_image_at_its_full_size(seen):
    assert seen("segment")["opened"] == [[*SIZE]] * 3


def test_while_a_slider_is_dragged_only_the_newest_value_is_drawn(seen):
    part = seen("dragged")
    assert part["isNewest"]
    assert 1 <= part["drawings"] < 30  # of 40 steps


def test_another_picture_other_words_and_another_method_mark_what_is_shown_at_once(seen):
    notes = seen("outdated")["notes"]
    said = {name: note for name, (note, _) in notes.items()}
    of = "What is shown belongs to {}. Press Segment.".format
    assert said == {
        "words": of("other words"),
        "back": "",
        "method": of("another method"),
        "tab": of("another picture"),
        "picture": of("another picture"),
        "again": "",
    }
    assert all(is_right for _, is_right in notes.values())  # no slider moves what is out of date


def test_generate_in_the_tab_img2img_paints_inside_only(seen):
    outside, inside = seen("generate")["img2img"]
    assert (outside <= SHOWN_WITHIN, inside > 20) == (True, True)


def test_send_fills_and_opens_inpaint_upload(seen):
    part = seen("generate")
    assert (part["tab"], part["size"]) == (4, [str(side) for side in SIZE])
    shown, sent = part["shares"]
    assert sent == pytest.approx(shown, abs=1e-6)
    assert part["ownTabKept"]


def test_generate_in_inpaint_upload_paints_inside_only(seen):
    outside, inside = seen("generate")["inpaint"]
    assert (outside <= SHOWN_WITHIN, inside > 20) == (True, True)


def test_send_switches_the_panel_off_and_generate_paints_a_mask_that_replaces_the_sent_one(seen):
    part = seen("generate")
    assert part["isOnAfterSend"] is False
    outside, inside = part["replaced"]
    assert (outside <= SHOWN_WITHIN, inside > 5) == (True, True)


@pytest.mark.parametrize("tab", ["sketch", "inpaint", "inpaint_sketch"])
def test_segment_and_generate_work_in_other_tabs(seen, tab):
    assert 0.001 < seen(tab)["masked"] < 0.999
    outside, inside = seen(tab)["repainted"]
    assert (outside <= SHOWN_WITHIN, inside > 5) == (True, True)


def test_what_is_painted_is_combined_by_the_brush_mode(seen):
    part = seen("brush")
    shares = part["brush"]
    assert 0 < shares["intersect"] < shares["replace"] < shares["add"]
    assert shares["subtract"] == pytest.approx(shares["add"] - shares["replace"])  # painted, and not named
    outside, inside = part["brushed"]
    assert (outside <= SHOWN_WITHIN, inside > 5) == (True, True)


def test_strokes_mark_what_is_shown_and_the_sentence_tells_the_share_in_each_brush_mode(seen):
    part = seen("brush")
    assert "belongs to another picture" in part["strokes"]
    for mode, share in part["brush"].items():  # followed by what happens to the painted mask
        assert part["sentences"][mode].startswith(f"Mask: {share:.1%} of the picture will be repainted.")


def test_the_strokes_of_inpaint_sketch_are_in_the_preview_and_in_the_run(seen):
    part = seen("strokes")
    assert "Error" not in part["log"]
    preview, made = part["masks"]
    assert preview == made
    assert preview["painted"] > 0.01


def test_several_prompts_have_a_legend(seen):
    phrases = os.environ.get("PHRASES", f"{PHRASE} | {SECOND_PHRASE}").split(" | ")
    assert seen("several")["legend"] == [f"{number}{phrase}" for number, phrase in enumerate(phrases, start=1)]


def test_nothing_moves_while_the_threshold_does(seen):
    first, *others = seen("calm")["places"]
    assert others == [first] * 3


def test_buttons_keep_their_height_and_the_legend_of_ten_prompts_can_be_read(seen):
    part = seen("calm")
    assert len(set(part["heights"])) == 1
    assert [entry["text"].endswith(f"number {at}") for at, entry in enumerate(part["legend"], 1)] == [True] * 10
    assert all(entry["size"] >= 11 and not entry["isCut"] for entry in part["legend"])


def test_no_label_lies_over_an_image_and_the_overlay_is_as_wide_as_the_column(seen):
    part = seen("calm")
    assert all(all(is_image) for is_image in part["over"])
    assert part["wide"] > 0.95
    assert (part["minus"], part["narrow"]) == (False, [])


def test_a_threshold_that_is_clicked_twice_acts_twice(seen):
    first, second = seen("thresholds")["clickedTwice"]
    assert first == second != "0.05"


def test_a_click_selects_an_object(seen):
    assert seen("objects")["clicked"] == ["", "1"]  # it was chosen, is not any more, and is again


def test_keys_move_the_threshold(seen):
    assert seen("thresholds")["keys"] == "0.35"


def test_numbers_of_objects_belong_to_the_picture_that_they_were_chosen_in(seen):
    same, other, box = seen("objects")["numbers"]
    assert "were chosen in another picture" not in same
    assert "Objects 1 were chosen in another picture or with another prompt" in other
    assert box == ""


def test_nothing_found_is_shown_on_the_page(seen):
    assert "Nothing to inpaint" in seen("nothing")["log"]


def test_scripts_that_count_on_results_get_the_image_unpainted_and_the_page_says_why(seen):
    runs = seen("scripts")["runs"]
    assert all(run["count"] > 0 and run["changed"] == 0 for run in runs)
    assert all("The script continues with the picture as it is." in run["log"] for run in runs)
    upscaled, refused, looped = (run["log"] for run in runs)
    assert "Nothing to inpaint" in upscaled
    assert "There is no prompt" in refused
    assert "Nothing to inpaint" in looped


def test_in_batch_each_file_is_as_it_was_outside_its_own_mask(seen):
    part = seen("batch")
    assert (part["count"], len(part["compared"])) == (9, 3)
    assert all(outside <= SHOWN_WITHIN and inside > 5 for outside, inside in part["compared"]), part["compared"]


def test_in_batch_each_file_has_the_mask_that_it_has_alone_and_segment_shows_the_first(seen, scenes):
    part = seen("batch")
    asked = [{"image": encoded(Image.open(path)), "prompt": PHRASE, "threshold": LOW_THRESHOLD} for path in scenes]
    alone = [ask("segment", one, at="ldznet")[1]["prompts"][0]["share"] for one in asked]
    assert len({round(share, 6) for share in alone}) == 3  # or one mask for all would not be noticed
    assert part["masks"] == pytest.approx(alone, abs=1e-6)
    status, first = part["first"]
    assert f"The first of 3 files: {scenes[0].name}." in status
    assert first == pytest.approx(alone[0], abs=1e-6)


def test_a_pictures_parameters_switch_the_panel_off_or_on(seen):
    foreign, ours = seen("parameters")["pasted"]
    assert (foreign[0], foreign[1]) == (False, PHRASE)
    assert ours == [True, "a drop", "0.35"]


@pytest.mark.parametrize("part", ["dark", "reload"])
def test_the_panel_works_in_the_dark_theme_and_after_reload_ui(seen, part):
    assert f"{PHRASE}: " in seen(part)["status"]


@WITH_FILES
def test_the_log_has_no_error_of_ours(report, log):
    text = log.read_text()
    assert "Error running" not in text
    assert "Error calling" not in text
    assert "Error completing request" not in text  # with a traceback
