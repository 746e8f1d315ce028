"""Tables of the names that a checkpoint's tensors have in the layouts in use. Opens no file.

A table per part: UNet (unet_names.py), VAE, and the two layouts of text encoders. Every source of names is a row
here and not a special case elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

UNET = "model.diffusion_model."
VAES = ("first_stage_model.", "vae.", "")  # the last: a file with nothing but a VAE

# name in the built model -> name in the file, and what to do with the tensor
Sources = Mapping[str, tuple[str, Callable[[Tensor], Tensor]]]


@dataclass(frozen=True)
class TextPart:
    """One place of a text encoder in a checkpoint, and the layout of its names."""

    prefix: str
    layout: Literal["clip", "open_clip"]  # names as in transformers, or as in OpenCLIP


TEXT_PARTS = (
    TextPart("cond_stage_model.transformer.", "clip"),  # Stable Diffusion 1.x; 2.x as some tools write it back
    TextPart("cond_stage_model.model.", "open_clip"),  # Stable Diffusion 2.x
    TextPart("conditioner.embedders.0.transformer.", "clip"),  # the first one of XL
    TextPart("conditioner.embedders.0.model.", "open_clip"),  # SD-Turbo: 2.1 under the names of XL's code
    TextPart("conditioner.embedders.1.model.", "open_clip"),  # the second one of XL
    TextPart("conditioner.embedders.1.transformer.", "clip"),  # the same, as some tools write it back
)


def same(tensor: Tensor) -> Tensor:
    """Return the tensor as it is."""
    return tensor


def _third(number: int) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor.chunk(3)[number]


def text_parts(names: Iterable[str]) -> list[TextPart]:
    """Return the text encoders that a checkpoint holds, in the order in which their states are joined."""
    tables = [name for name in names if name.endswith("token_embedding.weight")]
    return [part for part in TEXT_PARTS if any(name.startswith(part.prefix) for name in tables)]


# --- text encoders -------------------------------------------------------------------------------

# Beginnings of names: OpenCLIP -> transformers
_OPEN_CLIP = {
    "token_embedding.": "embeddings.token_embedding.",
    "ln_final.": "final_layer_norm.",
    "transformer.resblocks.": "encoder.layers.",
}
# Inside a layer: OpenCLIP -> transformers
_OPEN_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")


def text_sources(names: Iterable[str], part: TextPart) -> dict[str, tuple[str, Callable[[Tensor], Tensor]]]:
    """Return the sources of a text encoder's tensors under the names of transformers, without `text_model.`

    Tensors that no text encoder reads (`position_ids`, `logit_scale`, an image encoder ...) are among them or not;
    the caller takes what its model has.
    """
    sources: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {}
    for name in names:
        if not name.startswith(part.prefix):
            continue
        short = name.removeprefix(part.prefix)
        if part.layout == "clip":
            sources[short.removeprefix("text_model.")] = (name, same)
        elif short == "positional_embedding":
            sources["embeddings.position_embedding.weight"] = (name, same)
        elif short in ("text_projection", "text_projection.weight"):
            # A matrix that is multiplied from the right; a linear layer holds its transpose.
            sources["text_projection.weight"] = (name, same if short.endswith("weight") else Tensor.t)
        else:
            sources |= _open_clip_sources(name, short)
    return sources


def _open_clip_sources(name: str, short: str) -> dict[str, tuple[str, Callable[[Tensor], Tensor]]]:
    for begin, replacement in _OPEN_CLIP.items():
        if short.startswith(begin):
            short = replacement + short.removeprefix(begin)
            break
    if match := re.fullmatch(r"(encoder\.layers\.\d+)\.attn\.in_proj_(weight|bias)", short):
        # One matrix for queries, keys and values, one above the other.
        return {
            f"{match[1]}.self_attn.{letter}_proj.{match[2]}": (name, _third(number))
            for number, letter in enumerate("qkv")
        }
    if (match := _LAYER.fullmatch(short)) and match[2] in _OPEN_CLIP_LAYER:
        short = f"encoder.layers.{match[1]}.{_OPEN_CLIP_LAYER[match[2]]}.{match[3]}"
    return {short: (name, same)}


def layer_count(names: Iterable[str]) -> int:
    """Return the number of layers of a text encoder, from names of transformers without `text_model.`"""
    return 1 + max((int(match[1]) for name in names if (match := _LAYER.fullmatch(name))), default=-1)


# --- VAE -----------------------------------------------------------------------------------------

_VAE_INSIDE = {
    "norm_out": "conv_norm_out",
    "mid.block_1": "mid_block.resnets.0",
    "mid.block_2": "mid_block.resnets.1",
    "mid.attn_1": "mid_block.attentions.0",
}
_VAE_ATTENTION = {  # also the names that diffusers had until 0.12
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}


def vae_sources(names: Iterable[str]) -> dict[str, tuple[str, Callable[[Tensor], Tensor]]]:
    """Return the sources of a VAE's tensors under the names of diffusers; empty where there is no VAE.

    Reads the original names and those of diffusers, with any of the prefixes in `VAES`.
    """
    names = list(names)
    for prefix in VAES:
        short = {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}
        if any(name.startswith(("encoder.", "decoder.")) for name in short):
            levels = len({name.split(".")[2] for name in short if name.startswith("decoder.up.")})
            return {_vae_name(name, levels): (source, same) for name, source in short.items()}
    return {}


def _vae_name(name: str, levels: int) -> str:
    """Return the name that diffusers has for a tensor of a VAE with `levels` levels."""
    match = re.fullmatch(r"(encoder|decoder)\.(.+)\.(weight|bias)", name)
    if match is None:
        return name  # quant_conv and post_quant_conv; and what is not part of the VAE, such as its loss
    side, inside, kind = match.groups()
    if block := re.fullmatch(r"(down|up)\.(\d+)\.(?:block\.(\d+)\.(\w+)|(down|up)sample\.conv)", inside):
        # The original counts the decoder's levels from fine to coarse, diffusers in the order of computing.
        level = int(block[2]) if side == "encoder" else levels - 1 - int(block[2])
        layer = "conv_shortcut" if block[4] == "nin_shortcut" else block[4]
        rest = f"resnets.{block[3]}.{layer}" if block[3] else f"{block[5]}samplers.0.conv"
        return f"{side}.{block[1]}_blocks.{level}.{rest}.{kind}"
    for old, new in _VAE_INSIDE.items():
        if inside == old or inside.startswith(f"{old}."):
            inside = new + inside.removeprefix(old)
            break
    place, _, layer = inside.rpartition(".")
    if place == "mid_block.attentions.0":
        inside = f"{place}.{_VAE_ATTENTION.get(layer, layer)}"
    return f"{side}.{inside}.{kind}"
