"""A stage of the diffusion model's training: on disk, resumable to the step, on one process or several.

A step's random numbers come from its own number, so a resumed run continues as an uninterrupted one would. This
file does not know what is trained, and on what.
"""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ldznet.errors import CheckpointError
from ldznet.files import atomic_path
from ldznet.research.training.progress import stop_between_steps, time_text

_SAVE_EVERY = 180  # seconds: no more than these are lost when a run is killed
Batch = TypeVar("Batch")  # what a step reads beside its images


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where and how long one run of a stage goes."""

    folder: Path
    steps: int
    minutes: float = 9.0  # a run ends before this, saved, and can be resumed
    device: str = "cpu"
    workers: int = 0
    autocast: bool = False  # bfloat16


@dataclass
class Stage:
    """One stage of training on disk; it resumes where it stopped."""

    name: str
    module: nn.Module
    rate: float
    warmup: int
    ema_decay: float
    folder: Path
    steps: int  # of the whole stage; the rate falls to 0 there
    plateau: float = 0.0  # share of the steps before the rate falls; until then `steps` may be changed

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(
            [parameter for parameter in self.module.parameters() if parameter.requires_grad],
            lr=self.rate,
            betas=(0.9, 0.99),
            weight_decay=0.01,
        )
        self.average = copy.deepcopy(self.module).requires_grad_(False)
        self.step = 0
        self.losses: list[float] = []
        if self.path.exists():
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            self.module.load_state_dict(state["module"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.losses = state["step"], state["losses"]

    @property
    def path(self) -> Path:
        """Return the path of the stage's file."""
        return self.folder / f"{self.name}.pt"

    def save(self) -> None:
        """Write all that resuming needs, under its name only when it is whole."""
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
        """Take one optimiser step, together with the other processes of a launch; return whether one is late.

        The rate rises in the warm-up, stays on the plateau, and then falls to 0 as a cosine does.
        """
        share = min(1.0, max(0.0, self.step / self.steps - self.plateau) / (1 - self.plateau))
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
            for mean, now in zip(self.average.parameters(), self.module.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)
        self.losses.append(mean_loss)
        return late

    def _together(self, loss: float, late: bool) -> tuple[float, bool]:
        """Average the gradients over all processes; return their mean loss and whether one is late."""
        if share_of_launch()[1] == 1:
            return loss, late
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        report = gradients[0].new_tensor([loss, float(late)])
        flat = torch.cat([gradient.flatten() for gradient in (*gradients, report)])
        torch.distributed.all_reduce(flat)
        flat /= share_of_launch()[1]
        *shares, report = torch.split(flat, [*(gradient.numel() for gradient in gradients), 2])
        for gradient, share in zip(gradients, shares, strict=True):
            gradient.copy_(share.view_as(gradient))
        return float(report[0]), bool(report[1] > 0)


def train_stage(
    stage: Stage,
    batches: Iterable[tuple[Tensor, Batch]],
    batch: int,
    options: RunOptions,
    loss_of: Callable[[Tensor, Batch], Tensor],
    say: Callable[[str], None],
) -> bool:
    """Train for the run's minutes, saving along the way; return True when the stage's steps are done.

    Raises:
        KeyboardInterrupt: a signal asked to stop; the state of the step at which it stopped is saved.
    """
    leads = not share_of_launch()[0]
    if stage.step and leads:
        say(f"{stage.name}: resuming at step {stage.step} of {options.steps}")
    start, device = time.monotonic(), torch.device(options.device)
    first, last_save = stage.step, start
    with stop_between_steps(announce=leads) as request:
        for images, others in batches:
            with torch.autocast(device.type, torch.bfloat16, enabled=options.autocast):
                loss = loss_of(images, others)
            seconds = time.monotonic() - start
            late = stage.update(loss, bool(request.signal) or seconds > 60 * options.minutes)
            if stage.step % 100 == 0 and leads:
                rate = (stage.step - first) * batch / (time.monotonic() - start)
                recent = float(np.mean(stage.losses[-100:]))
                rest = time_text((options.steps - stage.step) * batch / rate)
                text = f"loss {recent:.4f}, {rate:.0f} images/s, {rest} left"
                say(f"{stage.name} step {stage.step} of {options.steps}, {text}")
            if time.monotonic() - last_save > _SAVE_EVERY and leads:
                stage.save()
                last_save = time.monotonic()
            if late:
                break
        if leads:
            stage.save()
    done = stage.step >= options.steps
    if request.signal and not done:
        if leads:
            say(f"{stage.name}: stopped at step {stage.step} of {options.steps}, saved in {options.folder}")
        raise KeyboardInterrupt(request.signal)
    return done


def is_given(path: Path) -> bool:
    """Return whether a stage's file holds weights that were trained elsewhere, with nothing to resume."""
    return path.exists() and "step" not in torch.load(path, map_location="cpu", weights_only=True)


def save_whole(state: Mapping[str, Any], path: Path) -> None:
    """Write a state under its name only when it is whole.

    Raises:
        CheckpointError: the disk does not take it; what was there before stays.
    """
    try:
        with atomic_path(path) as temporary:
            torch.save(state, temporary)
    except (OSError, RuntimeError) as why:  # PyTorch says of a full disk only that a position is unexpected
        free = shutil.disk_usage(path.parent).free
        raise CheckpointError(
            f"{path} could not be written ({str(why).splitlines()[0]}): {free / 1e9:.2f} GB are left on its disk, "
            "which may be too little. What was saved before is whole. Make room, and the same command resumes "
            "from there."
        ) from why


def step_generator(step: int) -> torch.Generator:
    """Return a generator that depends on the step alone, so that a resumed run gives what one run would give."""
    return torch.Generator().manual_seed(step)


def join_launch(device: str) -> None:
    """Join the processes of a launch; the first prepares what all read, however long it takes."""
    from accelerate import PartialState

    PartialState(cpu=device == "cpu", timeout=timedelta(days=2))
    wait_for_all()


def wait_for_all() -> None:
    """Wait until every process of the launch has come so far."""
    if share_of_launch()[1] > 1:
        torch.distributed.barrier()


def share_of_launch() -> tuple[int, int]:
    """Return which process this is, and of how many, where accelerate or torchrun has started several."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()
