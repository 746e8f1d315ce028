"""The command line itself: arguments, errors, exit codes, streams and signals."""

import importlib
import json
import os
import signal
import subprocess
import sys

import pytest
from command_line import CAT, FAST, command, files, picture, report_names

import ldznet
from ldznet.__main__ import COMMANDS, main, parse
from ldznet.cli import flags, segment_run


def test_an_environment_that_is_no_launch_is_an_error(folder, monkeypatch, capsys):
    picture(folder / "a.png")
    for rank, world in (("1", "1"), ("x", "2"), ("0", "0")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", world)
        assert command("a.png", "cat", *FAST) == 2
    assert "RANK is '0' and WORLD_SIZE '0' in the environment" in capsys.readouterr().err


def test_a_launcher_that_starts_one_process_where_several_were_asked_for_is_named_once(monkeypatch, caplog):
    flags._warn_of_one_process.cache_clear()
    for name, text in (("ACCELERATE_USE_CPU", "True"), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.setenv(name, text)
    monkeypatch.delenv("RANK", raising=False)

    assert [flags.process_of_launch() for _ in range(2)] == [(0, 1)] * 2
    (record,) = caplog.records
    assert record.getMessage().startswith("accelerate launch --cpu starts one process on a machine")
    assert "torchrun --nproc_per_node N -m ldznet" in record.getMessage()


def test_a_program_gets_json_for_an_error_too(folder, capsys):
    assert command("none.tif*", "cat", *FAST, "--json") == 1

    assert json.loads(capsys.readouterr().out)["error"].startswith("No file matches none.tif*")


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
        (
            ["photo.png", "cat", "--checkpoint", "photo.png", "--head", "photo.png"],
            1,
            "is not a kind of file that ldznet reads",
        ),
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
        (["-p", "cat", "--brush", "subtract"], "--brush subtract needs a mask to work on"),
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
        (["segment", "a.png", "cat", "--thresh", "x"], "argument --threshold: invalid float or auto value: 'x'"),
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
    monkeypatch.setattr(segment_run, "load_chosen_model", load)

    assert command("a.png", *CAT, "--json") == code

    answer = json.loads(capsys.readouterr().out)
    assert (
        said in answer["error"] if said else answer == {"done": [], "failed": [], "left_out": [], "stopped": True}
    )


@pytest.mark.parametrize(
    ("arguments", "extra"), [(["convert", "a.ckpt", "b.safetensors"], "standalone"), (["bench"], "research")]
)
def test_a_missing_library_is_named_with_the_extra_that_has_it(capsys, monkeypatch, arguments, extra):
    def lack(_):
        raise ImportError("no", name="a_library")

    module = importlib.import_module(COMMANDS[arguments[0]][0])
    monkeypatch.setattr(module, "run", lack)

    assert main(arguments) == 1
    assert f'run: pip install -e ".[{extra}]"' in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="pipes")
def test_work_that_ends_with_its_reader_is_not_said_to_be_done(folder):
    for n in range(100):
        picture(folder / "in" / f"{n:03}.png", seed=n)
    call = [sys.executable, "-m", "ldznet", "segment", "in", *CAT]

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
        assert command("a.png", *CAT) == 1

    assert "error: Standard output cannot be used: No space left on device" in capsys.readouterr().err


def test_closed_streams_are_errors_and_not_tracebacks(folder, capsys, monkeypatch):
    picture(folder / "a.png")
    monkeypatch.setattr(sys, "stdin", None)
    assert command("-", *CAT) == 1
    assert "Standard input is closed" in capsys.readouterr().err

    monkeypatch.setattr(sys, "stdout", None)
    assert command("a.png", *CAT, "--out", "-") == 2
    assert "--out - writes to standard output, which is closed" in capsys.readouterr().err
    assert command("a.png", *CAT) == 0


def test_quiet_says_errors_only(folder, capsys):
    picture(folder / "a.png")

    assert command("a.png", "none.png", "-p", "cat " * 90, *FAST, "--quiet") == 1

    out, err = capsys.readouterr()
    assert out == ""
    assert [line[:17] for line in err.splitlines()] == ["error: 'none.png'", "1 of 2 images cou"]


def test_names_do_not_steer_the_terminal(folder, capsys):
    name = "a\x1b[31m\u202e.png"
    picture(folder / name)

    command(name, "-p", "c\u202eat", *FAST, "--save", "mask")
    command(f"no{name}", *CAT)

    out, err = capsys.readouterr()
    assert out.startswith("a\\x1b[31m\\u202e.png  c\\u202eat: ")
    assert "\x1b" not in out + err


# --- what is imported ----------------------------------------------------------------------------------

LIST_MODULES = "import sys, ldznet.__main__ as m\ntry: m.main(sys.argv[1:])\nexcept SystemExit: pass\n"
LIST_MODULES += "print(*sys.modules, file=sys.stderr)"


def imported(code, *arguments):
    """Run Python code in a fresh process; return the modules that it names on standard error."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_only_the_module_of_the_chosen_command_is_imported():
    table, segment = imported(LIST_MODULES, "--help"), imported(LIST_MODULES, "segment", "--help")

    ours = {name for name in table if name.startswith("ldznet")}
    assert ours == {"ldznet", "ldznet.__main__", "ldznet.cli", "ldznet.cli.printing", "ldznet.errors"}
    assert "ldznet.cli.segment" in segment
    commands = {module for module, _ in COMMANDS.values()} - {"ldznet.cli.segment"}
    assert not commands & segment
    assert not [name for name in segment if name.startswith(("ldznet.research", "ldznet.webui"))]
    for modules in (table, segment):
        assert not modules & {"torch", "numpy", "PIL", "cv2", "diffusers", "transformers"}


def test_importing_the_package_loads_nothing_and_gives_the_front_door_on_first_use():
    modules = imported("import sys, ldznet; print(*sys.modules, file=sys.stderr)")
    assert not modules & {"torch", "numpy", "ldznet.options", "ldznet.segmenter"}

    modules = imported("import sys, ldznet; ldznet.MaskOptions(); print(*sys.modules, file=sys.stderr)")
    assert "torch" not in modules
    assert ldznet.Segmenter.__module__ == "ldznet.segmenter"
    assert {"MaskOptions", "SegmentOptions", "Segmenter", "__version__"} <= set(dir(ldznet))
    with pytest.raises(AttributeError, match="no attribute 'Segmentor'"):
        ldznet.Segmentor  # noqa: B018


@pytest.mark.parametrize("name", COMMANDS)
def test_the_module_of_every_command_exists(name, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])

    assert capsys.readouterr().out.startswith(f"usage: python -m ldznet {name} ")


# --- encodings -----------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="locales")
def test_files_are_utf_8_in_every_locale_and_output_never_fails(folder):
    picture(folder / "K\u00fcbel.png")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    call = [sys.executable, "-m", "ldznet", "segment", "K\u00fcbel.png", "-p", "\u6876", *FAST]

    for _ in range(2):  # the second time the report is read
        done = subprocess.run(call, capture_output=True, env={**os.environ, **plain}, check=False)
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr

    assert b"1 of 1 images are done already" in done.stdout
    assert "masks/K\u00fcbel.json" in files(folder)
