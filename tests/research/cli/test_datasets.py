"""Datasets called by their names on the command line, and what is said where they do not lie."""

import json

import pytest
from miniature import write_aigi, write_phrasecut

from ldznet.__main__ import main
from ldznet.research.evaluation.paper_tables import SAMPLES

FAST = ("--random-weights", "--quiet", "--limit", "1")

pytestmark = pytest.mark.usefixtures("small_squares")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The folder in which the program runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("place", ["data/VGPhraseCut_v0", "VGPhraseCut_v0", "phrasecut"])
def test_phrasecut_is_measured_where_it_is_expected(here, capsys, place):
    write_phrasecut(here / place, scenes=1, splits=("test",))

    assert main(["evaluate", "phrasecut", *FAST]) == 0
    assert "| PhraseCut-test | 1 |" in capsys.readouterr().out


@pytest.mark.parametrize("given", ["repository", "repository/data", "repository/data/VGPhraseCut_v0"])
@pytest.mark.parametrize("by_name", [True, False])
def test_it_may_lie_elsewhere_and_the_folder_may_be_that_of_its_repository(here, capsys, given, by_name):
    write_phrasecut(here / "repository/data/VGPhraseCut_v0", scenes=1, splits=("test",))

    assert main(["evaluate", *(["phrasecut", "--data", given] if by_name else [given]), *FAST]) == 0
    assert "The published rows are left out: they were measured on 14,354 phrases" in capsys.readouterr().out


def test_aigi_is_measured_with_its_published_rows(here, capsys, monkeypatch):
    write_aigi(here / "data/AIGI", scenes=1)

    assert main(["evaluate", "aigi", *FAST]) == 0
    text = capsys.readouterr().out
    assert "| AIGI | 1 |" in text
    assert "(published)" not in text
    assert "measured on 214 phrases, and this set has 1." in text
    monkeypatch.setitem(SAMPLES, "aigi", 1)
    assert main(["evaluate", "aigi", *FAST]) == 0
    assert "| LD-ZNet (published) | | 74.1 |" in capsys.readouterr().out


def test_any_other_folder_is_measured_without_published_rows(here, capsys):
    write_aigi(here / "mine", "labelme", scenes=1)

    assert main(["evaluate", "mine", *FAST]) == 0
    text = capsys.readouterr().out
    assert "| mine | 1 |" in text
    assert "published" not in text


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ["evaluate", "phrasecut"],
            1,
            "data/VGPhraseCut_v0, VGPhraseCut_v0, phrasecut: no such folder. PhraseCut is",
        ),
        (["evaluate", "phrasecut"], 1, "Lay them out as data/VGPhraseCut_v0/image_data_split.json, "),
        (
            ["evaluate", "phrasecut", "--data", "empty"],
            1,
            "empty holds none of its files. PhraseCut is not part of",
        ),
        (["evaluate", "phrasecut", "--data", "gone"], 1, "gone: no such folder."),
        (
            ["evaluate", "aigi"],
            1,
            "data/AIGI, AIGI, aigi: no such folder. AIGI is not part of ldznet. The README of",
        ),
        (["evaluate", "aigi"], 1, "data/AIGI/<image>_<caption>.png for each caption"),
        (["evaluate", "empty"], 1, "'empty' has no caption that can be used. nothing was skipped."),
        (
            ["evaluate", "gone"],
            2,
            "gone does not exist. Give a dataset's folder, or one of phrasecut, aigi, scenes,",
        ),
        (
            ["evaluate", "scenes", "--data", "empty"],
            2,
            "--data is the folder of phrasecut or aigi, but scenes needs",
        ),
        (["train", "phrasecut", "--out", "x"], 1, "(to train also refer_train.json and refer_miniv.json)"),
        (
            ["train", "aigi", "--out", "x"],
            2,
            "aigi does not exist. Give a dataset's folder, or one of phrasecut, sce",
        ),
        (
            ["train", "empty", "--out", "x", "--device", "cpu"],
            1,
            "image_data_split.json and the folder images are missing",
        ),
    ],
)
def test_an_error_says_where_to_get_what_is_missing_and_how_to_lay_it_out(here, capsys, arguments, code, said):
    (here / "empty").mkdir()

    assert main([*arguments, *(FAST if arguments[0] == "evaluate" else ())]) == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("images", "the folder images is missing"),
        ("image_data_split.json", "image_data_split.json is missing"),
        ("refer_test.json", "refer_test.json' does not exist, so the split cannot be read"),
    ],
)
def test_half_a_download_is_told_from_other_folders(here, capsys, gone, said):
    write_phrasecut(here / "half", scenes=1, splits=("test",))
    (here / "half" / gone).rename(here / "elsewhere")

    assert main(["evaluate", "half", *FAST]) == 1
    assert said in capsys.readouterr().err


def test_a_json_for_programs_names_what_was_left_out_in_all(here, capsys):
    write_phrasecut(here / "data/VGPhraseCut_v0", scenes=2, splits=("test",))
    (here / "data/VGPhraseCut_v0/images/1.jpg").write_bytes(b"")

    assert main(["evaluate", "phrasecut", "--random-weights", "--quiet", "--json"]) == 0
    (text,) = json.loads(capsys.readouterr().out)["left_out"]
    assert "skipped (unreadable image): 1__" in text


def test_a_training_says_before_a_model_is_loaded_that_the_split_of_its_validations_is_missing(here, capsys):
    write_phrasecut(here / "data/VGPhraseCut_v0", scenes=1, splits=("train",))

    assert main(["train", "phrasecut", "--out", "x", "--checkpoint", "gone.safetensors"]) == 1
    assert "refer_miniv.json' does not exist, so the split cannot be read" in capsys.readouterr().err


def test_pictures_alone_are_no_dataset(here, capsys):
    write_aigi(here / "mine", "labelme", scenes=2)
    for path in (here / "mine").glob("*.json"):
        path.unlink()

    assert main(["evaluate", "mine", *FAST]) == 1
    said = capsys.readouterr().err
    assert "has no caption that can be used. 2 skipped (image without a mask): scene001.png, scene002.png" in said


def test_a_dataset_of_the_same_name_elsewhere_is_another_measurement(here, capsys):
    for folder in ("one", "two"):
        write_phrasecut(here / folder, scenes=1, splits=("test",))
    command = ["evaluate", "phrasecut", *FAST, "--out", "report"]

    assert [main([*command, "--data", folder]) for folder in ("one", "one", "two")] == [0, 0, 2]
    assert "report holds a measurement of other weights, options or data" in capsys.readouterr().err
