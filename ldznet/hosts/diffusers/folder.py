"""Load a model that lies in a folder in diffusers' layout, with the weights read by our own safe readers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ldznet.errors import HostError
from ldznet.heads.unet import UNetConfig
from ldznet.heads.weight_files import open_tensors
from ldznet.hosts.diffusers.model_files import weights_file
from ldznet.hosts.diffusers.part_names import vae_sources
from ldznet.hosts.diffusers.parts import SCALE, explained, fingerprint, load_strictly, quiet
from ldznet.hosts.diffusers.single_file import ModelParts, family_of, load_vae
from ldznet.hosts.diffusers.text import TextEncoder
from ldznet.hosts.diffusers.tokenizers import read_tokenizer, tokenize_with
from ldznet.hosts.host import Family, HostInfo, Prediction, Schedule


def load_folder(path: Path, *, vae_file: Path | None = None) -> ModelParts:
    """Load a folder with model_index.json, unet, vae, text_encoder and tokenizer.

    Raises:
        HostError: a part is missing or cannot be loaded; the text names it.
    """
    _require_model(path)
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with explained(path), quiet():
        unet, unet_file = _load_part(UNet2DConditionModel, path / "unet", "UNet")
        structure = structure_of(unet)
        family = family_of(structure, "add_embedding.linear_1.weight" in unet.state_dict())
        if vae_file is None:
            vae, vae_path = _load_part(AutoencoderKL, path / "vae", "VAE")
        else:
            # A VAE's own file has no scale: that of the model's VAE, which it replaces, is used.
            config = _config(path / "vae") if (path / "vae" / "config.json").is_file() else {}
            scale = config.get("scaling_factor", SCALE[family])
            vae, vae_path = load_vae(vae_file, float(scale)), vae_file
        text = _load_text(path, family)
        schedule, prediction = _load_schedule(path / "scheduler")
    details = {
        "weights": f"as in {unet_file.name}",
        "vae": str(vae_file) if vae_file else f"vae/{vae_path.name}",
        "prediction": "from scheduler_config.json",
        "schedule": "from scheduler_config.json",
    }
    info = HostInfo(path.name, family, prediction, structure, fingerprint(unet.state_dict()), details)
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


def _config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def _load_part(kind: Any, folder: Path, name: str) -> tuple[Any, Path]:
    """Return a model of diffusers with its weights, and the file that they came from."""
    path = weights_file(folder, name)
    if not (folder / "config.json").is_file():
        raise HostError(
            f"The {name} is incomplete: {folder} has no config.json. Copy it from where the model came from."
        )
    model = kind.from_config(kind.load_config(folder, local_files_only=True))
    with open_tensors(path) as file:
        if name == "VAE":  # the attention of old VAEs has other names
            sources = vae_sources(file.shapes)
            state = {new: change(file.tensor(old)) for new, (old, change) in sources.items()}
        else:
            state = {key: file.tensor(key) for key in file.shapes}
        load_strictly(model, state, name, path)
    return model, path


def _load_text(path: Path, family: Family) -> list[TextEncoder]:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    encoders = []
    for number in ("", "_2") if family == "sdxl" else ("",):
        folder = path / f"text_encoder{number}"
        weights = weights_file(folder, "text encoder")
        model = (CLIPTextModelWithProjection if number else CLIPTextModel)(CLIPTextConfig.from_pretrained(folder))
        own = {name.removeprefix("text_model.") for name in model.state_dict()}
        with open_tensors(weights) as file:
            # Some writers add what the model does not read: position_ids, a projection, logit_scale.
            needless = ("position_ids", "logit_scale", "text_projection.weight")
            state = {
                name: file.tensor(name)
                for name in file.shapes
                if name.removeprefix("text_model.") in own or not name.endswith(needless)
            }
        load_strictly(model, state, "text encoder", weights)
        tokenizer = read_tokenizer(path / f"tokenizer{number}")
        encoders.append(TextEncoder(model, tokenize_with(tokenizer), penultimate=family == "sdxl"))
    return encoders


def _load_schedule(folder: Path) -> tuple[Schedule, Prediction]:
    """Return the noise schedule, and what the model predicts."""
    from diffusers import DDIMScheduler

    if not (folder / "scheduler_config.json").is_file():
        raise HostError(
            f"The noise schedule is missing: {folder} has no scheduler_config.json, which says what the model "
            "predicts. Copy it from where the model came from."
        )
    scheduler = DDIMScheduler.from_pretrained(folder, local_files_only=True)
    config = scheduler.config
    if config.prediction_type not in ("epsilon", "v_prediction"):
        raise HostError(
            f'The model in {folder.parent} predicts "{config.prediction_type}", but ldznet knows "epsilon" and '
            '"v_prediction" only. Use another model.'
        )
    # Computed again in float64 where the formula is known; the table of diffusers is float32.
    if config.beta_schedule == "scaled_linear":
        schedule = Schedule.scaled_linear(config.beta_start, config.beta_end)
        if config.rescale_betas_zero_snr:
            schedule = schedule.with_zero_snr()
    else:
        schedule = Schedule(scheduler.alphas_cumprod.double())
    return schedule, "v" if config.prediction_type == "v_prediction" else "noise"


def structure_of(unet: Any) -> UNetConfig:
    """Return the structure of a diffusers UNet, as of the original one that it stands for."""
    config = unet.config
    blocks = list(config.block_out_channels)
    depths = config.transformer_layers_per_block
    depths = [depths] * len(blocks) if isinstance(depths, int) else list(depths)
    has_text = ["CrossAttn" in kind for kind in config.down_block_types]
    heads = config.num_attention_heads or config.attention_head_dim  # their number, whatever the name says
    per_block = [heads] * len(blocks) if isinstance(heads, int) else list(heads)
    per_head = {channels // count for channels, count in zip(blocks, per_block, strict=True)}
    # Either all levels have as many heads (1.x), or all heads have as many channels (2.x and XL).
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
