"""The KL autoencoder's training on crops of scenes: its encoder first, then its decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldznet.errors import OptionError
from ldznet.research.embedded.crops import CropStream, join_crops
from ldznet.research.embedded.model import TinyConfig, TinyModel
from ldznet.research.embedded.resumable_stage import RunOptions, Stage, step_generator, train_stage
from ldznet.research.scenes.icons import IconWorld
from ldznet.research.scenes.stream import SceneStream, normalised, one_thread

_SCALE_SCENES = 64  # by which the deviation of the latents is measured


def train_encoder(
    config: TinyConfig, options: RunOptions, world: IconWorld, say: Callable[[str], None] = print
) -> bool:
    """Train the autoencoder's encoder; True when its steps are done.

    It learns with a small decoder at the latent's own resolution, which is then thrown away: many times as
    many crops a second as with the real one, and without its normalisations, through which the colour of
    a whole image passes only after long training.
    """
    torch.manual_seed(0)
    vae = TinyModel(config, options.folder / "tokenizer", world.vocabulary).vae
    for module in vae.encoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    with torch.no_grad():  # hardly any noise in the posterior at first, or the colours drown in it
        vae.quant_conv.weight[4:] = 0
        vae.quant_conv.bias[4:] = -6
    parts = nn.ModuleDict({"encoder": vae.encoder, "quant_conv": vae.quant_conv, "light": _light_decoder()})
    parts.to(options.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    stage = Stage(
        "encoder", parts, config.encoder_rate, config.encoder_warmup, 0.999, options.folder, options.steps
    )

    def loss_of(crops: Tensor, weights: Tensor) -> Tensor:
        x, weights = _on(options.device, crops), weights.to(options.device)
        posterior = vae.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=step_generator(stage.step)).to(x.device)
        y = parts["light"](posterior.mean + posterior.std * noise)
        return _difference(x, y, weights) + config.kl_weight * posterior.kl().mean()

    batches = _batches(config, world, stage.step, options, config.encoder_scenes, config.encoder_crops)
    return train_stage(stage, batches, config.encoder_scenes * config.encoder_crops, options, loss_of, say)


def train_decoder(
    config: TinyConfig, options: RunOptions, world: IconWorld, say: Callable[[str], None] = print
) -> bool:
    """Train the decoder on the finished encoder's latents; True when its steps are done.

    Raises:
        OptionError: the encoder has not been trained yet.
    """
    torch.manual_seed(2)
    model = TinyModel(config, options.folder / "tokenizer", world.vocabulary)
    load_encoder(model, options.folder, world)
    vae = model.vae.to(options.device, memory_format=torch.channels_last)
    for module in vae.decoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    parts = nn.ModuleDict({"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv}).requires_grad_(True)
    stage = Stage("decoder", parts, config.decoder_rate, config.warmup, 0.999, options.folder, options.steps)

    def loss_of(crops: Tensor, weights: Tensor) -> Tensor:
        x, weights = _on(options.device, crops), weights.to(options.device)
        with torch.no_grad():
            mean = vae.encode(x).latent_dist.mean
        return _difference(x, vae.decode(mean).sample, weights)

    batches = _batches(config, world, stage.step, options, config.decoder_scenes, 1)
    return train_stage(stage, batches, config.decoder_scenes, options, loss_of, say)


def _on(device: str, crops: Tensor) -> Tensor:
    return crops.to(device).contiguous(memory_format=torch.channels_last)


def _light_decoder() -> nn.Sequential:
    """Return a decoder (B, 4, h, w) -> (B, 3, 8h, 8w), all of it computed at h x w."""
    return nn.Sequential(
        nn.Conv2d(4, 128, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(128, 128, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(128, 192, 3, padding=1),
        nn.PixelShuffle(8),
    )


def _difference(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Return how much two batches (B, 3, H, W) differ, with weights (B, 1, H, W).

    The sum of the absolute differences of pixels, and half of those of neighbouring pixels' steps, which a blurred
    outline misses; and of the squared differences of 2 x 2, 4 x 4 and 8 x 8 means, which no grain outweighs.
    """
    difference = y - x
    loss = (difference.abs() * weights).mean()
    across = (difference.diff(dim=3).abs() * weights[..., 1:]).mean()
    down = (difference.diff(dim=2).abs() * weights[..., 1:, :]).mean()
    loss = loss + 0.5 * (across + down)
    for side in (2, 4, 8):
        loss = loss + 4 * (F.avg_pool2d(difference, side).square() * F.avg_pool2d(weights, side)).mean()
    return loss


def _batches(
    config: TinyConfig, world: IconWorld, step: int, options: RunOptions, scenes: int, each: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches from step `step` on, `scenes` x `each` crops; the same wherever a run begins."""
    stream = CropStream(
        world,
        start=step * scenes,
        count=max(0, options.steps - step) * scenes,  # a stage may have been given more steps before
        size=config.size,
        side=config.vae_crop,
        each=each,
    )
    loader = torch.utils.data.DataLoader(
        stream, batch_size=scenes, num_workers=options.workers, collate_fn=join_crops, worker_init_fn=one_thread
    )
    yield from loader


def load_encoder(model: TinyModel, folder: Path, world: IconWorld) -> None:
    """Put the trained encoder's average into the model and measure the scale of its latents on the world.

    Raises:
        OptionError: the encoder has not been trained yet.
    """
    average = average_of(folder, "encoder")
    part_of(model.vae, ("encoder", "quant_conv")).load_state_dict(
        {name: tensor for name, tensor in average.items() if not name.startswith("light.")}
    )
    model.vae.eval().requires_grad_(False)
    stream = SceneStream(world, model.config.size, 0, _SCALE_SCENES)
    images = torch.stack([stream[index][0] for index in range(len(stream))])
    with torch.no_grad():
        mean = model.vae.encode(normalised(images, "cpu")).latent_dist.mean
    model.scale.fill_(1 / mean.std().item())


def load_decoder(model: TinyModel, folder: Path) -> None:
    """Put the trained decoder's average into the model.

    Raises:
        OptionError: the decoder has not been trained yet.
    """
    part_of(model.vae, ("decoder", "post_quant_conv")).load_state_dict(average_of(folder, "decoder"))
    model.vae.eval().requires_grad_(False)


def part_of(vae: Any, names: Sequence[str]) -> nn.ModuleDict:
    """Return some of the autoencoder's modules, to be written or trained by themselves."""
    return nn.ModuleDict({name: getattr(vae, name) for name in names})


def average_of(folder: Path, stage: str) -> dict[str, Tensor]:
    """Return the averaged weights that a stage has written.

    Raises:
        OptionError: the stage has not been trained yet.
    """
    path = folder / f"{stage}.pt"
    if not path.exists():
        raise OptionError(f"There is no trained {stage} in {folder}. Train the stage {stage} first.")
    average: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)["average"]
    return average
