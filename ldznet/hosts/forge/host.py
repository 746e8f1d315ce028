"""Borrow the model that Forge or Forge Neo has loaded.

    host = ForgeHost(forge_modules, p.sd_model)
    segmenter = Segmenter(host, method)

Forge keeps the model in patchers: those of `forge_objects_original` are the checkpoint alone, without LoRAs,
token merging and other options of a run, which are in clones. The networks inside are called directly, with
options of their own, so that no setting of a run is seen. Before each call the memory manager is asked for the
part that runs; nothing of the model is moved here. The host holds no part of the model, so that Forge can drop it.

The caller holds the webui's `queue_lock`. Forge's modules are given by webui/forge_app.py.
"""

from __future__ import annotations

import ast
import contextlib
import logging
import re
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor, nn

from ldznet.hosts.a1111.neutral import own_forwards, zero_padding
from ldznet.hosts.capture import capture
from ldznet.hosts.forge.memory import load
from ldznet.hosts.forge.modules import ForgeModules
from ldznet.hosts.host import Context, HostInfo, Prediction, Schedule
from ldznet.hosts.known_words import read_known_words
from ldznet.hosts.loaded_model import (
    UNKNOWN_TEXT,
    blank_inpainting,
    clip_tokens,
    fingerprint_of,
    latent_of,
    marks_of,
    no_model,
    read_family,
    read_structure,
    read_tokens,
    replaced_model,
    token_window,
    transformers_of,
    unfit,
    with_sizes,
)
from ldznet.hosts.marks import V_PREDICTION, ZERO_SNR

_PREDICTIONS: Mapping[str, Prediction] = {"epsilon": "noise", "v_prediction": "v"}
_TEXT_ENGINES = ("text_processing_engine", "text_processing_engine_l", "text_processing_engine_g")


class ForgeHost:
    """A model of Forge; see `Host` for what its methods promise."""

    def __init__(self, webui: ForgeModules, engine: Any) -> None:
        self._webui = webui
        self._info = _describe(webui, engine)
        self._engine: Callable[[], Any] = weakref.ref(engine)
        unet = engine.forge_objects_original.unet
        self._device, self._dtype = torch.device(unet.load_device), unet.model.computation_dtype
        # "Zero Terminal SNR" of a run changes `sigmas` only.
        self.schedule = Schedule(unet.model.predictor.alphas_cumprod.double().cpu())
        if ZERO_SNR in marks_of(engine.sd_checkpoint_info):  # the webui itself does not read this mark
            self.schedule = self.schedule.with_zero_snr()
        self._borrowed = 0  # depth of nested `borrowed` blocks
        # Called before each pass of the UNet; an exception that it raises ends the work.
        self.before_pass: Callable[[], None] = lambda: None

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
        """Return whether the webui still has the model of this host; a checkpoint or VAE makes another engine."""
        engine = self._engine()
        return engine is not None and self._webui.loaded_model() is engine

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
            HostError: Forge has dropped the model.
        """
        engine = self._engine()
        if engine is None:
            raise replaced_model(self._info.name)
        return engine.forge_objects_original

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
            latent = network.process_in(latent_of(moments, noise, self._info.name)).to(self.dtype)
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

        The text encoders themselves are run, without Forge's additions: no emphasis, no embeddings, no clip skip,
        one window, padded and read as the model was trained.
        """
        states, cut, pooled = [], (False,) * len(prompts), None
        with torch.inference_mode(), self.borrowed():
            patcher = self._parts().clip.patcher
            load(self._webui.memory, patcher)
            for engine in self._text_engines():
                ids, shortened = token_window(engine, self._token_ids(engine, prompts))
                state, pooled_state = _encode_tokens(engine, ids.to(patcher.load_device))
                states.append(state.to(self.device, self.dtype))
                pooled = pooled if pooled_state is None else pooled_state.to(self.device, self.dtype)
                cut = tuple(a or b for a, b in zip(cut, shortened, strict=True))
            tokens = torch.cat(states, dim=-1)
        return Context(tokens.clone(), None if pooled is None else pooled.clone(), cut)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, without start and end; 75 at most."""
        first = self._text_engines()[0]
        return [min(len(ids), first.chunk_length) for ids in self._token_ids(first, texts)]

    def _text_engines(self) -> list[Any]:
        self._parts()  # raises an error if the model is gone
        return _text_engines(self._engine())

    @staticmethod
    def _token_ids(engine: Any, texts: Sequence[str]) -> list[list[int]]:
        return read_tokens(partial(clip_tokens, engine.tokenizer), texts)

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


# --- what the model is -------------------------------------------------------------------------------


def _describe(webui: ForgeModules, engine: Any) -> HostInfo:
    """Return what kind of model it is.

    Raises:
        HostError: no model is loaded, or it cannot be used; the text says why.
    """
    if not hasattr(engine, "forge_objects_original"):  # before the first generation it is an empty object
        raise no_model()
    checkpoint = engine.sd_checkpoint_info
    name = checkpoint.title
    family, engines = read_family(engine, name), _text_engines(engine)
    model = engine.forge_objects_original.unet.model
    # The mark is what the model was trained with; the webui knows only its own configuration.
    marks, kind = marks_of(checkpoint), getattr(model.predictor, "prediction_type", "")
    prediction = "v" if V_PREDICTION in marks else _PREDICTIONS.get(kind)
    if prediction is None or not hasattr(model.predictor, "alphas_cumprod"):
        raise unfit(name, f'it predicts "{kind}", neither noise nor v')
    if len(engines) != (2 if family == "sdxl" else 1):
        raise unfit(name, UNKNOWN_TEXT)
    if isinstance(model.storage_dtype, str):
        raise unfit(name, f"its weights are quantised ({model.storage_dtype})")
    structure = read_structure(model.diffusion_model, name)
    if structure.in_channels not in (4, 9):
        raise unfit(name, f"its UNet reads {structure.in_channels} channels")
    details = {
        "weights": "as the webui loaded them",
        "vae": "in the checkpoint",
        "prediction": "marked by the tensor v_pred in the file" if V_PREDICTION in marks else "by the webui",
        "schedule": "by the webui"
        + (", zero terminal SNR (marked by the tensor ztsnr)" if ZERO_SNR in marks else ""),
    }
    fingerprint = fingerprint_of(checkpoint, engine)
    if files := _additional_files(webui.loaded_as()):
        details["vae"] = f"in the checkpoint or in {', '.join(files)}"
        fingerprint += "".join(f"+{file}" for file in files)
    known_words = read_known_words(getattr(checkpoint, "filename", None) or "")
    return HostInfo(name, family, prediction, structure, fingerprint, details, known_words)


def _additional_files(loaded_as: str) -> list[str]:
    """Return the names of the files of VAE and text encoders that were loaded with the checkpoint.

    Forge keeps the parameters with which the model was loaded as the text of a dict (sd_models.py:474).
    """
    match = re.search(r"'additional_modules': (\[.*?\])", loaded_as)
    paths: list[str] = []
    with contextlib.suppress(ValueError, SyntaxError):
        paths = ast.literal_eval(match[1]) if match else []
    return [PurePath(path.replace("\\", "/")).name for path in paths]


def _text_engines(engine: Any) -> list[Any]:
    """Return Forge's wrappers of the text encoders, in the order in which their states are joined."""
    engines = [getattr(engine, name, None) for name in _TEXT_ENGINES]
    return [engine for engine in engines if engine is not None]


def _encode_tokens(engine: Any, ids: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the states (P, 77, D) of token ids (P, 77), of the layer that the model uses; and pooled (P, E)."""
    transformer = engine.text_encoder.transformer
    embeddings = transformer.text_model.embeddings
    engine.embeddings.fixes = None  # textual inversions that a run has left there
    # The weights are cast to the type of what they are applied to, so that these decide in which precision the
    # encoder computes. Forge makes both casts before its own first text, and they stay (classic_engine.py:139).
    embeddings.position_ids = embeddings.position_ids.to(ids.device)
    embeddings.position_embedding.to(dtype=torch.float32)
    embeddings.token_embedding.to(dtype=torch.float32)
    outputs = transformer(ids, output_hidden_states=True)
    # `minimal_clip_skip` is the model's; the user's is `clip_skip`. Where there is a final norm, it is 1.
    layer = outputs.hidden_states[-engine.minimal_clip_skip]
    state = outputs.last_hidden_state if engine.final_layer_norm else layer
    if not engine.return_pooled:
        return state, None
    pooled = outputs.pooler_output
    return state, transformer.text_projection(pooled) if engine.text_projection else pooled
