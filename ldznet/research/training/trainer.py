"""Train a head: LD-ZNet, ZNet or RGBNet, for any Stable Diffusion model that the host loads.

All randomness of a step comes from its number and the seed: samples, crops, sentences, timesteps, noise. So an
interrupted run resumes as if it had never stopped, and several processes together see the batch that one alone
would see. The Stable Diffusion model is frozen; only the head learns.

    FOLDER/state.pt            all that is needed to resume
    FOLDER/last.safetensors    the averaged head, as `segment` reads it; best.safetensors by the validation's mIoU
    FOLDER/metrics.csv         one row per logged step; tensorboard/ has the same
    FOLDER/pictures/           masks of some validation samples along the way

Source: PNVR et al., LD-ZNet, ICCV 2023, section 4; what the paper leaves open is as in the released code.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ldznet.errors import LaunchError, OptionError
from ldznet.heads.head_file import save_head
from ldznet.heads.network import Head
from ldznet.hosts.capture import capture
from ldznet.hosts.host import Context, Host, require_fit
from ldznet.methods.learned_head import LearnedHead
from ldznet.research.datasets.samples import Samples
from ldznet.research.datasets.skip_report import Report
from ldznet.research.training.frozen_cache import AnswerFolder, FrozenModel, private_noise
from ldznet.research.training.items import Item, Stream, load_batches
from ldznet.research.training.metrics_log import MetricsLog
from ldznet.research.training.progress import stop_between_steps, time_text
from ldznet.research.training.state_file import load_state, recipe_of, save_state
from ldznet.research.training.train_options import TrainOptions

# How long processes wait for each other: longer than the first one needs to validate.
_WAIT = timedelta(hours=2)
# Names of samples that were left out. A name counts once, however often its sample is met again.
_MOST_NAMES = 10**6
Say = Callable[[str], None]


class Trainer:
    """One training in a folder; `run` resumes where it stopped. `cache` is a folder for the model's answers.

    `belongs`: what else must be the same to resume; the keys name the mistake, such as "another VAE".

    Raises:
        HeadError: the head does not fit the host's model.
        OptionError: the batch cannot be divided, or the device cannot compute in that precision.
        CheckpointError: the folder holds a training with other options, another model or dataset.
    """

    def __init__(
        self,
        host: Host,
        head: Head,
        samples: Samples,
        options: TrainOptions,
        folder: Path,
        *,
        validate: Callable[[LearnedHead, Path], Mapping[str, float]] | None = None,
        source: Mapping[str, Any] | None = None,
        belongs: Mapping[str, str] | None = None,
        accelerator: Any = None,
        workers: int = 0,
        cache: Path | None = None,
    ) -> None:
        from accelerate import Accelerator, InitProcessGroupKwargs

        # Before the process group is started, which cannot be undone.
        require_fit(head.config, host.info)
        if options.precision == "fp16" and host.device.type == "cpu" and accelerator is None:
            raise OptionError("A CPU does not train in fp16. Give --precision bf16, or no.")
        self.accelerator = accelerator or Accelerator(
            mixed_precision=options.precision,
            cpu=host.device.type == "cpu",
            kwargs_handlers=[InitProcessGroupKwargs(timeout=_WAIT)],
        )
        self.options, self.folder, self.workers, self.validate = options, folder, workers, validate
        self.source, self.belongs = dict(source or {}), dict(belongs or {})
        world = self.accelerator.num_processes
        if options.batch % (world * options.accumulate):
            raise OptionError(
                f"A batch of {options.batch} cannot be divided among {world} processes in {options.accumulate} "
                "parts each. Give a batch that is a multiple of their product."
            )
        self.host, self.frozen = host, FrozenModel(host, options, AnswerFolder(cache, host) if cache else None)
        self.stream = Stream(samples, options)
        head.train().requires_grad_(True)
        # Not part of the head's config: it changes memory, not the result.
        head.checkpointing = options.checkpointing
        optimizer = torch.optim.AdamW(head.parameters(), lr=options.rate, weight_decay=options.weight_decay)
        self.head, self.optimizer = self.accelerator.prepare(head, optimizer)
        self.average = copy.deepcopy(self.accelerator.unwrap_model(self.head)).eval().requires_grad_(False)
        self.step = 0  # how many are done
        self.metrics = MetricsLog(folder, writes=self.accelerator.is_main_process)
        self.logged = list[float]()  # losses since the last row
        self.report = Report(_MOST_NAMES)
        self.epoch_loss = [0.0, 0.0]  # sum and steps of this epoch
        self.plateau = {"factor": 1.0, "best": float("inf"), "bad": 0.0}
        self.best = -1.0  # the largest mIoU of a validation
        self.threshold: float | None = None  # with which the last validation had its mIoU
        self._resume()
        self.report.merge(samples.report)

    # --- one step ------------------------------------------------------------------------------------

    def loss(self, batch: Item) -> Tensor:
        """Return the binary cross-entropy of the logits, the mean over pixels."""
        host, head = self.host, self.accelerator.unwrap_model(self.head)
        config = head.config
        with torch.no_grad():
            x, context = self.ask_model(batch)
            features: dict[str, Tensor] = {}
            if config.kind == "ld-znet":
                modules = host.feature_modules()
                seeds: Sequence[int] = batch.noise_seed  # type: ignore[assignment]
                # Each prompt has its own noise, whatever batch and process it is in.
                noise = torch.stack([private_noise(seed, x.shape[1:]) for seed in seeds])
                timesteps: Tensor = batch.timestep  # type: ignore[assignment]
                noisy_latent = host.add_noise(x, noise, timesteps)
                with capture({path: modules[path] for path in config.pool_grids}) as features:
                    host.predict_noise(noisy_latent, timesteps, context)
        device = self.accelerator.device
        with self.accelerator.autocast():
            logits = self.head(
                x.to(device).float(),
                context.tokens.to(device).float(),
                {path: feature.to(device).float() for path, feature in features.items()},
            )
        return F.binary_cross_entropy_with_logits(logits[:, 0].float(), batch.target.to(device).float())

    def ask_model(self, batch: Item) -> tuple[Tensor, Context]:
        """Return what the head reads: the pixels or their latent, and the context of the prompts."""
        x: Tensor = batch.pixels
        if self.accelerator.unwrap_model(self.head).config.kind != "rgbnet":
            x = self.frozen.latent(x, batch.image_name, batch.noise_seed)  # type: ignore[arg-type]
        return x, self.frozen.context(batch.sentence)

    def update(self, parts: Sequence[Item]) -> float:
        """Take one optimizer step over this process's share of a batch; return the loss of the whole batch."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.accelerator.device)
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            # Gradients are exchanged between processes once, with the last part.
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.head):
                loss = self.loss(part) / len(parts)
                self.accelerator.backward(loss)
            total += loss.detach()
        if self.options.clip:
            self.accelerator.clip_grad_norm_(self.head.parameters(), self.options.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        self.optimizer.step()
        self.step += 1
        self._update_average()
        return float(self.accelerator.reduce(total, "mean"))

    def _rate(self) -> float:
        """Return the learning rate of the current step."""
        options = self.options
        rate = options.rate * min(1.0, (self.step + 1) / max(1, options.warmup))
        if options.schedule == "cosine":
            rate *= 0.5 * (1 + np.cos(np.pi * min(1.0, self.step / options.steps)))
        return float(rate * self.plateau["factor"])

    @torch.no_grad()
    def _update_average(self) -> None:
        """Update LitEma's average, whose decay grows with the steps, so that a short training has one, too."""
        decay = min(self.options.ema, (1 + self.step) / (10 + self.step))
        weights = self.accelerator.unwrap_model(self.head).parameters()
        for mean, new in zip(self.average.parameters(), weights, strict=True):
            mean.lerp_(new, 1 - decay)

    def _end_epoch(self) -> None:
        """Apply the paper's plateau: halve the rate after two epochs that were no better."""
        mean = self.epoch_loss[0] / self.epoch_loss[1]
        self.epoch_loss = [0.0, 0.0]
        if self.options.schedule != "plateau":
            return
        if mean < self.plateau["best"] * (1 - 1e-4):  # PyTorch's threshold
            self.plateau["best"], self.plateau["bad"] = mean, 0
        else:
            self.plateau["bad"] += 1
        if self.plateau["bad"] > 1:
            self.plateau["factor"], self.plateau["bad"] = self.plateau["factor"] / 2, 0

    # --- a run ---------------------------------------------------------------------------------------

    def run(self, *, minutes: float | None = None, say: Say = print) -> bool:
        """Train to the last step, or for so many minutes; return whether the training is done.

        Raises:
            KeyboardInterrupt: a signal asked to stop; the state of the step at which it stopped is saved.
            LaunchError: another process of the launch is gone.
        """
        if not self.accelerator.is_main_process:
            say = _say_nothing
        try:
            return self._run(minutes, say)
        except RuntimeError as why:
            if self.accelerator.num_processes == 1 or not _is_loss_of_a_process(why):
                raise
            raise LaunchError(
                f"Another process of this launch has ended or does not answer ({str(why).splitlines()[0][:120]}). "
                "Read its error, perhaps above. The same command resumes at the last checkpoint in "
                f"{self.folder}."
            ) from why

    def _run(self, minutes: float | None, say: Say) -> bool:
        """Train; see `run`."""
        options, accelerator = self.options, self.accelerator
        start, first = time.monotonic(), self.step
        if 0 < first < options.steps:
            say(f"resuming at step {first} of {options.steps}")
        with stop_between_steps(announce=accelerator.is_main_process) as request:
            for parts in self.batches():
                self._count_step(parts)
                done = self.step == options.steps
                if self.step % options.log_every == 0 or done:
                    self._log((time.monotonic() - start) / (self.step - first), say)
                if self.validate and (self.step % options.validate_every == 0 or done):
                    self._validate(say)
                # At least one step is taken, so that a run always makes progress.
                stop = bool(request.signal) or (minutes is not None and time.monotonic() - start > 60 * minutes)
                if accelerator.num_processes > 1:  # all must stop at the same step
                    stops = torch.tensor(float(stop), device=accelerator.device)
                    stop = bool(accelerator.reduce(stops, "sum"))
                if self.step % options.save_every == 0 or done or stop:
                    self.save()
                if stop:
                    break
        done = self.step >= options.steps
        if not done:
            place = f"the state is saved in {self.folder}, and the same command resumes there"
            say(f"stopped at step {self.step} of {options.steps}: {place}")
        if request.signal and not done:
            raise KeyboardInterrupt(request.signal)
        return done

    def batches(self) -> Iterator[list[Item]]:
        """Yield this process's share of each remaining step, in its parts."""
        process = self.accelerator.process_index, self.accelerator.num_processes
        return load_batches(self.stream, self.options, self.step, process, self.workers)

    def _count_step(self, parts: Sequence[Item]) -> None:
        """Take a step and count its loss, its epoch, and the samples that were skipped for it."""
        batch, length = self.options.batch, len(self.stream.samples)
        epoch = (self.step * batch) // length
        loss = self.update(parts)
        self.logged.append(loss)
        self.epoch_loss = [self.epoch_loss[0] + loss, self.epoch_loss[1] + 1]
        if (self.step * batch) // length > epoch:
            self._end_epoch()
        for part in parts:
            for skipped in part.skipped:
                self.report.add(skipped)

    def _log(self, seconds: float, say: Say) -> None:
        """Add a row to the metrics and report it; `seconds` is the mean time of a step in this run."""
        options, mean = self.options, float(np.mean(self.logged))
        self.logged = []
        self.metrics.add({"step": self.step, "loss": mean, "rate": self._rate()}, self.step)
        # The mean over this run, validations and saving included.
        remaining = time_text(seconds * (options.steps - self.step))
        say(
            f"step {self.step} of {options.steps}, loss {mean:.4f}, {options.batch / seconds:.1f} prompts/s, "
            f"{remaining} left"
        )

    def _validate(self, say: Say) -> None:
        """Validate in the first process, while the others wait, and save the head if it is the best so far."""
        assert self.validate is not None
        if self.accelerator.is_main_process:
            sheet = self.folder / "pictures" / f"step-{self.step:07d}.jpg"
            numbers = self.validate(self.method(), sheet)
            self.threshold = numbers.get("miou_threshold", self.threshold)
            self.metrics.add({"step": self.step, **numbers}, self.step)
            self.metrics.add_image(sheet, self.step)
            say(f"step {self.step}: " + ", ".join(f"{name} {value:.3f}" for name, value in numbers.items()))
            if numbers.get("miou", self.best) > self.best:  # missing where no sample could be read
                self.best = numbers["miou"]
                self._save_head("best")
        self.accelerator.wait_for_everyone()

    # --- on disk -------------------------------------------------------------------------------------

    def method(self) -> LearnedHead:
        """Return a copy of the averaged head, to segment with."""
        return LearnedHead(copy.deepcopy(self.average), defaults=self.options.defaults, origin=f"step {self.step}")

    def save(self) -> None:
        """Write the last head, the metrics and the state, each whole or not at all.

        The state comes last: whatever it counts as done lies on disk already, even if the process is killed.
        """
        self._gather_report()
        if self.accelerator.is_main_process:
            self._save_head("last")
            self.metrics.write()
            state = {
                **self._recipe(),
                "module": self.accelerator.unwrap_model(self.head).state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else {},
                "step": self.step,
                "rows": self.metrics.rows,
                "logged": self.logged,
                "epoch_loss": self.epoch_loss,
                "plateau": self.plateau,
                "best": self.best,
                "threshold": self.threshold,
                "report": json.dumps(self.report.state_dict()),
            }
            save_state(state, self.folder / "state.pt")
        self.accelerator.wait_for_everyone()

    def _recipe(self) -> dict[str, Any]:
        """Return what must be the same when this training resumes."""
        belongs: dict[str, str | int] = {
            "another model": self.host.info.fingerprint,
            "another dataset": len(self.stream.samples),
            **self.belongs,
        }
        return recipe_of(self.options, self.accelerator.unwrap_model(self.head).config, belongs)

    def _gather_report(self) -> None:
        """Merge the reports of all processes, each of which meets other samples."""
        if self.accelerator.num_processes > 1:
            from accelerate.utils import gather_object

            for state in gather_object([self.report.state_dict()]):
                self.report.merge(Report.from_state(state, _MOST_NAMES))

    def _save_head(self, name: str) -> None:
        """Write the averaged head as NAME.safetensors."""
        self.folder.mkdir(parents=True, exist_ok=True)
        defaults = self.options.defaults
        source = {
            **self.source,
            "step": self.step,
            "resolution": defaults.resolution,
            "timesteps": list(defaults.timesteps),
            "template": defaults.template,
            "threshold": self.threshold,
            "options": dataclasses.asdict(self.options),
        }
        save_head(self.average, self.folder / f"{name}.safetensors", source=source, overwrite=True)

    def _resume(self) -> None:
        """Read the state, if the folder has one.

        Raises:
            CheckpointError: it belongs to another training, or cannot be read.
            LaunchError: only some of the processes see it.
        """
        path = self.folder / "state.pt"
        if not self._all_see(path):
            return
        state = load_state(path, self._recipe())
        self.accelerator.unwrap_model(self.head).load_state_dict(state["module"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.metrics.rows, self.best = state["step"], state["rows"], state["best"]
        self.logged = state.get("logged", [])  # older states have none
        self.threshold = state.get("threshold")
        self.epoch_loss, self.plateau = state["epoch_loss"], state["plateau"]
        self.report = Report.from_state(json.loads(state["report"]), _MOST_NAMES)

    def _all_see(self, path: Path) -> bool:
        """Return whether the file exists; raise LaunchError if only some of the processes see it."""
        exists = torch.tensor(float(path.exists()), device=self.accelerator.device)
        share = float(self.accelerator.reduce(exists, "mean"))
        if 0 < share < 1:
            raise LaunchError(
                f"Some processes see a training in {self.folder}, and others do not. Several machines need a "
                "folder that all of them see: give one with --out."
            )
        return bool(share)


def _is_loss_of_a_process(why: RuntimeError) -> bool:
    """Return whether an error comes from the connection; Gloo, which connects CPUs, has no error type."""
    return isinstance(why, torch.distributed.DistError) or any(name in str(why) for name in ("gloo", "NCCL"))


def _say_nothing(_text: str) -> None:
    """Drop a message: of several processes only the first one reports."""
