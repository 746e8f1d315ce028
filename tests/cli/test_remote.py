"""`segment --url`: a webui that runs already in place of a model, over real HTTP against a stand-in."""

import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from host.api import application, serve
from host.brightness import SIZE, Brightness, half, share
from PIL import Image

from ldznet.__main__ import main
from ldznet.cli.remote import RemoteSegmenter, Server
from ldznet.errors import HostError, ImageError, OptionError
from ldznet.options import SegmentOptions
from ldznet.segmenter import Segmenter
from ldznet.webui import limits, session


@pytest.fixture
def address(webui, method):
    with serve(application(webui)) as address:
        yield address


@pytest.fixture
def photo(tmp_path):
    half().save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


@pytest.fixture
def segment(address, photo, tmp_path):
    """Run the command; the exit code."""

    def run(*more, url=address):
        return main(["segment", "--url", url, "--out", str(tmp_path / "masks"), photo, *more])

    return run


def reads(capsys):
    return json.loads(capsys.readouterr().out)


# --- results ---------------------------------------------------------------------------------------------


def test_masks_overlay_and_report_are_written_as_with_a_model_of_ones_own(segment, tmp_path, capsys):
    code = segment("bright", "--json", "--save", "mask,overlay,npz,each,heat")

    folder = tmp_path / "masks"
    assert code == 0
    assert share(Image.open(folder / "photo.mask.png")) == (1.0, 0.0)
    with Image.open(folder / "photo.overlay.png") as overlay:
        assert overlay.size == SIZE
    with np.load(folder / "photo.npz") as archive:
        assert archive["probability_1"].shape == SIZE[::-1]
        assert archive["probability_1"][30, [10, 118]].tolist() == [1, 0]
    report = reads(capsys)["done"][0]
    assert report["found"][0]["prompt"] == "bright"
    assert report["model"] == "sd1.safetensors [0123456789]"
    assert report["checkpoint"] is None
    assert report["url"].startswith("http://127.0.0.1:")
    assert json.loads((folder / "photo.json").read_text()) == report


def test_options_act_here_and_there(segment, tmp_path, capsys):
    words = ["-p", "bright", "-p", "dark", "-n", "bright"]
    code = segment(*words, "--invert", "--timesteps", "300,400", "--seeds", "7", "--json")

    report = reads(capsys)["done"][0]
    assert code == 0
    assert (report["timesteps"], report["seeds"]) == ([300, 400], [7])
    assert report["negative_prompts"] == ["bright"]
    assert share(Image.open(tmp_path / "masks" / "photo.mask.png")) == (1.0, 0.0)
    assert (tmp_path / "masks" / "photo.colors.png").exists()


def test_what_is_done_is_not_done_again_until_the_webui_has_another_checkpoint(segment, webui, capsys):
    def line():
        assert segment("bright") == 0
        return capsys.readouterr().out

    first, again = line(), line()
    webui.model.sd_checkpoint_info.title = "other.safetensors [89]"
    other = line()

    assert "bright: " in first
    assert again == "1 of 1 images are done already\n"
    assert "bright: " in other


@pytest.mark.parametrize("more", [{}, {"refine": True}, {"average_templates": True}])
def test_probabilities_are_those_of_the_webuis_model_rounded(address, webui, more):
    options = SegmentOptions(resolution=64, **more)
    near = Segmenter(session.A1111Host(webui.model), Brightness())
    far = RemoteSegmenter(Server(address), "auto", None)
    small = Image.new("RGB", (512, 256), (40, 40, 40))
    small.paste((250, 250, 250), (30, 30, 70, 60))

    found = []
    for segmenter in (near, far):
        segmenter.set_image(small, options)
        found.append(segmenter.segment(["bright", "dark"], options, negative_prompts=["unicorn"]))

    assert found[1].prompts == ("bright", "dark")
    assert found[1].negative_prompts == ("unicorn",)
    assert np.abs(found[0].probabilities() - found[1].probabilities()).max() < 1e-4
    assert found[1].record == json.loads(json.dumps(found[0].record))


def test_a_transparent_picture_is_seen_on_the_background_that_is_asked_for(segment, photo, tmp_path):
    clear = Image.new("RGBA", SIZE, (0, 0, 0, 0))
    clear.paste((0, 0, 0, 255), (0, 0, SIZE[0] // 2, SIZE[1]))
    clear.save(photo)

    assert segment("bright", "--background", "#000000", "--force") == 0
    dark = Image.open(tmp_path / "masks" / "photo.mask.png").copy()
    assert segment("bright", "--force") == 0

    assert share(dark) == (0.0, 0.0)
    assert share(Image.open(tmp_path / "masks" / "photo.mask.png")) == (0.0, 1.0)


def test_a_name_and_a_password_come_from_the_flag_or_the_address(webui, method, photo, tmp_path, capsys):
    with serve(application(webui, api_auth="ann:se@cret")) as address:
        secret = address.replace("//", "//ann:se%40cret@")
        runs_ = [
            main(["segment", "--out", str(tmp_path / str(number)), photo, "bright", "--json", *more])
            for number, more in enumerate(
                (["--url", address, "--url-auth", "ann:se@cret"], ["--url", secret], ["--url", address])
            )
        ]

    assert runs_ == [0, 0, 2]
    captured = capsys.readouterr()
    assert "Give those of its --api-auth with --url-auth" in captured.err
    assert "cret" not in captured.out + captured.err


# --- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--checkpoint", "a.safetensors"], "--checkpoint and --url do not go together"),
        (["--device", "cpu", "--dtype", "float32"], "--device, --dtype and --url do not go together"),
        (["--random-weights"], "--random-weights and --url do not go together"),
        (["--template", "{}!", "--batch", "2"], "--template, --batch and --url do not go together"),
        (["--head", "models/a.safetensors"], "--head is the name of a head that the webui has"),
        (["--url-timeout", "0"], "--url-timeout is 0"),
        (["--url-timeout", "nan"], "--url-timeout is nan"),
        (["--url-timeout", "inf"], "--url-timeout is inf"),
        (["--url-auth", "ann"], "--url-auth needs a name, a colon and a password"),
    ],
)
def test_what_a_webui_cannot_be_told_is_refused_before_it_is_asked(photo, capsys, more, said):
    assert main(["segment", "--url", "http://127.0.0.1:9", photo, "bright", *more]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("url", ["ftp://a", "http://", "http://a:b", "http://a/?b", "http://[::1"])
def test_an_address_that_is_none_is_refused(photo, capsys, url):
    assert main(["segment", "--url", url, photo, "bright"]) == 2
    assert "--url is no address" in capsys.readouterr().err


def test_a_password_without_an_address_is_refused(photo, capsys):
    assert main(["segment", "--url-auth", "ann:secret", photo, "bright"]) == 2
    assert "no --url says which" in capsys.readouterr().err


def test_a_head_that_the_webui_does_not_have_is_refused_with_those_it_has(segment, capsys):
    assert segment("bright", "--head", "none.safetensors") == 2
    assert "has no head 'none.safetensors' (there: " in capsys.readouterr().err


def test_what_the_webui_refuses_is_passed_on_and_the_other_images_go_on(segment, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ldznet.webui.api.base64_png.MOST_PIXELS", 2 * SIZE[0] * SIZE[1])
    Image.new("RGB", (2 * SIZE[0], 2 * SIZE[1])).save(tmp_path / "large.png")

    code = segment(str(tmp_path / "large.png"), "-p", "bright", "--json")

    answer = reads(capsys)
    assert code == 1
    assert len(answer["done"]) == 1
    assert "says: image has 256 x 128 pixels" in answer["failed"][0]["error"]


def test_a_webui_without_a_checkpoint_is_told_from_others(segment, webui, capsys):
    webui.shared.sd_model = None

    assert segment("bright") == 1
    assert "has no checkpoint that can be used" in capsys.readouterr().err


def test_where_nobody_answers_the_address_is_told():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    with pytest.raises(HostError, match=rf"The webui at http://127.0.0.1:{port} does not answer \("):
        Server(f"127.0.0.1:{port}").ask("GET", "/ldznet/heads")


def test_a_name_that_no_machine_can_have_is_told():
    with pytest.raises(HostError, match=r"The webui at http://\.\. does not answer \(encoding with 'idna' codec"):
        Server("http://..").ask("GET", "/ldznet/heads")


def test_who_is_too_slow_is_not_waited_for():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"

        with pytest.raises(HostError, match="did not answer in time"):
            Server(address, timeout=0.2).ask("GET", "/ldznet/heads")


@contextmanager
def stranger(status, content):
    """A server that is no webui of ours."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "content"),
    [(200, b"<html>"), (200, b"[]"), (404, b'{"detail": "Not Found"}'), (301, b""), (502, b"\xff")],
)
def test_a_server_that_is_no_webui_of_ours_is_told_from_one(status, content):
    with (
        stranger(status, content) as address,
        pytest.raises(HostError, match="is no webui with ldznet and an API"),
    ):
        Server(address).ask("GET", "/ldznet/heads")


def test_a_fault_of_the_webui_is_passed_on():
    with (
        stranger(500, b'{"detail": "The log has it."}') as address,
        pytest.raises(HostError, match="The log has it"),
    ):
        Server(address).ask("GET", "/ldznet/heads")


def test_a_picture_that_is_too_large_to_be_sent_is_not_sent(monkeypatch):
    monkeypatch.setattr(limits, "LONGEST_BODY", 10)

    with pytest.raises(ImageError, match="takes 17 bytes to send"):
        Server("http://127.0.0.1:9").ask("POST", "/ldznet/segment", {"image": "AAAA"})


def test_the_address_that_is_shown_has_no_password():
    assert Server("https://ann:secret@host:1/sub/").shown == "https://host:1/sub"
    with pytest.raises(OptionError, match="is no address"):
        Server("mailto:ann")
