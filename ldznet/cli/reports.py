"""The results of an image: whose files they are, and how they get to their places.

Beside its results each image has a report NAME.json, which lists the files that are ours: no other is ever
overwritten unasked. Results are made in a folder of their own, then moved to their places while no other
process writes there. The report is written before, to say which files are about to be ours, and after, with
what was found: so the same command again goes on where it stopped, however it stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ldznet import __version__
from ldznet.errors import ImageError, OptionError

STAGING = ".ldznet-"  # begins the names of folders in which results are made


def own_report(target: Path) -> dict[str, Any]:
    """The report of an image, if there is one of ours; `target` is the place of its results without suffix."""
    path = _report_of(target)
    with contextlib.suppress(OSError, ValueError, RecursionError):
        report = json.loads(path.read_text()) if path.is_file() else None  # a pipe would be waited for
        if isinstance(report, dict) and "ldznet" in report and isinstance(report.get("owned"), list):
            return report
    return {}


def owned(target: Path) -> set[str]:
    """The names of the files that this command has written for an image, or was about to."""
    report = own_report(target)
    return {*map(str, report["owned"]), _report_of(target).name} if report else set()


def _report_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.json")


def report_if_done(target: Path, key: str) -> dict[str, Any] | None:
    """The report, if it is of this key and all of its files are there."""
    report = own_report(target)
    if report.get("key") != key or not report.get("files"):
        return None
    return report if all(target.with_name(str(name)).is_file() for name in report["files"]) else None


def require_folder(out: Path) -> None:
    """Refuse what cannot be the folder of results, before any work; nothing is made yet.

    Raises:
        OptionError: a part of the path is a file, or may not be written.
    """
    nearest = next(path for path in (out, *out.parents, Path(os.curdir)) if os.path.lexists(path))
    if not os.path.isdir(nearest):
        raise OptionError(f"{nearest} is a file, so no results can be written to {out}. Give a folder with --out.")
    effective = os.access in os.supports_effective_ids
    if not os.access(nearest, os.W_OK | os.X_OK, effective_ids=effective):
        raise OptionError(
            f"The folder {nearest} may not be written, so no results can go to {out}. Change its permissions, or "
            "give another folder with --out."
        )


def require_own(target: Path, names: Sequence[str], image_file: dict[str, str], *, overwrite: bool) -> None:
    """Refuse to write over what is not ours, or is of another picture.

    Raises:
        OptionError: names the file.
    """
    report, ours = own_report(target), owned(target)
    there = [path for path in (*map(target.with_name, names), _report_of(target)) if os.path.lexists(path)]
    if odd := [path for path in there if os.path.exists(path) and not path.is_file()]:
        raise OptionError(f"{odd[0]} is there already and is no file. Give another --out, or move it away.")
    if overwrite:
        return
    picture = image_file["path"]
    if foreign := [path for path in there if path.name not in ours]:
        raise OptionError(
            f"{foreign[0]} is there already and was not made by this command; {picture} was left out. Give "
            "another --out, or --force to overwrite."
        )
    before = report.get("image_file")
    if not isinstance(before, dict) or before.get("sha256") == image_file["sha256"]:
        return
    # A file that was changed is still the same picture; what comes by standard input has no name.
    if before.get("path") != picture or picture == "-":
        raise OptionError(
            f"{_report_of(target)} and the files beside it are the results of another picture "
            f"({before.get('path')}); {picture} was left out. Give another --out, or --force to replace them."
        )


# --- writing -------------------------------------------------------------------------------------


@contextlib.contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A folder inside of `folder` for results that are not whole yet; it goes however the block ends.

    Raises:
        ImageError: something could not be written.
    """
    from ldznet.heads.weight_files import process_mark

    made = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(".partial", f"{STAGING}{process_mark()}-", folder))
        yield made
    except OSError as why:
        raise ImageError(
            f"The results could not be written to {folder}: {why.strerror or why}. Check the disk and the "
            "permissions."
        ) from why
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)


def remove_killed(folder: Path) -> None:
    """Remove what processes that were killed have left in staging."""
    from ldznet.heads.weight_files import remove_leftovers

    remove_leftovers(folder, STAGING)


def publish(
    target: Path, staged: Path, names: Sequence[str], report: dict[str, Any], *, overwrite: bool
) -> dict[str, Any]:
    """Move results from the staging folder to their places, the report last; returns the whole report.

    Raises:
        OptionError: see `require_own`; another process may have written there meanwhile.
    """
    with _locked(target.parent):
        require_own(target, names, report["image_file"], overwrite=overwrite)
        mine = sorted(owned(target) | {*names, _report_of(target).name})
        whole = {"ldznet": __version__, **report, "files": list(names), "owned": mine}
        claim = {name: whole[name] for name in ("ldznet", "image", "image_file", "owned")}
        _replace(staged, _report_of(target), claim)
        for name in names:
            os.replace(staged / name, target.with_name(name))
        _replace(staged, _report_of(target), whole)
    return whole


def _replace(staged: Path, path: Path, content: dict[str, Any]) -> None:
    partial = staged / path.name
    partial.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(partial, path)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time. The system takes the lock back when a process ends, however it does."""
    if sys.platform == "win32":
        flags, deadline = os.O_CREAT | os.O_EXCL | os.O_TEMPORARY, time.monotonic() + 60
        while True:
            try:
                handle = os.open(folder / f"{STAGING}lock", flags)
                break
            except (FileExistsError, PermissionError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
    else:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(handle)


def require_writable(folder: Path) -> None:
    """Make a folder of results before long work.

    Raises:
        OptionError: it cannot be made, or nothing can be written to it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as why:
        raise OptionError(
            f"Nothing can be written to {folder} ({why.strerror or why}). Give another folder (--out), or mend "
            "its permissions."
        ) from why
