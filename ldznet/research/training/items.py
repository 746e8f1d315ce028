"""Items of a training step: the prompt at each position of an endless training, and batches of them.

All randomness of a position comes from its number and the seed: sample, crop, sentence, timestep, noise. So it
does not depend on which process asks, in which batch, or after how many interruptions.

    pixels  (3, S, S)  float32 in [-1, 1]
    target  (S, S)     bool
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ldznet.errors import OptionError
from ldznet.inference.prompts import TEMPLATES
from ldznet.research.datasets.network_input import random_crop, stretch_to_square
from ldznet.research.datasets.sample import Sample
from ldznet.research.datasets.samples import DatasetError, Samples
from ldznet.research.datasets.skip_report import Skipped
from ldznet.research.training.progress import leave_signals_to_the_trainer
from ldznet.research.training.train_options import TrainOptions


class Item(NamedTuple):
    """One prompt of a step; after `collate`, a batch of them."""

    pixels: Any  # (3, S, S) float32 in [-1, 1]; a Tensor after collation, like the other numbers
    target: Any  # (S, S) bool
    sentence: str
    image_name: str  # the same for the same pixels; empty where they never occur again
    timestep: int
    noise_seed: int
    skipped: tuple[Skipped, ...]


class Stream(torch.utils.data.Dataset[Item]):
    """The prompt at each position of an endless training."""

    def __init__(self, samples: Samples, options: TrainOptions) -> None:
        if not len(samples):
            raise OptionError("The dataset is empty, so there is nothing to train on. Give another one.")
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
        """Return the position's sample, or the next one that can be read, and what was skipped."""
        epoch, place = divmod(position, len(self.samples))
        if self._epoch is None or self._epoch[0] != epoch:
            order = np.random.default_rng([self.options.seed, 1, epoch]).permutation(len(self.samples))
            self._epoch = (epoch, order)
        order, skipped = self._epoch[1], list[Skipped]()
        # 100 unreadable samples in a row are not a few damaged files but a wrong folder.
        for more in range(min(100, len(order))):
            index = int(order[(place + more) % len(order)])
            sample = self.samples[index]
            if isinstance(sample, Sample):
                if rng.random() < self.options.negatives:
                    sample = self._negative(sample, index, rng)
                return sample, tuple(skipped)
            skipped.append(sample)
        raise DatasetError(
            f"{len(skipped)} samples in a row cannot be read, the last one because: {skipped[-1].text}"
        )

    def _negative(self, sample: Sample, index: int, rng: np.random.Generator) -> Sample:
        """Return the same image with a phrase for something that is not in it."""
        if (make := getattr(self.samples, "negative", None)) is not None:
            negative: Sample = make(index, rng)
            return negative
        # A phrase of another image: nobody has checked that it is absent here, but it nearly always is.
        for _ in range(20):
            other = self.samples[int(rng.integers(len(self.samples)))]
            if isinstance(other, Sample) and other.source != sample.source and other.phrase != sample.phrase:
                return dataclasses.replace(sample, phrase=other.phrase, mask=np.zeros_like(sample.mask))
        return sample


def collate(items: Sequence[Item]) -> Item:
    """Join prompts to a batch."""
    return Item(
        torch.from_numpy(np.stack([item.pixels for item in items])),
        torch.from_numpy(np.stack([item.target for item in items])),
        [item.sentence for item in items],  # type: ignore[arg-type]
        [item.image_name for item in items],  # type: ignore[arg-type]
        torch.tensor([item.timestep for item in items]),  # type: ignore[arg-type]
        [item.noise_seed for item in items],  # type: ignore[arg-type]
        tuple(skipped for item in items for skipped in item.skipped),
    )


def load_batches(
    stream: Stream, options: TrainOptions, first_step: int, process: tuple[int, int], workers: int
) -> Iterator[list[Item]]:
    """Yield, for each step from `first_step` on, the parts of the share of process (rank, how many there are)."""
    rank, world = process
    share = options.batch // world
    part = share // options.accumulate
    positions = [
        list(range(start + offset, start + offset + part))
        for start in range(first_step * options.batch, options.steps * options.batch, options.batch)
        for offset in range(rank * share, (rank + 1) * share, part)
    ]
    loader = torch.utils.data.DataLoader(
        stream, batch_sampler=positions, num_workers=workers, collate_fn=collate, worker_init_fn=_start_worker
    )
    parts: list[Item] = []
    for item in loader:
        parts.append(item)
        if len(parts) == options.accumulate:
            yield parts
            parts = []


def _start_worker(_number: int) -> None:
    """Keep a loader's worker to one thread, so that workers do not compete for the cores."""
    import cv2

    leave_signals_to_the_trainer()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
