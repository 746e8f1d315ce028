"""Write what `segment --save` asks for: the names of the files of one image, and what is drawn into them.

reports.py records which files belong to the command, and moves them to their places.
"""

from __future__ import annotations

import dataclasses
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldznet.cli.inputs import Job, cut
from ldznet.cli.reports import BATCH_FOLDER
from ldznet.options import MaskOptions

if TYPE_CHECKING:
    from PIL import Image

    from ldznet.result import Segmentation

OUTPUTS = {
    "mask": "the mask of all prompts together, white is selected",
    "overlay": "the image with the mask on it",
    "colors": "a labelled colour map of several prompts",
    "each": "a mask for every prompt",
    "cutout": "what the mask selects, on a transparent background",
    "objects": "a numbered image of the objects in the mask, and a mask for every one",
    "candidates": "masks at up to three thresholds, to choose from",
    "heat": "a heat map for every prompt",
    "npz": "the probabilities, float32, before negative prompts",
    "batch": "the mask in the folder batch/, named as the image: the webui's Batch tab takes that folder as its "
    "inpaint batch mask directory",
}


def known_files(job: Job, save: Sequence[str], prompts: Sequence[str]) -> dict[str, str]:
    """Return the files whose names are known before the network runs: kind, or kind and number -> name.

    No ending is the end of another one, so the results of two images never share a name.
    """
    files, stem = {}, job.target.name
    # Kinds whose number depends on the result, objects and candidates, are added by ResultFiles.write.
    for kind in save:
        if kind in ("mask", "overlay", "objects", "cutout"):
            files[kind] = f"{stem}.{kind}.png"
        elif kind == "colors" and len(prompts) > 1:
            files[kind] = f"{stem}.colors.png"
        elif kind == "npz":
            files[kind] = f"{stem}.npz"
        elif kind == "batch":
            files[kind] = f"{BATCH_FOLDER}/{batch_stem(job)}.png"
        elif kind in ("each", "heat"):
            for number, prompt in enumerate(prompts, start=1):
                # 40 bytes of the prompt: enough to recognise it, and the name stays below the 255 of file systems.
                slug = cut(re.sub(r"[^\w]+", "-", prompt).lower(), 40).strip("-")
                files[f"{kind} {number}"] = f"{stem}.{'mask' if kind == 'each' else kind}.{number}-{slug}.png"
    return files


def batch_stem(job: Job) -> str:
    """Return the name by which the webui finds the mask of an image: that of the image without suffix."""
    return job.target.name if job.source == "-" else Path(job.source).stem


class ResultFiles:
    """The files of one image's results; `record` is what its report says about the mask."""

    def __init__(
        self,
        image: Image.Image,
        result: Segmentation,
        options: MaskOptions,
        save: Sequence[str],
        given_mask: Any = None,
    ) -> None:
        from ldznet.decision import decide

        self.decision = decide(result, options, given_mask)
        options = self.decision.options
        self._image, self._result, self._options, self._save = image, result, options, save
        self._objects = self.decision.objects
        self._candidates = result.candidates(options) if "candidates" in save else []
        reason = self.decision.reason
        # Inverted, prompts that were not found would seem to be everywhere.
        plain = dataclasses.replace(options, invert=False) if reason else options
        self.record: dict[str, Any] = {
            "found": result.prompt_statistics(plain),
            "empty_reason": reason.value if reason else None,
            "objects": result.object_statistics(self._objects, options.objects),
        }
        if "candidates" in save:
            self.record["candidates"] = [candidate._asdict() for candidate in self._candidates]

    def write(self, folder: Path, job: Job) -> list[str]:
        """Write all files into a folder and return their names."""
        files = known_files(job, self._save, self._result.prompts)
        if "objects" in self._save:
            numbers = range(1, len(self._objects) + 1)
            files |= {f"object {number}": f"{job.target.name}.object.{number}.png" for number in numbers}
        for candidate in self._candidates:
            files[f"candidate {candidate.threshold}"] = f"{job.target.name}.candidate.{candidate.name}.png"
        for kind, name in files.items():
            self._write(kind, folder / name)
        return list(files.values())

    def _write(self, kind: str, path: Path) -> None:
        """Write one file of the kind, such as "mask" or "each 2"."""
        from ldznet.images.saving import save_png

        name, _, which = kind.partition(" ")
        if name == "npz":
            _write_npz(path, self._result)
        elif name in ("mask", "batch"):
            save_png(self.decision.mask, path)
        elif name in ("each", "object", "candidate"):
            save_png(self._mask(name, which), path)
        else:
            save_png(self._draw(name, which), path)

    def _mask(self, name: str, which: str) -> Any:
        """Return a mask of one prompt, one object or one threshold: (H, W) float32 in [0, 1]."""
        from ldznet.decision import decide
        from ldznet.masks.morphology import grow
        from ldznet.masks.pipeline import finish_mask

        options, result = self._options, self._result
        if name == "object":
            return finish_mask(grow(self._objects.select((int(which),)), options.grow), options)
        if name == "candidate":
            return decide(result, dataclasses.replace(options, threshold=float(which), objects=())).mask
        mask = result.mask(options, only=int(which) - 1)
        if (
            options.invert
            and not result.mask(dataclasses.replace(options, invert=False), only=int(which) - 1).any()
        ):
            mask[:] = 0  # a prompt that was not found never selects everything
        return mask

    def _draw(self, name: str, which: str) -> Any:
        """Return an image that shows the mask or the probabilities."""
        import numpy as np

        from ldznet.drawing.overlay import color_map, heat_map, object_map, overlay

        pixels, result, mask = np.asarray(self._image), self._result, self.decision.mask
        if name == "overlay":
            return overlay(pixels, mask)
        if name == "cutout":
            from ldznet.decision import cut_out

            return cut_out(pixels, mask)
        if name == "heat":
            return heat_map(result.net_probability(int(which) - 1), pixels)
        if name == "objects":
            labels = [f"{item['prompt']}, {item['share']:.1%}" for item in self.record["objects"]]
            return object_map(self._objects, labels, pixels, selection=self._options.objects)
        # One at a time, since each map is as large as the image.
        maps = map(result.net_probability, range(len(result)))
        return color_map(maps, result.prompts, pixels, background=self._options.level).image


def _write_npz(path: Path, result: Segmentation) -> None:
    """Write `prompts`, and `probability_1`, `probability_2` ... one at a time, each as large as the image."""
    import numpy as np

    # Not numpy's savez: it would hold the maps of all prompts in memory together.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("prompts.npy", "w") as file:
            np.lib.format.write_array(file, np.array(result.prompts))
        for number, probability in enumerate(result, start=1):
            with archive.open(f"probability_{number}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, probability)
