"""What `segment --save` writes of one image: the names of the files, and what is drawn into them.

Whose files they are, and how they get to their places: results.py.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldznet.cli.inputs import cut
from ldznet.options import MaskOptions

if TYPE_CHECKING:
    from PIL import Image

    from ldznet.result import Segmentation

OUTPUTS = {
    "mask": "the mask of all prompts together, white is selected",
    "overlay": "the picture with the mask on it",
    "colors": "a labelled colour map of several prompts",
    "each": "a mask for every prompt",
    "objects": "a numbered picture of the objects in the mask, and a mask for every one",
    "candidates": "masks at up to three thresholds, to choose from",
    "heat": "a heat map for every prompt",
    "npz": "the probabilities, float32, before negative prompts",
}


def known_files(stem: str, save: Sequence[str], prompts: Sequence[str]) -> dict[str, str]:
    """kind, or kind and number of the prompt -> name of the file; those that are known before anything is found.

    No ending is the end of another one, so the results of two images never have the same name.
    """
    files = {}
    for kind in save:
        if kind in ("mask", "overlay", "objects"):
            files[kind] = f"{stem}.{kind}.png"
        elif kind == "colors" and len(prompts) > 1:
            files[kind] = f"{stem}.colors.png"
        elif kind == "npz":
            files[kind] = f"{stem}.npz"
        elif kind in ("each", "heat"):
            for number, prompt in enumerate(prompts, start=1):
                slug = cut(re.sub(r"[^\w]+", "-", prompt).lower(), 40).strip("-")
                files[f"{kind} {number}"] = f"{stem}.{'mask' if kind == 'each' else kind}.{number}-{slug}.png"
    return files


class Drawing:
    """The results of one image; `told` is for its report: every object, and the candidates that were asked for."""

    def __init__(self, image: Image.Image, found: Segmentation, options: MaskOptions, save: Sequence[str]) -> None:
        self._image, self._found, self._options, self._save = image, found, options, save
        self._objects = found.objects(options)
        self._candidates = found.candidates(options) if "candidates" in save else []
        self.told: dict[str, Any] = {"objects": found.object_statistics(self._objects, options.objects)}
        if "candidates" in save:
            self.told["candidates"] = [one._asdict() for one in self._candidates]

    def write(self, folder: Path, stem: str, brush: Any = None) -> list[str]:
        """All that is to be saved, into a folder -> the names of the files."""
        files = known_files(stem, self._save, self._found.prompts)
        if "objects" in self._save:
            numbers = range(1, len(self._objects) + 1)
            files |= {f"object {number}": f"{stem}.object.{number}.png" for number in numbers}
        for one in self._candidates:
            files[f"candidate {one.threshold}"] = f"{stem}.candidate.{one.name}.png"
        mask = self._found.mask(self._options, given_mask=brush)
        for kind, name in files.items():
            self._write(kind, folder / name, mask)
        return list(files.values())

    def _write(self, kind: str, path: Path, mask: Any) -> None:
        from ldznet.images.reading import save_png

        name, _, which = kind.partition(" ")
        if name == "npz":
            _write_npz(path, self._found)
        elif name == "mask":
            save_png(mask, path)
        elif name in ("each", "object", "candidate"):
            save_png(self._mask(name, which), path)
        else:
            save_png(self._picture(name, which, mask), path)

    def _mask(self, name: str, which: str) -> Any:
        from dataclasses import replace

        from ldznet.masks.pipeline import finish_mask, grow

        if name == "each":
            return self._found.mask(self._options, only=int(which) - 1)
        if name == "object":
            return finish_mask(grow(self._objects.select((int(which),)), self._options.grow), self._options)
        return self._found.mask(replace(self._options, threshold=float(which), objects=()))

    def _picture(self, name: str, which: str, mask: Any) -> Any:
        import numpy as np

        from ldznet.drawing.overlay import color_map, heat_map, object_map, overlay

        pixels, found = np.asarray(self._image), self._found
        if name == "overlay":
            return overlay(pixels, mask)
        if name == "heat":
            return heat_map(found.net_probability(int(which) - 1), pixels)
        if name == "objects":
            labels = [f"{one['prompt']}, {one['share']:.1%}" for one in self.told["objects"]]
            return object_map(self._objects, labels, pixels, chosen=self._options.objects)
        maps = map(found.net_probability, range(len(found)))
        return color_map(maps, found.prompts, pixels, background=self._options.threshold).picture


def _write_npz(path: Path, found: Segmentation) -> None:
    """`prompts`, and `probability_1`, `probability_2` ... one after the other, as large as the image."""
    import numpy as np

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("prompts.npy", "w") as file:
            np.lib.format.write_array(file, np.array(found.prompts))
        for number, probability in enumerate(found, start=1):
            with archive.open(f"probability_{number}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, probability)
