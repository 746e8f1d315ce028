"""Run Forge's own model code, without its page, on a small checkpoint; tests/live/test_forge_backend.py starts it.

    python forge_backend.py WEBUI CHECKPOINT FAMILY OUT.npz       in the environment of Forge or of Neo

Forge recognises checkpoints of the published sizes only, and builds their parts by configurations that it brings
along. Here it is told what the small checkpoint is, by configurations of that size; the rest is its own code.
"""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

WEBUI, CHECKPOINT, FAMILY, OUT = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(WEBUI), str(WEBUI / "repositories" / "huggingface_guess")]
sys.path[:0] = [str(WEBUI / "packages_3rdparty"), str(WEBUI / "modules_forge" / "packages")]
IS_NEO = not (WEBUI / "modules" / "sd_hijack.py").exists()
sys.argv[1:] = ["--cpu"] if IS_NEO else ["--always-cpu"]

shared = ModuleType("modules.shared")  # all that the model code needs of the page
shared.opts = SimpleNamespace(emphasis="No norm", sdxl_crop_left=0, sdxl_crop_top=0, sdxl_zero_neg=True)
modules = ModuleType("modules")
modules.__path__ = [str(WEBUI / "modules")]  # Neo's model code also reads its parser of prompts
modules.shared = shared
sys.modules |= {"modules": modules, "modules.shared": shared}

import huggingface_guess  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from backend import loader, memory_management, operations  # noqa: E402
from backend.patcher.base import ModelPatcher  # noqa: E402
from huggingface_guess import model_list  # noqa: E402
from safetensors import safe_open  # noqa: E402

from ldznet.heads.unet import UNetConfig  # noqa: E402
from ldznet.hosts.capture import capture  # noqa: E402
from ldznet.hosts.forge.host import ForgeHost  # noqa: E402
from ldznet.hosts.forge.memory import ManagedModule  # noqa: E402
from ldznet.hosts.forge.modules import ForgeModules  # noqa: E402
from ldznet.methods.learned_head import random_head  # noqa: E402

PROMPTS = ["cat dog", "a (big) dog far"]
REPOSITORY = {"sd1": "SD15", "sd2": "SD20", "sdxl": "SDXL"}[FAMILY]


def structure():
    """Return the structure of the checkpoint's UNet."""
    prefix = "model.diffusion_model."
    with safe_open(CHECKPOINT, "pt") as file:
        shapes = {
            name.removeprefix(prefix): tuple(file.get_slice(name).get_shape())
            for name in file.keys()  # noqa: SIM118
            if name.startswith(prefix)
        }
    heads = {"heads": 2} if FAMILY == "sd1" else {"heads": 8, "head_channels": 16}
    return UNetConfig.from_shapes(shapes, **{"head_channels": 0, **heads}), shapes


def unet_settings(unet, shapes):
    """Return what Forge's UNet is built with."""
    depths = [depth for depth in unet.depths for _ in range(unet.res_blocks)]
    settings = {
        "in_channels": unet.in_channels,
        "model_channels": unet.model_channels,
        "num_res_blocks": [unet.res_blocks] * len(unet.channel_mult),
        "channel_mult": list(unet.channel_mult),
        "transformer_depth": depths,
        "transformer_depth_output": [d for depth in unet.depths for d in [depth] * (unet.res_blocks + 1)],
        "transformer_depth_middle": unet.middle_depth,
        "context_dim": unet.context_width,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": unet.linear_projection,
        "num_heads": unet.heads if not unet.head_channels else -1,
        "num_head_channels": unet.head_channels or -1,
        "out_channels": 4,
        "image_size": 32,
        "legacy": False,
    }
    if FAMILY == "sdxl":
        settings |= {"num_classes": "sequential", "adm_in_channels": shapes["label_emb.0.0.weight"][1]}
    return settings


def write_configurations(folder, unet):
    """Write the folder in diffusers' layout that says how large each part is."""
    parts = {"scheduler": ["diffusers", "EulerDiscreteScheduler"], "unet": ["diffusers", "UNet2DConditionModel"]}
    parts |= {"vae": ["diffusers", "AutoencoderKL"]}
    configurations = {
        "vae/config.json": {
            "_class_name": "AutoencoderKL",
            "block_out_channels": [32] * 4,
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
            "layers_per_block": 1,
            "latent_channels": 4,
            "scaling_factor": 0.13025 if FAMILY == "sdxl" else 0.18215,
        },
        "scheduler/scheduler_config.json": {
            "_class_name": "EulerDiscreteScheduler",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "num_train_timesteps": 1000,
            "prediction_type": "epsilon",
        },
    }
    count = 2 if FAMILY == "sdxl" else 1
    for number in range(count):
        suffix = "_2" if number else ""
        kind = "CLIPTextModelWithProjection" if number else "CLIPTextModel"
        parts |= {
            f"text_encoder{suffix}": ["transformers", kind],
            f"tokenizer{suffix}": ["transformers", "CLIPTokenizer"],
        }
        width = unet.context_width // count
        configurations[f"text_encoder{suffix}/config.json"] = {
            "model_type": "clip_text_model",
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": 2,
            "num_attention_heads": max(width // 64, 1),
            "projection_dim": width,
            "vocab_size": 1024,
            "bos_token_id": 1022,
            "eos_token_id": 1023,
            # OpenCLIP is all of 2.x and the second encoder of XL.
            "hidden_act": "gelu" if number or FAMILY == "sd2" else "quick_gelu",
        }
        target = folder / f"tokenizer{suffix}"
        target.mkdir(parents=True)
        for file in (CHECKPOINT.parent / "tokenizer").iterdir():
            text = file.read_text()
            if file.name == "tokenizer_config.json" and (number or FAMILY == "sd2"):
                text = json.dumps(json.loads(text) | {"pad_token": "!"})
            (target / file.name).write_text(text)
    configurations["model_index.json"] = {"_class_name": "StableDiffusionPipeline", **parts}
    for name, content in configurations.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))


def load_engine():
    """Return Forge's engine for the checkpoint."""
    unet, shapes = structure()
    kind = getattr(model_list, REPOSITORY)
    kind.huggingface_repo = "small"
    if FAMILY == "sd1":
        kind.unet_extra_config = {"num_heads": 2, "num_head_channels": -1}
    else:
        kind.unet_extra_config = {"num_heads": -1, "num_head_channels": 16}
    home = Path(OUT).parent / "configurations"
    write_configurations(home / "huggingface" / "small", unet)
    loader.dir_path, loader.HF = str(home), str(home / "huggingface")  # of Forge, and of Neo
    guess = kind(unet_settings(unet, shapes))
    guess.unet_key_prefix = ["model.diffusion_model."]
    huggingface_guess.guess = lambda *_given, **_more: guess
    engine = loader.forge_loader(str(CHECKPOINT))
    engine.sd_checkpoint_info = SimpleNamespace(
        title=CHECKPOINT.name, filename=str(CHECKPOINT), sha256=None, shorthash=None, hash="0"
    )
    engine.sd_model_hash = None
    return engine


def use(host):
    """Return all that a host computes, by name."""
    image = torch.linspace(-1, 1, 3 * 64 * 128).reshape(1, 3, 64, 128)
    latent, context = host.encode_image(image), host.encode_prompt(PROMPTS)
    noise = torch.linspace(-2, 2, latent.numel()).reshape(latent.shape)
    timesteps = torch.tensor([400])
    noisy = host.add_noise(latent, noise, timesteps)
    found = {"latent": latent, "tokens": context.tokens}
    if context.pooled is not None:
        found["pooled"] = context.pooled
    with capture(host.feature_modules(), early_exit=False) as features:
        found["noise prediction"] = host.predict_noise(noisy, timesteps, context)
    found |= features
    return {name: tensor.float().numpy() for name, tensor in found.items()}


@torch.inference_mode()
def generate(engine):
    """Return what a step of Forge's own makes of a prompt with the patchers of the last run."""
    conditioning = engine.get_learned_conditioning(["a big cat"])
    unet = engine.forge_objects.unet
    channels = unet.model.diffusion_model.in_channels
    memory_management.load_models_gpu([unet], memory_required=unet.memory_required([2, channels, 8, 16]))
    x = torch.linspace(-1, 1, 4 * 8 * 16).reshape(1, 4, 8, 16)
    more = {} if channels == 4 else {"c_concat": torch.ones(1, channels - 4, 8, 16)}
    if isinstance(conditioning, dict):
        conditioning, more["y"] = conditioning["crossattn"], conditioning["vector"]
    options = unet.model_options["transformer_options"]
    sigma = unet.model.predictor.sigma(torch.tensor([500.0]))
    output = unet.model.apply_model(x, sigma, c_crossattn=conditioning, transformer_options=options, **more)
    return output.float().numpy().copy()


def add_lora(engine):
    """Let the patchers of the run change weights of the UNet, and merge its tokens by an option."""
    unet = engine.forge_objects_original.unet.clone()
    weights = dict(unet.model.named_parameters())
    names = [name for name in weights if name.endswith("attn2.to_v.weight")]
    patches = {name: ("diff", (torch.ones_like(weights[name], dtype=torch.float32),)) for name in names}
    assert unet.add_patches(filename="lora", patches=patches)
    unet.set_model_patch(lambda h, *_more: h * 1.5, "input_block_patch")
    engine.forge_objects.unet = unet


def main():
    torch.set_num_threads(1)
    engine = load_engine()
    webui = ForgeModules(memory_management, operations, ModelPatcher, lambda: engine, lambda: "")
    host = ForgeHost(webui, engine)
    rounds = {"fresh": use(host)}
    painted = [generate(engine)]
    rounds["after a generation"] = use(host)
    painted.append(generate(engine))
    add_lora(engine)
    changed = [generate(engine)]
    rounds["with a LoRA"] = use(host)
    changed.append(generate(engine))
    engine.forge_objects = engine.forge_objects_original.shallow_copy()
    painted.append(generate(engine))
    head = random_head(UNetConfig(model_channels=32, heads=2, context_width=host.info.unet.context_width)).head
    carrier = ManagedModule(webui, head)
    loaded = len(memory_management.current_loaded_models)
    with carrier.on_device():
        managed = len(memory_management.current_loaded_models) - loaded
    carrier.put_away()
    report = {
        "info": [host.info.family, host.info.prediction, repr(host.info.unet)],
        "tokens": host.count_tokens(PROMPTS),
        "plain": [bool((picture == painted[0]).all()) for picture in painted],
        "changed": [bool((picture == changed[0]).all()) for picture in changed],
        "lora is seen": bool((painted[0] != changed[0]).any()),
        "head in the list": [managed, len(memory_management.current_loaded_models) - loaded],
    }
    np.savez(
        OUT, report=json.dumps(report), **{f"{when}/{n}": t for when, r in rounds.items() for n, t in r.items()}
    )


main()
