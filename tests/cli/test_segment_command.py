"""The command line as a user and a program meet it."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from stand_ins import write_checkpoint

from ldznet.__main__ import main
from ldznet.cli import launch, segment
from ldznet.heads.head_file import save_head
from ldznet.images.reading import save_png
from ldznet.methods.learned_head import random_head
from ldznet.segmenter import Segmenter

FAST = ("--random-weights", "--resolution", "64")
CAT = ("-p", "cat", *FAST, "--save", "mask")


def picture(path, size=(60, 40), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), np.uint8)
    Image.fromarray(noise).resize(size).save(path)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def opened(path):
    with Image.open(path) as image:
        return np.array(image)


def files(path):
    return sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())


def command(*arguments):
    return main(["segment", *map(str, arguments)])


# --- results -------------------------------------------------------------------------------------------


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


def test_a_given_mask_of_another_size_is_an_error(folder, capsys):
    picture(folder / "photo.png")
    save_png(np.zeros((4, 6), np.uint8), folder / "small.png")

    assert command("photo.png", "x", *FAST, "--brush-mask", "small.png", "--brush", "add") == 1
    assert "The mask small.png is 6 x 4, but the image is 60 x 40" in capsys.readouterr().err


def test_the_thinnest_picture_gets_a_colour_map_with_its_legend(folder):
    picture(folder / "thin.png", (1, 16384))

    assert command("thin.png", "-p", "cat", "-p", "dog", *FAST) == 0

    assert opened(folder / "masks" / "thin.mask.png").shape == (16384, 1)
    assert opened(folder / "masks" / "thin.colors.png").shape[0] > 16384


# --- many images ---------------------------------------------------------------------------------------


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
def test_an_error_names_the_image_also_where_its_reason_does_not(folder, capsys, name):
    picture(folder / name)
    (folder / "in" / "b.png").write_bytes(b"no image at all")
    save_png(np.zeros((4, 6), np.uint8), folder / "small.png")

    assert command("in", "x", *FAST, "--brush-mask", "small.png", "--brush", "add") == 1

    lines = capsys.readouterr().err.splitlines()
    assert f"error: {name}: The mask small.png is 6 x 4" in "\n".join(lines)
    assert [line[:28] for line in lines if "b.png" in line] == ["error: 'in/b.png' is not an "]


def counted(monkeypatch):
    done = []
    plain = segment._segment

    def count(segmenter, work, *args):
        done.append(work.job.source)
        return plain(segmenter, work, *args)

    monkeypatch.setattr(segment, "_segment", count)
    return done


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
    plain = segment._segment

    def interrupted(segmenter, work, *args):
        if work.job.source == "in/2.png":
            raise KeyboardInterrupt
        return plain(segmenter, work, *args)

    monkeypatch.setattr(segment, "_segment", interrupted)
    assert command("in", "-p", "cat", *FAST, "--save", "mask") == 130
    assert "stopped with 2 of 4 images left; the same command goes on there" in capsys.readouterr().err

    monkeypatch.setattr(segment, "_segment", plain)
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
    assert "photo.mask.png is there already and was not made by this command" in capsys.readouterr().err
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


def test_results_in_the_folder_of_the_images_do_not_become_images(folder):
    picture(folder / "in" / "a.png")
    picture(folder / "in" / "b.mask.png")  # a user's own picture of such a name

    for _ in range(3):
        assert command("in", "-p", "cat", "-p", "big dog", *FAST, "--out", "in", "--save", "mask,each,heat") == 0

    names = [name for name in files(folder / "in") if name.endswith(".json")]
    assert names == ["a.json", "b.mask.json"]


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
    assert len(capsys.readouterr().out.splitlines()) == len(names)
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


def test_an_environment_that_is_no_launch_is_an_error(folder, monkeypatch, capsys):
    picture(folder / "a.png")
    for rank, world in (("1", "1"), ("x", "2"), ("0", "0")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", world)
        assert command("a.png", "cat", *FAST) == 2
    assert "RANK is '0' and WORLD_SIZE '0' in the environment" in capsys.readouterr().err


def test_a_launcher_that_starts_one_process_where_several_were_asked_for_is_named_once(monkeypatch, caplog):
    launch._say_one_process.cache_clear()
    for name, text in (("ACCELERATE_USE_CPU", "True"), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.setenv(name, text)
    monkeypatch.delenv("RANK", raising=False)

    assert [launch.process_of_launch() for _ in range(2)] == [(0, 1)] * 2
    (record,) = caplog.records
    assert record.getMessage().startswith("accelerate launch --cpu starts one process on a machine")
    assert "torchrun --nproc_per_node N -m ldznet" in record.getMessage()


def test_a_program_gets_json_for_an_error_too(folder, capsys):
    assert command("none.tif*", "cat", *FAST, "--json") == 1

    assert json.loads(capsys.readouterr().out)["error"].startswith("No file matches none.tif*")


@pytest.fixture
def heard_ctrl_c():
    """A shell's background job ignores Ctrl-C, and so does all that it starts, unless it says otherwise."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


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
    assert "of 300 images left; the same command goes on there" in err
    assert "Traceback" not in err
    names = files(folder / "masks")
    assert not [name for name in names if "partial" in name]
    reports = [name for name in names if name.endswith(".json")]
    assert 3 <= len(reports) < 300
    for name in names:
        if name.endswith(".png"):
            assert opened(folder / "masks" / name).shape == (40, 60)


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


# --- what a user gets wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["photo.png"], 2, "There is no prompt. Give it last, as in: segment photo.jpg"),
        (["photo.png", "cat", "--checkpoint", "photo.png"], 1, "photo.png"),
        (["photo.png", "cat", "--method", "attention", "--head", "x"], 2, "The method attention needs no --head"),
        (["photo.png", "cat", "--random-weights", "--head", "x"], 2, "--random-weights needs no --checkpoint"),
        (["photo.png", "cat", "--checkpoint", "no.ckpt", "--head", "x"], 2, "no.ckpt does not exist"),
        (["photo.png", "cat", *FAST, "--threshold", "2"], 2, "threshold is 2.0, but it must be from 0.0 to 1.0"),
        (
            ["photo.png", "cat", *FAST, "--save", "mask,jpg"],
            2,
            "--save does not know jpg: give some of mask, overlay",
        ),
        (["photo.png", "cat", *FAST, "--device", "warp"], 2, "The device warp cannot be used here"),
        (["photo.png", "  ", *FAST], 2, "Prompt 1 is empty"),
        (["*.tiff", "cat", *FAST], 1, "No file matches *.tiff"),
        (["empty", "cat", *FAST], 1, "The folder empty holds no images"),
        (
            ["photo.png", "photo.png", "-p", "cat", *FAST, "--out", "-", "--json"],
            2,
            "--out - writes the mask of one",
        ),
        (["photo.png", "cat", "--checkpoint", "photo.png", "--head", "photo.png"], 1, "is none of the kinds that"),
    ],
)
def test_a_mistake_is_one_readable_line_and_an_exit_code(folder, capsys, arguments, code, said):
    picture(folder / "photo.png")
    (folder / "empty").mkdir()

    assert command(*arguments) == code

    err = capsys.readouterr().err
    assert said in err
    assert "error: " in err
    assert "Traceback" not in err


@pytest.mark.parametrize("name", ["", "segment", "convert", "bench"])
def test_help_reads_well_and_names_every_default(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*([name] if name else []), "--help"])

    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) < 150
    assert "None" not in text
    assert "MISSING" not in text


# --- bench ---------------------------------------------------------------------------------------------


def test_bench_measures_every_step_and_compares_with_the_plain_way(capsys):
    code = main(["bench", "--resolution", "64", "--prompts", "1", "2", "--repeat", "1", "--json"])

    answer = json.loads(capsys.readouterr().out)
    assert code == 0
    steps = {(timing["step"], timing["prompts"]) for timing in answer["timings"]}
    per_prompt = {"prompt encoding", "UNet, full", "UNet, early exit", "head", "whole", "whole, plain way"}
    assert steps == {("image encoding", 1), ("mask", 1)} | {(step, n) for step in per_prompt for n in (1, 2)}
    assert all(timing["median"] > 0 for timing in answer["timings"])
    assert set(answer["ratios"]) == {
        "early exit / full UNet, 1 prompt",
        "early exit / full UNet, 2 prompts",
        "2 prompts / 1 prompt",
        "plain way / ours, 1 prompt",
        "plain way / ours, 2 prompts",
    }
    assert answer["weights"]["added by us"] < answer["weights"]["added by the plain way"]


def test_bench_prints_a_table_of_markdown(capsys):
    main(["bench", "--resolution", "64", "--prompts", "1", "--repeat", "1", "--no-plain", "--channels-last", "on"])

    out = capsys.readouterr().out
    assert "| step | prompts | first, s | median, s | least, s | peak, MB |" in out
    assert "| UNet, early exit | 1 |" in out
    assert "plain way / ours" not in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--resolution", "100"], "--resolution is 100, but it must be a multiple of 64"),
        (["--resolution", "0"], "--resolution is 0, but it must be a multiple of 64"),
        (["--prompts", "0"], "--prompts and --repeat must be at least 1"),
        (["--full-size", "--head", "x"], "--full-size has random weights"),
    ],
)
def test_bench_refuses_what_it_cannot_measure(capsys, arguments, said):
    assert main(["bench", *arguments]) == 2
    assert said in capsys.readouterr().err
