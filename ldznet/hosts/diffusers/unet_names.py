"""Names of a UNet's tensors in diffusers' layout, and in the original one that heads and webuis know.

Both layouts hold the same tensors in the same shapes and only count the places differently: diffusers counts
levels and, within a level, residual blocks and transformers separately; the original counts places and, within a
place, layers. Opens no file and imports no other library.

    down_blocks.2.attentions.1.norm.weight   input_blocks.8.1.norm.weight
    up_blocks.1.upsamplers.0.conv.weight     output_blocks.5.2.conv.weight
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from ldznet.errors import HostError
from ldznet.heads.unet import UNetConfig

# diffusers -> original: layers that stand at one place in every UNet
_WHOLE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",  # Stable Diffusion XL
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
# diffusers -> original: layers of a residual block
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
# diffusers -> original: the only layer of a change of size
_RESIZE = {"downsamplers": {"conv": "op"}, "upsamplers": {"conv": "conv"}}


def original_unet_names(names: Iterable[str]) -> dict[str, str]:
    """Return {name in diffusers' layout: original name}, without `model.diffusion_model.` in front.

    Raises:
        HostError: a name belongs to a layer that no Stable Diffusion 1.x, 2.x or XL model has.
    """
    names = list(names)
    # Counted on the first level, since all levels have as many blocks.
    blocks = len({name.split(".")[3] for name in names if name.startswith("down_blocks.0.resnets.")})
    levels = len({name.split(".")[1] for name in names if name.startswith("down_blocks.")})
    with_text = {int(match[1]) for name in names if (match := re.match(r"down_blocks\.(\d+)\.attentions\.", name))}
    places = _places(levels, blocks, with_text)
    return {name: _translated(name, places) for name in names}


def diffusers_unet_names(names: Iterable[str], structure: UNetConfig) -> dict[str, str]:
    """Return {original name: name in diffusers' layout} for the tensors of a UNet of this structure."""
    with_text = {level for level, depth in enumerate(structure.depths) if depth}
    places = _places(len(structure.depths), structure.res_blocks, with_text)
    swapped = {
        original: (place, {ours: theirs for theirs, ours in layers.items()})
        for place, (original, layers) in places.items()
    }
    return {name: _translated(name, swapped) for name in names}


def _places(levels: int, blocks: int, with_text: Collection[int]) -> dict[str, tuple[str, Mapping[str, str]]]:
    """Return {place in diffusers' layout: (original place, names of its layers)}.

    `blocks` counts the residual blocks of a level in the encoder, `with_text` are its levels with transformers.
    Layers without a name in the table have the same one in both layouts.
    """
    places: dict[str, tuple[str, Mapping[str, str]]] = {
        theirs: (original, {}) for theirs, original in _WHOLE.items()
    }
    for level in range(levels):
        first = level * (blocks + 1) + 1  # place 0 is the first convolution
        for number in range(blocks):
            places[f"down_blocks.{level}.resnets.{number}"] = (f"input_blocks.{first + number}.0", _RESNET)
            places[f"down_blocks.{level}.attentions.{number}"] = (f"input_blocks.{first + number}.1", {})
        resize = (f"input_blocks.{first + blocks}.0", _RESIZE["downsamplers"])
        places[f"down_blocks.{level}.downsamplers.0"] = resize
    for number in range(2):
        places[f"mid_block.resnets.{number}"] = (f"middle_block.{2 * number}", _RESNET)
    places["mid_block.attentions.0"] = ("middle_block.1", {})
    for level in range(levels):
        first = level * (blocks + 1)
        for number in range(blocks + 1):
            places[f"up_blocks.{level}.resnets.{number}"] = (f"output_blocks.{first + number}.0", _RESNET)
            places[f"up_blocks.{level}.attentions.{number}"] = (f"output_blocks.{first + number}.1", {})
        # The upsampling comes after the transformer where the level has one.
        layer = 2 if levels - 1 - level in with_text else 1
        resize = (f"output_blocks.{first + blocks}.{layer}", _RESIZE["upsamplers"])
        places[f"up_blocks.{level}.upsamplers.0"] = resize
    return places


def _translated(name: str, places: Mapping[str, tuple[str, Mapping[str, str]]]) -> str:
    """Return the name of a tensor in the other layout."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):  # the longest place that is in the table
        if ".".join(parts[:length]) in places:
            place, layers = places[".".join(parts[:length])]
            inside, kind = ".".join(parts[length:-1]), parts[-1]
            if not layers:
                return ".".join([place, *parts[length:]])
            if inside in layers:
                return f"{place}.{layers[inside]}.{kind}"
            break
    raise HostError(
        f"The UNet has a tensor {name}, which no Stable Diffusion 1.x, 2.x or XL model has, so that a head cannot "
        "start from it. Give another model, or start from random weights (--start random)."
    )
