"""PhraseCut's subsets, which break its results down: how a phrase is built, how frequent its words are, how large
its object is.

Ranks need one of the dataset's own files; without it the report says that they are missing:

    <folder>/name_att_rel_count.json    frequencies of names and attributes

The subsets by kinds of words (c_coco, t_stuff, a_color ...) need lists that exist only in its authors' program,
so they are not read. Nothing here knows of images.

Source: Wu et al., CVPR 2020, github.com/ChenyunWu/PhraseCutDataset utils/subset.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldznet.research.datasets.samples import bad_json, read_json

# Where the subsets by rank end: names and attributes among the 20, 100 ... most frequent.
_NAME_RANKS, _ATTRIBUTE_RANKS = (20, 100, 500), (20, 100, 200)


@dataclass(frozen=True)
class PhraseStructure:
    """The parts of a task's phrase; anything that has another type than expected is left empty."""

    name: tuple[str, ...]  # one, or none
    attributes: tuple[str, ...]
    relations: tuple[str, ...]  # the predicates
    kind: str  # what sets the object apart from others: name, attribute, relation or verbose

    @classmethod
    def of(cls, structure: object) -> PhraseStructure:
        """Read the task's "phrase_structure"."""
        parts: Mapping[str, Any] = structure if isinstance(structure, Mapping) else {}
        # Files of the dataset have wrong types in places, so every part is checked.
        pairs = _list(parts.get("relation_descriptions"))
        return cls(
            _texts([parts.get("name")]),
            _texts(parts.get("attributes")),
            _texts([pair[0] for pair in pairs if _list(pair)]),
            str(parts.get("type", "")),
        )


class Subsets:
    """Finds the subsets that a task belongs to. `notes` says which subsets cannot be found, and why."""

    def __init__(self, ranks: tuple[Mapping[str, int], Mapping[str, int]] | None) -> None:
        self._ranks = ranks
        self.notes: tuple[str, ...] = ()
        if ranks is None:
            self.notes = (
                "left out are the subsets c20 to c500+, a20 to a200+: they need name_att_rel_count.json, which is "
                "not in the folder",
            )

    @classmethod
    def read(cls, folder: Path) -> Subsets:
        """Read the frequencies in a folder of PhraseCut, if it has them.

        Raises:
            DatasetError: the file exists and cannot be read.
        """
        counts = folder / "name_att_rel_count.json"
        return cls(_ranks(counts) if counts.is_file() else None)

    def of(self, phrase: PhraseStructure, instances: int, share: float, coco: bool) -> tuple[str, ...]:
        """Return the names of a task's subsets.

        `share` is the mask's share of the image, whichever library drew it; `coco`: the image is one of COCO's.
        """
        attributes, relations = phrase.attributes, phrase.relations
        # The names and limits are those of the authors' table.
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
        return (*(label for label, holds in rules.items() if holds), *self._by_rank(phrase))

    def _by_rank(self, phrase: PhraseStructure) -> list[str]:
        """Return the subsets by rank; a phrase without attributes ranks as the rarest, as in the original."""
        if self._ranks is None:
            return []
        names, adjectives = self._ranks
        # Of several words the most frequent one counts.
        name = min([names.get(word, _NAME_RANKS[-1]) for word in phrase.name], default=_NAME_RANKS[-1])
        attribute = min(
            [adjectives.get(word, _ATTRIBUTE_RANKS[-1]) for word in phrase.attributes],
            default=_ATTRIBUTE_RANKS[-1],
        )
        return _rank_subsets("c", name, _NAME_RANKS) + _rank_subsets("a", attribute, _ATTRIBUTE_RANKS)


def _rank_subsets(letter: str, rank: int, steps: tuple[int, int, int]) -> list[str]:
    """Return for example c21-100, c100, c500; rank 0 is the most frequent word."""
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
    """Return the rank by frequency, from 0, of every name and of every attribute."""
    counts = read_json(path)
    try:
        names, attributes = ({str(word): rank for rank, (word, _) in enumerate(counts[k])} for k in ("cat", "att"))
    except (TypeError, KeyError, ValueError) as error:
        raise bad_json(path, f"it has no lists cat and att of words with counts: {error}") from error
    return names, attributes


def _list(value: object) -> Sequence[Any]:
    """Return the value if it is a list, else nothing."""
    return value if isinstance(value, list) else ()


def _texts(values: object) -> tuple[str, ...]:
    """Return the texts among the values."""
    return tuple(value for value in _list(values) if isinstance(value, str))
