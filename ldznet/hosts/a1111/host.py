"""The model that AUTOMATIC1111's webui has loaded, borrowed for the length of a block.

    host = A1111Host()                           # or A1111Host(p.sd_model)
    segmenter = Segmenter(host, method)
    with host.borrowed():                        # optional: the model changes state once, not once per call
        segmenter.set_image(image)
        found = segmenter.segment(["a cat"])

Whatever LoRAs, settings or extensions are at work in the webui, the result is that of the checkpoint alone, and
the model is left as it was: a1111_neutral.py. The caller holds the webui's `queue_lock`. Written for 1.10.1;
`modules` is imported when a host is made, nowhere else.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ldznet.errors import HostError, PromptError, ShapeError
from ldznet.heads.layers import timestep_embedding
from ldznet.heads.unet import UNetConfig
from ldznet.hosts.a1111.neutral import Webui, neutral, text_part
from ldznet.hosts.capture import capture
from ldznet.hosts.host import Context, Family, HostInfo, Prediction, Schedule

_PREDICTIONS: Mapping[str, Prediction] = {"eps": "noise", "v": "v"}


class A1111Host:
    """The model loaded in the webui, or a given one; see `Host` for what its methods promise."""

    def __init__(self, sd_model: Any = None) -> None:
        self._webui = _import_webui()
        self._model = self._webui.shared.sd_model if sd_model is None else sd_model
        self._info = _describe(self._model)
        self._loaded = _identity(self._model)
        alphas = getattr(self._model, "alphas_cumprod_original", self._model.alphas_cumprod)
        self.schedule = Schedule(alphas.detach().double().cpu())
        self._borrowed = 0
        # Called before each pass of the UNet; what it raises ends the work.
        self.before_pass: Callable[[], None] = lambda: None

    @property
    def info(self) -> HostInfo:
        """What kind of model it is."""
        return self._info

    @property
    def device(self) -> torch.device:
        """Where the UNet computes."""
        return torch.device(self._webui.devices.device)

    @property
    def dtype(self) -> torch.dtype:
        """In which precision the UNet computes."""
        dtype: torch.dtype = self._webui.devices.dtype_unet
        return dtype

    @property
    def is_current(self) -> bool:
        """The webui still has the model that this host was made for; if not, make another one."""
        return self._webui.shared.sd_model is self._model and _identity(self._model) == self._loaded

    @contextmanager
    def borrowed(self) -> Iterator[None]:
        """The model is in its neutral state inside the block. Calls inside it need not change it again.

        Raises:
            HostError: the webui has loaded another model since this host was made.
        """
        if self._borrowed:
            yield
            return
        if _identity(self._model) != self._loaded:
            raise HostError(
                f"The webui has changed its model since {self._info.name} was borrowed: another checkpoint or VAE "
                "is loaded now. Start the segmentation again."
            )
        with neutral(self._webui, self._model):
            self._borrowed += 1
            try:
                yield
            finally:
                self._borrowed -= 1

    # --- the image -----------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_image(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> latent (B, 4, H/8, W/8)."""
        with self.borrowed():
            vae = self._model.first_stage_model
            dtype = next(vae.parameters()).dtype
            moments = self._moments(image, dtype)
            if not moments.isfinite().all() and dtype != torch.float32:
                # The webui, too, goes on in float32; back from there every weight is as it was.
                logging.getLogger(__name__).info("The VAE gave NaN in %s; running it in float32.", dtype)
                try:
                    vae.to(torch.float32)
                    moments = self._moments(image, torch.float32)
                finally:
                    vae.to(dtype)
        if not moments.isfinite().all():
            raise HostError(
                f"The VAE of {self._info.name} gives values that are not numbers (NaN) for this image, in float32 "
                "too. The VAE is broken: choose another one in the webui's settings, or another checkpoint."
            )
        mean, log_variance = moments.float().chunk(2, dim=1)
        if noise is not None:
            mean = mean + (0.5 * log_variance.clamp(-30, 20)).exp() * noise.to(mean)
        return (mean * float(self._model.scale_factor)).to(self.dtype)

    def _moments(self, image: Tensor, dtype: torch.dtype) -> Tensor:
        """Mean and log-variance of the posterior, (B, 8, H/8, W/8).

        By way of `encode`, which brings the VAE to the device with --medvram. That of Stable Diffusion XL would go
        on and draw a sample, from the global random state: `capture` leaves it before.
        """
        vae = self._model.first_stage_model
        with self._webui.devices.without_autocast(), capture({"moments": vae.quant_conv}) as found:
            vae.encode(image.to(self.device, dtype))
        return found["moments"]

    # --- the words -----------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_prompt(self, prompts: Sequence[str]) -> Context:
        """Texts -> Context; of a text that is too long, the first 75 tokens are read.

        The text encoders themselves are run, not the webui's way to them: no emphasis, no embeddings, no clip
        skip, one window, padded and read as the model was trained.
        """
        states, cut, pooled = [], (False,) * len(prompts), None
        with self.borrowed(), self._webui.devices.autocast():
            self._bring_conditioner()
            for embedder in _text_encoders(self._model):
                ids, shortened = self._window(embedder, prompts)
                state, found = _read(embedder.wrapped, ids.to(self.device))
                states.append(state)
                pooled = pooled if found is None else found.to(self.dtype)
                cut = tuple(a or b for a, b in zip(cut, shortened, strict=True))
        return Context(torch.cat(states, dim=-1).to(self.dtype), pooled, cut)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text is, start and end left out; 75 at most."""
        first = _text_encoders(self._model)[0]
        return [min(len(ids), first.chunk_length) for ids in self._token_ids(first, texts)]

    def _token_ids(self, embedder: Any, texts: Sequence[str]) -> list[list[int]]:
        tokenizer = getattr(embedder.wrapped, "tokenizer", None)
        try:
            if tokenizer is None:
                return [self._webui.open_clip_tokenizer.encode(text) for text in texts]
            ids: list[list[int]] = tokenizer(list(texts), truncation=False, add_special_tokens=False)["input_ids"]
            return ids
        except (UnicodeError, ValueError, TypeError) as why:
            raise PromptError(
                f"The tokenizer cannot read the prompts ({why}). Remove characters that are no text."
            ) from why

    def _window(self, embedder: Any, texts: Sequence[str]) -> tuple[Tensor, tuple[bool, ...]]:
        """-> ids (P, 77): start, the first 75 tokens, end, padding; and per text, whether it was cut."""
        rows, length = [], embedder.chunk_length
        found = self._token_ids(embedder, texts)
        for ids in found:
            row = [embedder.id_start, *ids[:length], embedder.id_end]
            rows.append(row + [embedder.id_pad] * (length + 2 - len(row)))
        return torch.tensor(rows), tuple(len(ids) > length for ids in found)

    def _bring_conditioner(self) -> None:
        """What --medvram does where Stable Diffusion XL's conditioner runs as a whole (lowvram.py:121)."""
        conditioner = getattr(self._model, "conditioner", None)
        if conditioner is not None and self._model.lowvram:
            self._webui.lowvram.send_everything_to_cpu()
            conditioner.to(self.device)
            self._webui.lowvram.module_in_gpu = conditioner

    # --- the UNet ------------------------------------------------------------------------------------

    def add_noise(self, latent: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The model's own noise schedule, whatever "downcast alphas" or "zero terminal SNR" have made of it."""
        return self.schedule.add_noise(latent, noise.to(latent.device), timesteps)

    @torch.no_grad()
    def predict_noise(self, noisy_latent: Tensor, timesteps: Tensor, context: Context) -> Tensor:
        """One UNet pass -> noise prediction (B, 4, h, w)."""
        self.before_pass()
        batch = max(len(noisy_latent), len(context))
        x = noisy_latent.to(self.device, self.dtype).expand(batch, -1, -1, -1)
        timesteps = timesteps.to(self.device).expand(batch)
        tokens = context.tokens.to(self.device, self.dtype).expand(batch, -1, -1)
        given: dict[str, Any] = {"c_crossattn": [tokens]}
        if self._info.family == "sdxl":
            assert context.pooled is not None
            pooled = context.pooled.to(self.device, self.dtype).expand(batch, -1)
            given = {"crossattn": tokens, "vector": self._with_sizes(pooled, x)}
        if self._info.unet.in_channels == 9:  # inpainting: everything is masked, nothing is known
            blank = x.new_zeros(batch, 5, *x.shape[2:])
            blank[:, 0] = 1
            given["c_concat"] = [blank]
        with self.borrowed():
            # It casts and opens autocast (sd_hijack_unet.py:40). The class's: extensions overlay the model's own.
            answer = type(self._model).apply_model(self._model, x, timesteps, given).to(self.dtype)
        if self._info.prediction == "v":
            return self.schedule.noise_from_v(answer, x, timesteps)
        return answer

    def _with_sizes(self, pooled: Tensor, x: Tensor) -> Tensor:
        """What Stable Diffusion XL is told beside the tokens: of a picture that was not cut."""
        height, width = 8 * x.shape[-2], 8 * x.shape[-1]
        # original size, crop corner and target size
        sizes = torch.tensor([height, width, 0, 0, height, width], device=pooled.device)
        room = self._model.model.diffusion_model.label_emb[0][0].in_features - pooled.shape[-1]
        if room <= 0 or room % len(sizes):
            raise HostError(
                f"The UNet of {self._info.name} wants {room} numbers beside its prompt, which are not the sizes "
                "that Stable Diffusion XL takes. Load another checkpoint; a refiner cannot be used."
            )
        told = timestep_embedding(sizes, room // len(sizes)).flatten().to(pooled)
        return torch.cat([pooled, told.expand(len(pooled), -1)], dim=-1)

    def feature_modules(self) -> Mapping[str, nn.Module]:
        """The transformers under their names in the original UNet, in the order in which they run."""
        unet = self._model.model.diffusion_model
        return {path: unet.get_submodule(path) for path in self._info.unet.transformer_paths()}

    def clear_memory(self) -> None:
        """Give back what PyTorch keeps for later."""
        self._webui.devices.torch_gc()


def _import_webui() -> Webui:
    try:
        from modules import (  # type: ignore[import-not-found]
            devices,
            lowvram,
            sd_hijack,
            sd_hijack_open_clip,
            sd_models,
            sd_unet,
            shared,
        )
    except ImportError as why:
        raise HostError(
            f"This does not run inside AUTOMATIC1111's webui ({why}), so there is no loaded model to borrow. Use "
            "a checkpoint file (DiffusersHost), or install the extension into the webui."
        ) from why
    networks = sys.modules.get("networks")  # the Lora extension's folder is on the webui's path
    if not hasattr(networks, "loaded_networks"):
        networks = None
    tokenizer = sd_hijack_open_clip.tokenizer
    return Webui(devices, lowvram, sd_hijack, sd_models, sd_unet, shared, tokenizer, networks)


# --- what the model is -------------------------------------------------------------------------------


def _identity(model: Any) -> tuple[Any, ...]:
    """The webui loads another checkpoint, or VAE, into the same object."""
    return model.sd_model_checkpoint, model.sd_model_hash, getattr(model, "loaded_vae_file", None)


def _describe(model: Any) -> HostInfo:
    """Find out what the model is.

    Raises:
        HostError: there is none, or none that can be used, and why.
    """
    if model is None:
        raise HostError(
            "The webui has no Stable Diffusion model loaded: loading it failed, or it was unloaded. Choose a "
            "checkpoint in the webui and wait until it is loaded."
        )
    if hasattr(model, "forge_objects"):
        raise HostError(
            "This webui is Forge or reForge, which hold their model in another way than AUTOMATIC1111's. ldznet "
            "works in AUTOMATIC1111 only."
        )
    checkpoint = model.sd_checkpoint_info
    name = checkpoint.title
    family, encoders = _family(model, name), _text_encoders(model)
    prediction = _PREDICTIONS.get(model.parameterization)
    if prediction is None:
        raise _unfit(name, f'it predicts "{model.parameterization}", neither noise nor v')
    if len(encoders) != (2 if family == "sdxl" else 1) or not all(map(_is_known, encoders)):
        raise _unfit(
            name, "its text encoders are none that ldznet knows; it may be a refiner, or for other languages"
        )
    structure = _structure(model.model.diffusion_model, name)
    key = model.model.conditioning_key
    if (structure.in_channels, key) not in {(4, "crossattn"), (9, "hybrid"), (9, "crossattn")}:
        raise _unfit(name, f'its UNet reads {structure.in_channels} channels and is conditioned by "{key}"')
    fingerprint = checkpoint.sha256 or checkpoint.shorthash or model.sd_model_hash or ""
    if vae := getattr(model, "loaded_vae_file", None):
        fingerprint += f"+{Path(vae).name}"
    return HostInfo(name, family, prediction, structure, fingerprint)


def _unfit(name: str, why: str) -> HostError:
    return HostError(
        f"{name} cannot be used for segmentation: {why}. Load a plain or an inpainting checkpoint of Stable "
        "Diffusion 1.x, 2.x or XL."
    )


def _family(model: Any, name: str) -> Family:
    families: Mapping[str, Family] = {"is_sdxl": "sdxl", "is_sd2": "sd2", "is_sd1": "sd1"}
    for flag, family in families.items():
        if getattr(model, flag, False):
            return family
    raise _unfit(name, f"it is of another kind ({getattr(model, 'model_type', type(model).__name__)})")


def _structure(unet: Any, name: str) -> UNetConfig:
    """From the tensors, and the number of heads from the layers."""
    attentions = [m.transformer_blocks[0].attn1 for m in unet.modules() if hasattr(m, "transformer_blocks")]
    counts = {attention.heads for attention in attentions}
    widths = {attention.to_q.out_features // attention.heads for attention in attentions}
    if not counts or min(len(counts), len(widths)) > 1:
        raise _unfit(name, "its UNet has none of the transformers of Stable Diffusion, or differently wide heads")
    heads, head_channels = (counts.pop(), 0) if len(counts) == 1 else (8, widths.pop())
    shapes = {name: tuple(tensor.shape) for name, tensor in unet.named_parameters()}
    try:
        structure = UNetConfig.from_shapes(shapes, heads=heads, head_channels=head_channels)
        for path in structure.transformer_paths():
            unet.get_submodule(f"{path}.transformer_blocks.0.attn2")
    except (ShapeError, AttributeError) as why:
        raise _unfit(name, f"its UNet has another structure ({why})") from why
    return structure


def _text_encoders(model: Any) -> list[Any]:
    """The webui's wrappers around them, in the order in which their states are joined."""
    text = text_part(model)
    return [embedder for embedder in getattr(text, "embedders", [text]) if hasattr(embedder, "wrapped")]


def _is_known(embedder: Any) -> bool:
    return hasattr(embedder.wrapped, "transformer") or hasattr(embedder.wrapped, "encode_with_transformer")


def _read(encoder: Any, ids: Tensor) -> tuple[Tensor, Tensor | None]:
    """Token ids (P, 77) -> states (P, 77, D), of the layer that the model was trained with; pooled (P, E)."""
    if hasattr(encoder, "transformer"):  # CLIP of transformers: Stable Diffusion 1.x, and the first of XL
        inside = encoder.layer == "hidden"
        answer = encoder.transformer(input_ids=ids, output_hidden_states=inside)
        return (answer.hidden_states[encoder.layer_idx] if inside else answer.last_hidden_state), None
    answer = encoder.encode_with_transformer(ids)  # OpenCLIP: Stable Diffusion 2.x, and the second of XL
    if isinstance(answer, dict):
        return answer[encoder.layer], answer.get("pooled")
    return answer, None
