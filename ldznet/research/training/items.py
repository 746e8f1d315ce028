"""What a step of a training sees: the prompt at each position of a training that never ends.

All chance of a position comes from its number and the seed: which sample, crop, sentence, timestep, noise. It
does not matter which process asks, in which batch, or after how many interruptions.

    pixels  (3, S, S)  float32 in [-1, 1]
    target  (S, S)     bool
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ldznet.errors import OptionError
from ldznet.inference.prompts import TEMPLATES
from ldznet.research.datasets.network_input import random_crop, stretch_to_square
from ldznet.research.datasets.sample import Sample
from ldznet.research.datasets.samples import DatasetError, Samples
from ldznet.research.datasets.skip_report import Skipped
from ldznet.research.training.train_options import TrainOptions


class Item(NamedTuple):
    """One prompt of a step."""

    pixels: Any  # (3, S, S) float32 in [-1, 1]; a Tensor after collation, as all of it
    target: Any  # (S, S) bool
    sentence: str
    picture: str  # names the pixels where they come again, else empty
    timestep: int
    noise_seed: int
    skipped: tuple[Skipped, ...]


class Stream(torch.utils.data.Dataset[Item]):
    """The prompt at each position of a training that never ends; a position's chance is its own."""

    def __init__(self, samples: Samples, options: TrainOptions) -> None:
        if not len(samples):
            raise OptionError("There is nothing to train on: the dataset is empty.")
        self.samples, self.options = samples, options
        self._epoch: tuple[int, Any] | None = None

    def __getitem__(self, position: int) -> Item:
        options = self.options
        rng = np.random.default_rng([options.seed, position])
        sample, skipped = self._sample(position, rng)
        if options.crop == "random":
            rows, columns = random_crop(sample.mask, rng)
            image, mask, name = sample.image[rows, columns], sample.mask[rows, columns], ""
        else:
            image, mask, name = sample.image, sample.mask, sample.source or sample.key
        template = options.template or TEMPLATES[int(rng.integers(len(TEMPLATES)))]
        pixels, target = stretch_to_square(image, mask, options.size)
        timestep = int(rng.integers(options.timesteps[0], options.timesteps[1] + 1))
        sentence = template.replace("{}", sample.phrase)
        return Item(pixels, target, sentence, name, timestep, int(rng.integers(2**62)), skipped)

    def _sample(self, position: int, rng: np.random.Generator) -> tuple[Sample, tuple[Skipped, ...]]:
        """The position's sample, or the next one that can be read."""
        epoch, place = divmod(position, len(self.samples))
        if self._epoch is None or self._epoch[0] != epoch:
            order = np.random.default_rng([self.options.seed, 1, epoch]).permutation(len(self.samples))
            self._epoch = (epoch, order)
        order, skipped = self._epoch[1], list[Skipped]()
        for more in range(min(100, len(order))):
            index = int(order[(place + more) % len(order)])
            found = self.samples[index]
            if isinstance(found, Sample):
                if rng.random() < self.options.negatives:
                    found = self._negative(found, index, rng)
                return found, tuple(skipped)
            skipped.append(found)
        raise DatasetError(
            f"{len(skipped)} samples one after the other cannot be read, the last one because: {skipped[-1].text}"
        )

    def _negative(self, sample: Sample, index: int, rng: np.random.Generator) -> Sample:
        """The same image with a phrase for what is not there."""
        if (make := getattr(self.samples, "negative", None)) is not None:
            negative: Sample = make(index, rng)
            return negative
        for _ in range(20):
            other = self.samples[int(rng.integers(len(self.samples)))]
            if isinstance(other, Sample) and other.source != sample.source and other.phrase != sample.phrase:
                return dataclasses.replace(sample, phrase=other.phrase, mask=np.zeros_like(sample.mask))
        return sample


def collate(items: Sequence[Item]) -> Item:
    """Prompts as a batch."""
    return Item(
        torch.from_numpy(np.stack([item.pixels for item in items])),
        torch.from_numpy(np.stack([item.target for item in items])),
        [item.sentence for item in items],  # type: ignore[arg-type]
        [item.picture for item in items],  # type: ignore[arg-type]
        torch.tensor([item.timestep for item in items]),  # type: ignore[arg-type]
        [item.noise_seed for item in items],  # type: ignore[arg-type]
        tuple(skipped for item in items for skipped in item.skipped),
    )
