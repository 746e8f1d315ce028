"""What every dataset reader gives: samples, read one at a time, or why there is none (left_out.py counts that).

A reader is a sequence. Opening it reads annotations only; an image is read when its index is asked for, and
nothing of it is kept. `reader[index]` is a Sample, or a Skipped that says why there is none: a value, not an
exception, so that it passes through a DataLoader's worker processes and nobody scores it by mistake. Readers
can be pickled and keep no open files. For evaluation, index i belongs to process i % world.

    image   (H, W, 3)  uint8, RGB
    mask    (H, W)     bool; True is what the phrase names
    pixels  (3, S, S)  float32 in [-1, 1], the square that the network sees
    target  (S, S)     bool, the mask on that square

All chance comes from a generator that is given. Nothing here knows of the layout of any dataset.

Sources of crop and squares: PNVR et al., ICCV 2023, github.com/koutilya-pnvr/LD-ZNet ldm_seg/data/phrasecut.py,
after Lüddecke and Ecker, CVPR 2022, github.com/timojl/clipseg datasets/phrasecut.py.
"""

from __future__ import annotations

import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from ldznet.errors import ImageError, LdznetError, OptionError
from ldznet.images.reading import load_image
from ldznet.inference.prompts import LONGEST_PROMPT, TEMPLATES
from ldznet.masks.pipeline import Mask
from ldznet.research.datasets.sample import Sample
from ldznet.research.datasets.skip_report import Report, Skipped

OnProblem = Literal["skip", "refuse"]
TRIES, LEAST_SHARE = 50, 0.05  # of the random crop


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
        """What was left out when the dataset was opened; what is met later is in the Skipped given then."""

    def __len__(self) -> int:
        """How many can be asked for, those that will turn out to be unreadable included."""

    def __getitem__(self, index: int) -> Sample | Skipped:
        """Read one; always the same for the same files."""


def usable(samples: Samples, report: Report, indices: Iterable[int] | None = None) -> Iterator[Sample]:
    """Read samples one by one, all or those of some indices; what has to be left out goes into `report`."""
    for index in range(len(samples)) if indices is None else indices:
        found = samples[index]
        report.add(found)
        if isinstance(found, Sample):
            yield found


class Reader(ABC):
    """What the readers share: what becomes of a problem."""

    def __init__(self, on_problem: OnProblem, keep_empty: bool) -> None:
        if on_problem not in ("skip", "refuse"):
            raise OptionError(
                f"on_problem is {on_problem!r}, but what is damaged can only be left out or end the run: give "
                '"skip" (default) or "refuse".'
            )
        self.on_problem, self.keep_empty, self.report = on_problem, keep_empty, Report()

    @abstractmethod
    def __len__(self) -> int:
        """How many samples there are."""

    @abstractmethod
    def _read(self, at: int) -> Sample:
        """The sample at 0 <= at < len(self), or SampleError."""

    def __getitem__(self, index: int) -> Sample | Skipped:
        at = range(len(self))[index]  # IndexError ends a loop over a reader
        try:
            return self._checked(self._read(at))
        except SampleError as error:
            return self._skip(error)

    def _checked(self, sample: Sample) -> Sample:
        if sample.faults and self.on_problem == "refuse":
            raise SampleError(
                f"{sample.key}: parts of the outline mean nothing: {'; '.join(sample.faults)}. "
                "Mend the annotation.",
                reason="faulty outline",
                name=sample.key,
            )
        if not self.keep_empty and not sample.mask.any():
            said = f" ({'; '.join(sample.faults)})" if sample.faults else ""
            raise SampleError(
                f"{sample.key}: the mask of {sample.phrase!r} has no pixel{said}, so there is nothing to find. "
                "Mend the annotation, or keep such samples with keep_empty=True.",
                reason="empty mask",
                name=sample.key,
            )
        return sample

    def _skip(self, error: SampleError) -> Skipped:
        """What to give in the place of a sample, unless problems are refused."""
        if self.on_problem == "refuse":
            hint = 'Or leave out what is damaged: --on-problem skip (in Python on_problem="skip").'
            raise SampleError(f"{error} {hint}", reason=error.reason, name=error.name) from error
        return Skipped(error.name, error.reason, str(error))


# Parts of a sample


def read_sample_image(
    path: Path, name: str, *, as_stored: bool = False, background: tuple[int, int, int] = (255, 255, 255)
) -> NDArray[np.uint8]:
    """-> (H, W, 3) RGB; `as_stored` leaves it as it lies in the file, even if EXIF says to turn it."""
    try:
        return np.array(load_image(_unturned(path) if as_stored else path, background=background))
    except ImageError as error:
        if os.path.exists(path):
            raise SampleError(f"{name}: {error}", reason="unreadable image", name=name) from error
        raise SampleError(
            f"{name}: its image {os.fspath(path)!r} does not exist, perhaps because a download is not complete. "
            "Put the file there.",
            reason="missing image",
            name=name,
        ) from error


def _unturned(path: Path) -> Path | Image.Image:
    """The picture without EXIF, or its path where it cannot be read, for `load_image` to say why."""
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            plain = image.copy()
    except Exception:  # decoders raise almost anything on damaged files
        return path
    plain.info = {}
    return plain


def check_size(picture: NDArray[Any], size: tuple[int, int], name: str, what: str = "its image") -> None:
    """Raise SampleError unless the picture has the size (height, width) for which its annotations were made."""
    if picture.shape[:2] != size:
        raise SampleError(
            f"{name}: {what} is {picture.shape[1]} x {picture.shape[0]} pixels instead of {size[1]} x {size[0]}, "
            "so that image and mask would not lie on each other. Get the original file.",
            reason="wrong size",
            name=name,
        )


def check_phrase(phrase: object, name: str) -> str:
    """The phrase without spaces around it, or SampleError where it is none."""
    if isinstance(phrase, str) and 0 < len(phrase.strip()) <= LONGEST_PROMPT:
        try:
            phrase.encode()
        except UnicodeEncodeError:  # half a character
            pass
        else:
            return phrase.strip()
    raise SampleError(
        f"{name}: its phrase is {str(phrase)[:40]!r}, but it must be a text of 1 to {LONGEST_PROMPT} characters. "
        "Mend the annotation.",
        reason="bad phrase",
        name=name,
    )


def check_outlines(polygons: Any, name: str) -> list[list[tuple[float, float]]]:
    """Polygons of points (x, y), or SampleError where one cannot be read, as part of the mask would be missing."""
    try:
        outlines = [[(float(x), float(y)) for x, y in polygon] for polygon in polygons]
        if all(math.isfinite(value) for outline in outlines for point in outline for value in point):
            return outlines
    except (TypeError, ValueError, OverflowError):
        pass
    raise SampleError(
        f"{name}: its outline is not made of points [x, y] with finite coordinates. Mend the annotation.",
        reason="bad outline",
        name=name,
    )


def read_json(path: Path) -> Any:
    """What a JSON file holds, or DatasetError."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise bad_json(path, error) from error


def bad_json(path: Path, error: Exception | str) -> DatasetError:
    """The error to raise where a file of annotations cannot be read."""
    return DatasetError(
        f"{os.fspath(path)!r} cannot be read as JSON ({error}). It is cut or damaged, or another kind of file. "
        "Get it again."
    )


# What the network sees of a sample


class Example(NamedTuple):
    """A sample on the network's square; a DataLoader's default collation makes batches of it."""

    key: str
    pixels: NDArray[np.float32]  # (3, S, S) in [-1, 1]
    target: Mask  # (S, S)
    prompt: str  # the phrase in a template, or as it is


def training_example(sample: Sample, rng: np.random.Generator, size: int = 384) -> Example:
    """A random square crop around the thing, and a random one of the nine templates.

    For the same crops whatever the number of workers, make `rng` of (seed, epoch, index).
    """
    rows, columns = random_crop(sample.mask, rng)
    template = TEMPLATES[int(rng.integers(len(TEMPLATES)))]
    pixels, target = squares(sample.image[rows, columns], sample.mask[rows, columns], size)
    return Example(sample.key, pixels, target, template.format(sample.phrase))


def evaluation_example(sample: Sample, size: int = 384) -> Example:
    """The whole image stretched to a square, as CLIPSeg's protocol measures; the phrase as it is.

    PhraseCut's own protocol needs nothing of the kind: it measures `sample.mask` at the image's size.
    """
    return Example(sample.key, *squares(sample.image, sample.mask, size), sample.phrase)


def random_crop(mask: Mask, rng: np.random.Generator) -> tuple[slice, slice]:
    """Rows and columns of a square of side min(H, W).

    The first of 50 in which the mask has more pixels than 5 % of the image (not of the crop: so the released
    code, see find_crop), else the one of them that shows most.
    """
    height, width = mask.shape
    side = min(height, width)
    best, most = (slice(0, side), slice(0, side)), -1
    for _ in range(TRIES):
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        square = slice(top, top + side), slice(left, left + side)
        if (shown := int(np.count_nonzero(mask[square]))) > most:
            best, most = square, shown
        if shown > height * width * LEAST_SHARE:
            break
    return best


def squares(image: NDArray[np.uint8], mask: Mask, size: int) -> tuple[NDArray[np.float32], Mask]:
    """-> (3, S, S) in [-1, 1] and (S, S), stretched as the released code does.

    The image bilinear with align_corners and without antialiasing, the mask nearest.
    """
    levels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    levels = F.interpolate(levels, (size, size), mode="bilinear", align_corners=True)[0]
    target = torch.from_numpy(np.ascontiguousarray(mask, dtype=np.uint8))[None, None]
    target = F.interpolate(target, (size, size), mode="nearest")[0, 0]
    return (2 * (levels / 255) - 1).numpy(), target.bool().numpy()
