"""The base of all dataset readers: samples that are read one at a time, and checks of their parts.

A reader is a sequence. Opening it reads annotations only; an image is read when its index is asked for, and is
not kept. `reader[index]` is a Sample, or a Skipped that says why it cannot be read: a value, not an exception, so
that it passes through a DataLoader's worker processes and is never scored by mistake. Readers can be pickled and
keep no open files. For evaluation, index i belongs to process i % world.

    image   (H, W, 3)  uint8, RGB
    mask    (H, W)     bool; True is what the phrase names

Nothing here knows of the layout of any dataset.
"""

from __future__ import annotations

import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ldznet.errors import ImageError, LdznetError, OptionError
from ldznet.images.reading import load_image
from ldznet.inference.prompts import LONGEST_PROMPT
from ldznet.research.datasets.sample import Sample
from ldznet.research.datasets.skip_report import Report, Skipped

OnProblem = Literal["skip", "refuse"]


class DatasetError(LdznetError):
    """A dataset cannot be read, or part of it is damaged."""


class SampleError(DatasetError):
    """One sample cannot be read; the others can."""

    def __init__(self, text: str, *, reason: str = "", name: str = "") -> None:
        super().__init__(text)
        self.reason, self.name = reason, name


class Samples(Protocol):
    """A dataset, as training and evaluation see it."""

    @property
    def report(self) -> Report:
        """Return what was left out when the dataset was opened; later faults are in the Skipped values."""

    def __len__(self) -> int:
        """Return the number of indices, including those of samples that will turn out to be unreadable."""

    def __getitem__(self, index: int) -> Sample | Skipped:
        """Read one sample; the same files always give the same."""


def usable(samples: Samples, report: Report, indices: Iterable[int] | None = None) -> Iterator[Sample]:
    """Yield the samples of all or some indices, one by one; what cannot be used is added to `report`."""
    for index in range(len(samples)) if indices is None else indices:
        sample = samples[index]
        report.add(sample)
        if isinstance(sample, Sample):
            yield sample


class Reader(ABC):
    """Base class of the readers of files: it decides what happens on a problem."""

    def __init__(self, on_problem: OnProblem) -> None:
        if on_problem not in ("skip", "refuse"):
            raise OptionError(
                f"on_problem is {on_problem!r}, but damaged samples can only be left out or end the run: give "
                '"skip" (default) or "refuse".'
            )
        self.on_problem, self.report = on_problem, Report()

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def _read(self, at: int) -> Sample:
        """Read the sample at 0 <= at < len(self), or raise SampleError."""

    def __getitem__(self, index: int) -> Sample | Skipped:
        at = range(len(self))[index]  # its IndexError ends a loop over a reader
        try:
            return self._checked(self._read(at))
        except SampleError as error:
            return self._skip(error)

    def _checked(self, sample: Sample) -> Sample:
        """Return the sample, or raise SampleError if nothing can be measured with it."""
        if sample.faults and self.on_problem == "refuse":
            raise SampleError(
                f"{sample.key}: parts of the outline are invalid: {'; '.join(sample.faults)}. "
                "Correct the annotation.",
                reason="faulty outline",
                name=sample.key,
            )
        if not sample.mask.any():
            faults = f" ({'; '.join(sample.faults)})" if sample.faults else ""
            raise SampleError(
                f"{sample.key}: the mask of {sample.phrase!r} has no pixel{faults}, so there is nothing to find. "
                "Correct the annotation.",
                reason="empty mask",
                name=sample.key,
            )
        return sample

    def _skip(self, error: SampleError) -> Skipped:
        """Return what takes the place of a sample, or raise the error where problems are refused."""
        if self.on_problem == "refuse":
            # The error ends the run, so it also says how to continue without such samples.
            hint = 'Or leave damaged samples out: --on-problem skip (in Python on_problem="skip").'
            raise SampleError(f"{error} {hint}", reason=error.reason, name=error.name) from error
        return Skipped(error.name, error.reason, str(error))


# --- parts of a sample -----------------------------------------------------------------------------------


def read_sample_image(
    path: Path, name: str, *, as_stored: bool = False, background: tuple[int, int, int] = (255, 255, 255)
) -> NDArray[np.uint8]:
    """Read an image as (H, W, 3) RGB; `as_stored` ignores the turn that its EXIF asks for.

    Raises:
        SampleError: the file is missing or cannot be read.
    """
    try:
        return np.array(load_image(_without_exif(path) if as_stored else path, background=background))
    except ImageError as error:
        if os.path.exists(path):
            raise SampleError(f"{name}: {error}", reason="unreadable image", name=name) from error
        raise SampleError(
            f"{name}: its image {os.fspath(path)!r} does not exist, perhaps because a download is not complete. "
            "Put the file there.",
            reason="missing image",
            name=name,
        ) from error


def _without_exif(path: Path) -> Path | Image.Image:
    """Return the image without EXIF; an unreadable one as its path, so that `load_image` says why."""
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            plain = image.copy()
    except Exception:  # decoders raise almost anything on damaged files
        return path
    # EXIF lies in `info`; without it nothing is turned.
    plain.info = {}
    return plain


def check_size(pixels: NDArray[Any], size: tuple[int, int], name: str, what: str = "its image") -> None:
    """Raise SampleError unless an image has the size (height, width) for which its annotations were made."""
    if pixels.shape[:2] != size:
        raise SampleError(
            f"{name}: {what} is {pixels.shape[1]} x {pixels.shape[0]} pixels instead of {size[1]} x {size[0]}, "
            "so image and mask would not match. Get the original file.",
            reason="wrong size",
            name=name,
        )


def check_phrase(phrase: object, name: str) -> str:
    """Return the phrase without spaces around it, or raise SampleError if it cannot be a prompt."""
    if isinstance(phrase, str) and 0 < len(phrase.strip()) <= LONGEST_PROMPT:
        try:
            phrase.encode()
        except UnicodeEncodeError:  # half of a surrogate pair
            pass
        else:
            return phrase.strip()
    raise SampleError(
        f"{name}: its phrase is {str(phrase)[:40]!r}, but it must be a text of 1 to {LONGEST_PROMPT} characters. "
        "Correct the annotation.",
        reason="bad phrase",
        name=name,
    )


def check_outlines(polygons: Any, name: str) -> list[list[tuple[float, float]]]:
    """Return polygons as points (x, y), or raise SampleError if a part of the mask would be missing."""
    try:
        outlines = [[(float(x), float(y)) for x, y in polygon] for polygon in polygons]
        if all(math.isfinite(value) for outline in outlines for point in outline for value in point):
            return outlines
    except (TypeError, ValueError, OverflowError):
        pass
    raise SampleError(
        f"{name}: its outline does not consist of points [x, y] with finite coordinates. Correct the annotation.",
        reason="bad outline",
        name=name,
    )


def read_json(path: Path) -> Any:
    """Read a JSON file, or raise DatasetError."""
    try:
        with open(path, encoding="utf-8-sig") as file:  # some programs write a byte order mark
            return json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise bad_json(path, error) from error


def bad_json(path: Path, error: Exception | str) -> DatasetError:
    """Return the error to raise where a file of annotations cannot be read."""
    return DatasetError(
        f"{os.fspath(path)!r} cannot be read as JSON ({error}). It is cut or damaged, or another kind of file. "
        "Get it again."
    )
