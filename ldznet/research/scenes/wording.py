"""Words of a scene of sprites: its caption, and phrases that pick out some of its things or none.

A phrase is true of every thing that it picks and of no other. A phrase that a person would hesitate over is not
used: a thing may stand near the middle, or be of medium size. Nothing here knows of pixels.

    "dog", "the dogs"              name    every dog
    "animal", "fruit"              group   every thing of the group
    "red balloon"                  color   where every balloon has a known colour
    "the large dog"                size
    "the dog on the left"          side
    "wolf" where a dog is          absent  nothing
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ldznet.research.scenes.composition import Thing
from ldznet.research.scenes.grounds import GROUND_COLORS
from ldznet.research.scenes.nouns import (
    COLORS,
    GROUPS,
    NOUNS,
    SIDES,
    is_counted,
    near_words,
    plural_of,
    with_article,
)

__all__ = ["PHRASE_KINDS", "VOCABULARY", "NounPhrase", "PhraseChoice", "draw_caption", "draw_phrase", "is_true_of"]

PHRASE_KINDS = ("name", "group", "color", "size", "side", "absent")
LEADS = ("a photo of", "a picture of", "an image of")
LOOK_WORDS = ("render", "icon", "painting", "cartoon", "drawing")
_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}
_SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
# A thing whose middle lies between these shares of the scene is neither on one side nor on the other.
_MIDDLE = (0.44, 0.56)
# Of captions: all things after "a photo of", all things alone, some of them, one phrase after "a photo of", one
# phrase alone. What a user types is the last.
_CAPTION_SHARES = (0.32, 0.12, 0.12, 0.16, 0.28)
# Of phrases, where a scene has all kinds.
_KIND_SHARES = {"name": 0.46, "group": 0.12, "color": 0.14, "size": 0.13, "side": 0.15}
Rng = np.random.Generator


@dataclass(frozen=True)
class NounPhrase:
    """What a few words say of a thing; an empty word says nothing."""

    word: str  # a noun's, a synonym, or a group's
    color: str = ""
    size_word: str = ""
    side: str = ""  # "left", "right", "top" or "bottom"

    @property
    def kind(self) -> str:
        """Return which of PHRASE_KINDS a true phrase of these words is."""
        if self.side or self.size_word or self.color:
            return "side" if self.side else "size" if self.size_word else "color"
        return "name" if self.word in _NAMES else "group"

    def text(self, rng: Rng, *, plural: bool = False) -> str:
        """Return the words without an article: "small red dog on the left"."""
        noun = plural_of(self.word) if plural else self.word
        size_words = _SIZE_WORDS.get(self.size_word, ("",))
        size_word = size_words[0] if rng.random() < 0.8 else size_words[-1]
        before = self.side if self.side in ("left", "right") and rng.random() < 0.12 else ""
        after = ""
        if self.side and not before:
            after = f"{'on' if self.side in ('left', 'right') else 'at'} the {self.side}"
        return " ".join(part for part in (before, size_word, self.color, noun, after) if part)


@dataclass(frozen=True)
class PhraseChoice:
    """The text of a phrase, its kind, and the indices of the things that it picks."""

    text: str
    kind: str  # one of PHRASE_KINDS
    picks: tuple[int, ...]


_NAMES = frozenset(name for noun in NOUNS.values() for name in (noun.word, *noun.synonyms))

VOCABULARY: tuple[str, ...] = tuple(
    sorted(
        {
            *_NAMES,
            *map(plural_of, _NAMES),
            *GROUPS,
            *map(plural_of, GROUPS),
            *COLORS,
            *GROUND_COLORS,
            *SIDES,
            *(word for words in _SIZE_WORDS.values() for word in words),
            *_NUMBERS.values(),
            *LOOK_WORDS,
            *(word for lead in LEADS for word in lead.split()),
            *("a", "an", "the", "and", "of", "on", "at", ","),
        }
    )
)
"""Every word that a caption or a phrase can hold, and the comma."""


def is_true_of(thing: Thing, phrase: NounPhrase, size: tuple[int, int]) -> bool | None:
    """Return whether a phrase is true of a thing; None where a person would hesitate."""
    if phrase.word not in NOUNS[thing.word].words:
        return False
    truths = (
        _has_color(thing, phrase.color),
        _has_size(thing, phrase.size_word),
        _is_on_side(thing, phrase.side, size),
    )
    if False in truths:
        return False
    return None if None in truths else True


def _has_color(thing: Thing, color: str) -> bool | None:
    if not color:
        return True
    return None if not thing.color else thing.color == color


def _has_size(thing: Thing, size_word: str) -> bool | None:
    if not size_word:
        return True
    return None if not thing.size_word else thing.size_word == size_word


def _is_on_side(thing: Thing, side: str, size: tuple[int, int]) -> bool | None:
    if not side:
        return True
    along = thing.center[0] / size[1] if side in ("left", "right") else thing.center[1] / size[0]
    if _MIDDLE[0] <= along <= _MIDDLE[1]:
        return None
    return (along < 0.5) == (side in ("left", "top"))


def picks_of(phrase: NounPhrase, things: Sequence[Thing], size: tuple[int, int]) -> tuple[int, ...] | None:
    """Return the indices of the things that a phrase picks; None where that is doubtful."""
    truths = [is_true_of(thing, phrase, size) for thing in things]
    picks = tuple(index for index, truth in enumerate(truths) if truth)
    if None in truths:
        # A dog of medium size beside a large one is not the large dog; alone it might be.
        plain = replace(phrase, size_word="")
        doubtful = [i for i, truth in enumerate(truths) if truth is None]
        if not (phrase.size_word and picks and all(is_true_of(things[i], plain, size) for i in doubtful)):
            return None
    return picks


def draw_phrase(
    things: Sequence[Thing], size: tuple[int, int], rng: Rng, *, kinds: Sequence[str] = tuple(_KIND_SHARES)
) -> PhraseChoice | None:
    """Return a phrase of one of the kinds; "absent" is true of nothing. None where the scene has none of them."""
    shares = np.array([_KIND_SHARES.get(kind, 1.0) for kind in kinds])
    order = rng.choice(len(kinds), len(kinds), replace=False, p=shares / shares.sum())
    for kind in (kinds[place] for place in order):
        for _ in range(12):
            phrase = _DRAWN[kind](things, size, rng)
            picks = picks_of(phrase, things, size) if phrase else None
            if phrase and picks is not None and bool(picks) == (kind != "absent"):
                return PhraseChoice(_phrase_text(phrase, len(picks), rng), kind, picks)
    return None


def _phrase_text(phrase: NounPhrase, count: int, rng: Rng) -> str:
    """Return the words with the article and the number that suit how many things they pick."""
    plural = rng.random() < (0.12 if not count else 0.6 if count > 1 else 0.0)
    text = phrase.text(rng, plural=plural)
    plain = phrase.kind in ("name", "group", "color")
    chance = rng.random()
    if chance < (0.25 if plain else 0.55):
        return f"the {text}" if plural or count < 2 else text
    if chance < (0.4 if plain else 0.6) and not plural and count < 2 and is_counted(phrase.word):
        return with_article(text)
    return text


def _name(thing: Thing, rng: Rng) -> str:
    noun = NOUNS[thing.word]
    return _pick(noun.synonyms, rng) if noun.synonyms and rng.random() < 0.2 else noun.word


def _pick(items: Sequence[str], rng: Rng) -> str:
    return items[int(rng.integers(len(items)))]


def _any(things: Sequence[Thing], rng: Rng) -> Thing:
    return things[int(rng.integers(len(things)))]


def _draw_name(things: Sequence[Thing], size: tuple[int, int], rng: Rng) -> NounPhrase:
    return NounPhrase(_name(_any(things, rng), rng))


def _draw_group(things: Sequence[Thing], size: tuple[int, int], rng: Rng) -> NounPhrase | None:
    groups = [group for group in NOUNS[_any(things, rng).word].groups if group not in _NAMES]
    return NounPhrase(_pick(groups, rng)) if groups else None


def _word(thing: Thing, rng: Rng) -> str:
    """Return a noun, or now and then its group."""
    groups = NOUNS[thing.word].groups
    return _pick(groups, rng) if groups and rng.random() < 0.12 else _name(thing, rng)


def _draw_color(things: Sequence[Thing], size: tuple[int, int], rng: Rng) -> NounPhrase | None:
    thing = _best(things, rng, lambda thing: 3.0 if thing.tinted else 0.4 if thing.color else 0.0)
    return NounPhrase(_word(thing, rng), color=thing.color) if thing else None


def _draw_size(things: Sequence[Thing], size: tuple[int, int], rng: Rng) -> NounPhrase | None:
    thing = _best(things, rng, lambda thing: float(bool(thing.size_word)))
    if thing is None:
        return None
    color = thing.color if thing.tinted and rng.random() < 0.15 else ""
    return NounPhrase(_word(thing, rng), color=color, size_word=thing.size_word)


def _draw_side(things: Sequence[Thing], size: tuple[int, int], rng: Rng) -> NounPhrase | None:
    thing = _any(things, rng)
    side = _pick(SIDES if rng.random() < 0.5 else ("left", "right"), rng)
    if not _is_on_side(thing, side, size):
        return None
    color = thing.color if thing.tinted and rng.random() < 0.1 else ""
    return NounPhrase(_word(thing, rng), color=color, side=side)


def _best(things: Sequence[Thing], rng: Rng, weight: Callable[[Thing], float]) -> Thing | None:
    """Draw a thing by its weight, twice as often where another of its kind is beside it."""
    count = Counter(thing.word for thing in things)
    shares = np.array([weight(thing) * (2 if count[thing.word] > 1 else 1) for thing in things])
    return things[int(rng.choice(len(things), p=shares / shares.sum()))] if shares.sum() else None


def _draw_absent(things: Sequence[Thing], size: tuple[int, int], rng: Rng) -> NounPhrase | None:
    """Return what is not there: a near noun, another one, or one wrong word in what is true of a thing."""
    chance, thing = rng.random(), _any(things, rng)
    if chance < 0.34 and (near := near_words(thing.word)):
        return NounPhrase(_pick(near, rng))
    if chance < 0.46 and NOUNS[thing.word].groups:
        return NounPhrase(_pick(GROUPS[NOUNS[thing.word].groups[-1]], rng))
    if chance < 0.52:
        return NounPhrase(_pick(tuple(GROUPS), rng))
    if chance < 0.7:
        return NounPhrase(_pick(tuple(NOUNS), rng))
    word = _name(thing, rng)
    if chance < 0.8 and thing.color:
        return NounPhrase(word, color=_pick(COLORS, rng))
    if chance < 0.9 and thing.size_word:
        return NounPhrase(word, size_word="small" if thing.size_word == "large" else "large")
    return NounPhrase(word, side=_pick(SIDES, rng))


_DRAWN: dict[str, Callable[[Sequence[Thing], tuple[int, int], Rng], NounPhrase | None]] = {
    "name": _draw_name,
    "group": _draw_group,
    "color": _draw_color,
    "size": _draw_size,
    "side": _draw_side,
    "absent": _draw_absent,
}


def draw_caption(look: str, things: Sequence[Thing], ground: str, size: tuple[int, int], rng: Rng) -> str:
    """Return a caption: a sentence that names all things, or some, a list, or no more than one phrase.

    All forms that a user types are among them, so that no text encoder is asked with a form it has never read.
    """
    lead = f"{with_article(look)} of" if rng.random() < 0.4 else _pick(LEADS, rng)
    form = int(rng.choice(len(_CAPTION_SHARES), p=_CAPTION_SHARES))
    if form >= 3 and (choice := draw_phrase(things, size, rng)):
        return f"{lead} {choice.text}" if form == 3 else choice.text
    subset = list(things)
    if form == 2:
        count = 1 + int(rng.integers(len(things)))
        subset = [things[i] for i in rng.permutation(len(things))[:count]]
    place = f" on {ground}" if form != 1 and rng.random() < 0.5 else ""
    listed = _listed([_describe(thing, size, rng) for thing in subset], rng)
    return listed if form == 1 else f"{lead} {listed}{place}"


def _describe(thing: Thing, size: tuple[int, int], rng: Rng) -> NounPhrase:
    """Return what a caption says of a thing: its noun, and some of its colour, size and side."""
    chances = rng.random(3)
    side = ""
    if chances[2] < 0.14:
        sides = [side for side in SIDES if _is_on_side(thing, side, size)]
        side = _pick(sides, rng) if sides else ""
    return NounPhrase(
        _word(thing, rng),
        thing.color if chances[0] < (0.8 if thing.tinted else 0.15) else "",
        thing.size_word if chances[1] < 0.3 else "",
        side,
    )


def _listed(phrases: Sequence[NounPhrase], rng: Rng) -> str:
    """Return "a dog, two buckets and grapes"."""
    counts = Counter(phrases)
    order = [list(counts)[place] for place in rng.permutation(len(counts))]
    parts = list(_parts([(phrase, counts[phrase]) for phrase in order], rng))
    return " and ".join(part for part in (", ".join(parts[:-1]), parts[-1]) if part)


def _parts(counted: Sequence[tuple[NounPhrase, int]], rng: Rng) -> Iterator[str]:
    for phrase, count in counted:
        text = phrase.text(rng, plural=count > 1)
        if count > 1 and is_counted(phrase.word):
            yield f"{_NUMBERS[count]} {text}"
        else:
            yield with_article(text) if is_counted(phrase.word) else text
