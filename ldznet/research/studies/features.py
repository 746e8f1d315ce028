"""Measure which of the UNet's features know where objects are: each transformer's output at several timesteps.

A small decoder is trained on each feature alone, on a few scenes, and its average precision is measured on
others: the paper's Figure 4 for any model. The decoder sees nothing but the feature, so whatever it finds of a
phrase is in the feature already.

Source: PNVR et al., LD-ZNet, ICCV 2023, section 3.2.1. The paper's decoder is not described; this one is two
convolutions at the feature's own resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ldznet.hosts.capture import capture
from ldznet.hosts.host import Host
from ldznet.research.datasets.network_input import stretch_to_square
from ldznet.research.datasets.sample import Sample
from ldznet.research.metrics.clipseg_metrics import ClipSegMetrics

TIMESTEPS = (50, 100, 200, 300, 400, 500, 600, 700, 800, 999)
_WIDTH = 32  # channels inside a decoder


@dataclass(frozen=True)
class FeatureScore:
    """How well one feature shows where a phrase is."""

    path: str
    timestep: int
    ap: float  # percent


def measure_features(
    host: Host,
    training: Sequence[Sample],
    validation: Sequence[Sample],
    *,
    size: int,
    template: str = "{}",
    timesteps: Sequence[int] = TIMESTEPS,
    epochs: int = 6,
    batch: int = 32,
    say: Callable[[str], None] = print,
) -> list[FeatureScore]:
    """Return the AP of a decoder on every transformer's output at every timestep."""
    scores = []
    for timestep in timesteps:
        trained = _features(host, training, size, template, timestep, batch)
        held_out = _features(host, validation, size, template, timestep, batch)
        for path, (features, targets) in trained.items():
            decoder = _fit(features, targets, epochs, batch)
            ap = _score(decoder, *held_out[path], batch)
            scores.append(FeatureScore(path, timestep, ap))
        best = max((score for score in scores if score.timestep == timestep), key=lambda score: score.ap)
        say(f"timestep {timestep}: best {best.path}, AP {best.ap:.1f}")
    return scores


@torch.no_grad()
def _features(
    host: Host, samples: Sequence[Sample], size: int, template: str, timestep: int, batch: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return path -> features (N, C, h, w) in half precision, and targets (N, S, S) bool."""
    features_of: dict[str, list[Tensor]] = {}
    targets = []
    modules = host.feature_modules()
    for start in range(0, len(samples), batch):
        part = samples[start : start + batch]
        pairs = [stretch_to_square(sample.image, sample.mask, size) for sample in part]
        pixels = torch.from_numpy(np.stack([image for image, _ in pairs]))
        targets.append(torch.from_numpy(np.stack([mask for _, mask in pairs])))
        latent = host.encode_image(pixels)
        context = host.encode_prompt([template.replace("{}", sample.phrase) for sample in part])
        # The same noise for every timestep, so that only the timestep differs.
        generator = torch.Generator().manual_seed(start)
        noise = torch.randn(latent.shape, generator=generator)
        steps = torch.full((len(part),), timestep)
        with capture(modules) as features:
            host.predict_noise(host.add_noise(latent, noise, steps), steps, context)
        for path, feature in features.items():
            features_of.setdefault(path, []).append(feature.half().cpu())
    target = torch.cat(targets)
    return {path: (torch.cat(parts), target) for path, parts in features_of.items()}


def _decoder(channels: int) -> nn.Sequential:
    """Return a new decoder for a feature with so many channels."""
    return nn.Sequential(
        nn.Conv2d(channels, _WIDTH, 1),
        nn.SiLU(),
        nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(_WIDTH, 1, 1),
    )


def _fit(features: Tensor, targets: Tensor, epochs: int, batch: int) -> nn.Module:
    """Return a decoder trained on standardized features; its first layer does the standardizing."""
    batch = min(batch, len(features))  # a few scenes are a single step
    mean, deviation = features.float().mean(dim=(0, 2, 3)), features.float().std(dim=(0, 2, 3)).clamp_min(1e-6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = _decoder(features.shape[1])
    with torch.no_grad():  # every feature starts on the same scale
        first = decoder[0]
        assert isinstance(first, nn.Conv2d)
        first.weight /= deviation[:, None, None]
        first.bias -= first.weight[:, :, 0, 0] @ mean  # type: ignore[operator]
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=3e-3)
    steps = epochs * (len(features) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=max(2, steps))
    generator = torch.Generator().manual_seed(0)
    # Targets at twice the feature's size: finer ones would measure the decoder's enlargement.
    side = 2 * max(features.shape[-2:])
    coarse = F.interpolate(targets[:, None].float(), size=(side, side), mode="area")
    for _ in range(epochs):
        order = torch.randperm(len(features), generator=generator)
        for start in range(0, len(order) - batch + 1, batch):
            indices = order[start : start + batch]
            logits = F.interpolate(decoder(features[indices].float()), size=(side, side), mode="bilinear")
            loss = F.binary_cross_entropy_with_logits(logits, coarse[indices])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return decoder.eval()


@torch.no_grad()
def _score(decoder: nn.Module, features: Tensor, targets: Tensor, batch: int) -> float:
    """Return the AP of a decoder in percent."""
    metrics = ClipSegMetrics()
    for start in range(0, len(features), batch):
        logits = decoder(features[start : start + batch].float())
        fine = F.interpolate(logits, size=targets.shape[-2:], mode="bilinear")[:, 0].sigmoid().numpy()
        for number, (probability, target) in enumerate(zip(fine, targets[start : start + batch], strict=True)):
            metrics.update(probability, target.numpy(), sample=str(start + number))
    return 100 * metrics.result().ap


def draw_scores(scores: Sequence[FeatureScore], title: str) -> NDArray[np.uint8]:
    """Draw a heat map: a row for every timestep, a column for every transformer, the AP in each cell."""
    paths = list(dict.fromkeys(score.path for score in scores))
    steps = list(dict.fromkeys(score.timestep for score in scores))
    table: Mapping[tuple[str, int], float] = {(score.path, score.timestep): score.ap for score in scores}
    low, high = min(table.values()), max(table.values())
    cell, left, top = (74, 34), 70, 128
    canvas = np.full((top + cell[1] * len(steps) + 16, left + cell[0] * len(paths) + 16, 3), 255, np.uint8)
    font: Any = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(canvas, title, (16, 26), font, 0.55, (20, 20, 20), 1, cv2.LINE_AA)
    for column, path in enumerate(paths):
        label = np.full((cell[0] - 4, 100, 3), 255, np.uint8)
        short = path.replace("_blocks.", " ").replace("_block.1", "").removesuffix(".1")
        cv2.putText(label, short, (2, 40), font, 0.42, (20, 20, 20), 1, cv2.LINE_AA)
        rotation = cv2.rotate(label, cv2.ROTATE_90_COUNTERCLOCKWISE)
        x = left + column * cell[0]
        canvas[top - 100 : top, x : x + cell[0] - 4] = np.minimum(
            canvas[top - 100 : top, x : x + cell[0] - 4], rotation
        )
    for row, step in enumerate(steps):
        y = top + row * cell[1]
        cv2.putText(canvas, f"t {step}", (12, y + 22), font, 0.42, (20, 20, 20), 1, cv2.LINE_AA)
        for column, path in enumerate(paths):
            value = table[path, step]
            share = (value - low) / max(high - low, 1e-9)
            shade = cv2.applyColorMap(np.array([[round(255 * share)]], np.uint8), cv2.COLORMAP_VIRIDIS)[0, 0, ::-1]
            x = left + column * cell[0]
            cv2.rectangle(canvas, (x, y), (x + cell[0] - 3, y + cell[1] - 3), [int(c) for c in shade], -1)
            ink = (255, 255, 255) if share < 0.6 else (0, 0, 0)
            cv2.putText(canvas, f"{value:.1f}", (x + 17, y + 21), font, 0.45, ink, 1, cv2.LINE_AA)
    return canvas
