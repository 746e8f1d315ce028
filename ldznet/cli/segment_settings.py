"""Read the command line of `segment` into what is the same for all of its images, before a model is loaded."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldznet import __version__
from ldznet.cli.flags import device_and_dtype, read_options, require_model
from ldznet.cli.inputs import Job, Source, file_digest
from ldznet.cli.outputs import OUTPUTS, batch_stem
from ldznet.errors import LdznetError, OptionError
from ldznet.methods.load import EMBEDDED, MODELS
from ldznet.options import MaskOptions, SegmentOptions

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class GivenMask:
    """The mask of --brush-mask."""

    path: Path
    sha256: str
    image: Image.Image  # RGB or RGBA

    def read(self, size: tuple[int, int]) -> Any:
        """Return the mask for an image of this size (height, width): (H, W) float32 in [0, 1]."""
        from ldznet.images.given_mask import read_given_mask

        return read_given_mask(self.image, size)

    @property
    def record(self) -> dict[str, str]:
        """Return what a report says about it."""
        return {"path": str(self.path), "sha256": self.sha256}


@dataclass(frozen=True)
class Settings:
    """The settings that all images of a command share."""

    prompts: tuple[str, ...]
    negatives: tuple[str, ...]
    segment: SegmentOptions
    mask: MaskOptions
    save: tuple[str, ...]
    given_mask: GivenMask | None
    model: Sequence[Any]  # differs between models, heads and ways to compute

    def key(self, source: Source) -> str:
        """Return a digest of an image and of everything that its results depend on."""
        options = [dataclasses.asdict(self.segment), dataclasses.asdict(self.mask)]
        brush = self.given_mask.sha256 if self.given_mask else None
        # The version belongs to it: another one may compute other masks.
        content = [source.sha256, __version__, self.prompts, self.negatives, options, self.save, brush, self.model]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def read_settings(parsed: argparse.Namespace, prompts: Sequence[str]) -> Settings:
    """Return everything that the command line says about results, checked.

    Raises:
        OptionError, PromptError: something in it is wrong.
    """
    from ldznet.inference.prompts import check_prompts

    require_model(parsed)
    texts, negatives = check_prompts(_split(prompts), _split(parsed.negative))
    mask = read_options(parsed, MaskOptions)
    if parsed.brush_mask is None and mask.brush in ("subtract", "intersect"):
        raise OptionError(
            f"--brush {mask.brush} needs a mask to work on: give its file with --brush-mask, or leave --brush out."
        )
    return Settings(
        texts,
        negatives,
        read_options(parsed, SegmentOptions),
        mask,
        _read_save(parsed.save, len(texts)),
        _read_given_mask(parsed.brush_mask) if parsed.brush_mask else None,
        model_key(parsed),
    )


def _split(prompts: Sequence[str]) -> list[str]:
    """Split each text at | into prompts, as the panel does; an empty text stays, so that the check refuses it."""
    from ldznet.inference.prompts import split_prompts

    texts = map(_decode, prompts)
    return [part for text in texts for part in split_prompts(text) or (text.strip("|"),)]


def _decode(text: str) -> str:
    """Return an argument as the user typed it, also where the locale is ASCII and Python could not decode it."""
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        return text  # not UTF-8 either: check_prompts says so


def _read_save(text: str, prompts: int) -> tuple[str, ...]:
    """Return the kinds of files that --save names."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    known = ", ".join(OUTPUTS)
    if unknown := [name for name in names if name not in OUTPUTS]:
        raise OptionError(f"--save does not know {', '.join(unknown)}: give some of {known}.")
    if not names:
        raise OptionError(f"--save names nothing to write: give some of {known}.")
    if prompts == 1 and set(names) == {"colors"}:
        raise OptionError(
            "--save colors draws a map of several prompts, but there is one. Give more, or save mask."
        )
    return names


def require_batch_names(jobs: Sequence[Job]) -> None:
    """Refuse --save batch for images whose masks the webui would confuse.

    The webui looks for FOLDER/STEM.* and takes any file that matches: for a.png also the mask of a.b.png.

    Raises:
        OptionError: names two such images.
    """
    by_stem: dict[Path, Job] = {}  # in lower case, as Windows and macOS compare names
    for job in jobs:
        other = by_stem.setdefault(job.target.with_name(batch_stem(job).casefold()), job)
        if other is not job:
            raise _batch_error(other, job)
    for path, job in by_stem.items():
        dots = [place for place, letter in enumerate(path.name) if letter == "." and place]
        for shorter in (path.with_name(path.name[:place]) for place in dots):
            if shorter in by_stem:
                raise _batch_error(by_stem[shorter], job)


def _batch_error(first: Job, second: Job) -> OptionError:
    """Return the error that names two images."""
    return OptionError(
        f"--save batch names masks as the webui looks for them, but it cannot tell those of {first.source} and "
        f"{second.source} apart. Rename one of the images, or use another --out for it."
    )


def _read_given_mask(path: Path) -> GivenMask:
    """Read the file of --brush-mask."""
    from ldznet.images.reading import read_image

    try:
        return GivenMask(path, file_digest(path), read_image(path))
    except LdznetError as why:
        raise OptionError(f"--brush-mask cannot be used. {why}") from why


def model_key(parsed: argparse.Namespace) -> list[Any]:
    """Return values that tell one model, and the way it computes, from another without loading it."""
    from ldznet.hosts.diffusers.model_files import model_files

    device, dtype = device_and_dtype(parsed)
    key: list[Any] = [parsed.random_weights, device.type, str(dtype), parsed.head_storage]
    key += [parsed.prediction, parsed.method]
    if parsed.random_weights:
        return key
    try:
        # Every head in models/ counts, since `auto` may choose another one when a head is added.
        heads = sorted(MODELS.glob("**/*.safetensors")) if parsed.head is None else [parsed.head]
        vae = [parsed.vae] if parsed.vae else []
        for path in (*model_files(parsed.checkpoint or EMBEDDED), *vae, *heads):
            # Size and time in place of a digest: reading gigabytes would take longer than a mask.
            status = path.stat()
            key += ["/".join(path.parts[-2:]), status.st_size, status.st_mtime_ns]
    except FileNotFoundError as why:
        raise OptionError(f"{why.filename} does not exist. Check the path.") from why
    except OSError as why:
        raise OptionError(f"{why.filename} cannot be read: {why.strerror}. Check its permissions.") from why
    return key
