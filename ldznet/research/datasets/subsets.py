"""PhraseCut's subsets, by which its results are broken down: how a phrase is made, how frequent, how large.

Most of them follow from the dataset's own files. Those of `WORDS` need lists of words that its authors keep in
their program, utils/subset.py; that has no licence, so it is not copied here. Where it lies in the dataset's
folder, or where their repository has it, its lists are read as text; nothing in it is run.

    <folder>/name_att_rel_count.json    frequencies of names and attributes
    <folder>/subset.py                  the lists; or <folder>/../../utils/subset.py, as in their repository

Nothing here knows of images. Source: Wu et al., CVPR 2020, github.com/ChenyunWu/PhraseCutDataset utils/subset.py.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldznet.research.datasets.samples import DatasetError, bad_json, read_json

_NAME_RANKS, _ATTRIBUTE_RANKS = (20, 100, 500), (20, 100, 200)
# Subset -> the name of its list. t_obj is what is not t_stuff.
WORDS: Mapping[str, str] = {
    "c_coco": "coco",
    "t_stuff": "stuff_names",
    **{
        f"a_{kind}": f"att_{kind}"
        for kind in ("color", "shape", "material", "texture", "state", "adj", "noun", "loc", "count", "bad")
    },
}


@dataclass(frozen=True)
class PhraseStructure:
    """What a task says that its phrase is made of; what means nothing is left empty."""

    name: tuple[str, ...]  # one, or none
    attributes: tuple[str, ...]
    relations: tuple[str, ...]  # the predicates
    kind: str  # what tells the thing from others: name, attribute, relation or verbose

    @classmethod
    def of(cls, structure: object) -> PhraseStructure:
        """The task's "phrase_structure"."""
        known: Mapping[str, Any] = structure if isinstance(structure, Mapping) else {}
        pairs = _list(known.get("relation_descriptions"))
        return cls(
            _texts([known.get("name")]),
            _texts(known.get("attributes")),
            _texts([pair[0] for pair in pairs if _list(pair)]),
            str(known.get("type", "")),
        )


class Subsets:
    """Says in which subsets a task is. `left_out`: which cannot be told, and why."""

    def __init__(
        self,
        ranks: tuple[Mapping[str, int], Mapping[str, int]] | None,
        words: Mapping[str, frozenset[str]] | None,
    ) -> None:
        self._ranks, self._words = ranks, words
        notes = []
        if ranks is None:
            ranked = ("c20 to c500+", "a20 to a200+")
            notes.append(_note(ranked, "they need name_att_rel_count.json, which is not in the folder"))
        if words is None:
            why = "they need its authors' lists of words: put utils/subset.py of their repository into the folder"
            notes.append(_note((*WORDS, "t_obj"), why))
        self.left_out = tuple(notes)

    @classmethod
    def read(cls, folder: Path) -> Subsets:
        """What lies in a folder of PhraseCut.

        Raises:
            DatasetError: a file is there and cannot be read.
        """
        counts = folder / "name_att_rel_count.json"
        lists = word_lists_file(folder)
        return cls(_ranks(counts) if counts.is_file() else None, _word_lists(lists) if lists else None)

    def of(self, phrase: PhraseStructure, instances: int, share: float, coco: bool) -> tuple[str, ...]:
        """`share` is the mask's of the image, whichever library drew it; `coco`: the image is one of COCO's."""
        attributes, relations = phrase.attributes, phrase.relations
        rules = {
            "all": True,
            "d_cocotv": coco,
            "d_notcocotv": not coco,
            "p_att": len(attributes) > 0,
            "p_attm": len(attributes) > 1,
            "p_rel": len(relations) > 0,
            "p_relm": len(relations) > 1,
            "p_att_rel": bool(attributes and relations),
            "p_name": phrase.kind == "name",
            "p_att+": phrase.kind == "attribute",
            "p_rel+": phrase.kind == "relation",
            "p_verbose": phrase.kind == "verbose",
            "i_single": instances == 1,
            "i_multi": 1 < instances < 5,
            "i_many": instances >= 5,
            "s_small": share < 0.02,
            "s_mid": 0.02 <= share <= 0.2,
            "s_large": share > 0.2,
        }
        held = tuple(label for label, holds in rules.items() if holds)
        return (*held, *self._by_rank(phrase), *self._by_words(phrase))

    def _by_rank(self, phrase: PhraseStructure) -> list[str]:
        """A phrase without attributes counts as one with the rarest: so the original."""
        if self._ranks is None:
            return []
        names, adjectives = self._ranks
        name = min([names.get(word, _NAME_RANKS[-1]) for word in phrase.name], default=_NAME_RANKS[-1])
        attribute = min(
            [adjectives.get(word, _ATTRIBUTE_RANKS[-1]) for word in phrase.attributes],
            default=_ATTRIBUTE_RANKS[-1],
        )
        return _rank_subsets("c", name, _NAME_RANKS) + _rank_subsets("a", attribute, _ATTRIBUTE_RANKS)

    def _by_words(self, phrase: PhraseStructure) -> list[str]:
        """The name is looked up whole in COCO's names, and for stuff any part of it will do: so the original."""
        if self._words is None:
            return []
        name = "".join(phrase.name)
        stuff = any(word in name for word in self._words["t_stuff"])
        found = ["t_stuff" if stuff else "t_obj"]
        found += ["c_coco"] if name in self._words["c_coco"] else []
        kinds = (label for label in WORDS if label.startswith("a_"))
        return found + [label for label in kinds if self._words[label].intersection(phrase.attributes)]


def _note(subsets: Sequence[str], why: str) -> str:
    return f"left out are the subsets {', '.join(subsets)}: {why}"


def _rank_subsets(letter: str, rank: int, steps: tuple[int, int, int]) -> list[str]:
    """Rank 0 is the most frequent -> for example c21-100, c100, c500."""
    low, middle, high = steps
    if rank < low:
        first = f"{letter}{low}"
    elif rank < middle:
        first = f"{letter}{low + 1}-{middle}"
    elif rank < high:
        first = f"{letter}{middle + 1}-{high}"
    else:
        first = f"{letter}{high}+"
    return [first] + [f"{letter}{step}" for step in (middle, high) if rank < step]


def _ranks(path: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Rank by frequency of every name and every attribute, from 0."""
    counts = read_json(path)
    try:
        names, attributes = ({str(word): rank for rank, (word, _) in enumerate(counts[k])} for k in ("cat", "att"))
    except (TypeError, KeyError, ValueError) as error:
        raise bad_json(path, f"it has no lists cat and att of words with counts: {error}") from error
    return names, attributes


def word_lists_file(folder: Path) -> Path | None:
    """The authors' subset.py in PhraseCut's folder, or where it lies in a clone of their repository."""
    places = [folder / "subset.py"]
    theirs = folder / ".." / ".." / "utils"
    if (theirs / "refvg_loader.py").is_file():  # so it is their repository, not another with that name in it
        places.append(theirs / "subset.py")
    return next((path for path in places if path.is_file()), None)


def _word_lists(path: Path) -> dict[str, frozenset[str]]:
    """Subset -> its words, from assignments of plain lists in the authors' program."""
    try:
        found = {
            target.id: ast.literal_eval(line.value)
            for line in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(line, ast.Assign)
            for target in line.targets
            if isinstance(target, ast.Name) and target.id in WORDS.values()
        }
        lists = {subset: frozenset(found[name]) for subset, name in WORDS.items()}
        if not all(isinstance(word, str) for words in lists.values() for word in words):
            raise ValueError("a list holds what is no word")
    except (OSError, ValueError, SyntaxError, RecursionError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{os.fspath(path)!r} does not hold PhraseCut's lists of words ({type(error).__name__}: {error}). Get "
            "utils/subset.py of github.com/ChenyunWu/PhraseCutDataset as it is, or take the file away."
        ) from error
    return lists


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _texts(values: object) -> tuple[str, ...]:
    return tuple(value for value in _list(values) if isinstance(value, str))
