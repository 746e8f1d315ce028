"""AIGI and datasets like it: generated images with a mask for each caption, in three forms.

AIGI (100 images, 214 captions, PNVR et al., ICCV 2023) comes from a shared folder whose file names are not
documented, so the usual forms are read. None of this was tried on the original files.

    masks     <image>.<ext> with <image>_<caption>.png beside it, or in images/ and masks/; "_" is a space there
    coco      one JSON file, perhaps in annotations/; images beside it, in images/, or a folder up. The caption is
              the annotation's "caption" or "phrase", else its category's name; polygons, run lengths as numbers
              or as text; crowds like other annotations
    labelme   one JSON file for each image; polygons, rectangles, circles, masks; the caption is the label

All shapes of one caption on one image are one sample, whose key is "<image>/<caption>". Images are turned as
their EXIF says, as labelme shows them. Annotations are kept in memory, images and masks are not.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any, Literal

from ldznet.masks.checks import Mask
from ldznet.research.datasets.annotations import (
    draw_coco,
    draw_file,
    draw_labelme,
    has_two_levels,
    is_gray,
    is_mask,
)
from ldznet.research.datasets.sample import Sample
from ldznet.research.datasets.samples import (
    DatasetError,
    OnProblem,
    Reader,
    SampleError,
    bad_json,
    check_phrase,
    check_size,
    read_json,
    read_sample_image,
)

Form = Literal["masks", "coco", "labelme"]
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

Size = tuple[int, int]
# (size, name of the sample) -> mask, faults of its outlines
Draw = Callable[[Size, str], tuple[Mask, tuple[str, ...]]]


@dataclass(frozen=True)
class _Entry:
    """One caption on one image."""

    key: str
    image: Path
    phrase: str
    size: Size | None  # of the image, according to the annotations
    draw: Draw  # made of module-level functions, because workers pickle it


class Aigi(Reader):
    """The captions of a folder, those of one image next to each other; for COCO, `path` may be the JSON file.

    Raises:
        DatasetError: the folder does not exist, or holds no caption that can be used.
    """

    def __init__(self, path: str | os.PathLike[str], *, on_problem: OnProblem = "skip") -> None:
        super().__init__(on_problem)
        place = Path(path)
        if not place.exists():
            raise DatasetError(f"{os.fspath(place)!r} does not exist. Check the spelling.")
        read_entries = {"masks": self._masks, "coco": self._coco, "labelme": self._labelme}[_form(place)]
        self._entries: list[_Entry] = []
        # A caption that occurs twice would count twice.
        keys = set[str]()
        for entry in read_entries(place):
            if entry.key in keys:
                self._leave_out(
                    f"{entry.key}: this caption occurs twice. Remove one.", "duplicate caption", entry.key
                )
                continue
            keys.add(entry.key)
            self._entries.append(entry)
        # Samples of one image must be neighbors: its latent is computed once for all of them.
        self._entries.sort(key=lambda entry: (entry.image.name, entry.image))
        if not self._entries:
            raise DatasetError(
                f"{os.fspath(place)!r} has no caption that can be used. {self.report}. Its files must be of one "
                "of the forms masks, coco, labelme (see docs/evaluation.md)."
            )

    def __len__(self) -> int:
        return len(self._entries)

    def _read(self, at: int) -> Sample:
        entry = self._entries[at]
        image = read_sample_image(entry.image, entry.key)
        if entry.size is not None:
            check_size(image, entry.size, entry.key)
        # A mask whose image is missing looks like an image without masks.
        elif entry.image.suffix.lower() == ".png" and is_gray(image) and has_two_levels(image):
            raise SampleError(
                f"{entry.key}: {entry.image.name} is black and white, as masks are. If its image is missing, add "
                "that; if it is itself an image, save it as JPEG.",
                reason="not an image",
                name=entry.key,
            )
        mask, faults = entry.draw((image.shape[0], image.shape[1]), entry.key)
        categories = {"name": (entry.phrase,)}
        return Sample(entry.key, image, entry.phrase, mask, categories, os.fspath(entry.image), faults)

    def _leave_out(self, text: str, reason: str, name: str) -> None:
        self.report.add(self._skip(SampleError(text, reason=reason, name=name)))

    # --- the three forms; a fault in one entry does not affect the others --------------------------------

    def _masks(self, folder: Path) -> Iterator[_Entry]:
        """Yield an entry for every mask image that belongs to an image."""
        images, masks = _images_and_masks(folder)
        by_stem = {_stem(path): path for path in images}
        masks_of: dict[Path, list[Path]] = {path: [] for path in images}
        for path in masks:
            if owner := _owner(path, by_stem):
                masks_of[owner].append(path)
            else:
                self._leave_out(
                    f"{path.name}: its image is missing. Add that, or rename it to <image>_<caption>.png.",
                    "mask without an image",
                    path.name,
                )
        for image, parts in masks_of.items():
            if not parts:
                self._leave_out(
                    f"{image.name}: it has no mask. Add {image.stem}_<caption>.png.",
                    "image without a mask",
                    image.name,
                )
            for path in parts:
                caption = _stem(path)[len(_stem(image)) + 1 :].replace("_", " ")
                yield from self._entry(image, caption, None, partial(draw_file, path))

    def _coco(self, path: Path) -> Iterator[_Entry]:
        """Yield an entry for every caption on every image of a COCO file."""
        path = path if path.is_file() else _coco_file(path)
        document = read_json(path)
        try:
            images = {image["id"]: image for image in document["images"]}
            names = {category["id"]: category["name"] for category in document.get("categories", ())}
            annotations = list(document["annotations"])
        except (TypeError, KeyError, AttributeError) as error:
            raise bad_json(path, f"it has no proper images, categories and annotations: {error!r}") from error
        # Several annotations of one caption on one image are one sample.
        groups: dict[tuple[Any, str], list[Any]] = {}
        for number, annotation in enumerate(annotations, start=1):
            name = f"{path.name}, annotation {number}"
            try:
                image_id, segmentation = annotation["image_id"], annotation["segmentation"]
                _place(images[image_id], path)
                text = annotation.get("caption") or annotation.get("phrase")
                caption = check_phrase(text or names[annotation["category_id"]], name)
            except (TypeError, KeyError, ValueError, AttributeError) as error:
                self._leave_out(
                    f"{name}: it has no proper image, caption or segmentation ({error!r}). Correct the file.",
                    "bad annotation",
                    name,
                )
                continue
            except SampleError as error:
                self.report.add(self._skip(error))
                continue
            groups.setdefault((image_id, caption), []).append(segmentation)
        for (image_id, caption), segmentations in groups.items():
            image, size = _place(images[image_id], path)
            name = images[image_id]["file_name"]  # with its folder: two folders may hold images of one name
            yield from self._entry(image, caption, size, partial(draw_coco, segmentations), name)

    def _labelme(self, folder: Path) -> Iterator[_Entry]:
        """Yield an entry for every label in every JSON file of a folder."""
        for path in sorted(folder.glob("*.json")):
            try:
                document = read_json(path)
                size = (int(document["imageHeight"]), int(document["imageWidth"]))
                # labelme writes paths of its own system; a bare name lies beside the JSON file.
                image = path.parent / PureWindowsPath(document["imagePath"]).as_posix()
                image = image if image.is_file() else path.parent / image.name
                groups: dict[str, list[Any]] = {}
                for shape in document["shapes"]:
                    groups.setdefault(shape["label"], []).append(
                        {part: shape[part] for part in ("shape_type", "points", "mask") if part in shape}
                    )
            except (DatasetError, TypeError, KeyError, ValueError, AttributeError) as error:
                why = f"it has no proper imagePath, sizes and shapes: {error!r}"
                fault = error if isinstance(error, DatasetError) else bad_json(path, why)
                self._leave_out(f"{path.name}: {fault}", "bad JSON", path.name)
                continue
            for label, shapes in groups.items():
                yield from self._entry(image, label, size, partial(draw_labelme, shapes))

    def _entry(
        self, image: Path, caption: object, size: Size | None, draw: Draw, name: str = ""
    ) -> Iterator[_Entry]:
        """Yield the entry, or nothing if its caption cannot be used."""
        try:
            phrase = check_phrase(caption, image.name)
        except SampleError as error:
            self.report.add(self._skip(error))
        else:
            yield _Entry(f"{name or image.name}/{phrase}", image, phrase, size, draw)


# --- finding files -------------------------------------------------------------------------------------


def _form(place: Path) -> Form:
    """Return the form of the first JSON file that shows one; without any it is a folder of mask images."""
    if place.is_file():
        return "coco"
    # Broken files are skipped here; reading the dataset reports them.
    for path in (*sorted(place.glob("*.json")), *sorted((place / "annotations").glob("*.json"))):
        try:
            document = read_json(path)
        except DatasetError:
            continue
        if isinstance(document, dict) and "annotations" in document:
            return "coco"
        if isinstance(document, dict) and "shapes" in document:
            return "labelme"
    return "masks"


def _coco_file(folder: Path) -> Path:
    """Return the only JSON file of a COCO dataset."""
    files = sorted(folder.glob("*.json")) or sorted(_inner(folder, "annotations").glob("*.json"))
    if len(files) != 1:
        raise DatasetError(
            f"{os.fspath(folder)!r} has {len(files)} JSON files, and it is unknown which of them holds the "
            "annotations. Give the path of that file."
        )
    return files[0]


def _inner(folder: Path, name: str) -> Path:
    """Return the folder of that name inside `folder`, or `folder` itself if it has none."""
    return folder / name if (folder / name).is_dir() else folder


def _image_files(folder: Path) -> list[Path]:
    """List the image files; archives made on a Mac hold a hidden file for each, which is not an image."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES and not p.name.startswith("."))


def _images_and_masks(folder: Path) -> tuple[list[Path], list[Path]]:
    """Sort the image files of a folder into images and masks."""
    paths = _image_files(_inner(folder, "images"))
    if _inner(folder, "masks") != _inner(folder, "images"):
        return paths, _image_files(_inner(folder, "masks"))
    # Reversed, so that of "a.jpg" and "a.png" the first one counts as the image.
    by_stem = {_stem(path): path for path in reversed(paths)}
    masks = {path: owner for path in paths if path.suffix.lower() == ".png" and (owner := _owner(path, by_stem))}
    # "dog_2.png" between "dog.png" and "dog_2_tail.png" may be an image or a mask; only its pixels show which.
    unclear = set(masks.values()) & masks.keys()
    for path in unclear:
        if not is_mask(path):
            del masks[path]
    return [path for path in paths if path not in masks], list(masks)


def _stem(path: Path) -> str:
    """Return the name without suffix, normalized: some disks and archives store "é" as two characters."""
    return unicodedata.normalize("NFC", path.stem)


def _owner(mask: Path, images: Mapping[str, Path]) -> Path | None:
    """Return the image whose name, without suffix, is the longest beginning of the mask's name."""
    words = _stem(mask).split("_")
    # Longest first: "dog_2_tail" belongs to "dog_2" if that exists, else to "dog".
    stems = ("_".join(words[:number]) for number in range(len(words) - 1, 0, -1))
    return next((images[stem] for stem in stems if stem in images), None)


def _place(image: Mapping[str, Any], annotations: Path) -> tuple[Path, Size]:
    """Return the file and the size of one of COCO's images; its name may have Windows' backslashes."""
    name, size = image["file_name"], (int(image["height"]), int(image["width"]))
    folder = annotations.parent
    folders = [folder, _inner(folder, "images")]
    if folder.name == "annotations":
        folders += [folder.parent / "images", folder.parent]
    # First the name as it is: outside of Windows a backslash may be part of a file name.
    places = [place / spelling for spelling in (name, PureWindowsPath(name).as_posix()) for place in folders]
    return next((place for place in places if place.is_file()), places[1]), size
