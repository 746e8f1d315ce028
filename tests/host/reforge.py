"""A stand-in of the parts of reForge that a host and the door to it use, as far as they differ from Forge's.

Written after the behaviour of reForge 3b56b26: the model has AUTOMATIC1111's attributes and wrappers of the text
encoders, whose networks are in patchers; none of its code.
"""

import copy
import gc
import sys
import threading
from enum import Enum
from types import ModuleType, SimpleNamespace

import torch
from torch import nn

from host.forge import Engine, Forge, Patcher, weights
from ldznet.webui.reforge_app import ReforgeApp

ModelType = Enum("ModelType", ["EPS", "V_PREDICTION", "FLOW"])


class Wrapper:
    """CLIP_SD_15_L and its like: the webui's wrapper of a text encoder."""

    chunk_length = 75

    def __init__(self, engine, family):
        transformer = engine.text_encoder.transformer
        # EmbeddingsWithFixes has the hijack under this name.
        token_embedding = transformer.text_model.embeddings.token_embedding
        token_embedding.embeddings = token_embedding.fixes
        self.wrapped = SimpleNamespace(tokenizer=engine.tokenizer, transformer=ByName(transformer))
        if engine.return_pooled:
            self.wrapped.text_projection = transformer.text_projection.weight.detach().T.clone()
        self.id_start, self.id_end, self.id_pad = engine.id_start, engine.id_end, engine.id_pad
        self.minimal_clip_skip = 1 if family == "sd1" else 2


class ByName(nn.Module):
    """A text encoder that takes its ids by name."""

    def __init__(self, transformer):
        super().__init__()
        self.inner, self.text_model = transformer, transformer.text_model

    def forward(self, *, input_ids, output_hidden_states):
        return self.inner(input_ids, output_hidden_states=output_hidden_states)


class Model(Engine):
    """LatentDiffusion of AUTOMATIC1111, with the patchers of ldm_patched."""

    def __init__(self, reforge, host, name):
        super().__init__(reforge, host, name)
        # Its flags do not tell Stable Diffusion 2 from 1.
        self.is_sd1, self.is_sd2 = not self.is_sdxl, False
        for key in ("text_processing_engine", "text_processing_engine_l", "text_processing_engine_g"):
            vars(self).pop(key, None)
        wrappers = [Wrapper(engine, self.family) for engine in self.engines]
        self.cond_stage_model = wrappers[0]
        if self.is_sdxl:
            self.conditioner = SimpleNamespace(embedders=[*wrappers, object()])  # the last one reads sizes
        network = self.forge_objects.unet.model
        del network.storage_dtype, network.computation_dtype
        network.manual_cast_dtype, network.get_dtype = None, lambda: torch.float32
        network.model_type = {"noise": ModelType.EPS, "v": ModelType.V_PREDICTION}[host.info.prediction]
        scale = self.forge_objects.vae.first_stage_model.scaling_factor
        network.latent_format = SimpleNamespace(process_in=lambda latent: latent * scale)
        self.parameterization = "eps"  # of the configuration, which may say nothing of a file's own kind
        self.alphas_cumprod_original = host.schedule.alphas_cumprod.float()
        self.alphas_cumprod = self.alphas_cumprod_original.half()  # as a run with "Downcast alphas" leaves them
        self.sd_model_checkpoint, self.loaded_vae_file = f"/models/{name}", None


class OldPatcher(Patcher):
    """ldm_patched's ModelPatcher, which takes no `current_device`."""

    def __init__(self, model, load_device, offload_device, size=0, weight_inplace_update=False):
        super().__init__(model, load_device, offload_device, size)


class Reforge(Forge):
    """An installed reForge, with a checkpoint chosen and none loaded."""

    def __init__(self, monkeypatch, **checkpoints):
        super().__init__(monkeypatch, neo=True, **checkpoints)  # its memory manager is nearly Neo's
        self.neo = False
        self.shared.sd_model = None
        self.sd_models.reload_model_weights = lambda: self._reload()[0]

    def _install(self, monkeypatch):
        packages = {name: ModuleType(name) for name in ("modules", "modules_forge", "ldm_patched")}
        packages["modules_forge"].main_thread = self.main_thread
        management, patchers = self.memory, ModuleType("ldm_patched.modules.model_patcher")
        patchers.ModelPatcher = OldPatcher
        inner = packages["ldm_patched"].modules = ModuleType("ldm_patched.modules")
        inner.model_management, inner.model_patcher = management, patchers
        packages |= {"ldm_patched.modules": inner, "ldm_patched.modules.model_management": management}
        packages["ldm_patched.modules.model_patcher"] = patchers
        for module in (self.shared, self.sd_models, self.call_queue):
            name = module.__name__.removeprefix("modules.")
            setattr(packages["modules"], name, module)
            monkeypatch.setitem(sys.modules, module.__name__, module)
        for name, package in packages.items():
            monkeypatch.setitem(sys.modules, name, package)

    def _reload(self):
        wanted = self.data.forge_loading_parameters["checkpoint_info"]
        if getattr(self.data.sd_model, "sd_model_checkpoint", None) == f"/models/{wanted}":
            return self.data.sd_model, False
        if wanted not in self.checkpoints:
            raise ValueError("Could not detect model type")
        self.data.sd_model = self.shared.sd_model = None
        self.memory.unload_all_models()
        gc.collect()
        self.hosts[wanted] = weights(tuple(self.checkpoints[wanted].items()))
        host = copy.deepcopy(self.hosts[wanted])
        with torch.inference_mode():
            if host.info.family == "sd2":  # the file has the whole encoder, whose last layer is not read
                layers = getattr(host.text[0].model, "text_model", host.text[0].model).encoder.layers
                layers.append(copy.deepcopy(layers[-1]))
            self.data.sd_model = Model(self, host, wanted)
        self.shared.sd_model = self.data.sd_model
        self.loads.append((wanted, threading.current_thread()))
        return self.data.sd_model, True

    def make_host(self):
        """Return a host for the loaded model, as the session makes it."""
        return ReforgeApp().make_host(self.engine)
