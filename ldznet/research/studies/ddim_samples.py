"""Make images from captions with a Stable Diffusion model, to see what the embedded one has learned.

Source: Song et al., Denoising Diffusion Implicit Models, https://arxiv.org/abs/2010.02502, eq. 12 without
noise; classifier-free guidance: Ho and Salimans, https://arxiv.org/abs/2207.12598.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldznet.hosts.diffusers.host import DiffusersHost
from ldznet.hosts.host import Context


@torch.no_grad()
def generate(
    host: DiffusersHost,
    captions: Sequence[str],
    *,
    size: int = 128,
    steps: int = 30,
    guidance: float = 7.0,
    seed: int = 0,
) -> NDArray[np.uint8]:
    """Make one image for each caption -> (N, size, size, 3) RGB."""
    context = Context.join([host.encode_prompt(list(captions)), host.encode_prompt([""] * len(captions))])
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn((len(captions), 4, size // 8, size // 8), generator=generator).to(host.device)
    signal_share = host.schedule.alphas_cumprod
    # Evenly spaced, as the paper's "linear" choice.
    times = torch.linspace(999, 0, steps + 1).round().long()
    for timestep, following in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        # One pass for both halves of the guidance.
        both = host.predict_noise(
            torch.cat([latent, latent]), torch.full((2 * len(latent),), timestep), context
        ).float()
        # Guidance: away from the prediction without a caption.
        with_caption, without = both.chunk(2)
        noise = without + guidance * (with_caption - without)
        share = signal_share[timestep]
        signal = (latent - (1 - share).sqrt().item() * noise) / share.sqrt().item()
        share = signal_share[following]
        latent = share.sqrt().item() * signal + (1 - share).sqrt().item() * noise
    return decode_images(host, signal)


def decode_images(host: DiffusersHost, latent: Tensor) -> NDArray[np.uint8]:
    """Decode (N, 4, h, w) -> (N, 8h, 8w, 3) RGB with the model's VAE."""
    images = host.vae.decode((latent / host.vae.scale).to(host.dtype)).float().clamp(-1, 1)
    return ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
