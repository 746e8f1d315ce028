"""Names of a UNet's tensors in diffusers' layout, and in the original one that heads and webuis know.

Both layouts hold the same tensors in the same shapes and only count the places differently: diffusers counts
levels and, within a level, residual blocks and transformers separately; the original counts places and, within a
place, layers. Opens no file and imports no other library.

    down_blocks.2.attentions.1.norm.weight   input_blocks.8.1.norm.weight
    up_blocks.1.upsamplers.0.conv.weight     output_blocks.5.2.conv.weight
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ldznet.errors import HostError

_WHOLE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",  # Stable Diffusion XL
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_PLACE = re.compile(
    r"(?:(?P<side>down|up)_blocks\.(?P<level>\d+)|mid_block)"
    r"\.(?P<part>resnets|attentions|downsamplers|upsamplers)\.(?P<number>\d+)\.(?P<rest>.+)"
)


def original_unet_names(names: Iterable[str]) -> dict[str, str]:
    """Return {name in diffusers' layout: original name}, without `model.diffusion_model.` in front.

    Raises:
        HostError: a name belongs to a layer that no Stable Diffusion 1.x, 2.x or XL model has.
    """
    names = list(names)
    # Counted on the first level, since all levels have as many blocks.
    blocks = len({name.split(".")[3] for name in names if name.startswith("down_blocks.0.resnets.")})
    with_text = {int(name.split(".")[1]) for name in names if re.match(r"up_blocks\.\d+\.attentions\.", name)}
    return {name: _original(name, blocks, with_text) for name in names}


def _original(name: str, blocks: int, with_text: set[int]) -> str:
    """Return one original name.

    `blocks` counts the residual blocks of a level in the encoder; `with_text` are the levels of the decoder that
    have transformers.
    """
    whole, _, kind = name.rpartition(".")
    if whole in _WHOLE:
        return f"{_WHOLE[whole]}.{kind}"
    match = _PLACE.fullmatch(name)
    if match and (inside := _inside(match["part"], match["rest"])):
        number = int(match["number"])
        if match["side"] is None:
            place = {"resnets": f"middle_block.{2 * number}", "attentions": "middle_block.1"}
        elif match["side"] == "down":
            first = int(match["level"]) * (blocks + 1) + 1  # place 0 is the first convolution
            place = {
                "resnets": f"input_blocks.{first + number}.0",
                "attentions": f"input_blocks.{first + number}.1",
                "downsamplers": f"input_blocks.{first + blocks}.0",
            }
        else:
            first = int(match["level"]) * (blocks + 1)
            # The upsampling comes after the transformer where the level has one.
            layer = 2 if int(match["level"]) in with_text else 1
            place = {
                "resnets": f"output_blocks.{first + number}.0",
                "attentions": f"output_blocks.{first + number}.1",
                "upsamplers": f"output_blocks.{first + blocks}.{layer}",
            }
        if match["part"] in place:
            return f"{place[match['part']]}.{inside}"
    raise HostError(
        f"The UNet has a tensor {name}, which no Stable Diffusion 1.x, 2.x or XL model has, so that a head cannot "
        "start from it. Give another model, or start from random weights (--start random)."
    )


def _inside(part: str, rest: str) -> str | None:
    """Return the rest of the original name; within a transformer the two layouts agree."""
    if part == "attentions":
        return rest
    layer, _, kind = rest.rpartition(".")
    if part == "resnets":
        return f"{_RESNET[layer]}.{kind}" if layer in _RESNET else None
    return {"downsamplers": f"op.{kind}", "upsamplers": f"conv.{kind}"}[part] if layer == "conv" else None
