"""Build parts of a model with diffusers and transformers: settings, strict loading, a fingerprint."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ldznet.errors import HostError, LdznetError
from ldznet.heads.unet import UNetConfig
from ldznet.heads.weight_files import TensorFile
from ldznet.hosts.diffusers.part_names import UNET, Sources, same, vae_sources
from ldznet.hosts.diffusers.unet_names import original_unet_names
from ldznet.hosts.host import Family

SCALE = {"sd1": 0.18215, "sd2": 0.18215, "sdxl": 0.13025}  # latent = VAE output * scale


# --- UNet ----------------------------------------------------------------------------------------


def unet_settings(unet: UNetConfig, family: Family) -> dict[str, Any]:
    """Return the arguments of diffusers' UNet2DConditionModel for a structure."""
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
        # diffusers means the number of heads, whatever this name says.
        "attention_head_dim": [unet.heads_for(width) for width in channels],
        "use_linear_projection": unet.linear_projection,
    }
    if family == "sdxl":
        settings |= {"addition_embed_type": "text_time", "addition_time_embed_dim": 256}
    return settings


def build_unet(file: TensorFile, structure: UNetConfig, family: Family) -> Any:
    """Return diffusers' UNet with the weights of a file in the original layout.

    Raises:
        HostError: the weights do not fit the structure.
    """
    from diffusers import UNet2DConditionModel

    settings = unet_settings(structure, family)
    if "addition_embed_type" in settings:
        settings["projection_class_embeddings_input_dim"] = file.shapes[f"{UNET}label_emb.0.0.weight"][1]
    unet = UNet2DConditionModel(**settings)
    own = original_unet_names(unet.state_dict())
    sources: Sources = {name: (f"{UNET}{original}", same) for name, original in own.items()}
    extra = {name for name in file.shapes if name.startswith(UNET)} - {source for source, _ in sources.values()}
    load_sources(unet, file, {**sources, **{name: (name, same) for name in extra}}, "UNet")
    return unet


# --- VAE -----------------------------------------------------------------------------------------


def vae_settings(widths: list[int], blocks: int, latent_channels: int, scale: float) -> dict[str, Any]:
    """Return the arguments of diffusers' AutoencoderKL."""
    return {
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "latent_channels": latent_channels,
        "layers_per_block": blocks,
        "scaling_factor": scale,
    }


def build_vae(file: TensorFile, scale: float) -> Any:
    """Return diffusers' VAE with the weights of a checkpoint, or of a VAE's own file in any usual layout.

    Raises:
        HostError: the file holds no VAE, or one of another kind.
    """
    from diffusers import AutoencoderKL

    sources = vae_sources(file.shapes)
    shapes = {name: file.shapes[source] for name, (source, _) in sources.items()}
    if not {"encoder.conv_in.weight", "decoder.conv_in.weight"} <= shapes.keys():
        raise HostError(
            f"{file.path} holds no VAE (first_stage_model.*) with encoder and decoder. Give a checkpoint with the "
            "VAE baked in, or the VAE as a file (--vae)."
        )
    channels = shapes["decoder.conv_in.weight"][1]
    if channels != 4:
        raise HostError(
            f"The VAE in {file.path} has latents of {channels} channels; Stable Diffusion 1.x, 2.x and XL have 4. "
            "It belongs to another kind of model: give the right one."
        )
    # Of the decoder, which has one block more on each level: an encoder may have none at all.
    widths: list[int] = []
    while (shape := shapes.get(f"decoder.up_blocks.{len(widths)}.resnets.0.conv1.weight")) is not None:
        widths.insert(0, shape[0])
    blocks = 0
    while f"decoder.up_blocks.0.resnets.{blocks + 1}.conv1.weight" in shapes:
        blocks += 1
    vae = AutoencoderKL(**vae_settings(widths, blocks, channels, scale))
    # Other tensors, such as those of the loss that the VAE was trained with, are not needed.
    needed = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
    load_sources(vae, file, {n: source for n, source in sources.items() if n.startswith(needed)}, "VAE")
    return vae


# --- loading -------------------------------------------------------------------------------------


def load_sources(model: Any, file: TensorFile, sources: Sources, what: str) -> None:
    """Load a model from a file by a table of names; every tensor of the table must fit.

    Raises:
        HostError: tensors are missing, left over or of the wrong shape.
    """
    # What the file lacks is left out here, and counted by the strict loading.
    state = {
        name: change(file.tensor(source)) for name, (source, change) in sources.items() if source in file.shapes
    }
    load_strictly(model, state, what, file.path)


def load_strictly(model: Any, state: Mapping[str, Tensor], what: str, path: Path) -> None:
    """Load a state dict; names may have `text_model.` or not, which differs between versions of transformers.

    Raises:
        HostError: tensors are missing, left over or of the wrong shape.
    """
    own = model.state_dict()
    short = {name.removeprefix("text_model."): name for name in own}
    fitted = {}
    for name, tensor in state.items():
        target = short.get(name.removeprefix("text_model."), name)
        # VAEs of the first releases hold their attention as 1 x 1 convolutions.
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
    """Return a text that identifies a model: a digest over a few numbers of every tensor."""
    digest = hashlib.sha256()
    # Eight values of each suffice, since training changes all of them; a digest of gigabytes would take seconds.
    for name in sorted(state):
        digest.update(f"{name}{tuple(state[name].shape)}".encode())
        digest.update(state[name].detach().flatten()[:8].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


# --- the libraries' errors and warnings ----------------------------------------------------------


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn whatever a library raises on a damaged model into a HostError."""
    try:
        yield
    except (LdznetError, MemoryError):
        raise
    except Exception as why:  # diffusers, transformers and tokenizers raise almost anything on damaged files
        text = str(why).strip().splitlines() or [type(why).__name__]
        raise HostError(
            f"The model {path} cannot be loaded ({text[0][:300]}). A part of it is missing, damaged or of a "
            "kind that ldznet does not know; nothing is downloaded unasked. Fetch the whole model again, or "
            "give its single-file checkpoint."
        ) from why


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings of the libraries that a user of ldznet can do nothing about."""
    names = ("diffusers", "transformers")
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
