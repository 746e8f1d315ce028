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
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ldznet.errors import CheckpointError, OptionError
from ldznet.hosts.capture import capture
from ldznet.hosts.host import Context, Host, require_fit
from ldznet.methods.learned import LearnedHead
from ldznet.modeling.checkpoint import save_head
from ldznet.modeling.head import Head
from ldznet.segmenter import TEMPLATES
from ldznet.training.recipe import TrainOptions
from ldznet.training.samples import Report, Sample, Samples, Skipped, random_crop, squares

FORMAT = 1  # of state.pt
Say = Callable[[str], None]


# --- what a step sees ------------------------------------------------------------------------------


class Item(NamedTuple):
    """One prompt of a step."""

    pixels: Any  # (3, S, S) float32 in [-1, 1]; a Tensor after collation, as all of it
    target: Any  # (S, S) bool
    sentence: str
    picture: str  # names the pixels where they come again, else empty
    timestep: int
    noise_seed: int
    skipped: tuple[Skipped, ...]


class Stream(torch.utils.data.Dataset[Item]):
    """The prompt at each position of a training that never ends; a position's chance is its own."""

    def __init__(self, samples: Samples, options: TrainOptions) -> None:
        if not len(samples):
            raise OptionError("There is nothing to train on: the dataset is empty.")
        self.samples, self.options = samples, options
        self._epoch: tuple[int, Any] | None = None

    def __getitem__(self, position: int) -> Item:
        options = self.options
        rng = np.random.default_rng([options.seed, position])
        sample, skipped = self._sample(position, rng)
        if options.crop == "random":
            rows, columns = random_crop(sample.mask, rng)
            image, mask, name = sample.image[rows, columns], sample.mask[rows, columns], ""
        else:
            image, mask, name = sample.image, sample.mask, sample.source or sample.key
        template = options.template or TEMPLATES[int(rng.integers(len(TEMPLATES)))]
        pixels, target = squares(image, mask, options.size)
        timestep = int(rng.integers(options.timesteps[0], options.timesteps[1] + 1))
        sentence = template.replace("{}", sample.phrase)
        return Item(pixels, target, sentence, name, timestep, int(rng.integers(2**62)), skipped)

    def _sample(self, position: int, rng: np.random.Generator) -> tuple[Sample, tuple[Skipped, ...]]:
        """The position's sample, or the next one that can be read."""
        epoch, place = divmod(position, len(self.samples))
        if self._epoch is None or self._epoch[0] != epoch:
            order = np.random.default_rng([self.options.seed, 1, epoch]).permutation(len(self.samples))
            self._epoch = (epoch, order)
        order, skipped = self._epoch[1], list[Skipped]()
        for more in range(min(100, len(order))):
            index = int(order[(place + more) % len(order)])
            found = self.samples[index]
            if isinstance(found, Sample):
                if rng.random() < self.options.negatives:
                    found = self._negative(found, index, rng)
                return found, tuple(skipped)
            skipped.append(found)
        raise OptionError(
            f"{len(skipped)} samples one after the other cannot be read, the last one because: {skipped[-1].text}"
        )

    def _negative(self, sample: Sample, index: int, rng: np.random.Generator) -> Sample:
        """The same image with a phrase for what is not there."""
        if (make := getattr(self.samples, "negative", None)) is not None:
            negative: Sample = make(index, rng)
            return negative
        for _ in range(20):
            other = self.samples[int(rng.integers(len(self.samples)))]
            if isinstance(other, Sample) and other.source != sample.source and other.phrase != sample.phrase:
                return dataclasses.replace(sample, phrase=other.phrase, mask=np.zeros_like(sample.mask))
        return sample


def collate(items: Sequence[Item]) -> Item:
    """Prompts as a batch."""
    return Item(
        torch.from_numpy(np.stack([item.pixels for item in items])),
        torch.from_numpy(np.stack([item.target for item in items])),
        [item.sentence for item in items],  # type: ignore[arg-type]
        [item.picture for item in items],  # type: ignore[arg-type]
        torch.tensor([item.timestep for item in items]),  # type: ignore[arg-type]
        [item.noise_seed for item in items],  # type: ignore[arg-type]
        tuple(skipped for item in items for skipped in item.skipped),
    )


class Frozen:
    """What the Stable Diffusion model says of a batch; what comes again is computed once.

    Latents are kept in half precision on the CPU: 2 bytes for each of their numbers, 18 KB at 384 pixels.
    """

    def __init__(
        self, host: Host, options: TrainOptions, *, latents: int = 100_000, contexts: int = 20_000
    ) -> None:
        self.host, self.options = host, options
        self._latents: OrderedDict[str, Tensor] = OrderedDict()
        self._contexts: OrderedDict[str, Context] = OrderedDict()
        self._most = (latents, contexts)

    def latent(self, pixels: Tensor, names: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """(B, 3, S, S) -> (B, 4, S/8, S/8)."""
        if self.options.posterior == "sample":
            side = pixels.shape[-1] // 8
            noise = torch.stack([_noise(seed + 1, (4, side, side)) for seed in seeds])
            return self.host.encode_image(pixels, noise)
        new = [i for i, name in enumerate(names) if not name or name not in self._latents]
        if not new:
            return torch.stack([self._latents[name] for name in names]).to(self.host.device, self.host.dtype)
        fresh = dict(zip(new, self.host.encode_image(pixels[new]), strict=True))
        found = [fresh[i] if i in fresh else self._latents[name] for i, name in enumerate(names)]
        for i, latent in fresh.items():
            if names[i]:
                _keep(self._latents, names[i], latent.half().cpu(), self._most[0])
        # What is kept is rounded: round what is fresh as well, so that an interruption changes nothing.
        return torch.stack([latent.half().cpu() for latent in found]).to(self.host.device, self.host.dtype)

    def context(self, sentences: Sequence[str]) -> Context:
        """As many sentences as a batch has."""
        if new := [text for text in dict.fromkeys(sentences) if text not in self._contexts]:
            # One by one: the answer must not depend on which others were new.
            for text in new:
                _keep(self._contexts, text, self.host.encode_prompt([text]), self._most[1])
        return Context.join([self._contexts[text] for text in sentences])


def _keep(kept: OrderedDict[str, Any], name: str, value: Any, most: int) -> None:
    kept[name] = value
    while len(kept) > most:
        kept.popitem(last=False)


def _noise(seed: int, shape: Sequence[int]) -> Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


# --- training --------------------------------------------------------------------------------------


class Trainer:
    """One training on disk; `run` goes on where it stopped.

    Raises:
        HeadError: the head does not fit the host's model.
        CheckpointError: the folder holds a training with other options.
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
        accelerator: Any = None,
        workers: int = 0,
    ) -> None:
        from accelerate import Accelerator

        require_fit(head.config, host.info)
        self.accelerator = accelerator or Accelerator(
            mixed_precision=options.precision, cpu=host.device.type == "cpu"
        )
        self.options, self.folder, self.workers, self.validate = options, folder, workers, validate
        self.source = dict(source or {})
        world = self.accelerator.num_processes
        if options.batch % (world * options.accumulate):
            raise OptionError(
                f"A batch of {options.batch} cannot be shared by {world} processes in {options.accumulate} parts "
                "each. Give a batch that is a multiple of their product."
            )
        self.host, self.frozen = host, Frozen(host, options)
        self.stream = Stream(samples, options)
        head.train().requires_grad_(True)
        head.checkpointing = options.checkpointing
        optimizer = torch.optim.AdamW(head.parameters(), lr=options.rate, weight_decay=options.weight_decay)
        self.head, self.optimizer = self.accelerator.prepare(head, optimizer)
        self.average = copy.deepcopy(self.accelerator.unwrap_model(self.head)).eval().requires_grad_(False)
        self.step, self.rows = 0, list[dict[str, float]]()
        self.report = Report()
        self.epoch_loss = [0.0, 0.0]  # sum and steps of this epoch
        self.plateau = {"factor": 1.0, "best": float("inf"), "bad": 0.0}
        self.best = -1.0
        self._resume()
        self._board: Any = None

    # --- one step ------------------------------------------------------------------------------------

    def loss(self, batch: Item) -> Tensor:
        """Binary cross-entropy of the logits, mean over pixels."""
        host, head = self.host, self.accelerator.unwrap_model(self.head)
        config = head.config
        with torch.no_grad():
            context = self.frozen.context(batch.sentence)
            x = batch.pixels
            features: dict[str, Tensor] = {}
            if config.kind != "rgbnet":
                x = self.frozen.latent(batch.pixels, batch.picture, batch.noise_seed)  # type: ignore[arg-type]
            if config.kind == "ld-znet":
                modules = host.feature_modules()
                seeds: Sequence[int] = batch.noise_seed  # type: ignore[assignment]
                noise = torch.stack([_noise(seed, x.shape[1:]) for seed in seeds])
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
        """Train until the last step or for so many minutes; True when it is done."""
        options, accelerator = self.options, self.accelerator
        start, first, logged = time.monotonic(), self.step, list[float]()
        for parts in self._batches():
            epoch = (self.step * options.batch) // len(self.stream.samples)
            loss = self._update(parts)
            logged.append(loss)
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
                self._log({"step": self.step, "loss": float(np.mean(logged)), "rate": self._rate()}, say, rate)
                logged = []
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

    def try_steps(self, count: int) -> tuple[float, float]:
        """Take some steps for nothing but their cost -> seconds of the fastest, MB at the peak.

        Nothing is written, but the head is changed: throw the trainer away afterwards.
        """
        seconds = []
        cuda = self.accelerator.device.type == "cuda"
        for parts in itertools.islice(self._batches(), count):
            start = time.perf_counter()
            self._update(parts)
            if cuda:
                torch.cuda.synchronize(self.accelerator.device)
            seconds.append(time.perf_counter() - start)
        if cuda:
            return min(seconds), torch.cuda.max_memory_allocated(self.accelerator.device) / 1e6
        try:
            import resource  # not on Windows
        except ImportError:
            return min(seconds), float("nan")
        return min(seconds), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3

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
            found = self.validate(self.method(), self.folder / "pictures" / f"step-{self.step:07d}.jpg")
            self._keep_row({"step": self.step, **found})
            say(f"step {self.step}: " + ", ".join(f"{name} {value:.3f}" for name, value in found.items()))
            if found["miou"] > self.best:
                self.best = found["miou"]
                self._save_head("best")
        self.accelerator.wait_for_everyone()

    # --- on disk -------------------------------------------------------------------------------------

    def method(self) -> LearnedHead:
        """The averaged head as it is now, to segment with."""
        return LearnedHead(copy.deepcopy(self.average), defaults=self.options.defaults, origin=f"step {self.step}")

    def save(self) -> None:
        """Write the state and the last head; each file is under its name only when it is whole."""
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            state = {
                "format": FORMAT,
                "options": json.dumps(dataclasses.asdict(self.options)),
                "head": self.accelerator.unwrap_model(self.head).config.to_json(),
                "module": self.accelerator.unwrap_model(self.head).state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else {},
                "step": self.step,
                "rows": self.rows,
                "epoch_loss": self.epoch_loss,
                "plateau": self.plateau,
                "best": self.best,
                "report": json.dumps(self.report.state_dict()),
            }
            partial = self.folder / "state.partial"
            torch.save(state, partial)
            os.replace(partial, self.folder / "state.pt")
            self._save_head("last")
            self._write_rows()
        self.accelerator.wait_for_everyone()

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

    def _resume(self) -> None:
        path = self.folder / "state.pt"
        if not path.exists():
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
        head.load_state_dict(saved["module"])
        self.average.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.accelerator.scaler and saved["scaler"]:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        self.step, self.rows, self.best = saved["step"], saved["rows"], saved["best"]
        self.epoch_loss, self.plateau = saved["epoch_loss"], saved["plateau"]
        self.report = Report.from_state(json.loads(saved["report"]))


# Options that a training may go on with changed: they do not change its result.
_FREE = frozenset({"log_every", "save_every", "validate_every", "checkpointing"})


def _one_thread(_worker: int) -> None:
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
