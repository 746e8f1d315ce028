"""What was found of each prompt in an image, and what can be had of it: masks, objects, thresholds, numbers.

Nothing here runs a network: whatever is asked is answered from the maps that are kept. These have the network's
size and are brought to the image's size one at a time, so that a hundred prompts on a large picture do not hold a
hundred large maps. What a second look has found (refine.py) is kept as maps of twice that size and as patches,
which are laid over when a map is enlarged.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ldznet.images.reading import to_image_size
from ldznet.inference.tiles import RefinedPatch, lay_over
from ldznet.masks.objects import Objects, find_objects
from ldznet.masks.pipeline import area, bounding_box, make_mask, mask_before_objects, subtract_negatives
from ldznet.masks.threshold_suggestions import Candidate, find_candidates
from ldznet.options import MaskOptions


@dataclass(frozen=True)
class Segmentation:
    """What was found of each prompt; iterating gives probabilities (H, W) at the image's own size."""

    prompts: tuple[str, ...]
    negative_prompts: tuple[str, ...]
    size: tuple[int, int]  # of the image: height, width
    # (prompts and negative prompts, h, w) float32 in [0, 1], at the network's size, or twice that of tiles
    maps: Tensor
    record: dict[str, Any]  # all that is needed to repeat it
    notes: tuple[str, ...]  # what a user should know, such as a prompt that was cut
    patches: tuple[tuple[RefinedPatch, ...], ...] = ()  # per map what a second look has found, if there was one

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def nbytes(self) -> int:
        """What the maps take in memory; the image is not among them."""
        patches = (patch.probability.nbytes for patches in self.patches for patch in patches)
        return self.maps.nbytes + sum(patches)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return (self.probability(index) for index in range(len(self)))

    def probability(self, index: int) -> NDArray[np.float32]:
        """Of one prompt: (H, W) float32 in [0, 1]."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"There are {len(self)} prompts; there is none with the index {index}.")
        return self._whole(index % len(self))

    def net_probability(self, index: int) -> NDArray[np.float32]:
        """Of one prompt, what the negative prompts leave of it: (H, W) float32 in [0, 1]. Masks are made of it."""
        probability = self.probability(index)
        return subtract_negatives(probability, self._negatives()) if self.negative_prompts else probability

    def each_net_probability(self) -> Iterator[NDArray[np.float32]]:
        """`wanted` of one prompt after the other; what is not wanted is joined once for all."""
        unwanted = functools.reduce(np.maximum, self._negatives()) if self.negative_prompts else None
        for probability in self:
            yield probability if unwanted is None else subtract_negatives(probability, [unwanted])

    def probabilities(self) -> NDArray[np.float32]:
        """Of all prompts: (P, H, W) float32 in [0, 1]; 4 P H W bytes, 256 MB for each on an 8192 px square."""
        found = np.empty((len(self), *self.size), np.float32)
        for index, probability in enumerate(self):
            found[index] = probability
        return found

    def mask(
        self,
        options: MaskOptions | None = None,
        *,
        given_mask: NDArray[Any] | None = None,
        only: int | None = None,
    ) -> NDArray[np.float32]:
        """The mask of all prompts together, or of `only` one: (H, W) float32 in [0, 1], 1 is selected.

        `given_mask` (H, W) is painted or uploaded (see MaskOptions.brush). Objects are numbered in the mask of
        all prompts; the mask of `only` one prompt ignores them.
        """
        chosen = iter(self) if only is None else iter([self.probability(only)])
        options = MaskOptions() if options is None else options
        if only is not None and isinstance(options, MaskOptions):
            options = dataclasses.replace(options, objects=())
        return make_mask(chosen, options, negatives=self._unwanted(), given_mask=given_mask)

    def each_mask(self, options: MaskOptions | None = None) -> Iterator[NDArray[np.float32]]:
        """`mask` of `only` one prompt after the other; what is not wanted is joined once for all."""
        options = dataclasses.replace(MaskOptions() if options is None else options, objects=())
        return (make_mask([probability], options) for probability in self.each_net_probability())

    def objects(self, options: MaskOptions | None = None) -> Objects:
        """What `options.objects` chooses from: the objects in the mask of all prompts, before it grows."""
        return find_objects(self.mask_before_objects(options))

    def mask_before_objects(self, options: MaskOptions | None = None) -> NDArray[np.bool_]:
        """Return the mask of all prompts, (H, W) bool, before objects are chosen in it and before it grows."""
        options = MaskOptions() if options is None else options
        return mask_before_objects(iter(self), options, negatives=self._unwanted())

    def object_statistics(self, objects: Objects, chosen: Sequence[int] = ()) -> list[dict[str, Any]]:
        """Of each object its number, area in pixels, bounding box, most probable prompt, and the mean probability
        of that inside; and whether it is `chosen`, as all are if none is.
        """
        numbers, count = objects.numbers.ravel(), len(objects) + 1
        if count == 1:
            return []
        areas = np.bincount(numbers, minlength=count)[1:]
        sums = [np.bincount(numbers, wanted.ravel(), count)[1:] for wanted in self.each_net_probability()]
        best, means = np.argmax(sums, axis=0), np.max(sums, axis=0) / areas
        return [
            {
                "number": number,
                "prompt": self.prompts[best[number - 1]],
                "area": int(areas[number - 1]),
                "share": float(areas[number - 1] / numbers.size),
                "box": box,
                "probability": float(means[number - 1]),
                "selected": not chosen or number in chosen,
            }
            for number, box in enumerate(objects.boxes, start=1)
        ]

    def candidates(self, options: MaskOptions | None = None) -> list[Candidate]:
        """Thresholds to choose from, by the probability that the mask of all prompts is made of.

        That is the largest of all prompts for a union, the smallest for an intersection, the first's for a
        difference.
        """
        combine = (MaskOptions() if options is None else options).combine
        maps = itertools.islice(self.each_net_probability(), 1 if combine == "difference" else None)
        return find_candidates(functools.reduce(np.minimum if combine == "intersection" else np.maximum, maps))

    def _unwanted(self) -> Iterator[NDArray[np.float32]] | None:
        return self._negatives() if self.negative_prompts else None

    def _negatives(self) -> Iterator[NDArray[np.float32]]:
        return (self._whole(index) for index in range(len(self), len(self.maps)))

    def _whole(self, index: int) -> NDArray[np.float32]:
        """Of a prompt, or behind them of a negative prompt, at the image's size."""
        whole = to_image_size(self.maps[index], self.size)
        return lay_over(whole, self.patches[index]) if self.patches else whole

    def highest_probabilities(self) -> tuple[float, ...]:
        """Return the highest probability of each prompt, in [0, 1], after the negative prompts."""
        return tuple(float(wanted.max()) for wanted in self.each_net_probability())

    def prompt_statistics(self, options: MaskOptions | None = None) -> list[dict[str, Any]]:
        """Per prompt its area in pixels, bounding box and mean probability inside its own mask.

        Where there are negative prompts, probabilities are those that they leave.
        """
        answers = []
        for prompt, probability, mask in zip(
            self.prompts, self.each_net_probability(), self.each_mask(options), strict=True
        ):
            inside = mask >= 0.5
            answers.append(
                {
                    "prompt": prompt,
                    "area": area(inside),
                    "share": float(inside.mean()),
                    "box": bounding_box(inside),
                    "probability": float(probability[inside].mean()) if inside.any() else 0.0,
                    "highest": float(probability.max()),
                }
            )
        return answers
