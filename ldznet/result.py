"""The result of a segmentation: masks, objects, thresholds and numbers, made of the kept probabilities.

Nothing here runs a network. Maps have the network's size and are brought to the image's size one at a time, so
that a hundred prompts on a large image do not hold a hundred large maps. What refinement has found
(inference/refinement.py) is kept as maps of twice that size and as patches, which are laid over an enlarged map.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ldznet.errors import OptionError
from ldznet.images.tensors import to_image_size
from ldznet.inference.tiles import RefinedPatch, lay_over
from ldznet.masks.morphology import area, bounding_box
from ldznet.masks.objects import Objects, find_objects
from ldznet.masks.pipeline import make_mask, mask_before_objects, subtract_negatives
from ldznet.masks.threshold_suggestions import Candidate, find_candidates
from ldznet.methods.method import SuitedThreshold
from ldznet.options import MaskOptions, require_options


@dataclass(frozen=True)
class Segmentation:
    """The probabilities of each prompt in one image; iterating yields them, (H, W), at the image's own size."""

    prompts: tuple[str, ...]
    negative_prompts: tuple[str, ...]
    size: tuple[int, int]  # of the image: height, width
    # (prompts and negative prompts, h, w) float32 in [0, 1], at the network's size, or twice that of tiles
    maps: Tensor
    record: dict[str, Any]  # everything that is needed to repeat the result
    notes: tuple[str, ...]  # what a user should know, such as a prompt that was cut
    patches: tuple[tuple[RefinedPatch, ...], ...] = ()  # per map, if it was refined
    threshold: SuitedThreshold = field(default_factory=SuitedThreshold)  # for masks whose options name none

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def nbytes(self) -> int:
        """Return the memory that the maps and patches take, without the image."""
        patches = (patch.probability.nbytes for patches in self.patches for patch in patches)
        return self.maps.nbytes + sum(patches)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return (self.probability(index) for index in range(len(self)))

    def probability(self, index: int) -> NDArray[np.float32]:
        """Return the probability of one prompt, (H, W) float32 in [0, 1]."""
        _require_index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"The index is {index}, but there are {len(self)} prompts.")
        return self._enlarged(index % len(self))

    def net_probability(self, index: int) -> NDArray[np.float32]:
        """Return what the negative prompts leave of one prompt's probability, (H, W): masks are made of it."""
        probability = self.probability(index)
        return subtract_negatives(probability, self._negatives()) if self.negative_prompts else probability

    def each_net_probability(self) -> Iterator[NDArray[np.float32]]:
        """Yield `net_probability` of each prompt; negative prompts are enlarged and joined only once."""
        negative = functools.reduce(np.maximum, self._negatives()) if self.negative_prompts else None
        for probability in self:
            yield probability if negative is None else subtract_negatives(probability, [negative])

    def probabilities(self) -> NDArray[np.float32]:
        """Return all probabilities, (P, H, W) float32: 4 P H W bytes, 256 MB for each on an 8192 px square."""
        # Filled in place: np.stack would hold every map twice.
        stack = np.empty((len(self), *self.size), np.float32)
        for index, probability in enumerate(self):
            stack[index] = probability
        return stack

    def settle(self, options: MaskOptions | None = None) -> MaskOptions:
        """Return the options with a threshold: their own, or the one that suits the method."""
        options = MaskOptions() if options is None else options
        require_options(options, MaskOptions)
        if options.threshold is not None:
            return options
        return dataclasses.replace(options, threshold=self.threshold.value)

    def threshold_reason(self, options: MaskOptions) -> str:
        """Return where the threshold of masks with these options comes from."""
        return self.threshold.reason if options.threshold is None else "asked for"

    def mask(
        self,
        options: MaskOptions | None = None,
        *,
        given_mask: NDArray[Any] | None = None,
        only: int | None = None,
    ) -> NDArray[np.float32]:
        """Return the mask of all prompts, or of `only` one: (H, W) float32 in [0, 1], 1 is selected.

        `given_mask` (H, W) is painted or uploaded (see MaskOptions.brush). Objects are numbered in the mask of
        all prompts; the mask of `only` one prompt ignores them.
        """
        options = self.settle(options)
        if only is None:
            return make_mask(iter(self), options, negatives=self._negatives_or_none(), given_mask=given_mask)
        # Objects have numbers in the mask of all prompts only.
        options = dataclasses.replace(options, objects=())
        probability = [self.probability(only)]
        return make_mask(probability, options, negatives=self._negatives_or_none(), given_mask=given_mask)

    def each_mask(self, options: MaskOptions | None = None) -> Iterator[NDArray[np.float32]]:
        """Yield the mask of each prompt alone; negative prompts are enlarged and joined only once."""
        options = dataclasses.replace(self.settle(options), objects=())
        return (make_mask([probability], options) for probability in self.each_net_probability())

    def objects(self, options: MaskOptions | None = None) -> Objects:
        """Return the objects that `options.objects` chooses from: those in the mask of all prompts."""
        return find_objects(self.mask_before_objects(options))

    def mask_before_objects(self, options: MaskOptions | None = None) -> NDArray[np.bool_]:
        """Return the mask of all prompts, (H, W) bool, before objects are chosen in it and before it grows."""
        return mask_before_objects(iter(self), self.settle(options), negatives=self._negatives_or_none())

    def object_statistics(self, objects: Objects, selection: Sequence[int] = ()) -> list[dict[str, Any]]:
        """Return the number, area in pixels, box, most probable prompt and its mean probability of each object.

        An object is `selected` if `selection` has its number, or is empty.
        """
        # One count over all pixels for each prompt: a mask per object would take a hundred times as long.
        numbers, count = objects.numbers, len(objects) + 1
        if count == 1:
            return []
        areas = _sums(numbers, None, count)[1:]
        sums = [_sums(numbers, net, count)[1:] for net in self.each_net_probability()]
        # The prompt with the largest sum has the largest mean as well, since all share the area.
        best, means = np.argmax(sums, axis=0), np.max(sums, axis=0) / areas
        return [
            {
                "number": number,
                "prompt": self.prompts[best[number - 1]],
                "area": int(areas[number - 1]),
                "share": float(areas[number - 1] / numbers.size),
                "box": box,
                "probability": float(means[number - 1]),
                "selected": not selection or number in selection,
            }
            for number, box in enumerate(objects.boxes, start=1)
        ]

    def candidates(self, options: MaskOptions | None = None) -> list[Candidate]:
        """Return thresholds to choose from, by the probability that the mask of all prompts is made of.

        That is the largest of all prompts for a union, the smallest for an intersection, the first's for a
        difference.
        """
        # The later steps of a mask do not move the threshold, so only `combine` matters here.
        combine = self.settle(options).combine
        maps = itertools.islice(self.each_net_probability(), 1 if combine == "difference" else None)
        return find_candidates(functools.reduce(np.minimum if combine == "intersection" else np.maximum, maps))

    def highest_probabilities(self) -> tuple[float, ...]:
        """Return the highest net probability of each prompt, in [0, 1]."""
        return tuple(float(net.max()) for net in self.each_net_probability())

    def prompt_statistics(self, options: MaskOptions | None = None) -> list[dict[str, Any]]:
        """Return the area in pixels, box and mean net probability of each prompt's own mask."""
        statistics = []
        options = dataclasses.replace(self.settle(options), objects=())
        for prompt, probability in zip(self.prompts, self.each_net_probability(), strict=True):
            # A feathered mask counts where it is selected by half at least.
            inside = make_mask([probability], options) >= 0.5
            statistics.append(
                {
                    "prompt": prompt,
                    "area": area(inside),
                    "share": area(inside) / inside.size,
                    "box": bounding_box(inside),
                    # 0 for an empty mask; indexing would copy the pixels.
                    "probability": cv2.mean(probability, mask=inside.view(np.uint8))[0],
                    "highest": float(probability.max()),
                }
            )
        return statistics

    def _negatives_or_none(self) -> Iterator[NDArray[np.float32]] | None:
        return self._negatives() if self.negative_prompts else None

    def _negatives(self) -> Iterator[NDArray[np.float32]]:
        """Yield the probability of each negative prompt; their maps follow those of the prompts."""
        return (self._enlarged(index) for index in range(len(self), len(self.maps)))

    def _enlarged(self, index: int) -> NDArray[np.float32]:
        """Return one map at the image's size, with its patches."""
        probability = to_image_size(self.maps[index], self.size)
        return lay_over(probability, self.patches[index]) if self.patches else probability


def _sums(numbers: NDArray[np.uint8], values: NDArray[np.float32] | None, count: int) -> NDArray[np.float64]:
    """Return the sum of the values (H, W) at each number, or how often each occurs.

    Row by row in strips: np.bincount makes 8 bytes of each number and of each value.
    """
    total = np.zeros(count)
    rows = max(1, 2**20 // numbers.shape[1])
    for top in range(0, len(numbers), rows):
        weights = None if values is None else values[top : top + rows].ravel()
        total += np.bincount(numbers[top : top + rows].ravel(), weights, count)
    return total


def _require_index(index: object) -> None:
    if isinstance(index, bool) or not isinstance(index, int | np.integer):
        raise OptionError(f"index is {index!r}, but it must be a whole number: the place of a prompt, from 0.")
