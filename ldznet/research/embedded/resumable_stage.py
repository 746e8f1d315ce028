"""A stage of the diffusion model's training: on disk, resumable to the step, on one process or several.

A step's chance comes from its number, so that a run that was interrupted goes on as it would have. What is
trained, and on what, is not known here.
"""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ldznet.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where and how long one run of a stage goes."""

    folder: Path
    steps: int
    minutes: float = 9.0  # a run ends before this, saved, to be gone on with
    device: str = "cpu"
    workers: int = 0
    autocast: bool = False  # bfloat16


@dataclass
class Stage:
    """One stage of training on disk; it goes on where it stopped."""

    name: str
    module: nn.Module
    rate: float
    warmup: int
    ema_decay: float
    folder: Path
    steps: int  # of the whole stage; the rate falls to 0 there

    def __post_init__(self) -> None:
        parameters = [p for p in self.module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=self.rate, betas=(0.9, 0.99), weight_decay=0.01)
        self.average = copy.deepcopy(self.module).requires_grad_(False)
        self.step = 0
        self.losses: list[float] = []
        if self.path.exists():
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            self.module.load_state_dict(saved["module"])
            self.average.load_state_dict(saved["average"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.step, self.losses = saved["step"], saved["losses"]

    @property
    def path(self) -> Path:
        """Where the stage is kept."""
        return self.folder / f"{self.name}.pt"

    def save(self) -> None:
        """Write all that going on needs, under its name only when it is whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "module": self.module.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "losses": self.losses,
        }
        save_whole(state, self.path)

    def update(self, loss: Tensor, late: bool = False) -> bool:
        """One optimiser step: warm-up, then a cosine down to 0. Several processes take it together.

        Returns whether any of them is late.
        """
        share = min(1.0, self.step / self.steps)
        rate = self.rate * min(1.0, (self.step + 1) / self.warmup) * 0.5 * (1 + np.cos(np.pi * share))
        for group in self.optimizer.param_groups:
            group["lr"] = float(rate)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        mean_loss, late = self._together(float(loss.detach()), late)
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        decay = min(self.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for kept, now in zip(self.average.parameters(), self.module.parameters(), strict=True):
                kept.lerp_(now, 1 - decay)
        self.losses.append(mean_loss)
        return late

    def _together(self, loss: float, late: bool) -> tuple[float, bool]:
        """Make the gradients the mean of all processes'; -> their mean loss, whether one is late."""
        if share_of_launch()[1] == 1:
            return loss, late
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        said = gradients[0].new_tensor([loss, float(late)])
        flat = torch.cat([gradient.flatten() for gradient in (*gradients, said)])
        torch.distributed.all_reduce(flat)
        flat /= share_of_launch()[1]
        *shares, said = torch.split(flat, [*(gradient.numel() for gradient in gradients), 2])
        for gradient, share in zip(gradients, shares, strict=True):
            gradient.copy_(share.view_as(gradient))
        return float(said[0]), bool(said[1] > 0)


def train_stage(
    stage: Stage,
    batches: Iterable[tuple[Tensor, list[str]]],
    batch: int,
    options: RunOptions,
    loss_of: Callable[[Tensor, list[str]], Tensor],
    say: Callable[[str], None],
) -> bool:
    """Train for the run's minutes, saving along the way; True when the stage's steps are done."""
    start, device = time.monotonic(), torch.device(options.device)
    first = stage.step
    for pictures, captions in batches:
        with torch.autocast(device.type, torch.bfloat16, enabled=options.autocast):
            loss = loss_of(pictures, captions)
        late = stage.update(loss, time.monotonic() - start > 60 * options.minutes)
        if stage.step % 100 == 0 and not share_of_launch()[0]:
            rate = (stage.step - first) * batch / (time.monotonic() - start)
            recent = float(np.mean(stage.losses[-100:]))
            say(f"{stage.name} step {stage.step} of {options.steps}, loss {recent:.4f}, {rate:.0f} pictures/s")
        if stage.step % 500 == 0 and not share_of_launch()[0]:
            stage.save()
        if late:
            break
    if not share_of_launch()[0]:
        stage.save()
    return stage.step >= options.steps


def save_whole(state: Mapping[str, Any], path: Path) -> None:
    """Write it under its name only when it is whole.

    Raises:
        CheckpointError: the disk does not take it; what was there before stays.
    """
    partial = path.with_suffix(".partial")
    try:
        torch.save(state, partial)
        os.replace(partial, path)
    except (OSError, RuntimeError) as why:  # PyTorch says of a full disk only that a position is unexpected
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        free = shutil.disk_usage(path.parent).free
        raise CheckpointError(
            f"{path} could not be written ({str(why).splitlines()[0]}): {free / 1e9:.2f} GB are left on its disk, "
            "which may be too little. What was saved before is whole. Make room, and the same command goes on "
            "from there."
        ) from why


def step_generator(step: int) -> torch.Generator:
    """Chance that depends on the step alone, so that going on gives what one run would have given."""
    return torch.Generator().manual_seed(step)


def join_launch(device: str) -> None:
    """Let the processes of a launch meet; the first prepares what all read, however long it takes."""
    from accelerate import PartialState

    PartialState(cpu=device == "cpu", timeout=timedelta(days=2))
    wait_for_all()


def wait_for_all() -> None:
    """Go on when every process of the launch has come so far."""
    if share_of_launch()[1] > 1:
        torch.distributed.barrier()


def share_of_launch() -> tuple[int, int]:
    """Which process this is, and of how many, where accelerate or torchrun has started several."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()
