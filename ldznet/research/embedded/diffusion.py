"""A small latent diffusion model of Stable Diffusion 1.x's structure, trained from scratch on scenes.

Stages, each resumable to the step: the KL autoencoder's encoder on pictures, then its decoder (autoencoder.py);
the latents of a number of scenes (latents.py); here, UNet and text encoder together on these latents and their
captions in all looks, with the noise prediction loss. tiny_files.py writes what a webui loads.

Sources: Rombach et al., Latent Diffusion Models, CVPR 2022, https://arxiv.org/abs/2112.10752; Hang et al.,
Efficient Diffusion Training via Min-SNR Weighting Strategy, ICCV 2023, https://arxiv.org/abs/2303.09556
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldznet.errors import OptionError
from ldznet.hosts.host import Schedule
from ldznet.research.embedded.latents import LatentCache
from ldznet.research.embedded.model import TinyConfig, TinyModel
from ldznet.research.embedded.resumable_stage import (
    RunOptions,
    Stage,
    share_of_launch,
    step_generator,
    train_stage,
    wait_for_all,
)


def train_unet(config: TinyConfig, options: RunOptions, say: Callable[[str], None] = print) -> bool:
    """Train UNet and text encoder on the finished autoencoder's latents; True when their steps are done.

    The first thing is to encode the scenes, which is kept for the next run.

    Raises:
        OptionError: the encoder has not been trained yet.
    """
    start = time.monotonic()
    rank, processes = share_of_launch()
    cache = LatentCache.make(config, options, say) if not rank else None
    wait_for_all()
    if rank and len((kept := LatentCache.read(options.folder)).captions) >= config.scenes:
        cache = LatentCache(kept.latents[: config.scenes], kept.captions[: config.scenes])
    if cache is None:
        return False
    options = replace(options, minutes=max(0.0, options.minutes - (time.monotonic() - start) / 60))
    torch.manual_seed(1)
    model = TinyModel(config, options.folder / "tokenizer").to(options.device)
    parts = nn.ModuleDict({"unet": model.unet, "text": model.text})
    if (options.folder / "start.pt").exists():
        parts.load_state_dict(torch.load(options.folder / "start.pt", map_location="cpu", weights_only=True))
    stage = Stage("unet", parts, config.unet_rate, config.warmup, config.ema, options.folder, options.steps)
    stage.average.to(options.device)
    for state in stage.optimizer.state.values():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.ndim:
                state[key] = value.to(options.device)
    schedule = Schedule.scaled_linear()

    if config.batch % processes:
        raise OptionError(
            f"A batch of {config.batch} cannot be shared by {processes} processes. Start a number that divides it."
        )

    def loss_of(latent: Tensor, captions: list[str]) -> Tensor:
        generator = step_generator(stage.step)
        noise = torch.randn(latent.shape, generator=generator)
        timesteps = torch.randint(0, 1000, (len(latent),), generator=generator)
        dropped = torch.rand(len(latent), generator=generator) < config.caption_dropout
        given = ["" if drop else text for drop, text in zip(dropped.tolist(), captions, strict=True)]
        # All chance is the batch's; a process takes its share of it.
        latent, noise = latent[rank::processes].to(options.device), noise[rank::processes].to(options.device)
        timesteps, given = timesteps[rank::processes], given[rank::processes]
        context = model.context(given)
        noisy = schedule.add_noise(latent, noise, timesteps)
        found = model.unet(noisy, timesteps.to(latent.device), context)
        errors = F.mse_loss(found.float(), noise, reduction="none").mean(dim=(1, 2, 3))
        return (errors * loss_weights(schedule, timesteps, config.snr_range).to(errors.device)).mean()

    batches = cache.batches(config, stage.step, options.steps)
    return train_stage(stage, batches, config.batch, options, loss_of, say)


def loss_weights(schedule: Schedule, timesteps: Tensor, snr_range: tuple[float, float]) -> Tensor:
    """(B,) timesteps -> (B,): the signal-to-noise ratio, held in a range, over itself.

    Source: the upper bound, Hang et al., https://arxiv.org/abs/2303.09556, equation 7; the lower, the truncated
    SNR of Salimans and Ho, https://arxiv.org/abs/2202.00512, section 4.
    """
    kept = schedule.alphas_cumprod[timesteps]
    snr = kept / (1 - kept)
    return (snr.clamp(*snr_range) / snr).float()
