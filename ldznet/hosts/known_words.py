"""The words of a small model that knows few of them, as the header of its file lists them.

A full Stable Diffusion model has no such list, and nothing here is ever said of one.

    header of the .safetensors:  "ldznet.words": {"words": [...], "nouns": [...], "related": {"sofa": ["couch"]}}
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ldznet.errors import CheckpointError
from ldznet.heads.weight_files import open_tensors

KEY = "ldznet.words"
_MOST_SHOWN = 5  # unknown words in a note
_MOST_NEAR = 3  # known words beside each of them
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class KnownWords:
    """All the words that a text encoder has read."""

    words: frozenset[str]  # in lower case, plurals among them
    nouns: tuple[str, ...]  # those that name a thing or a group of things
    related: Mapping[str, tuple[str, ...]]  # word that it does not know -> nouns that are nearest in meaning

    def to_json(self) -> str:
        """Return the text for the header of a checkpoint."""
        return json.dumps(
            {"words": sorted(self.words), "nouns": list(self.nouns), "related": dict(self.related)}, sort_keys=True
        )

    @classmethod
    def from_json(cls, text: str) -> KnownWords | None:
        """Read the text of a header; None where it is damaged, since it only helps."""
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            content: Any = json.loads(text)
            related = {str(word): tuple(map(str, nouns)) for word, nouns in content["related"].items()}
            return cls(frozenset(map(str, content["words"])), tuple(map(str, content["nouns"])), related)
        return None

    def unknown(self, texts: Iterable[str]) -> list[str]:
        """Return the words of the texts that it does not know, each once, in lower case."""
        words = (word for text in texts for word in _WORD.findall(text.lower()))
        return [word for word in dict.fromkeys(words) if word not in self.words]

    def near(self, word: str) -> tuple[str, ...]:
        """Return a few nouns near a word: by meaning where the list has it, else by spelling; empty for none."""
        for form in (word, word.removesuffix("s"), word.removesuffix("es")):
            if form in self.related:
                return self.related[form][:_MOST_NEAR]
        return tuple(difflib.get_close_matches(word, self.nouns, _MOST_NEAR, cutoff=0.7))

    def note(self, name: str, texts: Sequence[str]) -> str:
        """Return what a user should know of words in the texts that the model `name` does not know; or ""."""
        unknown = self.unknown(texts)
        if not unknown:
            return ""
        near = dict.fromkeys(noun for word in unknown[:_MOST_SHOWN] for noun in self.near(word))
        words = ", ".join(f'"{word}"' for word in unknown[:_MOST_SHOWN]) + (" ..." * (len(unknown) > _MOST_SHOWN))
        hint = f"It knows {', '.join(near)}. " if near else f"It knows things such as {self._examples()}. "
        return (
            f"{name} is a small model of drawn things and has never read {words}: the mask of such a word means "
            f"little. {hint}docs/tiny.md lists all its words. For any other word use a full Stable Diffusion "
            "checkpoint: choose one at the top of the webui, or give --checkpoint FILE on the command line."
        )

    def _examples(self) -> str:
        """Return a few of its nouns, far apart in the list."""
        step = max(1, len(self.nouns) // 6)
        return ", ".join(self.nouns[step // 2 :: step][:6])


def read_known_words(path: str | os.PathLike[str]) -> KnownWords | None:
    """Read the list of words in the header of a .safetensors; None where there is none, as in any full model."""
    if str(path).lower().endswith(".safetensors"):
        with contextlib.suppress(CheckpointError), open_tensors(path) as file:
            if KEY in file.metadata:
                return KnownWords.from_json(file.metadata[KEY])
    return None
