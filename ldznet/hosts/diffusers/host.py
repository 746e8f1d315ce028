"""A Stable Diffusion checkpoint from disk, run in plain torch.

For the command line, training and tests; inside a webui the model is borrowed instead. diffusers and transformers
are not used: importing them takes longer than everything else. Nothing is downloaded unless the caller allows it.
Loading: single_file.py and folder.py.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ldznet.errors import HostError, PromptError
from ldznet.heads.cpu_conv import quicken
from ldznet.heads.layers import timestep_embedding
from ldznet.heads.unet import UNet
from ldznet.hosts.diffusers.parts import fingerprint
from ldznet.hosts.diffusers.text import TextEncoder
from ldznet.hosts.diffusers.tokenizers import Tokenize, count_tokens
from ldznet.hosts.diffusers.vae import Posterior, Vae
from ldznet.hosts.host import Context, HostInfo, Prediction, Schedule


class DiffusersHost:
    """A loaded checkpoint; see `Host` for what its methods promise."""

    def __init__(
        self,
        info: HostInfo,
        unet: UNet,
        vae: Vae,
        text: Sequence[TextEncoder],
        schedule: Schedule,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._info = info
        self._device = torch.device(device)
        self._dtype = dtype
        self.unet, self.vae, self.text = unet, vae, list(text)
        self.others = _others(vae, self.text)
        for module in (unet, vae, *(encoder.model for encoder in self.text)):
            module.to(self._device, dtype).eval().requires_grad_(False)
        for module in (unet, vae):
            quicken(module)
        self.schedule = schedule

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        prediction: Prediction | None = None,
        vae: str | os.PathLike[str] | None = None,
        download: bool = False,
    ) -> DiffusersHost:
        """Load a .safetensors or .ckpt file, or a folder in diffusers' layout.

        `prediction` overrides what the files say; `vae` is a VAE's own file, used instead of the model's;
        `download` allows a missing tokenizer to be fetched.

        Raises:
            HostError, CheckpointError: the model cannot be loaded, and why.
        """
        from ldznet.hosts.diffusers.folder import load_folder
        from ldznet.hosts.diffusers.single_file import load_file

        path, vae_file = Path(path), None if vae is None else Path(vae)
        if path.is_dir():
            parts = load_folder(path, vae_file=vae_file)
        else:
            parts = load_file(path, vae_file=vae_file, download=download)
        info = parts.info
        if prediction is not None:
            info = replace(info, prediction=prediction, details={**info.details, "prediction": "as asked for"})
        return cls(info, *parts[1:], device=device, dtype=dtype)

    @property
    def info(self) -> HostInfo:
        """Return the kind of model."""
        return self._info

    @property
    def device(self) -> torch.device:
        """Return the device on which the UNet computes."""
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        """Return the precision in which the UNet computes."""
        return self._dtype

    @torch.no_grad()
    def encode_image(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the latent (B, 4, H/8, W/8) of (B, 3, H, W) in [-1, 1]."""
        posterior = self._posterior(image, self._dtype)
        if not posterior.mean.isfinite().all():
            # Some VAEs overflow float16; ControlNet and the webui fall back in the same way.
            logging.getLogger(__name__).info("The VAE gave NaN in %s; running it in float32.", self._dtype)
            try:
                posterior = self._posterior(image, torch.float32)
            finally:
                self.vae.to(self._dtype)
            if not posterior.mean.isfinite().all():
                raise HostError(
                    f"The VAE of {self._info.name} gives values that are not numbers (NaN) for this image, in "
                    "float32 too. The checkpoint's VAE is broken: use another checkpoint."
                )
        latent = posterior.mean
        if noise is not None:
            latent = latent + posterior.std * noise.to(latent)
        return (latent * self.vae.scale).to(self._dtype)

    def _posterior(self, image: Tensor, dtype: torch.dtype) -> Posterior:
        return self.vae.to(dtype).encode(image.to(self._device, dtype))

    @torch.no_grad()
    def encode_prompt(self, prompts: Sequence[str]) -> Context:
        """Return the context of the prompts; of one that is too long, the first 75 tokens are read."""
        states, cut = list[Tensor](), (False,) * len(prompts)
        pooled: Tensor | None = None
        for encoder in self.text:
            try:
                ids, shortened = encoder.tokenize(prompts)
            except (UnicodeError, ValueError, TypeError) as why:
                raise PromptError(
                    f"The tokenizer cannot read the prompts ({why}). Remove characters that are no text."
                ) from why
            cut = tuple(a or b for a, b in zip(cut, shortened, strict=True))
            answer = encoder.model(ids.to(self._device))
            states.append(answer.penultimate if encoder.penultimate else answer.last)
            # Only the second encoder of XL has a projection, whose output is the pooled state.
            pooled = pooled if answer.pooled is None else answer.pooled
        return Context(torch.cat(states, dim=-1), pooled, cut)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, without start and end; 75 at most."""
        ids, _ = self.text[0].tokenize(texts)
        return count_tokens(ids)

    def add_noise(self, latent: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the noisy latent by the model's own noise schedule."""
        return self.schedule.add_noise(latent, noise.to(latent.device), timesteps)

    @torch.no_grad()
    def predict_noise(self, noisy_latent: Tensor, timesteps: Tensor, context: Context) -> Tensor:
        """Run the UNet once and return the noise prediction (B, 4, h, w)."""
        # A batch of one latent is not repeated: the UNet does so after its first attention to the text.
        x = noisy_latent.to(self._device, self._dtype)
        timesteps = timesteps.to(self._device)
        labels = self._labels(context, x) if self._info.family == "sdxl" else None
        answer: Tensor = self.unet(self._with_mask(x), timesteps, context.tokens.to(self._device), labels=labels)
        if self._info.prediction == "v":
            return self.schedule.noise_from_v(answer, x, timesteps)
        return answer

    def _labels(self, context: Context, x: Tensor) -> Tensor:
        """Return what the UNet of XL adds to the timestep: the pooled prompt, and the sizes of a whole image."""
        assert context.pooled is not None
        height, width = 8 * x.shape[-2], 8 * x.shape[-1]
        # original size, crop corner and target size
        sizes = torch.tensor([height, width, 0, 0, height, width], device=self._device)
        pooled = context.pooled.to(self._device, self._dtype)
        embedded = timestep_embedding(sizes, (self.unet.label_width - pooled.shape[-1]) // len(sizes))
        return torch.cat([pooled, embedded.flatten().to(self._dtype).expand(len(pooled), -1)], dim=-1)

    def _with_mask(self, x: Tensor) -> Tensor:
        """Append what an inpainting UNet reads after the latent: everything is masked, nothing is known."""
        channels = self._info.unet.in_channels - x.shape[1]
        if not channels:
            return x
        blank = x.new_zeros(len(x), channels, *x.shape[2:])
        blank[:, 0] = 1
        return torch.cat([x, blank], dim=1)

    def feature_modules(self) -> Mapping[str, nn.Module]:
        """Return the transformers in the order in which the UNet runs them."""
        return self.unet.transformers()

    def clear_memory(self) -> None:
        """Free the device memory that PyTorch keeps for later."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _others(vae: nn.Module, text: Sequence[TextEncoder]) -> str:
    """Return the fingerprint of VAE and text encoders, as `HostInfo.fingerprint` is that of the UNet."""
    state: dict[str, Tensor] = {}
    for number, module in enumerate((vae, *(encoder.model for encoder in text))):
        state |= {f"{number} {name}": tensor for name, tensor in module.state_dict().items()}
    return fingerprint(state)


def default_device() -> torch.device:
    """Return the GPU where there is one."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def own_device(device: torch.device, local_rank: int, gpus: int) -> torch.device:
    """Return a separate GPU for each process of a launch on this machine, unless the device names one.

    Where there are more processes than GPUs, they share them alternately, as accelerate does.
    """
    if str(device) != "cuda":
        return device
    return torch.device("cuda", local_rank % max(1, gpus))


def default_dtype(device: torch.device) -> torch.dtype:
    """Return float16 where hardware computes in it, else float32."""
    return torch.float32 if device.type == "cpu" else torch.float16


def tokenize_by_hash(vocabulary: int, length: int = 77) -> Tokenize:
    """Return a tokenizer from words to their digests, for models with random weights, which know no words."""

    def tokenize(prompts: Sequence[str]) -> tuple[Tensor, tuple[bool, ...]]:
        start, end = vocabulary - 2, vocabulary - 1
        rows, cut = [], []
        for prompt in prompts:
            # Not `hash`, which Python salts anew in each process.
            digests = [hashlib.sha256(word.encode()).digest() for word in prompt.lower().split()]
            ids = [int.from_bytes(digest[:8], "big") % start for digest in digests]
            cut.append(len(ids) > length - 2)
            ids = [start, *ids[: length - 2], end]
            rows.append(ids + [end] * (length - len(ids)))
        return torch.tensor(rows), tuple(cut)

    return tokenize
