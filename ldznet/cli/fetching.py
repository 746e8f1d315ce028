"""A file from the web: fetched whole or not at all, gone on with after an interruption, checked.

What has come so far lies in a hidden folder, which one process at a time has, with the mark by which the server
tells one version of the file from another; without such a mark, or where it has changed, the file is fetched anew.
A server may send on to another one, but not from https to an address that anybody on the way could change.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import shutil
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ldznet import __version__
from ldznet.errors import DownloadError, OptionError
from ldznet.files import digest_of

_CHUNK = 2**20
_SILENCE = 60.0  # seconds without a byte, after which a server is given up
_PLAIN = "%/:?#[]@!$&'()*+,;=~"  # stays in an address as it is, beside letters and digits
_ENDINGS = (".ckpt", ".safetensors", ".pt", ".pth")

Progress = Callable[[int, int], None]  # bytes that have come, and of how many
Accept = Callable[[str], None]  # is told the file's name before its bytes come, and raises where it is not wanted


@contextlib.contextmanager
def fetched(
    url: str,
    folder: Path,
    *,
    sha256: str = "",
    accept: Accept = lambda _name: None,
    progress: Progress | None = None,
) -> Iterator[Path]:
    """Fetch a file, under the name that the address or the server gives it, into a folder of its own in `folder`.

    It is there for the block to move away or to read. What the block leaves goes when it ends well; when not, all
    is kept, and the next call fetches nothing again.

    Raises:
        OptionError: that is no http or https address, or no SHA-256.
        DownloadError: there is no such file, it is a page, it was cut off, the disk is full, the SHA-256 differs,
            another process is fetching it, or it would come by a less safe way than it was asked for.
    """
    if not _is_address(url):
        raise OptionError(f"{url} is no address of a file on the web. Give one that begins with https://")
    if sha256 and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise OptionError(f"{sha256!r} is no SHA-256. Give its 64 digits, 0 to 9 and a to f.")
    room = folder / f".download-{hashlib.sha256(url.encode()).hexdigest()[:16]}"
    with _alone(url, room):
        try:
            try:
                path = _receive(url, room, accept, progress)
            except urllib.error.HTTPError as why:
                if why.code != 416:  # else all that there is had come, or the file is another one now
                    raise
                (room / "partial").unlink(missing_ok=True)
                path = _receive(url, room, accept, progress)
        except (OSError, http.client.HTTPException, ValueError) as why:
            raise DownloadError(_explained(url, why)) from why
        if sha256 and (found := digest_of([path])) != sha256.lower():
            shutil.rmtree(room)
            raise DownloadError(
                f"What {url} gives has the SHA-256 {found[:16]}..., not {sha256[:16].lower()}...: it is another "
                "file, or was changed on its way. Nothing was kept; ask where the address came from."
            )
        yield path
        shutil.rmtree(room)


@contextlib.contextmanager
def _alone(url: str, room: Path) -> Iterator[None]:
    """Make the folder and have it alone. The system takes the lock back when a process ends, however it does."""
    lock = room.with_suffix(".lock")
    try:
        room.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError as why:
        raise DownloadError(
            f"Nothing can be written to {room.parent} ({why.strerror or why}). Give another folder (--to)."
        ) from why
    with file:
        if not _locks(file.fileno()) or not _is_same(file.fileno(), lock):
            raise DownloadError(
                f"Another process is fetching {url} into {room.parent}. Wait until it is done, or end it: then the"
                " same command goes on where it was."
            )
        room.mkdir(exist_ok=True)  # the one before may have taken it away meanwhile
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                room.rmdir()  # where nothing has come
            if not room.exists() and sys.platform != "win32":  # there an open file cannot be taken away
                lock.unlink(missing_ok=True)


def _locks(handle: int) -> bool:
    """Whether this process has the file for itself now; so where the file system knows no locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True


def _is_same(handle: int, path: Path) -> bool:
    """Whether the open file still has that name; the one who had the lock before may have taken it away."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(handle), path.stat())
    return False


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Goes where a server sends on to, as long as that is the web, and as safe as what was asked for."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not _is_address(newurl) or (req.type == "https" and urllib.parse.urlsplit(newurl).scheme != "https"):
            fp.close()
            raise DownloadError(
                f"{req.full_url} sends on to {newurl}, where anybody on the way could change the file. Nothing was"
                " fetched from there: ask for an address that stays with https."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _receive(url: str, room: Path, accept: Accept, progress: Progress | None) -> Path:
    """Bring the file into `room`; -> where it lies."""
    note, partial = room / "state.json", room / "partial"
    kept = _read(note)
    if kept.get("whole") and (room / str(kept["name"])).is_file():
        accept(str(kept["name"]))
        return room / str(kept["name"])
    done = partial.stat().st_size if kept.get("mark") and partial.exists() else 0
    headers = {"User-Agent": f"ldznet/{__version__}", "Accept-Encoding": "identity"}
    if done:
        headers |= {"Range": f"bytes={done}-", "If-Range": str(kept["mark"])}
    plain = urllib.parse.quote(url, safe=_PLAIN)  # spaces and letters that are not English
    asked = urllib.request.Request(plain, headers=headers)  # noqa: S310 - the address was looked at
    with urllib.request.build_opener(_Redirects).open(asked, timeout=_SILENCE) as answer:
        if answer.status != 206 or not done:
            done = 0
        elif not _continues(answer.headers, done, str(kept["mark"])):
            partial.unlink()
            return _receive(url, room, accept, progress)
        if answer.headers.get_content_type() == "text/html":
            raise DownloadError(
                f"{url} answers with a page, not with a file. Open it in a browser, and give the address behind "
                "the page's download button; or download it there, and convert the file."
            )
        left = int(answer.headers.get("Content-Length") or 0)
        name = _name(url, answer.url, answer.headers)
        accept(name)
        state = {"name": name, "mark": _mark(answer.headers), "whole": False}
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


def _name(url: str, final: str, headers: Any) -> str:
    """A plain file's name with the ending of a file of weights: as the server says it, or either address."""
    addresses = (urllib.parse.unquote(urllib.parse.urlsplit(address).path) for address in (url, final))
    names = [_plain(given) for given in (headers.get_filename() or "", *addresses)]
    for name in names:
        if name.lower().endswith(_ENDINGS):
            return name
    raise DownloadError(
        f"{url} is a file {next(filter(None, names), 'without a name')}, which is none of weights "
        f"({', '.join(_ENDINGS)}). Give the address of a head or of the released checkpoint."
    )


def _plain(given: str) -> str:
    return re.sub(r"[^\w.+-]", "_", given.replace("\\", "/").rsplit("/", 1)[-1]).lstrip(".")


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
