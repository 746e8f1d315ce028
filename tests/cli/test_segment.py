"""The command line in rough surroundings: odd inputs, places that are taken, streams that break, signals."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from stand_ins import write_checkpoint
from test_segment_command import FAST, command, files, heard_ctrl_c, opened, picture  # noqa: F401

from ldznet.__main__ import main, parse
from ldznet.cli import inputs, reports, segment
from ldznet.cli.outputs import Drawing
from ldznet.heads.half_storage import store_narrow
from ldznet.heads.head_file import save_head
from ldznet.heads.weight_files import process_mark
from ldznet.hosts.diffusers.random_weights import random_host
from ldznet.images.reading import save_png
from ldznet.methods.learned_head import random_head
from ldznet.research.bench import bench

MASK = ("-p", "cat", *FAST, "--save", "mask")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def nobody(folder):
    """Permissions count: root, to whom they do not, becomes another user."""
    if not hasattr(os, "seteuid"):
        pytest.skip("permissions")
    folder.chmod(0o777)
    user = os.geteuid()
    os.seteuid(65534 if user == 0 else user)
    yield
    os.seteuid(user)


@pytest.fixture
def no_model(monkeypatch):
    """A mistake is to be said before a model is loaded."""
    monkeypatch.setattr(segment, "load_model", lambda _: pytest.fail("a model was loaded"))


def report_names(path):
    return [name for name in files(path) if name.endswith(".json")]


def report(path):
    return json.loads(path.read_text())


# --- which images --------------------------------------------------------------------------------------


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
    command("a.png", *MASK)

    for given in ("masks/a.mask.png", "masks"):
        assert command(given, *MASK) == 1
        assert "All that was given, 1 files, are results of this command" in capsys.readouterr().err


def test_the_results_of_two_images_never_have_the_same_name(folder):
    picture(folder / "in" / "x.png")
    picture(folder / "in" / "x.1-dog.png")

    assert command("in", "-p", "dog", *FAST, "--save", "mask,each") == 0

    assert len(files(folder / "masks")) == 6


def test_an_empty_text_is_not_the_current_folder(folder, capsys, no_model):
    picture(folder / "a.png")

    assert command("", "cat", *FAST) == 2
    assert "One of the images is the empty text" in capsys.readouterr().err


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

    assert command("x" * 300 + ".png", "a.png", *MASK) == 1
    assert "cannot be opened (File name too long)" in capsys.readouterr().err
    assert files(folder / "masks") == ["a.json", "a.mask.png"]


def test_what_may_not_be_read_is_named_and_the_rest_goes_on(folder, capsys, request):
    for name in ("in/a.png", "in/closed/b.png", "shut/c.png", "listed/d.png"):
        picture(folder / name)
    for name, mode in (("in/closed", 0), ("shut", 0), ("listed", 0o644)):
        (folder / name).chmod(mode)
    request.getfixturevalue("nobody")

    assert command("in", "shut", "shut/c.png", "listed", *MASK, "-r", "--json") == 1

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

    assert command("in/...png", *MASK) == 0
    assert files(folder / "masks") == ["...png.json", "...png.mask.png"]


# --- whose results -------------------------------------------------------------------------------------


def test_results_of_another_picture_of_the_same_name_are_not_replaced_unasked(folder, capsys):
    picture(folder / "one" / "a.png")
    picture(folder / "two" / "a.png", seed=1)

    assert command("one/a.png", *MASK) == 0
    assert command("two/a.png", *MASK) == 1
    assert "are the results of another picture" in capsys.readouterr().err
    assert report(folder / "masks" / "a.json")["image"] == "one/a.png"

    picture(folder / "one" / "a.png", seed=2)  # the same picture, changed
    assert command("one/a.png", *MASK) == 0
    assert command("two/a.png", *MASK, "--force") == 0
    assert report(folder / "masks" / "a.json")["image"] == "two/a.png"


def test_pictures_from_standard_input_do_not_replace_each_other(folder, monkeypatch, capsys):
    def piped(seed, *more):
        data = picture(folder / "photo.png", seed=seed).read_bytes()
        monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": io.BytesIO(data)}))
        return command("-", *MASK, *more)

    assert piped(0) == 0
    assert piped(0) == 0
    assert "1 of 1 images are done already" in capsys.readouterr().out
    assert piped(1) == 1
    assert "are the results of another picture" in capsys.readouterr().err
    assert piped(1, "--force") == 0


def test_two_commands_at_once_leave_each_other_their_files(folder, monkeypatch):
    picture(folder / "a.png")
    plain, calls = Drawing.write, []

    def write(*args):
        names = plain(*args)
        monkeypatch.setattr(Drawing, "write", plain)
        calls.append(command("a.png", "-p", "cat", *FAST, "--save", "each"))
        return names

    monkeypatch.setattr(Drawing, "write", write)
    assert command("a.png", "-p", "dog", *FAST, "--save", "each,mask") == 0

    assert calls == [0]
    assert report(folder / "masks" / "a.json")["owned"] == [
        "a.json",
        "a.mask.1-cat.png",
        "a.mask.1-dog.png",
        "a.mask.png",
    ]


@pytest.mark.skipif(os.name == "nt", reason="POSIX locks")
def test_only_one_process_at_a_time_moves_results_and_a_killed_one_leaves_no_lock(folder):
    code = "import fcntl, os, sys, time; fcntl.flock(os.open('.', os.O_RDONLY), fcntl.LOCK_EX); print(flush=True)"
    with subprocess.Popen([sys.executable, "-c", f"{code}; time.sleep(60)"], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        threading.Timer(0.2, other.kill).start()
        before = time.monotonic()
        with reports._locked(folder):
            assert time.monotonic() - before >= 0.2


def test_a_link_to_nowhere_at_a_results_place_is_not_replaced_unasked(folder, capsys):
    picture(folder / "a.png")
    (folder / "masks").mkdir()
    (folder / "masks" / "a.mask.png").symlink_to("nowhere.png")

    assert command("a.png", *MASK) == 1
    assert "a.mask.png is there already and was not made by this command" in capsys.readouterr().err
    assert (folder / "masks" / "a.mask.png").is_symlink()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes in folders")
@pytest.mark.parametrize("name", ["a.mask.png", "a.json"])
def test_what_is_no_file_is_not_replaced_by_one(folder, capsys, name):
    picture(folder / "a.png")
    (folder / "masks").mkdir()
    os.mkfifo(folder / "masks" / name)

    assert command("a.png", *MASK, "--force") == 1
    assert f"masks/{name} is there already and is no file" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="processes")
def test_what_a_killed_process_left_is_removed_and_what_a_running_one_makes_is_not(folder):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    picture(folder / "a.png")
    mark = process_mark().removesuffix(f"-{os.getpid()}")
    left, running = (folder / "masks" / f".ldznet-{mark}-{pid}.partial" for pid in (dead.pid, os.getppid()))
    for staged in (left, running):
        picture(staged / "a.mask.png")

    assert command("a.png", *MASK) == 0
    assert command("masks", *MASK, "-r", "--out", "other") == 1

    assert not left.exists()
    assert running.exists()


def test_a_json_that_cannot_be_read_is_somebody_elses(folder, capsys):
    picture(folder / "a.png")
    (folder / "masks").mkdir()
    (folder / "masks" / "a.json").write_text("[" * 100_000)

    assert command("a.png", *MASK) == 1
    assert "a.json is there already and was not made by this command" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["taken", "taken/deep"])
def test_a_file_in_the_place_of_the_folder_is_found_before_the_work(folder, capsys, no_model, out):
    picture(folder / "a.png")
    (folder / "taken").write_text("mine")

    assert command("a.png", *MASK, "--out", out) == 2
    assert f"taken is a file, so no results can be written to {out}" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["shut", "shut/new", "shut/new/deep"])
def test_a_folder_that_may_not_be_written_is_found_before_the_work(folder, capsys, no_model, request, out):
    picture(folder / "a.png")
    (folder / "shut").mkdir(0)
    request.getfixturevalue("nobody")

    assert command("a.png", *MASK, "--out", out) == 2
    assert "The folder shut may not be written" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_an_error_of_the_image(folder, capsys):
    picture(folder / "in" / "deep" / "a.png")
    (folder / "masks").mkdir()
    (folder / "masks" / "deep").write_text("mine")

    assert command("in", *MASK, "-r") == 1
    assert "The results could not be written to masks/deep: File exists" in capsys.readouterr().err


# --- what counts as done -------------------------------------------------------------------------------


def key(*arguments):
    return segment._model_key(parse(["segment", "a.png", "cat", *map(str, arguments)]))


def test_another_device_precision_or_storage_is_another_result(monkeypatch):
    keys = [key("--random-weights", *more) for more in ([], ["--dtype", "float16"], ["--head-storage", "float16"])]
    monkeypatch.setattr(segment, "device_and_dtype", lambda _: (torch.device("cuda"), torch.float16))
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
    assert (found["head_dtype"], found["head_storage"]) == ("float32", "bfloat16")


# --- what is wrong with the command --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-p", ""], "Prompt 1 is empty"),
        (["-p", "x" * 2001], "Prompt 1 has 2001 characters; at most 2000 are read"),
        (["-p", os.fsdecode(b"caf\xe9")], "Prompt 1 holds half a character"),
        (["-p", "cat", "-n", " "], "Negative prompt 1 is empty"),
        (["-p", "cat"] * 1001, "There are 1001 prompts; at most 1000"),
        (["-p", "cat", "--save", "colors"], "--save colors draws a map of several prompts, but there is one"),
        (["-p", "cat", "--save", ","], "--save names nothing to write"),
        (["-p", "cat", "--brush-mask", "a.png"], "--brush-mask and --brush go together"),
        (["-p", "cat", "--brush", "add"], "--brush-mask and --brush go together"),
        (
            ["-p", "cat", "--brush", "add", "--brush-mask", "no.png"],
            "--brush-mask cannot be used. 'no.png' does not",
        ),
        (["-p", "cat", "--brush", "add", "--brush-mask", "t.txt"], "'t.txt' is not an image: it holds text"),
        (["-p", "cat", "--device", "meta"], "The device meta cannot be used here"),
        (["-p", "cat", "--timesteps", "1000"], "400 for the released one (default none)"),
    ],
)
def test_it_is_said_once_before_a_model_is_loaded(folder, capsys, no_model, arguments, said):
    picture(folder / "a.png")
    picture(folder / "b.png", seed=1)
    (folder / "t.txt").write_text("text")

    assert command("a.png", "b.png", *FAST, *arguments) == 2

    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_checkpoint_in_a_closed_folder_is_an_error(folder, capsys, request):
    picture(folder / "shut" / "model.safetensors.png")
    (folder / "shut").chmod(0)
    request.getfixturevalue("nobody")

    assert command("a.png", "cat", "--checkpoint", "shut/model.safetensors", "--head", "a.png") == 2
    assert "shut/model.safetensors cannot be read: Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["segment", "photo.jpg", "--threshold", "0.4", "bucket"], {"inputs": ["photo.jpg", "bucket"]}),
        (["segment", "photos", "-r", "dog"], {"inputs": ["photos", "dog"], "recursive": True}),
        (["segment", "-q", "photos", "--grow", "-8", "more", "-r", "dog"], {"inputs": ["photos", "more", "dog"]}),
        (["segment", "-", "dog", "--out", "-"], {"inputs": ["-", "dog"], "out": "-"}),
        (["segment", "-r", "--", "-dash.png", "dog"], {"inputs": ["-dash.png", "dog"]}),
        (["convert", "rel.ckpt", "--heads", "4", "x.st"], {"heads": 4}),
        (["convert", "rel.ckpt"], {"target": None}),
        (["bench", "--prompts", "1", "8", "--repeat", "1"], {"prompts": [1, 8]}),
    ],
)
def test_flags_may_stand_between_the_other_arguments(arguments, wanted):
    parsed = vars(parse(arguments))

    assert {name: parsed[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["segment", "--json"], "the following arguments are required: IMAGE"),
        (["segment", "a.png", "cat", "--thresh", "x"], "argument --threshold: invalid float value: 'x'"),
        (["segment", "a.png", "cat", "--bogus"], "unrecognized arguments: --bogus"),
        (
            ["segment", "a.png", "--treshold", "0.4", "cat"],
            "unrecognized arguments: --treshold. Did you mean --threshold?",
        ),
        (["segmnet", "a.png", "cat"], "there is no command 'segmnet'. Did you mean segment?"),
    ],
)
def test_a_wrong_command_line_is_an_error_of_ours(capsys, arguments, said):
    assert main([*arguments, "--json"]) == 2

    out, err = capsys.readouterr()
    assert said in json.loads(out)["error"]
    assert f"error: {said}" in err
    assert len(err.splitlines()) == 1


# --- how it ends ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (KeyboardInterrupt(), 130, None),
        (KeyboardInterrupt(signal.SIGTERM), 143, None),
        (ImportError("no", name="diffusers"), 1, "diffusers is not installed, but this command needs it"),
        (MemoryError(), 1, "There is not enough memory"),
        (OSError(28, "No space left on device", "/x"), 1, "/x cannot be used: No space left on device"),
    ],
)
def test_a_program_gets_json_however_a_command_ends(folder, capsys, monkeypatch, raised, code, said):
    def load(_):
        raise raised

    picture(folder / "a.png")
    monkeypatch.setattr(segment, "load_model", load)

    assert command("a.png", *MASK, "--json") == code

    answer = json.loads(capsys.readouterr().out)
    assert said in answer["error"] if said else answer == {"done": [], "failed": [], "stopped": True}


@pytest.mark.skipif(os.name == "nt", reason="pipes")
def test_work_that_ends_with_its_reader_is_not_said_to_be_done(folder):
    for n in range(100):
        picture(folder / "in" / f"{n:03}.png", seed=n)
    call = [sys.executable, "-m", "ldznet", "segment", "in", *MASK]

    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout.readline().startswith(b"in/000.png  cat: ")
        running.stdout.close()
        err = running.stderr.read().decode()

    assert running.returncode == 141
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    assert len(report_names(folder / "masks")) < 100


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a full device")
def test_a_full_disk_behind_standard_output_is_an_error(folder, capsys, monkeypatch):
    picture(folder / "a.png")
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert command("a.png", *MASK) == 1

    assert "error: Standard output cannot be used: No space left on device" in capsys.readouterr().err


def test_closed_streams_are_errors_and_not_tracebacks(folder, capsys, monkeypatch):
    picture(folder / "a.png")
    monkeypatch.setattr(sys, "stdin", None)
    assert command("-", *MASK) == 1
    assert "Standard input is closed" in capsys.readouterr().err

    monkeypatch.setattr(sys, "stdout", None)
    assert command("a.png", *MASK, "--out", "-") == 2
    assert "--out - writes to standard output, which is closed" in capsys.readouterr().err
    assert command("a.png", *MASK) == 0


def test_a_pipe_that_does_not_end_is_refused(folder, capsys, monkeypatch):
    monkeypatch.setattr(inputs, "MOST_PIPED", 2**20)
    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": io.BytesIO(bytes(2**20 + 1))}))

    assert command("-", *MASK) == 1

    assert "Standard input holds more than 1 MB, which is no image file" in capsys.readouterr().err


def test_quiet_says_errors_only(folder, capsys):
    picture(folder / "a.png")

    assert command("a.png", "none.png", "-p", "cat " * 90, *FAST, "--quiet") == 1

    out, err = capsys.readouterr()
    assert out == ""
    assert [line[:17] for line in err.splitlines()] == ["error: 'none.png'", "1 of 2 images cou"]


def test_one_process_of_a_launch_writes_to_standard_output(folder, capsysbinary, monkeypatch):
    picture(folder / "a.png")
    monkeypatch.setenv("WORLD_SIZE", "2")
    written = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert command("a.png", "cat", *FAST, "--out", "-") == 0
        written.append(capsysbinary.readouterr().out[:4])

    assert written == [b"\x89PNG", b""]


def test_names_do_not_steer_the_terminal(folder, capsys):
    name = "a\x1b[31m\u202e.png"
    picture(folder / name)

    command(name, "-p", "c\u202eat", *FAST, "--save", "mask")
    command(f"no{name}", *MASK)

    out, err = capsys.readouterr()
    assert out.startswith("a\\x1b[31m\\u202e.png  c\\u202eat: ")
    assert "\x1b" not in out + err


# --- masks ---------------------------------------------------------------------------------------------


def test_what_is_transparent_in_a_given_mask_is_not_selected(folder):
    picture(folder / "a.png")
    strokes = np.zeros((40, 60, 4), np.uint8)
    strokes[:, :30] = 255
    save_png(strokes, folder / "brush.png")

    command("a.png", *MASK, "--threshold", "1", "--brush-mask", "brush.png", "--brush", "add")

    assert np.array_equal(opened(folder / "masks" / "a.mask.png"), strokes[:, :, 3])


def test_negative_prompts_act_on_heat_maps_and_colour_maps(folder):
    picture(folder / "a.png")
    two = ("-p", "cat", "-p", "dog", *FAST, "--save", "heat,colors", "--threshold", "0.12")

    command("a.png", *two, "--out", "plain")
    command("a.png", *two, "--out", "less", "-n", "cat", "-n", "dog")

    for name in ("a.heat.1-cat.png", "a.heat.2-dog.png", "a.colors.png"):
        assert not np.array_equal(opened(folder / "plain" / name), opened(folder / "less" / name)), name


def too_large(*_):
    cv2.resize(np.zeros((10, 10), np.float32), (2**30, 2**30))


def no_memory(*_):
    np.empty((2**22, 2**22))


@pytest.mark.parametrize("fail", [too_large, no_memory])
@pytest.mark.parametrize(("place", "name"), [(Drawing, "write"), (inputs, "file_digest")])
def test_a_picture_that_does_not_fit_into_memory_is_named_and_the_rest_goes_on(
    folder, monkeypatch, capsys, fail, place, name
):
    picture(folder / "in" / "a.png")
    picture(folder / "in" / "b.png", seed=1)
    plain, calls = getattr(place, name), []
    monkeypatch.setattr(place, name, lambda *args: plain(*args) if calls else (calls.append(1), fail()))

    assert command("in", *MASK, "--json") == 1

    answer = json.loads(capsys.readouterr().out)
    assert [report["image"] for report in answer["done"]] == ["in/b.png"]
    assert answer["failed"][0]["error"].startswith("in/a.png does not fit into the memory that is free")


# --- bench ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--threads", "-1"], "--threads is -1, but it must be at least 1"),
        (["--threads", "0"], "--threads is 0, but it must be at least 1"),
        (["--method", "attention"], "bench times a head, and --method attention has none"),
        (["--device", "meta"], "The device meta cannot be used here"),
    ],
)
def test_bench_refuses_what_it_would_have_ignored(capsys, arguments, said):
    assert main(["bench", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_benchs_help_says_what_it_times_by_default(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--help"])

    text = " ".join(capsys.readouterr().out.split())
    assert "(default: a small one with random weights)" in text
    assert "models/tiny" not in text


def test_the_plain_way_has_float32_weights_in_the_usual_layout_whatever_ours_are():
    host = random_host()
    method = random_head(host.info.unet)
    for module in (host.unet, host.vae, method.head):
        torch.nn.Module.to(module, memory_format=torch.channels_last)
    store_narrow(method.head, torch.float16)

    plain, plain_method = bench._plain_copies(host, method)

    for module in (plain.unet, plain.vae, plain_method.head):
        assert all(p.dtype == torch.float32 and p.is_contiguous() for p in module.parameters())
    assert not any(layer._forward_pre_hooks for layer in plain_method.head.modules())
    assert next(method.head.parameters()).dtype == torch.float16


@pytest.mark.parametrize(
    ("flags", "tuned"),
    [
        ([], False),
        (["--head-storage", "float16"], True),
        (["--channels-last", "on"], True),
        (["--compile"], True),
        (["--dtype", "bfloat16"], True),
    ],
)
def test_the_plain_way_shares_our_models_only_where_they_are_plain(flags, tuned):
    parsed = parse(["bench", *flags])
    host = random_host(dtype=torch.bfloat16 if "bfloat16" in flags else torch.float32)

    assert bench._tuned(parsed, host) is tuned


# --- what an image is in the end -----------------------------------------------------------------------


def test_a_transparent_picture_lies_on_the_background_that_the_report_names(folder):
    Image.fromarray(np.zeros((40, 60, 4), np.uint8)).save(folder / "clear.png")

    command("clear.png", *FAST, "-p", "cat", "--save", "overlay", "--threshold", "1", "--background", "#00ff00")

    assert report(folder / "masks" / "clear.json")["background"] == "#00ff00"
    assert (opened(folder / "masks" / "clear.overlay.png") == (0, 255, 0)).all()
