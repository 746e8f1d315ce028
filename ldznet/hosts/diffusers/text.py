"""The text encoders of a checkpoint file, each with its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from ldznet.errors import HostError
from ldznet.heads.weight_files import TensorFile
from ldznet.hosts.diffusers.configuration import section
from ldznet.hosts.diffusers.part_names import Sources, TextPart, layer_count, text_parts, text_sources
from ldznet.hosts.diffusers.parts import load_sources
from ldznet.hosts.diffusers.text_model import TextConfig, TextModel
from ldznet.hosts.diffusers.tokenizers import Tokenize, find_tokenizer
from ldznet.hosts.host import Family

_TOKENS = "embeddings.token_embedding.weight"
_POSITIONS = "embeddings.position_embedding.weight"
# Beginnings of names that every tensor of a text encoder has; all others in a file are not needed: position_ids,
# logit_scale, an image encoder and the like.
_NEEDED = ("embeddings.token_embedding.", "embeddings.position_embedding.", "encoder.layers.", "final_layer_norm.")
# Stable Diffusion 2.x reads the text after the last layer but one of OpenCLIP ViT-H, which has 24 of this width.
_VIT_H_WIDTH, _VIT_H_LAYERS = 1024, 24


@dataclass(frozen=True)
class TextEncoder:
    """One text encoder with its tokenizer; Stable Diffusion XL has two of them."""

    model: TextModel
    tokenize: Tokenize
    penultimate: bool = False  # the state before the last layer, without the final norm (SDXL)


def build_text(
    file: TensorFile, family: Family, configuration: Mapping[str, Any], download: bool
) -> list[TextEncoder]:
    """Return the text encoders of a checkpoint file, two for XL, with their tokenizers.

    Raises:
        HostError: a part is missing, or does not fit.
    """
    parts = text_parts(file.shapes)
    expected = 2 if family == "sdxl" else 1
    if len(parts) != expected:
        raise HostError(
            f"{file.path} holds {len(parts)} text encoders that ldznet knows, but its UNet reads {expected}. Give "
            "a file with the whole model."
        )
    tables = [text_sources(file.shapes, part) for part in parts]
    vocabulary = file.shapes[tables[0][_TOKENS][0]][0]
    tokenizer, settings = find_tokenizer(file.path, configuration, download, vocabulary)
    encoders = []
    for number, (part, table) in enumerate(zip(parts, tables, strict=True)):
        # OpenCLIP is all of 2.x and the second encoder of XL, whatever its names are.
        is_open_clip = family == "sd2" or number == 1
        projected = number == 1
        sources: Sources = {
            name: source
            for name, source in table.items()
            if name.startswith(_NEEDED) or (projected and name.startswith("text_projection."))
        }
        if family == "sd2":
            sources = _without_last_layer(sources, file, part, configuration)
        model = _build(
            file, sources, {} if is_open_clip else settings, quick_gelu=not is_open_clip, projected=projected
        )
        padded = tokenizer.padded_with("!") if is_open_clip else tokenizer  # token 0
        encoders.append(TextEncoder(model, padded, penultimate=family == "sdxl"))
    return encoders


def _without_last_layer(
    sources: Sources, file: TensorFile, part: TextPart, configuration: Mapping[str, Any]
) -> Sources:
    """Return the sources without the last layer of the whole encoder, if the file holds it.

    Published files have all 24 layers, of which the last is not used; files written back from diffusers' layout
    have the 23 that are. For an encoder of another width the .yaml says how many layers it has as a whole
    (`cond_stage_config: params: layers`); without it, OpenCLIP's names mean a whole one.
    """
    layers = layer_count(sources)
    width = file.shapes[sources[_TOKENS][0]][1]
    whole = section(configuration, "text").get("layers")
    if whole is None and width == _VIT_H_WIDTH:
        whole = _VIT_H_LAYERS
    if whole is None:
        whole = layers if part.layout == "open_clip" else layers + 1
    if layers < whole:
        return sources
    last = tuple(f"encoder.layers.{number}." for number in range(int(whole) - 1, layers))
    return {name: source for name, source in sources.items() if not name.startswith(last)}


def _build(
    file: TensorFile, sources: Sources, settings: Mapping[str, Any], *, quick_gelu: bool, projected: bool
) -> TextModel:
    """Return the text encoder; `settings` are used instead of what follows from the shapes.

    Raises:
        HostError: tensors are missing, or of the wrong shape.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in sources:
            raise HostError(
                f"The text encoder of {file.path} is not complete: it has no {name}. Use the original file."
            )
        return file.shapes[sources[name][0]]

    vocabulary, width = shape(_TOKENS)
    config = TextConfig(
        vocabulary=vocabulary,
        width=width,
        inner_width=shape("encoder.layers.0.mlp.fc1.weight")[0],
        layers=layer_count(sources),
        heads=max(width // 64, 1),  # as all published text encoders have
        length=shape(_POSITIONS)[0],
        quick_gelu=quick_gelu,
    )
    if settings:
        config = text_config(settings)
    if projected:
        config = replace(config, projection=_projection(file, sources))
    model = empty_text_model(config)
    load_sources(model, file, sources, "text encoder")
    return model


def _projection(file: TensorFile, sources: Sources) -> int:
    """Return the width of the projection."""
    source, _ = sources.get("text_projection.weight", ("", None))
    if not source:
        raise HostError(
            f"The text encoder of {file.path} is not complete: it has no text_projection. Use the original file."
        )
    # OpenCLIP's matrix is (width, projected), a linear layer's weight the other way round.
    rows, columns = file.shapes[source]
    return rows if source.endswith("weight") else columns


def text_config(settings: Mapping[str, Any], *, projected: bool = False) -> TextConfig:
    """Return the structure that a config.json of transformers describes.

    Raises:
        HostError: it describes an activation that no CLIP has.
    """
    activation = settings.get("hidden_act", "quick_gelu")
    if activation not in ("quick_gelu", "gelu"):
        raise HostError(
            f'The config.json of the text encoder asks for "{activation}", but CLIP has "quick_gelu" or "gelu". '
            "Correct the file, or use another model."
        )
    # The defaults are those of transformers, which leaves values out that equal them.
    return TextConfig(
        vocabulary=settings.get("vocab_size", 49408),
        width=settings.get("hidden_size", 512),
        inner_width=settings.get("intermediate_size", 2048),
        layers=settings.get("num_hidden_layers", 12),
        heads=settings.get("num_attention_heads", 8),
        length=settings.get("max_position_embeddings", 77),
        quick_gelu=activation == "quick_gelu",
        eps=settings.get("layer_norm_eps", 1e-5),
        projection=settings.get("projection_dim", 512) if projected else 0,
    )


def empty_text_model(config: TextConfig) -> TextModel:
    """Return a text encoder without weights."""
    with torch.device("meta"):
        return TextModel(config)
