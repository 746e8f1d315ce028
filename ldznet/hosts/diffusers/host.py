"""A Stable Diffusion checkpoint from disk, run by diffusers and transformers.

For the command line, training and tests; inside a webui the model is borrowed instead. Nothing is
downloaded unless it is asked for. What a checkpoint file does not hold - its structure, where no .yaml
lies beside it - is read off its tensors (files.py).
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ldznet.errors import HostError, PromptError
from ldznet.heads.cpu_conv import quicken
from ldznet.hosts.diffusers.parts import fingerprint
from ldznet.hosts.diffusers.text import TextEncoder, Tokenize
from ldznet.hosts.host import Context, HostInfo, Prediction, Schedule


class DiffusersHost:
    """A loaded checkpoint; see `Host` for what its methods promise."""

    def __init__(
        self,
        info: HostInfo,
        unet: Any,
        vae: Any,
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
            self._move(module, dtype)
            module.eval().requires_grad_(False)
        quicken(unet)
        self.schedule = schedule

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        prediction: Prediction | None = None,
        download: bool = False,
    ) -> DiffusersHost:
        """Load a .safetensors or .ckpt file, or a folder in diffusers' layout.

        `prediction` overrides what is found out; `download` allows a missing tokenizer to be fetched.

        Raises:
            HostError, CheckpointError: the model cannot be loaded, and why.
        """
        from ldznet.hosts.diffusers import files

        path = Path(path)
        with torch.random.fork_rng(range(torch.cuda.device_count())):  # weights are random before the file's come
            parts = files.load_folder(path) if path.is_dir() else files.load_file(path, download)
        info, unet, vae, text, schedule = parts
        if prediction is not None:
            info = HostInfo(info.name, info.family, prediction, info.unet, info.fingerprint)
        return cls(info, unet, vae, text, schedule, device=device, dtype=dtype)

    @property
    def info(self) -> HostInfo:
        """What kind of model it is."""
        return self._info

    @property
    def device(self) -> torch.device:
        """Where the UNet computes."""
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        """In which precision the UNet computes."""
        return self._dtype

    @torch.no_grad()
    def encode_image(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> latent (B, 4, H/8, W/8)."""
        posterior = self._posterior(image, self._dtype)
        if not posterior.mean.isfinite().all():
            # Some VAEs overflow float16; ControlNet and the webui fall back in the same way.
            logging.getLogger(__name__).info("The VAE gave NaN in %s; running it in float32.", self._dtype)
            try:
                posterior = self._posterior(image, torch.float32)
            finally:
                self._move(self.vae, self._dtype)
            if not posterior.mean.isfinite().all():
                raise HostError(
                    f"The VAE of {self._info.name} gives values that are not numbers (NaN) for this image, in "
                    "float32 too. The checkpoint's VAE is broken: use another checkpoint."
                )
        latent = posterior.mean
        if noise is not None:
            latent = latent + posterior.std * noise.to(latent)
        return (latent * self.vae.config.scaling_factor).to(self._dtype)

    def _posterior(self, image: Tensor, dtype: torch.dtype) -> Any:
        self._move(self.vae, dtype)
        return self.vae.encode(image.to(self._device, dtype)).latent_dist

    def _move(self, module: nn.Module, dtype: torch.dtype) -> None:
        # diffusers' own `to` warns of layers to be kept in float32, of which these models have none.
        nn.Module.to(module, self._device, dtype)

    @torch.no_grad()
    def encode_prompt(self, prompts: Sequence[str]) -> Context:
        """Texts -> Context; of a text that is too long, the first 75 tokens are read."""
        states, cut, pooled = [], (False,) * len(prompts), None
        for encoder in self.text:
            try:
                ids, shortened = encoder.tokenize(prompts)
            except (UnicodeError, ValueError, TypeError) as why:
                raise PromptError(
                    f"The tokenizer cannot read the prompts ({why}). Remove characters that are no text."
                ) from why
            cut = tuple(a or b for a, b in zip(cut, shortened, strict=True))
            answer = encoder.model(ids.to(self._device), output_hidden_states=encoder.penultimate)
            states.append(answer.hidden_states[-2] if encoder.penultimate else answer.last_hidden_state)
            pooled = getattr(answer, "text_embeds", pooled)
        return Context(torch.cat(states, dim=-1), pooled if self._info.family == "sdxl" else None, cut)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text is, start and end left out; 75 at most."""
        ids, _ = self.text[0].tokenize(texts)
        # The end has the largest id of all; what follows the first one is padding.
        return (ids.argmax(dim=-1) - 1).tolist()

    def add_noise(self, latent: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The model's own noise schedule."""
        return self.schedule.add_noise(latent, noise.to(latent.device), timesteps)

    @torch.no_grad()
    def predict_noise(self, noisy_latent: Tensor, timesteps: Tensor, context: Context) -> Tensor:
        """One UNet pass -> noise prediction (B, 4, h, w)."""
        batch = max(len(noisy_latent), len(context))
        x = noisy_latent.to(self._device, self._dtype).expand(batch, -1, -1, -1)
        timesteps = timesteps.to(self._device).expand(batch)
        tokens = context.tokens.to(self._device, self._dtype).expand(batch, -1, -1)
        given: dict[str, Any] = {}
        if self._info.family == "sdxl":
            assert context.pooled is not None
            # original size, crop corner and target size, as of a picture that was not cut
            height, width = 8 * x.shape[-2], 8 * x.shape[-1]
            sizes = torch.tensor([[height, width, 0, 0, height, width]], device=self._device, dtype=self._dtype)
            pooled = context.pooled.to(self._device, self._dtype).expand(batch, -1)
            given["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes.expand(batch, -1)}
        answer = self.unet(self._with_mask(x), timesteps, tokens, return_dict=False, **given)[0]
        if self._info.prediction == "v":
            return self.schedule.noise_from_v(answer, x, timesteps)
        return answer

    def _with_mask(self, x: Tensor) -> Tensor:
        """What an inpainting UNet wants to see beside the latent: everything is masked, nothing is known."""
        extra = self._info.unet.in_channels - x.shape[1]
        if not extra:
            return x
        blank = x.new_zeros(len(x), extra, *x.shape[2:])
        blank[:, 0] = 1
        return torch.cat([x, blank], dim=1)

    def feature_modules(self) -> Mapping[str, nn.Module]:
        """The transformers under their names in the original UNet, in the order in which they run."""
        modules: list[nn.Module] = []
        for block in self.unet.down_blocks:
            modules += getattr(block, "attentions", [])
        modules += self.unet.mid_block.attentions
        for block in self.unet.up_blocks:
            modules += getattr(block, "attentions", [])
        return dict(zip(self._info.unet.transformer_paths(), modules, strict=True))

    def clear_memory(self) -> None:
        """Give back what PyTorch keeps for later."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _others(vae: nn.Module, text: Sequence[TextEncoder]) -> str:
    """Tells VAE and text encoders from others, as `HostInfo.fingerprint` does the UNet."""
    state: dict[str, Tensor] = {}
    for number, module in enumerate((vae, *(encoder.model for encoder in text))):
        state |= {f"{number} {name}": tensor for name, tensor in module.state_dict().items()}
    return fingerprint(state)


def default_device() -> torch.device:
    """The GPU where there is one."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def own_device(device: torch.device, local_rank: int, gpus: int) -> torch.device:
    """A GPU of its own for each process of a launch on this machine, unless the device says which one.

    Where there are more processes than GPUs they share them in turn, as accelerate does.
    """
    if str(device) != "cuda":
        return device
    return torch.device("cuda", local_rank % max(1, gpus))


def default_dtype(device: torch.device) -> torch.dtype:
    """float16 where hardware computes in it."""
    return torch.float32 if device.type == "cpu" else torch.float16


def tokenize_by_hash(vocabulary: int, length: int = 77) -> Tokenize:
    """Words to ids by their digest: a stand-in for models with random weights, which know no words."""

    def tokenize(prompts: Sequence[str]) -> tuple[Tensor, tuple[bool, ...]]:
        start, end = vocabulary - 2, vocabulary - 1
        rows, cut = [], []
        for prompt in prompts:
            digests = [hashlib.sha256(word.encode()).digest() for word in prompt.lower().split()]
            ids = [int.from_bytes(digest[:8], "big") % start for digest in digests]
            cut.append(len(ids) > length - 2)
            ids = [start, *ids[: length - 2], end]
            rows.append(ids + [end] * (length - len(ids)))
        return torch.tensor(rows), tuple(cut)

    return tokenize
