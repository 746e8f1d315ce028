"""Training a head: LD-ZNet, ZNet or RGBNet, for any Stable Diffusion model that the host loads.

All chance of a step comes from its number and the seed: which samples, crops, sentences, timesteps, noise.
So a run that was interrupted goes on as if it had not been, and several processes see together the batch
that one would see alone. The Stable Diffusion model is frozen; only the head learns.

    FOLDER/state.pt            all that going on needs
    FOLDER/last.safetensors    the averaged head, as `segment` reads it; best.safetensors by the validation's mIoU
    FOLDER/metrics.csv         a row per logged step; tensorboard/ has the same
    FOLDER/pictures/           masks of some validation samples along the way

Source: PNVR et al., LD-ZNet, ICCV 2023, section 4; what the paper leaves open is as in the released code.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import dataclasses
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ldznet.errors import CheckpointError, LaunchError, OptionError
from ldznet.heads.head_file import save_head
from ldznet.heads.network import Head
from ldznet.hosts.capture import capture
from ldznet.hosts.host import Context, Host, require_fit
from ldznet.methods.learned_head import LearnedHead
from ldznet.research.datasets.samples import Samples
from ldznet.research.datasets.skip_report import Report
from ldznet.research.embedded.resumable_stage import save_whole
from ldznet.research.training.frozen_cache import AnswerFolder, FrozenModel, private_noise
from ldznet.research.training.items import Item, Stream, collate
from ldznet.research.training.train_options import TrainOptions

FORMAT = 1  # of state.pt
# How long processes wait for one another: longer than the first one needs to validate.
WAIT = timedelta(hours=2)
# Names of samples that were left out; as many different ones are counted once each, however often they are met.
_MOST_NAMES = 10**6
Say = Callable[[str], None]


@dataclass(frozen=True)
class Cost:
    """Of a step, of the fastest of some."""

    seconds: float  # nothing that it asks of the Stable Diffusion model is known yet
    cached: float | None  # seconds when latents and contexts are read from disk
    memory: float  # MB at the peak, nan where that cannot be found out


class Trainer:
    """One training on disk; `run` goes on where it stopped. `cache` is a folder for what the model says.

    `belongs`: what else a training must have in common with one to go on with, by what another one is called.

    Raises:
        HeadError: the head does not fit the host's model.
        OptionError: the batch cannot be shared out, or the device does not compute in that precision.
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

        require_fit(head.config, host.info)
        if options.precision == "fp16" and host.device.type == "cpu" and accelerator is None:
            raise OptionError("A CPU does not train in fp16. Give --precision bf16, or no.")
        self.accelerator = accelerator or Accelerator(
            mixed_precision=options.precision,
            cpu=host.device.type == "cpu",
            kwargs_handlers=[InitProcessGroupKwargs(timeout=WAIT)],
        )
        self.options, self.folder, self.workers, self.validate = options, folder, workers, validate
        self.source, self.belongs = dict(source or {}), dict(belongs or {})
        world = self.accelerator.num_processes
        if options.batch % (world * options.accumulate):
            raise OptionError(
                f"A batch of {options.batch} cannot be shared by {world} processes in {options.accumulate} parts "
                "each. Give a batch that is a multiple of their product."
            )
        self.host, self.frozen = host, FrozenModel(host, options, AnswerFolder(cache, host) if cache else None)
        self.stream = Stream(samples, options)
        head.train().requires_grad_(True)
        head.checkpointing = options.checkpointing
        optimizer = torch.optim.AdamW(head.parameters(), lr=options.rate, weight_decay=options.weight_decay)
        self.head, self.optimizer = self.accelerator.prepare(head, optimizer)
        self.average = copy.deepcopy(self.accelerator.unwrap_model(self.head)).eval().requires_grad_(False)
        self.step, self.rows = 0, list[dict[str, float]]()
        self.logged = list[float]()  # losses since the last row
        self.report = Report(_MOST_NAMES)
        self.epoch_loss = [0.0, 0.0]  # sum and steps of this epoch
        self.plateau = {"factor": 1.0, "best": float("inf"), "bad": 0.0}
        self.best = -1.0
        self._resume()
        self.report.merge(samples.report)
        self._board: Any = None

    # --- one step ------------------------------------------------------------------------------------

    def loss(self, batch: Item) -> Tensor:
        """Binary cross-entropy of the logits, mean over pixels."""
        host, head = self.host, self.accelerator.unwrap_model(self.head)
        config = head.config
        with torch.no_grad():
            x, context = self._ask(batch)
            features: dict[str, Tensor] = {}
            if config.kind == "ld-znet":
                modules = host.feature_modules()
                seeds: Sequence[int] = batch.noise_seed  # type: ignore[assignment]
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

    def _ask(self, batch: Item) -> tuple[Tensor, Context]:
        """What the head reads, the pixels or their latent, and the prompts' context."""
        x: Tensor = batch.pixels
        if self.accelerator.unwrap_model(self.head).config.kind != "rgbnet":
            x = self.frozen.latent(x, batch.picture, batch.noise_seed)  # type: ignore[arg-type]
        return x, self.frozen.context(batch.sentence)

    def _update(self, parts: Sequence[Item]) -> float:
        """One optimiser step over this process's share of a batch; the loss of the whole batch."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.accelerator.device)
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
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
        self._average()
        return float(self.accelerator.reduce(total, "mean"))

    def _rate(self) -> float:
        options = self.options
        rate = options.rate * min(1.0, (self.step + 1) / max(1, options.warmup))
        if options.schedule == "cosine":
            rate *= 0.5 * (1 + np.cos(np.pi * min(1.0, self.step / options.steps)))
        return float(rate * self.plateau["factor"])

    @torch.no_grad()
    def _average(self) -> None:
        """LitEma's average: the decay grows with the steps, so that a short training has one too."""
        decay = min(self.options.ema, (1 + self.step) / (10 + self.step))
        now = self.accelerator.unwrap_model(self.head).parameters()
        for kept, new in zip(self.average.parameters(), now, strict=True):
            kept.lerp_(new, 1 - decay)

    def _end_of_epoch(self) -> None:
        """The paper's plateau: half the rate after two epochs that were no better."""
        mean = self.epoch_loss[0] / self.epoch_loss[1]
        self.epoch_loss = [0.0, 0.0]
        if self.options.schedule != "plateau":
            return
        if mean < self.plateau["best"] * (1 - 1e-4):
            self.plateau["best"], self.plateau["bad"] = mean, 0
        else:
            self.plateau["bad"] += 1
        if self.plateau["bad"] > 1:
            self.plateau["factor"], self.plateau["bad"] = self.plateau["factor"] / 2, 0

    # --- a run ---------------------------------------------------------------------------------------

    def run(self, *, minutes: float | None = None, say: Say = print) -> bool:
        """Train until the last step or for so many minutes; True when it is done.

        Raises:
            LaunchError: another process of the launch is gone.
        """
        try:
            return self._run(minutes, say)
        except RuntimeError as why:
            if self.accelerator.num_processes == 1 or not _is_loss_of_a_process(why):
                raise
            raise LaunchError(
                f"Another process of this launch has ended or does not answer ({str(why).splitlines()[0][:120]}). "
                "Look at what it said, perhaps above. The same command goes on from the last checkpoint in "
                f"{self.folder}."
            ) from why

    def _run(self, minutes: float | None, say: Say) -> bool:
        options, accelerator = self.options, self.accelerator
        start, first = time.monotonic(), self.step
        for parts in self._batches():
            epoch = (self.step * options.batch) // len(self.stream.samples)
            loss = self._update(parts)
            self.logged.append(loss)
            self.epoch_loss = [self.epoch_loss[0] + loss, self.epoch_loss[1] + 1]
            if (self.step * options.batch) // len(self.stream.samples) > epoch:
                self._end_of_epoch()
            for part in parts:
                for skipped in part.skipped:
                    self.report.add(skipped)
            done = self.step == options.steps
            if self.step % options.log_every == 0 or done:
                seconds = time.monotonic() - start
                rate = (self.step - first) * options.batch / seconds
                mean = float(np.mean(self.logged))
                self._log({"step": self.step, "loss": mean, "rate": self._rate()}, say, rate)
                self.logged = []
            if self.validate and (self.step % options.validate_every == 0 or done):
                self._validate(say)
            over = minutes is not None and time.monotonic() - start > 60 * minutes
            if accelerator.num_processes > 1:
                over = bool(accelerator.reduce(torch.tensor(float(over), device=accelerator.device), "sum"))
            if self.step % options.save_every == 0 or done or over:
                self.save()
            if over:
                break
        return self.step >= options.steps

    def try_steps(self, count: int, cache: Path | None = None) -> Cost:
        """Take some steps for nothing but their cost; with `cache` each again, after it was filled there.

        Nothing else is written, but the head is changed: throw the trainer away afterwards.

        Raises:
            OptionError: there is no step left.
        """
        if self.step >= self.options.steps:
            raise OptionError(
                f"The training in {self.folder} is done: there is no step to try. Give another folder."
            )
        plain, cached = [], []
        store = AnswerFolder(cache, self.host) if cache else None
        start = time.perf_counter()
        for parts in itertools.islice(self._batches(), count):
            waited = time.perf_counter() - start  # for samples to be read
            self.frozen = FrozenModel(self.host, self.options)
            plain.append(waited + self._seconds(parts))
            if store:
                self.frozen = FrozenModel(self.host, self.options, store)
                for part in parts:
                    self._ask(part)
                self.frozen = FrozenModel(self.host, self.options, store)  # whose memory is empty
                cached.append(waited + self._seconds(parts))
            start = time.perf_counter()
        return Cost(min(plain), min(cached, default=None), self._peak_memory())

    def _seconds(self, parts: Sequence[Item]) -> float:
        start = time.perf_counter()
        self._update(parts)
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize(self.accelerator.device)
        return time.perf_counter() - start

    def _peak_memory(self) -> float:
        if self.accelerator.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.accelerator.device) / 1e6
        try:
            import resource  # not on Windows
        except ImportError:
            return float("nan")
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3

    def _batches(self) -> Iterator[list[Item]]:
        """This process's share of each step, in its parts."""
        options, accelerator = self.options, self.accelerator
        share = options.batch // accelerator.num_processes
        part = share // options.accumulate
        starts = range(self.step * options.batch, options.steps * options.batch, options.batch)
        positions = [
            list(range(first + offset, first + offset + part))
            for first in starts
            for offset in range(accelerator.process_index * share, (accelerator.process_index + 1) * share, part)
        ]
        loader = torch.utils.data.DataLoader(
            self.stream,
            batch_sampler=positions,
            num_workers=self.workers,
            collate_fn=collate,
            worker_init_fn=_one_thread,
        )
        parts: list[Item] = []
        for item in loader:
            parts.append(item)
            if len(parts) == options.accumulate:
                yield parts
                parts = []

    def _log(self, row: dict[str, float], say: Say, rate: float) -> None:
        self._keep_row(row)
        if self.accelerator.is_main_process:
            say(f"step {row['step']} of {self.options.steps}, loss {row['loss']:.4f}, {rate:.1f} prompts/s")

    def _keep_row(self, row: dict[str, float]) -> None:
        self.rows.append(row)
        if self.accelerator.is_main_process and (board := self._tensorboard()) is not None:
            for name, value in row.items():
                if name != "step":
                    board.add_scalar(name, value, self.step)
            board.flush()

    def _show(self, picture: Path) -> None:
        """The masks of a validation, as far as it has drawn them."""
        if picture.exists() and (board := self._tensorboard()) is not None:
            with Image.open(picture) as image:
                board.add_image("masks", np.asarray(image.convert("RGB")), self.step, dataformats="HWC")
            board.flush()

    def _tensorboard(self) -> Any:
        """A writer that forgets what an interrupted run wrote beyond this step; None without tensorboard."""
        if self._board is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                return None
            self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.step)
        return self._board

    def _validate(self, say: Say) -> None:
        assert self.validate is not None
        if self.accelerator.is_main_process:
            picture = self.folder / "pictures" / f"step-{self.step:07d}.jpg"
            found = self.validate(self.method(), picture)
            self._keep_row({"step": self.step, **found})
            self._show(picture)
            say(f"step {self.step}: " + ", ".join(f"{name} {value:.3f}" for name, value in found.items()))
            if found.get("miou", self.best) > self.best:  # there is none where no sample could be read
                self.best = found["miou"]
                self._save_head("best")
        self.accelerator.wait_for_everyone()

    # --- on disk -------------------------------------------------------------------------------------

    def method(self) -> LearnedHead:
        """The averaged head as it is now, to segment with."""
        return LearnedHead(copy.deepcopy(self.average), defaults=self.options.defaults, origin=f"step {self.step}")

    def save(self) -> None:
        """Write the last head, the metrics and the state; each file is under its name only when it is whole.

        The state comes last: what it says is done lies on disk already, whenever the run is killed.
        """
        self._gather_report()
        if self.accelerator.is_main_process:
            self._save_head("last")
            self._write_rows()
            state = {
                "format": FORMAT,
                "options": json.dumps(dataclasses.asdict(self.options)),
                "head": self.accelerator.unwrap_model(self.head).config.to_json(),
                "belongs": self._belongs(),
                "module": self.accelerator.unwrap_model(self.head).state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else {},
                "step": self.step,
                "rows": self.rows,
                "logged": self.logged,
                "epoch_loss": self.epoch_loss,
                "plateau": self.plateau,
                "best": self.best,
                "report": json.dumps(self.report.state_dict()),
            }
            save_whole(state, self.folder / "state.pt")
        self.accelerator.wait_for_everyone()

    def _belongs(self) -> dict[str, str | int]:
        """What else the result depends on, by what another one is called."""
        return {
            "another model": self.host.info.fingerprint,
            "another dataset": len(self.stream.samples),
            **self.belongs,
        }

    def _gather_report(self) -> None:
        """Each process meets other samples; all of them come to know of all that was left out."""
        if self.accelerator.num_processes > 1:
            from accelerate.utils import gather_object

            for state in gather_object([self.report.state_dict()]):
                self.report.merge(Report.from_state(state, _MOST_NAMES))

    def _save_head(self, name: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        defaults = self.options.defaults
        source = {
            **self.source,
            "step": self.step,
            "resolution": defaults.resolution,
            "timesteps": list(defaults.timesteps),
            "template": defaults.template,
            "options": dataclasses.asdict(self.options),
        }
        save_head(self.average, self.folder / f"{name}.safetensors", source=source, overwrite=True)

    def _write_rows(self) -> None:
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        partial = self.folder / "metrics.partial"
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(partial, self.folder / "metrics.csv")

    def _all_see(self, path: Path) -> bool:
        """Whether there is a state to go on from: for every process or for none, as they learn together."""
        seen = torch.tensor(float(path.exists()), device=self.accelerator.device)
        share = float(self.accelerator.reduce(seen, "mean"))
        if 0 < share < 1:
            raise LaunchError(
                f"Some processes see a training in {self.folder}, and others do not. Several machines need one "
                "folder that all of them see: give such a one as --out."
            )
        return bool(share)

    def _resume(self) -> None:
        path = self.folder / "state.pt"
        if not self._all_see(path):
            return
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            known = saved["format"] == FORMAT
        except Exception as why:
            raise CheckpointError(
                f"{path} cannot be read ({why}). Give another folder, or delete it and train from the start."
            ) from why
        head = self.accelerator.unwrap_model(self.head)
        mine = json.loads(json.dumps(dataclasses.asdict(self.options)))
        theirs = json.loads(saved["options"]) if known else {}
        changed = [name for name in mine if mine[name] != theirs.get(name) and name not in _FREE]
        if not known or changed or saved["head"] != head.config.to_json():
            what = f"other options ({', '.join(changed)})" if changed else "another head or version"
            raise CheckpointError(
                f"{self.folder} holds a training with {what}, so this one cannot go on there. Give the same "
                "options, or another folder."
            )
        mine, theirs = self._belongs(), saved.get("belongs", {})  # states of before have fewer
        if differs := [name for name in theirs if theirs[name] != mine.get(name, theirs[name])]:
            raise CheckpointError(
                f"{self.folder} holds a training with {' and '.join(differs)}, so this one cannot go on there. "
                "Give the same --checkpoint, dataset and --start, or another folder."
            )
        head.load_state_dict(saved["module"])
        self.average.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.accelerator.scaler and saved["scaler"]:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        self.step, self.rows, self.best = saved["step"], saved["rows"], saved["best"]
        self.logged = saved.get("logged", [])
        self.epoch_loss, self.plateau = saved["epoch_loss"], saved["plateau"]
        self.report = Report.from_state(json.loads(saved["report"]), _MOST_NAMES)


# Options that a training may go on with changed: they do not change its result.
_FREE = frozenset({"log_every", "save_every", "validate_every", "checkpointing"})


def _is_loss_of_a_process(why: RuntimeError) -> bool:
    """Gloo, which joins CPUs, has no kind of error of its own."""
    return isinstance(why, torch.distributed.DistError) or any(name in str(why) for name in ("gloo", "NCCL"))


def _one_thread(_worker: int) -> None:
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
