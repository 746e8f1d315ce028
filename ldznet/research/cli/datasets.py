"""Where a dataset lies that the command line calls by its name, and what to do where it does not.

Nothing is downloaded: none of them may be passed on, and their places change (docs/evaluation.md says more).
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path

from ldznet.errors import OptionError

# Where a dataset is looked for, from the folder in which the program runs.
PLACES = {
    "phrasecut": (Path("data/VGPhraseCut_v0"), Path("VGPhraseCut_v0"), Path("phrasecut")),
    "aigi": (Path("data/AIGI"), Path("AIGI"), Path("aigi")),
}
# Errors are one line; docs/evaluation.md shows the same as a tree.
_LAYOUTS = {
    "phrasecut": "PhraseCut is not part of ldznet. Get the annotations with download_dataset.py of "
    "https://github.com/ChenyunWu/PhraseCutDataset (where its links are dead, issue 6 there names a zip), and the "
    "images of Visual Genome 1.2, about 11 GB, whose addresses are in image_data_split.json. Lay them out as "
    "{0}/image_data_split.json, {0}/name_att_rel_count.json, {0}/refer_test.json (to train also refer_train.json "
    "and refer_miniv.json) and {0}/images/<image_id>.jpg",
    "aigi": "AIGI is not part of ldznet. The README of https://github.com/koutilya-pnvr/LD-ZNet has the link to "
    "its 100 images with 214 captions. How its files are named is written nowhere, so one of three forms is read: "
    "{0}/<image>.jpg with a mask {0}/<image>_<caption>.png for each caption; {0}/<image>.jpg with "
    "{0}/<image>.json as labelme writes it; or {0}/annotations.json as COCO's, the images beside it or in "
    "{0}/images/",
}


def add_place(parser: argparse.ArgumentParser, named: Collection[str] = tuple(PLACES)) -> None:
    """The flag that says where one of the `named` datasets lies."""
    places = "; ".join(f"{name} in {PLACES[name][0]}" for name in named)
    parser.add_argument(
        "--data",
        dest="folder",
        type=Path,
        metavar="FOLDER",
        help=f"where the dataset lies that is called by its name (default: {places})",
    )


def find_dataset(
    name: str, folder: Path | None, known: Collection[str], named: Collection[str] = tuple(PLACES)
) -> Path | None:
    """Where a dataset lies that is one of the `named`, or a path; `folder` is where the user says it lies.

    None for names that are `known` and need no files.

    Raises:
        OptionError: a folder is given for what is a path itself, or the path does not exist.
        DatasetError: nothing lies where the named dataset is looked for.
    """
    if name not in named:
        if folder is not None:
            raise OptionError(
                f"--data says where {' or '.join(named)} lies, but {name} needs no such place. Leave one of the "
                "two out."
            )
        if name in known:
            return None
        if not Path(name).exists():
            names = ", ".join((*named, *known))
            raise OptionError(f"{name} does not exist. Give a dataset's folder, or one of {names}.")
        return Path(name)
    places = PLACES[name] if folder is None else (folder,)
    place = next((place for place in places if place.exists()), None)
    if place is not None and (name != "phrasecut" or is_phrasecut(inner_phrasecut(place))):
        return place
    from ldznet.research.datasets.samples import DatasetError

    looked = f"Nothing lies at {', '.join(map(str, places))}"
    raise DatasetError(
        f"{looked if place is None else f'{place} holds none of its files'}. "
        f"{_LAYOUTS[name].format(place or places[0])}; or say where it lies: --data FOLDER (docs/evaluation.md)."
    )


def is_phrasecut(folder: Path) -> bool:
    """Whether some of PhraseCut's files are there, and be it half of them."""
    names = ("image_data_split*.json", "name_att_rel_count.json", "refer_*.json")
    return folder.is_dir() and any(any(folder.glob(name)) for name in names)


def inner_phrasecut(folder: Path) -> Path:
    """The folder itself, or the one in it that holds PhraseCut's files, as their repository lays them out."""
    inner = (folder / "VGPhraseCut_v0", folder / "data" / "VGPhraseCut_v0")
    return folder if is_phrasecut(folder) else next(filter(is_phrasecut, inner), folder)
