"""The text encoder's training, before the UNet's: it learns which caption belongs to which scene, as CLIP did.

Trained together with the UNet it loses its words: what all captions share moves it further than what tells them
apart, as long as the UNet cannot use them. So it is trained with a small image encoder, which is then thrown away,
and the UNet learns from a text encoder that stays as it is, as in Stable Diffusion.

Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021,
https://arxiv.org/abs/2103.00020
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldznet.research.embedded.autoencoder import average_of
from ldznet.research.embedded.latents import Latents
from ldznet.research.embedded.model import TinyConfig, TinyModel
from ldznet.research.embedded.resumable_stage import RunOptions, Stage, share_of_launch, train_stage
from ldznet.research.evaluation.sentences import context_difference
from ldznet.research.scenes.icons import IconWorld

__all__ = ["load_text", "train_text"]

_WIDTH = 64  # of the space in which scenes and captions are compared
_MEASURE_EVERY = 100  # steps between two reports on the contexts
_LARGEST_SCALE = 100.0  # of the similarities, as in CLIP


class Contrast(nn.Module):
    """What compares scenes with captions, and is thrown away after the training."""

    def __init__(self, context_width: int) -> None:
        super().__init__()
        widths = ((4, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1))
        self.layers = nn.Sequential(*(_layer(*one) for one in widths))
        self.of_image = nn.Linear(256, _WIDTH)
        self.of_text = nn.Linear(context_width, _WIDTH, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(self, latents: Tensor, ends: Tensor) -> Tensor:
        """Return the loss of B latents (B, 4, h, w) and the contexts (B, D) at the ends of their captions."""
        # The strongest place of each channel: a thing counts the same wherever it is, and however small.
        images = F.normalize(self.of_image(self.layers(latents).amax(dim=(2, 3))).float(), dim=-1)
        texts = F.normalize(self.of_text(ends).float(), dim=-1)
        similarities = images @ texts.T * self.log_scale.exp().clamp(max=_LARGEST_SCALE)
        own = torch.arange(len(latents), device=similarities.device)
        loss: Tensor = (F.cross_entropy(similarities, own) + F.cross_entropy(similarities.T, own)) / 2
        return loss


def _layer(channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, 3, stride, padding=1), nn.GroupNorm(8, out_channels), nn.SiLU()
    )


def train_text(
    config: TinyConfig, options: RunOptions, world: IconWorld, say: Callable[[str], None] = print
) -> bool:
    """Train the text encoder on the finished encoder's latents; True when its steps are done.

    Each of several processes compares the scenes of its own share of a batch.

    Raises:
        OptionError: the encoder has not been trained yet.
    """
    rank, processes = share_of_launch()
    latents = Latents(replace(config, batch=config.text_batch), options, world, say)
    torch.manual_seed(3)
    model = TinyModel(config, options.folder / "tokenizer", world.vocabulary)
    parts = nn.ModuleDict({"text": model.text, "contrast": Contrast(config.unet.context_width)})
    model.to(options.device)
    parts.to(options.device)
    stage = Stage("text", parts, config.text_rate, config.warmup, config.ema, options.folder, options.steps)

    def loss_of(latent: Tensor, captions: list[str]) -> Tensor:
        if stage.step % _MEASURE_EVERY == 0 and not rank:
            share = difference_of_nouns(model, world.nouns[::8], captions)
            say(f"text: contexts of nouns differ {share:.2f} times as much as those of captions (wanted: 0.50)")
        latent, captions = latent[rank::processes].to(options.device), captions[rank::processes]
        loss: Tensor = parts["contrast"](latent, model.context_at_ends(captions))
        return loss

    return train_stage(stage, latents.batches(stage.step), config.text_batch, options, loss_of, say)


@torch.no_grad()
def difference_of_nouns(model: TinyModel, nouns: Sequence[str], captions: Sequence[str]) -> float:
    """Return how much the contexts of bare nouns differ, relative to those of captions.

    Near 0 a text encoder has lost its words, and nothing that reads its contexts can learn what they mean.
    """
    of_nouns, of_captions = (
        context_difference(model.context(texts), model.count_tokens(texts)) for texts in (nouns, captions)
    )
    return of_nouns / of_captions if of_captions else 0.0


def load_text(model: TinyModel, folder: Path) -> None:
    """Put the trained text encoder's average into the model.

    Raises:
        OptionError: the text encoder has not been trained yet.
    """
    average = average_of(folder, "text")
    model.text.load_state_dict(
        {name.removeprefix("text."): tensor for name, tensor in average.items() if name.startswith("text.")}
    )
    model.text.eval().requires_grad_(False)
