"""A small latent diffusion model of Stable Diffusion 1.x's structure, trained from scratch on scenes.

Stages, each resumable to the step: the KL autoencoder's encoder on pictures, then its decoder; the latents of
a number of scenes; UNet and text encoder together on these latents and their captions in all looks, with the
noise prediction loss. `export` writes what a webui and `hosts/diffusers_files.py` load: one .safetensors in
the original layout, its .yaml, its tokenizer's folder.

Scene number n is made from the seed n, and a step's chance from its number, so that a run that was
interrupted goes on as it would have.

Sources: Rombach et al., Latent Diffusion Models, CVPR 2022, https://arxiv.org/abs/2112.10752; Hang et al.,
Efficient Diffusion Training via Min-SNR Weighting Strategy, ICCV 2023, https://arxiv.org/abs/2303.09556
"""

from __future__ import annotations

import copy
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldznet.errors import OptionError
from ldznet.hosts.diffusers import DiffusersHost, tokenize_with
from ldznet.hosts.diffusers_files import unet_state, vae_settings
from ldznet.hosts.host import Schedule
from ldznet.modeling.unet import UNet, UNetConfig
from ldznet.training.ldm import vae_state
from ldznet.training.scenes import LOOK_NAMES, VOCABULARY, make_scene

TRAIN_SEEDS = 10_000_000  # scenes from this seed on are for training; below it for evaluation


@dataclass(frozen=True, kw_only=True)
class TinyConfig:
    """Structure and recipe of the embedded model."""

    unet: UNetConfig = field(
        default_factory=lambda: UNetConfig(
            model_channels=64, channel_mult=(1, 1, 2, 2), res_blocks=1, heads=4, context_width=64
        )
    )
    # Of 32 channels each would be normalised alone, in 32 groups, and the level of a whole picture would be
    # lost: its colour, and whether a thing is there at all.
    vae_widths: tuple[int, ...] = (64, 64, 64, 64)
    vae_blocks: int = 0  # in the encoder; the decoder has one more
    text_layers: int = 3
    size: int = 128  # side of the pictures
    batch: int = 32  # of the UNet
    vae_batch: int = 4  # small: an autoencoder gains more from steps than from pictures
    encoder_steps: int = 3000
    decoder_steps: int = 3000
    unet_steps: int = 2400
    vae_crop: int = 64  # side of the autoencoder's crops; it is convolutional
    encoder_rate: float = 1e-3
    decoder_rate: float = 1e-3
    kl_weight: float = 1e-5
    scenes: int = 24576  # whose latents are kept for the UNet
    unet_rate: float = 1e-3
    min_snr: float = 5.0  # timesteps with little noise weigh less; 0 weighs all alike
    warmup: int = 200
    encoder_warmup: int = 500
    caption_dropout: float = 0.1  # empty captions, for guidance and for the difference method
    ema: float = 0.999


# --- the tokenizer -------------------------------------------------------------------------------


def write_tokenizer(folder: Path, words: Sequence[str] = VOCABULARY) -> int:
    """A tokenizer in CLIP's format that knows some words whole and spells all others; returns its size."""
    folder.mkdir(parents=True, exist_ok=True)
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [*map(chr, printable), *(chr(256 + n) for n in range(256 - len(printable)))]
    merges = _merges([word for word in words if word.isalpha()])
    joined = ["".join(pair) for pair in merges]
    tokens = list(dict.fromkeys([*symbols, *(symbol + "</w>" for symbol in symbols), *joined]))
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    _write(folder / "vocab.json", json.dumps({token: n for n, token in enumerate(tokens)}))
    _write(folder / "merges.txt", "\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n")
    special = {"bos_token": tokens[-2], "eos_token": tokens[-1], "unk_token": tokens[-1], "pad_token": tokens[-1]}
    _write(folder / "special_tokens_map.json", json.dumps(special))
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special}
    _write(folder / "tokenizer_config.json", json.dumps(settings))
    return len(tokens)


def _write(path: Path, text: str) -> None:
    """Whole at any time, for the processes beside this one."""
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(text)
    os.replace(partial, path)


def _merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Byte-pair encoding run to its end: the merges, in order, after which every word is one token.

    Source: Sennrich et al., Neural Machine Translation of Rare Words, https://arxiv.org/abs/1508.07909
    """
    spelled = [[*word[:-1], word[-1] + "</w>"] for word in sorted(set(words))]
    merges: list[tuple[str, str]] = []
    while pairs := [pair for parts in spelled for pair in pairwise(parts)]:
        counts = Counter(pairs)
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for parts in spelled:
            for place in range(len(parts) - 1, 0, -1):
                if place < len(parts) and (parts[place - 1], parts[place]) == best:
                    parts[place - 1 : place + 1] = ["".join(best)]
    return merges


# --- models --------------------------------------------------------------------------------------


class TinyModel(nn.Module):
    """Autoencoder, text encoder and UNet together."""

    def __init__(self, config: TinyConfig, tokenizer_folder: Path) -> None:
        super().__init__()
        from diffusers import AutoencoderKL
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

        self.config = config
        vocabulary = write_tokenizer(tokenizer_folder)
        self.tokenize = tokenize_with(CLIPTokenizer.from_pretrained(tokenizer_folder, local_files_only=True))
        self.vae = AutoencoderKL(**vae_settings(list(config.vae_widths), config.vae_blocks, 4, 1.0))
        width = config.unet.context_width
        self.text_settings = {
            "vocab_size": vocabulary,
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": config.text_layers,
            "num_attention_heads": max(width // 32, 1),
            "max_position_embeddings": 77,
            "hidden_act": "quick_gelu",
            "bos_token_id": vocabulary - 2,
            "eos_token_id": vocabulary - 1,
        }
        self.text = CLIPTextModel(CLIPTextConfig(**self.text_settings))
        self.unet = UNet(config.unet)
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(0.18215))

    def context(self, captions: Sequence[str]) -> Tensor:
        """-> (B, 77, D)."""
        ids, _ = self.tokenize(captions)
        states: Tensor = self.text(ids.to(self.scale.device)).last_hidden_state
        return states

    @torch.no_grad()
    def latent(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> the posterior's mean, scaled to a deviation of 1."""
        mean: Tensor = self.vae.encode(images).latent_dist.mean
        return mean * self.scale


# --- scenes --------------------------------------------------------------------------------------


# How many things stand in a scene, by turns; None is by chance. A word is soonest learned from a picture that
# shows little else.
FEW_THINGS = (None, 1, 2, 1)


class SceneStream(torch.utils.data.Dataset[tuple[Tensor, str]]):
    """Scene number n: (3, size, size) uint8 and its caption; looks take turns."""

    def __init__(self, size: int, start: int, count: int, things: Sequence[int | None] = (None,)) -> None:
        self.size, self.start, self.count, self.things = size, start, count, things

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        if index >= self.count:
            raise IndexError(index)
        number = self.start + index
        look = LOOK_NAMES[number % len(LOOK_NAMES)]
        things = self.things[number // len(LOOK_NAMES) % len(self.things)]
        scene = make_scene(TRAIN_SEEDS + number, look=look, size=(self.size, self.size), objects=things)
        return torch.from_numpy(np.ascontiguousarray(scene.image.transpose(2, 0, 1))), scene.caption


def _one_thread(_worker: int) -> None:
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def _batches(config: TinyConfig, step: int, options: RunOptions) -> Iterator[tuple[Tensor, list[str]]]:
    """The batches from step `step` on, the same wherever a run begins."""
    stream = SceneStream(config.size, step * config.vae_batch, (options.steps - step) * config.vae_batch)
    loader = torch.utils.data.DataLoader(
        stream, batch_size=config.vae_batch, num_workers=options.workers, worker_init_fn=_one_thread
    )
    for images, captions in loader:
        yield images, list(captions)


# --- training ------------------------------------------------------------------------------------


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
        _save(state, self.path)

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


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where and how long one run of a stage goes."""

    folder: Path
    steps: int
    minutes: float = 9.0  # a run ends before this, saved, to be gone on with
    device: str = "cpu"
    workers: int = 0
    autocast: bool = False  # bfloat16


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
        x = _crop(_normalised(images, options.device), config.vae_crop, stage.step)
        posterior = vae.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=_generator(stage.step)).to(x.device)
        y = parts["light"](posterior.mean + posterior.std * noise)
        return _difference(x, y) + config.kl_weight * posterior.kl().mean()

    return _train(stage, _batches(config, stage.step, options), config.vae_batch, options, loss_of, say)


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
        x = _crop(_normalised(images, options.device), config.vae_crop, stage.step)
        with torch.no_grad():
            mean = vae.encode(x).latent_dist.mean
        return _difference(x, vae.decode(mean).sample)

    return _train(stage, _batches(config, stage.step, options), config.vae_batch, options, loss_of, say)


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
                stream, batch_size=32, num_workers=options.workers, worker_init_fn=_one_thread
            )
            parts = [latents] if len(captions) else []
            for images, texts in loader:
                parts.append(model.latent(_normalised(images, options.device)).half().cpu())
                captions += texts
            latents = torch.cat(parts)
            _save({"latents": latents, "captions": captions}, options.folder / "latents.pt")
            say(f"latents of {len(captions)} of {config.scenes} scenes")
            if time.monotonic() - start > 60 * options.minutes and len(captions) < config.scenes:
                return None
        return cls(latents, captions)

    def batches(self, config: TinyConfig, step: int, steps: int) -> Iterator[tuple[Tensor, list[str]]]:
        """The batches of steps `step` to `steps`, the same wherever a run begins."""
        for number in range(step, steps):
            picked = torch.randint(0, len(self.captions), (config.batch,), generator=_generator(number + 2**32))
            yield self.latents[picked].float(), [self.captions[index] for index in picked.tolist()]


def train_unet(config: TinyConfig, options: RunOptions, say: Callable[[str], None] = print) -> bool:
    """Train UNet and text encoder on the finished autoencoder's latents; True when their steps are done.

    The first thing is to encode the scenes, which is kept for the next run.

    Raises:
        OptionError: the encoder has not been trained yet.
    """
    start = time.monotonic()
    rank, processes = share_of_launch()
    cache = LatentCache.make(config, options, say) if not rank else None
    wait_for_all()
    if rank and len((kept := LatentCache.read(options.folder)).captions) >= config.scenes:
        cache = LatentCache(kept.latents[: config.scenes], kept.captions[: config.scenes])
    if cache is None:
        return False
    options = replace(options, minutes=max(0.0, options.minutes - (time.monotonic() - start) / 60))
    torch.manual_seed(1)
    model = TinyModel(config, options.folder / "tokenizer").to(options.device)
    parts = nn.ModuleDict({"unet": model.unet, "text": model.text})
    if (options.folder / "start.pt").exists():
        parts.load_state_dict(torch.load(options.folder / "start.pt", map_location="cpu", weights_only=True))
    stage = Stage("unet", parts, config.unet_rate, config.warmup, config.ema, options.folder, options.steps)
    stage.average.to(options.device)
    for state in stage.optimizer.state.values():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.ndim:
                state[key] = value.to(options.device)
    schedule = Schedule.scaled_linear()

    if config.batch % processes:
        raise OptionError(
            f"A batch of {config.batch} cannot be shared by {processes} processes. Start a number that divides it."
        )

    def loss_of(latent: Tensor, captions: list[str]) -> Tensor:
        generator = _generator(stage.step)
        noise = torch.randn(latent.shape, generator=generator)
        timesteps = torch.randint(0, 1000, (len(latent),), generator=generator)
        dropped = torch.rand(len(latent), generator=generator) < config.caption_dropout
        given = ["" if drop else text for drop, text in zip(dropped.tolist(), captions, strict=True)]
        # All chance is the batch's; a process takes its share of it.
        latent, noise = latent[rank::processes].to(options.device), noise[rank::processes].to(options.device)
        timesteps, given = timesteps[rank::processes], given[rank::processes]
        context = model.context(given)
        noisy = schedule.add_noise(latent, noise, timesteps)
        found = model.unet(noisy, timesteps.to(latent.device), context)
        errors = F.mse_loss(found.float(), noise, reduction="none").mean(dim=(1, 2, 3))
        return (errors * _weights(schedule, timesteps, config.min_snr).to(errors.device)).mean()

    batches = cache.batches(config, stage.step, options.steps)
    return _train(stage, batches, config.batch, options, loss_of, say)


def _weights(schedule: Schedule, timesteps: Tensor, least: float) -> Tensor:
    """(B,) timesteps -> (B,): min(SNR, least) / SNR, the paper's weights for a noise prediction."""
    kept = schedule.alphas_cumprod[timesteps]
    snr = kept / (1 - kept)
    return (snr.clamp(max=least) / snr if least else torch.ones_like(snr)).float()


def _train(
    stage: Stage,
    batches: Iterable[tuple[Tensor, list[str]]],
    batch: int,
    options: RunOptions,
    loss_of: Callable[[Tensor, list[str]], Tensor],
    say: Callable[[str], None],
) -> bool:
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


def _save(state: Mapping[str, Any], path: Path) -> None:
    """Write it under its name only when it is whole."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def _generator(step: int) -> torch.Generator:
    """Chance that depends on the step alone, so that going on gives what one run would have given."""
    return torch.Generator().manual_seed(step)


def _normalised(images: Tensor, device: str) -> Tensor:
    return images.to(device).float() / 127.5 - 1


def _crop(images: Tensor, side: int, step: int) -> Tensor:
    """The same place of every picture; another one each step."""
    room = images.shape[-1] - side
    top, left = torch.randint(0, room + 1, (2,), generator=_generator(step)).tolist()
    return images[..., top : top + side, left : left + side]


def load_encoder(model: TinyModel, folder: Path) -> None:
    """Put the trained encoder's average into the model and measure the scale of its latents.

    Raises:
        OptionError: the encoder has not been trained yet.
    """
    kept = _average_of(folder, "encoder")
    _part(model.vae, ("encoder", "quant_conv")).load_state_dict(
        {name: tensor for name, tensor in kept.items() if not name.startswith("light.")}
    )
    model.vae.eval().requires_grad_(False)
    stream = SceneStream(model.config.size, 0, 64)
    images = torch.stack([stream[index][0] for index in range(len(stream))])
    with torch.no_grad():
        mean = model.vae.encode(_normalised(images, "cpu")).latent_dist.mean
    model.scale.fill_(1 / mean.std().item())


def load_decoder(model: TinyModel, folder: Path) -> None:
    """Put the trained decoder's average into the model.

    Raises:
        OptionError: the decoder has not been trained yet.
    """
    _part(model.vae, ("decoder", "post_quant_conv")).load_state_dict(_average_of(folder, "decoder"))
    model.vae.eval().requires_grad_(False)


def _part(vae: Any, names: Sequence[str]) -> nn.ModuleDict:
    return nn.ModuleDict({name: getattr(vae, name) for name in names})


def _average_of(folder: Path, stage: str) -> dict[str, Tensor]:
    path = folder / f"{stage}.pt"
    if not path.exists():
        raise OptionError(f"There is no trained {stage} in {folder}. Train the stage {stage} first.")
    average: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)["average"]
    return average


def unpack(checkpoint: Path, folder: Path) -> None:
    """Lay out what `export` wrote so that `train_unet` goes on from its weights, with a new schedule.

    The autoencoder is kept as it is: with another one all that the UNet knows would be lost.
    """
    host = DiffusersHost.load(checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    for stage, names in (("encoder", ("encoder", "quant_conv")), ("decoder", ("decoder", "post_quant_conv"))):
        _save({"average": _part(host.vae, names).state_dict()}, folder / f"{stage}.pt")
    unet = {f"unet.{name}": tensor for name, tensor in unet_state(checkpoint).items()}
    text = {f"text.{name}": tensor for name, tensor in host.text[0].model.state_dict().items()}
    _save({**unet, **text}, folder / "start.pt")


# --- the finished model --------------------------------------------------------------------------


YAML = """model:
  base_learning_rate: 1.0e-04
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    linear_start: 0.00085
    linear_end: 0.0120
    num_timesteps_cond: 1
    log_every_t: 200
    timesteps: 1000
    first_stage_key: jpg
    cond_stage_key: txt
    image_size: {latent}
    channels: 4
    cond_stage_trainable: false
    conditioning_key: crossattn
    monitor: val/loss_simple_ema
    scale_factor: {scale}
    use_ema: false
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        image_size: {latent}
        in_channels: 4
        out_channels: 4
        model_channels: {unet.model_channels}
        attention_resolutions: [4, 2, 1]
        num_res_blocks: {unet.res_blocks}
        channel_mult: {mult}
        num_heads: {unet.heads}
        use_spatial_transformer: true
        transformer_depth: 1
        context_dim: {unet.context_width}
        use_checkpoint: false
        legacy: false
    first_stage_config:
      target: ldm.models.autoencoder.AutoencoderKL
      params:
        embed_dim: 4
        monitor: val/rec_loss
        ddconfig:
          double_z: true
          z_channels: 4
          resolution: {size}
          in_channels: 3
          out_ch: 3
          ch: {vae_ch}
          ch_mult: {vae_mult}
          num_res_blocks: {vae_blocks}
          attn_resolutions: []
          dropout: 0.0
        lossconfig:
          target: torch.nn.Identity
    cond_stage_config:
      target: ldm.modules.encoders.modules.FrozenCLIPEmbedder
      params:
        version: {tokenizer}
"""


def export(
    config: TinyConfig, folder: Path, target: Path, *, dtype: torch.dtype = torch.float16
) -> Mapping[str, Any]:
    """Write the trained model as NAME.safetensors, NAME.yaml and the folder NAME with the tokenizer.

    Returns what was written: parameters and megabytes.
    """
    from safetensors.torch import save_file

    model = TinyModel(config, target.with_suffix(""))
    load_encoder(model, folder)
    load_decoder(model, folder)
    saved = torch.load(folder / "unet.pt", map_location="cpu", weights_only=True)
    nn.ModuleDict({"unet": model.unet, "text": model.text}).load_state_dict(saved["average"])
    state = {f"model.diffusion_model.{name}": t for name, t in model.unet.state_dict().items()}
    state |= {f"first_stage_model.{name}": t for name, t in vae_state(model.vae.state_dict()).items()}
    for name, tensor in model.text.state_dict().items():
        state[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = tensor
    state = {name: tensor.to(dtype).contiguous() for name, tensor in state.items()}
    save_file(state, target, {"format": "pt", "ldznet.config": json.dumps(asdict(config))})
    (target.with_suffix("") / "config.json").write_text(
        json.dumps({"model_type": "clip_text_model", "architectures": ["CLIPTextModel"], **model.text_settings})
    )
    target.with_suffix(".yaml").write_text(
        YAML.format(
            latent=config.size // 8,
            scale=model.scale.item(),
            unet=config.unet,
            mult=list(config.unet.channel_mult),
            size=config.size,
            vae_ch=config.vae_widths[0],
            vae_mult=[width // config.vae_widths[0] for width in config.vae_widths],
            vae_blocks=config.vae_blocks,
            tokenizer=f"models/Stable-diffusion/{target.stem}",  # where the webui looks, from its own folder
        )
    )
    return {
        "step": saved["step"],
        "parameters": sum(tensor.numel() for tensor in state.values()),
        "megabytes": target.stat().st_size / 1e6,
    }
