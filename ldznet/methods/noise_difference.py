"""The coarse map of the LD-ZNet paper: where the prompt changes the noise prediction of the UNet. No training.

The same noisy latent goes through the UNet with the prompt and with the empty prompt. The map is the difference of
the two noise predictions, in the L2 norm over the 4 latent channels.

    noisy_latent  (noises, 4, h, w)
    heat          (P, h, w)          the norm, averaged over the noises

Source: PNVR et al., ICCV 2023, https://arxiv.org/abs/2303.12343, figure 1. The steps after the norm are those of
Couairon et al., DiffEdit, https://arxiv.org/abs/2210.11427: several noises, outliers clamped at a multiple of the
mean, and that multiple scaled to 1. The level is therefore relative to the image: 0.5 is half of `clamp` times the
mean difference. A difference that is the same everywhere is 1 / clamp and gives an empty mask, but whatever stands
out lights up, whether or not the thing is there; `level` gives an absolute scale instead.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ldznet.errors import OptionError
from ldznet.hosts.host import Context, Host, HostInfo
from ldznet.methods.method import Defaults, EncodedImage, Prompts, RandomInputs, SuitedThreshold


@dataclass(frozen=True, kw_only=True)
class DifferenceOptions:
    """Options by which two noise predictions become a probability."""

    noises: int = 10  # noises whose differences are averaged; the first is that of the seed
    clamp: float = 3.0  # multiple of the mean difference that becomes 1; larger differences are cut off
    level: float = 0.0  # a difference (L2 norm) that becomes 1 in every image; 0 uses the mean of the image
    blur: float = 1.0  # sigma of the Gaussian blur, in pixels of the latent
    rows: int = 8  # latents that run through the UNet at once, unless there are more prompts

    def __post_init__(self) -> None:
        """Refuse a count of noises that leaves nothing to average.

        Raises:
            OptionError: noises is below 1.
        """
        if self.noises < 1:
            raise OptionError(f"noises is {self.noises}, but it must be at least 1 (default 10).")


PUBLISHED = Defaults(resolution=512, timesteps=(400,), template="a picture of a {}.")
# For small models: the size of the scenes that the embedded one knows, and a sentence in which its text encoder
# tells nouns apart. The threshold is what `evaluate scenes --method difference` prints.
SMALL = Defaults(
    resolution=128,
    timesteps=(400,),
    template="a {}",
    threshold=SuitedThreshold(0.5, "measured for small models"),
)


class DifferenceMethod:
    """Subtracts the unconditional from the conditional noise prediction; noises (P + 1) passes for P prompts.

    Without arguments, it has the published values; `for_host` takes those that suit a model.
    """

    name = "difference"
    needs_all_prompts = False

    def __init__(self, options: DifferenceOptions | None = None, defaults: Defaults = PUBLISHED) -> None:
        self.options = options or DifferenceOptions()
        self.defaults = defaults

    @classmethod
    def for_host(cls, info: HostInfo) -> DifferenceMethod:
        """Return the method with the defaults that suit a model."""
        return cls(defaults=SMALL if info.is_small else PUBLISHED)

    @property
    def record(self) -> Mapping[str, Any]:
        """Return all options."""
        return {"method": self.name, "method_options": dataclasses.asdict(self.options)}

    def check(self, host: HostInfo) -> None:
        """Accept every model."""

    @torch.no_grad()
    def probability(self, host: Host, encoded: EncodedImage, prompts: Prompts, inputs: RandomInputs) -> Tensor:
        """Return (P, h, w) float32 in [0, 1], at the size of the image's pixels; see the module for its level."""
        heat = self.heat(host, encoded, prompts, inputs)
        relative = self.options.clamp * heat.mean(dim=(1, 2), keepdim=True).clamp_min(1e-12)
        heat = (heat / (self.options.level or relative)).clamp(max=1)
        heat = blur_maps(heat, self.options.blur)
        heat = F.interpolate(heat[:, None], size=encoded.pixels.shape[-2:], mode="bicubic", align_corners=False)
        return heat[:, 0].clamp(0, 1)

    @torch.no_grad()
    def heat(self, host: Host, encoded: EncodedImage, prompts: Prompts, inputs: RandomInputs) -> Tensor:
        """Return the mean norm of the difference, (P, h', w') float32, at the size of the latent."""
        context = prompts.encode(["", *prompts.sentences])
        if len(inputs.noise) == 1 and len(set(inputs.timesteps.tolist())) == 1:
            return self._heat(
                host, encoded.latent, context, inputs.timesteps[:1], self._noises(inputs, inputs.noise)
            )
        single = []  # each prompt has its own noise and timestep, so that no batch can be shared
        for index in range(len(prompts)):
            pair = Context.join([context[:1], context[index + 1 : index + 2]])
            first = inputs.noise[index : index + 1] if len(inputs.noise) > 1 else inputs.noise
            timestep = inputs.timesteps[index : index + 1]
            single.append(self._heat(host, encoded.latent, pair, timestep, self._noises(inputs, first)))
        return torch.cat(single)

    def _noises(self, inputs: RandomInputs, first: Tensor) -> Tensor:
        """Return (noises, 4, h, w) on the CPU: `first`, and more from the generator of the seed."""
        generator = torch.Generator().manual_seed(inputs.seed)
        torch.randn(first.shape, generator=generator)  # skips the values of `first`
        more = torch.randn((self.options.noises - 1, *first.shape[1:]), generator=generator)
        return torch.cat([first.cpu(), more])

    def _heat(self, host: Host, latent: Tensor, context: Context, timestep: Tensor, noises: Tensor) -> Tensor:
        """Average the norm over N noises -> (P, h, w) float32; the first of 1 + P contexts is the empty prompt."""
        total = latent.new_zeros(len(context) - 1, *latent.shape[2:], dtype=torch.float32)
        for part in torch.split(noises, max(1, self.options.rows // len(context))):
            noisy_latent = host.add_noise(latent, part, timestep.expand(len(part)))
            noisy_latent = noisy_latent.repeat_interleave(len(context), dim=0)
            repeated = Context.join([context] * len(part))
            predicted = host.predict_noise(noisy_latent, timestep.expand(len(repeated)), repeated).float()
            predicted = predicted.reshape(len(part), len(context), *latent.shape[1:])  # (n, 1 + P, 4, h, w)
            total += (predicted[:, 1:] - predicted[:, :1]).norm(dim=2).sum(dim=0).to(total.device)
        return total / len(noises)


def blur_maps(maps: Tensor, sigma: float) -> Tensor:
    """Return maps (P, h, w) after a Gaussian blur; beyond the border the outermost values continue."""
    if not sigma:
        return maps
    radius = math.ceil(3 * sigma)
    at = torch.arange(-radius, radius + 1, dtype=maps.dtype, device=maps.device)
    kernel = (-0.5 * (at / sigma) ** 2).exp()
    kernel /= kernel.sum()
    padded = F.pad(maps[:, None], (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel[None, None, :, None]), kernel[None, None, None])[:, 0]
