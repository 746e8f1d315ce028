"""Find out what a checkpoint file is, and build its parts.

A single file holds the weights of UNet, VAE and text encoder. Their structure is read off the tensors. The number
of attention heads and the kind of prediction come from marks in the file, from the .yaml of the same name, or, for
the published sizes, from what is known of them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ldznet.errors import HostError, ShapeError
from ldznet.heads.model_kinds import is_refiner, model_kind
from ldznet.heads.unet import UNet, UNetConfig
from ldznet.heads.weight_files import TensorFile, open_tensors
from ldznet.hosts.diffusers.configuration import configured_prediction, has_zero_snr, read_configuration, section
from ldznet.hosts.diffusers.part_names import UNET, text_parts
from ldznet.hosts.diffusers.parts import SCALE, build_unet, build_vae, explained, unet_fingerprint
from ldznet.hosts.diffusers.text import TextEncoder, build_text
from ldznet.hosts.diffusers.vae import Vae
from ldznet.hosts.host import Family, HostInfo, Prediction, Schedule
from ldznet.hosts.known_words import read_known_words
from ldznet.hosts.marks import V_PREDICTION, ZERO_SNR

log = logging.getLogger(__name__)


class ModelParts(NamedTuple):
    """All that a host is made of."""

    info: HostInfo
    unet: UNet
    vae: Vae
    text: list[TextEncoder]
    schedule: Schedule


def load_file(path: Path, *, vae_file: Path | None = None, download: bool = False) -> ModelParts:
    """Load a checkpoint file in the original layout; with `vae_file` the VAE comes from there.

    Raises:
        HostError, CheckpointError: it is no Stable Diffusion 1.x, 2.x or XL checkpoint, or a part is missing.
    """
    configuration = read_configuration(path)
    details = {}
    with open_tensors(path) as file:
        _require_whole(file)
        with explained(path):
            structure, family = _structure(file, configuration)
            unet = build_unet(file, structure)
            scale = float(configuration.get("scale_factor", SCALE[family]))
            vae = load_vae(vae_file, scale) if vae_file else build_vae(file, scale)
            text = build_text(file, family, configuration, download)
        prediction, details["prediction"] = _prediction(file, family, configuration)
        schedule, details["schedule"] = _schedule(file, configuration)
        has_average = any(name.startswith("model_ema.diffusion_model") for name in file.shapes)
    if prediction is None:
        prediction = _guess_prediction(unet, structure)
    details["weights"] = (
        "raw; the averaged (EMA) weights in the file are not used" if has_average else "as in the file"
    )
    details["vae"] = str(vae_file) if vae_file else "in the checkpoint"
    known_words = read_known_words(path)
    info = HostInfo(path.name, family, prediction, structure, unet_fingerprint(unet), details, known_words)
    return ModelParts(info, unet, vae, text, schedule)


def load_vae(path: Path, scale: float) -> Vae:
    """Load a VAE from a separate file, or from the VAE folder of a model in diffusers' layout.

    Raises:
        HostError, CheckpointError: the file holds no VAE of Stable Diffusion, or cannot be read.
    """
    from ldznet.hosts.diffusers.model_files import weights_file

    if path.is_dir():
        path = weights_file(path, "VAE")
    with open_tensors(path) as file, explained(path):
        return build_vae(file, scale)


def _require_whole(file: TensorFile) -> None:
    names = file.shapes
    if is_refiner(names):
        raise HostError(
            f"{file.path} is {model_kind(names)}. Give the base model of Stable Diffusion XL, or another "
            "checkpoint."
        )
    if f"{UNET}input_blocks.0.0.weight" not in names:
        raise HostError(
            f"{file.path} is no Stable Diffusion checkpoint; it seems to be {model_kind(names)}. Give a file with "
            "the whole model: UNet, VAE and text encoder."
        )
    if not text_parts(names):
        raise HostError(
            f"{file.path} has a UNet but no text encoder that ldznet knows; it seems to be {model_kind(names)}. "
            "Give a file with the whole model."
        )
    if marks := [name for name in names if name.startswith(("edm_mean", "edm_std", "edm_vpred"))]:
        raise HostError(
            f"{file.path} was trained with another noise schedule (EDM, marked by {marks[0]}), which ldznet does "
            "not know. Use another checkpoint."
        )


def _structure(file: TensorFile, configuration: Mapping[str, Any]) -> tuple[UNetConfig, Family]:
    """Return the structure of the UNet, and which family has it."""
    shapes = {n.removeprefix(UNET): shape for n, shape in file.shapes.items() if n.startswith(UNET)}
    try:
        unet = UNetConfig.from_shapes(shapes)
    except ShapeError as why:
        raise HostError(f"The UNet of {file.path} cannot be used. {why}") from why
    family = family_of(unet, "label_emb.0.0.weight" in shapes)
    settings = section(configuration, "unet")
    # The .yaml comes first, since no shape shows the heads: 1.x gives their number, others the channels of each.
    if settings.get("num_head_channels", -1) > 0:
        return replace(unet, heads=8, head_channels=int(settings["num_head_channels"])), family
    if "num_heads" in settings:
        return replace(unet, heads=int(settings["num_heads"]), head_channels=0), family
    if unet.model_channels != 320:
        raise HostError(
            f"The UNet of {file.path} is {unet.model_channels} channels wide, which is none of the published "
            "sizes, and no shape tells its number of attention heads. Put the model's .yaml beside it, under "
            "the same name."
        )
    # The published values: 8 heads in 1.x, 64 channels per head in 2.x and XL.
    return replace(unet, heads=8, head_channels=0 if family == "sd1" else 64), family


def family_of(unet: UNetConfig, with_labels: bool) -> Family:
    """Return the family of a UNet; `with_labels`: it reads sizes and a pooled prompt, which XL's alone does.

    The names of the text encoders do not tell: SD-Turbo, a 2.1, has those of XL's code.
    """
    if with_labels:
        return "sdxl"
    return "sd2" if unet.linear_projection else "sd1"


def _prediction(
    file: TensorFile, family: Family, configuration: Mapping[str, Any]
) -> tuple[Prediction | None, str]:
    """Return what the model predicts and where that is written; None where only running it can tell."""
    prediction = configured_prediction(configuration)
    if V_PREDICTION in file.shapes:
        # Before the .yaml: the mark was put into this file, while a .yaml is often copied from another one.
        if prediction == "noise":
            log.warning(
                "%s is marked as predicting v, but its .yaml says noise. The mark is used.", file.path.name
            )
        return "v", "marked by the tensor v_pred in the file"
    if prediction is not None:
        return prediction, "from the .yaml beside the file"
    if family == "sd2" and not configuration:
        return None, "found by running the model once"
    return "noise", "as published models of this kind"


def _schedule(file: TensorFile, configuration: Mapping[str, Any]) -> tuple[Schedule, str]:
    """Return the noise schedule and where it is written."""
    if "alphas_cumprod" in file.shapes:
        schedule, source = Schedule(file.tensor("alphas_cumprod").double()), "from the file"
    else:
        # The defaults are those of every published model.
        start, end = configuration.get("linear_start", 0.00085), configuration.get("linear_end", 0.012)
        schedule, source = Schedule.scaled_linear(float(start), float(end)), "as published"
    if ZERO_SNR in file.shapes:
        return schedule.with_zero_snr(), f"{source}, zero terminal SNR (marked by the tensor ztsnr)"
    if has_zero_snr(configuration):
        return schedule.with_zero_snr(), f"{source}, zero terminal SNR (from the .yaml)"
    return schedule, source


@torch.no_grad()
def _guess_prediction(unet: UNet, structure: UNetConfig) -> Prediction:
    """Return what the model predicts: at the last timestep a model of noise repeats its input, one of v does not.

    The weights of the 512-base and the 768-v models of Stable Diffusion 2 have the same shapes.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, structure.in_channels, 8, 8, generator=generator)
    context = torch.zeros(1, 77, structure.context_width)
    answer = unet.float().eval()(x, torch.tensor([999]), context)
    # An inpainting UNet reads 9 channels, of which the first 4 are the latent.
    inputs, outputs = x[:, :4].flatten(), answer.flatten()
    likeness = torch.nn.functional.cosine_similarity(inputs, outputs, dim=0).item()
    log.info("Likeness of the model's answer to pure noise: %.2f", likeness)
    # Between the two kinds lies a wide gap: noise models answer with nearly 1, v models with about 0.
    return "noise" if likeness > 0.5 else "v"
