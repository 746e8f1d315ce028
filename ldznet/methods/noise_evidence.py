"""Evidence for a phrase: does it help the model to predict the noise, and where?

A diffusion model removes the noise from an image better with a prompt that says what the image shows. So the
same noise is predicted with the phrase and with a few rivals in its place. The thing is where the error of the
phrase is smaller. A phrase whose error over its whole map is larger than that of the rivals by more than a fixed
part is absent. That part is the same for every image.

    noises   (k, 4, h, w)   from the generator of the seed, the same for all prompts
    errors   (n, S, h, w)   squared error of n noise predictions with S sentences, mean over the 4 channels
    gains    (P, h, w)      how much smaller a phrase's error is than its rivals' mean, as a part of that mean

Source: Li et al., Your Diffusion Model is Secretly a Zero-Shot Classifier, ICCV 2023,
https://arxiv.org/abs/2303.16203, which compares the errors of whole images and takes the best class. Reading
them pixel by pixel, and a level instead of the best, are our additions.
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
    """The gains of P phrases as parts of the error of their rivals: 0.02 is an error smaller by 2 %."""

    gains: Tensor  # (P, h, w), blurred
    whole: Tensor  # (P,): over the whole map of the phrase; infinite where it has no rivals


def draw_noises(latent: Tensor, count: int, seed: int) -> Tensor:
    """Draw noises (count, 4, h, w) for a latent (1, 4, h, w): on the CPU, the same on every device."""
    return torch.randn((count, *latent.shape[1:]), generator=torch.Generator().manual_seed(seed))


def noise_errors(host: Host, latent: Tensor, context: Context, timesteps: Sequence[int], noises: Tensor) -> Tensor:
    """Return the errors (timesteps * noises, S, h, w) of each noise at each timestep with S prompts, on the CPU.

    As many latents run at once as fit into memory, eight at most.
    """
    rows, most = [], _ROWS
    for timestep in timesteps:
        for noise in torch.split(noises, 1):
            noisy_latent = host.add_noise(latent, noise, torch.tensor([timestep]))
            parts, start = [], 0
            while start < len(context):
                part = context[start : start + most]
                # The list of sentences is longer than the user's list of prompts, so that it may not fit.
                try:
                    predicted = host.predict_noise(
                        noisy_latent.expand(len(part), -1, -1, -1), torch.full((len(part),), timestep), part
                    )
                except Exception as error:
                    if not is_out_of_memory(error) or most == 1:
                        raise
                    most //= 2  # for the rest of the run too: it would fail again
                    host.clear_memory()
                    continue
                # In float32, since gains of a few percent are the difference of two errors.
                parts.append((predicted.float().cpu() - noise).square().mean(dim=1))
                start += len(part)
            rows.append(torch.cat(parts))
    return torch.stack(rows)


def compare(errors: Tensor, rivals: Tensor, counts: Tensor, maps: Tensor, sigma: float) -> Evidence:
    """Compare the errors of P phrases (n, P, h, w) with those of R rivals (n, R, h, w).

    `counts` (P, R) says which rival counts for which phrase, `maps` (P, h, w) how much a place counts for the
    whole. Every noise prediction counts the same, however large its errors are. Where a phrase has no rivals, its
    gains are 0.
    """
    share = counts.float() / counts.sum(dim=1, keepdim=True).clamp_min(1)
    mean = torch.einsum("nrhw,pr->nphw", rivals, share)
    # Errors differ between timesteps; divided by their mean, each noise prediction weighs the same.
    scale = mean.mean(dim=(2, 3), keepdim=True).clamp_min(_TINY)
    none = ~counts.any(dim=1)[:, None, None]
    gains = ((mean - errors) / scale).mean(dim=0).masked_fill(none, 0)
    mean = (mean / scale).mean(dim=0)
    whole = (gains * maps).sum(dim=(1, 2)) / (mean * maps).sum(dim=(1, 2)).clamp_min(_TINY)
    whole = whole.masked_fill(none[:, 0, 0], torch.inf)
    return Evidence(blur_maps(gains, sigma) / blur_maps(mean, sigma).clamp_min(_TINY), whole)


def apply_evidence(maps: Tensor, evidence: Evidence, scale: float, level: float, width: float) -> Tensor:
    """Lower maps (P, h, w) in [0, 1] where the phrase does not help, and as a whole where it never does.

    A place counts 0.73 where the phrase gains `scale`, and 0.27 where it loses as much; then the largest value is
    restored. A `scale` of 0 leaves places alone. The whole counts 0.5 at `level` and 0.73 a `width` above it.
    """
    if scale:
        highest = maps.amax(dim=(1, 2), keepdim=True)
        weights = F.logsigmoid(evidence.gains / scale)
        weights = (weights - weights.amax(dim=(1, 2), keepdim=True)).exp()  # else all may become 0 by rounding
        maps = maps * weights
        maps = maps * highest / maps.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
    return maps * presence(evidence, level, width)[:, None, None]


def presence(evidence: Evidence, level: float, width: float) -> Tensor:
    """Return the probability that each phrase is in the image: (P,)."""
    return ((evidence.whole - level) / width).sigmoid()


def resize_like(maps: Tensor, like: Tensor) -> Tensor:
    """Resize maps (P, h, w) to the sides of another tensor."""
    return F.interpolate(maps[:, None], size=like.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


def names_another_thing(phrase: str, rival: str) -> bool:
    """Return whether a rival and a phrase share no word, small words aside."""
    phrase_words, rival_words = (set(re.findall(r"\w+", text.casefold())) for text in (phrase, rival))
    return not (phrase_words & rival_words) - SMALL_WORDS
