"""Finding out what a Stable Diffusion checkpoint is, and building it with diffusers and transformers.

Everything is built from what lies on disk. A single file holds the weights of UNet, VAE and text encoder;
their structure is read off the tensors, the number of attention heads and the kind of prediction from the
.yaml of the same name beside it or, for the published sizes, from what is known of them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ldznet.errors import HostError, LdznetError, ShapeError
from ldznet.heads.unet import UNetConfig
from ldznet.heads.weight_files import TensorFile, describe, open_tensors
from ldznet.hosts.diffusers.key_maps import original_names
from ldznet.hosts.diffusers.parts import (
    SCALE,
    fingerprint,
    load_strictly,
    section,
    state_of,
    unet_settings,
    vae_settings,
)
from ldznet.hosts.diffusers.text import CLIP, OPEN_CLIP, TextEncoder, build_text, tokenize_with, tokenizer_folders
from ldznet.hosts.host import Family, HostInfo, Prediction, Schedule

log = logging.getLogger(__name__)

Parts = tuple[HostInfo, Any, Any, list[TextEncoder], Schedule]

_UNET = "model.diffusion_model."
_VAE = "first_stage_model."


def model_files(path: Path) -> list[Path]:
    """All files that a model is loaded from, as far as they lie with it: if one changes, its masks may, too.

    Raises:
        HostError: the configuration beside it is none.
    """
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.is_file())
    configuration = path.with_suffix(".yaml")
    folders = tokenizer_folders(path, _read_yaml(configuration))
    beside = [p for folder in folders if folder.is_dir() for p in sorted(folder.iterdir()) if p.is_file()]
    parts = sorted(path.parent.glob("*-of-*")) if path.name.endswith(".index.json") else []
    return [path, *parts, *([configuration] if configuration.is_file() else []), *beside]


# --- a folder in diffusers' layout ---------------------------------------------------------------


def load_folder(path: Path) -> Parts:
    """Load a folder with model_index.json, unet, vae, text_encoder and tokenizer.

    Raises:
        HostError: a part is missing or cannot be loaded.
    """
    if not (path / "model_index.json").is_file():
        files = sorted(p.name for p in path.iterdir() if p.suffix in (".safetensors", ".ckpt"))
        hint = f" It holds {', '.join(files[:5])}: give one of these files." if files else ""
        raise HostError(f"{path} is no model in diffusers' layout: it has no model_index.json.{hint}")
    import transformers
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    with _explained(path), _quiet():
        unet = UNet2DConditionModel.from_pretrained(path, subfolder="unet", local_files_only=True)
        vae = AutoencoderKL.from_pretrained(path, subfolder="vae", local_files_only=True)
        scheduler = DDIMScheduler.from_pretrained(path, subfolder="scheduler", local_files_only=True)
        structure = structure_of(unet)
        family = _family_of_width(structure.context_width, "text_encoder_2" in _subfolders(path))
        text = []
        for number in ("", "_2") if family == "sdxl" else ("",):
            kind = transformers.CLIPTextModelWithProjection if number else transformers.CLIPTextModel
            model = kind.from_pretrained(path, subfolder=f"text_encoder{number}", local_files_only=True)
            tokenizer = transformers.CLIPTokenizer.from_pretrained(
                path, subfolder=f"tokenizer{number}", local_files_only=True
            )
            text.append(TextEncoder(model, tokenize_with(tokenizer), penultimate=family == "sdxl"))
    prediction: Prediction = "v" if scheduler.config.prediction_type == "v_prediction" else "noise"
    info = HostInfo(path.name, family, prediction, structure, fingerprint(unet.state_dict()))
    settings = scheduler.config
    if settings.beta_schedule == "scaled_linear" and not settings.rescale_betas_zero_snr:
        return info, unet, vae, text, Schedule.scaled_linear(settings.beta_start, settings.beta_end)
    return info, unet, vae, text, Schedule(scheduler.alphas_cumprod.double())


def _subfolders(path: Path) -> set[str]:
    return {p.name for p in path.iterdir() if p.is_dir()}


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
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
def _quiet() -> Iterator[None]:
    """Libraries' warnings that a user of ldznet can do nothing about."""
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


def structure_of(unet: Any) -> UNetConfig:
    """The structure of a diffusers UNet, as of the original one that it stands for."""
    config = unet.config
    blocks = list(config.block_out_channels)
    depths = config.transformer_layers_per_block
    depths = [depths] * len(blocks) if isinstance(depths, int) else list(depths)
    has_text = ["CrossAttn" in kind for kind in config.down_block_types]
    heads = config.num_attention_heads or config.attention_head_dim  # their number, whatever the name says
    per_block = [heads] * len(blocks) if isinstance(heads, int) else list(heads)
    per_head = {channels // count for channels, count in zip(blocks, per_block, strict=True)}
    one_number = len(set(per_block)) == 1
    return UNetConfig(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        model_channels=blocks[0],
        channel_mult=tuple(channels // blocks[0] for channels in blocks),
        res_blocks=config.layers_per_block,
        depths=tuple(depth if text else 0 for depth, text in zip(depths, has_text, strict=True)),
        middle_depth=depths[-1],
        heads=per_block[0] if one_number else 8,
        head_channels=0 if one_number else per_head.pop(),
        context_width=config.cross_attention_dim,
        linear_projection=config.use_linear_projection,
    )


def _family_of_width(context_width: int, two_encoders: bool) -> Family:
    if two_encoders:
        return "sdxl"
    return "sd2" if context_width == 1024 else "sd1"


# --- a single file -------------------------------------------------------------------------------


def load_file(path: Path, download: bool = False) -> Parts:
    """Load a checkpoint file in the original layout.

    Raises:
        HostError, CheckpointError: it is no Stable Diffusion 1.x, 2.x or XL checkpoint, or a part is missing.
    """
    yaml = _read_yaml(path.with_suffix(".yaml"))
    with open_tensors(path) as file:
        family = _family(file)
        with _explained(path), _quiet():
            structure = _structure(file, family, yaml)
            unet = _build_unet(file, structure, family)
            vae = _build_vae(file, family, yaml)
            text = build_text(file, family, yaml, path, download)
        schedule = Schedule.scaled_linear()
        if "alphas_cumprod" in file.shapes:
            schedule = Schedule(file.tensor("alphas_cumprod").double())
        digest = fingerprint(unet.state_dict())
        prediction = _prediction(file, family, yaml)
    info = HostInfo(path.name, family, prediction or "noise", structure, digest)
    if prediction is None:
        info = HostInfo(path.name, family, _guess_prediction(unet, structure), structure, digest)
    return info, unet, vae, text, schedule


def _read_yaml(path: Path) -> dict[str, Any]:
    """The parameters of the webui's configuration file beside a checkpoint; empty where there is none."""
    if not os.path.isfile(path):
        return {}
    import yaml

    try:
        found = yaml.safe_load(path.read_text())["model"]["params"]
        if not isinstance(found, dict):
            raise TypeError(f"its params are {found!r}")
        for name in ("unet_config", "cond_stage_config"):
            if not isinstance(part := section(found, name), dict):
                raise TypeError(f"its {name} is {part!r}")
    except (OSError, yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as why:
        raise HostError(
            f"{path} lies beside the checkpoint, but is no configuration of Stable Diffusion ({why}). Mend or "
            "remove it."
        ) from why
    return found


def _family(file: TensorFile) -> Family:
    names = file.shapes
    if f"{_UNET}input_blocks.0.0.weight" not in names:
        raise HostError(
            f"{file.path} is no Stable Diffusion checkpoint; it seems to be {describe(names)}. Give a file with "
            "the whole model: UNet, VAE and text encoder."
        )
    for family, prefix in (("sdxl", OPEN_CLIP["sdxl"]), ("sd2", OPEN_CLIP["sd2"]), ("sd1", CLIP["sd1"])):
        if any(name.startswith(prefix) for name in names):
            return cast("Family", family)
    raise HostError(
        f"{file.path} has a UNet but no text encoder that ldznet knows; it seems to be {describe(names)}. Give a "
        "file with the whole model."
    )


def _structure(file: TensorFile, family: Family, yaml: Mapping[str, Any]) -> UNetConfig:
    shapes = {n.removeprefix(_UNET): shape for n, shape in file.shapes.items() if n.startswith(_UNET)}
    try:
        unet = UNetConfig.from_shapes(shapes)
    except ShapeError as why:
        raise HostError(f"The UNet of {file.path} cannot be used. {why}") from why
    given = section(yaml, "unet_config")
    if given.get("num_head_channels", -1) > 0:
        return _with_heads(unet, 8, int(given["num_head_channels"]))
    if "num_heads" in given:
        return _with_heads(unet, int(given["num_heads"]), 0)
    if unet.model_channels != 320:
        raise HostError(
            f"The UNet of {file.path} is {unet.model_channels} channels wide, which is none of the published "
            "sizes, and no shape tells its number of attention heads. Put the model's .yaml beside it, under "
            "the same name."
        )
    return _with_heads(unet, 8, 0 if family == "sd1" else 64)


def _with_heads(unet: UNetConfig, heads: int, head_channels: int) -> UNetConfig:
    from dataclasses import replace

    return replace(unet, heads=heads, head_channels=head_channels)


def _build_unet(file: TensorFile, structure: UNetConfig, family: Family) -> Any:
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    config = unet_settings(structure, family)
    if "addition_embed_type" in config:
        config["projection_class_embeddings_input_dim"] = file.shapes[f"{_UNET}label_emb.0.0.weight"][1]
    unet = UNet2DConditionModel(**config)
    load_strictly(unet, convert_ldm_unet_checkpoint(state_of(file, _UNET), config), "UNet", file.path)
    return unet


def unet_state(path: Path) -> dict[str, Tensor]:
    """The UNet's tensors of a checkpoint by their original names, in float32, for a head to start from.

    `path` is a file in the original layout or a folder in diffusers'.

    Raises:
        CheckpointError: the file cannot be read. HostError: it holds no UNet that ldznet knows.
    """
    if path.is_dir():
        with open_tensors(_unet_file(path)) as file:
            renamed = original_names(file.shapes)
            return {renamed[name]: file.tensor(name).float() for name in file.shapes}
    with open_tensors(path) as file:
        names = [name for name in file.shapes if name.startswith(_UNET)]
        if not names:
            raise HostError(
                f"{path} holds no UNet in the original layout (model.diffusion_model.*), from which a head could "
                "start. Give the checkpoint as one .safetensors or .ckpt file, or start from random weights."
            )
        return {name.removeprefix(_UNET): file.tensor(name).float() for name in names}


def _unet_file(folder: Path) -> Path:
    """Where a folder in diffusers' layout holds its UNet's weights, in the order in which diffusers looks."""
    for name in ("safetensors.index.json", "safetensors", "bin.index.json", "bin"):
        if (path := folder / "unet" / f"diffusion_pytorch_model.{name}").is_file():
            return path
    raise HostError(
        f"{folder} holds no UNet's weights (unet/diffusion_pytorch_model.safetensors), from which a head could "
        "start. Fetch the whole model again, or start from random weights (--start random)."
    )


def _build_vae(file: TensorFile, family: Family, yaml: Mapping[str, Any]) -> Any:
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    shapes = {n.removeprefix(_VAE): shape for n, shape in file.shapes.items() if n.startswith(_VAE)}
    if "encoder.conv_in.weight" not in shapes:
        raise HostError(
            f"{file.path} holds no VAE (first_stage_model.*). Give a checkpoint with the VAE baked in."
        )
    # Of the decoder, which has one block more on each level: an encoder may have none at all.
    widths: list[int] = []
    while f"decoder.up.{len(widths)}.block.0.conv1.weight" in shapes:
        widths.append(shapes[f"decoder.up.{len(widths)}.block.0.conv1.weight"][0])
    blocks = 0
    while f"decoder.up.0.block.{blocks + 1}.conv1.weight" in shapes:
        blocks += 1
    config = vae_settings(
        widths, blocks, shapes["decoder.conv_in.weight"][1], float(yaml.get("scale_factor", SCALE[family]))
    )
    vae = AutoencoderKL(**config)
    load_strictly(vae, convert_ldm_vae_checkpoint(state_of(file, _VAE), config), "VAE", file.path)
    return vae


def _prediction(file: TensorFile, family: Family, yaml: Mapping[str, Any]) -> Prediction | None:
    """What the model predicts; None where only running it can tell."""
    if "parameterization" in yaml:
        return "v" if yaml["parameterization"] == "v" else "noise"
    if "v_pred" in file.shapes:  # a marker of Stable Diffusion XL models
        return "v"
    return None if family == "sd2" and not yaml else "noise"


@torch.no_grad()
def _guess_prediction(unet: Any, structure: UNetConfig) -> Prediction:
    """At the last timestep all is noise: a model of noise repeats its input, one of v does not.

    The weights of the 512-base and the 768-v models of Stable Diffusion 2 have the same shapes.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, structure.in_channels, 8, 8, generator=generator)
    context = torch.zeros(1, 77, structure.context_width)
    answer = unet.float().eval()(x, torch.tensor([999]), context, return_dict=False)[0]
    inputs, outputs = x[:, :4].flatten(), answer.flatten()
    likeness = torch.nn.functional.cosine_similarity(inputs, outputs, dim=0).item()
    log.info("Likeness of the model's answer to pure noise: %.2f", likeness)
    return "noise" if likeness > 0.5 else "v"
