"""The coarse map of the LD-ZNet paper: where the prompt changes what the UNet takes for noise. No training.

The same noisy latent goes through the UNet with the prompt and with the empty prompt; where the two noise
predictions differ, in the L2 norm over the 4 latent channels, the prompt has something to say.

    noisy_latent  (noises, 4, h, w)
    heat          (P, h, w)          the norm, averaged over the noises

Source: PNVR et al., ICCV 2023, https://arxiv.org/abs/2303.12343, figure 1. What follows the norm is that of
Couairon et al., DiffEdit, https://arxiv.org/abs/2210.11427: several noises, outliers clamped at a multiple of the
mean, and that multiple taken for 1. The level is therefore relative to the picture: what stands at 0.5 has
half of `clamp` times the mean difference. A difference that is the same everywhere is 1 / clamp and gives an
empty mask, but what stands out for any reason lights up, whether or not the thing is there; `level` gives an
absolute scale instead.
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

from ldznet.hosts.host import Context, Host, HostInfo
from ldznet.methods.method import Defaults, EncodedImage, Prompts, RandomInputs
from ldznet.options import Options, option


@dataclass(frozen=True, kw_only=True)
class DifferenceOptions(Options):
    """How two noise predictions become a probability."""

    noises: int = option(
        10, "noises whose differences are averaged; the first is that of the seed", low=1, high=256
    )
    clamp: float = option(
        3.0, "times the mean difference: what is 1, and where more is cut off", low=1.0, high=100.0
    )
    level: float = option(
        0.0, "a difference (L2 norm) that is 1 in every picture; 0 goes by the picture's mean", low=0.0, high=100.0
    )
    blur: float = option(1.0, "sigma of the Gaussian blur, in pixels of the latent", low=0.0, high=16.0)
    rows: int = option(
        8, "latents that run through the UNet at once, unless there are more prompts", low=1, high=256
    )


PUBLISHED = Defaults(resolution=512, timesteps=(400,), template="a picture of a {}.")
SMALL = dataclasses.replace(PUBLISHED, resolution=128)  # the size of the scenes that the embedded model knows


class DifferenceMethod:
    """Conditional minus unconditional noise prediction; noises (P + 1) passes through the UNet for P prompts.

    Without arguments with the published values; `for_host` takes those that suit a model.
    """

    name = "difference"
    needs_all_prompts = False

    def __init__(self, options: DifferenceOptions | None = None, defaults: Defaults = PUBLISHED) -> None:
        self.options = options or DifferenceOptions()
        self.defaults = defaults

    @classmethod
    def for_host(cls, info: HostInfo) -> DifferenceMethod:
        """With the defaults that suit a model."""
        return cls(defaults=SMALL if info.is_small else PUBLISHED)

    @property
    def record(self) -> Mapping[str, Any]:
        """All options."""
        return {"method": self.name, "method_options": dataclasses.asdict(self.options)}

    def check(self, host: HostInfo) -> None:
        """Every model will do."""

    @torch.no_grad()
    def probability(self, host: Host, picture: EncodedImage, prompts: Prompts, draw: RandomInputs) -> Tensor:
        """-> (P, h, w) float32 in [0, 1], at the size of the picture's pixels; see the module for its level."""
        heat = self.heat(host, picture, prompts, draw)
        relative = self.options.clamp * heat.mean(dim=(1, 2), keepdim=True).clamp_min(1e-12)
        heat = (heat / (self.options.level or relative)).clamp(max=1)
        heat = blur_maps(heat, self.options.blur)
        heat = F.interpolate(heat[:, None], size=picture.pixels.shape[-2:], mode="bicubic", align_corners=False)
        return heat[:, 0].clamp(0, 1)

    @torch.no_grad()
    def heat(self, host: Host, picture: EncodedImage, prompts: Prompts, draw: RandomInputs) -> Tensor:
        """The mean norm of the difference -> (P, h', w') float32, at the size of the latent."""
        context = prompts.encode(["", *prompts.sentences])
        if len(draw.noise) == 1 and len(set(draw.timesteps.tolist())) == 1:
            return self._heat(host, picture.latent, context, draw.timesteps[:1], self._noises(draw, draw.noise))
        single = []  # a noise and timestep for each prompt
        for index in range(len(prompts)):
            pair = Context.join([context[:1], context[index + 1 : index + 2]])
            first = draw.noise[index : index + 1] if len(draw.noise) > 1 else draw.noise
            timestep = draw.timesteps[index : index + 1]
            single.append(self._heat(host, picture.latent, pair, timestep, self._noises(draw, first)))
        return torch.cat(single)

    def _noises(self, draw: RandomInputs, first: Tensor) -> Tensor:
        """(1, 4, h, w) -> (noises, 4, h, w), on the CPU; `first` and more of the seed's own generator."""
        generator = torch.Generator().manual_seed(draw.seed)
        torch.randn(first.shape, generator=generator)  # `first` itself, where nobody asked for another
        more = torch.randn((self.options.noises - 1, *first.shape[1:]), generator=generator)
        return torch.cat([first.cpu(), more])

    def _heat(self, host: Host, latent: Tensor, context: Context, timestep: Tensor, noises: Tensor) -> Tensor:
        """(1, 4, h, w), 1 + P prompts of which the first is empty, (1,), (N, 4, h, w) -> (P, h, w) float32."""
        total = latent.new_zeros(len(context) - 1, *latent.shape[2:], dtype=torch.float32)
        for part in torch.split(noises, max(1, self.options.rows // len(context))):
            noisy_latent = host.add_noise(latent, part, timestep.expand(len(part)))
            noisy_latent = noisy_latent.repeat_interleave(len(context), dim=0)
            given = Context.join([context] * len(part))
            predicted = host.predict_noise(noisy_latent, timestep.expand(len(given)), given).float()
            predicted = predicted.reshape(len(part), len(context), *latent.shape[1:])  # (n, 1 + P, 4, h, w)
            total += (predicted[:, 1:] - predicted[:, :1]).norm(dim=2).sum(dim=0).to(total.device)
        return total / len(noises)


def blur_maps(maps: Tensor, sigma: float) -> Tensor:
    """(P, h, w) after a Gaussian blur; beyond the border the outermost values go on."""
    if not sigma:
        return maps
    radius = math.ceil(3 * sigma)
    at = torch.arange(-radius, radius + 1, dtype=maps.dtype, device=maps.device)
    kernel = (-0.5 * (at / sigma) ** 2).exp()
    kernel /= kernel.sum()
    padded = F.pad(maps[:, None], (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel[None, None, :, None]), kernel[None, None, None])[:, 0]
