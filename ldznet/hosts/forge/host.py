"""Borrow the model that Forge or Forge Neo has loaded; how it is used is in patched_host.py."""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from ldznet.hosts.forge.modules import ForgeModules
from ldznet.hosts.forge.patched_host import PatchedHost
from ldznet.hosts.host import HostInfo, Prediction
from ldznet.hosts.loaded_model import (
    UNKNOWN_TEXT,
    describe,
    marks_of,
    no_model,
    read_family,
    read_structure,
    unfit,
)
from ldznet.hosts.marks import V_PREDICTION

_PREDICTIONS: Mapping[str, Prediction] = {"epsilon": "noise", "v_prediction": "v"}
_TEXT_ENGINES = ("text_processing_engine", "text_processing_engine_l", "text_processing_engine_g")


class ForgeHost(PatchedHost):
    """A model of Forge; see `Host` for what its methods promise. A checkpoint or VAE makes another engine."""

    def __init__(self, webui: ForgeModules, engine: Any) -> None:
        info = _describe(webui, engine)
        model = engine.forge_objects_original.unet.model
        # "Zero Terminal SNR" of a run changes `sigmas` only.
        alphas_cumprod = _predictor(webui, engine.forge_objects_original.unet).alphas_cumprod
        super().__init__(webui, engine, info, model.computation_dtype, alphas_cumprod)

    def _scale_latent(self, latent: Tensor) -> Tensor:
        scaled: Tensor = self._parts().vae.first_stage_model.process_in(latent)
        return scaled

    def _text_encoders(self) -> Sequence[Any]:
        self._parts()  # raises an error if the model is gone
        return _text_engines(self._model())

    @staticmethod
    def _tokenizer(encoder: Any) -> Any:
        return encoder.tokenizer

    def _encode_tokens(self, encoder: Any, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        transformer = encoder.text_encoder.transformer
        embeddings = transformer.text_model.embeddings
        encoder.embeddings.fixes = None  # textual inversions that a run has left there
        # The weights are cast to the type of what they are applied to, so that these decide in which precision
        # the encoder computes. Forge makes both casts before its own first text, and they stay
        # (classic_engine.py:139).
        embeddings.position_ids = embeddings.position_ids.to(ids.device)
        embeddings.position_embedding.to(dtype=torch.float32)
        embeddings.token_embedding.to(dtype=torch.float32)
        outputs = transformer(ids, output_hidden_states=True)
        # `minimal_clip_skip` is the model's; the user's is `clip_skip`. Where there is a final norm, it is 1.
        layer = outputs.hidden_states[-encoder.minimal_clip_skip]
        state = outputs.last_hidden_state if encoder.final_layer_norm else layer
        if not encoder.return_pooled:
            return state, None
        pooled = outputs.pooler_output
        return state, transformer.text_projection(pooled) if encoder.text_projection else pooled


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
    unet = engine.forge_objects_original.unet
    model, predictor = unet.model, _predictor(webui, unet)
    # The mark is what the model was trained with; the webui knows only its own configuration.
    marks, kind = marks_of(checkpoint), getattr(predictor, "prediction_type", "")
    prediction = "v" if V_PREDICTION in marks else _PREDICTIONS.get(kind)
    if prediction is None or not hasattr(predictor, "alphas_cumprod"):
        raise unfit(name, f'it predicts "{kind}", neither noise nor v')
    if len(engines) != (2 if family == "sdxl" else 1):
        raise unfit(name, UNKNOWN_TEXT)
    if isinstance(model.storage_dtype, str):
        raise unfit(name, f"its weights are quantised ({model.storage_dtype})")
    structure = read_structure(model.diffusion_model, name)
    if structure.in_channels not in (4, 9):
        raise unfit(name, f"its UNet reads {structure.in_channels} channels")
    files = _additional_files(webui.loaded_as())
    vae = f"in the checkpoint or in {', '.join(files)}" if files else ""
    return describe(checkpoint, engine, family, prediction, structure, files=files, vae=vae)


def _predictor(webui: ForgeModules, unet: Any) -> Any:
    """Return the model's own schedule: a run's patcher may have put another one into the model, and kept it."""
    for entry in webui.memory.current_loaded_models:
        clone = entry.model
        if clone is not None and clone.model is unet.model and "predictor" in clone.object_patches_backup:
            return clone.object_patches_backup["predictor"]
    return unet.model.predictor


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
