"""Borrow the model that reForge, or Forge Classic, has loaded.

The model has AUTOMATIC1111's configuration and wrappers of the text encoders around the networks of ldm_patched,
which are in patchers as those of Forge are: hosts/forge/patched_host.py. file:line in comments are of reForge
3b56b26.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ldznet.hosts.forge.modules import ForgeModules
from ldznet.hosts.forge.patched_host import PatchedHost
from ldznet.hosts.host import HostInfo, Prediction
from ldznet.hosts.loaded_model import (
    UNKNOWN_TEXT,
    describe,
    loaded_vae,
    marks_of,
    no_model,
    read_family,
    read_structure,
    unfit,
)
from ldznet.hosts.marks import V_PREDICTION


class ReforgeHost(PatchedHost):
    """A model of reForge; see `Host` for what its methods promise."""

    def __init__(self, webui: ForgeModules, model: Any) -> None:
        info = _describe(model)
        network = model.forge_objects_original.unet.model
        # "Downcast alphas" and "zero terminal SNR" change `alphas_cumprod` for a run (sd_models.py:932).
        alphas = getattr(model, "alphas_cumprod_original", model.alphas_cumprod)
        super().__init__(webui, model, info, network.manual_cast_dtype or network.get_dtype(), alphas)
        self._loaded = _identity(model)

    @property
    def is_current(self) -> bool:
        """Return whether the webui still has the model of this host, with the same VAE."""
        model = self._model()
        return super().is_current and _identity(model) == self._loaded

    def _scale_latent(self, latent: Tensor) -> Tensor:
        scaled: Tensor = self._parts().unet.model.latent_format.process_in(latent)
        return scaled

    def _text_encoders(self) -> Sequence[Any]:
        self._parts()  # raises an error if the model is gone
        return _text_encoders(self._model())

    @staticmethod
    def _tokenizer(encoder: Any) -> Any:
        return encoder.wrapped.tokenizer

    def _encode_tokens(self, encoder: Any, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        transformer = encoder.wrapped.transformer
        text_model = transformer.text_model
        embeddings = text_model.embeddings
        embeddings.token_embedding.embeddings.fixes = None  # textual inversions that a run has left there
        # reForge does this before each text (forge_clip.py:24): where there is little memory, the patcher leaves
        # the embeddings on the CPU.
        embeddings.to(ids.device, torch.float32)
        outputs = transformer(input_ids=ids, output_hidden_states=True)
        layer = encoder.minimal_clip_skip  # the model's; the user's is a setting
        state = outputs.last_hidden_state if layer == 1 else outputs.hidden_states[-layer]
        if self.info.family == "sd2":
            state = text_model.final_layer_norm(state)
        projection = getattr(encoder.wrapped, "text_projection", None)  # of Stable Diffusion XL's second encoder
        if projection is None:
            return state, None
        return state, outputs.pooler_output.float() @ projection.to(ids.device).float()


# --- what the model is -------------------------------------------------------------------------------


def _identity(model: Any) -> tuple[Any, ...]:
    """Return values that change with the VAE, which reForge loads into the same model (sd_vae.py:238)."""
    return model.sd_model_checkpoint, getattr(model, "loaded_vae_file", None)


def _describe(model: Any) -> HostInfo:
    """Return what kind of model it is.

    Raises:
        HostError: no model is loaded, or it cannot be used; the text says why.
    """
    if not hasattr(model, "forge_objects_original"):
        raise no_model()
    checkpoint = model.sd_checkpoint_info
    name = checkpoint.title
    family = read_family(model, name)
    network = model.forge_objects_original.unet.model
    marks = marks_of(checkpoint)
    prediction = "v" if V_PREDICTION in marks else _prediction(model, network)
    if prediction is None:
        raise unfit(name, f'it predicts "{network.model_type.name}", neither noise nor v')
    encoders = _text_encoders(model)
    if len(encoders) != (2 if family == "sdxl" else 1) or not all(map(_is_known, encoders)):
        raise unfit(name, UNKNOWN_TEXT)
    structure = read_structure(network.diffusion_model, name)
    if structure.in_channels not in (4, 9):
        raise unfit(name, f"its UNet reads {structure.in_channels} channels")
    # reForge's flags do not tell these two apart (forge_loader.py:523).
    if family == "sd1" and encoders[0].minimal_clip_skip > 1:
        family = "sd2"
    return describe(checkpoint, model, family, prediction, structure, files=loaded_vae(model))


def _prediction(model: Any, network: Any) -> Prediction | None:
    """Return what the UNet predicts; the configuration of a file of the same name counts too."""
    if model.parameterization == "v" or network.model_type.name == "V_PREDICTION":
        return "v"
    return "noise" if network.model_type.name == "EPS" else None


def _text_encoders(model: Any) -> list[Any]:
    """Return the wrappers of the text encoders, in the order in which their states are joined."""
    conditioner = getattr(model, "conditioner", None)
    embedders = [model.cond_stage_model] if conditioner is None else conditioner.embedders
    return [embedder for embedder in embedders if hasattr(embedder, "wrapped")]


def _is_known(encoder: Any) -> bool:
    return hasattr(getattr(encoder.wrapped, "transformer", None), "text_model")
