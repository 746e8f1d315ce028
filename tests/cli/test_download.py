"""Fetching a head from the web: from a server on this machine that can be made to fail."""

import hashlib
import http.client
import http.server
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from parity_weights import released_checkpoint

from ldznet.__main__ import main
from ldznet.cli import fetching
from ldznet.cli.fetching import fetch
from ldznet.errors import DownloadError, OptionError
from ldznet.heads.convert import convert
from ldznet.heads.head_file import read_head_info
from ldznet.methods.choose import find_heads

CHECKPOINT = released_checkpoint()


class Server(http.server.ThreadingHTTPServer):
    """One file, under any path; `cut` ends an answer after so many bytes."""

    content, tag, kind, status, cut = b"", '"1"', "application/octet-stream", 200, None
    heeds = True  # If-Range

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.asked = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def address(self, name):
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, begin = self.server, 0
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        if wanted and (not server.heeds or self.headers.get("If-Range") == server.tag):
            begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if begin and begin >= len(server.content):
            return self.send_error(416)
        content = server.content[begin:]
        self.send_response(206 if begin else server.status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", server.kind)
        if server.tag:
            self.send_header("ETag", server.tag)
        self.end_headers()
        self.wfile.write(content[: server.cut])
        return None

    def log_message(self, *_):
        pass


def _served():
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def server():
    yield from _served()


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    return convert(CHECKPOINT, tmp_path_factory.mktemp("head") / "head.safetensors", heads=4).path


def took(url, folder, **more):
    with fetch(url, folder, **more) as path:
        return path.name, path.read_bytes()


def test_a_head_from_the_web_lies_where_heads_are_found(server, head, tmp_path, capsys):
    server.content = head.read_bytes()

    code = main(["download", server.address("a%20star.safetensors?x=1"), "--to", str(tmp_path), "--json"])

    said = json.loads(capsys.readouterr().out)
    assert (code, said["kind"], said["path"]) == (0, "ld-znet", str(tmp_path / "a_star.safetensors"))
    assert [info.sha256 for info in find_heads([tmp_path])] == [said["sha256"]]
    assert [path.name for path in tmp_path.iterdir()] == ["a_star.safetensors"]


def test_a_released_checkpoint_is_converted_and_taken_away(server, head, tmp_path, monkeypatch):
    server.content = CHECKPOINT.read_bytes()
    whole = convert
    monkeypatch.setattr("ldznet.heads.convert.convert", lambda *args, **more: whole(*args, heads=4, **more))

    assert main(["download", server.address("released.ckpt"), "--to", str(tmp_path)]) == 0

    assert [path.name for path in tmp_path.iterdir()] == ["released.safetensors"]
    assert read_head_info(tmp_path / "released.safetensors").source["file"] == "released.ckpt"


def test_what_was_interrupted_goes_on_where_it_was(server, tmp_path):
    server.content, server.cut = bytes(range(256)) * 40, 4000
    with pytest.raises(DownloadError, match=r"was cut off\. What has come is kept"):
        took(server.address("x.ckpt"), tmp_path)
    server.cut = None

    assert took(server.address("x.ckpt"), tmp_path) == ("x.ckpt", server.content)
    assert server.asked == [None, "bytes=4000-"]
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_was_killed_at_its_very_end_is_complete(server, tmp_path):
    server.content, server.cut = b"x" * 100, 50
    with pytest.raises(DownloadError):
        took(server.address("x.ckpt"), tmp_path)
    next(tmp_path.glob("*/x.ckpt")).write_bytes(server.content)
    server.cut = None

    assert took(server.address("x.ckpt"), tmp_path)[1] == server.content
    assert server.asked == [None]


@pytest.mark.parametrize("tag", ['"2"', "", 'W/"1"'])
def test_a_file_that_changed_meanwhile_or_may_have_is_fetched_anew(server, tmp_path, tag):
    server.content, server.cut, server.tag = b"old" * 3000, 4000, '"1"' if tag == '"2"' else tag
    with pytest.raises(DownloadError):
        took(server.address("x.ckpt"), tmp_path)
    server.content, server.cut, server.tag = b"new" * 3000, None, tag

    assert took(server.address("x.ckpt"), tmp_path)[1] == b"new" * 3000


def test_parts_of_two_versions_are_not_joined_though_the_server_would(server, tmp_path):
    server.content, server.cut, server.heeds = b"old" * 3000, 4000, False
    with pytest.raises(DownloadError):
        took(server.address("x.ckpt"), tmp_path)
    server.content, server.cut, server.tag = b"new" * 3000, None, '"2"'

    assert took(server.address("x.ckpt"), tmp_path)[1] == b"new" * 3000
    assert server.asked == [None, "bytes=4000-", None]


def test_a_part_that_begins_elsewhere_is_not_joined(server, tmp_path, monkeypatch):
    server.content, server.cut = b"abc" * 3000, 4000
    with pytest.raises(DownloadError):
        took(server.address("x.ckpt"), tmp_path)
    server.cut, plain = None, Answers.end_headers

    def from_the_start(self):
        if self.headers.get("Range"):
            self.send_header("Content-Range", "bytes 0-8999/9000")
        plain(self)

    monkeypatch.setattr(Answers, "end_headers", from_the_start)

    assert took(server.address("x.ckpt"), tmp_path)[1] == server.content
    assert server.asked == [None, "bytes=4000-", None]


def test_spaces_and_other_letters_in_an_address_are_asked_for_as_a_browser_does(server, tmp_path):
    server.content = b"x"

    assert took(server.address("mein Kübel.ckpt"), tmp_path)[0] == "mein_Kübel.ckpt"


@pytest.mark.parametrize("url", ["http://127.0.0.1:abc/x.ckpt", "http://.example.org/x.ckpt"])
def test_an_address_that_cannot_be_is_named_as_such(url, tmp_path):
    with pytest.raises(DownloadError, match=r"is not a valid address \(.*\)\. Check it"):
        took(url, tmp_path)


@pytest.mark.parametrize("name", ["h.safetensors", "h.ckpt"])
def test_a_head_that_is_there_is_told_before_anything_is_fetch(server, head, tmp_path, capsys, name):
    server.content = head.read_bytes()
    taken = tmp_path / "h.safetensors"
    taken.write_bytes(b"mine")

    assert main(["download", server.address(name), "--to", str(tmp_path)]) == 1
    assert f"{taken} exists; it was left as it is. Move it away" in capsys.readouterr().err
    assert taken.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [taken]  # what had come would have been kept


def test_nothing_is_fetched_again_when_what_follows_fails(server, head, tmp_path, capsys, monkeypatch):
    server.content = CHECKPOINT.read_bytes()
    command = ["download", server.address("released.ckpt"), "--to", str(tmp_path)]

    assert main(command) == 1
    assert "the released one has 320" in capsys.readouterr().err
    whole = convert
    monkeypatch.setattr("ldznet.heads.convert.convert", lambda *args, **more: whole(*args, heads=4, **more))

    assert main(command) == 0
    assert server.asked == [None]


def test_a_head_called_as_a_checkpoint_lies_where_heads_are_found(server, head, tmp_path):
    server.content = head.read_bytes()

    assert main(["download", server.address("h.ckpt"), "--to", str(tmp_path)]) == 0
    assert [info.path.name for info in find_heads([tmp_path])] == ["h.safetensors"]


def test_a_second_download_of_the_same_file_is_refused_until_the_first_one_ends(server, tmp_path):
    server.content = b"x" * 5000
    url = server.address("x.ckpt")

    with (
        fetch(url, tmp_path),
        pytest.raises(DownloadError, match=r"Another process is fetching .* Wait until it is done"),
    ):
        took(url, tmp_path)
    assert server.asked == [None]
    assert took(url, tmp_path) == ("x.ckpt", server.content)
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_was_killed_leaves_no_lock(server, tmp_path):
    server.content, url = b"x" * 5000, server.address("x.ckpt")
    code = (
        "import os, signal, sys; from pathlib import Path; from ldznet.cli.fetching import fetch\n"
        "with fetch(sys.argv[1], Path(sys.argv[2])): os._exit(9)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, url, tmp_path], cwd=Path(__file__).parents[2], check=False
    )

    assert killed.returncode == 9
    assert took(url, tmp_path) == ("x.ckpt", server.content)
    assert server.asked == [None]


def test_a_folder_that_cannot_be_written_to_is_told(server, tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(DownloadError, match=r"Nothing can be written to .*file .* Give another folder"):
        took(server.address("x.ckpt"), tmp_path / "file")
    assert server.asked == []


# --- sent on ---------------------------------------------------------------------------------------------


@pytest.fixture
def other():
    """A server to which another one sends on."""
    yield from _served()


def sends_on(monkeypatch, server, target):
    """The server answers with another address; the target's own answers stay as they are."""
    plain = Answers.do_GET

    def answer(self):
        if self.server is not server:
            return plain(self)
        server.asked.append(self.headers.get("Range"))
        self.send_response(302)
        self.send_header("Location", target)
        self.send_header("Content-Length", "0")
        return self.end_headers()

    monkeypatch.setattr(Answers, "do_GET", answer)


def test_a_server_may_send_on_to_another_one_which_may_give_the_name_and_goes_on(
    server, other, tmp_path, monkeypatch
):
    other.content, other.cut = bytes(range(256)) * 40, 4000
    sends_on(monkeypatch, server, other.address("head.ckpt?token=1"))
    with pytest.raises(DownloadError, match="was cut off"):
        took(server.address("get?id=5"), tmp_path)
    other.cut = None

    assert took(server.address("get?id=5"), tmp_path) == ("head.ckpt", other.content)
    assert server.asked == other.asked == [None, "bytes=4000-"]


@pytest.mark.parametrize("kind", ["http", "ftp"])
def test_a_server_may_not_send_on_to_where_anybody_could_change_the_file(
    server, other, tmp_path, monkeypatch, kind
):
    def plain(host, timeout, **_certificates):
        return http.client.HTTPConnection(host, timeout=timeout)

    monkeypatch.setattr(http.client, "HTTPSConnection", plain)
    sends_on(monkeypatch, server, other.address("x.ckpt").replace("http", kind))

    with pytest.raises(DownloadError, match=r"leads to .*, where anybody on the way could change the file"):
        took(server.address("x.ckpt").replace("http", "https"), tmp_path)
    assert (server.asked, other.asked) == ([None], [])
    assert list(tmp_path.iterdir()) == []


def test_the_digest_that_was_given_is_checked(server, tmp_path):
    server.content = b"weights"
    right = hashlib.sha256(b"weights").hexdigest()

    assert took(server.address("x.ckpt"), tmp_path, sha256=right.upper())[1] == b"weights"
    with pytest.raises(DownloadError, match=r"it is another file, or was changed on its way\. Nothing was kept"):
        took(server.address("x.ckpt"), tmp_path, sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_head_is_named_and_not_put_among_the_heads(server, head, tmp_path, capsys):
    content = bytearray(head.read_bytes())
    content[-5] ^= 1
    server.content = bytes(content)

    assert main(["download", server.address("h.safetensors"), "--to", str(tmp_path)]) == 1
    assert "does not match the SHA-256 in its header" in capsys.readouterr().err
    assert not (tmp_path / "h.safetensors").exists()

    server.content = head.read_bytes()  # what was damaged on its way is not kept: the same command mends it
    assert main(["download", server.address("h.safetensors"), "--to", str(tmp_path)]) == 0
    assert (tmp_path / "h.safetensors").read_bytes() == server.content
    assert server.asked == [None, None]


def test_a_page_a_missing_file_and_a_file_of_something_else_are_told_apart(server, tmp_path):
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(DownloadError, match=r"is a web page, not a file\. Open it in a browser"):
        took(server.address("x.ckpt"), tmp_path)
    server.kind, server.status = "application/zip", 404
    with pytest.raises(DownloadError, match="answers 404"):
        took(server.address("x.ckpt"), tmp_path)
    server.status = 200
    with pytest.raises(DownloadError, match=r"is a file x\.zip, which is not a weight file"):
        took(server.address("x.zip"), tmp_path)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://host/x.ckpt", "x.ckpt", "https:///x.ckpt", "http://[::1/x.ckpt"]
)
def test_only_addresses_on_the_web_are_taken(url, tmp_path):
    with pytest.raises(OptionError, match="is not the address of a file on the web"):
        took(url, tmp_path)


def test_no_digest_is_told_before_anything_is_fetch(server, tmp_path):
    with pytest.raises(OptionError, match="is not a SHA-256"):
        took(server.address("x.ckpt"), tmp_path, sha256="abc")
    assert server.asked == []


def test_a_server_that_is_not_there_is_told(server, tmp_path):
    url = server.address("x.ckpt")
    server.shutdown()
    server.server_close()

    with pytest.raises(DownloadError, match=r"cannot be fetched: .*refused"):
        took(url, tmp_path)


def test_a_full_disk_is_noticed_before_anything_is_written(server, tmp_path, monkeypatch):
    server.content = b"x" * 5000
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _path: usage)

    with pytest.raises(DownloadError, match=r"The file needs 0.00 GB, but the disk of .* has 0.00 GB left"):
        took(server.address("x.ckpt"), tmp_path)
    assert not list(tmp_path.glob("*/x.ckpt"))


def test_a_servers_name_is_a_plain_files_name(server, tmp_path):
    server.content = b"x"

    assert took(server.address("..%2F..%2F.hidden%20name.ckpt"), tmp_path)[0] == "hidden_name.ckpt"


# --- Hugging Face ----------------------------------------------------------------------------------------


def test_a_file_of_a_hugging_face_repository_is_left_to_its_library(head, tmp_path, capsys, monkeypatch):
    calls = []

    def download(repository, name, *, revision, local_dir):
        calls.append((repository, name, revision))
        path = Path(local_dir) / name
        path.parent.mkdir()
        path.write_bytes(head.read_bytes())
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    url = "https://huggingface.co/owner/name/resolve/main/heads/star%201.safetensors?download=true"

    assert main(["download", url, "--to", str(tmp_path), "--json"]) == 0

    assert calls == [("owner/name", "heads/star 1.safetensors", "main")]
    assert [info.path.name for info in find_heads([tmp_path])] == ["star 1.safetensors"]
    assert list(tmp_path.glob(".download*")) == []


def test_an_error_of_the_hugging_face_library_is_one_of_ours(tmp_path, monkeypatch):
    def download(*_, **__):
        raise OSError("401 Client Error: gated\nmore")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)

    with pytest.raises(DownloadError, match=r"401 Client Error: gated\. Check .* hf auth login"):
        took("https://hf.co/owner/name/resolve/main/x.ckpt", tmp_path)
