"""segment: whose files the results are, what counts as done, and how it continues."""

import io
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from command_line import CAT, FAST, command, counted, files, opened, picture, report

from ldznet.__main__ import parse
from ldznet.cli import segment_settings
from ldznet.cli.outputs import ResultFiles
from ldznet.cli.segment_run import SegmentRun
from ldznet.files import temporary_name


def test_the_same_command_again_does_nothing_again(folder, monkeypatch, capsys):
    picture(folder / "in" / "a.png")
    picture(folder / "in" / "b.png", seed=1)
    done = counted(monkeypatch)
    for _ in range(2):
        assert command("in", "-p", "cat", *FAST) == 0
    assert done == ["in/a.png", "in/b.png"]
    assert "2 of 2 images are done already" in capsys.readouterr().out

    (folder / "masks" / "a.mask.png").unlink()  # a result is lost
    picture(folder / "in" / "b.png", seed=2)  # an image has changed
    command("in", "-p", "cat", *FAST)
    assert done[2:] == ["in/a.png", "in/b.png"]

    command("in", "-p", "cat", *FAST, "--threshold", "0.3")  # another setting
    assert done[4:] == ["in/a.png", "in/b.png"]
    command("in", "-p", "cat", *FAST, "--threshold", "0.3", "--force")
    assert done[6:] == ["in/a.png", "in/b.png"]


def test_a_folder_is_resumed_where_it_was_interrupted(folder, monkeypatch, capsys):
    for n in range(4):
        picture(folder / "in" / f"{n}.png", seed=n)
    plain = SegmentRun._segment

    def interrupted(self, segmenter, work, *args):
        if work.job.source == "in/2.png":
            raise KeyboardInterrupt
        return plain(self, segmenter, work, *args)

    monkeypatch.setattr(SegmentRun, "_segment", interrupted)
    assert command("in", "-p", "cat", *FAST, "--save", "mask") == 130
    assert "stopped with 2 of 4 images left; the same command continues there" in capsys.readouterr().err

    monkeypatch.setattr(SegmentRun, "_segment", plain)
    done = counted(monkeypatch)
    assert command("in", "-p", "cat", *FAST, "--save", "mask") == 0
    assert done == ["in/2.png", "in/3.png"]


def test_a_picture_of_the_same_name_that_comes_or_goes_does_not_move_results(folder, monkeypatch):
    picture(folder / "in" / "a.png")
    done = counted(monkeypatch)
    command("in", *CAT)
    picture(folder / "in" / "a.bmp", seed=1)
    command("in", *CAT)
    (folder / "in" / "a.png").unlink()
    command("in", *CAT)

    assert done == ["in/a.png", "in/a.bmp"]
    assert files(folder / "masks") == ["a.bmp.json", "a.bmp.mask.png", "a.json", "a.mask.png"]


def test_a_file_that_is_not_ours_is_never_overwritten_unasked(folder, capsys):
    picture(folder / "photo.png")
    (folder / "masks").mkdir()
    (folder / "masks" / "photo.mask.png").write_text("mine")

    assert command("photo.png", "cat", *FAST) == 1
    assert "photo.mask.png exists and was not written by this command" in capsys.readouterr().err
    assert (folder / "masks" / "photo.mask.png").read_text() == "mine"

    assert command("photo.png", "cat", *FAST, "--force") == 0
    assert opened(folder / "masks" / "photo.mask.png").shape == (40, 60)


def test_an_image_beside_its_results_is_never_touched(folder):
    path = picture(folder / "photo.png")
    before = path.read_bytes()

    assert command("photo.png", "cat", *FAST, "--out", ".") == 0

    assert path.read_bytes() == before
    assert files(folder) == ["photo.json", "photo.mask.png", "photo.overlay.png", "photo.png"]


def test_a_kill_between_the_outputs_and_the_report_is_gone_on_from(folder, monkeypatch):
    picture(folder / "photo.png")
    plain = os.replace

    def killed(source, target):
        if str(target) == "masks/photo.overlay.png":
            raise SystemError("killed")
        plain(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(SystemError):
        command("photo.png", "cat", *FAST)
    assert files(folder / "masks") == ["photo.json", "photo.mask.png"]

    monkeypatch.setattr(os, "replace", plain)
    assert command("photo.png", "cat", *FAST) == 0
    assert files(folder / "masks") == ["photo.json", "photo.mask.png", "photo.overlay.png"]


def test_outputs_of_earlier_settings_stay_ours(folder):
    picture(folder / "photo.png")

    for save in ("mask,heat", "mask", "heat"):
        assert command("photo.png", "cat", *FAST, "--save", save) == 0


def test_results_of_another_picture_of_the_same_name_are_not_replaced_unasked(folder, capsys):
    picture(folder / "one" / "a.png")
    picture(folder / "two" / "a.png", seed=1)

    assert command("one/a.png", *CAT) == 0
    assert command("two/a.png", *CAT) == 1
    assert "are the results of another image" in capsys.readouterr().err
    assert report(folder / "masks" / "a.json")["image"] == "one/a.png"

    picture(folder / "one" / "a.png", seed=2)  # the same picture, changed
    assert command("one/a.png", *CAT) == 0
    assert command("two/a.png", *CAT, "--force") == 0
    assert report(folder / "masks" / "a.json")["image"] == "two/a.png"


def test_pictures_from_standard_input_do_not_replace_each_other(folder, monkeypatch, capsys):
    def piped(seed, *more):
        data = picture(folder / "photo.png", seed=seed).read_bytes()
        monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": io.BytesIO(data)}))
        return command("-", *CAT, *more)

    assert piped(0) == 0
    assert piped(0) == 0
    assert "1 of 1 images are done already" in capsys.readouterr().out
    assert piped(1) == 1
    assert "are the results of another image" in capsys.readouterr().err
    assert piped(1, "--force") == 0


def test_two_commands_at_once_leave_each_other_their_files(folder, monkeypatch):
    picture(folder / "a.png")
    plain, calls = ResultFiles.write, []

    def write(*args):
        names = plain(*args)
        monkeypatch.setattr(ResultFiles, "write", plain)
        calls.append(command("a.png", "-p", "cat", *FAST, "--save", "each"))
        return names

    monkeypatch.setattr(ResultFiles, "write", write)
    assert command("a.png", "-p", "dog", *FAST, "--save", "each,mask") == 0

    assert calls == [0]
    assert report(folder / "masks" / "a.json")["owned"] == [
        "a.json",
        "a.mask.1-cat.png",
        "a.mask.1-dog.png",
        "a.mask.png",
    ]


def test_a_link_to_nowhere_at_a_results_place_is_not_replaced_unasked(folder, capsys):
    picture(folder / "a.png")
    (folder / "masks").mkdir()
    (folder / "masks" / "a.mask.png").symlink_to("nowhere.png")

    assert command("a.png", *CAT) == 1
    assert "a.mask.png exists and was not written by this command" in capsys.readouterr().err
    assert (folder / "masks" / "a.mask.png").is_symlink()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes in folders")
@pytest.mark.parametrize("name", ["a.mask.png", "a.json"])
def test_what_is_no_file_is_not_replaced_by_one(folder, capsys, name):
    picture(folder / "a.png")
    (folder / "masks").mkdir()
    os.mkfifo(folder / "masks" / name)

    assert command("a.png", *CAT, "--force") == 1
    assert f"masks/{name} exists and is not a file" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="processes")
def test_what_a_killed_process_left_is_removed_and_what_a_running_one_makes_is_not(folder):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    picture(folder / "a.png")
    name = temporary_name()
    left, running = (
        folder / "masks" / name.replace(f"-{os.getpid()}-", f"-{pid}-") for pid in (dead.pid, os.getppid())
    )
    for staged in (left, running):
        picture(staged / "a.mask.png")

    assert command("a.png", *CAT) == 0
    assert command("masks", *CAT, "-r", "--out", "other") == 1

    assert not left.exists()
    assert running.exists()


def test_a_json_that_cannot_be_read_is_somebody_elses(folder, capsys):
    picture(folder / "a.png")
    (folder / "masks").mkdir()
    (folder / "masks" / "a.json").write_text("[" * 100_000)

    assert command("a.png", *CAT) == 1
    assert "a.json exists and was not written by this command" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["taken", "taken/deep"])
def test_a_file_in_the_place_of_the_folder_is_found_before_the_work(folder, capsys, no_model, out):
    picture(folder / "a.png")
    (folder / "taken").write_text("mine")

    assert command("a.png", *CAT, "--out", out) == 2
    assert f"taken is a file, so no results can be written to {out}" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["shut", "shut/new", "shut/new/deep"])
def test_a_folder_that_may_not_be_written_is_found_before_the_work(folder, capsys, no_model, request, out):
    picture(folder / "a.png")
    (folder / "shut").mkdir(0)
    request.getfixturevalue("nobody")

    assert command("a.png", *CAT, "--out", out) == 2
    assert "The folder shut is not writable" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_an_error_of_the_image(folder, capsys):
    picture(folder / "in" / "deep" / "a.png")
    (folder / "masks").mkdir()
    (folder / "masks" / "deep").write_text("mine")

    assert command("in", *CAT, "-r") == 1
    assert "The results could not be written to masks/deep: File exists" in capsys.readouterr().err


def key(*arguments):
    return segment_settings.model_key(parse(["segment", "a.png", "cat", *map(str, arguments)]))


def test_another_device_precision_or_storage_is_another_result(monkeypatch):
    keys = [key("--random-weights", *more) for more in ([], ["--dtype", "float16"], ["--head-storage", "float16"])]
    monkeypatch.setattr(segment_settings, "device_and_dtype", lambda _: (torch.device("cuda"), torch.float16))
    keys.append(key("--random-weights"))  # the default, where there is a GPU

    assert len(set(map(str, keys))) == 4


@pytest.mark.parametrize(
    "changed",
    [
        "model/unet/weights.safetensors",
        "single.safetensors",
        "single.yaml",
        "tokenizer/vocab.json",
        "text/merges.txt",
    ],
)
def test_a_change_in_any_file_of_the_model_is_another_result(tmp_path, changed):
    for name in ("model/model_index.json", "model/unet/weights.safetensors", "single.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("old")
    for name in ("tokenizer/vocab.json", "text/merges.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("old")
    (tmp_path / "single.yaml").write_text("model: {params: {cond_stage_config: {params: {version: text}}}}")
    model = tmp_path / ("model" if changed.startswith("model") else "single.safetensors")
    before = key("--checkpoint", model, "--head", tmp_path / "model" / "model_index.json")

    with (tmp_path / changed).open("a") as file:
        file.write(" ")

    assert key("--checkpoint", model, "--head", tmp_path / "model" / "model_index.json") != before


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.usefixtures("heard_ctrl_c")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_a_command_cleanly_and_leaves_no_half_written_file(folder, number, code):
    for n in range(300):
        picture(folder / "in" / f"{n:03}.png", seed=n)
    call = [sys.executable, "-m", "ldznet", "segment", "in", "-p", "cat", *FAST, "--save", "mask"]
    running = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (folder / "masks" / "002.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)

    running.send_signal(number)
    _, err = running.communicate(timeout=60)

    assert running.returncode == code
    assert "of 300 images left; the same command continues there" in err
    assert "Traceback" not in err
    names = files(folder / "masks")
    assert not [name for name in names if "partial" in name]
    reports = [name for name in names if name.endswith(".json")]
    assert 3 <= len(reports) < 300
    for name in names:
        if name.endswith(".png"):
            assert opened(folder / "masks" / name).shape == (40, 60)


def test_other_prompts_for_the_same_image_do_not_replace_its_mask_without_a_word(folder, capsys):
    picture(folder / "photo.png")
    command("photo.png", "cat", *FAST, "--save", "mask")
    command("photo.png", "cat", *FAST, "--save", "mask", "--threshold", "0.3")
    assert "were replaced" not in capsys.readouterr().err

    command("photo.png", "dog", *FAST, "--save", "mask")
    assert "note: masks/photo.*: the results for cat were replaced" in capsys.readouterr().err
