"""Build UNet and VAE from a checkpoint's tensors: structure, strict loading, a fingerprint."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ldznet.errors import HostError, LdznetError
from ldznet.heads.unet import UNet, UNetConfig
from ldznet.heads.weight_files import TensorFile
from ldznet.hosts.diffusers.part_names import UNET, Sources, same, vae_sources
from ldznet.hosts.diffusers.unet_names import diffusers_unet_names
from ldznet.hosts.diffusers.vae import Vae

SCALE = {"sd1": 0.18215, "sd2": 0.18215, "sdxl": 0.13025}  # latent = VAE output * scale


# --- UNet ----------------------------------------------------------------------------------------


def build_unet(file: TensorFile, structure: UNetConfig) -> UNet:
    """Return the UNet with the weights of a file in the original layout.

    Raises:
        HostError: the weights do not fit the structure.
    """
    names = [name for name in file.shapes if name.startswith(UNET)]
    unet = empty_unet(structure, file.shapes.get(f"{UNET}label_emb.0.0.weight"))
    load_sources(unet, file, {name.removeprefix(UNET): (name, same) for name in names}, "UNet")
    return unet


def empty_unet(structure: UNetConfig, label_shape: Sequence[int] | None) -> UNet:
    """Return a UNet without weights; `label_shape` is that of the first layer for labels, which only XL has."""
    with torch.device("meta"):
        return UNet(structure, label_width=label_shape[1] if label_shape else 0)


def unet_fingerprint(unet: UNet) -> str:
    """Return the fingerprint of a UNet, over the names in diffusers' layout, which heads were marked with."""
    state = unet.state_dict()
    names = diffusers_unet_names(state, unet.unet_config)
    return fingerprint({names[name]: tensor for name, tensor in state.items()})


# --- VAE -----------------------------------------------------------------------------------------


def build_vae(file: TensorFile, scale: float) -> Vae:
    """Return the VAE with the weights of a checkpoint, or of a VAE's own file in any usual layout.

    Raises:
        HostError: the file holds no VAE, or one of another kind.
    """
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
    with torch.device("meta"):
        vae = Vae(widths, blocks, channels, scale)
    # Other tensors, such as those of the loss that the VAE was trained with, are not needed.
    needed = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
    load_sources(vae, file, {n: source for n, source in sources.items() if n.startswith(needed)}, "VAE")
    return vae


# --- loading -------------------------------------------------------------------------------------


def load_sources(model: nn.Module, file: TensorFile, sources: Sources, what: str) -> None:
    """Load a model from a file by a table of names; every tensor of the table must fit.

    Raises:
        HostError: tensors are missing, left over or of the wrong shape.
    """
    # What the file lacks is left out here, and counted by the strict loading.
    state = {
        name: change(file.tensor(source)) for name, (source, change) in sources.items() if source in file.shapes
    }
    load_strictly(model, state, what, file.path)


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], what: str, path: Path) -> None:
    """Give a model without weights those of a state dict.

    Raises:
        HostError: tensors are missing, left over or of the wrong shape.
    """
    own = model.state_dict()
    # VAEs of the first releases hold their attention as 1 x 1 convolutions.
    fitted = {
        name: tensor.reshape(own[name].shape) if _is_pointwise(tensor, own.get(name)) else tensor
        for name, tensor in state.items()
    }
    missing, extra = sorted(set(own) - set(fitted)), sorted(set(fitted) - set(own))
    wrong = [name for name in own if name in fitted and own[name].shape != fitted[name].shape]
    if missing or extra or wrong:
        first = (missing or extra or wrong)[0]
        raise HostError(
            f"The {what} of {path} does not fit its structure: {len(missing)} tensors are missing, {len(extra)} "
            f"left over, {len(wrong)} of the wrong shape, first {first}. The file was pruned or merged badly: "
            "use the original checkpoint."
        )
    # A copy: what the reader returns is a map of the file, which may be written to.
    whole = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in fitted.items()}
    model.load_state_dict(whole, assign=True)


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


# --- errors --------------------------------------------------------------------------------------


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn whatever is raised on a damaged model into a HostError."""
    try:
        yield
    except (LdznetError, MemoryError):
        raise
    except Exception as why:  # damaged files, above all those in JSON, lead to almost any of them
        text = str(why).strip().splitlines() or [type(why).__name__]
        raise HostError(
            f"The model {path} cannot be loaded ({text[0][:300]}). A part of it is missing, damaged or of a "
            "kind that ldznet does not know; nothing is downloaded unasked. Fetch the whole model again, or "
            "give its single-file checkpoint."
        ) from why
