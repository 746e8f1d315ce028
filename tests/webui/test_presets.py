"""Presets: what is saved comes back, and no accident loses what was there."""

import json
import os

import pytest

from ldznet.errors import LdznetError, OptionError
from ldznet.webui import presets
from ldznet.webui.controls import BY_NAME, CONTROLS

DEFAULTS = {control.name: control.default for control in CONTROLS}
SOFT = {**DEFAULTS, "prompt": "bucket", "threshold": 0.3, "feather": 4.0, "objects": "2", "method": "attention"}


@pytest.fixture
def file(webui, tmp_path):
    """Where they are kept: beside the webui's settings."""
    webui.shared.cmd_opts.ui_settings_file = str(tmp_path / "settings" / "config.json")
    return tmp_path / "settings" / "ldznet-presets.json"


def test_what_is_saved_comes_back_without_words_and_numbers_of_objects(file):
    assert presets.save(" soft edge ", SOFT) == "soft edge"

    loaded = presets.load("soft edge")

    assert (loaded["threshold"], loaded["feather"], loaded["method"]) == (0.3, 4.0, "attention")
    assert BY_NAME.keys() - loaded.keys() == {"enabled", "prompt", "negative_prompt", "objects"}
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_they_are_listed_by_the_alphabet_replaced_and_deleted(file):
    for name in ("b", "A", "ü 帽子"):
        presets.save(name, DEFAULTS)
    presets.save("b", SOFT)
    presets.delete("A")

    assert presets.names() == ["b", "ü 帽子"]
    assert presets.load("b")["threshold"] == 0.3


def test_a_control_that_an_older_preset_does_not_know_has_its_default_and_an_unknown_one_is_left_out(file):
    file.parent.mkdir()
    file.write_text('{"old": {"threshold": 0.2, "magic": 7}}')

    loaded = presets.load("old")

    assert loaded == {name: 0.2 if name == "threshold" else DEFAULTS[name] for name in presets.NAMES}


@pytest.mark.parametrize("name", [None, ""])
def test_where_none_is_chosen_it_says_what_to_do(file, name):
    presets.save("hard", DEFAULTS)

    for act in (presets.load, presets.delete):
        with pytest.raises(OptionError, match=r"^No preset is chosen\. Choose a preset first\.$"):
            act(name)


@pytest.mark.skipif(os.name == "nt", reason="permissions are of another kind")
def test_the_file_keeps_its_permissions_and_a_new_one_has_those_of_every_new_file(file):
    umask = os.umask(0o027)
    try:
        presets.save("soft", SOFT)
        made = file.stat().st_mode & 0o777
        file.chmod(0o664)
        presets.save("soft", DEFAULTS)
    finally:
        os.umask(umask)

    assert (oct(made), oct(file.stat().st_mode & 0o777)) == ("0o640", "0o664")


@pytest.mark.skipif(os.name == "nt", reason="links need a permission")
def test_a_link_stays_one_and_what_it_names_is_written(file, tmp_path):
    real = tmp_path / "shared" / "presets.json"
    real.parent.mkdir()
    file.parent.mkdir()
    file.symlink_to(real)

    for values in (DEFAULTS, SOFT):  # the first makes it
        presets.save("soft", values)

    assert file.is_symlink()
    assert json.loads(real.read_text())["soft"]["threshold"] == 0.3
    assert [path.name for path in real.parent.iterdir()] == ["presets.json"]


def test_one_that_is_not_there_is_refused_with_those_that_are(file):
    with pytest.raises(OptionError, match=r"There are no presets yet\. Type a name into Preset and press Save"):
        presets.load("soft")
    presets.save("hard", DEFAULTS)
    for act in (presets.load, presets.delete):
        with pytest.raises(OptionError, match=r"There is no preset 'soft'\. Those there are: hard\."):
            act("soft")


@pytest.mark.parametrize("name", ["", "  ", None, "x" * 61, "two\nlines"])
def test_a_name_that_cannot_be_read_in_a_list_is_refused(file, name):
    with pytest.raises(OptionError, match="must be a text of 1 to 60 letters"):
        presets.save(name, DEFAULTS)

    assert not file.exists()


def test_a_value_that_cannot_be_used_is_named_with_its_preset_and_file(file):
    file.parent.mkdir()
    file.write_text('{"soft": {"threshold": 7}}')

    with pytest.raises(OptionError) as refused:
        presets.load("soft")

    assert str(refused.value).startswith(
        f"The preset 'soft' in {file} cannot be used. Threshold is 7, but it must"
    )


@pytest.mark.parametrize("content", ["", '{"soft": {"thresh', "[]", '{"soft": 3}', "\udcff"])
def test_a_damaged_file_is_named_and_kept(file, content, caplog):
    file.parent.mkdir()
    file.write_text(content, errors="surrogateescape")
    before = file.read_bytes()

    for act in (lambda: presets.load("soft"), lambda: presets.save("soft", SOFT), lambda: presets.delete("soft")):
        with pytest.raises(LdznetError, match=f"The file of presets {file} cannot be read"):
            act()

    assert presets.names() == []  # the page opens
    assert "cannot be read" in caplog.text
    assert file.read_bytes() == before


def test_a_disk_that_fails_leaves_what_was_there_and_no_leftovers(file, monkeypatch):
    presets.save("soft", SOFT)
    before = file.read_bytes()

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(LdznetError, match=r"could not be written to .*No space left on device.*as they were"):
        presets.save("hard", DEFAULTS)

    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_there_is_room_for_so_many(file, monkeypatch):
    monkeypatch.setattr(presets, "MOST", 2)
    presets.save("a", DEFAULTS)
    presets.save("b", DEFAULTS)

    presets.save("b", SOFT)
    with pytest.raises(LdznetError, match=r"There are 2 presets, which is all there is room for\. Delete one"):
        presets.save("c", DEFAULTS)

    assert sorted(json.loads(file.read_text())) == ["a", "b"]


def test_frozen_settings_stay_as_they_are(file, webui):
    presets.save("soft", SOFT)
    webui.shared.cmd_opts.freeze_settings = True

    with pytest.raises(LdznetError, match="frozen"):
        presets.delete("soft")

    assert presets.load("soft")["threshold"] == 0.3
