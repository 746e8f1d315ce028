"""What the hosts of Forge, Forge Neo and reForge share: a model whose parts are in patchers.

    host = ForgeHost(forge_modules, p.sd_model)
    segmenter = Segmenter(host, method)

The patchers of `forge_objects_original` are the checkpoint alone, without LoRAs, token merging and other options
of a run, which are in clones. The networks inside are called directly, with options of their own, so that no
setting of a run is seen. Before each call the memory manager is asked for the part that runs; nothing of the model
is moved here. The host holds no part of the model, so that the webui can drop it.

The caller holds the webui's `queue_lock`. The webui's modules are given by webui/forge_app.py and reforge_app.py.
"""

from __future__ import annotations

import logging
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ldznet.hosts.capture import capture
from ldznet.hosts.forge.memory import load
from ldznet.hosts.forge.modules import ForgeModules
from ldznet.hosts.host import Context, HostInfo, Schedule
from ldznet.hosts.loaded_model import (
    blank_inpainting,
    clip_tokens,
    latent_of,
    marks_of,
    read_tokens,
    replaced_model,
    token_window,
    transformers_of,
    with_sizes,
)
from ldznet.hosts.marks import ZERO_SNR
from ldznet.hosts.neutral_layers import own_forwards, zero_padding


class PatchedHost(ABC):
    """A model whose parts are in patchers; see `Host` for what its methods promise."""

    def __init__(
        self, webui: ForgeModules, model: Any, info: HostInfo, dtype: torch.dtype, alphas_cumprod: Tensor
    ) -> None:
        """Take the webui's model, and what a subclass has read off it."""
        self._webui = webui
        self._info = info
        self._model: Callable[[], Any] = weakref.ref(model)
        self._device = torch.device(model.forge_objects_original.unet.load_device)
        self._dtype = dtype
        self.schedule = Schedule(alphas_cumprod.detach().double().cpu())
        if ZERO_SNR in marks_of(model.sd_checkpoint_info):  # the webui itself does not read this mark
            self.schedule = self.schedule.with_zero_snr()
        self._borrowed = 0  # depth of nested `borrowed` blocks
        # Called before each pass of the UNet; an exception that it raises ends the work.
        self.before_pass: Callable[[], None] = lambda: None

    @abstractmethod
    def _scale_latent(self, latent: Tensor) -> Tensor:
        """Return a latent of the VAE scaled as the UNet expects it."""

    @abstractmethod
    def _text_encoders(self) -> Sequence[Any]:
        """Return the webui's wrappers of the text encoders, in the order in which their states are joined.

        Raises:
            HostError: the webui has dropped the model.
        """

    @staticmethod
    @abstractmethod
    def _tokenizer(encoder: Any) -> Any:
        """Return the tokenizer of a text encoder, one of transformers."""

    @abstractmethod
    def _encode_tokens(self, encoder: Any, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the states (P, 77, D) of token ids (P, 77), of the layer that is used; and pooled (P, E)."""

    @property
    def info(self) -> HostInfo:
        """Return what kind of model it is."""
        return self._info

    @property
    def device(self) -> torch.device:
        """Return where the UNet computes."""
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        """Return the precision in which the UNet computes."""
        return self._dtype

    @property
    def is_current(self) -> bool:
        """Return whether the webui still has the model of this host; another checkpoint is another model."""
        model = self._model()
        return model is not None and self._webui.loaded_model() is model

    @contextmanager
    def borrowed(self) -> Iterator[None]:
        """Let the layers run the code of their classes inside the block.

        Raises:
            HostError: the webui has loaded another model since this host was made.
        """
        if self._borrowed:
            yield
            return
        if not self.is_current:
            raise replaced_model(self._info.name)
        parts = self._parts()
        networks = (parts.unet.model, parts.vae.first_stage_model, parts.clip.cond_stage_model)
        modules = [module for network in networks for module in network.modules()]
        with ExitStack() as undo:
            undo.enter_context(own_forwards(modules))
            undo.enter_context(zero_padding(modules))
            del parts, networks, modules
            self._borrowed += 1
            try:
                yield
            finally:
                self._borrowed -= 1

    def _parts(self) -> Any:
        """Return the original patchers, as `unet`, `vae` and `clip`.

        Raises:
            HostError: the webui has dropped the model.
        """
        model = self._model()
        if model is None:
            raise replaced_model(self._info.name)
        return model.forge_objects_original

    # --- the image -----------------------------------------------------------------------------------

    def encode_image(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the latent (B, 4, H/8, W/8) of an image (B, 3, H, W) in [-1, 1]."""
        with torch.inference_mode(), self.borrowed():
            network = self._parts().vae.first_stage_model
            dtype = next(network.parameters()).dtype
            moments = self._moments(image, dtype)
            if not moments.isfinite().all() and dtype != torch.float32:
                # Back from float32 every weight is as it was.
                logging.getLogger(__name__).info("The VAE gave NaN in %s; running it in float32.", dtype)
                try:
                    network.to(dtype=torch.float32)
                    moments = self._moments(image, torch.float32)
                finally:
                    network.to(dtype=dtype)
            latent = self._scale_latent(latent_of(moments, noise, self._info.name)).to(self.dtype)
        return latent.clone()  # outside of inference mode, so that it is a tensor like any other

    def _moments(self, image: Tensor, dtype: torch.dtype) -> Tensor:
        """Return mean and log-variance of the posterior, (B, 8, H/8, W/8); no sample of it is drawn."""
        vae = self._parts().vae
        load(self._webui.memory, vae.patcher, vae.memory_used_encode(image.shape, dtype))
        network = vae.first_stage_model
        with capture({"moments": network.quant_conv}) as outputs:
            network.encode(image.to(vae.patcher.load_device, dtype))
        return outputs["moments"]

    # --- the prompt ----------------------------------------------------------------------------------

    def encode_prompt(self, prompts: Sequence[str]) -> Context:
        """Return the Context of texts; of a text that is too long, the first 75 tokens are read.

        The text encoders themselves are run, without the webui's additions: no emphasis, no embeddings, no clip
        skip, one window, padded and read as the model was trained.
        """
        states, cut, pooled = [], (False,) * len(prompts), None
        with torch.inference_mode(), self.borrowed():
            patcher = self._parts().clip.patcher
            load(self._webui.memory, patcher)
            for encoder in self._text_encoders():
                ids, shortened = token_window(encoder, self._token_ids(encoder, prompts))
                state, pooled_state = self._encode_tokens(encoder, ids.to(patcher.load_device))
                states.append(state.to(self.device, self.dtype))
                pooled = pooled if pooled_state is None else pooled_state.to(self.device, self.dtype)
                cut = tuple(a or b for a, b in zip(cut, shortened, strict=True))
            tokens = torch.cat(states, dim=-1)
        return Context(tokens.clone(), None if pooled is None else pooled.clone(), cut)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, without start and end; 75 at most."""
        first = self._text_encoders()[0]
        return [min(len(ids), first.chunk_length) for ids in self._token_ids(first, texts)]

    def _token_ids(self, encoder: Any, texts: Sequence[str]) -> list[list[int]]:
        return read_tokens(partial(clip_tokens, self._tokenizer(encoder)), texts)

    # --- the UNet ------------------------------------------------------------------------------------

    def add_noise(self, latent: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the noisy latent by the model's own noise schedule."""
        return self.schedule.add_noise(latent, noise.to(latent.device), timesteps)

    def predict_noise(self, noisy_latent: Tensor, timesteps: Tensor, context: Context) -> Tensor:
        """Run the UNet once and return its noise prediction (B, 4, h, w)."""
        self.before_pass()
        batch = max(len(noisy_latent), len(context))
        timesteps = timesteps.to(self.device).expand(batch)
        with torch.inference_mode(), self.borrowed():
            patcher = self._parts().unet
            unet = patcher.model.diffusion_model
            x = noisy_latent.to(self.device, self.dtype).expand(batch, -1, -1, -1)
            tokens = context.tokens.to(self.device, self.dtype).expand(batch, -1, -1)
            y = None
            if self._info.family == "sdxl":
                assert context.pooled is not None
                pooled = context.pooled.to(self.device, self.dtype).expand(batch, -1)
                y = with_sizes(unet, pooled, x, self._info.name)
            whole = torch.cat([x, blank_inpainting(x)], dim=1) if self._info.unet.in_channels == 9 else x
            # Another part, or a generation of before, may have evicted the UNet.
            load(self._webui.memory, patcher, patcher.memory_required(list(whole.shape)))
            try:
                # The UNet writes to its options, whose default is one dict for all callers.
                output = unet(whole, timesteps.float(), context=tokens, y=y, transformer_options={})
            finally:
                self._drop_streamed_weights()
            output = output.to(self.dtype)
            if self._info.prediction == "v":
                output = self.schedule.noise_from_v(output, x, timesteps)
        return output.clone()

    def _drop_streamed_weights(self) -> None:
        """Drop what Forge's --cuda-stream keeps of the last layers, as it does itself after sampling."""
        cleanup = getattr(self._webui.operations, "cleanup_cache", None)  # Neo has none
        if cleanup is not None:
            cleanup()

    def feature_modules(self) -> Mapping[str, nn.Module]:
        """Return the transformers by their names in the original UNet, in the order in which they run."""
        return transformers_of(self._parts().unet.model.diffusion_model, self._info.unet)

    def clear_memory(self) -> None:
        """Return the memory that PyTorch keeps for later to the device."""
        self._webui.memory.soft_empty_cache()
