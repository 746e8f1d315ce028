"""All that we ask of a loaded Stable Diffusion model, whoever has loaded it.

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
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from ldznet.errors import HeadError
from ldznet.heads.network import HeadConfig
from ldznet.heads.unet import UNetConfig

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
        """Contexts of several prompts, one after the other."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return Context(
            torch.cat([part.tokens for part in parts]),
            torch.cat(pooled) if pooled else None,
            tuple(cut for part in parts for cut in part.cut),
        )


@dataclass(frozen=True)
class HostInfo:
    """What kind of model is loaded."""

    name: str  # of the file or folder
    family: Family
    prediction: Prediction
    unet: UNetConfig
    fingerprint: str = ""  # tells one set of weights from another

    @property
    def is_small(self) -> bool:
        """Whether its UNet is narrower than any published one: a model of our own, or one for tests."""
        return self.unet.model_channels < UNetConfig().model_channels


class Host(Protocol):
    """A loaded Stable Diffusion model; using it leaves it, and the random states, as they were."""

    @property
    def info(self) -> HostInfo:
        """What kind of model it is."""

    @property
    def device(self) -> torch.device:
        """Where its UNet computes."""

    @property
    def dtype(self) -> torch.dtype:
        """In which precision its UNet computes."""

    def encode_image(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) -> latent (B, 4, H/8, W/8): the posterior's mean, or with `noise` a sample of it."""

    def encode_prompt(self, prompts: Sequence[str]) -> Context:
        """Texts -> Context of as many prompts; literal, but for marks of the tokenizer such as <|endoftext|>."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text is, start and end left out; of at most as many as the encoder reads.

        Texts with a space between them are as many tokens as both together.
        """

    def add_noise(self, latent: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The model's own noise schedule."""

    def predict_noise(self, noisy_latent: Tensor, timesteps: Tensor, context: Context) -> Tensor:
        """One UNet pass -> noise prediction (B, 4, h, w), also where the model predicts v."""

    def feature_modules(self) -> Mapping[str, nn.Module]:
        """All transformers of the UNet by path, in the order in which they run."""

    def clear_memory(self) -> None:
        """Give back what was only cached, after a piece of work did not fit."""


@dataclass(frozen=True)
class Schedule:
    """How much noise a timestep means.

    Source: Ho et al., Denoising Diffusion Probabilistic Models, https://arxiv.org/abs/2006.11239, eq. 4;
    v-prediction: Salimans and Ho, https://arxiv.org/abs/2202.00512, appendix D.
    """

    alphas_cumprod: Tensor  # (1000,), float64

    @classmethod
    def scaled_linear(cls, start: float = 0.00085, end: float = 0.012, steps: int = 1000) -> Schedule:
        """The schedule of every Stable Diffusion model: betas are squares of evenly spaced numbers."""
        betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
        return cls(torch.cumprod(1 - betas, dim=0))

    def add_noise(self, latent: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """(1 or B, 4, h, w), (1 or B, 4, h, w), (B,) -> (B, 4, h, w) in the latent's dtype."""
        signal, level = self._levels(timesteps, latent.device)
        return (signal * latent.float() + level * noise.float()).to(latent.dtype)

    def noise_from_v(self, v: Tensor, noisy_latent: Tensor, timesteps: Tensor) -> Tensor:
        """A v-prediction turned into the noise prediction that it implies."""
        signal, level = self._levels(timesteps, v.device)
        return (signal * v.float() + level * noisy_latent.float()).to(v.dtype)

    def _levels(self, timesteps: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        kept = self.alphas_cumprod[timesteps.cpu()]
        signal, level = (part.float().to(device)[:, None, None, None] for part in (kept.sqrt(), (1 - kept).sqrt()))
        return signal, level


def require_fit(head: HeadConfig, host: HostInfo) -> None:
    """Refuse a head that was made for another kind of model, before any work.

    Raises:
        HeadError: says what the head is for, what is loaded, and what can be used instead.
    """
    wanted, loaded = head.unet, host.unet
    kind = head.kind
    reasons = []
    if wanted.context_width != loaded.context_width:
        reasons.append(f"prompts of width {wanted.context_width}, not {loaded.context_width}")
    if kind == "ld-znet":
        if loaded.in_channels != wanted.in_channels:
            reasons.append(
                f"a UNet that reads {wanted.in_channels} channels, not the {loaded.in_channels} of "
                f"{'an inpainting' if loaded.in_channels == 9 else 'this'} model"
            )
        if lost := sorted(set(head.pool_grids) - set(loaded.transformer_paths())):
            reasons.append(f"transformers at {', '.join(lost)}")
        widths = (wanted.model_channels, wanted.channel_mult)
        if widths != (loaded.model_channels, loaded.channel_mult):
            reasons.append(f"a UNet of widths {_widths(wanted)}, not {_widths(loaded)}")
    if reasons:
        raise HeadError(
            f"This {kind} head does not fit the loaded model {host.name} ({FAMILY_NAMES[host.family]}): it needs "
            f"{'; '.join(reasons)}. Load the kind of model that the head was trained for, use a head for this "
            "model, or a method that needs none."
        )


def _widths(unet: UNetConfig) -> str:
    return "-".join(str(unet.model_channels * mult) for mult in unet.channel_mult)
