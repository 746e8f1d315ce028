"""Draw the README's pictures of masks again: python -m tests.draw_pictures.

Masks come from the embedded model by the command line, at the threshold that it takes by itself.

    prompts.webp  one scene, and the mask of each thing in it
    artists.webp  the same words in four artists' hands
"""

import argparse
import tempfile
from pathlib import Path

from PIL import Image

from ldznet.__main__ import main
from tests.draw_scenes import FOLDER as SCENES

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
PROMPTS = ("fruit", ("apple", "banana", "grapes", "cheese"))
ARTISTS = ("bucket-fluent-3d", "bucket-fluent-flat", "bucket-noto", "bucket-twemoji")
WORDS = ("bucket", "dog", "tree", "ball")
_GAP = 8


def color_map_of(name, words, folder):
    """Return the colour map that `segment` writes for a scene."""
    options = [part for word in words for part in ("-p", word)]
    if main(["segment", str(SCENES / f"{name}.webp"), *options, "--save=colors", "--out", str(folder), "--quiet"]):
        raise SystemExit(1)
    with Image.open(folder / f"{name}.colors.png") as image:
        return image.convert("RGB")


def side_by_side(images):
    """Return images in a row, on white."""
    width = sum(image.width for image in images) + _GAP * (len(images) - 1)
    row = Image.new("RGB", (width, max(image.height for image in images)), "white")
    left = 0
    for image in images:
        row.paste(image, (left, 0))
        left += image.width + _GAP
    return row


def write(folder):
    """Write both pictures."""
    with tempfile.TemporaryDirectory() as name:
        masks = Path(name)
        with Image.open(SCENES / f"{PROMPTS[0]}.webp") as image:
            scene = image.convert("RGB")
        pictures = {
            "prompts": [scene, color_map_of(*PROMPTS, masks)],
            "artists": [color_map_of(artist, WORDS, masks) for artist in ARTISTS],
        }
    for title, images in pictures.items():
        side_by_side(images).save(folder / f"{title}.webp", quality=85, method=6)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw the README's pictures of masks again.")
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="FOLDER", help="folder to write to")
    write(parser.parse_args().out)
