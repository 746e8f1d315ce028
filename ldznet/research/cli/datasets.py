"""Find the datasets that the command line calls by name, and explain how to get a missing one.

Nothing is downloaded: no dataset may be passed on, and their addresses change (docs/evaluation.md says more).
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path

from ldznet.errors import OptionError

# Usual folders of each dataset, relative to the folder in which the program runs.
PLACES = {
    "phrasecut": (Path("data/VGPhraseCut_v0"), Path("VGPhraseCut_v0"), Path("phrasecut")),
    "aigi": (Path("data/AIGI"), Path("AIGI"), Path("aigi")),
}
# In one line, for errors; docs/evaluation.md shows the same as a tree.
_LAYOUTS = {
    "phrasecut": "PhraseCut is not part of ldznet. Get the annotations with download_dataset.py of "
    "https://github.com/ChenyunWu/PhraseCutDataset (where its links are dead, issue 6 there names a zip), and the "
    "images of Visual Genome 1.2, about 11 GB, whose addresses are in image_data_split.json. Lay them out as "
    "{0}/image_data_split.json, {0}/name_att_rel_count.json, {0}/refer_test.json (to train also refer_train.json "
    "and refer_miniv.json) and {0}/images/<image_id>.jpg",
    "aigi": "AIGI is not part of ldznet. The README of https://github.com/koutilya-pnvr/LD-ZNet has the link to "
    "its 100 images with 214 captions. Its file names are not documented, so one of three forms is read: "
    "{0}/<image>.jpg with a mask {0}/<image>_<caption>.png for each caption; {0}/<image>.jpg with "
    "{0}/<image>.json as labelme writes it; or {0}/annotations.json in COCO's format, the images beside it or in "
    "{0}/images/",
}


def add_place(parser: argparse.ArgumentParser, dataset_names: Collection[str] = tuple(PLACES)) -> None:
    """Add the flag for the folder of one of the datasets in `dataset_names`."""
    places = "; ".join(f"{name} in {PLACES[name][0]}" for name in dataset_names)
    parser.add_argument(
        "--data",
        dest="folder",
        type=Path,
        metavar="FOLDER",
        help=f"folder of the dataset that DATA calls by name (default: {places})",
    )


def find_dataset(
    name: str, folder: Path | None, known: Collection[str], dataset_names: Collection[str] = tuple(PLACES)
) -> Path | None:
    """Return the folder of the dataset `name`, or `name` as a path; None for the names in `known`.

    `known` are names that need no files. `folder` is what the user gave for one of the `dataset_names`.

    Raises:
        OptionError: `folder` is given although `name` is a path or needs none, or the path does not exist.
        DatasetError: the named dataset is not in its folder.
    """
    # A path, or a name that needs no files.
    if name not in dataset_names:
        if folder is not None:
            raise OptionError(
                f"--data is the folder of {' or '.join(dataset_names)}, but {name} needs no folder. Leave one of "
                "the two out."
            )
        if name in known:
            return None
        if not Path(name).exists():
            names = ", ".join((*dataset_names, *known))
            raise OptionError(f"{name} does not exist. Give a dataset's folder, or one of {names}.")
        return Path(name)
    places = PLACES[name] if folder is None else (folder,)
    # The first folder that exists, even if it is incomplete: the error then names what is missing there.
    place = next((place for place in places if place.exists()), None)
    if place is not None and (name != "phrasecut" or is_phrasecut(inner_phrasecut(place))):
        return place
    # Imported here, because the command line is also parsed where the datasets' libraries are missing.
    from ldznet.research.datasets.samples import DatasetError

    fault = f"{place} holds none of its files" if place else f"{', '.join(map(str, places))}: no such folder"
    raise DatasetError(
        f"{fault}. {_LAYOUTS[name].format(place or places[0])}; or give another folder with --data FOLDER "
        "(docs/evaluation.md)."
    )


def is_phrasecut(folder: Path) -> bool:
    """Return whether a folder holds PhraseCut's files, or some of them."""
    names = ("image_data_split*.json", "name_att_rel_count.json", "refer_*.json")
    return folder.is_dir() and any(any(folder.glob(name)) for name in names)


def inner_phrasecut(folder: Path) -> Path:
    """Return the folder with PhraseCut's files: `folder` itself, or as in a clone of its authors' repository."""
    inner = (folder / "VGPhraseCut_v0", folder / "data" / "VGPhraseCut_v0")
    return folder if is_phrasecut(folder) else next(filter(is_phrasecut, inner), folder)
