"""The section "LD-ZNet segment" of the webui's settings: it acts with the next run, and flags win over it."""

import copy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from host.brightness import Brightness, share
from PIL import Image

from ldznet.errors import OptionError
from ldznet.methods.choose import MethodChoice
from ldznet.webui import session, settings_page
from ldznet.webui.controls import CONTROLS


class OptionInfo:
    """options.OptionInfo."""

    def __init__(
        self, default, label, component=None, component_args=None, section=None, infotext=None, restrict_api=False
    ):
        self.default, self.label, self.component, self.section = default, label, component, section
        self.component_args, self.infotext, self.comment = component_args, infotext, ""
        self.restrict_api = restrict_api

    def info(self, text):
        self.comment += text
        return self


@pytest.fixture
def opts(webui):
    return webui.shared.opts


class Asked(Brightness):
    """Keeps what it was asked for."""

    def probability(self, host, picture, prompts, draw):
        self.sentences = prompts.sentences
        return super().probability(host, picture, prompts, draw)


@pytest.fixture
def method(monkeypatch, webui):
    method = Asked()

    def choose(wanted, *_given, dtype=None, storage=None, **_more):
        method.wanted, method.dtype, method.storage = wanted, dtype, storage
        return MethodChoice(method, "of a test")

    monkeypatch.setattr(session, "choose_method", choose)
    return method


def test_the_page_has_all_of_it_in_one_section(webui, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", SimpleNamespace(Radio="radio"))
    options = {}
    webui.shared.OptionInfo, webui.shared.opts.add_option = OptionInfo, options.__setitem__

    settings_page.declare_settings(webui.session.app)

    assert {name: info.default for name, info in options.items()} == {
        "ldznet_method": "auto",
        "ldznet_heads": "",
        "ldznet_precision": "auto",
        "ldznet_rest": "GPU",
        "ldznet_template": "",
        "ldznet_average_templates": False,
        "ldznet_on_nothing": "stop",
        "ldznet_append": False,
        "ldznet_save": False,
    }
    assert {info.section for info in options.values()} == {("ldznet", "LD-ZNet segment")}
    assert options["ldznet_rest"].component_args == {"choices": ["GPU", "CPU", "unloaded"]}
    assert options["ldznet_template"].infotext == "LD-ZNet template"
    assert all(info.comment for name, info in options.items() if name != "ldznet_append")
    assert [name for name, info in options.items() if info.restrict_api] == ["ldznet_heads"]


def test_a_change_acts_with_the_next_run_where_a_call_does_not_say(opts, run, p, method):
    opts.ldznet_method, opts.ldznet_append = "difference", True
    processed = run.once(p, [{"prompt": "bright"}])

    assert method.wanted == "difference"
    assert len(processed.images) == 3

    opts.ldznet_method, opts.ldznet_append = "attention", False
    again = run.once(copy.copy(p), [{"prompt": "bright"}])

    assert method.wanted == "attention"
    assert len(again.images) == 1


def test_arguments_that_the_webui_leaves_open_are_the_pages(opts, run, p):
    opts.ldznet_on_nothing = "empty mask"
    args = [control.default for control in CONTROLS]
    args[:2] = True, "unicorn"
    place = [control.name for control in CONTROLS].index("on_nothing")

    run.once(p, [*args[:place], None, *args[place + 1 :]])

    assert p.read["image_mask"].getbbox() is None
    del p.read
    p.image_mask = None
    assert "Nothing was generated" in run.stopped(p, args)  # the panel says: stop


def test_what_a_call_says_wins(opts, run, p, method):
    opts.ldznet_method = "difference"

    run.once(p, [{"prompt": "bright", "method": "attention"}])

    assert method.wanted == "attention"


@pytest.mark.parametrize("sentence", ['"{}"', '"a {}" and more', "[{}]"])
def test_a_sentence_in_quotes_is_written_so_that_it_comes_back(opts, run, p, method, sentence, webui):
    opts.ldznet_template = sentence
    run.once(p, [True, "bright"])
    opts.ldznet_template = p.extra_generation_params["LD-ZNet template"]

    assert opts.ldznet_template[0] == "["
    assert webui.session.settings_page.template() == sentence


def test_the_sentence_of_the_page_is_used_and_written_below_the_picture(opts, run, p, method):
    opts.ldznet_template = " a drawing of {} "

    run.once(p, [{"prompt": "bright"}])

    assert method.sentences == ("a drawing of bright",)
    assert p.extra_generation_params["LD-ZNet template"] == "a drawing of {}"


@pytest.mark.parametrize(("call", "passes"), [({}, 9), ({"average_templates": False}, 1)])
def test_nine_sentences_are_averaged_where_the_page_says_so_and_the_call_does_not_object(
    opts, run, p, method, call, passes
):
    opts.ldznet_average_templates = True

    run.once(p, [{"prompt": "bright", **call}])

    assert method.calls == passes
    assert p.extra_generation_params.get("LD-ZNet average templates") == ("True" if passes == 9 else None)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("method", "magic", "The setting ldznet_method is 'magic', which is not known: give one of auto, head"),
        (
            "append",
            "yes",
            "The setting ldznet_append is 'yes', but it must be true or false: give one (default False)",
        ),
        ("heads", "~no-such/a", "The folder of heads is '~no-such/a', but there is no such user."),
        (
            "heads",
            "x" * 5000,
            f"The folder of heads is '{'x' * 200} ...', but it cannot be opened (File name too long).",
        ),
        ("rest", 3, "The setting ldznet_rest is 3, but it must be a text: give one (default 'GPU')."),
        ("template", "a photo", 'Settings, section "LD-ZNet segment", "Sentence around the prompt": template is'),
    ],
)
def test_what_a_program_has_set_wrongly_stops_the_run_and_is_named(opts, run, p, name, value, said):
    setattr(opts, f"ldznet_{name}", value)

    assert run.stopped(p, [{"prompt": "bright"}]).startswith(said)


def test_the_page_opens_with_what_is_set_or_with_the_default(opts, webui):
    opts.ldznet_method, opts.ldznet_on_nothing = "attention", "explode"

    assert settings_page.OF_CONTROLS == ("method", "average_templates", "on_nothing", "append")
    assert webui.session.settings_page.first_value("method") == "attention"
    assert webui.session.settings_page.first_value("on_nothing") == "stop"
    assert webui.session.settings_page.first_value("threshold") == 0.5
    opts.ldznet_rest = "moon"
    assert webui.session.status()["rest"] == "GPU"


def test_the_precision_of_the_page_is_used_unless_the_command_line_says_another(webui, opts, run, p, method):
    dtypes = []
    for said, flag in (("auto", "auto"), ("bfloat16", "auto"), ("bfloat16", "float16")):
        opts.ldznet_precision, webui.shared.cmd_opts.ldznet_precision = said, flag
        run.once(copy.copy(p), [{"prompt": "bright"}])
        dtypes.append(method.dtype)

    assert dtypes == [torch.float32, torch.bfloat16, torch.float16]  # a CPU computes in float32


@pytest.mark.parametrize(("page", "flag"), [("int8", "auto"), ("auto", "int8"), ("bfloat16", "int8")])
def test_weights_in_8_bits_are_a_precision_of_page_and_command_line(webui, opts, run, p, method, page, flag):
    opts.ldznet_precision, webui.shared.cmd_opts.ldznet_precision = page, flag

    run.once(copy.copy(p), [{"prompt": "bright"}])

    assert (method.dtype, method.storage) == (torch.float32, torch.int8)


def test_the_folder_of_the_command_line_wins(webui, opts):
    opts.ldznet_heads = " /heads/of/the/page "
    assert webui.session.settings_page.heads_folder() == "/heads/of/the/page"

    webui.shared.cmd_opts.ldznet_heads = "/heads/of/the/flag"
    assert webui.session.settings_page.heads_folder() == "/heads/of/the/flag"


def test_an_older_webui_without_our_settings_has_the_defaults(opts, webui):
    assert webui.session.settings_page.value("rest") == "GPU"
    assert webui.session.settings_page.defaults() == {
        "method": "auto",
        "average_templates": False,
        "on_nothing": "stop",
        "append": False,
    }
    with pytest.raises(KeyError):
        webui.session.settings_page.value("colour")


# --- saved masks -----------------------------------------------------------------------------------------


@pytest.fixture
def folder(opts, p, tmp_path):
    """Where the webui's user has pictures saved."""
    opts.ldznet_save = True
    folder = tmp_path / "img2img-images"
    folder.mkdir()
    p.outpath_samples, p.n_iter = str(folder), 2
    return folder


def test_mask_and_overlay_are_saved_beside_the_first_picture_under_its_name(run, p, folder):
    processed = run.once(p, [{"prompt": "bright"}])

    assert sorted(path.name for path in folder.iterdir()) == [
        "00000-1-ldznet-mask.png",
        "00000-1-ldznet-overlay.png",
        "00000-1.png",
        "00001-1.png",
    ]
    assert share(Image.open(folder / "00000-1-ldznet-mask.png")) == (1.0, 0.0)
    assert len(processed.images) == 2  # none is appended


@pytest.mark.parametrize("why", ["nothing saved", "nothing found", "switched off"])
def test_nothing_is_saved_where_there_is_no_picture_or_no_mask(opts, run, p, folder, why):
    if why == "nothing saved":
        p.outpath_samples = ""
    elif why == "switched off":
        opts.ldznet_save = False

    run.once(p, [{"prompt": "unicorn" if why == "nothing found" else "bright", "on_nothing": "empty mask"}])

    assert list(folder.glob("*ldznet*")) == []


def test_the_mask_is_exact_whatever_format_pictures_are_saved_in(opts, run, p, folder):
    opts.samples_format = "jpg"

    run.once(p, [{"prompt": "bright", "append": True}])

    assert set(np.unique(Image.open(folder / "00000-1-ldznet-mask.png"))) == {0, 255}
    assert (folder / "00000-1-ldznet-overlay.jpg").exists()


def test_a_format_that_cannot_hold_the_mask_is_told_and_the_results_are_whole(run, p, folder, monkeypatch):
    def refuse(*_given, **_more):
        raise ValueError("encoding error 5: image size exceeds WebP limit of 16383 pixels")

    monkeypatch.setattr(sys.modules["modules.images"], "save_image", refuse)

    processed = run.once(p, [{"prompt": "bright", "append": True}])

    assert "WebP limit" in processed.comments
    assert len(processed.images) == 4


def test_a_full_disk_is_told_below_the_results_and_the_picture_stays(run, p, folder, monkeypatch):
    images = sys.modules["modules.images"]
    assert isinstance(images, ModuleType)

    def full(_picture, path, _basename, *, forced_filename, **_more):
        (Path(path) / f"{forced_filename}.tmp").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(images, "save_image", full)

    processed = run.once(p, [{"prompt": "bright", "append": True}])

    told = (
        "Mask and overlay could not be saved beside 00000-1.png (No space left on device). Check the disk, and "
        "the file format in the webui's settings."
    )
    assert told in processed.comments
    assert processed.extra_generation_params["LD-ZNet found"]["not_saved"] == told
    assert len(processed.images) == 4  # two pictures, mask and overlay
    assert sorted(path.name for path in folder.iterdir()) == ["00000-1.png", "00001-1.png"]
    assert run.reported == []


def test_a_setting_that_is_wrong_is_an_option_error(opts, webui):
    opts.ldznet_heads = None

    with pytest.raises(OptionError, match="ldznet_heads is None, but it must be a text"):
        webui.session.settings_page.heads_folder()
