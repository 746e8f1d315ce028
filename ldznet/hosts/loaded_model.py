"""What the hosts of all webuis share: reading off the layers what kind of model is loaded, and its inputs.

A webui keeps the UNet, the VAE and the tokenizers in classes of its own, but their layers have the names of the
original code. Opens no file but a checkpoint's header.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ldznet.errors import HostError, PromptError, ShapeError
from ldznet.heads.layers import timestep_embedding
from ldznet.heads.unet import UNetConfig
from ldznet.hosts.host import Family, HostInfo, Prediction
from ldznet.hosts.known_words import read_known_words
from ldznet.hosts.marks import V_PREDICTION, ZERO_SNR, read_marks

UNKNOWN_TEXT = "its text encoders are none that ldznet knows; it may be a refiner, or for other languages"


def unfit(name: str, why: str) -> HostError:
    """Return the error for a model that cannot be used."""
    return HostError(
        f"{name} cannot be used for segmentation: {why}. Load a plain or an inpainting checkpoint of Stable "
        "Diffusion 1.x, 2.x or XL."
    )


def no_model() -> HostError:
    """Return the error for a webui without a model."""
    return HostError(
        "The webui has no Stable Diffusion model loaded: loading it failed, or it was unloaded. Choose a "
        "checkpoint in the webui and wait until it is loaded."
    )


def replaced_model(name: str) -> HostError:
    """Return the error for a model that the webui has replaced during the work."""
    return HostError(
        f"The webui has changed its model since {name} was borrowed: another checkpoint or VAE is loaded now. "
        "Start the segmentation again."
    )


def read_family(model: Any, name: str) -> Family:
    """Return the family by the webui's flags.

    Raises:
        HostError: it is none that ldznet knows.
    """
    families: Mapping[str, Family] = {"is_sdxl": "sdxl", "is_sd2": "sd2", "is_sd1": "sd1"}
    for flag, family in families.items():
        if getattr(model, flag, False):
            return family
    raise unfit(name, f"it is of another kind ({getattr(model, 'model_type', type(model).__name__)})")


def read_structure(unet: Any, name: str) -> UNetConfig:
    """Return the UNet's structure by the shapes of its tensors, and the number of heads by its layers.

    Raises:
        HostError: it is not the structure of a Stable Diffusion model.
    """
    attentions = [m.transformer_blocks[0].attn1 for m in unet.modules() if hasattr(m, "transformer_blocks")]
    counts = {attention.heads for attention in attentions}
    widths = {attention.to_q.out_features // attention.heads for attention in attentions}
    if not counts or min(len(counts), len(widths)) > 1:
        raise unfit(name, "its UNet has none of the transformers of Stable Diffusion, or differently wide heads")
    heads, head_channels = (counts.pop(), 0) if len(counts) == 1 else (8, widths.pop())
    shapes = {name: tuple(tensor.shape) for name, tensor in unet.named_parameters()}
    try:
        structure = UNetConfig.from_shapes(shapes, heads=heads, head_channels=head_channels)
        for path in structure.transformer_paths():
            unet.get_submodule(f"{path}.transformer_blocks.0.attn2")
    except (ShapeError, AttributeError) as why:
        raise unfit(name, f"its UNet has another structure ({why})") from why
    return structure


def marks_of(checkpoint: Any) -> frozenset[str]:
    """Return the marks in the file of a webui's CheckpointInfo."""
    return read_marks(getattr(checkpoint, "filename", None) or "")


def fingerprint_of(checkpoint: Any, model: Any) -> str:
    """Return a text that tells the checkpoint from others: a digest of the file, with --no-hashing of a part."""
    digests = [checkpoint.sha256, checkpoint.shorthash, model.sd_model_hash, getattr(checkpoint, "hash", None)]
    return next((digest for digest in digests if digest), "")


def loaded_vae(model: Any) -> list[str]:
    """Return the name of the VAE's file that the webui has loaded into the model's place, if there is one."""
    file = getattr(model, "loaded_vae_file", None)
    return [Path(file).name] if file else []


def describe(
    checkpoint: Any,
    model: Any,
    family: Family,
    prediction: Prediction,
    structure: UNetConfig,
    *,
    files: Sequence[str] = (),
    vae: str = "",
) -> HostInfo:
    """Return what a host says about a webui's model.

    `files` are the names of those that were loaded with the checkpoint, `vae` says in words where the VAE is from;
    without it, it is from these files, and without these from the checkpoint.
    """
    marks = marks_of(checkpoint)
    zero_snr = ", zero terminal SNR (marked by the tensor ztsnr)" if ZERO_SNR in marks else ""
    details = {
        "weights": "as the webui loaded them",
        "vae": vae or ", ".join(files) or "in the checkpoint",
        "prediction": "marked by the tensor v_pred in the file" if V_PREDICTION in marks else "by the webui",
        "schedule": f"by the webui{zero_snr}",
    }
    fingerprint = "+".join([fingerprint_of(checkpoint, model), *files])
    known_words = read_known_words(getattr(checkpoint, "filename", None) or "")
    return HostInfo(checkpoint.title, family, prediction, structure, fingerprint, details, known_words)


def transformers_of(unet: nn.Module, structure: UNetConfig) -> dict[str, nn.Module]:
    """Return the transformers by their names in the original UNet, in the order in which they run."""
    return {path: unet.get_submodule(path) for path in structure.transformer_paths()}


# --- inputs ------------------------------------------------------------------------------------------


def read_tokens(tokenize: Callable[[list[str]], list[list[int]]], texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of each text, without start and end.

    Raises:
        PromptError: the tokenizer cannot read a text.
    """
    try:
        return tokenize(list(texts))
    except (UnicodeError, ValueError, TypeError) as why:
        raise PromptError(
            f"The tokenizer cannot read the prompts ({why}). Remove characters that are not text."
        ) from why


def clip_tokens(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Return the ids of each text by a tokenizer of transformers, without start and end."""
    ids: list[list[int]] = tokenizer(texts, truncation=False, add_special_tokens=False)["input_ids"]
    return ids


def token_window(engine: Any, ids: Sequence[Sequence[int]]) -> tuple[Tensor, tuple[bool, ...]]:
    """Return ids (P, 77): start, 75 tokens, end, padding; and which texts were cut.

    `engine` is a webui's wrapper of a text encoder, which names the special tokens.
    """
    length = engine.chunk_length
    rows = [[engine.id_start, *row[:length], engine.id_end] for row in ids]
    padded = [row + [engine.id_pad] * (length + 2 - len(row)) for row in rows]
    return torch.tensor(padded), tuple(len(row) > length for row in ids)


def latent_of(moments: Tensor, noise: Tensor | None, name: str) -> Tensor:
    """Return the unscaled latent (B, 4, h, w) in float32 from a posterior (B, 8, h, w): its mean, or a sample.

    Raises:
        HostError: it has values that are not numbers.
    """
    if not moments.isfinite().all():
        raise HostError(
            f"The VAE of {name} gives values that are not numbers (NaN) for this image, in float32 too. The VAE "
            "is broken: choose another one in the webui's settings, or another checkpoint."
        )
    mean, log_variance = moments.float().chunk(2, dim=1)
    # The mean, not a sample: the same image must give the same mask.
    if noise is None:
        return mean
    return mean + (0.5 * log_variance.clamp(-30, 20)).exp() * noise.to(mean)


def blank_inpainting(x: Tensor) -> Tensor:
    """Return what an inpainting UNet reads after the latent: all is masked, and the image below is unknown."""
    blank = x.new_zeros(len(x), 5, *x.shape[2:])
    blank[:, 0] = 1
    return blank


def with_sizes(unet: Any, pooled: Tensor, x: Tensor, name: str) -> Tensor:
    """Append to the pooled prompt (B, E) the sizes that Stable Diffusion XL reads, of an image that was not cut.

    Raises:
        HostError: the UNet reads other numbers.
    """
    height, width = 8 * x.shape[-2], 8 * x.shape[-1]
    # original size, crop corner and target size
    sizes = torch.tensor([height, width, 0, 0, height, width], device=pooled.device)
    room = unet.label_emb[0][0].in_features - pooled.shape[-1]
    if room <= 0 or room % len(sizes):
        raise HostError(
            f"The UNet of {name} wants {room} numbers in addition to its prompt, which are not the sizes that "
            "Stable Diffusion XL takes. Load another checkpoint; a refiner cannot be used."
        )
    embedded = timestep_embedding(sizes, room // len(sizes)).flatten().to(pooled)
    return torch.cat([pooled, embedded.expand(len(pooled), -1)], dim=-1)
