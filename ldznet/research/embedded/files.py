"""The embedded model's files: a .safetensors in the original layout, its .yaml, its tokenizer's folder.

So a webui and `hosts/diffusers_files.py` load it; `unpack` lays it out to be trained further.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ldznet.errors import OptionError
from ldznet.files import atomic_path
from ldznet.hosts.diffusers.host import DiffusersHost
from ldznet.hosts.diffusers.model_files import unet_state
from ldznet.hosts.known_words import KEY as WORDS_KEY
from ldznet.hosts.known_words import KnownWords
from ldznet.research.embedded.autoencoder import load_decoder, load_encoder, part_of
from ldznet.research.embedded.ldm_names import vae_state
from ldznet.research.embedded.model import TinyConfig, TinyModel
from ldznet.research.embedded.resumable_stage import save_whole
from ldznet.research.scenes.icons import IconWorld

YAML = """model:
  base_learning_rate: 1.0e-04
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    linear_start: 0.00085
    linear_end: 0.0120
    num_timesteps_cond: 1
    log_every_t: 200
    timesteps: 1000
    first_stage_key: jpg
    cond_stage_key: txt
    image_size: {latent}
    channels: 4
    cond_stage_trainable: false
    conditioning_key: crossattn
    monitor: val/loss_simple_ema
    scale_factor: {scale}
    use_ema: false
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        image_size: {latent}
        in_channels: 4
        out_channels: 4
        model_channels: {unet.model_channels}
        attention_resolutions: [4, 2, 1]
        num_res_blocks: {unet.res_blocks}
        channel_mult: {mult}
        num_heads: {unet.heads}
        use_spatial_transformer: true
        transformer_depth: 1
        context_dim: {unet.context_width}
        use_checkpoint: false
        legacy: false
    first_stage_config:
      target: ldm.models.autoencoder.AutoencoderKL
      params:
        embed_dim: 4
        monitor: val/rec_loss
        ddconfig:
          double_z: true
          z_channels: 4
          resolution: {size}
          in_channels: 3
          out_ch: 3
          ch: {vae_ch}
          ch_mult: {vae_mult}
          num_res_blocks: {vae_blocks}
          attn_resolutions: []
          dropout: 0.0
        lossconfig:
          target: torch.nn.Identity
    cond_stage_config:
      target: ldm.modules.encoders.modules.FrozenCLIPEmbedder
      params:
        version: {tokenizer}
"""


def export(
    config: TinyConfig, folder: Path, target: Path, world: IconWorld, *, dtype: torch.dtype = torch.float16
) -> Mapping[str, Any]:
    """Write the trained model as NAME.safetensors, NAME.yaml and the folder NAME with the tokenizer.

    Returns what was written: parameters and megabytes.
    """
    from safetensors.torch import save_file

    model = TinyModel(config, target.with_suffix(""), world.vocabulary)
    load_encoder(model, folder, world)
    load_decoder(model, folder)
    stage = torch.load(folder / "unet.pt", map_location="cpu", weights_only=True)
    nn.ModuleDict({"unet": model.unet, "text": model.text}).load_state_dict(stage["average"])
    state = {f"model.diffusion_model.{name}": t for name, t in model.unet.state_dict().items()}
    state |= {f"first_stage_model.{name}": t for name, t in vae_state(model.vae.state_dict()).items()}
    for name, tensor in model.text.state_dict().items():
        state[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = tensor
    state = {name: tensor.to(dtype).contiguous() for name, tensor in state.items()}
    words = KnownWords(frozenset(word for word in world.vocabulary if word.isalpha()), world.nouns, world.related)
    header = {"format": "pt", "ldznet.config": json.dumps(asdict(config)), WORDS_KEY: words.to_json()}
    with atomic_path(target) as temporary:
        save_file(state, temporary, header)
    (target.with_suffix("") / "config.json").write_text(
        json.dumps({"model_type": "clip_text_model", "architectures": ["CLIPTextModel"], **model.text_settings}),
        encoding="utf-8",
    )
    target.with_suffix(".yaml").write_text(
        YAML.format(
            latent=config.size // 8,
            scale=model.scale.item(),
            unet=config.unet,
            mult=list(config.unet.channel_mult),
            size=config.size,
            vae_ch=config.vae_widths[0],
            vae_mult=[width // config.vae_widths[0] for width in config.vae_widths],
            vae_blocks=config.vae_blocks,
            tokenizer=f"models/Stable-diffusion/{target.stem}",  # where the webui looks, from its own folder
        ),
        encoding="utf-8",
    )
    return {
        "step": stage["step"],
        "parameters": sum(tensor.numel() for tensor in state.values()),
        "megabytes": target.stat().st_size / 1e6,
    }


def unpack(
    checkpoint: Path, folder: Path, config: TinyConfig, world: IconWorld, say: Callable[[str], None] = print
) -> None:
    """Lay out what `export` wrote so that `train_unet` continues from its weights, with a new schedule.

    The autoencoder is kept as it is: with another one the UNet has to learn anew what latents mean. So is the text
    encoder where it reads the world's words as a new one would; else a new one has to be trained first. A stage
    that was trained in `folder` before stays: then the model gives the UNet's first weights alone.

    Raises:
        OptionError: the model has another structure than the one that is trained.
    """
    host = DiffusersHost.load(checkpoint)
    if host.info.unet != config.unet:
        raise OptionError(
            f"{checkpoint} has another structure than the model that is trained (its prompts have a width of "
            f"{host.info.unet.context_width}, the new model's of {config.unet.context_width}), so its training "
            "cannot continue. Give a model that this version has written, or leave --go-on out."
        )
    folder.mkdir(parents=True, exist_ok=True)
    own_encoder = (folder / "encoder.pt").exists()  # to which no other decoder belongs
    if own_encoder:
        say(f"{folder} has an encoder of its own, which stays; UNet and text encoder can learn from its latents.")
    else:
        for stage, names in (("encoder", ("encoder", "quant_conv")), ("decoder", ("decoder", "post_quant_conv"))):
            save_whole({"average": part_of(host.vae, names).state_dict()}, folder / f"{stage}.pt")
    model = TinyModel(config, folder / "tokenizer", world.vocabulary)
    words = list(world.vocabulary)
    same_words = torch.equal(host.text[0].tokenize(words)[0], model.tokenize(words)[0])
    if same_words and not (folder / "text.pt").exists():
        text = {f"text.{name}": tensor for name, tensor in host.text[0].model.state_dict().items()}
        save_whole({"average": text}, folder / "text.pt")
    if not same_words:
        say(f"{checkpoint} knows other words: it gives no text encoder, and one is trained anew.")
    save_whole(unet_state(checkpoint), folder / "start.pt")
