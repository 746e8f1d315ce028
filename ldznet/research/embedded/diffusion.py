"""A small latent diffusion model of Stable Diffusion 1.x's structure, trained from scratch on scenes.

Stages, each resumable to the step: the KL autoencoder's encoder on crops of scenes, then its decoder
(autoencoder.py); the text encoder on the latents of scenes and their captions (text_encoder.py, latents.py); here,
the UNet on these, with the noise prediction loss. files.py writes what a webui loads.

Sources: Rombach et al., Latent Diffusion Models, CVPR 2022, https://arxiv.org/abs/2112.10752; Hang et al.,
Efficient Diffusion Training via Min-SNR Weighting Strategy, ICCV 2023, https://arxiv.org/abs/2303.09556
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldznet.errors import OptionError
from ldznet.hosts.host import Schedule
from ldznet.research.embedded.latents import Latents
from ldznet.research.embedded.model import TinyConfig, TinyModel
from ldznet.research.embedded.resumable_stage import (
    RunOptions,
    Stage,
    share_of_launch,
    step_generator,
    train_stage,
)
from ldznet.research.embedded.text_encoder import load_text
from ldznet.research.scenes.icons import IconWorld


def train_unet(
    config: TinyConfig, options: RunOptions, world: IconWorld, say: Callable[[str], None] = print
) -> bool:
    """Train the UNet on the finished encoder's latents and text encoder's contexts; True when its steps are done.

    Raises:
        OptionError: one of these has not been trained yet, or the processes cannot share a batch.
    """
    rank, processes = share_of_launch()
    latents = Latents(config, options, world, say)
    torch.manual_seed(1)
    model = TinyModel(config, options.folder / "tokenizer", world.vocabulary).to(options.device)
    load_text(model, options.folder)
    parts = nn.ModuleDict({"unet": model.unet, "text": model.text})
    if (options.folder / "start.pt").exists():
        start = torch.load(options.folder / "start.pt", map_location="cpu", weights_only=True)
        model.unet.load_state_dict(start)
    # Convolutions of bfloat16 are computed in this layout on a CPU; latents come in it, too.
    model.unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    stage = Stage(
        "unet",
        parts,
        config.unet_rate,
        config.warmup,
        config.ema,
        options.folder,
        options.steps,
        config.unet_plateau,
    )
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
        texts = ["" if drop else text for drop, text in zip(dropped.tolist(), captions, strict=True)]
        # Randomness belongs to the whole batch; a process takes its share of it.
        latent, noise = latent[rank::processes].to(options.device), noise[rank::processes].to(options.device)
        timesteps, texts = timesteps[rank::processes], texts[rank::processes]
        with torch.no_grad():
            context = model.context(texts)
        noisy = schedule.add_noise(latent, noise, timesteps).contiguous(memory_format=torch.channels_last)
        prediction = model.unet(noisy, timesteps.to(latent.device), context)
        errors = F.mse_loss(prediction.float(), noise, reduction="none").mean(dim=(1, 2, 3))
        return (errors * loss_weights(schedule, timesteps, config.snr_range).to(errors.device)).mean()

    return train_stage(stage, latents.batches(stage.step), config.batch, options, loss_of, say)


def loss_weights(schedule: Schedule, timesteps: Tensor, snr_range: tuple[float, float]) -> Tensor:
    """Return (B,) weights for (B,) timesteps: the signal-to-noise ratio, held in a range, over itself.

    Source: the upper bound, Hang et al., https://arxiv.org/abs/2303.09556, equation 7; the lower, the truncated
    SNR of Salimans and Ho, https://arxiv.org/abs/2202.00512, section 4.
    """
    signal = schedule.alphas_cumprod[timesteps]
    snr = signal / (1 - signal)
    return (snr.clamp(*snr_range) / snr).float()
