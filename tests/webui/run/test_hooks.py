"""The panel without gradio: its controls, and what the script makes of a run; against a stand-in of the webui.

tests/live/test_panel.py asks a real one, through the API and in a browser.
"""

import dataclasses
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fastapi import HTTPException
from host.brightness import SIZE, half, share
from host.process import NeoProcessing, Processing
from PIL import Image

from ldznet.errors import HeadError, OptionError, OutOfMemoryError, PromptError
from ldznet.heads.head_file import save_head
from ldznet.inference.prompts import split_prompts
from ldznet.methods.learned_head import random_head
from ldznet.options import MaskOptions, SegmentOptions
from ldznet.webui import head_files, session
from ldznet.webui.controls import BY_NAME, CONTROLS, TITLE, is_enabled, read_panel_settings
from ldznet.webui.progress import StoppedError

ROOT = Path(__file__).parents[3]


def args(prompt="bright", **more):
    return [{"prompt": prompt, **more}]


# --- controls --------------------------------------------------------------------------------------------


def test_the_defaults_of_the_controls_are_the_defaults_of_the_options():
    settings = read_panel_settings([control.default for control in CONTROLS])

    assert settings == read_panel_settings([])
    assert settings.mask.threshold is None  # automatic
    assert (settings.mask, settings.segment) == (MaskOptions(), SegmentOptions())
    assert (settings.fill, settings.only_masked, settings.padding, settings.mask_blur) == (None,) * 4
    assert not settings.enabled


def test_each_option_of_a_mask_has_its_control_and_its_range():
    for field in dataclasses.fields(MaskOptions):
        control = BY_NAME[field.name]
        if field.name == "objects":  # several numbers in a text; out of range is refused below
            continue
        # A slider has no place for "automatic", which is a switch of its own.
        assert control.default == (0.5 if field.name == "threshold" else field.default)
        assert (control.low, control.high) == (field.metadata["low"], field.metadata["high"])
        assert control.choices == field.metadata["choices"]


OTHERS = {
    "enabled": True,
    "prompt": "bucket | red hat",
    "negative_prompt": "shadow",
    "method": "attention",
    "head": "one.safetensors",
    "threshold": 0.25,
    "grow": -3,
    "feather": 2.5,
    "invert": True,
    "smallest_area": 9,
    "largest_only": True,
    "fill_holes": True,
    "combine": "difference",
    "brush": "subtract",
    "resolution": 512,
    "timesteps": "300 400",
    "seeds": "1, 2",
    "on_nothing": "empty mask",
    "append": True,
    "fill": "latent nothing",
    "area": "only masked",
    "padding": 0,
    "mask_blur": 0,
    "refine": True,
    "average_templates": True,
    "objects": "1, 3",
    "automatic_threshold": False,
}


def test_every_control_reaches_the_settings_by_place_and_by_name():
    by_place = read_panel_settings([OTHERS[control.name] for control in CONTROLS])

    assert by_place == read_panel_settings([OTHERS])
    assert by_place.prompts == ("bucket", "red hat")
    assert by_place.negatives == ("shadow",)
    assert by_place.mask == MaskOptions(
        threshold=0.25, grow=-3, feather=2.5, invert=True, smallest_area=9, largest_only=True, fill_holes=True,
        combine="difference", brush="subtract", objects=(1, 3),
    )  # fmt: skip
    assert by_place.segment == SegmentOptions(
        resolution=512, timesteps=(300, 400), seeds=(1, 2), refine=True, average_templates=True
    )
    assert (by_place.fill, by_place.only_masked, by_place.padding, by_place.mask_blur) == (3, True, 0, 0)
    assert (by_place.method, by_place.head) == ("attention", "one.safetensors")
    assert (by_place.on_nothing, by_place.append) == ("empty mask", True)


@pytest.mark.parametrize(
    ("given", "threshold"),
    [
        ([], None),
        ([{"prompt": "bucket"}], None),
        ([{"prompt": "bucket", "threshold": None}], None),
        ([{"prompt": "bucket", "threshold": 0.5}], 0.5),
        ([True, "bucket", "", "auto", "automatic"], None),
        ([True, "bucket", "", "auto", "automatic", 0.5], 0.5),
        # As the page sends it: the slider shows the value in use.
        ([{"prompt": "bucket", "threshold": 0.17, "automatic_threshold": True}], None),
        ([{"prompt": "bucket", "threshold": 0.17, "automatic_threshold": False}], 0.17),
    ],
)
def test_a_threshold_is_automatic_unless_one_is_given(given, threshold):
    assert read_panel_settings(given).mask.threshold == threshold


def test_the_order_of_the_arguments_stays():
    assert list(BY_NAME) == list(OTHERS)  # those who call the API depend on it


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("threshold", 2, "Threshold is 2.0, but it must be from 0.0 to 1.0: probability from which a pixel"),
        ("threshold", True, "Threshold is True, but it must be a number"),
        ("grow", 1.5, "Grow or shrink (px) (grow) is 1.5, but it must be a whole number: give one (default 0)."),
        ("grow", float("nan"), "Grow or shrink (px) (grow) is nan"),
        ("prompt", 7, "What to select (prompt) is 7, but it must be a text"),
        (
            "method",
            "magic",
            "Method is 'magic', which is not known: give one of auto, head, attention, difference",
        ),
        ("invert", "yes", "Invert is 'yes', but it must be true or false"),
        ("timesteps", "early", "Timesteps is 'early', but it must be whole numbers, such as 300 400"),
        ("timesteps", "1000", "Timesteps is '1000': each of timesteps is 1000, but it must be from 0 to 999"),
        ("objects", "first", "Objects is 'first', but it must be whole numbers, such as 1 2"),
        ("objects", "0", "Objects is '0': each of objects is 0, but it must be from 1 to 99"),
        ("area", "everything", "Inpaint area (area) is 'everything'"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_control(name, value, said):
    with pytest.raises(OptionError) as refused:
        read_panel_settings([{name: value}])

    assert str(refused.value).startswith(said)


def test_unknown_names_and_too_many_arguments_are_refused():
    with pytest.raises(OptionError, match="has no control 'promt'"):
        read_panel_settings([{"promt": "bucket"}])
    with pytest.raises(OptionError, match=f"{len(CONTROLS) + 1} arguments"):
        read_panel_settings([None] * (len(CONTROLS) + 1))


def test_values_after_an_object_of_names_are_refused_unless_the_webui_has_filled_up_with_them():
    filled = [control.default for control in CONTROLS[1:]]
    assert read_panel_settings([{"prompt": "bucket"}, *filled]).prompts == ("bucket",)

    with pytest.raises(OptionError, match="after it, 'red hat' at the place of prompt"):
        read_panel_settings([{"prompt": "bucket"}, "red hat"])


def test_prompts_are_split_at_the_bar_and_empty_ones_are_left_out():
    assert split_prompts(" bucket |red hat|| ") == ("bucket", "red hat")
    assert split_prompts("{cross|triangle} | hat") == ("{cross|triangle}", "hat")  # a choice of Dynamic Prompts
    assert split_prompts("a {b|{c|d}}|e") == ("a {b|{c|d}}", "e")
    assert split_prompts("{a|b") == ("{a", "b")  # a bracket alone is a letter
    assert split_prompts("a}|b") == ("a}", "b")


def test_an_object_of_names_is_enabled_unless_it_says_not():
    assert is_enabled([{"prompt": "bucket"}])
    assert not is_enabled([{"prompt": "bucket", "enabled": False}])
    assert not is_enabled([])
    assert not is_enabled([False, "bucket"])


# --- a run -----------------------------------------------------------------------------------------------


def test_a_run_gets_a_mask_of_the_init_images_size(run, p):
    run.once(p, args())

    assert p.read["image_mask"].mode == "L"
    assert p.read["image_mask"].size == SIZE
    assert share(p.read["image_mask"]) == (1.0, 0.0)
    assert run.reported == []


def test_off_nothing_is_touched(run, p, method):
    before = dict(vars(p))

    run.once(p, [False, "bright"])

    assert {name: getattr(p, name) for name in before} == before
    assert method.calls == 0


def test_the_inner_passes_of_adetailer_are_left_alone(run, p, method):
    p._ad_inner = True

    run.once(p, args())

    assert (p.read["image_mask"], method.calls) == (None, 0)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("replace", (1.0, 0.0)), ("add", (1.0, 0.5)), ("subtract", (0.0, 0.5)), ("intersect", (0.5, 0.0))],
)
@pytest.mark.parametrize("kind", ["L", "RGBA", "opaque", "small"])
def test_a_given_mask_is_combined_by_the_brush_mode(run, p, mode, expected, kind):
    upper = Image.new("L", SIZE)
    upper.paste(255, (0, 0, SIZE[0], SIZE[1] // 2))
    if kind == "RGBA":
        p.image_mask = Image.new("RGBA", SIZE, (255, 255, 255, 0))
        p.image_mask.putalpha(upper)
    elif kind == "opaque":
        p.image_mask = upper.convert("RGBA")
    else:
        p.image_mask = upper if kind == "L" else upper.resize((64, 32))

    run.once(p, args(brush=mode))

    found = share(p.read["image_mask"])
    assert found == pytest.approx(expected, abs=0.02)
    assert any("painted mask" in text for text in p.comments)  # says what happens to it


@pytest.mark.parametrize(("is_api", "name"), [(False, "The painted mask"), (True, "The given mask")])
def test_a_given_mask_stays_unless_something_else_is_asked_for_and_a_note_says_so(run, p, is_api, name):
    p.is_api, p.image_mask = is_api, Image.new("L", SIZE)
    p.image_mask.paste(255, (0, 0, SIZE[0], SIZE[1] // 2))

    run.once(p, args())

    assert share(p.read["image_mask"]) == pytest.approx((1.0, 0.5), abs=0.02)
    note = f"{name} stays, and what is found is added to it."
    assert p.extra_generation_params["LD-ZNet found"]["notes"] == [note]
    assert list(p.comments) == [note]


def test_a_tab_in_which_nothing_is_painted_says_nothing_of_a_mask(run, p):
    p.image_mask = Image.new("L", SIZE)

    run.once(p, args())

    assert share(p.read["image_mask"]) == pytest.approx((1.0, 0.0), abs=0.02)
    assert list(p.comments) == []


@pytest.mark.parametrize("kind", [Processing, NeoProcessing])
def test_the_inpaint_settings_of_the_tab_are_kept_unless_others_are_asked_for(run, webui, kind):
    plain, asked = kind(webui.model, [half()]), kind(webui.model, [half()])

    run.once(plain, args())
    run.once(asked, args(fill="latent noise", area="only masked", padding=7, mask_blur=2))

    names = ("inpainting_fill", "inpaint_full_res", "padding", "mask_blur_x", "mask_blur_y")
    assert [plain.read[name] for name in names] == [1, 0, 32, 4, 4]
    assert [asked.read[name] for name in names] == [2, True, 7, 2, 2]
    assert run.reported == []


@pytest.mark.parametrize("given", [args("unicorn"), args("unicorn", invert=True), args(grow=-300), args("")])
def test_where_there_is_nothing_the_run_stops_before_anything_is_painted(run, p, given):
    assert run.stopped(p, given).startswith(("Nothing to inpaint", "There is no prompt"))


@pytest.mark.parametrize(
    ("given", "invert", "text"),
    [
        ({"feather": 256}, 0, "would be masked, but the other options leave nothing"),
        ({"mask_blur": 64}, 0, '"Mask mode" and mask blur of the webui leave nothing'),
        ({"grow": 512, "mask_blur": 0}, 1, '"Mask mode" and mask blur of the webui leave nothing'),
    ],
)
def test_a_mask_of_which_the_webui_would_see_nothing_does_not_repaint_everything(run, p, given, invert, text):
    p.init_images = [Image.new("RGB", (512, 512))]
    p.init_images[0].paste((255, 255, 255), (256, 256, 264, 264))
    p.inpaint_full_res, p.inpainting_mask_invert = True, invert
    p.image_mask = Image.new("L", (512, 512))  # of a tab with "Mask mode"

    assert text in run.stopped(p, args(threshold=0.7, brush="replace", **given))


@pytest.mark.parametrize("prompt", ["unicorn", ""])
def test_a_script_of_the_menu_gets_the_image_unpainted_and_continues(run, p, prompt):
    p.script_args = (3,)  # the third script of the menu, which may count on results
    p.batch_size, p.n_iter, p.width, p.height = 2, 2, 16, 8
    p.image_mask = Image.new("L", SIZE, 255)

    processed = run.once(p, args(prompt, brush="subtract"))

    assert [image.size for image in processed.images] == [(16, 8)] * 4
    assert processed.infotexts == ["text"] * 4
    assert processed.images[0].tobytes() == half().resize((16, 8)).tobytes()
    assert processed.comments.endswith(" The script continues with the picture as it is.\n")
    assert not hasattr(p, "read")  # nothing was encoded
    assert (p.n_iter, p.image_mask) == (2, None)

    p.init_images = [half()]
    run.process_images(p, args("bright"))  # the script's next part, such as a tile

    assert share(p.read["image_mask"])[0] == 1


def test_a_plot_leaves_the_cell_empty(run, p):
    p.script_args, p.ldznet_axes = (3,), {"prompt": "unicorn"}

    processed = run.once(p, args("unicorn"))

    assert processed.images == []
    assert processed.comments.startswith('Nothing to inpaint: "unicorn"')


@pytest.mark.parametrize("prompt", ["", " | "])
def test_over_the_api_an_empty_prompt_is_refused_in_words_for_programs(run, p, prompt):
    p.is_api = True

    with pytest.raises(HTTPException, match=r'Give "prompt", such as \{"prompt": "bucket"\}') as stopped:
        run.once(p, args(prompt))

    assert stopped.value.status_code == 422


def test_over_the_api_a_run_has_no_more_passes_than_our_own_route(run, p, method):
    p.is_api, settings = True, {"prompt": "a|b", "timesteps": " ".join(map(str, range(501)))}

    with pytest.raises(HTTPException, match=r"make up to 1002 passes .* at most 1000 are allowed") as stopped:
        run.once(p, [settings])

    assert stopped.value.status_code == 422


@pytest.mark.parametrize("place", ["image", "mask"])
def test_over_the_api_an_image_has_no_more_pixels_than_in_our_own_route(run, p, method, monkeypatch, place):
    monkeypatch.setattr("ldznet.webui.request_cost.MOST_PIXELS", SIZE[0] * SIZE[1])
    p.is_api, large = True, Image.new("RGB", (SIZE[0] + 1, SIZE[1]))
    if place == "mask":
        p.image_mask = large
    else:
        p.init_images = [large]

    with pytest.raises(
        HTTPException, match="129 x 64 pixels, but at most 16384 a side and 8,192 in all"
    ) as stopped:
        run.once(p, args())

    assert stopped.value.status_code == 422
    assert method.calls == 0


def test_over_the_api_the_answer_is_422_with_the_text(run, p):
    p.is_api = True

    with pytest.raises(HTTPException) as stopped:
        run.once(p, args("unicorn"))

    assert stopped.value.status_code == 422
    assert stopped.value.detail == (
        '"unicorn" reaches 0.00, and threshold is 0.50: nothing was found. '
        "Lower threshold, or use another prompt. Nothing was generated."
    )


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (ZeroDivisionError("division by zero"), 500, "ZeroDivisionError"),
        (StoppedError("interrupted"), 409, "was interrupted in the webui"),
        (OutOfMemoryError("One prompt does not fit."), 503, "One prompt does not fit."),
        (HeadError("It fits another model."), 422, "It fits another model."),
    ],
)
def test_over_the_api_the_status_says_whose_fault_it_is(run, p, method, monkeypatch, error, status, text):
    def fail(*_):
        raise error

    monkeypatch.setattr(method, "probability", fail)
    p.is_api = True

    with pytest.raises(HTTPException) as stopped:
        run.once(p, args())

    assert stopped.value.status_code == status
    assert text in stopped.value.detail


def test_what_goes_wrong_beside_the_networks_is_no_fault_of_the_programs_that_ask(run, p, monkeypatch, webui):
    def fail(*_):
        raise KeyError("threshold")

    monkeypatch.setattr("ldznet.webui.infotext.to_parameters", fail)
    p.is_api = True

    with pytest.raises(HTTPException, match=r"The mask could not be made \(KeyError") as stopped:
        run.once(p, args())

    assert stopped.value.status_code == 500


def test_an_unforeseen_error_stops_the_run_too(run, p, method, monkeypatch):
    monkeypatch.setattr(method, "probability", lambda *_: 1 / 0)

    assert "ZeroDivisionError" in run.stopped(p, args())


def test_an_empty_mask_leaves_the_picture_in_either_area_and_mode(run, p):
    p.inpaint_full_res, p.inpainting_mask_invert = True, 1

    run.once(p, args("unicorn", on_nothing="empty mask"))

    assert not p.read["image_mask"].getbbox()
    assert (p.read["inpaint_full_res"], p.read["invert"]) == (0, 0)
    assert any("Nothing to inpaint" in text for text in p.comments)


def test_without_inpainting_there_is_no_mask(run, p):
    p.image_mask = Image.new("L", SIZE, 255)

    run.once(p, args("unicorn", brush="replace", on_nothing="without inpainting"))

    assert p.read["image_mask"] is None


def test_different_pictures_in_one_run_are_refused(run, p):
    p.init_images = [half(), half(0, 255)]

    assert "2 different pictures" in run.stopped(p, args())


def test_interrupt_stops_the_run(run, p, webui):
    webui.shared.state.interrupted = True

    assert "interrupted" in run.stopped(p, args())


def test_mask_and_overlay_join_the_results(run, p):
    processed = run.once(p, args(append=True))

    assert len(processed.images) == len(processed.infotexts) == 3
    assert share(processed.images[1]) == (1.0, 0.0)
    assert processed.images[2].size == SIZE


def test_a_transparent_picture_is_seen_on_the_webuis_background(run, p):
    clear = Image.new("RGBA", SIZE, (0, 0, 0, 0))
    clear.paste((0, 0, 0, 255), (0, 0, SIZE[0] // 2, SIZE[1]))
    p.init_images = [clear]

    run.once(p, args())

    assert share(p.read["image_mask"]) == (0.0, 1.0)


def test_a_photo_is_not_turned_by_its_exif(run, p):
    exif = Image.Exif()
    exif[274] = 3  # upside down
    p.init_images[0].info["exif"] = exif.tobytes()

    run.once(p, args())

    assert share(p.read["image_mask"]) == (1.0, 0.0)


# --- Batch -----------------------------------------------------------------------------------------------


def test_in_batch_every_file_gets_its_own_mask_and_nothing_of_the_one_before(run, p):
    p.inpaint_full_res = True

    _, reads = run.batch(p, [half(), half(0, 255), half()], args())

    assert [share(read["image_mask"]) for read in reads] == [(1.0, 0.0), (0.0, 1.0), (1.0, 0.0)]
    assert [read["stale"] for read in reads] == [[], [], []]
    assert [read["inpaint_full_res"] for read in reads] == [True] * 3


def test_in_batch_a_file_with_nothing_is_left_out_and_the_others_go_on(run, p):
    whole, reads = run.batch(p, [half(0, 0), half(), half(0, 0)], args(append=True))

    assert [read["image_mask"] is None for read in reads] == [True, False, True]
    assert len(whole.images) == 3  # one picture, its mask and its overlay
    assert (p.n_iter, p.do_not_save_grid) == (1, False)
    assert "Nothing to inpaint" in whole.comments


def test_in_batch_the_area_returns_after_a_file_with_an_empty_mask(run, p):
    p.inpaint_full_res = True

    _, reads = run.batch(p, [half(0, 0), half()], args(on_nothing="empty mask"))

    assert [read["inpaint_full_res"] for read in reads] == [0, True]


def test_in_batch_each_files_own_mask_is_combined(run, p):
    left, right = half().convert("L"), half(0, 255).convert("L")

    _, reads = run.batch(p, [half(), half()], args(brush="add"), masks=[left, right])

    assert [share(read["image_mask"]) for read in reads] == [(1.0, 0.0), (1.0, 1.0)]


def test_a_script_that_runs_the_same_p_again_keeps_the_painted_mask(run, p):
    p.image_mask = half(0, 255).convert("L")

    run.once(p, args(brush="add"))
    run.process_images(p, args(brush="subtract"))

    assert share(p.read["image_mask"]) == (0.0, 1.0)


def test_a_script_that_runs_the_same_p_again_with_another_masked_content_gets_that(run, p):
    p.inpainting_fill = 2
    run.once(p, args())
    p.inpainting_fill = 1  # loopback.py of the webui

    run.process_images(p, args())

    assert p.read["inpainting_fill"] == 1


# --- preview ---------------------------------------------------------------------------------------------


def test_only_the_last_segmentations_are_kept(webui, method):
    keys = [
        webui.session.segment_image(webui.model, half(), read_panel_settings(args(f"bright | {number}"))).key
        for number in range(session.MOST_RESULTS + 1)
    ]

    assert webui.session.kept_result(keys[0]) is None
    assert webui.session.kept_result(keys[-1]) is not None


def test_of_large_pictures_fewer_are_kept_but_the_last(webui, method, monkeypatch):
    width, height = SIZE
    # room for two images and their maps
    monkeypatch.setattr(webui.session._results, "size", 2 * 3 * width * height + 40_000)

    keys = [
        webui.session.segment_image(webui.model, half(255, dark), read_panel_settings(args(resolution=64))).key
        for dark in (0, 10, 20)
    ]

    assert [webui.session.kept_result(key) is not None for key in keys] == [False, True, True]


def test_all_that_was_found_in_a_picture_shares_it(webui, method):
    one, other = (
        webui.session.segment_image(webui.model, half(), read_panel_settings(args(word)))
        for word in ("bright", "dark")
    )

    assert one.image is other.image


def dots(*boxes):
    """A dark picture with bright boxes."""
    picture = Image.new("RGB", SIZE)
    for box in boxes:
        picture.paste((255,) * 3, box)
    return picture


TWO = dots((8, 8, 56, 56), (88, 16, 120, 48))


def test_a_run_repaints_the_chosen_objects_only_and_says_of_all_where_they_are(run, p):
    p.init_images = [TWO]

    run.once(p, args(objects="2"))

    mask = np.asarray(p.read["image_mask"]) > 127
    assert (mask[30, 30], mask[30, 100]) == (False, True)
    told = p.extra_generation_params["LD-ZNet found"]["objects"]
    assert [(one["number"], one["selected"]) for one in told] == [(1, False), (2, True)]
    assert p.extra_generation_params["LD-ZNet objects"] == "2"


def test_a_number_that_no_object_has_stops_the_run(run, p):
    assert "smallest area, objects, shrink" in run.stopped(p, args(objects="2"))


# --- the loaded model and its heads ----------------------------------------------------------------------


@pytest.fixture
def heads(webui, tmp_path, monkeypatch):
    """A head that fits, in the webui's folder."""
    monkeypatch.setattr(head_files, "ROOT", tmp_path / "nowhere")
    folder = tmp_path / "ldznet"
    folder.mkdir()
    host = webui.session.make_host(webui.model)
    save_head(random_head(host.info.unet).head, folder / "one.safetensors", source={})
    return folder


def test_a_head_of_the_folder_is_used_and_named(webui, heads):
    settings = read_panel_settings(args("bright", resolution=64))

    found = webui.session.segment_image(webui.model, half(), settings)

    assert webui.session.head_files.names() == ["automatic", "one.safetensors"]
    assert found.method_reason == "ld-znet, one.safetensors fits sd1.safetensors [0123456789]"
    assert webui.session.obstacle(webui.model, settings) == ""


def test_a_large_head_is_offered_in_8_bits_as_well_and_loaded_so(webui, heads, monkeypatch):
    in_8_bits = "one.safetensors (in 8 bits)"
    assert in_8_bits not in webui.session.head_files.names()  # a small one gains nothing
    monkeypatch.setattr(head_files, "_LARGE", 1)
    assert webui.session.head_files.names() == ["automatic", "one.safetensors", in_8_bits]
    webui.session.head_files.require_name(in_8_bits)

    in_16, in_8 = (
        webui.session.segment_image(webui.model, half(), read_panel_settings(args(resolution=64, head=name)))
        for name in ("one.safetensors", in_8_bits)
    )

    assert in_16.key != in_8.key
    assert in_16.segmentation.record["head_storage"] == "float32"
    assert in_8.segmentation.record["head_storage"] == "int8"
    assert webui.session.status()["head"] == "one.safetensors"


def test_another_model_or_method_is_not_answered_from_memory(webui, heads):
    settings = read_panel_settings(args("bright", resolution=64))
    first = webui.session.segment_image(webui.model, half(), settings)

    webui.model.loaded_vae_file = "/models/other.vae.pt"
    second = webui.session.segment_image(webui.model, half(), settings)
    third = webui.session.segment_image(
        webui.model, half(), read_panel_settings(args("bright", method="difference", resolution=64))
    )

    assert len({first.key, second.key, third.key}) == 3
    assert third.method_reason == "difference, asked for"


def test_a_head_that_is_not_there_is_refused_with_those_that_are(webui, heads):
    settings = read_panel_settings(args("bright", head="two.safetensors"))

    with pytest.raises(HeadError, match=r"no head 'two.safetensors' \(there: one.safetensors\)"):
        webui.session.segment_image(webui.model, half(), settings)
    assert "two.safetensors" in webui.session.obstacle(webui.model, settings)


def test_the_folder_and_precision_of_the_command_line_are_used(webui, heads, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (heads / "one.safetensors").rename(other / "moved.safetensors")
    webui.shared.cmd_opts = SimpleNamespace(
        ldznet_heads=str(other), ldznet_device="cpu", ldznet_precision="float32"
    )

    assert webui.session.head_files.names() == ["automatic", "moved.safetensors"]
    result = webui.session.segment_image(webui.model, half(), read_panel_settings(args(resolution=64)))
    assert result.method_reason.startswith("ld-znet, moved")


def test_a_prompt_is_needed_and_the_message_says_where(webui, method):
    with pytest.raises(PromptError, match=f'Type what to select into "What to select" of {TITLE}'):
        webui.session.segment_image(webui.model, half(), read_panel_settings(args(" | ")))


# --- what the webui loads --------------------------------------------------------------------------------


def test_install_is_silent_and_quick_and_preload_needs_nothing():
    script = (
        "import argparse, sys\n"
        "from preload import preload\n"
        "parser = argparse.ArgumentParser()\n"
        "preload(parser)\n"
        "import install\n"
        "print(sorted(vars(parser.parse_args([]))), [n for n in ('torch', 'numpy', 'gradio') if n in sys.modules])"
    )
    command = [sys.executable, "-B", "-c", script]

    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, timeout=20)

    assert done.stdout == "['ldznet_device', 'ldznet_heads', 'ldznet_precision'] []\n"
    assert done.stderr == ""


def test_install_says_what_is_missing(tmp_path):
    command = [sys.executable, "-B", "-S", "-E", str(ROOT / "install.py")]  # no packages at all

    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)

    assert "torch, safetensors, numpy, pillow, opencv-python cannot be found" in done.stdout


@pytest.mark.parametrize(
    ("over_the_api", "painted", "inverted"), [(False, False, 0), (False, True, 1), (True, False, 1)]
)
def test_a_mask_mode_that_the_page_hides_does_not_act(run, p, over_the_api, painted, inverted):
    p.inpainting_mask_invert, p.is_api = 1, over_the_api
    p.image_mask = Image.new("L", p.init_images[0].size) if painted else None

    run.once(p, args())

    assert run.reported == []
    assert p.inpainting_mask_invert == inverted
