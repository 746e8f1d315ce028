"""Borrow the model that AUTOMATIC1111's webui has loaded.

    host = A1111Host(webui_modules, p.sd_model)
    segmenter = Segmenter(host, method)
    with host.borrowed():                        # optional: the model changes state once, not once per call
        segmenter.set_image(image)
        result = segmenter.segment(["a cat"])

Whatever LoRAs, settings or extensions are active in the webui, the result is that of the checkpoint alone, and
the model is left as it was: neutral.py. The caller holds the webui's `queue_lock`. Written for 1.10.1. The
webui's modules are given by webui/app.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ldznet.hosts.a1111.neutral import WebuiModules, neutral, text_part
from ldznet.hosts.capture import capture
from ldznet.hosts.host import Context, HostInfo, Prediction, Schedule
from ldznet.hosts.loaded_model import (
    UNKNOWN_TEXT,
    blank_inpainting,
    clip_tokens,
    describe,
    latent_of,
    loaded_vae,
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

_PREDICTIONS: Mapping[str, Prediction] = {"eps": "noise", "v": "v"}


class A1111Host:
    """A model of the webui; see `Host` for what its methods promise."""

    def __init__(self, webui: WebuiModules, sd_model: Any) -> None:
        self._webui = webui
        self._model = sd_model
        self._info = _describe(self._model)
        self._loaded = _identity(self._model)
        # "Downcast alphas" and "zero terminal SNR" change `alphas_cumprod` for a run.
        alphas = getattr(self._model, "alphas_cumprod_original", self._model.alphas_cumprod)
        self.schedule = Schedule(alphas.detach().double().cpu())
        if ZERO_SNR in marks_of(self._model.sd_checkpoint_info):  # the webui itself does not read this mark
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
        return torch.device(self._webui.devices.device)

    @property
    def dtype(self) -> torch.dtype:
        """Return the precision in which the UNet computes."""
        dtype: torch.dtype = self._webui.devices.dtype_unet
        return dtype

    @property
    def is_current(self) -> bool:
        """Return whether the webui still has the model of this host; if not, make another host."""
        return self._webui.shared.sd_model is self._model and _identity(self._model) == self._loaded

    @contextmanager
    def borrowed(self) -> Iterator[None]:
        """Keep the model in its neutral state inside the block, so that calls need not change it again.

        Raises:
            HostError: the webui has loaded another model since this host was made.
        """
        if self._borrowed:
            yield
            return
        if _identity(self._model) != self._loaded:
            raise replaced_model(self._info.name)
        with neutral(self._webui, self._model):
            self._borrowed += 1
            try:
                yield
            finally:
                self._borrowed -= 1

    # --- the image -----------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_image(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the latent (B, 4, H/8, W/8) of an image (B, 3, H, W) in [-1, 1]."""
        with self.borrowed():
            vae = self._model.first_stage_model
            dtype = next(vae.parameters()).dtype
            moments = self._moments(image, dtype)
            if not moments.isfinite().all() and dtype != torch.float32:
                # The webui continues in float32 too. Back from there every weight is as it was.
                logging.getLogger(__name__).info("The VAE gave NaN in %s; running it in float32.", dtype)
                try:
                    vae.to(torch.float32)
                    moments = self._moments(image, torch.float32)
                finally:
                    vae.to(dtype)
        latent = latent_of(moments, noise, self._info.name)
        return (latent * float(self._model.scale_factor)).to(self.dtype)

    def _moments(self, image: Tensor, dtype: torch.dtype) -> Tensor:
        """Return mean and log-variance of the posterior, (B, 8, H/8, W/8).

        `encode` is called because it brings the VAE to the device with --medvram. Stable Diffusion XL's would
        then draw a sample from the global random state: `capture` leaves it before that.
        """
        vae = self._model.first_stage_model
        with self._webui.devices.without_autocast(), capture({"moments": vae.quant_conv}) as outputs:
            vae.encode(image.to(self.device, dtype))
        return outputs["moments"]

    # --- the prompt ----------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_prompt(self, prompts: Sequence[str]) -> Context:
        """Return the Context of texts; of a text that is too long, the first 75 tokens are read.

        The text encoders themselves are run, without the webui's additions: no emphasis, no embeddings, no clip
        skip, one window, padded and read as the model was trained.
        """
        states, cut, pooled = [], (False,) * len(prompts), None
        with self.borrowed(), self._webui.devices.autocast():
            self._bring_conditioner()
            for embedder in _text_encoders(self._model):
                ids, shortened = token_window(embedder, self._token_ids(embedder, prompts))
                state, pooled_state = _encode_tokens(embedder.wrapped, ids.to(self.device))
                states.append(state)
                pooled = pooled if pooled_state is None else pooled_state.to(self.dtype)
                cut = tuple(a or b for a, b in zip(cut, shortened, strict=True))
        return Context(torch.cat(states, dim=-1).to(self.dtype), pooled, cut)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, without start and end; 75 at most."""
        first = _text_encoders(self._model)[0]
        return [min(len(ids), first.chunk_length) for ids in self._token_ids(first, texts)]

    def _token_ids(self, embedder: Any, texts: Sequence[str]) -> list[list[int]]:
        tokenizer = getattr(embedder.wrapped, "tokenizer", None)
        if tokenizer is None:
            encode = self._webui.open_clip_tokenizer.encode
            return read_tokens(lambda texts: [encode(text) for text in texts], texts)
        return read_tokens(partial(clip_tokens, tokenizer), texts)

    def _bring_conditioner(self) -> None:
        """Do what --medvram does where Stable Diffusion XL's conditioner runs as a whole (lowvram.py:121)."""
        conditioner = getattr(self._model, "conditioner", None)
        if conditioner is not None and self._model.lowvram:
            self._webui.lowvram.send_everything_to_cpu()
            conditioner.to(self.device)
            self._webui.lowvram.module_in_gpu = conditioner

    # --- the UNet ------------------------------------------------------------------------------------

    def add_noise(self, latent: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Add noise by the model's own schedule, not as "downcast alphas" or "zero terminal SNR" change it."""
        return self.schedule.add_noise(latent, noise.to(latent.device), timesteps)

    @torch.no_grad()
    def predict_noise(self, noisy_latent: Tensor, timesteps: Tensor, context: Context) -> Tensor:
        """Run the UNet once and return its noise prediction (B, 4, h, w)."""
        self.before_pass()
        batch = max(len(noisy_latent), len(context))
        x = noisy_latent.to(self.device, self.dtype).expand(batch, -1, -1, -1)
        timesteps = timesteps.to(self.device).expand(batch)
        tokens = context.tokens.to(self.device, self.dtype).expand(batch, -1, -1)
        conditioning: dict[str, Any] = {"c_crossattn": [tokens]}
        if self._info.family == "sdxl":
            assert context.pooled is not None
            unet = self._model.model.diffusion_model
            pooled = context.pooled.to(self.device, self.dtype).expand(batch, -1)
            conditioning = {"crossattn": tokens, "vector": with_sizes(unet, pooled, x, self._info.name)}
        if self._info.unet.in_channels == 9:
            conditioning["c_concat"] = [blank_inpainting(x)]
        with self.borrowed():
            # `apply_model` casts and opens autocast (sd_hijack_unet.py:40). It is taken from the class, since
            # extensions overlay the model's own attribute.
            output = type(self._model).apply_model(self._model, x, timesteps, conditioning).to(self.dtype)
        if self._info.prediction == "v":
            return self.schedule.noise_from_v(output, x, timesteps)
        return output

    def feature_modules(self) -> Mapping[str, nn.Module]:
        """Return the transformers by their names in the original UNet, in the order in which they run."""
        return transformers_of(self._model.model.diffusion_model, self._info.unet)

    def clear_memory(self) -> None:
        """Return the memory that PyTorch keeps for later to the device."""
        self._webui.devices.torch_gc()


# --- what the model is -------------------------------------------------------------------------------


def _identity(model: Any) -> tuple[Any, ...]:
    """Return values that change with the model, since the webui loads checkpoint and VAE into the same object."""
    return model.sd_model_checkpoint, model.sd_model_hash, getattr(model, "loaded_vae_file", None)


def _describe(model: Any) -> HostInfo:
    """Return what kind of model it is.

    Raises:
        HostError: no model is loaded, or it cannot be used; the text says why.
    """
    if model is None:
        raise no_model()
    checkpoint = model.sd_checkpoint_info
    name = checkpoint.title
    family, encoders = read_family(model, name), _text_encoders(model)
    # The mark is what the model was trained with; the webui knows only its own configuration.
    marks = marks_of(checkpoint)
    prediction = "v" if V_PREDICTION in marks else _PREDICTIONS.get(model.parameterization)
    if prediction is None:
        raise unfit(name, f'it predicts "{model.parameterization}", neither noise nor v')
    if len(encoders) != (2 if family == "sdxl" else 1) or not all(map(_is_known, encoders)):
        raise unfit(name, UNKNOWN_TEXT)
    structure = read_structure(model.model.diffusion_model, name)
    key = model.model.conditioning_key
    if (structure.in_channels, key) not in {(4, "crossattn"), (9, "hybrid"), (9, "crossattn")}:
        raise unfit(name, f'its UNet reads {structure.in_channels} channels and is conditioned by "{key}"')
    return describe(checkpoint, model, family, prediction, structure, files=loaded_vae(model))


def _text_encoders(model: Any) -> list[Any]:
    """Return the webui's wrappers of the text encoders, in the order in which their states are joined."""
    text = text_part(model)
    return [embedder for embedder in getattr(text, "embedders", [text]) if hasattr(embedder, "wrapped")]


def _is_known(embedder: Any) -> bool:
    return hasattr(embedder.wrapped, "transformer") or hasattr(embedder.wrapped, "encode_with_transformer")


def _encode_tokens(encoder: Any, ids: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the states (P, 77, D) of token ids (P, 77), of the layer that the model uses; and pooled (P, E)."""
    if hasattr(encoder, "transformer"):  # CLIP of transformers: Stable Diffusion 1.x, and the first of XL
        inside = encoder.layer == "hidden"
        output = encoder.transformer(input_ids=ids, output_hidden_states=inside)
        return (output.hidden_states[encoder.layer_idx] if inside else output.last_hidden_state), None
    output = encoder.encode_with_transformer(ids)  # OpenCLIP: Stable Diffusion 2.x, and the second of XL
    if isinstance(output, dict):
        return output[encoder.layer], output.get("pooled")
    return output, None
