"""Training the KL autoencoder on pictures of scenes: its encoder first, then its decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldznet.errors import OptionError
from ldznet.research.embedded.model import TinyConfig, TinyModel
from ldznet.research.embedded.resumable_stage import RunOptions, Stage, step_generator, train_stage
from ldznet.research.scenes.stream import SceneStream, normalised, one_thread


def train_encoder(config: TinyConfig, options: RunOptions, say: Callable[[str], None] = print) -> bool:
    """Train the autoencoder's encoder; True when its steps are done.

    It learns with a small decoder at the latent's own resolution, which is then thrown away: many times as
    many pictures a second as with the real one, and without its normalisations, through which the colour of
    a whole picture passes only after long training. The loss is the mean absolute difference of pixels and
    the squared one of 2 x 2, 4 x 4 and 8 x 8 means, which no grain of the picture outweighs, plus the
    posterior's divergence from a normal distribution by a small weight.
    """
    torch.manual_seed(0)
    vae = TinyModel(config, options.folder / "tokenizer").vae
    for module in vae.encoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    with torch.no_grad():  # hardly any noise in the posterior at first, or the colours drown in it
        vae.quant_conv.weight[4:] = 0
        vae.quant_conv.bias[4:] = -6
    parts = nn.ModuleDict({"encoder": vae.encoder, "quant_conv": vae.quant_conv, "light": _light_decoder()})
    parts.to(options.device)
    stage = Stage(
        "encoder", parts, config.encoder_rate, config.encoder_warmup, 0.999, options.folder, options.steps
    )

    def loss_of(images: Tensor, _captions: list[str]) -> Tensor:
        x = _crop(normalised(images, options.device), config.vae_crop, stage.step)
        posterior = vae.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=step_generator(stage.step)).to(x.device)
        y = parts["light"](posterior.mean + posterior.std * noise)
        return _difference(x, y) + config.kl_weight * posterior.kl().mean()

    return train_stage(stage, _batches(config, stage.step, options), config.vae_batch, options, loss_of, say)


def train_decoder(config: TinyConfig, options: RunOptions, say: Callable[[str], None] = print) -> bool:
    """Train the decoder on the finished encoder's latents; True when its steps are done.

    Raises:
        OptionError: the encoder has not been trained yet.
    """
    torch.manual_seed(2)
    model = TinyModel(config, options.folder / "tokenizer")
    load_encoder(model, options.folder)
    vae = model.vae.to(options.device)
    for module in vae.decoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    parts = nn.ModuleDict({"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv}).requires_grad_(True)
    stage = Stage("decoder", parts, config.decoder_rate, config.warmup, 0.999, options.folder, options.steps)

    def loss_of(images: Tensor, _captions: list[str]) -> Tensor:
        x = _crop(normalised(images, options.device), config.vae_crop, stage.step)
        with torch.no_grad():
            mean = vae.encode(x).latent_dist.mean
        return _difference(x, vae.decode(mean).sample)

    return train_stage(stage, _batches(config, stage.step, options), config.vae_batch, options, loss_of, say)


def _light_decoder() -> nn.Sequential:
    """(B, 4, h, w) -> (B, 3, 8h, 8w), all of it computed at h x w."""
    return nn.Sequential(
        nn.Conv2d(4, 128, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(128, 128, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(128, 192, 3, padding=1),
        nn.PixelShuffle(8),
    )


def _difference(x: Tensor, y: Tensor) -> Tensor:
    difference = y - x
    loss = difference.abs().mean()
    for side in (2, 4, 8):
        loss = loss + 4 * F.avg_pool2d(difference, side).square().mean()
    return loss


def _batches(config: TinyConfig, step: int, options: RunOptions) -> Iterator[tuple[Tensor, list[str]]]:
    """The batches from step `step` on, the same wherever a run begins."""
    stream = SceneStream(config.size, step * config.vae_batch, (options.steps - step) * config.vae_batch)
    loader = torch.utils.data.DataLoader(
        stream, batch_size=config.vae_batch, num_workers=options.workers, worker_init_fn=one_thread
    )
    for images, captions in loader:
        yield images, list(captions)


def _crop(images: Tensor, side: int, step: int) -> Tensor:
    """The same place of every picture; another one each step."""
    room = images.shape[-1] - side
    top, left = torch.randint(0, room + 1, (2,), generator=step_generator(step)).tolist()
    return images[..., top : top + side, left : left + side]


def load_encoder(model: TinyModel, folder: Path) -> None:
    """Put the trained encoder's average into the model and measure the scale of its latents.

    Raises:
        OptionError: the encoder has not been trained yet.
    """
    kept = _average_of(folder, "encoder")
    part_of(model.vae, ("encoder", "quant_conv")).load_state_dict(
        {name: tensor for name, tensor in kept.items() if not name.startswith("light.")}
    )
    model.vae.eval().requires_grad_(False)
    stream = SceneStream(model.config.size, 0, 64)
    images = torch.stack([stream[index][0] for index in range(len(stream))])
    with torch.no_grad():
        mean = model.vae.encode(normalised(images, "cpu")).latent_dist.mean
    model.scale.fill_(1 / mean.std().item())


def load_decoder(model: TinyModel, folder: Path) -> None:
    """Put the trained decoder's average into the model.

    Raises:
        OptionError: the decoder has not been trained yet.
    """
    part_of(model.vae, ("decoder", "post_quant_conv")).load_state_dict(_average_of(folder, "decoder"))
    model.vae.eval().requires_grad_(False)


def part_of(vae: Any, names: Sequence[str]) -> nn.ModuleDict:
    """Some of the autoencoder's modules, to be kept or trained by themselves."""
    return nn.ModuleDict({name: getattr(vae, name) for name in names})


def _average_of(folder: Path, stage: str) -> dict[str, Tensor]:
    path = folder / f"{stage}.pt"
    if not path.exists():
        raise OptionError(f"There is no trained {stage} in {folder}. Train the stage {stage} first.")
    average: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)["average"]
    return average
