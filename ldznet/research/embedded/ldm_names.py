"""Names of the original ("ldm") layout for models that diffusers trained or made.

A checkpoint in this layout loads in the webui as well as in `hosts/diffusers_files.py`. The UNet needs no
translation: `modeling/unet.py` has the original names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_VAE = (
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
    (r"\.group_norm\.", ".norm."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.to_out\.0\.", ".proj_out."),
    (r"\.down_blocks\.(\d+)\.resnets\.", r".down.\1.block."),
    (r"\.down_blocks\.(\d+)\.downsamplers\.0\.", r".down.\1.downsample."),
    (r"\.up\.(\d+)\.resnets\.", r".up.\1.block."),
    (r"\.up\.(\d+)\.upsamplers\.0\.", r".up.\1.upsample."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.conv_norm_out\.", ".norm_out."),
)


def vae_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of diffusers' AutoencoderKL under the original names, without prefix."""
    numbers = [int(found[1]) for name in state if (found := re.search(r"\.up_blocks\.(\d+)\.", name))]
    last = max(numbers)
    renamed = {}
    for name, tensor in state.items():
        # The original counts the decoder's levels from the finest.
        target = re.sub(r"\.up_blocks\.(\d+)\.", lambda found: f".up.{last - int(found[1])}.", name)
        for pattern, replacement in _VAE:
            target = re.sub(pattern, replacement, target)
        # Its attention is made of 1 x 1 convolutions.
        pointwise = ".attn_1." in target and tensor.ndim == 2
        renamed[target] = tensor[:, :, None, None] if pointwise else tensor
    return renamed
