"""The latents of a number of scenes with their captions, made once and kept: what the UNet is trained on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ldznet.research.embedded.autoencoder import load_encoder
from ldznet.research.embedded.model import TinyConfig, TinyModel
from ldznet.research.embedded.resumable_stage import RunOptions, save_whole, step_generator
from ldznet.research.scenes.stream import FEW_THINGS, SceneStream, normalised, one_thread


@dataclass(frozen=True)
class LatentCache:
    """The latents of the first scenes, in all looks in turn, and their captions."""

    latents: Tensor  # (N, 4, h, w) float16, scaled
    captions: list[str]

    @classmethod
    def read(cls, folder: Path) -> LatentCache:
        """What has been made so far."""
        path = folder / "latents.pt"
        if not path.exists():
            return cls(torch.zeros(0), [])
        saved = torch.load(path, map_location="cpu", weights_only=True)
        return cls(saved["latents"], saved["captions"])

    @classmethod
    def make(
        cls, config: TinyConfig, options: RunOptions, say: Callable[[str], None] = print, chunk: int = 1024
    ) -> LatentCache | None:
        """Read it, or go on making it; None when the run's minutes were not enough."""
        start = time.monotonic()
        kept = cls.read(options.folder)
        if kept.captions and len(kept.captions) >= config.scenes:
            return cls(kept.latents[: config.scenes], kept.captions[: config.scenes])
        latents, captions = kept.latents, kept.captions
        model = TinyModel(config, options.folder / "tokenizer")
        load_encoder(model, options.folder)
        model.to(options.device)
        while len(captions) < config.scenes:
            most = min(chunk, config.scenes - len(captions))
            stream = SceneStream(config.size, len(captions), most, FEW_THINGS)
            loader = torch.utils.data.DataLoader(
                stream, batch_size=32, num_workers=options.workers, worker_init_fn=one_thread
            )
            parts = [latents] if len(captions) else []
            for images, texts in loader:
                parts.append(model.latent(normalised(images, options.device)).half().cpu())
                captions += texts
            latents = torch.cat(parts)
            save_whole({"latents": latents, "captions": captions}, options.folder / "latents.pt")
            say(f"latents of {len(captions)} of {config.scenes} scenes")
            if time.monotonic() - start > 60 * options.minutes and len(captions) < config.scenes:
                return None
        return cls(latents, captions)

    def batches(self, config: TinyConfig, step: int, steps: int) -> Iterator[tuple[Tensor, list[str]]]:
        """The batches of steps `step` to `steps`, the same wherever a run begins."""
        for number in range(step, steps):
            picked = torch.randint(
                0, len(self.captions), (config.batch,), generator=step_generator(number + 2**32)
            )
            yield self.latents[picked].float(), [self.captions[index] for index in picked.tolist()]
