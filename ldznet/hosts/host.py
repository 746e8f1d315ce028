"""The interface to a loaded Stable Diffusion model, whichever program has loaded it.

    image         (B, 3, H, W)    in [-1, 1]
    latent        (B, 4, H/8, W/8) VAE output, scaled as the UNet expects it
    noisy_latent  like the latent, after noise at a timestep
    timesteps     (B,)            0 (no noise) to 999
    context       Context         the prompts as the text encoder returns them
    features      path -> (B, C, h, w), paths as in the original UNet: "input_blocks.8.1"

A batch of one latent stands for any batch of prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from ldznet.errors import HeadError
from ldznet.heads.network import HeadConfig
from ldznet.heads.unet import UNetConfig
from ldznet.hosts.known_words import KnownWords

Family = Literal["sd1", "sd2", "sdxl"]
Prediction = Literal["noise", "v"]

FAMILY_NAMES: Mapping[str, str] = {
    "sd1": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "Stable Diffusion XL",
}


@dataclass(frozen=True)
class Context:
    """Prompts as the UNet reads them."""

    tokens: Tensor  # (P, L, D)
    pooled: Tensor | None = None  # (P, E), Stable Diffusion XL only
    cut: tuple[bool, ...] = ()  # per prompt: it was longer than the text encoder reads

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, part: slice) -> Context:
        pooled = None if self.pooled is None else self.pooled[part]
        return Context(self.tokens[part], pooled, self.cut[part])

    @staticmethod
    def join(parts: Sequence[Context]) -> Context:
        """Return the contexts of several prompts, one after the other."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return Context(
            torch.cat([part.tokens for part in parts]),
            torch.cat(pooled) if pooled else None,
            tuple(cut for part in parts for cut in part.cut),
        )


@dataclass(frozen=True)
class HostInfo:
    """The kind of model that is loaded."""

    name: str  # of the file or folder
    family: Family
    prediction: Prediction
    unet: UNetConfig
    fingerprint: str = ""  # tells one set of weights from another
    # For reports: where "weights" (raw or averaged), "vae", "prediction" and "schedule" came from.
    details: Mapping[str, str] = field(default_factory=dict, compare=False)
    known_words: KnownWords | None = field(default=None, compare=False)  # only a model that knows few has a list

    @property
    def is_small(self) -> bool:
        """Return whether the UNet is narrower than any published one: a small model, or one for tests."""
        return self.unet.model_channels < UNetConfig().model_channels


class Host(Protocol):
    """A loaded Stable Diffusion model; using it leaves it, and the random states, as they were."""

    @property
    def info(self) -> HostInfo:
        """Return the kind of model."""

    @property
    def device(self) -> torch.device:
        """Return the device on which the UNet computes."""

    @property
    def dtype(self) -> torch.dtype:
        """Return the precision in which the UNet computes."""

    def encode_image(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the latent (B, 4, H/8, W/8) of (B, 3, H, W): the posterior's mean, or with `noise` a sample."""

    def encode_prompt(self, prompts: Sequence[str]) -> Context:
        """Return the context of the prompts, read literally but for marks of the tokenizer (<|endoftext|>)."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, without start and end, and at most what the encoder reads.

        Two texts joined by a space have as many tokens as both together.
        """

    def add_noise(self, latent: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the noisy latent by the model's own noise schedule."""

    def predict_noise(self, noisy_latent: Tensor, timesteps: Tensor, context: Context) -> Tensor:
        """Run the UNet once and return the noise prediction (B, 4, h, w), also where the model predicts v."""

    def feature_modules(self) -> Mapping[str, nn.Module]:
        """Return all transformers of the UNet by path, in the order in which they run."""

    def clear_memory(self) -> None:
        """Free cached device memory, after a piece of work did not fit."""


@dataclass(frozen=True)
class Schedule:
    """The amount of noise at each timestep.

    Source: Ho et al., Denoising Diffusion Probabilistic Models, https://arxiv.org/abs/2006.11239, eq. 4;
    v-prediction: Salimans and Ho, https://arxiv.org/abs/2202.00512, appendix D;
    zero terminal SNR: Lin et al., https://arxiv.org/abs/2305.08891, algorithm 1.
    """

    alphas_cumprod: Tensor  # (1000,), float64

    @classmethod
    def scaled_linear(cls, start: float = 0.00085, end: float = 0.012, steps: int = 1000) -> Schedule:
        """Return the schedule of every Stable Diffusion model: betas are squares of evenly spaced numbers."""
        betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
        return cls(torch.cumprod(1 - betas, dim=0))

    def with_zero_snr(self) -> Schedule:
        """Return the schedule, shifted and scaled so that the last timestep is pure noise and the first stays."""
        signal = self.alphas_cumprod.sqrt()
        first, last = signal[0], signal[-1]
        return Schedule(((signal - last) * first / (first - last)) ** 2)

    def add_noise(self, latent: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return (B, 4, h, w) in the dtype of `latent`, from twice (1 or B, 4, h, w) and (B,)."""
        signal, level = self._levels(timesteps, latent.device)
        return (signal * latent.float() + level * noise.float()).to(latent.dtype)

    def noise_from_v(self, v: Tensor, noisy_latent: Tensor, timesteps: Tensor) -> Tensor:
        """Return the noise prediction that a v-prediction implies."""
        signal, level = self._levels(timesteps, v.device)
        return (signal * v.float() + level * noisy_latent.float()).to(v.dtype)

    def _levels(self, timesteps: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        # The table stays on the CPU, since not every device has float64; the results are rounded once.
        alphas = self.alphas_cumprod[timesteps.cpu()]
        levels = (alphas.sqrt(), (1 - alphas).sqrt())
        signal, level = (part.float().to(device)[:, None, None, None] for part in levels)
        return signal, level


def require_fit(head: HeadConfig, host: HostInfo) -> None:
    """Refuse a head that was made for another kind of model, before any work.

    Raises:
        HeadError: the text says what the head is for, what is loaded, and what can be used instead.
    """
    expected, loaded = head.unet, host.unet
    kind = head.kind
    reasons = []
    if expected.context_width != loaded.context_width:
        reasons.append(f"prompts of width {expected.context_width}, not {loaded.context_width}")
    if kind == "ld-znet":
        if loaded.in_channels != expected.in_channels:
            reasons.append(
                f"a UNet that reads {expected.in_channels} channels, not the {loaded.in_channels} of "
                f"{'an inpainting' if loaded.in_channels == 9 else 'this'} model"
            )
        if missing := sorted(set(head.pool_grids) - set(loaded.transformer_paths())):
            reasons.append(f"transformers at {', '.join(missing)}")
        widths = (expected.model_channels, expected.channel_mult)
        if widths != (loaded.model_channels, loaded.channel_mult):
            reasons.append(f"a UNet of widths {_widths(expected)}, not {_widths(loaded)}")
    if reasons:
        raise HeadError(
            f"This {kind} head does not fit the loaded model {host.name} ({FAMILY_NAMES[host.family]}): it needs "
            f"{'; '.join(reasons)}. Load the kind of model that the head was trained for, use a head for this "
            "model, or a method that needs none."
        )


def _widths(unet: UNetConfig) -> str:
    return "-".join(str(unet.model_channels * mult) for mult in unet.channel_mult)
