"""A file from the web: fetched whole or not at all, gone on with after an interruption, checked.

What has come so far lies in a hidden folder, with the mark by which the server tells one version of the file from
another; without such a mark, or where it has changed, the file is fetched anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ldznet import __version__
from ldznet.errors import DownloadError, OptionError
from ldznet.modeling.writing import digest_of

_CHUNK = 2**20
_SILENCE = 60.0  # seconds without a byte, after which a server is given up
_PLAIN = "%/:?#[]@!$&'()*+,;=~"  # stays in an address as it is, beside letters and digits
_ENDINGS = (".ckpt", ".safetensors", ".pt", ".pth")

Progress = Callable[[int, int], None]  # bytes that have come, and of how many


@contextlib.contextmanager
def fetched(url: str, folder: Path, *, sha256: str = "", progress: Progress | None = None) -> Iterator[Path]:
    """Fetch a file, under the name that the address or the server gives it, into a folder of its own in `folder`.

    It is there for the block to move away or to read. What the block leaves goes when it ends well; when not, all
    is kept, and the next call fetches nothing again.

    Raises:
        OptionError: that is no http or https address, or no SHA-256.
        DownloadError: there is no such file, it is a page, it was cut off, the disk is full, the SHA-256 differs.
    """
    if not _is_address(url):
        raise OptionError(f"{url} is no address of a file on the web. Give one that begins with https://")
    if sha256 and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise OptionError(f"{sha256!r} is no SHA-256. Give its 64 digits, 0 to 9 and a to f.")
    room = folder / f".download-{hashlib.sha256(url.encode()).hexdigest()[:16]}"
    room.mkdir(parents=True, exist_ok=True)
    try:
        try:
            path = _receive(url, room, progress)
        except urllib.error.HTTPError as why:
            if why.code != 416:  # else all that there is had come, or the file is another one now
                raise
            (room / "partial").unlink(missing_ok=True)
            path = _receive(url, room, progress)
    except (OSError, http.client.HTTPException, ValueError) as why:
        raise DownloadError(_explained(url, why)) from why
    if sha256 and (found := digest_of([path])) != sha256.lower():
        shutil.rmtree(room)
        raise DownloadError(
            f"What {url} gives has the SHA-256 {found[:16]}..., not {sha256[:16].lower()}...: it is another file, "
            "or was changed on its way. Nothing was kept; ask where the address came from."
        )
    yield path
    shutil.rmtree(room)


def _receive(url: str, room: Path, progress: Progress | None) -> Path:
    """Bring the file into `room`; -> where it lies."""
    note, partial = room / "state.json", room / "partial"
    kept = _read(note)
    if kept.get("whole") and (room / str(kept["name"])).is_file():
        return room / str(kept["name"])
    done = partial.stat().st_size if kept.get("mark") and partial.exists() else 0
    headers = {"User-Agent": f"ldznet/{__version__}", "Accept-Encoding": "identity"}
    if done:
        headers |= {"Range": f"bytes={done}-", "If-Range": str(kept["mark"])}
    plain = urllib.parse.quote(url, safe=_PLAIN)  # spaces and letters that are not English
    asked = urllib.request.Request(plain, headers=headers)  # noqa: S310 - the address was looked at
    with urllib.request.urlopen(asked, timeout=_SILENCE) as answer:  # noqa: S310
        if answer.status != 206 or not done:
            done = 0
        elif not _continues(answer.headers, done, str(kept["mark"])):
            partial.unlink()
            return _receive(url, room, progress)
        if answer.headers.get_content_type() == "text/html":
            raise DownloadError(
                f"{url} answers with a page, not with a file. Open it in a browser, and give the address behind "
                "the page's download button; or download it there, and convert the file."
            )
        left = int(answer.headers.get("Content-Length") or 0)
        state = {"name": _name(url, answer.headers), "mark": _mark(answer.headers), "whole": False}
        if done:
            state["mark"] = kept["mark"]  # a part need not say it again
        _require_room(room, left)
        if not done:
            partial.unlink(missing_ok=True)  # before the note: a kill must not leave an old part with a new mark
        note.write_text(json.dumps(state))
        size = done + left
        with partial.open("ab" if done else "wb") as file:
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, max(size, done))
    if left and done < size:
        raise http.client.IncompleteRead(b"", size - done)
    path = partial.rename(room / str(state["name"]))
    note.write_text(json.dumps(state | {"whole": True}))
    return path


def _is_address(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def _continues(headers: Any, done: int, mark: str) -> bool:
    """Whether a part belongs behind what has come; not every server heeds If-Range."""
    begins = str(headers.get("Content-Range") or f"bytes {done}-")
    return begins.startswith(f"bytes {done}-") and (_mark(headers) or mark) == mark


def _mark(headers: Any) -> str:
    """What tells this version of the file from others; a weak ETag cannot."""
    tag = str(headers.get("ETag") or "")
    return tag if tag and not tag.startswith("W/") else str(headers.get("Last-Modified") or "")


def _name(url: str, headers: Any) -> str:
    """A plain file's name with the ending of a file of weights."""
    given = headers.get_filename() or urllib.parse.unquote(urllib.parse.urlsplit(url).path)
    name = re.sub(r"[^\w.+-]", "_", given.replace("\\", "/").rsplit("/", 1)[-1]).lstrip(".")
    if not name.lower().endswith(_ENDINGS):
        raise DownloadError(
            f"{url} is a file {name or 'without a name'}, which is none of weights ({', '.join(_ENDINGS)}). Give "
            "the address of a head or of the released checkpoint."
        )
    return name


def _require_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise DownloadError(
            f"The file needs {size / 1e9:.2f} GB, but the disk of {folder.parent} has {free / 1e9:.2f} GB left. "
            "Make room there, or give another folder (--to)."
        )


def _explained(url: str, why: Exception) -> str:
    if isinstance(why, urllib.error.HTTPError):
        return f"{url} answers {why.code} ({why.reason}): the file is not there, or not for everybody. Check it."
    if isinstance(why, ValueError | http.client.InvalidURL):
        return f"{url} cannot be asked for ({why}). Check the address."
    if isinstance(why, http.client.HTTPException):
        return f"{url} was cut off. What has come is kept: the same command goes on."
    reason = getattr(why, "reason", None) or getattr(why, "strerror", None) or why
    return f"{url} cannot be fetched: {reason}. What has come is kept: mend that, and the same command goes on."


def _read(note: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(note.read_text())
        return found if isinstance(found, dict) else {}
    return {}
