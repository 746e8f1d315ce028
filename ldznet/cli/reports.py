"""Record which files this command has written for an image, and move results to their places.

Each image has a report NAME.json beside its results, which lists the files that are ours: no other file is ever
overwritten unasked. Results are made in a temporary folder, then moved to their places while no other process
writes there. The report is written before the move, to say which files are about to be ours, and again after it
with the results: so the same command continues where it stopped, however it stopped.

A target is the place of an image's results without suffix; names of results are relative to its folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ldznet import __version__
from ldznet.errors import ImageError, OptionError
from ldznet.files import locked, remove_leftovers, temporary_folder, write_text

BATCH_FOLDER = "batch"  # `--save batch`: a folder for these masks alone, since the webui takes any file in it


def own_report(target: Path) -> dict[str, Any]:
    """Return the report that this command has written for an image; empty if there is none."""
    path = _report_path(target)
    with contextlib.suppress(OSError, ValueError, RecursionError):
        # A pipe of this name would block; only files are read.
        report = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        if isinstance(report, dict) and "ldznet" in report and isinstance(report.get("owned"), list):
            return report
    return {}


def owned_names(target: Path) -> set[str]:
    """Return the names of the files that this command has written for an image, or was about to write."""
    report = own_report(target)
    return {*map(str, report["owned"]), _report_path(target).name} if report else set()


def _report_path(target: Path) -> Path:
    """Return the path of an image's report."""
    return target.with_name(f"{target.name}.json")


def report_if_done(target: Path, key: str) -> dict[str, Any] | None:
    """Return the report if it has this key and all of its files exist."""
    report = own_report(target)
    if report.get("key") != key or not report.get("files"):
        return None
    return report if all((target.parent / str(name)).is_file() for name in report["files"]) else None


def require_folder(out: Path) -> None:
    """Refuse what cannot be the folder of results, before any work; nothing is created yet.

    Raises:
        OptionError: a part of the path is a file, or is not writable.
    """
    nearest = next(path for path in (out, *out.parents, Path(os.curdir)) if os.path.lexists(path))
    if not os.path.isdir(nearest):
        raise OptionError(f"{nearest} is a file, so no results can be written to {out}. Give a folder with --out.")
    # Permissions of the user that the process acts as; Windows knows no difference.
    effective = os.access in os.supports_effective_ids
    if not os.access(nearest, os.W_OK | os.X_OK, effective_ids=effective):
        raise OptionError(
            f"The folder {nearest} is not writable, so no results can go to {out}. Change its permissions, or "
            "give another folder with --out."
        )


def require_own(target: Path, names: Sequence[str], image_file: dict[str, str], *, overwrite: bool) -> None:
    """Refuse to overwrite files that are not ours, or that belong to another image.

    Raises:
        OptionError: names the file.
    """
    report, own_names = own_report(target), owned_names(target)
    report_name = _report_path(target).name
    existing = {name: target.parent / name for name in (*names, report_name)}
    existing = {name: path for name, path in existing.items() if os.path.lexists(path)}
    if odd := [path for path in existing.values() if os.path.exists(path) and not path.is_file()]:
        raise OptionError(f"{odd[0]} exists and is not a file. Give another --out, or move it away.")
    if overwrite:
        return
    image = image_file["path"]
    if foreign := [path for name, path in existing.items() if name not in own_names]:
        raise OptionError(
            f"{foreign[0]} exists and was not written by this command; {image} was left out. Give another --out, "
            "or --force to overwrite."
        )
    before = report.get("image_file")
    if not isinstance(before, dict) or before.get("sha256") == image_file["sha256"]:
        return
    # A file that was changed is still the same image to its owner; what comes by standard input has no name.
    if before.get("path") != image or image == "-":
        raise OptionError(
            f"{_report_path(target)} and its files are the results of another image ({before.get('path')}), so "
            f"{image} was left out. Give another --out, or --force to replace them."
        )


def replaced_prompts(target: Path, names: Sequence[str], prompts: Sequence[str]) -> list[str]:
    """Return the prompts of the results that these files would replace, if they are other prompts."""
    report = own_report(target)
    before = report.get("prompts")
    if not isinstance(before, list) or before == list(prompts) or not set(names) & set(report.get("files", ())):
        return []
    return list(map(str, before))


# --- writing -------------------------------------------------------------------------------------


@contextlib.contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder inside `folder` for results that are not complete; remove it at the end.

    Raises:
        ImageError: something could not be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary_folder(folder) as staged:
            yield staged
    except OSError as why:
        raise ImageError(
            f"The results could not be written to {folder}: {why.strerror or why}. Check the disk and the "
            "permissions."
        ) from why


def clean_folders(folders: set[Path]) -> None:
    """Remove what killed processes have left in the folders of results."""
    for folder in folders:
        remove_leftovers(folder)


def publish(
    target: Path, staged: Path, names: Sequence[str], report: dict[str, Any], *, overwrite: bool
) -> dict[str, Any]:
    """Move results from the temporary folder to their places, the report last; return the complete report.

    Raises:
        OptionError: see `require_own`; another process may have written there meanwhile.
    """
    report_path = _report_path(target)
    with locked(target.parent):
        # Again under the lock: another command may have written these names since they were checked.
        require_own(target, names, report["image_file"], overwrite=overwrite)
        mine = sorted(owned_names(target) | {*names, report_path.name})
        whole = {"ldznet": __version__, **report, "files": list(names), "owned": mine}
        claim = {name: whole[name] for name in ("ldznet", "image", "image_file", "owned")}
        write_text(report_path, json.dumps(claim, indent=2) + "\n")
        for name in names:
            place = target.parent / name
            place.parent.mkdir(exist_ok=True)  # the folder of --save batch
            os.replace(staged / name, place)
        write_text(report_path, json.dumps(whole, indent=2) + "\n")
    return whole


def require_writable(folder: Path) -> None:
    """Create a folder of results before long work.

    Raises:
        OptionError: it cannot be created, or is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as why:
        raise OptionError(
            f"Nothing can be written to {folder} ({why.strerror or why}). Give another folder (--out), or change "
            "its permissions."
        ) from why
