"""Finding out what a Stable Diffusion checkpoint is, and building it with diffusers and transformers.

Everything is built from what lies on disk. A single file holds the weights of UNet, VAE and text encoder;
their structure is read off the tensors, the number of attention heads and the kind of prediction from the
.yaml of the same name beside it or, for the published sizes, from what is known of them. The tokenizer is in
no checkpoint: it is looked for beside the file and in the cache of Hugging Face.
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
from ldznet.hosts.diffusers import DiffusersHost, TextEncoder, tokenize_by_hash, tokenize_with
from ldznet.hosts.diffusers_names import original_names
from ldznet.hosts.host import FAMILY_NAMES, Family, HostInfo, Prediction, Schedule
from ldznet.modeling.tensorfile import TensorFile, describe, open_tensors
from ldznet.modeling.unet import UNetConfig

log = logging.getLogger(__name__)

Parts = tuple[HostInfo, Any, Any, list[TextEncoder], Schedule]

_UNET = "model.diffusion_model."
_VAE = "first_stage_model."
_CLIP = {"sd1": "cond_stage_model.transformer.", "sdxl": "conditioner.embedders.0.transformer."}
_OPEN_CLIP = {"sd2": "cond_stage_model.model.", "sdxl": "conditioner.embedders.1.model."}
_SCALE = {"sd1": 0.18215, "sd2": 0.18215, "sdxl": 0.13025}

# Names of the tokenizers in the cache of Hugging Face, which other programs may have filled.
_TOKENIZERS = ("openai/clip-vit-large-patch14", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K")


def model_files(path: Path) -> list[Path]:
    """All files that a model is loaded from, as far as they lie with it: if one changes, its masks may, too.

    Raises:
        HostError: the configuration beside it is none.
    """
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.is_file())
    configuration = path.with_suffix(".yaml")
    folders = _tokenizer_folders(path, _read_yaml(configuration))
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
    info = HostInfo(path.name, family, prediction, structure, _fingerprint(unet.state_dict()))
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
            text = _build_text(file, family, yaml, path, download)
        schedule = Schedule.scaled_linear()
        if "alphas_cumprod" in file.shapes:
            schedule = Schedule(file.tensor("alphas_cumprod").double())
        fingerprint = _fingerprint(unet.state_dict())
        prediction = _prediction(file, family, yaml)
    info = HostInfo(path.name, family, prediction or "noise", structure, fingerprint)
    if prediction is None:
        info = HostInfo(path.name, family, _guess_prediction(unet, structure), structure, fingerprint)
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
            if not isinstance(section := _section(found, name), dict):
                raise TypeError(f"its {name} is {section!r}")
    except (OSError, yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as why:
        raise HostError(
            f"{path} lies beside the checkpoint, but is no configuration of Stable Diffusion ({why}). Mend or "
            "remove it."
        ) from why
    return found


def _section(yaml: Mapping[str, Any], name: str) -> Any:
    """The parameters of one part; empty where it has none."""
    part = yaml.get(name, {})
    return part.get("params", {}) if isinstance(part, dict) else part


def _family(file: TensorFile) -> Family:
    names = file.shapes
    if f"{_UNET}input_blocks.0.0.weight" not in names:
        raise HostError(
            f"{file.path} is no Stable Diffusion checkpoint; it seems to be {describe(names)}. Give a file with "
            "the whole model: UNet, VAE and text encoder."
        )
    for family, prefix in (("sdxl", _OPEN_CLIP["sdxl"]), ("sd2", _OPEN_CLIP["sd2"]), ("sd1", _CLIP["sd1"])):
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
    given = _section(yaml, "unet_config")
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


def _state(file: TensorFile, prefix: str) -> dict[str, Tensor]:
    return {name: file.tensor(name) for name in file.shapes if name.startswith(prefix)}


def _build_unet(file: TensorFile, structure: UNetConfig, family: Family) -> Any:
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    config = unet_settings(structure, family)
    if "addition_embed_type" in config:
        config["projection_class_embeddings_input_dim"] = file.shapes[f"{_UNET}label_emb.0.0.weight"][1]
    unet = UNet2DConditionModel(**config)
    _load(unet, convert_ldm_unet_checkpoint(_state(file, _UNET), config), "UNet", file.path)
    return unet


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
        widths, blocks, shapes["decoder.conv_in.weight"][1], float(yaml.get("scale_factor", _SCALE[family]))
    )
    vae = AutoencoderKL(**config)
    _load(vae, convert_ldm_vae_checkpoint(_state(file, _VAE), config), "VAE", file.path)
    return vae


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


def _build_text(
    file: TensorFile, family: Family, yaml: Mapping[str, Any], path: Path, download: bool
) -> list[TextEncoder]:
    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint, convert_open_clip_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    embedding = (
        f"{_OPEN_CLIP[family]}token_embedding.weight"
        if family == "sd2"
        else (f"{_CLIP[family]}text_model.embeddings.token_embedding.weight")
    )
    if embedding not in file.shapes:
        raise HostError(
            f"The text encoder of {path} is not complete: it has no {embedding}. Use the original file."
        )
    tokenizer, settings = _find_tokenizer(path, yaml, download, file.shapes[embedding][0])
    encoders = []
    if family in _CLIP:
        state = convert_ldm_clip_checkpoint(_state(file, _CLIP[family]))
        state = {n: t for n, t in state.items() if not n.endswith("position_ids")}
        config = settings or _text_config(state, "text_model.", "quick_gelu")
        model = CLIPTextModel(CLIPTextConfig(**config))
        _load(model, state, "text encoder", path)
        encoders.append(TextEncoder(model, tokenize_with(tokenizer), penultimate=family == "sdxl"))
    if family in _OPEN_CLIP:
        prefix = _OPEN_CLIP[family]
        state = _state(file, prefix)
        layers = 1 + max(int(name.split("resblocks.")[1].split(".")[0]) for name in state if "resblocks." in name)
        if family == "sd2":  # the last layer is not used: the text is read one layer before
            layers -= 1
            state = {name: t for name, t in state.items() if f"resblocks.{layers}." not in name}
        positions, width = file.shapes[f"{prefix}positional_embedding"]
        config = {
            "vocab_size": file.shapes[f"{prefix}token_embedding.weight"][0],
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": max(width // 64, 1),
            "max_position_embeddings": positions,
            "hidden_act": "gelu",
            "bos_token_id": file.shapes[f"{prefix}token_embedding.weight"][0] - 2,
            "eos_token_id": file.shapes[f"{prefix}token_embedding.weight"][0] - 1,
        }
        kind = CLIPTextModel
        if family == "sdxl":
            kind = CLIPTextModelWithProjection
            config["projection_dim"] = file.shapes[f"{prefix}text_projection"][1]
        model = kind(CLIPTextConfig(**config))
        converted = convert_open_clip_checkpoint(model, state, prefix)
        _load(model, {n: t for n, t in converted.items() if n != "text_projection"}, "text encoder", path)
        # OpenCLIP pads with the token 0, which is "!"
        padding = {"pad_token": "!"}
        zero_padded = type(tokenizer).from_pretrained(tokenizer.name_or_path, local_files_only=True, **padding)
        encoders.append(TextEncoder(model, tokenize_with(zero_padded), penultimate=family == "sdxl"))
    return encoders


def _text_config(state: Mapping[str, Tensor], prefix: str, activation: str) -> dict[str, Any]:
    """The settings of a CLIP text encoder with 64 channels a head, as all published ones have."""
    vocabulary, width = state[f"{prefix}embeddings.token_embedding.weight"].shape
    layers = {name.split("layers.")[1].split(".")[0] for name in state if "layers." in name}
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": state[f"{prefix}encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(width // 64, 1),
        "max_position_embeddings": state[f"{prefix}embeddings.position_embedding.weight"].shape[0],
        "hidden_act": activation,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
    }


def _tokenizer_folders(path: Path, yaml: Mapping[str, Any]) -> list[Path]:
    """Where the tokenizer of a checkpoint file may lie."""
    folders = [path.with_suffix(""), path.parent / "tokenizer"]
    if version := str(_section(yaml, "cond_stage_config").get("version", "")):
        folders += [path.parent / Path(version).name, Path(version)]
    return folders


def _find_tokenizer(
    path: Path, yaml: Mapping[str, Any], download: bool, vocabulary: int
) -> tuple[Any, dict[str, Any]]:
    """The tokenizer, and the text encoder's settings where they lie with it."""
    from transformers import CLIPTokenizer

    for folder in _tokenizer_folders(path, yaml):
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            with _tokenizer_explained(folder):
                found = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
            if len(found) != vocabulary:
                raise HostError(
                    f"The tokenizer in {folder} has {len(found)} entries, but the text encoder of {path.name} has "
                    f"{vocabulary}: it belongs to another model. Put the right one there, or remove it."
                )
            return found, _text_settings(folder / "config.json")
    # transformers answers a name that it has nothing of with an empty tokenizer instead of an error.
    for name in _TOKENIZERS:
        with contextlib.suppress(OSError, ValueError, KeyError):
            if len(found := CLIPTokenizer.from_pretrained(name, local_files_only=True)) == vocabulary:
                return found, {}
    if download:
        with contextlib.suppress(Exception):  # no network, a proxy, a hub that is down: all end alike
            if len(found := CLIPTokenizer.from_pretrained(_TOKENIZERS[0])) == vocabulary:
                return found, {}
    tried = "It could not be downloaded either. " if download else ""
    raise HostError(
        f"The tokenizer of {path.name} is missing: no checkpoint holds it, and neither a folder "
        f"{path.with_suffix('').name} or tokenizer beside the file (with vocab.json and merges.txt) nor the "
        f"cache of Hugging Face has it. {tried}Copy it there from any Stable Diffusion installation, or allow "
        f"the download of {_TOKENIZERS[0]} (--download; 2 MB)."
    )


@contextlib.contextmanager
def _tokenizer_explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as why:  # the tokenizers library raises bare Exceptions
        raise HostError(
            f"The tokenizer in {folder} is damaged ({str(why)[:200] or type(why).__name__}). Copy it again from "
            "any Stable Diffusion installation, or remove it."
        ) from why


def _text_settings(path: Path) -> dict[str, Any]:
    import json

    if not path.is_file():
        return {}
    settings: dict[str, Any] = json.loads(path.read_text())
    settings = settings.get("text_config", settings)
    return settings if "hidden_size" in settings else {}


def _load(model: Any, state: Mapping[str, Tensor], what: str, path: Path) -> None:
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


def _fingerprint(state: Mapping[str, Tensor]) -> str:
    """Tells one UNet from another: a digest over a few numbers of every tensor."""
    import hashlib

    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name}{tuple(state[name].shape)}".encode())
        digest.update(state[name].detach().flatten()[:8].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


# --- random weights ------------------------------------------------------------------------------


def random_host(
    family: Family = "sd1",
    *,
    full_size: bool = False,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    in_channels: int = 4,
    prediction: Prediction = "noise",
) -> DiffusersHost:
    """A model of the right structure with random weights: for tests and for measuring speed, not for masks.

    `full_size` has the published widths; otherwise all is as narrow as the structure allows.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    structure = _published(family, in_channels) if full_size else _narrow(family, in_channels)
    with torch.random.fork_rng(range(torch.cuda.device_count())):  # the CPU, too
        torch.manual_seed(seed)
        settings = unet_settings(structure, family)
        widths = {"sd1": [(768, 12)], "sd2": [(1024, 23)], "sdxl": [(768, 12), (1280, 32)]}[family]
        if not full_size:
            widths = [(structure.context_width // len(widths), 2)] * len(widths)
        if family == "sdxl":
            settings["addition_time_embed_dim"] = 256 if full_size else 8
            settings["projection_class_embeddings_input_dim"] = (
                widths[1][0] + 6 * settings["addition_time_embed_dim"]
            )
        unet = UNet2DConditionModel(**settings)
        vae_widths = [128, 256, 512, 512] if full_size else [32, 32, 32, 32]
        vae = AutoencoderKL(**vae_settings(vae_widths, 2 if full_size else 1, 4, _SCALE[family]))
        text = []
        vocabulary = 49408 if full_size else 1024
        for number, (width, layers) in enumerate(widths):
            kind = CLIPTextModelWithProjection if number else CLIPTextModel
            config = CLIPTextConfig(
                vocab_size=vocabulary,
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=layers,
                num_attention_heads=max(width // 64, 1),
                projection_dim=width,
                bos_token_id=vocabulary - 2,
                eos_token_id=vocabulary - 1,
                hidden_act="quick_gelu" if family == "sd1" else "gelu",
            )
            text.append(TextEncoder(kind(config), tokenize_by_hash(vocabulary), penultimate=family == "sdxl"))
    size = "full size" if full_size else "small"
    info = HostInfo(
        f"random weights ({FAMILY_NAMES[family]}, {size}, seed {seed})",
        family,
        prediction,
        structure,
        _fingerprint(unet.state_dict()),
    )
    return DiffusersHost(info, unet, vae, text, Schedule.scaled_linear(), device=device, dtype=dtype)


def _published(family: Family, in_channels: int) -> UNetConfig:
    if family == "sdxl":
        return UNetConfig(
            in_channels=in_channels,
            channel_mult=(1, 2, 4),
            depths=(0, 2, 10),
            middle_depth=10,
            head_channels=64,
            context_width=2048,
            linear_projection=True,
        )
    if family == "sd2":
        return UNetConfig(in_channels=in_channels, head_channels=64, context_width=1024, linear_projection=True)
    return UNetConfig(in_channels=in_channels)


def _narrow(family: Family, in_channels: int) -> UNetConfig:
    from dataclasses import replace

    published = _published(family, in_channels)
    heads = {"heads": 2} if family == "sd1" else {"head_channels": 16}
    depths = tuple(min(depth, 2) for depth in published.depths)
    return replace(
        published,
        model_channels=32,
        context_width=64,
        depths=depths,
        middle_depth=min(published.middle_depth, 2),
        **heads,  # type: ignore[arg-type]
    )
