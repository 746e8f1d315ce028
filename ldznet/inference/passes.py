"""Passes of prompts through the network: their number, and the sentence, timestep and noise of each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ldznet.hosts.host import HostInfo
from ldznet.inference.prompts import TEMPLATES
from ldznet.inference.tiles import PARTS, TILES
from ldznet.methods.method import RandomInputs
from ldznet.methods.registry import method_entry
from ldznet.options import SegmentOptions

# Called with the passes that are done and their total. Raising in it stops the work.
Progress = Callable[[int, int], None]

BATCH = 8  # prompts that run at once on a CPU, and at least where memory is short


def shift_progress(progress: Progress | None, before: int, total: int) -> Progress | None:
    """Return a callback for one part of the work, which reports after the `before` passes of earlier parts."""
    return None if progress is None else lambda done, _part: progress(before + done, total)


def count_passes(method: str, options: SegmentOptions, prompts: int, info: HostInfo | None = None) -> int:
    """Return an upper bound of the passes through the UNet, with all noises, rivals and repeated looks.

    `method` is the name of a method other than auto. Without `info`, a full-size model is assumed.
    """
    count = method_entry(method).count_passes
    batch = options.batch or BATCH
    # What a method adds for a batch, such as the empty prompt, it adds for each batch.
    batches, rest = divmod(prompts, batch)
    together = batches * count(batch, info) + (count(rest, info) if rest else 0)
    if options.refine:  # the tiles with all prompts, and at most PARTS boxes of each prompt alone
        together = (1 + TILES**2) * together + PARTS * prompts * count(1, info)
    return together if options.randomness == "released" else together * _combinations(options)


def _combinations(options: SegmentOptions) -> int:
    """Return how many combinations of sentence, timestep and seed are averaged; open timesteps count as one."""
    templates = len(TEMPLATES) if options.average_templates else 1
    return templates * max(1, len(options.timesteps)) * len(options.seeds)


class Passes:
    """The sentence, timestep and noise of each pass over the prompts.

    All noise comes from private generators on the CPU, so that it is the same on every device and leaves
    the random states of host and user alone.
    """

    def __init__(self, options: SegmentOptions, prompts: int) -> None:
        self.options = options
        self.released = options.randomness == "released"
        templates = TEMPLATES if options.average_templates else (options.template,)
        self.fixed = list(itertools.product(templates, options.timesteps, options.seeds))
        self.count = 1 if self.released else len(self.fixed)
        self.prompts = prompts
        self.posterior_noise: Callable[..., Tensor] | None = None
        self._noise: dict[int, Tensor] = {}
        if self.released:
            self._generator = torch.Generator().manual_seed(options.seeds[0])
            self.posterior_noise = self._draw_posterior
            self._drawn: tuple[Tensor, Tensor, Tensor] | None = None

    def _draw_posterior(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(self.options.seeds[0]))

    def _draw_released(self, latent_shape: Sequence[int] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return templates, timesteps and noise, drawn in the order of the released code."""
        if self._drawn is None:
            assert latent_shape is not None
            generator, shape = self._generator, (1, *latent_shape[1:])
            # Two values that are not used: the released code has drawn them before, see _draw_posterior.
            torch.randn(shape, generator=generator)  # noise of the posterior
            torch.randint(0, 1, (1,), generator=generator)  # timestep of the head, always 0
            weights = torch.ones(len(TEMPLATES))
            templates = torch.multinomial(weights, self.prompts, replacement=True, generator=generator)
            timesteps = torch.randint(300, 500, (self.prompts,), generator=generator)
            noise = torch.randn((self.prompts, *shape[1:]), generator=generator)
            self._drawn = (templates, timesteps, noise)
        return self._drawn

    def prepare(self, latent: Tensor) -> None:
        """Draw everything that depends on the size of the latent."""
        if self.released:
            self._draw_released(latent.shape)

    def template(self, number: int, prompt: int) -> str:
        """Return the sentence around one prompt in one pass."""
        return TEMPLATES[int(self._draw_released()[0][prompt])] if self.released else self.fixed[number][0]

    def random_inputs(self, number: int, part: slice, latent: Tensor) -> RandomInputs:
        """Return timesteps and noise of some prompts in one pass."""
        if self.released:
            _, timesteps, noise = self._draw_released()
            return RandomInputs(timesteps[part], noise[part], self.options.seeds[0])
        _, timestep, seed = self.fixed[number]
        if seed not in self._noise:
            generator = torch.Generator().manual_seed(seed)
            self._noise[seed] = torch.randn((1, *latent.shape[1:]), generator=generator)
        return RandomInputs(torch.full((part.stop - part.start,), timestep), self._noise[seed], seed)
