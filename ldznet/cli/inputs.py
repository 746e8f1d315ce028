"""Find the images of a command and the place for the results of each.

Files that the command has written itself are left out, whether they are in a folder, match a pattern, or were
listed by a shell.
"""

from __future__ import annotations

import glob
import hashlib
import importlib.util
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ldznet.cli.reports import BATCH_FOLDER, own_report, owned_names
from ldznet.errors import ImageError, OptionError

LARGEST_PIPED = 2**30  # bytes: the largest image that is read, in four channels of 16 bits
# What a folder is searched for. The names stand in one text because a list of them would fill a page.
SUFFIXES = frozenset(
    f".{name}"
    for name in "png jpg jpeg jpe jfif webp bmp gif tif tiff avif jp2 ppm pgm pbm tga ico".split()  # noqa: SIM905
)
HEIC_SUFFIXES = frozenset({".heic", ".heif", ".hif"})  # read where pillow-heif is installed
# Images that nothing here reads; they are named, since people expect a mask for them.
UNREADABLE_SUFFIXES = frozenset(
    f".{name}"
    for name in (  # noqa: SIM905
        "jxl svg psd psb xcf kra exr hdr "
        "raw dng cr2 cr3 crw nef nrw arw srf sr2 orf rw2 raf pef srw x3f 3fr iiq erf mrw rwl"
    ).split()
)


@dataclass(frozen=True)
class Job:
    """One image and the place of its results."""

    source: str  # a path, or "-"
    target: Path  # without suffix


@dataclass
class Inputs:
    """The images that the arguments of a command name, and what was left out."""

    jobs: list[Job] = field(default_factory=list)  # with distinct targets, in a fixed order
    closed_folders: list[tuple[str, str]] = field(default_factory=list)  # a folder, and why it cannot be read
    unreadable: list[str] = field(default_factory=list)  # images in folders, of kinds that Pillow does not read
    own_results: int = 0  # files that this command has written

    @property
    def left_out(self) -> int:
        """Return how many files and folders were left out."""
        return len(self.closed_folders) + len(self.unreadable) + self.own_results


@dataclass(frozen=True)
class Source:
    """The file of an image."""

    path: str  # absolute, or "-"
    sha256: str
    data: bytes | None  # of standard input, which can be read only once


def find_inputs(arguments: Sequence[str], out: Path, recursive: bool) -> Inputs:
    """Return all images that the arguments name.

    Raises:
        OptionError: an argument is empty. ImageError: a folder or a pattern holds no image.
    """
    inputs = Inputs()
    names: dict[str, Path] = {}  # source -> its name below the folder of results, with suffix
    for text in arguments:
        if not text:
            raise OptionError(
                "One of the images is an empty text, perhaps a variable that is not set. Give a file, or . for "
                "the current folder."
            )
        if text == "-":
            names["-"] = Path("stdin")
        elif os.path.isdir(text):
            names |= _find_in_folder(Path(text), recursive, inputs)
        elif _is_pattern(text):
            matches = sorted(path for path in glob.glob(text, recursive=recursive) if os.path.isfile(path))
            if not matches:
                raise ImageError(f"No file matches {text}. Check the pattern.")
            names |= {path: Path(Path(path).name) for path in _without_results(matches, inputs)}
        else:
            names |= {path: Path(Path(path).name) for path in _without_results([text], inputs)}
    if not names and inputs.own_results and inputs.left_out == inputs.own_results:
        raise ImageError(
            f"All of the {inputs.own_results} files are results of this command. Give images; to segment a "
            "result, copy it to another folder."
        )
    inputs.jobs = _choose_targets(names, out)
    return inputs


def _is_pattern(text: str) -> bool:
    """Return whether the text is a pattern and neither a file nor an address."""
    from ldznet.images.sources import is_address

    return any(mark in text for mark in "*?[") and not os.path.exists(text) and not is_address(text)


def _find_in_folder(folder: Path, recursive: bool, inputs: Inputs) -> dict[str, Path]:
    """Return the images of a folder with their names below it; note in `inputs` what was left out."""
    before, files = inputs.left_out, []
    reads_heic = importlib.util.find_spec("pillow_heif") is not None
    suffixes = SUFFIXES | HEIC_SUFFIXES if reads_heic else SUFFIXES
    unreadable_suffixes = UNREADABLE_SUFFIXES if reads_heic else UNREADABLE_SUFFIXES | HEIC_SUFFIXES

    def note_closed(why: OSError) -> None:
        inputs.closed_folders.append((str(why.filename), why.strerror or str(why)))

    for root, folders, names in os.walk(folder, onerror=note_closed):
        # Hidden files are not the user's images: macOS writes "._photo.jpg" next to "photo.jpg" on other disks.
        visible = [Path(root, name) for name in names if not name.startswith(".")]
        files += [path for path in visible if path.suffix.lower() in suffixes]
        unreadable = (path for path in visible if path.suffix.lower() in unreadable_suffixes)
        inputs.unreadable += map(str, filter(_may_be_a_file, unreadable))
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
    inputs.unreadable.sort()
    images = _without_results(map(str, sorted(filter(_may_be_a_file, files))), inputs)
    names_below = {path: Path(path).relative_to(folder) for path in images}
    if not names_below and inputs.left_out == before:
        raise ImageError(f"The folder {folder} holds no images. Check the path, or search its folders with -r.")
    return names_below


def _may_be_a_file(path: Path) -> bool:
    """Return False for pipes and devices; reading reports what cannot be examined, such as a broken link."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


def _without_results(paths: Iterable[str], inputs: Inputs) -> Iterator[str]:
    """Yield the paths that are no results of this command, and count the others."""
    for path in paths:
        if _is_result(Path(path)):
            inputs.own_results += 1
        else:
            yield path


def _is_result(path: Path) -> bool:
    """Return whether a report says that the file is one of its results."""
    name, folder = path.name, path.parent
    if folder.name == BATCH_FOLDER:  # the report is one folder above
        name, folder = f"{BATCH_FOLDER}/{name}", folder.parent
    stems = [path.name[:place] for place, letter in enumerate(path.name) if letter == "."]
    return any(name in owned_names(folder / stem) for stem in stems if stem.strip("."))


def _choose_targets(names: dict[str, Path], out: Path) -> list[Job]:
    """Give each image a place below `out`, by its name without suffix where no other image has the same."""
    names = {source: name.with_name(_shorten(name.name)) for source, name in names.items()}
    plain = {source: name.with_name(_stem(name)) for source, name in names.items()}
    stems: dict[str, int] = {}
    for stem in plain.values():
        stems[str(stem).casefold()] = stems.get(str(stem).casefold(), 0) + 1
    choices = {}
    for source, name in names.items():
        alone = stems[str(plain[source]).casefold()] == 1
        choices[source] = (out / plain[source], out / name) if alone else (out / name, out / plain[source])
    # Results stay where they are, also when an image of the same name has come or gone.
    existing = {source: place for source in names for place in reversed(choices[source]) if _is_of(place, source)}
    targets: dict[str, Path] = {}
    used_targets: set[str] = set()
    for source in (*existing, *(source for source in names if source not in existing)):
        target = base = existing.get(source, choices[source][0])
        number = 2
        while str(target).casefold() in used_targets:  # file systems of Windows and macOS ignore case
            target, number = base.with_name(f"{base.name}-{number}"), number + 1
        used_targets.add(str(target).casefold())
        targets[source] = target
    return [Job(source, targets[source]) for source in names]


def _is_of(place: Path, source: str) -> bool:
    """Return whether the results of this image are at this place."""
    file = own_report(place).get("image_file")
    return isinstance(file, dict) and file.get("path") == (source if source == "-" else os.path.abspath(source))


def _stem(name: Path) -> str:
    """Return the name without suffix, unless nothing but dots would remain."""
    stem, _ = os.path.splitext(name.name)
    return stem if stem.strip(".") else name.name


def _shorten(name: str) -> str:
    """Return a name with room for the endings of the results: file systems allow 255 bytes."""
    # 85 bytes are left for endings such as ".mask.12-" with 40 bytes of a prompt, and for a number of the target.
    if len(os.fsencode(name)) <= 170:
        return name
    stem, suffix = os.path.splitext(name)
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
    return f"{cut(stem, 150)}-{digest}{suffix[:8]}"


def cut(text: str, most: int) -> str:
    """Return at most so many bytes of a text, without half a character at the end."""
    return os.fsencode(text)[:most].decode(errors="ignore")


# --- reading -------------------------------------------------------------------------------------


def read_source(path: str) -> Source:
    """Return the digest of an image file; standard input is read whole.

    Raises:
        ImageError: the file cannot be read.
    """
    if path == "-":
        data = _read_standard_input()
        return Source("-", hashlib.sha256(data).hexdigest(), data)
    return Source(os.path.abspath(path), file_digest(path), None)


def file_digest(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of an image file.

    Raises:
        ImageError: the file cannot be read, or is no file.
    """
    from ldznet.images.sources import open_path

    digest = hashlib.sha256()
    with open_path(path) as file:
        try:
            while chunk := file.read(2**20):
                digest.update(chunk)
        except OSError as why:
            raise ImageError(f"{os.fspath(path)} cannot be read: {why.strerror}. Check the disk.") from why
    return digest.hexdigest()


def _read_standard_input() -> bytes:
    """Return the bytes that are piped in."""
    try:
        if sys.stdin is None:
            raise ImageError("Standard input is closed, so it holds no image. Remove the -, or pipe one in.")
        stream: BinaryIO = sys.stdin.buffer
        data = stream.read(LARGEST_PIPED + 1)
    except OSError as why:
        raise ImageError(f"Standard input cannot be read: {why.strerror}. Pipe an image into it.") from why
    if len(data) > LARGEST_PIPED:
        raise ImageError(
            f"Standard input holds more than {LARGEST_PIPED >> 20:,} MB, which is no image file. Pipe in a single "
            "image."
        )
    return data
