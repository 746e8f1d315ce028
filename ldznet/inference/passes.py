"""The passes through the network that prompts take: which sentence, timestep and noise each uses."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ldznet.inference.prompts import TEMPLATES
from ldznet.methods.method import RandomInputs
from ldznet.options import SegmentOptions

# done, total: passes of a prompt through the network. Raising in it stops the work.
Progress = Callable[[int, int], None]


def shift_progress(progress: Progress | None, before: int, total: int) -> Progress | None:
    """Tells of a part of the work, behind what was done before."""
    return None if progress is None else lambda done, _part: progress(before + done, total)


class Passes:
    """Which sentence, timestep and noise each pass over the prompts uses.

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

    def _released_draws(self, latent_shape: Sequence[int] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Templates, timesteps and noise, in the order in which the released code draws them."""
        if self._drawn is None:
            assert latent_shape is not None
            g, shape = self._generator, (1, *latent_shape[1:])
            torch.randn(shape, generator=g)  # the posterior's noise, see _draw_posterior
            torch.randint(0, 1, (1,), generator=g)  # the head's own timestep, which is always 0
            weights = torch.ones(len(TEMPLATES))
            templates = torch.multinomial(weights, self.prompts, replacement=True, generator=g)
            timesteps = torch.randint(300, 500, (self.prompts,), generator=g)
            noise = torch.randn((self.prompts, *shape[1:]), generator=g)
            self._drawn = (templates, timesteps, noise)
        return self._drawn

    def prepare(self, latent: Tensor) -> None:
        """Draw what depends on the latent's size."""
        if self.released:
            self._released_draws(latent.shape)

    def template(self, number: int, prompt: int) -> str:
        """The sentence around one prompt in one pass."""
        return TEMPLATES[int(self._released_draws()[0][prompt])] if self.released else self.fixed[number][0]

    def draw(self, number: int, part: slice, latent: Tensor) -> RandomInputs:
        """Timesteps and noise of some prompts in one pass."""
        if self.released:
            _, timesteps, noise = self._released_draws()
            return RandomInputs(timesteps[part], noise[part], self.options.seeds[0])
        _, timestep, seed = self.fixed[number]
        if seed not in self._noise:
            generator = torch.Generator().manual_seed(seed)
            self._noise[seed] = torch.randn((1, *latent.shape[1:]), generator=generator)
        return RandomInputs(torch.full((part.stop - part.start,), timestep), self._noise[seed], seed)
