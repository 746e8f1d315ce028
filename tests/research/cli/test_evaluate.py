"""The command that measures: with which measurement in its folder it goes on, and with which it does not."""

import json
import shutil

import numpy as np
import pytest
import torch
from miniature import write_aigi, write_phrasecut
from stand_ins import write_folder

from ldznet.__main__ import main
from ldznet.heads.head_file import read_head_info, save_head
from ldznet.hosts.diffusers.random_weights import random_host
from ldznet.methods.learned_head import random_head
from ldznet.research.datasets.polygons import rasterize_pillow
from ldznet.research.datasets.sample import Sample
from ldznet.research.evaluation.pairs import is_right
from ldznet.research.evaluation.runner import Prediction, Scores
from ldznet.research.scenes.pairs import PAIR_KINDS

pytestmark = pytest.mark.usefixtures("small_squares")
REFUSED = "holds a measurement of other weights, options or data"


@pytest.fixture(scope="module")
def phrasecut(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phrasecut")
    write_phrasecut(folder, scenes=1, seed=1, size=(96, 96), splits=("test",))
    return folder


def measure(data, out, *more):
    return main(["evaluate", str(data), "--random-weights", "--quiet", "--limit", "2", "--out", str(out), *more])


def test_the_same_measurement_continues(phrasecut, tmp_path, monkeypatch):
    assert measure(phrasecut, tmp_path / "out") == 0
    report = (tmp_path / "out" / "PhraseCut-test.json").read_bytes()
    before = (tmp_path / "out" / "parts" / "PhraseCut-test.0-of-1.json").stat().st_mtime_ns

    assert measure(phrasecut, tmp_path / "out") == 0
    assert (tmp_path / "out" / "PhraseCut-test.json").read_bytes() == report
    assert (tmp_path / "out" / "parts" / "PhraseCut-test.0-of-1.json").stat().st_mtime_ns == before


def test_what_was_left_out_is_not_part_of_a_measurement_that_refuses_it(phrasecut, tmp_path, capsys):
    assert measure(phrasecut, tmp_path / "out") == 0

    assert measure(phrasecut, tmp_path / "out", "--on-problem", "refuse") == 2
    assert REFUSED in capsys.readouterr().err


@pytest.mark.parametrize("changed", ["refer_test.json", "name_att_rel_count.json"])
def test_another_state_of_the_annotations_is_another_measurement(phrasecut, tmp_path, capsys, changed):
    data = shutil.copytree(phrasecut, tmp_path / "data")
    assert measure(data, tmp_path / "out") == 0
    (data / changed).write_text((data / changed).read_text() + " ")

    assert measure(data, tmp_path / "out") == 2
    assert REFUSED in capsys.readouterr().err


def test_annotations_of_another_split_change_nothing(phrasecut, tmp_path):
    data = shutil.copytree(phrasecut, tmp_path / "data")
    assert measure(data, tmp_path / "out") == 0
    (data / "refer_train.json").write_text("[]")

    assert measure(data, tmp_path / "out") == 0


def test_annotations_of_aigi_that_were_mended_are_another_measurement(tmp_path, capsys):
    write_aigi(tmp_path / "data", "coco", scenes=1, seed=2)
    file = next((tmp_path / "data").glob("*.json"))
    assert measure(tmp_path / "data", tmp_path / "out") == 0
    file.write_text(json.dumps(json.loads(file.read_text())) + "\n")

    assert measure(tmp_path / "data", tmp_path / "out") == 2
    assert REFUSED in capsys.readouterr().err


def test_clipseg_is_known_by_its_weights_and_not_by_its_folders_name(
    phrasecut,
    tmp_path,
    capsys,
    clipseg_folder,
):
    one, renamed = (shutil.copytree(clipseg_folder, tmp_path / name) for name in ("one", "renamed"))
    assert measure(phrasecut, tmp_path / "out", "--clipseg", str(one)) == 0
    assert measure(phrasecut, tmp_path / "out", "--clipseg", str(renamed)) == 0
    record = json.loads((tmp_path / "out" / "PhraseCut-test.json").read_text())["record"]
    assert (record["method"], record["model"]) == ("clipseg", "renamed")

    weights = bytearray((one / "model.safetensors").read_bytes())
    weights[-3] ^= 1
    (one / "model.safetensors").write_bytes(weights)
    assert measure(phrasecut, tmp_path / "out", "--clipseg", str(one)) == 2
    assert REFUSED in capsys.readouterr().err


@pytest.mark.parametrize("part", ["vae", "text"])
def test_another_vae_or_text_encoder_is_another_model_though_file_and_unet_are_called_the_same(
    phrasecut, tmp_path, capsys, part
):
    host, folder = random_host(), tmp_path / "model"
    write_folder(folder, host)
    command = ["evaluate", str(phrasecut), "--quiet", "--limit", "1", "--out", str(tmp_path / "out")]
    command += ["--checkpoint", str(folder), "--method", "attention"]
    assert main(command) == 0
    module = host.vae if part == "vae" else host.text[0].model
    with torch.no_grad():
        next(module.parameters()).add_(0.01)
    write_folder(folder, host)

    assert main(command) == 2
    assert REFUSED in capsys.readouterr().err


def test_an_object_without_a_pixel_on_the_square_counts_as_not_found():
    mask, nothing = np.zeros((128, 128), bool), np.zeros((64, 64), bool)
    mask[1, 1] = True
    for shown, expected in ((0.1, 0), (0.9, 100 / 128**2)):  # nothing is found, or all of the picture
        scores = Scores()
        sample = Sample("k", np.zeros((128, 128, 3), np.uint8), "a thing", mask, {})
        scores.update(Prediction(sample, np.full((64, 64), shown, np.float32), nothing))

        numbers = scores.numbers()
        assert (numbers["samples"], numbers["miou"], "absent" in numbers) == (1, 0, False)
        assert numbers["phrasecut_mean_iou"] == pytest.approx(expected)


def test_a_thing_as_thin_as_a_line_is_left_out_though_phrasecut_draws_it(phrasecut, tmp_path, capsys):
    data = shutil.copytree(phrasecut, tmp_path / "data")
    tasks = json.loads((data / "refer_test.json").read_text())
    line = [[1.0, 1.5], [9.0, 1.5], [5.0, 1.5]]
    (data / "refer_test.json").write_text(json.dumps([tasks[0], {**tasks[1], "Polygons": [[line]]}]))

    assert rasterize_pillow([line], (96, 96)).mask.sum() == 9
    assert measure(data, tmp_path / "out") == 0
    assert f"1 skipped (empty mask): {tasks[1]['task_id']}" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "PhraseCut-test.json").read_text())["numbers"]["samples"] == 1


def test_a_folder_that_cannot_be_made_is_reported_before_anything_is_measured(phrasecut, tmp_path, capsys):
    (tmp_path / "file").write_text("")

    assert measure(phrasecut, tmp_path / "file") == 2
    assert "Nothing can be written to" in capsys.readouterr().err


@pytest.mark.usefixtures("art")
def test_scenes_of_icons_are_measured_by_artist_and_in_pairs(tmp_path, capsys):
    icons = ("--artists", "noto,firefox", "--scenes", "1", "--pairs", "1")

    assert measure("scenes", tmp_path / "out", *icons) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines if "noto" in line or "firefox" in line] == [
        "noto",
        "firefox",
        "noto",
        "firefox",
    ]
    assert "| right one of two by | name | group | color | size | side |" in lines
    assert measure("scenes", tmp_path / "more", *icons, "--json") == 0
    numbers = json.loads(capsys.readouterr().out)["numbers"]["noto"]
    assert {f"pair_{kind}" for kind in PAIR_KINDS} <= set(numbers)
    assert all(numbers[f"pair_{kind}"] in (0, 25, 50, 75, 100) for kind in PAIR_KINDS)


@pytest.mark.usefixtures("art")
def test_the_best_threshold_is_printed_and_written_into_the_head_that_it_was_measured_for(tmp_path, capsys):
    host = random_host()
    write_folder(tmp_path / "model", host)
    save_head(random_head(host.info.unet, "znet").head, tmp_path / "z.safetensors", source={"resolution": 64})
    command = ["evaluate", "scenes", "--scenes", "1", "--artists", "noto", "--quiet", "--device", "cpu"]
    command += ["--checkpoint", str(tmp_path / "model")]

    assert main([*command, "--head", str(tmp_path / "z.safetensors")]) == 0
    assert "0.50 is used now (never measured for this head)" in capsys.readouterr().out
    assert "threshold" not in read_head_info(tmp_path / "z.safetensors").source

    assert main([*command, "--head", str(tmp_path / "z.safetensors"), "--write-threshold", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report["numbers"]) == ["noto-validation"]  # not the scenes that are measured otherwise
    assert report["threshold"] == report["numbers"]["noto-validation"]["miou_threshold"]
    written = read_head_info(tmp_path / "z.safetensors").source
    assert written == {"resolution": 64, "threshold": report["threshold"]}

    assert main([*command, "--method", "attention", "--write-threshold"]) == 2
    assert "--write-threshold writes into a head file, but attention runs without one" in capsys.readouterr().err


def test_the_right_one_of_two_is_the_one_with_the_higher_mean():
    probability = np.array([[0.2, 0.9, 0.1], [0.4, 0.3, 0.1]], np.float32)
    left, middle = np.zeros((2, 3), bool), np.zeros((2, 3), bool)
    left[:, 0] = middle[:, 1] = True

    assert is_right(probability, middle, left) == 1
    assert is_right(probability, left, middle) == 0
    assert is_right(probability, left, left) == 0.5
