"""Everyday words that the embedded model has never read, beside its nouns that are nearest in meaning.

They are only for the advice that a user gets who asks for one of them; nothing is trained on them.
"""

from __future__ import annotations

from collections.abc import Mapping

from ldznet.research.scenes.nouns import GROUPS, NOUNS, plural_of

__all__ = ["KNOWN_NOUNS", "RELATED_WORDS"]

# Known noun: words that a user may type instead of it.
_INSTEAD = {
    "airplane": "aeroplane aircraft jet airliner glider",
    "animal": "creature beast pet wildlife mammal reptile",
    "apple": "plum apricot",
    "axe": "hatchet saw",
    "backpack": "rucksack bag handbag suitcase luggage purse",
    "ball": "football soccer basketball sphere globe",
    "basket": "box crate container",
    "bear": "grizzly polar",
    "bed": "sofa mattress pillow blanket bunk",
    "bell": "gong chime",
    "bicycle": "cycle scooter skateboard tricycle",
    "bird": "sparrow pigeon dove robin seagull crow raven hen",
    "boat": "ship yacht vessel canoe kayak ferry",
    "bone": "skeleton",
    "book": "notebook novel magazine newspaper diary",
    "boot": "sandal slipper heel",
    "bread": "loaf toast baguette bun",
    "bucket": "pail bin tub barrel vase pot mug cup bowl bottle glass jar",
    "bus": "coach van minibus tram",
    "cake": "dessert muffin brownie",
    "candle": "torch lantern",
    "car": "automobile vehicle sedan jeep racecar",
    "cat": "kitten kitty feline",
    "chair": "sofa armchair stool bench seat throne",
    "chicken": "hen chick",
    "clock": "watch alarm timer hourglass",
    "clothing": "clothes garment outfit costume",
    "cloud": "fog sky rain storm",
    "coat": "jacket cardigan sweater hoodie",
    "cookie": "biscuit cracker",
    "couch": "sofa settee loveseat",
    "cow": "bull ox calf cattle buffalo bison",
    "crocodile": "alligator caiman dinosaur",
    "cupcake": "muffin",
    "dagger": "sword blade spear",
    "deer": "elk moose reindeer antelope stag",
    "dog": "puppy hound poodle terrier pup",
    "door": "gate window",
    "drum": "tambourine",
    "duck": "goose mallard",
    "eagle": "hawk falcon vulture",
    "envelope": "letter mail stamp postcard",
    "fire": "flame bonfire",
    "fish": "salmon tuna trout goldfish",
    "flower": "daisy lily orchid blossom bouquet",
    "food": "meal snack dish meat steak cheesecake",
    "fruit": "berry fig grapefruit",
    "giraffe": "okapi",
    "glasses": "spectacles sunglasses goggles",
    "gloves": "mittens",
    "goat": "ram lamb",
    "guitar": "banjo ukulele bass",
    "hamburger": "cheeseburger",
    "hat": "cap helmet beanie",
    "helicopter": "drone chopper",
    "horse": "pony foal stallion",
    "house": "home building hut cottage castle barn tower church",
    "instrument": "piano flute saxophone harp",
    "kite": "parachute",
    "knife": "fork cutlery",
    "lamp": "light chandelier lightbulb",
    "lion": "lioness leopard cheetah panther",
    "lizard": "gecko iguana chameleon",
    "monkey": "ape chimpanzee gorilla",
    "mouse": "hamster gerbil",
    "phone": "telephone smartphone cellphone",
    "pig": "hog boar piglet",
    "plant": "bush grass leaf fern herb palm",
    "potato": "yam",
    "rabbit": "hare",
    "radio": "speaker stereo",
    "ring": "bracelet necklace jewelry diamond",
    "robot": "android cyborg",
    "rocket": "spaceship spacecraft missile shuttle",
    "rose": "carnation peony",
    "ruler": "tape",
    "sailboat": "ship yacht",
    "scarf": "shawl tie",
    "shark": "orca ray",
    "sheep": "lamb ram",
    "shirt": "blouse tshirt sweater",
    "shoe": "sneaker trainer footwear",
    "shrimp": "prawn",
    "snail": "slug",
    "snake": "cobra python viper worm",
    "snowflake": "snow snowman ice",
    "socks": "stockings",
    "spider": "tarantula",
    "spoon": "fork ladle",
    "squid": "cuttlefish jellyfish",
    "star": "planet comet",
    "sun": "sunshine",
    "taxi": "cab",
    "teapot": "kettle mug cup",
    "television": "monitor screen computer laptop",
    "tent": "camp",
    "toilet": "sink bathtub",
    "tool": "screwdriver drill pliers shovel",
    "train": "tram subway",
    "tree": "pine oak palm forest",
    "trophy": "medal award cup",
    "truck": "lorry van pickup",
    "turtle": "tortoise",
    "umbrella": "parasol",
    "vegetable": "cabbage lettuce spinach pepper",
    "vehicle": "scooter skateboard",
    "whale": "orca",
    "wolf": "coyote jackal husky",
    "wrench": "spanner pliers",
    "zebra": "okapi",
}

KNOWN_NOUNS: tuple[str, ...] = tuple(
    sorted({word for noun in NOUNS.values() for word in noun.words} | GROUPS.keys())
)


def _related() -> Mapping[str, tuple[str, ...]]:
    known = {*KNOWN_NOUNS, *map(plural_of, KNOWN_NOUNS)}
    related: dict[str, list[str]] = {}
    for noun, words in _INSTEAD.items():
        for word in words.split():
            if word not in known:
                related.setdefault(word, []).append(noun)
    return {word: tuple(nouns) for word, nouns in sorted(related.items())}


# Unknown word -> known nouns, "sofa" -> ("bed", "chair", "couch").
RELATED_WORDS: Mapping[str, tuple[str, ...]] = _related()
