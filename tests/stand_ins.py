"""Small Stable Diffusion checkpoints of every kind, written as the real ones lie on disk."""

import json

import torch
from safetensors.torch import save_file

from ldznet.heads.unet import UNet, UNetConfig
from ldznet.hosts.diffusers.random_weights import random_host
from ldznet.hosts.host import Context, HostInfo
from ldznet.research.embedded.ldm_names import vae_state

YAML = """model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    parameterization: "{parameterization}"
    scale_factor: 0.18215
    unet_config:
      params: {{num_heads: {heads}, num_head_channels: {head_channels}}}
    cond_stage_config:
      params: {{version: {version}, layers: {layers}}}
"""


def byte_symbols():
    """CLIP's printable stand-ins for the 256 bytes, in the order of its vocabulary: "!" is the first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [*map(chr, printable), *(chr(256 + n) for n in range(256 - len(printable)))]


def write_tokenizer(folder):
    """A tokenizer in CLIP's format with 1024 entries: bytes, a few merges, fillers and the two marks."""
    folder.mkdir(parents=True, exist_ok=True)
    symbols = byte_symbols()
    merges = ["c a", "ca t</w>", "d o", "do g</w>"]
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *("".join(m.split()) for m in merges)]
    tokens += [f"<filler{n}>" for n in range(1022 - len(tokens))] + ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: n for n, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def open_clip_state(state, prefix):
    """A CLIP text encoder's weights under OpenCLIP's names, with one more layer when `prefix` is that of SD 2."""
    names = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    state = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    out = {}
    for name, tensor in state.items():
        if name in names:
            out[prefix + names[name]] = tensor
        elif name == "text_projection.weight":
            out[f"{prefix}text_projection"] = tensor.T
        elif ".self_attn." not in name:
            short = name.replace("encoder.layers.", "transformer.resblocks.").replace("layer_norm", "ln_")
            out[prefix + short.replace("mlp.fc1", "mlp.c_fc").replace("mlp.fc2", "mlp.c_proj")] = tensor
        elif ".q_proj." in name:
            place = name.split(".self_attn.")[0].replace("encoder.layers.", f"{prefix}transformer.resblocks.")
            for kind in ("weight", "bias"):
                parts = [state[name.replace("q_proj.weight", f"{p}_proj.{kind}")] for p in "qkv"]
                if name.endswith("weight"):
                    out[f"{place}.attn.in_proj_{kind}"] = torch.cat(parts)
        elif ".out_proj." in name:
            out[
                prefix + name.replace("encoder.layers.", "transformer.resblocks.").replace("self_attn", "attn")
            ] = tensor
    return out


class SmallestHost:
    """As much of a model as training ZNet needs, and as small as can be: nothing in it was learned."""

    info = HostInfo(
        "none",
        "sd1",
        "noise",
        UNetConfig(model_channels=32, channel_mult=(1,), depths=(1,), res_blocks=1, heads=4, context_width=8),
    )
    device, dtype = torch.device("cpu"), torch.float32

    def encode_image(self, image, noise=None):
        small = torch.nn.functional.avg_pool2d(image, 8)
        latent = torch.cat([small, small[:, :1]], dim=1)
        return latent if noise is None else latent + 0.1 * noise

    def encode_prompt(self, prompts):
        tokens = [torch.full((4, 8), len(text) / 20) for text in prompts]
        return Context(torch.stack(tokens), None, (False,) * len(prompts))


def original_unet(host, seed=5):
    """A UNet with the host's structure and original names, all of whose weights are random."""
    torch.manual_seed(seed)
    unet = UNet(host.info.unet)
    for parameter in unet.parameters():
        torch.nn.init.normal_(
            parameter, std=0.5 / max(parameter[0].numel() if parameter.ndim > 1 else 1, 1) ** 0.5
        )
    return unet.eval().requires_grad_(False)


def checkpoint_state(host, unet, label_emb=None):
    """All tensors of a checkpoint in the original layout."""
    family = host.info.family
    state = {f"model.diffusion_model.{name}": tensor for name, tensor in unet.state_dict().items()}
    state |= {f"first_stage_model.{name}": tensor for name, tensor in vae_state(host.vae.state_dict()).items()}
    first = host.text[0].model.state_dict()
    clip = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in first.items()}
    if family == "sd1":
        state |= {f"cond_stage_model.transformer.{name}": tensor for name, tensor in clip.items()}
    elif family == "sd2":
        prefix = "cond_stage_model.model."
        state |= open_clip_state(first, prefix)
        # the published file has one layer more than is used
        last = {name: tensor for name, tensor in state.items() if f"{prefix}transformer.resblocks.1." in name}
        state |= {name.replace("resblocks.1.", "resblocks.2."): tensor * 9 for name, tensor in last.items()}
    else:
        state |= {f"conditioner.embedders.0.transformer.{name}": tensor for name, tensor in clip.items()}
        state |= open_clip_state(host.text[1].model.state_dict(), "conditioner.embedders.1.model.")
        state |= {f"model.diffusion_model.label_emb.{name}": t for name, t in label_emb.state_dict().items()}
    return {name: tensor.contiguous().clone() for name, tensor in state.items()}


def write_folder(folder, host, prediction="epsilon"):
    """A host's parts as a folder in diffusers' layout."""
    from diffusers import DDIMScheduler
    from oracles import diffusers_unet, diffusers_vae, transformers_text

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model_index.json").write_text("{}")
    diffusers_unet(host.unet).save_pretrained(folder / "unet")
    diffusers_vae(host.vae).save_pretrained(folder / "vae")
    DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction
    ).save_pretrained(folder / "scheduler")
    for number, encoder in zip(("", "_2"), host.text, strict=False):
        transformers_text(encoder.model).save_pretrained(folder / f"text_encoder{number}")
        write_tokenizer(folder / f"tokenizer{number}")


def write_checkpoint(folder, family="sd1", *, name="model.safetensors", parameterization="eps", **options):
    """-> path, the host whose parts are in the file, and the UNet in it."""
    folder.mkdir(parents=True, exist_ok=True)
    host = random_host(family, **options)
    unet = original_unet(host)
    label_emb = None
    if family == "sdxl":
        width, inside = 4 * host.info.unet.model_channels, host.info.unet.context_width // 2 + 6 * 256
        label_emb = torch.nn.Sequential(
            torch.nn.Sequential(torch.nn.Linear(inside, width), torch.nn.SiLU(), torch.nn.Linear(width, width))
        ).requires_grad_(False)
    state = checkpoint_state(host, unet, label_emb)
    path = folder / name
    save_file(state, path) if path.suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    heads = host.info.unet.heads
    channels = host.info.unet.head_channels or -1
    path.with_suffix(".yaml").write_text(
        YAML.format(
            parameterization=parameterization, heads=heads, head_channels=channels, version="text", layers=3
        )
    )
    write_tokenizer(folder / "tokenizer")
    unet.label_emb = label_emb
    return path, host, unet
