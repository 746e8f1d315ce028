"""Which method runs, and why."""

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ldznet.errors import CheckpointError, HeadError, HostError, OptionError
from ldznet.heads.head_file import save_head
from ldznet.heads.unet import UNetConfig
from ldznet.hosts.diffusers.random_weights import random_host
from ldznet.methods.choose import choose_method, find_heads
from ldznet.methods.learned_head import random_head
from ldznet.options import SegmentOptions
from ldznet.segmenter import Segmenter


@pytest.fixture(scope="module")
def host():
    return random_host().info


@pytest.fixture
def folder(tmp_path, host):
    """Heads: one that fits, a ZNet that fits as well, one for another model, and a file that is none."""
    (tmp_path / "more").mkdir()
    other = UNetConfig(model_channels=32, heads=2, context_width=96)
    for name, unet, kind, source in (
        ("a-znet", host.unet, "znet", {}),
        ("more/fits", host.unet, "ld-znet", {}),
        ("0-other", other, "ld-znet", {}),
    ):
        save_head(random_head(unet, kind).head, tmp_path / f"{name}.safetensors", source=source)
    save_file({"weight": torch.zeros(2)}, tmp_path / "no-head.safetensors")
    return tmp_path


def test_heads_are_found_one_level_deep_and_other_files_left_out(folder):
    names = [info.path.name for info in find_heads([folder, folder, folder / "missing"])]

    assert names == ["0-other.safetensors", "a-znet.safetensors", "fits.safetensors"]


def test_a_file_is_read_again_only_where_it_has_changed(host, folder, monkeypatch):
    find_heads([folder])
    read = []
    monkeypatch.setattr("ldznet.methods.choose.find_head_info", lambda path: read.append(path.name))
    find_heads([folder])
    assert read == []

    monkeypatch.undo()
    save_head(random_head(host.unet, "znet").head, folder / "more" / "fits.safetensors", source={}, overwrite=True)
    kinds = {info.path.name: info.config.kind for info in find_heads([folder])}
    assert kinds["fits.safetensors"] == "znet"


def test_auto_takes_the_best_head_that_fits_and_says_so(host, folder):
    choice = choose_method("auto", host, find_heads([folder]))

    assert choice.method.name == "ld-znet"
    assert choice.reason == f"fits.safetensors fits {host.name}"


def test_a_head_that_was_trained_for_these_very_weights_comes_first(host, folder):
    import dataclasses

    exact = dataclasses.replace(host, fingerprint="abc")
    source = {"model_fingerprint": "abc"}
    save_head(random_head(host.unet, "znet").head, folder / "z-exact.safetensors", source=source)

    assert choose_method("head", exact, find_heads([folder])).reason.startswith("z-exact.safetensors")


def test_auto_takes_attention_where_no_head_fits_and_says_why(host, folder):
    (folder / "more" / "fits.safetensors").unlink()
    (folder / "a-znet.safetensors").unlink()

    choice = choose_method("auto", host, find_heads([folder]))
    assert (choice.method.name, choice.reason) == ("attention", f"none of 1 heads fits {host.name}")
    assert choose_method("auto", host, []).reason == f"there is no head for {host.name}"


def test_a_damaged_head_is_named_where_it_may_be_the_missing_one(host, folder):
    for name in ("0-other", "a-znet", "more/fits"):
        path = folder / f"{name}.safetensors"
        path.write_bytes(path.read_bytes()[: 2000 if name == "a-znet" else 9])

    heads = find_heads([folder])

    assert heads == []
    names = "0-other.safetensors, a-znet.safetensors, fits.safetensors"
    reason = f"there is no head for {host.name}, but {names} cannot be read: damaged, or not copied whole"
    assert choose_method("auto", host, heads).reason == reason
    with pytest.raises(HeadError, match=r"There is no head for .*, but 0-other.safetensors, .* cannot be read"):
        choose_method("head", host, heads)


def test_a_head_that_is_asked_for_but_does_not_fit_is_an_error(host, folder):
    others = [info for info in find_heads([folder]) if info.path.name.startswith("0")]

    with pytest.raises(HeadError, match="does not fit the loaded model"):
        choose_method("head", host, others)
    with pytest.raises(HeadError, match=r"There is no head for .* or use the method attention"):
        choose_method("head", host, [])
    with pytest.raises(OptionError, match="The method 'magic' is not known: give one of auto, head, attention"):
        choose_method("magic", host, [])


@pytest.mark.parametrize("name", ["attention", "difference"])
def test_methods_without_a_head_are_taken_when_asked_for(host, folder, name):
    choice = choose_method(name, host, find_heads([folder]))

    assert (choice.method.name, choice.reason) == (name, "asked for")


def test_auto_passes_over_a_head_whose_weights_are_damaged(host, folder):
    path = folder / "more" / "fits.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    heads = find_heads([folder])

    assert choose_method("auto", host, heads).reason == f"a-znet.safetensors fits {host.name}"
    with pytest.raises(CheckpointError, match=r"fits\.safetensors is damaged"):
        choose_method("head", host, heads)
    with pytest.raises(CheckpointError, match=r"fits\.safetensors is damaged"):
        choose_method("auto", host, [info for info in heads if info.path == path])

    (folder / "a-znet.safetensors").unlink()
    choice = choose_method("auto", host, find_heads([folder]))
    assert (choice.method.name, choice.reason) == ("attention", f"no head that fits {host.name} can be read")


def test_one_bad_file_in_the_folder_does_not_hide_the_others(host, folder):
    good = folder / "more" / "fits.safetensors"
    with safe_open(str(good), "pt") as file:
        metadata = file.metadata()
    for number, change in enumerate(
        ({"ldznet.source": "[]"}, {"ldznet.config": "[]"}, {"ldznet.config": "nul"}, {"ldznet.source": "3"})
    ):
        save_file(load_file(good), folder / f"bad{number}.safetensors", {**metadata, **change})
    (folder / "page.safetensors").write_text("<html>")
    (folder / "folder.safetensors").mkdir()
    (folder / "lost.safetensors").symlink_to(folder / "nowhere")

    heads = find_heads([folder])

    assert choose_method("auto", host, heads).reason == f"fits.safetensors fits {host.name}"
    assert {f"bad{number}.safetensors" for number in range(4)} <= set(heads.unreadable)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_logits_that_are_not_finite_are_an_error_before_the_sigmoid(value):
    model = random_host()
    method = random_head(model.info.unet)
    method.head.final[-1].bias[0] = value
    segmenter = Segmenter(model, method)
    options = SegmentOptions(resolution=64)
    segmenter.set_image(Image.new("RGB", (64, 64)), options)

    with pytest.raises(HostError, match=r"ld-znet method gave values that are not numbers \(NaN\) or infinite"):
        segmenter.segment("cat", options)
