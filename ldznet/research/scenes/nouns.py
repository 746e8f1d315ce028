"""Nouns of the embedded model's world: words, plurals, groups, and the colours that they can have.

Nothing here knows of images. A noun has one icon in every set of art; a word may name several nouns: "dog"
names one, "animal" all of its group.

    word     what a caption calls a thing, "bucket"
    icon     the name of its icon in the sets of art, "top-hat" for "hat"
    group    a word for several nouns, "animal"; a noun may be in several groups
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

__all__ = ["COLORS", "GROUPS", "NOUNS", "SIDES", "SIZES", "Noun", "near_words", "plural_of", "with_article"]


@dataclass(frozen=True)
class Noun:
    """One kind of thing."""

    word: str
    icon: str
    groups: tuple[str, ...]
    takes_color: bool  # stays itself in any colour: a balloon does, a lemon does not
    own_color: str = ""  # the colour word that is true in every artist's hand; empty where they differ
    synonyms: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """Return every word, in the singular, that is true of it."""
        # "bird" is a noun with an icon, and a group as well.
        return tuple(dict.fromkeys((self.word, *self.synonyms, *self.groups)))


_ANIMALS = """
    badger bat bear beaver camel cat chicken cow crab crocodile deer dog dolphin donkey dragon elephant fish fox
    frog giraffe goat gorilla hedgehog hippo horse kangaroo koala lion lizard llama lobster monkey mouse octopus
    otter panda pig rabbit raccoon rat rhino scorpion shark sheep shrimp skunk sloth snail snake spider squid
    tiger turtle unicorn whale wolf zebra
"""
_BIRDS = "bird chicken duck eagle flamingo owl parrot peacock penguin rooster swan turkey"
_INSECTS = "ant bee beetle butterfly"
_FRUIT = """
    apple avocado banana cherries coconut grapes kiwi lemon mango melon peach pear pineapple strawberry watermelon
"""
_VEGETABLES = "broccoli carrot corn cucumber eggplant garlic mushroom onion potato pumpkin tomato"
_DISHES = """
    bacon bread burrito butter cake cheese chocolate cookie croissant cupcake doughnut egg fries hamburger hotdog
    lollipop pancakes pie pizza popcorn pretzel sandwich taco
"""
_VEHICLES = """
    airplane ambulance bicycle bus car helicopter motorcycle rocket sailboat taxi tractor train truck
"""
_TOOLS = "axe broom hammer knife ladder magnet pencil ruler scissors spoon toothbrush wrench"
_CLOTHES = "boot coat dress gloves hat jeans scarf shirt shoe socks"
_INSTRUMENTS = "bell drum guitar trumpet violin"
_FLOWERS = "rose sunflower tulip"
_PLANTS = "cactus tree"
_OTHERS = """
    anchor backpack ball balloon basket battery bed bomb bone book bucket bulb camera candle chair clock cloud
    couch crown dagger door envelope fire gift glasses heart house key kite lipstick lock moon phone radio rainbow
    ring robot shield skull snowflake soap star sun teapot television tent toilet trophy umbrella
"""

# From a group to its nouns. A smaller group is part of a larger one: every bird is an animal.
GROUPS: dict[str, tuple[str, ...]] = {
    "animal": tuple(sorted({*_ANIMALS.split(), *_BIRDS.split(), *_INSECTS.split()})),
    "bird": tuple(_BIRDS.split()),
    "insect": tuple(_INSECTS.split()),
    "food": tuple(sorted({*_FRUIT.split(), *_VEGETABLES.split(), *_DISHES.split()})),
    "fruit": tuple(_FRUIT.split()),
    "vegetable": tuple(_VEGETABLES.split()),
    "vehicle": tuple(_VEHICLES.split()),
    "tool": tuple(_TOOLS.split()),
    "clothing": tuple(_CLOTHES.split()),
    "instrument": tuple(_INSTRUMENTS.split()),
    "plant": tuple(sorted({*_FLOWERS.split(), *_PLANTS.split()})),
    "flower": tuple(_FLOWERS.split()),
}

# Where the sets of art call a thing otherwise.
_ICONS = {
    "apple": "red-apple",
    "ball": "soccer-ball",
    "bee": "honeybee",
    "book": "closed-book",
    "boot": "womans-boot",
    "bulb": "light-bulb",
    "cake": "birthday-cake",
    "car": "automobile",
    "cheese": "cheese-wedge",
    "chocolate": "chocolate-bar",
    "clock": "alarm-clock",
    "corn": "ear-of-corn",
    "couch": "couch-and-lamp",
    "fries": "french-fries",
    "gift": "wrapped-gift",
    "hat": "top-hat",
    "heart": "red-heart",
    "hippo": "hippopotamus",
    "hotdog": "hot-dog",
    "kiwi": "kiwi-fruit",
    "knife": "kitchen-knife",
    "lock": "locked",
    "moon": "crescent-moon",
    "phone": "mobile-phone",
    "pumpkin": "jack-o-lantern",
    "rhino": "rhinoceros",
    "ruler": "straight-ruler",
    "sheep": "ewe",
    "shirt": "t-shirt",
    "shoe": "running-shoe",
    "train": "locomotive",
    "tree": "deciduous-tree",
    "truck": "delivery-truck",
}
_SYNONYMS = {
    "airplane": ("plane",),
    "bicycle": ("bike",),
    "bulb": ("lamp",),
    "doughnut": ("donut",),
    "gift": ("present",),
    "hamburger": ("burger",),
    "lock": ("padlock",),
    "motorcycle": ("motorbike",),
    "rabbit": ("bunny",),
    "sailboat": ("boat",),
    "television": ("tv",),
}
# Things that stay themselves in any colour, in every set of art but for a few drawings (sprites.py leaves these).
_TAKE_COLOR = """
    backpack balloon bird book boot bucket butterfly car chair coat couch crown door dress envelope fish
    gift gloves guitar heart helicopter key lock pencil rose ruler scarf shirt shoe star teapot tent
    toothbrush truck tulip umbrella
"""
# Things that every artist draws in one colour.
_OWN_COLORS = {
    "red": "apple cherries lobster magnet strawberry tomato",
    "orange": "carrot fire pumpkin",
    "yellow": "banana cheese lemon",
    "green": "broccoli cactus crocodile cucumber frog lizard tree",
    "blue": "dolphin jeans",
    "pink": "flamingo pig",
}
# The words of these are plural, or count nothing: "grapes", "some bread". They have no other form.
_UNCOUNTED = """
    bacon bread broccoli butter cheese cherries chocolate clothing corn fire fries fruit garlic glasses
    gloves grapes jeans pancakes popcorn scissors soap socks food
"""
_PLURALS = {
    "deer": "deer",
    "fish": "fish",
    "knife": "knives",
    "mouse": "mice",
    "octopus": "octopuses",
    "scarf": "scarves",
    "sheep": "sheep",
    "shrimp": "shrimp",
    "squid": "squid",
    "wolf": "wolves",
}

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black", "white")
SIZES = ("small", "large")
SIDES = ("left", "right", "top", "bottom")

# Nouns that look or sound alike, so that one of them is often asked for where another stands.
_ALIKE = (
    "dog wolf fox cat raccoon",
    "cat tiger lion",
    "horse donkey zebra unicorn llama",
    "cow goat sheep deer",
    "mouse rat hedgehog beaver otter badger skunk",
    "crab lobster scorpion shrimp spider",
    "octopus squid",
    "fish shark whale dolphin",
    "duck swan chicken rooster turkey",
    "eagle owl parrot bird",
    "ant bee beetle butterfly spider",
    "lizard snake crocodile turtle frog dragon",
    "bear panda koala sloth gorilla monkey",
    "rhino hippo elephant",
    "apple tomato peach strawberry cherries",
    "lemon mango pear melon banana",
    "cucumber eggplant carrot corn",
    "cookie doughnut pretzel pancakes pie pizza",
    "sandwich hamburger hotdog taco burrito",
    "cake cupcake",
    "car taxi bus truck ambulance train tractor",
    "airplane helicopter rocket",
    "bicycle motorcycle",
    "hammer axe wrench knife dagger",
    "pencil ruler toothbrush broom spoon lipstick candle",
    "guitar violin",
    "rose tulip sunflower",
    "bucket basket teapot",
    "backpack gift",
    "ball balloon",
    "shirt dress coat",
    "shoe boot",
    "star sun moon",
    "chair couch bed toilet",
    "phone radio television camera",
    "key lock",
)


def _nouns() -> dict[str, Noun]:
    words = sorted({word for members in GROUPS.values() for word in members} | set(_OTHERS.split()))
    take_color = frozenset(_TAKE_COLOR.split())
    own_colors = {word: color for color, members in _OWN_COLORS.items() for word in members.split()}
    return {
        word: Noun(
            word,
            _ICONS.get(word, word),
            tuple(group for group, members in GROUPS.items() if word in members),
            word in take_color,
            own_colors.get(word, ""),
            _SYNONYMS.get(word, ()),
        )
        for word in words
    }


NOUNS: dict[str, Noun] = _nouns()


def nouns_digest() -> str:
    """Return a digest of the nouns and their icons: art that was rendered for others is rendered again."""
    icons = json.dumps([[noun.word, noun.icon] for noun in NOUNS.values()])
    return hashlib.sha256(icons.encode()).hexdigest()[:16]


def near_words(word: str) -> tuple[str, ...]:
    """Return the nouns that are most easily taken for this one, as the wolf for the dog."""
    alike = (member for line in _ALIKE if word in (row := line.split()) for member in row)
    return tuple(dict.fromkeys(member for member in alike if member != word))


def plural_of(word: str) -> str:
    """Return the plural of a noun's or a group's word; "grapes" stays as it is."""
    if not is_counted(word):
        return word
    if word in _PLURALS:
        return _PLURALS[word]
    if word.endswith(("s", "x", "ch", "sh")) or word in ("tomato", "potato", "mango"):
        return word + "es"
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def is_counted(word: str) -> bool:
    """Return whether the word takes "a" and has a plural of its own form."""
    return word not in _UNCOUNTED.split()


def with_article(phrase: str) -> str:
    """Return "a bucket" or "an apple", by the phrase's first letter."""
    vowel = phrase[0] in "aeiou" and not phrase.startswith(("unicorn", "eu", "one"))
    return f"{'an' if vowel else 'a'} {phrase}"
