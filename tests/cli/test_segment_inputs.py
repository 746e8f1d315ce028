"""segment: which images it takes, and what it says about those it cannot take."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from command_line import CAT, FAST, command, counted, files, picture, report, report_names

from ldznet.cli import inputs
from ldznet.cli.segment_run import SegmentRun
from ldznet.errors import ImageError
from ldznet.images.saving import save_png


def test_folders_patterns_and_files_are_taken_together(folder):
    for name in ("in/a.png", "in/b.JPG", "in/deep/c.webp", "one.bmp", "two.gif"):
        picture(folder / name)
    (folder / "in" / "notes.txt").write_text("no image")

    command("in", "one.bmp", "t*.gif", "-p", "cat", *FAST, "--save", "mask")
    assert files(folder / "masks") == [f"{n}.{e}" for n in ("a", "b", "one", "two") for e in ("json", "mask.png")]

    command("in", "-p", "cat", *FAST, "--save", "mask", "--recursive", "--out", "all")
    assert files(folder / "all") == [f"{n}.{e}" for n in ("a", "b", "deep/c") for e in ("json", "mask.png")]


def test_images_of_the_same_name_do_not_overwrite_each_other(folder):
    for name in ("x/a.png", "x/a.jpg", "y/a.png"):
        picture(folder / name)

    command("x", "y", "-p", "cat", *FAST, "--save", "mask")

    assert [n for n in files(folder / "masks") if "mask" in n] == [
        "a.jpg.mask.png",
        "a.png-2.mask.png",
        "a.png.mask.png",
    ]


def test_one_bad_file_is_named_the_rest_goes_on_and_the_exit_code_says_so(folder, capsys):
    picture(folder / "in" / "a.png")
    (folder / "in" / "b.png").write_bytes(b"no image at all")
    picture(folder / "in" / "c.png")

    code = command("in", "-p", "cat", *FAST, "--save", "mask", "--json")

    answer = json.loads(capsys.readouterr().out)
    assert code == 1
    assert [report["image"] for report in answer["done"]] == ["in/a.png", "in/c.png"]
    assert [failure["image"] for failure in answer["failed"]] == ["in/b.png"]
    assert "b.png" in answer["failed"][0]["error"]
    assert "b.mask.png" not in files(folder / "masks")


def test_a_missing_file_is_named_and_the_rest_goes_on(folder, capsys):
    picture(folder / "a.png")

    assert command("a.png", "none.png", "-p", "cat", *FAST) == 1
    assert "'none.png' does not exist. Check the spelling" in capsys.readouterr().err
    assert "a.mask.png" in files(folder / "masks")


@pytest.mark.parametrize("name", ["in/a.png", "in/it's.png"])
def test_an_error_names_the_image_also_where_its_reason_does_not(folder, capsys, monkeypatch, name):
    picture(folder / name)
    (folder / "in" / "b.png").write_bytes(b"no image at all")

    plain = SegmentRun._segment

    def fail(self, segmenter, work, *args):
        if work.job.source == name:
            raise ImageError("It is too odd.")
        return plain(self, segmenter, work, *args)

    monkeypatch.setattr(SegmentRun, "_segment", fail)
    assert command("in", "x", *FAST) == 1

    lines = capsys.readouterr().err.splitlines()
    assert f"error: {name}: It is too odd." in lines
    assert [line[:28] for line in lines if "b.png" in line] == ["error: 'in/b.png' is not an "]


def test_names_of_every_kind_get_results(folder, capsys):
    names = [
        "ä b.png",
        "-dash.png",
        "50%.png",
        "a'b\"c.png",
        "two\nlines.png",
        "x" * 251 + ".png",
        "猫" * 80 + ".png",
    ]
    names += [os.fsdecode(b"caf\xe9.png")]
    for name in names:
        picture(folder / "in" / name)

    code = command("in", "-p", "a/../b", "-p", "桶" * 50, "-p", "🪣", *FAST, "--save", "mask,each")

    assert code == 0
    assert len(files(folder / "masks")) == 5 * len(names)
    assert max(len(os.fsencode(name)) for name in files(folder / "masks")) <= 255
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == len(names)
    assert last == f"results in masks: {4 * len(names)} files of {len(names)} images"
    assert command("in", "-p", "cat", *FAST, "--json", "--out", "other") == 0
    assert len(json.loads(capsys.readouterr().out)["done"]) == len(names)


def test_folders_named_like_images_are_passed_over_and_broken_links_named(folder, capsys):
    picture(folder / "in" / "a.png")
    (folder / "in" / "folder.png").mkdir()
    (folder / "in" / "link.png").symlink_to(folder / "nowhere.png")

    assert command("in", "-p", "cat", *FAST) == 1

    err = capsys.readouterr().err
    assert "'in/link.png' is a link to a file that does not exist" in err
    assert "folder.png" not in err


def test_results_among_the_images_are_never_segmented_themselves(folder, capsys):
    for name in ("a.png", "two\nlines.png", "a.1-dog.png"):
        picture(folder / "in" / name)
    both = ("-p", "dog", "-p", "cat", *FAST, "--out", "in", "--save", "mask,overlay,colors,each,heat")

    assert command("in", *both) == 0
    listed = [f"in/{name}" for name in files(folder / "in") if name.endswith(".png")]
    assert len(listed) == 3 + 3 * 7
    for images in (["in"], ["in/*.png"], listed):
        assert command(*images, *both) == 0

    assert report_names(folder / "in") == ["a.1-dog.json", "a.json", "two\nlines.json"]
    assert "note: 21 files were left out, which are results of this command" in capsys.readouterr().err


def test_when_all_that_is_given_are_results_it_is_said(folder, capsys):
    picture(folder / "a.png")
    command("a.png", *CAT)

    for given in ("masks/a.mask.png", "masks"):
        assert command(given, *CAT) == 1
        assert "All of the 1 files are results of this command" in capsys.readouterr().err


def test_the_results_of_two_images_never_have_the_same_name(folder):
    picture(folder / "in" / "x.png")
    picture(folder / "in" / "x.1-dog.png")

    assert command("in", "-p", "dog", *FAST, "--save", "mask,each") == 0

    assert len(files(folder / "masks")) == 6


def test_an_empty_text_is_not_the_current_folder(folder, capsys, no_model):
    picture(folder / "a.png")

    assert command("", "cat", *FAST) == 2
    assert "One of the images is an empty text" in capsys.readouterr().err


def test_an_address_is_told_from_a_file_and_from_a_pattern(folder, capsys, no_model):
    assert command("https://example.org/a.png?size=2", "cat", *FAST) == 1
    assert "is an address, not a path, and ldznet opens no connections" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes in folders")
def test_a_pipe_is_refused_instead_of_being_waited_for(folder, capsys, no_model):
    os.mkfifo(folder / "pipe.png")
    (folder / "in").mkdir()
    (folder / "in" / "link.png").symlink_to(folder / "pipe.png")

    assert command("pipe.png", "cat", *FAST) == 1
    assert "'pipe.png' is a pipe or a device, not a file" in capsys.readouterr().err
    assert command("in", "cat", *FAST) == 1
    assert command("pipe.png", "cat", *FAST, "--brush-mask", "pipe.png", "--brush", "add") == 2


def test_a_name_that_is_too_long_is_an_error_like_any_other(folder, capsys):
    picture(folder / "a.png")

    assert command("x" * 300 + ".png", "a.png", *CAT) == 1
    assert "cannot be opened (File name too long)" in capsys.readouterr().err
    assert files(folder / "masks") == ["a.json", "a.mask.png"]


def test_what_may_not_be_read_is_named_and_the_rest_goes_on(folder, capsys, request):
    for name in ("in/a.png", "in/closed/b.png", "shut/c.png", "listed/d.png"):
        picture(folder / name)
    for name, mode in (("in/closed", 0), ("shut", 0), ("listed", 0o644)):
        (folder / name).chmod(mode)
    request.getfixturevalue("nobody")

    assert command("in", "shut", "shut/c.png", "listed", *CAT, "-r", "--json") == 1

    answer = json.loads(capsys.readouterr().out)
    assert [report["image"] for report in answer["done"]] == ["in/a.png"]
    assert [failure["image"] for failure in answer["failed"]] == [
        "in/closed",
        "shut",
        "shut/c.png",
        "listed/d.png",
    ]
    assert answer["failed"][0]["error"].startswith("The folder in/closed cannot be read: Permission denied")


def test_a_folder_that_cannot_be_read_counts_also_where_a_mask_goes_to_standard_output(
    folder, capsysbinary, monkeypatch
):
    picture(folder / "in" / "a.png")
    plain = os.walk

    def walk(top, onerror):
        onerror(PermissionError(13, "Permission denied", f"{top}/closed"))
        return plain(top)

    monkeypatch.setattr(os, "walk", walk)

    assert command("in", "cat", *FAST, "--out", "-", "-r") == 1

    out, err = capsysbinary.readouterr()
    assert out.startswith(b"\x89PNG")
    assert b"error: The folder in/closed cannot be read: Permission denied" in err


def test_a_name_of_dots_stays_below_the_folder_of_results(folder):
    save_png(np.zeros((40, 60), np.uint8), folder / "in" / "...png")

    assert command("in/...png", *CAT) == 0
    assert files(folder / "masks") == ["...png.json", "...png.mask.png"]


def test_a_pipe_that_does_not_end_is_refused(folder, capsys, monkeypatch):
    monkeypatch.setattr(inputs, "LARGEST_PIPED", 2**20)
    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": io.BytesIO(bytes(2**20 + 1))}))

    assert command("-", *CAT) == 1

    assert "Standard input holds more than 1 MB, which is no image file" in capsys.readouterr().err


def test_processes_of_one_launch_share_the_files_out(folder, monkeypatch):
    for n in range(5):
        picture(folder / "in" / f"{n}.png", seed=n)
    done = counted(monkeypatch)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        command("in", "-p", "cat", *FAST, "--save", "mask")
        done.append("|")

    assert done == ["in/0.png", "in/2.png", "in/4.png", "|", "in/1.png", "in/3.png", "|"]


def test_in_a_launch_a_bad_file_does_not_stop_the_other_process(folder):
    """The first process has the even files, and is done with them before the other one has loaded its model."""
    for n in range(8):
        picture(folder / "in" / f"{n}.png", seed=n)
    call = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "ldznet"]
    call += ["segment", "in", "-p", "cat", *FAST, "--save", "mask"]
    (folder / "masks").mkdir()
    for n in range(0, 8, 2):
        (folder / "masks" / f"{n}.mask.png").write_text("mine")

    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=240)

    assert done.returncode == 1
    assert [name for name in files(folder / "masks") if name.endswith(".json")] == [
        f"{n}.json" for n in range(1, 8, 2)
    ]
    assert "4 of 4 images could not be done" in done.stderr


def test_results_in_the_folder_of_the_images_do_not_become_images(folder):
    picture(folder / "in" / "a.png")
    picture(folder / "in" / "b.mask.png")  # a user's own picture of such a name

    for _ in range(3):
        assert command("in", "-p", "cat", "-p", "big dog", *FAST, "--out", "in", "--save", "mask,each,heat") == 0

    names = [name for name in files(folder / "in") if name.endswith(".json")]
    assert names == ["a.json", "b.mask.json"]


def test_hidden_files_and_folders_are_passed_over(folder):
    for name in ("a.png", "._a.png", ".hidden/b.png"):
        picture(folder / "in" / name)

    assert command("in", *CAT, "-r") == 0

    assert report_names(folder / "masks") == ["a.json"]


def test_images_that_cannot_be_read_are_counted_and_named(folder, capsys):
    picture(folder / "in" / "a.png")
    for name in ("IMG_1.HEIC", "b.cr2", "c.psd"):
        (folder / "in" / name).write_bytes(b"...")

    assert command("in", *CAT, "--json") == 0

    out, err = capsys.readouterr()
    listed = [os.path.join("in", name) for name in ("IMG_1.HEIC", "b.cr2", "c.psd")]
    assert json.loads(out)["left_out"] == listed
    assert f"note: 3 files were left out, because CR2, HEIC, PSD cannot be read: {', '.join(listed)}. Save" in err


def test_a_folder_of_images_that_cannot_be_read_is_an_error_that_names_them(folder, capsys, no_model):
    (folder / "in").mkdir()
    (folder / "in" / "IMG_1.HEIC").write_bytes(b"...")

    assert command("in", "cat", *FAST) == 1
    assert "1 file was left out, because HEIC cannot be read: in/IMG_1.HEIC. Save" in capsys.readouterr().err


def test_a_bar_parts_prompts_as_in_the_panel(folder, capsys):
    picture(folder / "a.png")

    assert command("a.png", "cat | big dog|", *FAST, "--save", "each") == 0

    assert report(folder / "masks" / "a.json")["prompts"] == ["cat", "big dog"]
    assert command("a.png", "|", *FAST) == 2
    assert "Prompt 1 is empty" in capsys.readouterr().err
