"""A stand-in of the parts of Forge that a host and the door to it use, around the networks of a DiffusersHost.

Written after the behaviour of Forge dfdcbab, and of Neo where it differs: same names, same order of events, same
traps, none of its code. A network may only run while the memory manager has it on the device.
"""

import copy
import gc
import sys
import threading
import weakref
from functools import cache
from hashlib import sha256
from types import ModuleType, SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from ldznet.heads.unet import UNet
from ldznet.hosts.diffusers.random_weights import random_host
from ldznet.webui.forge_app import ForgeApp

CPU = torch.device("cpu")
SHARED_OPTIONS = {}  # the default of the UNet's options: one dict for all callers


# --- networks --------------------------------------------------------------------------------------------


class ForgeUNet(UNet):
    """The diffusion_model: its options can change everything, and it writes to them."""

    def forward(self, x, timesteps=None, context=None, y=None, control=None, transformer_options=SHARED_OPTIONS):
        transformer_options["original_shape"] = list(x.shape)
        assert (y is not None) == (self.label_emb is not None)
        for patch in transformer_options.get("patches", {}).get("input_block_patch", []):
            x = patch(x)
        return super().forward(x, timesteps, context, labels=y)


def forge_unet(host):
    """Return the UNet of a DiffusersHost as Forge has it."""
    unet = ForgeUNet(host.info.unet, label_width=host.unet.label_width)
    unet.load_state_dict(host.unet.state_dict())
    return unet.eval().requires_grad_(False)


class Predictor(nn.Module):
    """The schedule: a run with "Zero Terminal SNR" replaces `sigmas` only."""

    def __init__(self, alphas_cumprod, prediction):
        super().__init__()
        self.prediction_type = {"noise": "epsilon", "v": "v_prediction"}.get(prediction, prediction)
        self.register_buffer("alphas_cumprod", alphas_cumprod.float())
        self.register_buffer("sigmas", ((1 - alphas_cumprod) / alphas_cumprod).sqrt().float())


class KModel(nn.Module):
    def __init__(self, unet, predictor):
        super().__init__()
        self.diffusion_model, self.predictor = unet, predictor
        self.storage_dtype = self.computation_dtype = torch.float32

    def memory_required(self, input_shape):
        return 100 * input_shape[0] * input_shape[2] * input_shape[3]


class Autoencoder(nn.Module):
    """The first_stage_model, whose `encode` draws a sample from the global random state."""

    def __init__(self, vae):
        super().__init__()
        self.encoder, self.quant_conv = vae.encoder, vae.quant_conv
        self.scaling_factor = vae.scale

    def encode(self, x):
        mean, log_variance = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean + (0.5 * log_variance).exp() * torch.randn(mean.shape).to(mean)

    def process_in(self, latent):
        return latent * self.scaling_factor


def _cast_forward(module, x):
    """Run a layer with its weights in the type of its input, as Forge's operations do (parameters_manual_cast)."""
    weight, bias = module.weight.to(x.dtype), None if module.bias is None else module.bias.to(x.dtype)
    if isinstance(module, nn.Linear):
        return F.linear(x, weight, bias)
    return F.layer_norm(x, module.normalized_shape, weight, bias, module.eps)


CastLinear = type("CastLinear", (nn.Linear,), {"forward": _cast_forward})
CastLayerNorm = type("CastLayerNorm", (nn.LayerNorm,), {"forward": _cast_forward})


class Embeddings(nn.Module):
    """CLIPEmbeddingForTextualInversion: inserts the vectors that `fixes` has, once."""

    def __init__(self, wrapped, fixes):
        super().__init__()
        self.wrapped, self.fixes = wrapped, fixes
        self.weight = wrapped.weight

    def forward(self, ids):
        entries, self.fixes.fixes = self.fixes.fixes, None
        vectors = self.wrapped(ids).clone()
        for row, places in enumerate(entries or []):
            for place, vector in places:
                vectors[row, place + 1] = vector.to(vectors)
        return vectors


def of_transformers(ours):
    """Return the text encoder of transformers with the weights of a DiffusersHost's."""
    config, layers = ours.config, len(ours.encoder.layers)
    kind = CLIPTextModelWithProjection if config.projection else CLIPTextModel
    model = kind(
        CLIPTextConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            intermediate_size=config.inner_width,
            num_hidden_layers=layers,
            num_attention_heads=config.heads,
            projection_dim=config.projection or config.width,
            bos_token_id=config.vocabulary - 2,
            eos_token_id=config.vocabulary - 1,
            hidden_act="quick_gelu" if config.quick_gelu else "gelu",
        )
    )
    state = ours.state_dict()
    projection = state.pop("text_projection.weight", None)
    getattr(model, "text_model", model).load_state_dict(state, strict=False)
    if projection is not None:
        model.text_projection.weight.data = projection
    return model.eval().requires_grad_(False)


class Transformer(nn.Module):
    """The text encoder as transformers 4 has it, with a `text_model`; its weights are kept in half precision."""

    def __init__(self, model, fixes):
        super().__init__()
        self.text_model = getattr(model, "text_model", model)
        self.text_projection = getattr(model, "text_projection", None)
        self.half()
        embeddings = self.text_model.embeddings
        embeddings.token_embedding = Embeddings(embeddings.token_embedding, fixes)
        for module in self.modules():
            kind = {nn.Linear: CastLinear, nn.LayerNorm: CastLayerNorm}.get(type(module))
            module.__class__ = kind or module.__class__

    def forward(self, ids, output_hidden_states):
        return self.text_model(ids, output_hidden_states=output_hidden_states)


class Tokenizer:
    """A tokenizer of transformers, from one that pads and cuts."""

    def __init__(self, tokenize):
        self._tokenize = tokenize

    def __call__(self, texts, truncation, add_special_tokens):
        assert isinstance(texts, list)
        assert truncation is False
        assert add_special_tokens is False
        return {"input_ids": [[int(self._tokenize([word])[0][0, 1]) for word in text.split()] for text in texts]}


class TextEngine:
    """Forge's ClassicTextProcessingEngine; `encode` is what a run does with a prompt."""

    chunk_length = 75

    def __init__(self, encoder, *, clip_skip, projected):
        self.embeddings = SimpleNamespace(fixes=None)
        self.text_encoder = SimpleNamespace(
            transformer=Transformer(of_transformers(encoder.model), self.embeddings)
        )
        self.tokenizer = Tokenizer(encoder.tokenize)
        self.id_start, *_, self.id_end = (encoder.tokenize(["x"])[0][0, place].item() for place in (0, 2))
        self.id_pad = encoder.tokenize(["x"])[0][0, 76].item()
        self.minimal_clip_skip, self.clip_skip = clip_skip, clip_skip
        self.final_layer_norm = clip_skip == 1
        self.return_pooled = self.text_projection = projected
        self.emphasis, self.inversions = 1.0, {}

    def encode(self, text):
        """Return what a run makes of a prompt: clip skip, emphasis and textual inversions change it."""
        ids = self.tokenizer([text], truncation=False, add_special_tokens=False)["input_ids"][0]
        row = torch.tensor([[self.id_start, *ids, self.id_end] + [self.id_pad] * (75 - len(ids))])
        words = enumerate(text.split())
        self.embeddings.fixes = [[(n, self.inversions[word]) for n, word in words if word in self.inversions]]
        transformer = self.text_encoder.transformer
        embeddings = transformer.text_model.embeddings
        embeddings.position_embedding = embeddings.position_embedding.to(dtype=torch.float32)
        embeddings.token_embedding = embeddings.token_embedding.to(dtype=torch.float32)
        states = transformer(row, output_hidden_states=True).hidden_states
        return states[-max(self.clip_skip, self.minimal_clip_skip)] * self.emphasis


# --- patchers and memory ---------------------------------------------------------------------------------


class LoraLoader:
    """What merges LoRAs into a network; it belongs to the network, which all clones of a patcher share."""

    def __init__(self, model):
        self.model, self.backups = model, {}

    def refresh(self, patches):
        """Put the original weights back, and merge these patches."""
        weights = dict(self.model.named_parameters())
        for name, original in self.backups.items():
            weights[name].data = original
        self.backups = {name: weights[name].data for name in patches}
        for name, change in patches.items():
            weights[name].data = weights[name].data + change.to(weights[name].dtype)


class Patcher:
    """Forge's ModelPatcher."""

    parent = None

    def __init__(self, model, load_device, offload_device, size=0, current_device=None):
        self.model, self.load_device, self.offload_device = model, load_device, offload_device
        self.current_device = current_device or offload_device
        self.lora_patches, self.object_patches, self.object_patches_backup = {}, {}, {}
        self.model_options = {"transformer_options": {}}
        if not hasattr(model, "lora_loader"):
            model.lora_loader = LoraLoader(model)

    def clone(self):
        twin = type(self)(self.model, self.load_device, self.offload_device)
        twin.parent, twin.lora_patches = self, dict(self.lora_patches)
        twin.object_patches = dict(self.object_patches)
        twin.model_options = {"transformer_options": dict(self.model_options["transformer_options"])}
        return twin

    def memory_required(self, input_shape):
        return self.model.memory_required(input_shape=input_shape)

    def patch(self):
        self.model.lora_loader.refresh(self.lora_patches)
        for name, replacement in self.object_patches.items():
            self.object_patches_backup[name] = getattr(self.model, name)
            setattr(self.model, name, replacement)
        self.current_device = self.load_device

    def unpatch(self, device=None):
        for name, original in self.object_patches_backup.items():
            setattr(self.model, name, original)
        self.object_patches_backup = {}
        if device is not None:
            self.model.to(device)
            self.current_device = device


class LoadedModel:
    def __init__(self, memory, patcher):
        self.memory = memory
        self._patcher = weakref.ref(patcher) if memory.neo else lambda: patcher

    @property
    def model(self):
        return self._patcher()

    def model_unload(self, memory_to_free=None, avoid_model_moving=False):
        self.memory.log.append(("unload", self.memory.name_of(self.model)))
        self.model.unpatch(None if avoid_model_moving else self.model.offload_device)
        return True


class MemoryManager(ModuleType):
    """backend.memory_management, of Forge or of Neo; `most` models fit on the device at a time."""

    def __init__(self, neo):
        super().__init__("backend.memory_management")
        self.neo, self.most, self.log, self.emptied = neo, 10, [], 0
        self.current_loaded_models = []
        self.load_models_gpu = self._load_for_neo if neo else self._load_for_forge
        self.names = {}

    def name_of(self, patcher):
        return self.names.get(id(patcher.model), "head")

    def get_torch_device(self):
        return CPU

    def soft_empty_cache(self):
        self.emptied += 1

    def is_loaded(self, network):
        return any(
            entry.model is not None and entry.model.model is network for entry in self.current_loaded_models
        )

    def unload_all_models(self):
        while self.current_loaded_models:
            entry = self.current_loaded_models.pop()
            if entry.model is not None:  # Neo holds patchers weakly
                entry.model_unload()

    def _load_for_forge(self, models, memory_required=0, hard_memory_preservation=0):
        self._load(models, memory_required)

    def _load_for_neo(
        self,
        models,
        memory_required=0,
        force_patch_weights=False,
        minimum_memory_required=None,
        force_full_load=False,
    ):
        self._load(models, memory_required, *(["whole"] if force_full_load else []))

    def _load(self, models, memory_required, *flags):
        loaded = self.current_loaded_models
        if not self.neo:  # what nobody else holds is "abandoned"
            loaded[:] = [entry for entry in loaded if sys.getrefcount(entry.model) > 2]
        for patcher in models:
            self.log.append(("load", self.name_of(patcher), memory_required, *flags))
            if any(entry.model is patcher for entry in loaded):
                continue
            for entry in [entry for entry in loaded if entry.model.model is patcher.model]:
                loaded.remove(entry)
                entry.model.unpatch()
            while len(loaded) >= self.most:
                loaded.pop().model_unload()
            patcher.patch()
            loaded.insert(0, LoadedModel(self, patcher))


# --- the engine and the modules --------------------------------------------------------------------------


class ForgeObjects:
    def __init__(self, unet, clip, vae):
        self.unet, self.clip, self.vae = unet, clip, vae

    def shallow_copy(self):
        return ForgeObjects(self.unet, self.clip, self.vae)


class Engine:
    """Forge's engine: the original patchers, and those of the last run."""

    def __init__(self, forge, host, name):
        memory, self.family = forge.memory, host.info.family
        self.is_sd1, self.is_sd2, self.is_sdxl = (self.family == each for each in ("sd1", "sd2", "sdxl"))
        if forge.neo:
            del self.is_sd2
        skip = 2 if self.is_sdxl else 1
        engines = [
            TextEngine(each, clip_skip=skip, projected=number == 1) for number, each in enumerate(host.text)
        ]
        names = ["text_processing_engine"] if len(engines) == 1 else [f"text_processing_engine_{x}" for x in "lg"]
        for key, engine in zip(names, engines, strict=True):
            setattr(self, key, engine)
        self.engines = engines
        model = KModel(forge_unet(host), Predictor(host.schedule.alphas_cumprod, host.info.prediction))
        text = nn.ModuleList([engine.text_encoder.transformer for engine in engines])
        network = Autoencoder(host.vae)
        unet, clip, vae = (Patcher(part, CPU, CPU) for part in (model, text, network))
        for label, part in (("unet", model), ("clip", text), ("vae", network)):
            memory.names[id(part)] = label
            # A layer whose model is not on the device fails, as on a GPU.
            for layer in part.modules():
                if next(layer.children(), None) is None and next(layer.parameters(), None) is not None:
                    layer.register_forward_pre_hook(_Check(memory, part))
        vae = SimpleNamespace(
            first_stage_model=network,
            patcher=vae,
            vae_dtype=torch.float32,
            memory_used_encode=lambda shape, dtype: 1000 * shape[2] * shape[3] * dtype.itemsize,
        )
        clip = SimpleNamespace(cond_stage_model=text, patcher=clip)
        self.forge_objects = ForgeObjects(unet, clip, vae)
        self.forge_objects_original = self.forge_objects.shallow_copy()
        self.sd_checkpoint_info = SimpleNamespace(
            title=name,
            filename=f"/models/{name}",
            sha256=None,
            shorthash=None,
            hash=sha256(name.encode()).hexdigest()[:8],
        )
        self.sd_model_hash = None


class _Check:
    """The pre-hook that refuses to run a layer whose model is not on the device."""

    def __init__(self, memory, part):
        self._memory, self._part = memory, weakref.ref(part)

    def __call__(self, _module, _args):
        if not self._memory.is_loaded(self._part()):
            raise RuntimeError("Expected all tensors to be on the same device")


class FakeInitialModel:
    """What Forge has as its model before the first generation."""

    cond_stage_model = None


class MainThread:
    """Forge's modules_forge.main_thread: work waits until the main thread calls `work_off`."""

    def __init__(self):
        self.waiting, self.arrived, self.printed = [], threading.Event(), []

    def run_and_wait_result(self, act):
        done, results = threading.Event(), [None]

        def task():
            try:
                results[0] = act()
            except Exception as why:  # Forge prints it and returns None
                self.printed.append(why)
            done.set()

        self.waiting.append(task)
        self.arrived.set()
        done.wait()
        return results[0]

    def work_off(self):
        self.arrived.wait()
        self.arrived.clear()
        self.waiting.pop()()


class Forge:
    """An installed Forge, or Neo, with a checkpoint chosen and none loaded.

    `checkpoints` has, by file name, what random_host makes the model of; `hosts` the last one made of each.
    """

    def __init__(self, monkeypatch, *, neo=False, **checkpoints):
        self.neo, self.hosts, self.loads = neo, {}, []
        self.checkpoints = {f"{name}.safetensors": options for name, options in checkpoints.items()}
        self.memory = MemoryManager(neo)
        self.shared, self.sd_models = ModuleType("modules.shared"), ModuleType("modules.sd_models")
        self.call_queue = ModuleType("modules.call_queue")
        self.call_queue.queue_lock = threading.Lock()
        self.shared.opts = SimpleNamespace()
        self.shared.state = SimpleNamespace(begin=lambda job: None, end=lambda: None)
        self.data = self.sd_models.model_data = SimpleNamespace(
            sd_model=FakeInitialModel(), forge_loading_parameters={}, forge_hash=""
        )
        self.sd_models.forge_model_reload = self._reload
        self.main_thread = MainThread()
        self.main_entry = SimpleNamespace(refresh_model_loading_parameters=lambda: None)
        self.operations = ModuleType("backend.operations")
        self.cleanups = 0
        if not neo:
            self.operations.cleanup_cache = self._count_cleanup
        self._install(monkeypatch)
        self.choose(next(iter(self.checkpoints), "none"))

    def _install(self, monkeypatch):
        packages = {name: ModuleType(name) for name in ("modules", "modules_forge", "backend", "backend.patcher")}
        base = ModuleType("backend.patcher.base")
        base.ModelPatcher = Patcher
        packages["modules_forge"].main_thread = self.main_thread
        packages["modules_forge"].main_entry = self.main_entry
        for module in (self.shared, self.sd_models, self.call_queue, self.memory, self.operations, base):
            package, _, name = module.__name__.rpartition(".")
            setattr(packages[package], name, module)
            monkeypatch.setitem(sys.modules, module.__name__, module)
        if not self.neo:
            monkeypatch.setitem(sys.modules, "modules.sd_hijack", ModuleType("modules.sd_hijack"))
        for name, package in packages.items():
            monkeypatch.setitem(sys.modules, name, package)

    def _count_cleanup(self):
        self.cleanups += 1

    def choose(self, name, modules=()):
        """Choose a checkpoint, and files of VAE and text encoders, at the page."""
        self.data.forge_loading_parameters = {"checkpoint_info": name, "additional_modules": list(modules)}

    def _reload(self):
        wanted = str(self.data.forge_loading_parameters)
        if self.data.forge_hash == wanted:
            return self.data.sd_model, False
        self.data.sd_model = None
        self.memory.unload_all_models()
        gc.collect()
        name = self.data.forge_loading_parameters["checkpoint_info"]
        if name not in self.checkpoints:
            raise ValueError("Failed to recognize model type!")
        host = self.hosts[name] = weights(tuple(self.checkpoints[name].items()))
        with torch.inference_mode():
            self.data.sd_model = Engine(self, copy.deepcopy(host), name)  # Forge takes its networks apart
        self.loads.append((name, threading.current_thread()))
        self.data.forge_hash = wanted
        return self.data.sd_model, True

    @property
    def engine(self):
        """Return the model that the page names, loaded."""
        return self._reload()[0]

    def make_host(self):
        """Return a host for the loaded model, as the session makes it."""
        return ForgeApp().make_host(self.engine)

    @torch.inference_mode()
    def paint(self, prompt="a cat"):
        """Return what a run makes of a prompt with the patchers of the last run: everything in them changes it."""
        objects = self.engine.forge_objects
        self.memory.load_models_gpu([objects.clip.patcher])
        context = torch.cat([engine.encode(prompt) for engine in self.engine.engines], dim=-1)
        unet = objects.unet
        self.memory.load_models_gpu([unet], memory_required=unet.memory_required([2, 4, 8, 16]))
        network = unet.model.diffusion_model
        channels = network.unet_config.in_channels
        x = torch.linspace(-1, 1, channels * 8 * 16).reshape(1, channels, 8, 16)
        y = None
        if network.label_emb is not None:
            y = torch.ones(1, network.label_emb[0][0].in_features)
        options = unet.model_options["transformer_options"]
        return network(x, torch.tensor([500.0]), context.float(), y=y, transformer_options=options)


@cache
def weights(options):
    """Return a DiffusersHost with the weights of its text encoders rounded to half precision, as in Forge."""
    host = random_host(**dict(options))
    for encoder in host.text:
        for parameter in encoder.model.parameters():
            parameter.data = parameter.data.half().float()
    return host
