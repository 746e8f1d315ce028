"""Load a model that lies in a folder in diffusers' layout, with the weights read by our own safe readers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldznet.errors import HostError
from ldznet.heads.unet import UNet, UNetConfig
from ldznet.heads.weight_files import open_tensors
from ldznet.hosts.diffusers.model_files import weights_file
from ldznet.hosts.diffusers.part_names import Sources, TextPart, same, text_sources
from ldznet.hosts.diffusers.parts import SCALE, empty_unet, explained, load_sources, unet_fingerprint
from ldznet.hosts.diffusers.single_file import ModelParts, family_of, load_vae
from ldznet.hosts.diffusers.text import TextEncoder, empty_text_model, text_config
from ldznet.hosts.diffusers.tokenizers import read_tokenizer
from ldznet.hosts.diffusers.unet_names import original_unet_names
from ldznet.hosts.host import Family, HostInfo, Prediction, Schedule


def load_folder(path: Path, *, vae_file: Path | None = None) -> ModelParts:
    """Load a folder with model_index.json, unet, vae, text_encoder and tokenizer.

    Raises:
        HostError: a part is missing or cannot be loaded; the text names it.
    """
    _require_model(path)
    with explained(path):
        unet, unet_path = _load_unet(path / "unet")
        family = family_of(unet.unet_config, unet.label_width > 0)
        vae_path = weights_file(path / "vae", "VAE") if vae_file is None else vae_file
        # A VAE's own file has no scale: that of the model's VAE, which it replaces, is used.
        config = _config(path / "vae", "VAE") if vae_file is None or (path / "vae/config.json").is_file() else {}
        vae = load_vae(vae_path, float(config.get("scaling_factor", SCALE[family])))
        text = _load_text(path, family)
        schedule, prediction = _load_schedule(path / "scheduler")
    details = {
        "weights": f"as in {unet_path.name}",
        "vae": str(vae_file) if vae_file else f"vae/{vae_path.name}",
        "prediction": "from scheduler_config.json",
        "schedule": "from scheduler_config.json",
    }
    info = HostInfo(path.name, family, prediction, unet.unet_config, unet_fingerprint(unet), details)
    return ModelParts(info, unet, vae, text, schedule)


def _require_model(path: Path) -> None:
    if not (path / "model_index.json").is_file():
        files = sorted(p.name for p in path.iterdir() if p.suffix in (".safetensors", ".ckpt"))
        hint = f" It holds {', '.join(files[:5])}: give one of these files." if files else ""
        raise HostError(f"{path} is no model in diffusers' layout: it has no model_index.json.{hint}")
    if (path / "transformer").is_dir() and not (path / "unet").is_dir():
        raise HostError(
            f"{path} is a model without a UNet, such as Stable Diffusion 3 or Flux, which ldznet does not know. "
            "Give a Stable Diffusion 1.x, 2.x or XL model."
        )
    if (path / "text_encoder_2").is_dir() and not (path / "text_encoder").is_dir():
        raise HostError(
            f"{path} is a Stable Diffusion XL refiner, which finishes images of the base model and cannot "
            "segment. Give the base model, or another checkpoint."
        )


def _config(folder: Path, part: str) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise HostError(
            f"The {part} is incomplete: {folder} has no config.json. Copy it from where the model came from."
        )
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def _load_unet(folder: Path) -> tuple[UNet, Path]:
    """Return the UNet with its weights, and the file that they came from."""
    path = weights_file(folder, "UNet")
    structure = structure_of(_config(folder, "UNet"))
    with open_tensors(path) as file:
        sources: Sources = {new: (old, same) for old, new in original_unet_names(file.shapes).items()}
        unet = empty_unet(structure, file.shapes.get("add_embedding.linear_1.weight"))
        load_sources(unet, file, sources, "UNet")
    return unet, path


def _load_text(path: Path, family: Family) -> list[TextEncoder]:
    encoders = []
    for number in ("", "_2") if family == "sdxl" else ("",):
        folder = path / f"text_encoder{number}"
        weights = weights_file(folder, "text encoder")
        model = empty_text_model(text_config(_config(folder, "text encoder"), projected=bool(number)))
        own = model.state_dict()
        with open_tensors(weights) as file:
            sources = text_sources(file.shapes, TextPart("", "clip"))
            # Some writers add what the model does not read: position_ids, a projection, logit_scale.
            needless = ("position_ids", "logit_scale", "text_projection.weight")
            needed = {
                name: source for name, source in sources.items() if name in own or not name.endswith(needless)
            }
            load_sources(model, file, needed, "text encoder")
        tokenizer = read_tokenizer(path / f"tokenizer{number}")
        encoders.append(TextEncoder(model, tokenizer, penultimate=family == "sdxl"))
    return encoders


def _load_schedule(folder: Path) -> tuple[Schedule, Prediction]:
    """Return the noise schedule, and what the model predicts."""
    if not (folder / "scheduler_config.json").is_file():
        raise HostError(
            f"The noise schedule is missing: {folder} has no scheduler_config.json, which says what the model "
            "predicts. Copy it from where the model came from."
        )
    config = json.loads((folder / "scheduler_config.json").read_text(encoding="utf-8"))
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise HostError(
            f'The model in {folder.parent} predicts "{prediction}", but ldznet knows "epsilon" and '
            '"v_prediction" only. Use another model.'
        )
    # Computed in float64 where the formula is known; the tables of diffusers are float32.
    if config.get("beta_schedule") == "scaled_linear" and config.get("trained_betas") is None:
        schedule = Schedule.scaled_linear(config.get("beta_start", 0.0001), config.get("beta_end", 0.02))
        if config.get("rescale_betas_zero_snr"):
            schedule = schedule.with_zero_snr()
    else:
        from diffusers import DDIMScheduler

        schedule = Schedule(DDIMScheduler.from_config(config).alphas_cumprod.double())
    return schedule, "v" if prediction == "v_prediction" else "noise"


def structure_of(config: Mapping[str, Any]) -> UNetConfig:
    """Return the structure of a UNet from its config.json, as of the original one that it stands for."""
    blocks = list(config["block_out_channels"])
    # diffusers leaves no value out when it writes, but did not know all of them from the start.
    depths = config.get("transformer_layers_per_block", 1)
    depths = [depths] * len(blocks) if isinstance(depths, int) else list(depths)
    has_text = ["CrossAttn" in kind for kind in config["down_block_types"]]
    # Their number, whatever the name says.
    heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
    per_block = [heads] * len(blocks) if isinstance(heads, int) else list(heads)
    per_head = {channels // count for channels, count in zip(blocks, per_block, strict=True)}
    # Either all levels have as many heads (1.x), or all heads have as many channels (2.x and XL).
    one_number = len(set(per_block)) == 1
    return UNetConfig(
        in_channels=config.get("in_channels", 4),
        out_channels=config.get("out_channels", 4),
        model_channels=blocks[0],
        channel_mult=tuple(channels // blocks[0] for channels in blocks),
        res_blocks=config.get("layers_per_block", 2),
        depths=tuple(depth if text else 0 for depth, text in zip(depths, has_text, strict=True)),
        middle_depth=depths[-1],
        heads=per_block[0] if one_number else 8,
        head_channels=0 if one_number else per_head.pop(),
        context_width=config["cross_attention_dim"],
        linear_projection=config.get("use_linear_projection", False),
    )
