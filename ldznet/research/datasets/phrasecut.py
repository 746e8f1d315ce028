"""PhraseCut: 345,486 phrases on 77,262 images of Visual Genome, as its authors' files lie on disk.

    <folder>/image_data_split.json    sizes of all images ("image_data_split3000.json" in its README)
    <folder>/refer_<split>.json       the tasks: phrase, its structure, polygons; splits train, val, test, miniv
    <folder>/name_att_rel_count.json  frequencies, for the subsets by rank; may be missing (see subsets.py)
    <folder>/images/<image_id>.jpg

The files of tasks hold up to 344 MB of polygons, several GB as Python objects, and each worker process would get
its own copy. So they are read once, a task at a time, and only the position of each task in its file is kept.

skip.json lists phrases without polygons, which are in no refer file; refer_input files have no polygons. Neither
is read.

Sources: Wu et al., CVPR 2020, github.com/ChenyunWu/PhraseCutDataset README.md and utils/refvg_loader.py; the
images left out: github.com/timojl/clipseg datasets/phrasecut.py. Written from the published description and
tried on files that the tests write, not on the original files.
"""

from __future__ import annotations

import json
import os
import re
from array import array
from collections.abc import Callable, Iterator, Mapping
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldznet.errors import OptionError
from ldznet.research.datasets.polygons import rasterize_pillow, rasterize_skimage
from ldznet.research.datasets.sample import Sample
from ldznet.research.datasets.samples import (
    DatasetError,
    OnProblem,
    Reader,
    SampleError,
    bad_json,
    check_outlines,
    check_phrase,
    check_size,
    read_sample_image,
)
from ldznet.research.datasets.skip_report import Skipped
from ldznet.research.datasets.subsets import PhraseStructure, Subsets

SPLITS = ("train", "val", "test", "miniv")
# Images whose annotations were made for another size; the codes of CLIPSeg and LD-ZNet leave out the same list.
WRONG_SIZES = frozenset(
    (
        *(61530, 61564, 150333, 150344, 150417, 150516, 285665, 285743, 285761, 285814, 286065, 286093),
        *(498010, 498042, 498187, 498246, 498269),
    )
)

# Characters read at once, and the longest task: more is not a task but a damaged file.
_CHUNK, _LONGEST_TASK = 2**20, 2**26


class PhraseCut(Reader):
    """The tasks of a split, those of one image next to each other; a sample's key is its task_id.

    `split` may be several with "_" between them, such as "val_miniv" (the val file does not hold miniv's).
    `both_masks`: give each sample, as `own_mask`, that of PhraseCut's own protocol in addition.

    Raises:
        DatasetError: the folder does not hold PhraseCut, or a file of it cannot be read.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        split: str = "train",
        *,
        on_problem: OnProblem = "skip",
        both_masks: bool = False,
    ) -> None:
        super().__init__(on_problem)
        self.both_masks = both_masks
        self._folder = Path(folder)
        self._files = [self._folder / f"refer_{name}.json" for name in _split_names(split)]
        self._images = _image_table(_sizes_file(self._folder))
        self._subsets = Subsets.read(self._folder)
        self.report.notes.update(self._subsets.notes)
        self._tasks = self._index()
        if not len(self._tasks):
            raise DatasetError(
                f"{os.fspath(self._folder)!r} has no task in the split {split} that can be used. {self.report}. "
                "Check that the files belong together."
            )

    def __len__(self) -> int:
        return len(self._tasks)

    def _index(self) -> NDArray[np.int64]:
        """Return (N, 4), in the order of the image ids: number of the file, first byte, bytes, image id."""
        rows, keys = array("q"), set[str]()
        for number, path in enumerate(self._files):
            for count, (start, length, task) in enumerate(_elements(path), start=1):
                name = f"{path.name}, task {count}"
                try:
                    image_id, key = self._check_task(task, name)
                    # Always, even where problems are refused: the published codes do the same.
                    if image_id in WRONG_SIZES:
                        text = f"{key}: its image {image_id} has another size than its annotations."
                        self.report.add(Skipped(key, "image left out by rule", text))
                        continue
                    if key in keys:
                        raise SampleError(
                            f"{name}: its task_id {key!r} occurred before, and would count twice. Remove one.",
                            reason="duplicate task",
                            name=f"{key} ({name})",
                        )
                except SampleError as error:
                    self.report.add(self._skip(error))
                    continue
                keys.add(key)
                rows.extend((number, start, length, image_id))
        tasks = np.array(rows, np.int64).reshape(-1, 4)
        # A stable sort keeps the order of the tasks of one image.
        return tasks[np.argsort(tasks[:, 3], kind="stable")]

    def _check_task(self, task: Any, name: str) -> tuple[int, str]:
        """Return image id and key of a task, or raise SampleError."""
        try:
            image_id, key = index(task["image_id"]), str(task["task_id"])
            phrase, _ = task["phrase"], task["Polygons"]
            if not isinstance(task["task_id"], str | int):
                raise TypeError(f"task_id is {task['task_id']!r}")
        except (TypeError, KeyError) as error:
            raise SampleError(
                f"{name}: it has no proper task_id, image_id, phrase and Polygons ({error!r}). Get the file "
                "again; those called refer_input have no polygons.",
                reason="bad task",
                name=name,
            ) from error
        check_phrase(phrase, key)
        if self._image(image_id) is None:
            raise SampleError(
                f"{key}: its image {image_id} is not in image_data_split.json, so its size is unknown. Get "
                "files that belong together.",
                reason="unknown image",
                name=key,
            )
        return image_id, key

    def _image(self, image_id: int) -> tuple[int, int, bool] | None:
        """Return height, width, and whether the image is one of COCO's; None for an unknown image."""
        # numpy cannot compare larger numbers.
        if not abs(image_id) < 2**63:
            return None
        at = int(np.searchsorted(self._images[:, 0], image_id))
        if at == len(self._images) or self._images[at, 0] != image_id:
            return None
        _, height, width, coco = (int(value) for value in self._images[at])
        return height, width, bool(coco)

    def _read(self, at: int) -> Sample:
        number, start, length, image_id = (int(value) for value in self._tasks[at])
        task = _task_at(self._files[number], start, length, image_id)
        key, record = str(task["task_id"]), self._image(image_id)
        assert record is not None  # _check_task left out the others
        size = record[:2]
        path = self._folder / "images" / f"{image_id}.jpg"
        image = read_sample_image(path, key, as_stored=True)  # as both published codes read it
        check_size(image, size, key)
        try:
            polygons = [polygon for instance in task["Polygons"] for polygon in instance]
        except TypeError:
            polygons = [None]
        outlines = check_outlines(polygons, key)
        raster = rasterize_skimage(outlines, size)
        return Sample(
            key=key,
            image=image,
            phrase=check_phrase(task["phrase"], key),
            mask=raster.mask,
            categories=self._categories(task, float(raster.mask.mean()), record[2]),
            source=os.fspath(path),
            faults=tuple(map(str, raster.faults)),
            own_mask=rasterize_pillow(outlines, size).mask if self.both_masks else None,
        )

    def _categories(self, task: Mapping[str, Any], share: float, coco: bool) -> dict[str, tuple[str, ...]]:
        """Return name, attributes, relations and subsets of the phrase; `share` is the mask's of the image."""
        phrase = PhraseStructure.of(task.get("phrase_structure"))
        return {
            "name": phrase.name,
            "attributes": phrase.attributes,
            "relations": phrase.relations,
            "subset": self._subsets.of(phrase, len(task["Polygons"]), share, coco),
        }


def _split_names(split: str) -> list[str]:
    """Return the names of the splits in a text such as "val_miniv"."""
    names = split.split("_")
    if not set(names) <= set(SPLITS) or len(set(names)) != len(names):
        raise OptionError(
            f"split is {split!r}, but PhraseCut has the splits {', '.join(SPLITS)}: give one of them, or several "
            'with "_" between them, such as "val_miniv".'
        )
    return names


def _sizes_file(folder: Path) -> Path:
    """Return the file of image sizes; raise DatasetError if the folder is not PhraseCut's, or incomplete."""
    # The second name is the one in the repository's README.
    names = ("image_data_split.json", "image_data_split3000.json")
    sizes = next((folder / name for name in names if (folder / name).is_file()), None)
    if sizes is not None and (folder / "images").is_dir():
        return sizes
    missing = [names[0]] * (sizes is None) + ["the folder images"] * (not (folder / "images").is_dir())
    raise DatasetError(
        f"{os.fspath(folder)!r} does not hold PhraseCut: {' and '.join(missing)} "
        f"{'are' if len(missing) > 1 else 'is'} missing. Give VGPhraseCut_v0, complete (docs/evaluation.md)."
    )


def _image_table(path: Path) -> NDArray[np.int64]:
    """Return (N, 4) by ascending id: image id, height, width, 1 if the image is one of COCO's."""
    values = array("q")
    for _, _, row in _elements(path):
        try:
            values.extend(index(row[name]) for name in ("image_id", "height", "width"))
            values.append(row.get("coco_id") is not None)
        except (TypeError, KeyError, OverflowError):
            del values[len(values) // 4 * 4 :]  # _check_task reports the tasks of this image
    table = np.array(values, np.int64).reshape(-1, 4)
    # Of an image that is listed twice the first row counts.
    return table[np.unique(table[:, 0], return_index=True)[1]]


# --- large JSON lists, an element at a time --------------------------------------------------------------

_SEPARATOR = re.compile(r"\s*([\[,\]])\s*")


def _elements(path: Path) -> Iterator[tuple[int, int, Any]]:
    """Yield the elements of a JSON list, one at a time in memory: first byte, bytes, value."""
    try:
        # newline="" keeps every character, so that positions in bytes are right.
        with open(path, encoding="utf-8", newline="") as file:
            yield from _scan(file.read)
    except FileNotFoundError as error:
        raise DatasetError(
            f"{os.fspath(path)!r} does not exist, so the split cannot be read. Download it, or name another split."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise bad_json(path, error) from error


def _scan(read: Callable[[int], str]) -> Iterator[tuple[int, int, Any]]:
    """Parse a JSON list from a file's `read`; see `_elements`."""
    decode = json.JSONDecoder().raw_decode
    text, at, byte, count, chunk = read(_CHUNK), 0, 0, 0, _CHUNK
    while True:
        try:
            separator = _SEPARATOR.match(text, at)
            if not separator or separator[1] != ("," if count else "["):
                if separator and separator[1] == "]" and count:
                    return
                raise ValueError("it is not a list" if not count else f"after element {count}, at byte {byte}")
            if not count and text[separator.end() : separator.end() + 1] == "]":
                return
            value, end = decode(text, separator.end())
        except ValueError as error:
            # The element may only be cut at the end of the chunk. Chunks double, so that the work stays linear.
            more = read(chunk) if len(text) - at < _LONGEST_TASK else ""
            if not more:
                raise ValueError(f"after {count} elements, at byte {byte}: {error}") from error
            text, at, chunk = text[at:] + more, 0, 2 * chunk
            continue
        start = byte + _bytes(text, at, separator.end())
        byte = start + _bytes(text, separator.end(), end)
        at, count, chunk = end, count + 1, _CHUNK
        yield start, byte - start, value


def _bytes(text: str, start: int, end: int) -> int:
    """Return how many bytes of UTF-8 a part of the text has."""
    return end - start if text.isascii() else len(text[start:end].encode())


def _task_at(path: Path, start: int, length: int, image_id: int) -> Any:
    """Read a task again at its position, or raise DatasetError if the file has changed."""
    try:
        with open(path, "rb") as file:
            file.seek(start)
            task = json.loads(file.read(length))
        if task["image_id"] != image_id:
            raise ValueError("it holds another task at this position")
        return task
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DatasetError(
            f"{os.fspath(path)!r} has changed since the dataset was opened ({error}). Do not change the "
            "files while they are in use, and start again."
        ) from error
