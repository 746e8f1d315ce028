"""What building the parts of a checkpoint has in common: settings for diffusers, strict loading, a fingerprint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ldznet.errors import HostError
from ldznet.heads.unet import UNetConfig
from ldznet.heads.weight_files import TensorFile
from ldznet.hosts.host import Family

SCALE = {"sd1": 0.18215, "sd2": 0.18215, "sdxl": 0.13025}


def section(yaml: Mapping[str, Any], name: str) -> Any:
    """The parameters of one part; empty where it has none."""
    part = yaml.get(name, {})
    return part.get("params", {}) if isinstance(part, dict) else part


def state_of(file: TensorFile, prefix: str) -> dict[str, Tensor]:
    """The tensors of one part, by their names in the file."""
    return {name: file.tensor(name) for name in file.shapes if name.startswith(prefix)}


def unet_settings(unet: UNetConfig, family: Family) -> dict[str, Any]:
    """The arguments of diffusers' UNet2DConditionModel for a structure."""
    text = ["CrossAttn" if depth else "" for depth in unet.depths]
    # For a level without transformers the number is not used; for the last one it is the middle block's.
    depths = [depth or 1 for depth in unet.depths]
    depths[-1] = unet.middle_depth
    channels = [unet.model_channels * mult for mult in unet.channel_mult]
    settings: dict[str, Any] = {
        "in_channels": unet.in_channels,
        "out_channels": unet.out_channels,
        "block_out_channels": channels,
        "down_block_types": [f"{kind}DownBlock2D" for kind in text],
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(text)],
        "layers_per_block": unet.res_blocks,
        "transformer_layers_per_block": depths,
        "cross_attention_dim": unet.context_width,
        "attention_head_dim": [unet.heads_for(width) for width in channels],
        "use_linear_projection": unet.linear_projection,
    }
    if family == "sdxl":
        settings |= {"addition_embed_type": "text_time", "addition_time_embed_dim": 256}
    return settings


def vae_settings(widths: list[int], blocks: int, latent_channels: int, scale: float) -> dict[str, Any]:
    """The arguments of diffusers' AutoencoderKL."""
    return {
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "latent_channels": latent_channels,
        "layers_per_block": blocks,
        "scaling_factor": scale,
    }


def load_strictly(model: Any, state: Mapping[str, Tensor], what: str, path: Path) -> None:
    """Load strictly; transformers' names differ between its versions by a leading "text_model."."""
    own = model.state_dict()
    fitted = {}
    for name, tensor in state.items():
        bare = name.removeprefix("text_model.")
        target = name if name in own or bare not in own else bare
        # VAEs of the first releases hold their attention as 1 x 1 convolutions
        fitted[target] = tensor.reshape(own[target].shape) if _is_pointwise(tensor, own.get(target)) else tensor
    missing, extra = sorted(set(own) - set(fitted)), sorted(set(fitted) - set(own))
    wrong = [name for name in own if name in fitted and own[name].shape != fitted[name].shape]
    if missing or extra or wrong:
        first = (missing or extra or wrong)[0]
        raise HostError(
            f"The {what} of {path} does not fit its structure: {len(missing)} tensors are missing, {len(extra)} "
            f"left over, {len(wrong)} of the wrong shape, first {first}. The file was pruned or merged badly: "
            "use the original checkpoint."
        )
    model.load_state_dict(fitted)


def _is_pointwise(tensor: Tensor, own: Tensor | None) -> bool:
    return own is not None and own.ndim == 2 and tensor.ndim == 4 and tensor.shape[2:] == (1, 1)


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """Tells one model from another: a digest over a few numbers of every tensor."""
    import hashlib

    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name}{tuple(state[name].shape)}".encode())
        digest.update(state[name].detach().flatten()[:8].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
