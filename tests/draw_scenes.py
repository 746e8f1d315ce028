"""Draw the scenes under models/tiny/scenes again: python -m tests.draw_scenes [--art FOLDER].

A dozen scenes of icons for documents and for tests of the embedded model, so that neither needs the art itself.
What stands in them is written down here; places, turns and grounds come from the seed. No training has seen them:
its seeds are others, and its things are drawn.

    NAME.webp       the image
    NAME.masks.png  (H, W) uint8, a palette: 0 the ground, n the nth thing, where it is visible
    scenes.json     for each name the artist, and the words, colours and sizes of its things
"""

import argparse
import json
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from ldznet.research.scenes.composition import draw_thing, place_and_paint
from ldznet.research.scenes.icons import IconWorld

FOLDER = Path(__file__).parents[1] / "models" / "tiny" / "scenes"
SIZE = (256, 384)  # height, width: the largest side at which no icon is enlarged much
_ATTEMPTS = 150
_PALETTE = (0, 0, 0, 230, 80, 60, 70, 150, 240, 250, 210, 60, 90, 200, 110, 190, 110, 230)

# Name: artist, seed, and what is in it: word, size and colour. "" is of medium size and as the artist drew it.
_BUCKET = (("bucket", "", ""), ("dog", "", ""), ("tree", "", ""), ("ball", "small", ""))
SCENES = {
    "bucket-fluent-3d": ("fluent-3d", 4, _BUCKET),
    "bucket-fluent-flat": ("fluent-flat", 4, _BUCKET),
    "bucket-noto": ("noto", 4, _BUCKET),
    "bucket-twemoji": ("twemoji", 4, _BUCKET),
    "animals": ("noto", 4, (("cat", "", ""), ("fox", "", ""), ("owl", "", ""), ("turtle", "small", ""))),
    "balloons": ("fluent-3d", 6, (("balloon", "", "red"), ("balloon", "", "blue"), ("gift", "", ""))),
    "cars": ("twemoji", 4, (("car", "", "red"), ("car", "", "blue"), ("bicycle", "", ""))),
    "dogs": ("fluent-3d", 5, (("dog", "large", ""), ("dog", "small", ""), ("bone", "small", ""))),
    "fruit": ("twemoji", 2, (("apple", "", ""), ("banana", "", ""), ("grapes", "", ""), ("cheese", "", ""))),
    "kitchen": ("fluent-3d", 2, (("teapot", "", ""), ("spoon", "", ""), ("egg", "small", ""), ("carrot", "", ""))),
    "music": ("noto", 3, (("guitar", "", ""), ("drum", "", ""), ("trumpet", "", ""))),
    "umbrella": ("fluent-flat", 2, (("umbrella", "", ""), ("boot", "", ""), ("frog", "small", ""))),
}


def draw(world, artist, seed, things):
    """Return a scene of these things, the roomiest of a few in places of the seed."""
    sprites, scenes = world.hands[artist], []
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([seed, 7, attempt])
        drawn = [
            draw_thing(word, size_word, sprites, min(SIZE), rng, color=color) for word, size_word, color in things
        ]
        if scene := place_and_paint(drawn, sprites, SIZE, rng):
            scenes.append(scene)
    return max(scenes, key=_room)


def _room(scene):
    """Return the least distance of two things, or of one from the edge, in pixels; negative where they meet."""
    circles = [(*thing.center, 0.5 * thing.side) for thing in scene.things]
    height, width = SIZE
    gaps = [np.hypot(x - u, y - v) - r - q for (x, y, r), (u, v, q) in combinations(circles, 2)]
    edges = [min(x, y, width - x, height - y) - r for x, y, r in circles]
    return min(*gaps, *(2 * edge for edge in edges))


def write(world, folder):
    """Write all scenes, and what is in them."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {}
    for name, (artist, seed, things) in SCENES.items():
        scene = draw(world, artist, seed, things)
        Image.fromarray(scene.image).save(folder / f"{name}.webp", quality=90, method=6)
        numbers = np.zeros(SIZE, np.uint8)
        for number, mask in enumerate(scene.masks, start=1):
            numbers[mask] = number
        masks = Image.fromarray(numbers, "P")
        masks.putpalette(_PALETTE)
        masks.save(folder / f"{name}.masks.png", optimize=True)
        contents[name] = {
            "artist": artist,
            "things": [[thing.word, thing.color, thing.size_word] for thing in scene.things],
        }
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(content)}" for name, content in contents.items())
    (folder / "scenes.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw the scenes under models/tiny/scenes again.")
    parser.add_argument("--art", type=Path, metavar="FOLDER", help="folder of the art")
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="FOLDER", help="folder to write to")
    parsed = parser.parse_args()
    write(IconWorld.read(parsed.art), parsed.out)
