"""Which thing is meant, and whether it is there at all: do its words help the model to predict the noise?

A diffusion model takes the noise out of a picture better when it is told what the picture shows. So the same
noise is predicted with the phrase and with a few rivals in its place. Where the phrase's error is the smaller one,
there is what it says; a phrase that loses more than a given part against the rivals, over all that was found of
it, is not there. That part is the same for every picture.

    noises   (k, 4, h, w)   of the seed's own generator, the same for all words
    errors   (n, S, h, w)   squared error of n noise predictions with S sentences, mean over the 4 channels
    gains    (P, h, w)      how much smaller a phrase's error is than its rivals' mean, as a part of that

Source: Li et al., Your Diffusion Model is Secretly a Zero-Shot Classifier, ICCV 2023,
https://arxiv.org/abs/2303.16203, which compares the errors of whole pictures and takes the best class. Reading
them pixel by pixel, and a level instead of the best, are ours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ldznet.hosts.host import Context, Host
from ldznet.memory_errors import is_out_of_memory
from ldznet.methods.noise_difference import blur_maps
from ldznet.methods.token_spans import SMALL_WORDS

_ROWS = 8  # latents that run through the UNet at once
_TINY = 1e-9


@dataclass(frozen=True)
class Evidence:
    """What noise predictions say of P phrases, as parts of the rivals' error: 0.02 is an error smaller by 2 %."""

    gains: Tensor  # (P, h, w), blurred
    whole: Tensor  # (P,): all that was found of the phrase together; infinite where it has no rivals


def draw_noises(latent: Tensor, count: int, seed: int) -> Tensor:
    """(1, 4, h, w) -> (count, 4, h, w), on the CPU, the same on every device."""
    return torch.randn((count, *latent.shape[1:]), generator=torch.Generator().manual_seed(seed))


def noise_errors(host: Host, latent: Tensor, context: Context, timesteps: Sequence[int], noises: Tensor) -> Tensor:
    """For each noise at each timestep and each of S prompts -> (timesteps * noises, S, h, w), on the CPU.

    As many latents run at once as fit into memory, eight at most.
    """
    rows, most = [], _ROWS
    for timestep in timesteps:
        for noise in torch.split(noises, 1):
            noisy_latent = host.add_noise(latent, noise, torch.tensor([timestep]))
            parts, start = [], 0
            while start < len(context):
                given = context[start : start + most]
                try:
                    predicted = host.predict_noise(
                        noisy_latent.expand(len(given), -1, -1, -1), torch.full((len(given),), timestep), given
                    )
                except Exception as error:
                    if not is_out_of_memory(error) or most == 1:
                        raise
                    most //= 2
                    host.clear_memory()
                    continue
                parts.append((predicted.float().cpu() - noise).square().mean(dim=1))
                start += len(given)
            rows.append(torch.cat(parts))
    return torch.stack(rows)


def compare(errors: Tensor, rivals: Tensor, counts: Tensor, found: Tensor, sigma: float) -> Evidence:
    """Errors of P phrases (n, P, h, w) against those of R rivals (n, R, h, w).

    `counts` (P, R) tells which rival is one for which phrase, `found` (P, h, w) how much a place counts for the
    whole. Every noise prediction counts the same, however large its errors are. Where a phrase has no rivals, its
    gains are 0.
    """
    share = counts.float() / counts.sum(dim=1, keepdim=True).clamp_min(1)
    mean = torch.einsum("nrhw,pr->nphw", rivals, share)
    scale = mean.mean(dim=(2, 3), keepdim=True).clamp_min(_TINY)
    none = ~counts.any(dim=1)[:, None, None]
    gained = ((mean - errors) / scale).mean(dim=0).masked_fill(none, 0)
    mean = (mean / scale).mean(dim=0)
    whole = (gained * found).sum(dim=(1, 2)) / (mean * found).sum(dim=(1, 2)).clamp_min(_TINY)
    whole = whole.masked_fill(none[:, 0, 0], torch.inf)
    return Evidence(blur_maps(gained, sigma) / blur_maps(mean, sigma).clamp_min(_TINY), whole)


def apply_evidence(found: Tensor, evidence: Evidence, scale: float, level: float, width: float) -> Tensor:
    """(P, h, w) in [0, 1] -> the same, less where the words do not help, and wholly less where they never do.

    A place counts 0.73 where the words gain `scale`, 0.27 where they lose as much, and the largest value then
    becomes what it was; 0 leaves places alone. The whole counts 0.5 at `level` and 0.73 a `width` above it.
    """
    if scale:
        highest = found.amax(dim=(1, 2), keepdim=True)
        weights = F.logsigmoid(evidence.gains / scale)
        weights = (weights - weights.amax(dim=(1, 2), keepdim=True)).exp()  # else all may vanish by rounding
        found = found * weights
        found = found * highest / found.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(found.dtype).tiny)
    return found * presence(evidence, level, width)[:, None, None]


def presence(evidence: Evidence, level: float, width: float) -> Tensor:
    """How likely each phrase is there -> (P,)."""
    return ((evidence.whole - level) / width).sigmoid()


def resize_like(maps: Tensor, like: Tensor) -> Tensor:
    """(P, h, w) -> (P, h', w') with the sides of another tensor."""
    return F.interpolate(maps[:, None], size=like.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


def names_another_thing(phrase: str, rival: str) -> bool:
    """Whether a rival names something else than the phrase does: no word of it but a small one is the phrase's."""
    said, words = (set(re.findall(r"\w+", text.casefold())) for text in (phrase, rival))
    return not (said & words) - SMALL_WORDS
