"""segment: what is written for an image, and what its mask is."""

import dataclasses
import io
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from command_line import CAT, FAST, command, files, opened, picture, report
from PIL import Image
from stand_ins import write_checkpoint

from ldznet.cli import inputs
from ldznet.cli.outputs import ResultFiles
from ldznet.heads.head_file import save_head
from ldznet.images.saving import save_png
from ldznet.methods.learned_head import random_head
from ldznet.segmenter import Segmenter


def squares():
    """Probabilities of three things of one name."""
    canvas = np.zeros((64, 96), np.float32)
    for x, y, side in ((4, 4, 30), (50, 8, 20), (70, 44, 10)):
        canvas[y : y + side, x : x + side] = 0.9
    return canvas


@pytest.fixture
def three(folder, monkeypatch):
    """Whatever is looked for, three squares are found."""
    picture(folder / "photo.png", size=(96, 64))
    found = Segmenter.segment

    def segment(self, *given, **more):
        maps = torch.from_numpy(squares())[None]
        return dataclasses.replace(found(self, *given, **more), maps=maps)

    monkeypatch.setattr(Segmenter, "segment", segment)
    return folder


def test_one_image_and_one_prompt_give_a_mask_an_overlay_and_a_report(folder, capsys):
    picture(folder / "photo.jpg")

    code = command("photo.jpg", "bucket", *FAST, "--threshold", "0.4")

    assert code == 0
    assert files(folder / "masks") == ["photo.json", "photo.mask.png", "photo.overlay.png"]
    report = json.loads((folder / "masks" / "photo.json").read_text())
    assert report["prompts"] == ["bucket"]
    assert report["files"] == ["photo.mask.png", "photo.overlay.png"]
    with Image.open(folder / "masks" / "photo.mask.png") as mask:
        assert (mask.mode, mask.size) == ("L", (60, 40))
        assert (np.asarray(mask) > 0).sum() == report["found"][0]["area"]
    out, err = capsys.readouterr()
    assert out.startswith("photo.jpg  bucket: ")
    assert "the weights are random, so the masks mean nothing" in err


def test_everything_that_can_be_saved_is_saved_on_request(folder):
    picture(folder / "photo.png")

    command(
        "photo.png",
        "-p",
        "big dog",
        "-p",
        "cat",
        "-n",
        "grass",
        *FAST,
        "--save",
        "mask,overlay,colors,each,heat,npz",
    )

    assert files(folder / "masks") == [
        "photo.colors.png",
        "photo.heat.1-big-dog.png",
        "photo.heat.2-cat.png",
        "photo.json",
        "photo.mask.1-big-dog.png",
        "photo.mask.2-cat.png",
        "photo.mask.png",
        "photo.npz",
        "photo.overlay.png",
    ]
    with np.load(folder / "masks" / "photo.npz") as saved:
        assert saved["prompts"].tolist() == ["big dog", "cat"]
        assert saved["probability_2"].shape == (40, 60)
        assert saved["probability_2"].dtype == np.float32


def test_each_object_can_be_saved_and_is_told_in_the_report(three):
    command("photo.png", "square", *FAST, "--save", "objects")

    names = [f"photo.object.{number}.png" for number in (1, 2, 3)]
    assert files(three / "masks") == ["photo.json", *names, "photo.objects.png"]
    assert [int((opened(three / "masks" / name) > 127).sum()) for name in names] == [900, 400, 100]
    report = json.loads((three / "masks" / "photo.json").read_text())
    assert [(one["number"], one["area"], one["box"]) for one in report["objects"]] == [
        (1, 900, [4, 4, 34, 34]),
        (2, 400, [50, 8, 70, 28]),
        (3, 100, [70, 44, 80, 54]),
    ]
    assert report["files"] == ["photo.objects.png", *names]


def test_objects_are_chosen_by_their_numbers(three):
    command("photo.png", "square", *FAST, "--save", "mask", "--objects", "1,3")

    mask = opened(three / "masks" / "photo.mask.png") > 127
    assert (mask.sum(), mask[10, 10], mask[10, 60], mask[50, 75]) == (1000, True, False, True)
    report = json.loads((three / "masks" / "photo.json").read_text())
    assert [one["selected"] for one in report["objects"]] == [True, False, True]
    assert report["mask_options"]["objects"] == [1, 3]


def test_an_objects_number_out_of_range_is_refused_before_any_work(three, capsys):
    assert command("photo.png", "square", *FAST, "--objects", "0") == 2

    assert "each of objects is 0, but it must be from 1 to 99" in capsys.readouterr().err


def test_masks_to_choose_from_are_saved_with_their_thresholds(three):
    command("photo.png", "square", *FAST, "--save", "candidates")

    assert files(three / "masks") == ["photo.candidate.middle.png", "photo.json"]
    assert (opened(three / "masks" / "photo.candidate.middle.png") > 127).sum() == 1400
    report = json.loads((three / "masks" / "photo.json").read_text())
    assert report["candidates"] == [{"name": "middle", "threshold": 0.45, "area": 1400}]


def test_mask_options_act_on_the_mask(folder):
    picture(folder / "photo.png")

    command("photo.png", "bucket", *FAST, "--out", "a", "--threshold", "0")
    command("photo.png", "bucket", *FAST, "--out", "b", "--threshold", "0", "--invert")
    command("photo.png", "bucket", *FAST, "--out", "c", "--threshold", "1")

    def mask(name):
        return opened(folder / name / "photo.mask.png")

    assert (mask("a") == 255).all()
    assert not mask("b").any()
    assert not mask("c").any()


def test_a_checkpoint_and_a_heads_file_from_disk_are_used(folder):
    path, host, _ = write_checkpoint(folder / "models")
    save_head(random_head(host.info.unet).head, folder / "head.safetensors", source={"resolution": 64})
    picture(folder / "photo.png")

    code = command("photo.png", "cat", "--checkpoint", path, "--head", "head.safetensors", "--device", "cpu")

    report = json.loads((folder / "masks" / "photo.json").read_text())
    assert code == 0
    assert (report["model"], report["network_size"]) == ("model.safetensors", [64, 64])
    assert len(report["head"]) == 64


def test_standard_input_and_output_make_a_pipe(folder):
    data = picture(folder / "photo.png").read_bytes()
    call = [sys.executable, "-m", "ldznet", "segment", "-", "bucket", "--out", "-", "--threshold", "0", *FAST]

    done = subprocess.run(call, input=data, capture_output=True, check=True)

    (folder / "mask.png").write_bytes(done.stdout)
    with Image.open(folder / "mask.png") as mask:
        assert (mask.mode, mask.size) == ("L", (60, 40))
    assert files(folder) == ["mask.png", "photo.png"]


def test_a_picture_from_standard_input_can_be_filed_too(folder, monkeypatch):
    data = picture(folder / "photo.png").open("rb")
    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": data}))

    assert command("-", "bucket", *FAST) == 0
    assert files(folder / "masks") == ["stdin.json", "stdin.mask.png", "stdin.overlay.png"]
    data.close()


def test_a_given_mask_is_combined_with_the_brush_mode(folder):
    picture(folder / "photo.png")
    half = np.zeros((40, 60), np.uint8)
    half[:, :30] = 255
    save_png(half, folder / "half.png")

    command("photo.png", "x", *FAST, "--threshold", "0", "--brush-mask", "half.png", "--brush", "intersect")

    assert np.array_equal(opened(folder / "masks" / "photo.mask.png"), half)


def test_a_given_mask_of_another_size_is_scaled_to_the_image(folder):
    picture(folder / "photo.png")
    small = np.zeros((4, 6), np.uint8)
    small[:, :3] = 255
    save_png(small, folder / "small.png")

    command("photo.png", "x", *FAST, "--threshold", "0", "--brush-mask", "small.png", "--brush", "intersect")

    mask = opened(folder / "masks" / "photo.mask.png") > 127
    assert mask[:, :30].all()
    assert not mask[:, 30:].any()


def test_what_is_transparent_in_a_given_mask_is_not_selected(folder):
    picture(folder / "a.png")
    strokes = np.zeros((40, 60, 4), np.uint8)
    strokes[:, :30] = 255
    save_png(strokes, folder / "brush.png")

    command("a.png", *CAT, "--threshold", "1", "--brush-mask", "brush.png", "--brush", "add")

    assert np.array_equal(opened(folder / "masks" / "a.mask.png"), strokes[:, :, 3])


def test_negative_prompts_act_on_heat_maps_and_colour_maps(folder):
    picture(folder / "a.png")
    two = ("-p", "cat", "-p", "dog", *FAST, "--save", "heat,colors", "--threshold", "0.12")

    command("a.png", *two, "--out", "plain")
    command("a.png", *two, "--out", "less", "-n", "cat", "-n", "dog")

    for name in ("a.heat.1-cat.png", "a.heat.2-dog.png", "a.colors.png"):
        assert not np.array_equal(opened(folder / "plain" / name), opened(folder / "less" / name)), name


def test_the_thinnest_picture_gets_a_colour_map_with_its_legend(folder):
    picture(folder / "thin.png", (1, 16384))

    assert command("thin.png", "-p", "cat", "-p", "dog", *FAST) == 0

    assert opened(folder / "masks" / "thin.mask.png").shape == (16384, 1)
    assert opened(folder / "masks" / "thin.colors.png").shape[0] > 16384


def test_a_transparent_picture_lies_on_the_background_that_the_report_names(folder):
    Image.fromarray(np.zeros((40, 60, 4), np.uint8)).save(folder / "clear.png")

    command("clear.png", *FAST, "-p", "cat", "--save", "overlay", "--threshold", "1", "--background", "#00ff00")

    assert report(folder / "masks" / "clear.json")["background"] == "#00ff00"
    assert (opened(folder / "masks" / "clear.overlay.png") == (0, 255, 0)).all()


def test_the_report_holds_all_that_is_needed_to_make_it_again(folder):
    path, host, _ = write_checkpoint(folder / "models")
    save_head(random_head(host.info.unet).head, folder / "head.safetensors", source={"resolution": 64})
    picture(folder / "a.png")
    save_png(np.full((40, 60), 255, np.uint8), folder / "w.png")

    code = command(
        *("a.png", "cat", "--checkpoint", path, "--head", "head.safetensors", "--device", "cpu"),
        *("--brush", "add", "--brush-mask", "w.png", "--prediction", "v", "--dtype", "float32"),
        *("--head-storage", "bfloat16"),
    )

    found = report(folder / "masks" / "a.json")
    assert code == 0
    assert found["brush_mask"] == {"path": "w.png", "sha256": inputs.file_digest("w.png")}
    assert found["image_file"] == {"path": str(folder / "a.png"), "sha256": inputs.file_digest("a.png")}
    assert (found["prediction"], found["dtype"], found["checkpoint"]) == ("v", "float32", str(path))
    details = found["model_details"]
    assert (details["prediction"], details["vae"]) == ("as asked for", "in the checkpoint")
    assert {"weights", "schedule"} <= details.keys()
    assert (found["head_dtype"], found["head_storage"]) == ("float32", "bfloat16")


def too_large(*_):
    cv2.resize(np.zeros((10, 10), np.float32), (2**30, 2**30))


def no_memory(*_):
    np.empty((2**22, 2**22))


@pytest.mark.parametrize("fail", [too_large, no_memory])
@pytest.mark.parametrize(("place", "name"), [(ResultFiles, "write"), (inputs, "file_digest")])
def test_a_picture_that_does_not_fit_into_memory_is_named_and_the_rest_goes_on(
    folder, monkeypatch, capsys, fail, place, name
):
    picture(folder / "in" / "a.png")
    picture(folder / "in" / "b.png", seed=1)
    plain, calls = getattr(place, name), []
    monkeypatch.setattr(place, name, lambda *args: plain(*args) if calls else (calls.append(1), fail()))

    assert command("in", *CAT, "--json") == 1

    answer = json.loads(capsys.readouterr().out)
    assert [report["image"] for report in answer["done"]] == ["in/b.png"]
    assert answer["failed"][0]["error"].startswith("in/a.png does not fit into the memory that is free")


def test_one_process_of_a_launch_writes_to_standard_output(folder, capsysbinary, monkeypatch):
    picture(folder / "a.png")
    monkeypatch.setenv("WORLD_SIZE", "2")
    written = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert command("a.png", "cat", *FAST, "--out", "-") == 0
        written.append(capsysbinary.readouterr().out[:4])

    assert written == [b"\x89PNG", b""]


# --- one decision --------------------------------------------------------------------------------------


def test_inverted_prompts_that_are_not_found_select_nothing_and_it_is_said(folder, capsys):
    picture(folder / "photo.png")

    command("photo.png", "cat", *FAST, "--threshold", "1", "--invert", "--save", "mask,each,candidates")

    out, err = capsys.readouterr()
    assert not opened(folder / "masks" / "photo.mask.png").any()
    assert not opened(folder / "masks" / "photo.mask.1-cat.png").any()
    written = report(folder / "masks" / "photo.json")
    assert written["empty_reason"] == "not found"
    assert written["found"][0]["area"] == 0
    assert out.startswith("photo.jpg  cat: nothing (highest 0.".replace("jpg", "png"))
    assert "; nothing is selected\n" in out
    assert "note: photo.png: no prompt was found, so nothing is selected." in err


def test_standard_output_gets_the_same_decision(folder, capsysbinary):
    picture(folder / "photo.png")

    assert command("photo.png", "cat", *FAST, "--threshold", "1", "--invert", "--out", "-") == 0

    out, err = capsysbinary.readouterr()
    assert not np.array(Image.open(io.BytesIO(out))).any()
    assert b"note: no prompt was found, so nothing is selected." in err


def test_a_given_mask_stays_alone_where_nothing_is_found_to_be_added(folder, capsys):
    picture(folder / "photo.png")
    half = np.zeros((40, 60), np.uint8)
    half[:, :30] = 255
    save_png(half, folder / "half.png")

    command("photo.png", "cat", *FAST, "--threshold", "1", "--brush-mask", "half.png", "--brush", "add")
    assert np.array_equal(opened(folder / "masks" / "photo.mask.png"), half)
    assert (
        "note: photo.png: no prompt was found, so the mask is that of --brush-mask alone"
        in capsys.readouterr().err
    )

    command("photo.png", "cat", *FAST, "--threshold", "1", "--brush-mask", "half.png", "--brush", "subtract")
    assert not opened(folder / "masks" / "photo.mask.png").any()
    assert report(folder / "masks" / "photo.json")["empty_reason"] == "nothing to subtract"


def test_a_cutout_is_the_image_with_the_mask_as_its_alpha(three):
    command("photo.png", "square", *FAST, "--save", "mask,cutout")

    cutout = opened(three / "masks" / "photo.cutout.png")
    assert np.array_equal(cutout[..., 3], opened(three / "masks" / "photo.mask.png"))
    assert np.array_equal(cutout[..., :3], opened(three / "photo.png"))


def test_masks_for_the_webuis_batch_are_alone_in_a_folder_and_named_as_the_images(folder):
    for name in ("in/a.jpg", "in/b.png"):
        picture(folder / name)

    for _ in range(2):  # what is in the folder is known as ours the second time
        assert command("in", *CAT[:-2], "--save", "mask,batch", "--force") == 0

    assert files(folder / "masks" / "batch") == ["a.png", "b.png"]
    for name in ("a", "b"):
        mask = opened(folder / "masks" / f"{name}.mask.png")
        assert np.array_equal(opened(folder / "masks" / "batch" / f"{name}.png"), mask)
    assert command("masks", *CAT, "-r", "--out", "other") == 1


@pytest.mark.parametrize("names", [("x/a.png", "x/a.jpg"), ("x/a.png", "x/a.b.png"), ("x/a.png", "y/a.png")])
def test_images_whose_masks_the_webui_would_confuse_are_refused(folder, capsys, no_model, names):
    for name in names:
        picture(folder / name)

    assert command(*names, *CAT[:-2], "--save", "batch") == 2
    assert "it cannot tell those of x/a.png and " in capsys.readouterr().err
