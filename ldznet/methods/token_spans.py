"""Find the tokens of a phrase in the sentence around it, and those of the words that compete with it.

Nothing here knows of tensors: a place is the index of a token in the context of the sentence, 0 is its start.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ldznet.errors import PromptError

# Words that do not name a thing.
_ARTICLES = ("a", "an", "the", "and", "or", "other")
_PREPOSITIONS = ("of", "in", "on", "at", "by", "for", "from", "with", "without", "to", "into", "onto", "under")
_PLACES = ("over", "above", "below", "behind", "beside", "between", "near")
SMALL_WORDS = frozenset(_ARTICLES + _PREPOSITIONS + _PLACES)
# These name a thing only in a phrase, not in the sentence around it.
_PICTURE_WORDS = frozenset(("photo", "photograph", "picture", "image"))
_PUNCTUATION = string.punctuation + "…–—“”„‘’«»¿¡"


@dataclass(frozen=True)
class Term:
    """One phrase in a sentence, as places in the sentence's context; place 0 is the start of the text."""

    own: tuple[int, ...]
    rivals: tuple[int, ...]  # the other things that the sentence names


def find_terms(
    count_tokens: Callable[[Sequence[str]], list[int]],
    sentence: str,
    spans: Sequence[tuple[int, int]],
    length: int,
) -> list[Term]:
    """Return the places of each phrase, and of the words that compete with it.

    `spans` are the characters of each phrase in the sentence, of which `length` tokens are read. Words with spaces
    between them are counted one by one. The small words of a phrase are left out if it has others. Its rivals are
    the other things that the sentence names, other phrases included, but not the same words; where it names none,
    all its other words.

    Raises:
        PromptError: the text encoder does not read any token of a phrase.
    """
    words = [_Word(match) for match in re.finditer(r"\S+", sentence)]
    texts = sorted({text for word in words for text in (word.text, word.lead, word.core) if text})
    counts = dict(zip(texts, count_tokens(texts), strict=True)) | {"": 0}
    place = 1  # after the start of the text
    for word in words:
        place = word.take(place, counts, length)
    owners = [next((n for n, span in enumerate(spans) if word.overlaps(span)), None) for word in words]
    terms = []
    for index, (start, stop) in enumerate(spans):
        phrase = [word for word, owner in zip(words, owners, strict=True) if owner == index]
        own = _places([w.content for w in phrase if w.core.lower() not in SMALL_WORDS])
        own = own or _places([w.tokens for w in phrase])
        if not own:
            raise PromptError(
                f'Of the prompt "{sentence[start:stop][:30]}" nothing is among the {length} tokens that the text '
                "encoder reads. Shorten the sentence before it, or give letters."
            )
        phrase_words = {word.core.lower() for word in phrase}
        others = [(word, owner) for word, owner in zip(words, owners, strict=True) if owner != index]
        rivals = _places(
            [
                word.content
                for word, owner in others
                if word.core.lower() not in SMALL_WORDS | phrase_words
                and (owner is not None or word.core.lower() not in _PICTURE_WORDS)
            ]
        )
        terms.append(
            Term(own, rivals or _places([w.content for w, _ in others if w.core.lower() not in phrase_words]))
        )
    return terms


class _Word:
    """The text between two spaces: punctuation, the word itself, punctuation."""

    tokens: range  # places of all of it
    content: range  # places of the word itself

    def __init__(self, match: re.Match[str]) -> None:
        self.text, self.start, self.stop = match.group(), match.start(), match.end()
        self.core = self.text.strip(_PUNCTUATION)
        self.lead = self.text[: self.text.index(self.core)] if self.core else ""

    def overlaps(self, span: tuple[int, int]) -> bool:
        """Return whether the word shares a character with a span."""
        return self.start < span[1] and span[0] < self.stop

    def take(self, place: int, counts: Mapping[str, int], length: int) -> int:
        """Set the places of the word, which begins at `place`, and return where the next word begins."""
        # A tokenizer may keep punctuation with its word, so that the parts have more tokens than the whole.
        total, core = counts[self.text], min(counts[self.core], counts[self.text])
        first = place + min(counts[self.lead], total - core)
        end = length + 1
        self.tokens = range(min(place, end), min(place + total, end))
        self.content = range(min(first, end), min(first + core, end))
        return place + total


def _places(parts: Sequence[range]) -> tuple[int, ...]:
    return tuple(place for part in parts for place in part)


def put_into(template: str, phrases: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """Put all phrases in the place of {} -> the sentence, and the characters of each phrase in it."""
    sentence, _, rest = template.partition("{}")
    spans = []
    for number, phrase in enumerate(phrases):
        sentence += ", " if number else ""
        spans.append((len(sentence), len(sentence) + len(phrase)))
        sentence += phrase
    return sentence + rest, spans


def name_rivals(template: str, rivals: Sequence[str]) -> str:
    """Return the template with the words for rivals appended as a list."""
    return ", ".join([template.rstrip(" .,"), *rivals]) if rivals else template
