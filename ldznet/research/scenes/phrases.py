"""Words of a scene: its caption, and phrases that pick out some of its objects or none.

A phrase is true of every object that it picks and of no other. A relation is said only where a person
would not hesitate; a phrase for an absent thing picks nothing, and often misses by one word only.
Nothing here knows of pixels: an object is what SceneObject says of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, product, zip_longest
from typing import TypeVar

import numpy as np

from ldznet.research.scenes.brushes import COLORS, FILLS
from ldznet.research.scenes.shapes import KINDS, SceneObject
from ldznet.research.scenes.styles import GROUNDS, LOOKS, MATERIALS

PHRASE_KINDS = ("name", "attribute", "relation", "absent")
RELATIONS = ("left of", "right of", "above", "below")
SIZE_WORDS = ("small", "", "large")
_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
_PLURALS = {kind: item.plural for kind, item in KINDS.items()} | {"shape": "shapes"}

VOCABULARY: tuple[str, ...] = tuple(
    sorted(
        {
            *("a", "an", "the", "and", "of", "on", "left", "right", "above", "below", ","),
            *("small", "large", "smallest", "largest"),
            *LOOKS,
            *_NUMBERS.values(),
            *_PLURALS,
            *_PLURALS.values(),
            *COLORS,
            *GROUNDS,
            *MATERIALS,
            *FILLS,
        }
        - {"solid"}
    )
)
"""Every word that a caption or a phrase can hold, and the comma."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Description:
    """What a few words say of an object; an empty word says nothing."""

    noun: str  # a kind, or "shape" for any
    color: str = ""
    fill: str = ""
    size_word: str = ""

    def fits(self, item: SceneObject) -> bool:
        """Tell whether all that is said is true of an object."""
        return (
            self.noun in (item.kind, "shape")
            and self.color in (item.color, "")
            and self.fill in (item.fill, "")
            and self.size_word in (item.size_word, "")
        )

    def text(self, plural: bool = False, fill_first: bool = False) -> str:
        """Return the words: "small red striped star" or, with the fill first, "small striped red star"."""
        noun = _PLURALS[self.noun] if plural else self.noun
        inner = (self.fill, self.color) if fill_first else (self.color, self.fill)
        return " ".join(word for word in (self.size_word, *inner, noun) if word)

    @property
    def attributes(self) -> int:
        """How many words stand before the noun."""
        return sum(1 for word in (self.color, self.fill, self.size_word) if word)


@dataclass(frozen=True)
class Saying:
    """The text of a phrase, its kind, and the indices of the objects that it picks."""

    text: str
    kind: str  # one of PHRASE_KINDS
    picks: tuple[int, ...]


def describe(item: SceneObject) -> Description:
    """Return all that can be said of an object."""
    fill = "" if item.fill == "solid" else item.fill
    return Description(item.kind, item.color, fill, item.size_word)


def relates(item: SceneObject, relation: str, anchor: SceneObject) -> bool | None:
    """Tell whether an object is left of, right of, above or below another; None where it is hard to say."""
    horizontal = relation in ("left of", "right of")
    forward = relation in ("right of", "below")
    along, across = (0, 1) if horizontal else (1, 0)
    sign = 1 if forward else -1
    ahead = sign * (item.centroid[along] - anchor.centroid[along])
    aside = abs(item.centroid[across] - anchor.centroid[across])
    # Beyond the anchor's edge and within 40 degrees of its axis; not at all when further off than 70.
    edge = anchor.box[along + 2 if forward else along]
    if aside <= 0.84 * ahead and sign * (item.centroid[along] - edge) > 0:
        return True
    return False if ahead <= 0.36 * aside else None


def write_caption(
    look: str, objects: Sequence[SceneObject], ground: tuple[str, str], rng: np.random.Generator
) -> str:
    """Return a sentence that names the look and every object, and some attributes and the ground by chance."""
    said = [_forget(describe(objects[i]), 0.12, 0.25, 0.4, rng) for i in rng.permutation(len(objects))]
    color, material = ground
    chance = rng.random(5)  # drawn at once, so that the look changes nothing else
    words = [color if chance[0] < 0.9 else "", material if look == "photo" and chance[1] < 0.6 else ""]
    place = " ".join(word for word in words if word) if chance[2] < 0.8 else ""
    fill_first = bool(chance[4] < 0.25)
    things = _listed(said, fill_first)
    if len(objects) == 2 and chance[3] < 0.5:
        things = _related_pair(objects, said, fill_first) or things
    return f"{'an' if look[0] in 'aeiou' else 'a'} {look} of {things}" + (f" on {place}" if place else "")


def _forget(full: Description, color: float, fill: float, size: float, rng: np.random.Generator) -> Description:
    """Leave words out, each with its probability."""
    drop = rng.random(3) < (color, fill, size)
    return Description(
        full.noun,
        "" if drop[0] else full.color,
        "" if drop[1] else full.fill,
        "" if drop[2] else full.size_word,
    )


def _listed(said: Sequence[Description], fill_first: bool) -> str:
    parts = [
        _with_article(thing.text(False, fill_first))
        if count == 1
        else f"{_NUMBERS[count]} {thing.text(True, fill_first)}"
        for thing, count in Counter(said).items()
    ]
    return " and ".join(part for part in (", ".join(parts[:-1]), parts[-1]) if part)


def _with_article(text: str) -> str:
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def _related_pair(objects: Sequence[SceneObject], said: Sequence[Description], fill_first: bool) -> str:
    """Return "a star above a circle", or nothing where the pair stands askew or is told apart by no word."""
    items = [objects[_picks(thing, objects)[0]] for thing in said]
    if items[0] is items[1]:
        return ""
    texts = [_with_article(thing.text(False, fill_first)) for thing in said]
    found = (f" {relation} ".join(texts) for relation in RELATIONS if relates(items[0], relation, items[1]))
    return next(found, "")


def find_phrases(objects: Sequence[SceneObject], each: int | None, rng: np.random.Generator) -> list[Saying]:
    """Return up to `each` phrases of every kind, all different; None means all that there are."""
    related, unrelated = _relations(objects, each, rng)
    extremes = _shuffled(_extremes(objects), rng)
    found = {
        "name": _names(objects, rng),
        "attribute": _attributes(objects, rng),
        "relation": _mixed(*([extremes, related] if rng.random() < 0.25 else [related, extremes])),
        "absent": _absent(objects, unrelated, rng),
    }
    return [saying for kind in PHRASE_KINDS for saying in islice(found[kind], each)]


def _shuffled(items: Iterable[_T], rng: np.random.Generator) -> list[_T]:
    pool = list(items)
    return [pool[i] for i in rng.permutation(len(pool))]


def _mixed(*lists: Iterable[_T]) -> Iterator[_T]:
    """Take from each list in turn until all are used up."""
    end = object()
    rounds = zip_longest(*lists, fillvalue=end)
    return (item for item in chain.from_iterable(rounds) if item is not end)  # type: ignore[misc]


def _picks(thing: Description, objects: Sequence[SceneObject]) -> tuple[int, ...]:
    return tuple(i for i, item in enumerate(objects) if thing.fits(item))


def _say(thing: Description, kind: str, objects: Sequence[SceneObject], rng: np.random.Generator) -> Saying:
    """Say it of all objects that it fits: in the plural only where there are several, or none at all."""
    picks = _picks(thing, objects)
    plural = rng.random() < (0.2 if not picks else 0.5) and len(picks) != 1
    return Saying(thing.text(plural, fill_first=rng.random() < 0.25), kind, picks)


def _names(objects: Sequence[SceneObject], rng: np.random.Generator) -> Iterator[Saying]:
    things = [Description(noun) for noun in _shuffled(dict.fromkeys(item.kind for item in objects), rng)]
    # "shapes" is everything: said now and then, not in half of the scenes with one kind.
    things.insert(0 if rng.random() < 0.1 else len(things), Description("shape"))
    return (_say(thing, "name", objects, rng) for thing in things)


def _attributes(objects: Sequence[SceneObject], rng: np.random.Generator) -> Iterator[Saying]:
    """Those that leave out an object of the same kind come in turn with those that do not."""
    things: dict[Description, None] = {}
    for full in map(describe, objects):
        choices = product((full.noun, "shape"), ("", full.color), ("", full.fill), ("", full.size_word))
        things |= {thing: None for choice in choices if (thing := Description(*choice)).attributes}
    telling, plain, general = [], [], []
    for thing in _shuffled(things, rng):
        same_kind = _picks(Description(thing.noun), objects)
        if thing.noun == "shape":
            general.append(thing)
        elif len(same_kind) > len(_picks(thing, objects)):
            telling.append(thing)
        else:
            plain.append(thing)
    lists = [telling, plain] if rng.random() < 0.6 else [plain, telling]
    lists.insert(0 if rng.random() < 0.3 else 2, general)
    return (_say(thing, "attribute", objects, rng) for thing in _mixed(*lists))


def _relations(
    objects: Sequence[SceneObject], each: int | None, rng: np.random.Generator
) -> tuple[list[Saying], list[Saying]]:
    """Return relations that pick something, and those that are false of all that they could pick."""
    true: dict[str, Saying] = {}
    false: dict[str, Saying] = {}
    short = {
        thing: None
        for full in map(describe, objects)
        for thing in (Description(full.noun), Description(full.noun, full.color))
    }
    anchors = [(thing, picks[0]) for thing in short if len(picks := _picks(thing, objects)) == 1]
    for thing, (anchor, at), relation in _shuffled(product(short, anchors, RELATIONS), rng):
        if each is not None and min(len(true), len(false)) >= each:
            break
        candidates = _picks(thing, objects)
        if at in candidates:
            continue
        holds = {i: relates(objects[i], relation, objects[at]) for i in candidates}
        if None in holds.values():
            continue
        picks = tuple(i for i, here in holds.items() if here)
        text = f"{thing.text(plural=len(picks) > 1)} {relation} the {anchor.text()}"
        if picks:
            true[text] = Saying(text, "relation", picks)
        else:
            false[text] = Saying(text, "absent", ())
    return _shuffled(true.values(), rng), _shuffled(false.values(), rng)


def _extremes(objects: Sequence[SceneObject]) -> Iterator[Saying]:
    """Say "largest star" and "smallest star" where there are several and one stands out."""

    def outdoes(big: int, small: int) -> bool:
        ratio = objects[big].radius / objects[small].radius
        return ratio > 1.3 and ratio**2 * objects[big].visible / objects[small].visible > 1.2

    for kind in dict.fromkeys(item.kind for item in objects):
        same = _picks(Description(kind), objects)
        for i in same if len(same) > 1 else ():
            others = [j for j in same if j != i]
            if all(outdoes(i, j) for j in others):
                yield Saying(f"largest {kind}", "relation", (i,))
            if all(outdoes(j, i) for j in others):
                yield Saying(f"smallest {kind}", "relation", (i,))


def _absent(
    objects: Sequence[SceneObject], unrelated: Sequence[Saying], rng: np.random.Generator
) -> Iterator[Saying]:
    """Phrases that fit nothing here: near misses, false relations and quite other things, in turn."""
    near = {thing: None for full in map(describe, objects) for thing in _near_misses(full, rng)}
    other = [Description(kind) for kind in KINDS]
    for thing in list(other):
        color, size_word = (str(rng.choice(words)) for words in (list(COLORS), SIZE_WORDS))
        other.append(replace(thing, color=color, size_word=size_word))
    near_said, other_said = (
        [_say(thing, "absent", objects, rng) for thing in _shuffled(things, rng) if not _picks(thing, objects)]
        for things in (near, other)
    )
    pools = (near_said, other_said, list(unrelated))
    seen: set[str] = set()
    for saying in _mixed(*(pools[i] for i in rng.choice(3, 3, replace=False, p=(0.5, 0.3, 0.2)))):
        if saying.text not in seen:
            seen.add(saying.text)
            yield saying


def _near_misses(full: Description, rng: np.random.Generator) -> Iterator[Description]:
    """Change one word of what is true of an object, and forget some of the others."""
    colors, kinds, fills = (str(rng.choice(list(words))) for words in (COLORS, KINDS, FILLS[1:]))
    size_word = "small" if full.size_word == "large" else "large"
    kept = _forget(full, 0.3, 0.6, 0.7, rng)
    yield replace(kept, color=colors)
    yield replace(kept, noun=kinds, color=full.color)
    yield replace(kept, fill=fills)
    yield replace(kept, size_word=size_word)
