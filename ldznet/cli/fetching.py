"""Fetch a file from the web: resume after an interruption, and keep nothing that may be wrong.

huggingface_hub fetches files of its repositories. For plain addresses there is a small downloader. It stores the
received part in a hidden folder, together with the mark (ETag or date) by which the server tells one version of
the file from another. Without a mark, or when the mark has changed, the file is fetched from its beginning.
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
from ldznet.files import digest_of, locked

_CHUNK = 2**20
_TIMEOUT = 60.0  # seconds without a byte
_UNQUOTED = "%/:?#[]@!$&'()*+,;=~"  # stays in an address as it is, in addition to letters and digits
_SUFFIXES = (".ckpt", ".safetensors", ".pt", ".pth")
_HUB = re.compile(r"https://(?:huggingface\.co|hf\.co)/([^/]+/[^/]+)/(?:resolve|blob)/([^/]+)/([^?#]+)")

Progress = Callable[[int, int], None]  # bytes that have come, and of how many
Accept = Callable[[str], None]  # gets the file's name before its bytes come; raises if it is not wanted


@contextlib.contextmanager
def fetch(
    url: str,
    folder: Path,
    *,
    sha256: str = "",
    accept: Accept = lambda _name: None,
    progress: Progress | None = None,
) -> Iterator[Path]:
    """Fetch a file into a hidden folder inside `folder` and yield its path, for the block to read or to move.

    The hidden folder is removed when the block ends well. When it raises, everything is kept, and the next call
    fetches nothing again.

    Raises:
        OptionError: this is not an http or https address, or not a SHA-256.
        DownloadError: the file is missing, is a web page, was cut off, or has another SHA-256; the disk is full;
            another process is fetching it; or it would come by a less safe way than the address has.
    """
    if not _is_web_address(url):
        raise OptionError(f"{url} is not the address of a file on the web. Give one that begins with https://")
    if sha256 and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise OptionError(f"{sha256!r} is not a SHA-256. Give its 64 digits, 0 to 9 and a to f.")
    room = folder / f".download-{hashlib.sha256(url.encode()).hexdigest()[:16]}"
    with _alone(url, room):
        hub = _HUB.match(url)
        path = _fetch_from_hub(url, hub, room, accept) if hub else _fetch_plain(url, room, accept, progress)
        if sha256 and (digest := digest_of([path])) != sha256.lower():
            shutil.rmtree(room)
            raise DownloadError(
                f"The file at {url} has the SHA-256 {digest[:16]}..., not {sha256[:16].lower()}...: it is another "
                "file, or was changed on its way. Nothing was kept; ask where the address came from."
            )
        yield path
        shutil.rmtree(room)


@contextlib.contextmanager
def _alone(url: str, room: Path) -> Iterator[None]:
    """Create the folder, and let one process at a time use it."""
    try:
        room.mkdir(parents=True, exist_ok=True)
    except OSError as why:
        raise DownloadError(
            f"Nothing can be written to {room.parent} ({why.strerror or why}). Give another folder (--to)."
        ) from why
    try:
        with locked(room, wait=0):
            room.mkdir(exist_ok=True)  # the process before this one may have removed it meanwhile
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    room.rmdir()  # only where nothing has come
    except TimeoutError as why:
        raise DownloadError(
            f"Another process is fetching {url} into {room.parent}. Wait until it is done, or end it: then the "
            "same command resumes."
        ) from why


def _fetch_from_hub(url: str, match: re.Match[str], room: Path, accept: Accept) -> Path:
    """Let huggingface_hub fetch the file; it resumes, shows its own progress and uses the user's token."""
    from huggingface_hub import hf_hub_download

    repository, revision, name = map(urllib.parse.unquote, match.groups())
    accept(_choose_name(url, [name]))
    try:
        return Path(hf_hub_download(repository, name, revision=revision, local_dir=room))
    except Exception as why:  # besides its own errors it raises those of several HTTP libraries
        reason = (str(why).strip() or type(why).__name__).splitlines()[0]
        raise DownloadError(
            f"{url} cannot be fetched: {reason}. Check the address and the connection; for a repository that asks "
            "for consent, agree in a browser and run: hf auth login. What has come is kept."
        ) from why


# --- plain addresses ---------------------------------------------------------------------------------


def _fetch_plain(url: str, room: Path, accept: Accept, progress: Progress | None) -> Path:
    """Fetch the file with urllib."""
    try:
        return _receive(url, room, accept, progress)
    except (OSError, http.client.HTTPException, ValueError) as why:
        raise DownloadError(_explain(url, why)) from why


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow a server to another address, but not from https to one that others could change on the way."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not _is_web_address(newurl) or (req.type == "https" and not newurl.lower().startswith("https:")):
            fp.close()
            raise DownloadError(
                f"{req.full_url} leads to {newurl}, where anybody on the way could change the file. Nothing was "
                "fetched from there: ask for an address that stays with https."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _receive(url: str, room: Path, accept: Accept, progress: Progress | None) -> Path:
    """Fetch what is missing of the file and return its path."""
    note = room / "state.json"
    state = _read_state(note)
    path = room / state.get("name", "")
    done = path.stat().st_size if path.is_file() else 0
    if done and done == state["size"]:  # all has come, but what followed failed
        accept(path.name)
        return path
    headers = {"User-Agent": f"ldznet/{__version__}", "Accept-Encoding": "identity"}
    if done and state["mark"]:
        headers |= {"Range": f"bytes={done}-", "If-Range": state["mark"]}
    quoted = urllib.parse.quote(url, safe=_UNQUOTED)
    request = urllib.request.Request(quoted, headers=headers)  # noqa: S310 - the scheme was checked
    with urllib.request.build_opener(_Redirects).open(request, timeout=_TIMEOUT) as answer:
        # A server that does not resume, or has another version, sends the whole file with status 200.
        if answer.status != 206:
            done = 0
        elif not _continues(answer.headers, done, state["mark"]):
            path.unlink()
            return _receive(url, room, accept, progress)
        if answer.headers.get_content_type() == "text/html":
            raise DownloadError(
                f"{url} is a web page, not a file. Open it in a browser and give the address of its download "
                "button; or download the file there and convert it."
            )
        length = int(answer.headers.get("Content-Length") or 0)
        addresses = (urllib.parse.urlsplit(address).path for address in (url, answer.url))
        name = _choose_name(url, [answer.headers.get_filename() or "", *map(urllib.parse.unquote, addresses)])
        accept(name)
        _require_space(room, length)
        if not done:
            path = room / name
            path.unlink(missing_ok=True)  # before the note: a kill must not leave an old part with a new mark
            # Without a length nobody could say later whether all has come, so such a part is not resumed.
            state = {"name": name, "mark": _mark(answer.headers) if length else "", "size": length}
            note.write_text(json.dumps(state), encoding="utf-8")
        size = done + length
        with path.open("ab" if done else "wb") as file:
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, max(size, done))
    if done < size:
        raise http.client.IncompleteRead(b"", size - done)
    return path


def _is_web_address(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def _continues(headers: Any, done: int, mark: str) -> bool:
    """Return whether the answer continues the stored part; not every server respects If-Range."""
    begins = str(headers.get("Content-Range") or f"bytes {done}-")
    return begins.startswith(f"bytes {done}-") and (_mark(headers) or mark) == mark


def _mark(headers: Any) -> str:
    """Return the server's mark of this version of the file; a weak ETag is none, as it may be that of others."""
    tag = str(headers.get("ETag") or "")
    return tag if tag and not tag.startswith("W/") else str(headers.get("Last-Modified") or "")


def _choose_name(url: str, candidates: list[str]) -> str:
    """Return the first candidate with the suffix of a weight file, as a plain file name."""
    # Servers choose these names: no folder may be in one, and no dot in front, which would hide the file.
    names = [
        re.sub(r"[^\w.+-]", "_", text.replace("\\", "/").rsplit("/", 1)[-1]).lstrip(".") for text in candidates
    ]
    for name in names:
        if name.lower().endswith(_SUFFIXES):
            return name
    raise DownloadError(
        f"{url} is a file {next(filter(None, names), 'without a name')}, which is not a weight file "
        f"({', '.join(_SUFFIXES)}). Give the address of a head or of the released checkpoint."
    )


def _require_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise DownloadError(
            f"The file needs {size / 1e9:.2f} GB, but the disk of {folder.parent} has {free / 1e9:.2f} GB left. "
            "Free space there, or give another folder (--to)."
        )


def _explain(url: str, why: Exception) -> str:
    """Return the error's text for a user."""
    if isinstance(why, urllib.error.HTTPError):
        return f"{url} answers {why.code} ({why.reason}): the file is missing, or not public. Check the address."
    if isinstance(why, ValueError | http.client.InvalidURL):
        return f"{url} is not a valid address ({why}). Check it."
    if isinstance(why, http.client.HTTPException):
        return f"{url} was cut off. What has come is kept: the same command resumes."
    reason = getattr(why, "reason", None) or getattr(why, "strerror", None) or why
    return f"{url} cannot be fetched: {reason}. What has come is kept: the same command resumes."


def _read_state(note: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        state = json.loads(note.read_text(encoding="utf-8"))
        return state if isinstance(state, dict) and state.keys() == {"name", "mark", "size"} else {}
    return {}
