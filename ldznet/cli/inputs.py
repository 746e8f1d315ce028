"""Which images a command works on, and where the results of each go.

What the command has written itself is no image to it, wherever it is met: in a folder, by a pattern, or among
files that a shell has listed.
"""

from __future__ import annotations

import glob
import hashlib
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ldznet.cli.reports import STAGING, own_report, owned
from ldznet.errors import ImageError, OptionError

MOST_PIPED = 2**30  # bytes: the largest picture that is read, in four channels of 16 bits
SUFFIXES = frozenset(
    f".{name}"
    for name in "png jpg jpeg jpe jfif webp bmp gif tif tiff avif jp2 ppm pgm pbm tga ico".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Job:
    """One image and where its results go."""

    source: str  # a path, or "-"
    target: Path  # without suffix


@dataclass
class Found:
    """What the inputs of a command lead to."""

    jobs: list[Job] = field(default_factory=list)  # with distinct places for their results, in a fixed order
    unreadable: list[tuple[str, str]] = field(default_factory=list)  # a folder, and why
    passed_over: int = 0  # results of this command


@dataclass(frozen=True)
class Source:
    """The file of an image."""

    path: str  # absolute, or "-"
    sha256: str
    data: bytes | None  # of standard input, which can be read only once


def find_jobs(inputs: Sequence[str], out: Path, recursive: bool) -> Found:
    """All images that the inputs name.

    Raises:
        OptionError: an input is empty. ImageError: a folder or a pattern holds no image.
    """
    found = Found()
    names: dict[str, Path] = {}  # source -> its name below the folder of results, with suffix
    for text in inputs:
        if not text:
            raise OptionError(
                "One of the images is the empty text: perhaps a variable that is not set. Give a file, or . for "
                "the folder in which you are."
            )
        if text == "-":
            names["-"] = Path("stdin")
        elif os.path.isdir(text):
            names |= _in_folder(Path(text), recursive, found)
        elif _is_pattern(text):
            matches = sorted(path for path in glob.glob(text, recursive=recursive) if os.path.isfile(path))
            if not matches:
                raise ImageError(f"No file matches {text}. Check the pattern.")
            names |= {path: Path(Path(path).name) for path in _images(matches, found)}
        else:
            names |= {path: Path(Path(path).name) for path in _images([text], found)}
    if not names and not found.unreadable:
        raise ImageError(
            f"All that was given, {found.passed_over} files, are results of this command. Give images; to segment "
            "a result, copy it to another folder."
        )
    found.jobs = _with_targets(names, out)
    return found


def _is_pattern(text: str) -> bool:
    from ldznet.images.reading import is_address

    return any(mark in text for mark in "*?[") and not os.path.exists(text) and not is_address(text)


def _in_folder(folder: Path, recursive: bool, found: Found) -> dict[str, Path]:
    before, files = (len(found.unreadable), found.passed_over), []

    def unreadable(why: OSError) -> None:
        found.unreadable.append((str(why.filename), why.strerror or str(why)))

    for root, folders, names in os.walk(folder, onerror=unreadable):
        files += [Path(root, name) for name in names if Path(name).suffix.lower() in SUFFIXES]
        folders[:] = [name for name in folders if recursive and not name.startswith(STAGING)]
    inside = [Path(path) for path in _images(map(str, sorted(filter(_may_be_a_file, files))), found)]
    if not inside and (len(found.unreadable), found.passed_over) == before:
        raise ImageError(f"The folder {folder} holds no images. Check the path, or look deeper with -r.")
    return {str(path): path.relative_to(folder) for path in inside}


def _may_be_a_file(path: Path) -> bool:
    """Not a pipe or a device; what cannot be looked at, such as a broken link, is named when it is read."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


def _images(paths: Sequence[str] | Iterator[str], found: Found) -> Iterator[str]:
    """The paths without those of results of this command."""
    for path in paths:
        if _is_result(Path(path)):
            found.passed_over += 1
        else:
            yield path


def _is_result(path: Path) -> bool:
    """Whether the report of an image beside this file says that the file is one of its results."""
    name = path.name
    stems = [name[:place] for place, letter in enumerate(name) if letter == "."]
    return any(name in owned(path.with_name(stem)) for stem in stems if stem.strip("."))


def _with_targets(names: dict[str, Path], out: Path) -> list[Job]:
    names = {source: name.with_name(_short(name.name)) for source, name in names.items()}
    plain = {source: name.with_name(_stem(name)) for source, name in names.items()}
    stems: dict[str, int] = {}
    for stem in plain.values():
        stems[str(stem).casefold()] = stems.get(str(stem).casefold(), 0) + 1
    choices = {}
    for source, name in names.items():
        alone = stems[str(plain[source]).casefold()] == 1
        choices[source] = (out / plain[source], out / name) if alone else (out / name, out / plain[source])
    # What has results stays where they are, also when an image of the same name has come or gone.
    there = {source: place for source in names for place in reversed(choices[source]) if _is_of(place, source)}
    targets: dict[str, Path] = {}
    taken: set[str] = set()
    for source in (*there, *(source for source in names if source not in there)):
        target = base = there.get(source, choices[source][0])
        number = 2
        while str(target).casefold() in taken:
            target, number = base.with_name(f"{base.name}-{number}"), number + 1
        taken.add(str(target).casefold())
        targets[source] = target
    return [Job(source, targets[source]) for source in names]


def _is_of(place: Path, source: str) -> bool:
    """Whether the results of this image are at this place."""
    found = own_report(place).get("image_file")
    return isinstance(found, dict) and found.get("path") == (source if source == "-" else os.path.abspath(source))


def _stem(name: Path) -> str:
    """Without the suffix, unless nothing but dots would be left."""
    stem, _ = os.path.splitext(name.name)
    return stem if stem.strip(".") else name.name


def _short(name: str) -> str:
    """A name that has room for the endings of the results: file systems take 255 bytes."""
    if len(os.fsencode(name)) <= 170:
        return name
    stem, suffix = os.path.splitext(name)
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
    return f"{cut(stem, 150)}-{digest}{suffix[:8]}"


def cut(text: str, most: int) -> str:
    """At most so many bytes of a text, without half a character at the end."""
    return os.fsencode(text)[:most].decode(errors="ignore")


# --- reading -------------------------------------------------------------------------------------


def read_source(path: str) -> Source:
    """Which picture lies there; standard input is read whole, a file only for its digest.

    Raises:
        ImageError: it cannot be read.
    """
    if path == "-":
        data = _standard_input()
        return Source("-", hashlib.sha256(data).hexdigest(), data)
    return Source(os.path.abspath(path), file_digest(path), None)


def file_digest(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file of an image.

    Raises:
        ImageError: it cannot be read, or is no file.
    """
    from ldznet.images.reading import open_path

    digest = hashlib.sha256()
    with open_path(path) as file:
        try:
            while chunk := file.read(2**20):
                digest.update(chunk)
        except OSError as why:
            raise ImageError(f"{os.fspath(path)} cannot be read: {why.strerror}. Check the disk.") from why
    return digest.hexdigest()


def _standard_input() -> bytes:
    try:
        if sys.stdin is None:
            raise ImageError(
                "Standard input is closed, so there is no image in it. Leave the - out, or pipe one in."
            )
        stream: BinaryIO = sys.stdin.buffer
        given = stream.read(MOST_PIPED + 1)
    except OSError as why:
        raise ImageError(f"Standard input cannot be read: {why.strerror}. Pipe an image into it.") from why
    if len(given) > MOST_PIPED:
        raise ImageError(
            f"Standard input holds more than {MOST_PIPED >> 20:,} MB, which is no image file. Pipe a single one "
            "into it."
        )
    return given
