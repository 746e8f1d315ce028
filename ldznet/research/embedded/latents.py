"""Latents of scenes with their captions, made shard by shard while the UNet is trained on them.

A scene costs as much to draw and to encode as to learn from a few times. So each shard of scenes is used several
times: when the training has seen the last shard often enough, the next one is made and kept on disk, and a step
draws its scenes from the latest shards.

    FOLDER/latents/00000.pt   {"latents": (N, 4, h, w) float16, "captions": N lists}
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from ldznet.research.embedded.autoencoder import load_encoder
from ldznet.research.embedded.model import TinyConfig, TinyModel
from ldznet.research.embedded.resumable_stage import (
    RunOptions,
    save_whole,
    share_of_launch,
    step_generator,
    wait_for_all,
)
from ldznet.research.scenes.icons import IconWorld
from ldznet.research.scenes.stream import SceneStream, normalised, one_thread

_Shard = tuple[Tensor, list[list[str]]]
_ENCODED_AT_ONCE = 32
_PICKS_FROM = 2**32  # step numbers of the generators that pick scenes: apart from those of noise


class Latents:
    """The latents of a world's scenes for one training; the first process of a launch makes them for all.

    Raises:
        OptionError: the encoder has not been trained yet.
    """

    def __init__(
        self, config: TinyConfig, options: RunOptions, world: IconWorld, say: Callable[[str], None] = print
    ) -> None:
        self.config, self.options, self.world, self.say = config, options, world, say
        self._model = TinyModel(config, options.folder / "tokenizer", world.vocabulary)
        load_encoder(self._model, options.folder, world)
        self._model.to(options.device)
        self._shards: dict[int, _Shard] = {}

    def batches(self, step: int) -> Iterator[tuple[Tensor, list[str]]]:
        """Yield (B, 4, h, w) latents and captions from step `step` on, the same wherever a run begins."""
        for number in range(step, self.options.steps):
            last = number * self.config.batch // (self.config.uses * self.config.shard)
            window = range(max(0, last + 1 - self.config.window), last + 1)
            self._open(window)
            yield self._pick(window, step_generator(number + _PICKS_FROM))

    def _pick(self, window: range, generator: torch.Generator) -> tuple[Tensor, list[str]]:
        picks = torch.randint(
            0, len(window) * self.config.shard, (self.config.batch,), generator=generator
        ).tolist()
        chances = torch.rand(self.config.batch, generator=generator).tolist()
        latents, captions = [], []
        for pick, chance in zip(picks, chances, strict=True):
            shard, place = divmod(pick, self.config.shard)
            shard_latents, shard_captions = self._shards[window[shard]]
            latents.append(shard_latents[place])
            captions.append(shard_captions[place][int(chance * len(shard_captions[place]))])
        return torch.stack(latents).float(), captions

    def _open(self, window: range) -> None:
        """Hold the shards of a window in memory; make what is missing."""
        for number in [number for number in self._shards if number not in window]:
            del self._shards[number]
        for number in (number for number in window if number not in self._shards):
            if not share_of_launch()[0] and not self._path(number).exists():
                self._make(number)
            wait_for_all()
            shard = torch.load(self._path(number), map_location="cpu", weights_only=True)
            self._shards[number] = (shard["latents"], shard["captions"])

    def _path(self, number: int) -> Path:
        return self.options.folder / "latents" / f"{number:05}.pt"

    def _make(self, number: int) -> None:
        first = number * self.config.shard
        stream = SceneStream(self.world, self.config.size, first, self.config.shard)
        loader = torch.utils.data.DataLoader(
            stream,
            batch_size=_ENCODED_AT_ONCE,
            num_workers=self.options.workers,
            collate_fn=_join,
            worker_init_fn=one_thread,
        )
        latents, captions = [], list[list[str]]()
        for images, texts in loader:
            latents.append(self._model.latent(normalised(images, self.options.device)).half().cpu())
            captions += texts
        self._path(number).parent.mkdir(parents=True, exist_ok=True)
        save_whole({"latents": torch.cat(latents), "captions": captions}, self._path(number))
        self.say(f"latents of scenes {first} to {first + self.config.shard - 1}")


def _join(items: list[tuple[Tensor, tuple[str, ...]]]) -> tuple[Tensor, list[list[str]]]:
    return torch.stack([image for image, _ in items]), [list(captions) for _, captions in items]
