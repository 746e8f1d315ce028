"""The whole paths of evaluation and training on a PhraseCut that is damaged in every way that is known."""

import json
import shutil

import pytest
import torch
from miniature import write_phrasecut
from PIL import Image
from stand_ins import write_checkpoint

from ldznet.__main__ import main

SQUARE = [[10.0, 10.0], [30.0, 10.0], [30.0, 30.0], [10.0, 30.0]]
LEFT_OUT = 61564  # one of the 17 images whose annotations were made for another size

pytestmark = pytest.mark.usefixtures("small_squares")


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """Folder; reason -> names of what must be left out; keys of what must be measured."""
    folder = tmp_path_factory.mktemp("damaged")
    write_phrasecut(folder, scenes=5, seed=1, size=(96, 128), splits=("test",))
    images, path = folder / "images", folder / "refer_test.json"
    tasks = json.loads(path.read_text())
    (images / "1.jpg").unlink()
    (images / "2.jpg").write_bytes((images / "2.jpg").read_bytes()[:900])
    with Image.open(images / "3.jpg") as image:
        small = image.resize((64, 48))
    small.save(images / "3.jpg")
    (images / "5.jpg").rename(images / f"{LEFT_OUT}.jpg")
    sizes = (folder / "image_data_split.json").read_text()
    (folder / "image_data_split.json").write_text(sizes.replace('"image_id": 5,', f'"image_id": {LEFT_OUT},'))
    for task in tasks:
        task["image_id"] = LEFT_OUT if task["image_id"] == 5 else task["image_id"]

    def names(image_id):
        return sorted(task["task_id"] for task in tasks if task["image_id"] == image_id)

    good = next(task for task in tasks if task["image_id"] == 4)
    expected = {
        "missing image": names(1),
        "unreadable image": names(2),
        "wrong size": names(3),
        "image left out by rule": names(LEFT_OUT),
        "empty mask": ["empty"],
        "bad outline": ["outline"],
        "bad phrase": ["phrase"],
        "unknown image": ["unknown"],
    }
    measured = [*names(4), "degenerate"]
    tasks += [
        {**good, "task_id": "degenerate", "Polygons": [[SQUARE], [[[1.0, 1.0], [5.0, 5.0], [9.0, 9.0]]]]},
        {**good, "task_id": "empty", "Polygons": [[[[900.0, 1.0], [950.0, 1.0], [950.0, 9.0]]]]},
        {**good, "task_id": "outline", "Polygons": [[SQUARE, [[1.0, "x"]]]]},
        {**good, "task_id": "phrase", "phrase": " "},
        {**good, "task_id": "unknown", "image_id": 999},
        good,
        {"task_id": "nothing"},
    ]
    for split in ("test", "train", "miniv"):
        (folder / f"refer_{split}.json").write_text(json.dumps(tasks))
    file = f"refer_test.json, task {len(tasks)}"
    again = f"{good['task_id']} (refer_test.json, task {len(tasks) - 1})"
    return folder, {**expected, "duplicate task": [again], "bad task": [file]}, measured


def test_an_evaluation_leaves_out_counts_and_names_each_kind_of_damage(damaged, tmp_path, capsys):
    folder, expected, measured = damaged
    arguments = ["evaluate", str(folder), "--random-weights", "--quiet", "--out", str(tmp_path)]

    assert main(arguments) == 0

    said = capsys.readouterr().out
    found = json.loads((tmp_path / "PhraseCut-test.json").read_text())
    assert found["report"]["skipped"] == {reason: sorted(names) for reason, names in sorted(expected.items())}
    assert found["report"]["counts"] == {reason: len(names) for reason, names in sorted(expected.items())}
    assert found["report"]["kept"] == {"degenerate": ["polygon 1 encloses no area (drawn)"]}
    assert found["numbers"]["samples"] == len(measured)
    assert f"PhraseCut-test: {len(measured)} samples were measured." in said
    for reason, names in expected.items():
        for text in (said, (tmp_path / "PhraseCut-test.md").read_text()):
            assert f"{len(names)} skipped ({reason}): {min(names)}" in text


def test_a_training_on_it_reports_the_same(damaged, tmp_path, capsys):
    folder, expected, _ = damaged
    checkpoint, _, _ = write_checkpoint(tmp_path / "model")
    command = ["train", "phrasecut", "--data", str(folder), "--kind", "znet", "--checkpoint", str(checkpoint)]
    small = ["--size", "64", "--batch", "8", "--steps", "5", "--device", "cpu"]  # more than an epoch

    assert main([*command, *small, "--out", str(tmp_path / "run")]) == 0

    validations, training = capsys.readouterr().out.split("left out of the training:")
    assert "left out of the validations:" in validations
    for said in (validations, training):
        assert f"{len(expected['missing image'])} skipped (missing image)" in said
        assert "1 skipped (duplicate task)" in said
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    report = json.loads(state["report"])
    assert report["counts"] == {reason: len(names) for reason, names in sorted(expected.items())}


def test_a_training_whose_validation_has_no_image_left_says_so_and_has_no_best_head(damaged, tmp_path, capsys):
    folder = shutil.copytree(damaged[0], tmp_path / "copy")
    tasks = [task for task in json.loads((folder / "refer_test.json").read_text()) if task.get("image_id") == 1]
    (folder / "refer_miniv.json").write_text(json.dumps(tasks))
    checkpoint, _, _ = write_checkpoint(tmp_path / "model")
    command = ["train", str(folder), "--kind", "znet", "--checkpoint", str(checkpoint), "--size", "64"]

    assert main([*command, "--batch", "1", "--steps", "1", "--device", "cpu", "--out", str(tmp_path / "run")]) == 0

    assert f"left out of the validations:\n{len(tasks)} skipped (missing image)" in capsys.readouterr().out
    assert (tmp_path / "run" / "last.safetensors").exists()
    assert not (tmp_path / "run" / "best.safetensors").exists()


def test_each_kind_of_damage_ends_a_run_that_refuses_it_and_says_how_to_go_on(damaged, capsys):
    folder, _, _ = damaged

    assert main(["evaluate", str(folder), "--random-weights", "--quiet", "--on-problem", "refuse"]) == 1
    assert "Or leave damaged samples out: --on-problem skip" in capsys.readouterr().err


def test_half_a_download_is_measured_and_said_and_none_of_the_images_is_an_error(tmp_path, capsys):
    folder = tmp_path / "data"
    write_phrasecut(folder, scenes=2, seed=1, size=(96, 96), splits=("test",))
    (folder / "images" / "1.jpg").unlink()
    tasks = json.loads((folder / "refer_test.json").read_text())
    lost = sum(task["image_id"] == 1 for task in tasks)
    arguments = ["evaluate", str(folder), "--random-weights", "--quiet"]

    assert main(arguments) == 0
    assert f"{len(tasks) - lost} samples were measured.\n{lost} skipped (missing image)" in capsys.readouterr().out

    (folder / "images" / "2.jpg").unlink()
    assert main(arguments) == 1
    assert f"none of {len(tasks)} samples could be measured. {len(tasks)} skipped" in capsys.readouterr().err
