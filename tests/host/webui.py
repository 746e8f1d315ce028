"""A stand-in of the modules of AUTOMATIC1111's webui that a host uses, and of what can be active in a model there.

Written after the behaviour of 1.10.1: same names, same order of events, same traps, none of its code.
`switch_on` puts one thing to work as the webui or an extension would; `paint` is what a run computes then.
"""

import sys
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace

import torch
from torch import nn

from host.model import WIDTH, LatentDiffusion
from host.state import state_of
from ldznet.heads import layers
from ldznet.hosts.a1111.host import A1111Host
from ldznet.webui.a1111_app import A1111App

PLAIN = {"CLIP_stop_at_last_layers": 1, "emphasis": "None", "use_old_emphasis_implementation": False}


class Webui:
    """An installed webui with one model loaded."""

    def __init__(self, monkeypatch, family="sd1", **options):
        self.patch = monkeypatch
        self.embeddings = {}
        self.hijack = SimpleNamespace(fixes=None)
        for name in ("devices", "lowvram", "sd_hijack", "sd_hijack_open_clip", "sd_models", "sd_unet", "shared"):
            setattr(self, name, ModuleType(f"modules.{name}"))
        self.networks = ModuleType("networks")
        self._fill()
        self.model = LatentDiffusion(family, self, **options)
        self.shared.sd_model = self.model
        self._name_layers()
        self._patch_torch()
        modules = ModuleType("modules")
        monkeypatch.setitem(sys.modules, "modules", modules)
        monkeypatch.setitem(sys.modules, "networks", self.networks)
        for name, value in vars(self).items():
            if isinstance(value, ModuleType) and value is not self.networks:
                setattr(modules, name, value)
                monkeypatch.setitem(sys.modules, f"modules.{name}", value)

    def _fill(self):
        from host.model import word_ids

        cpu = torch.device("cpu")
        vars(self.devices).update(
            device=cpu, cpu=cpu, dtype_unet=torch.float32, dtype_vae=torch.float32, collected=0
        )
        self.devices.autocast = self.devices.without_autocast = nullcontext
        self.devices.torch_gc = lambda: setattr(self.devices, "collected", self.devices.collected + 1)
        vars(self.shared).update(opts=SimpleNamespace(**PLAIN), loaded_hypernetworks=[])
        self.sd_hijack.model_hijack = self.hijack
        self.sd_hijack_open_clip.tokenizer = SimpleNamespace(encode=word_ids)
        self.sd_unet.current_unet = None
        self.sd_models.apply_token_merging = self._apply_token_merging
        self.sd_models.reload_model_weights = lambda: None
        self.lowvram.module_in_gpu = None
        self.lowvram.send_everything_to_cpu = self._send_everything_to_cpu
        self.networks.loaded_networks = []

    @property
    def unet(self):
        return self.model.model.diffusion_model

    def state(self):
        return state_of(self.model, self.shared, self.networks, self.hijack, self.sd_unet)

    @torch.no_grad()
    def paint(self, prompt="a (big) cat"):
        """Return what a run makes of a prompt: everything that is active changes it."""
        generator = torch.Generator().manual_seed(3)
        noise = torch.randn(1, 4, 8, 16, generator=generator).to(self.devices.device)
        x = self.model.alphas_cumprod[500].sqrt().float() * noise
        context = self.model.cond_stage_model([prompt]).to(self.devices.dtype_unet)
        cond = {"c_crossattn": [context]}
        if self.model.is_sdxl:
            width = self.unet.label_emb[0][0].in_features
            cond = {"crossattn": context, "vector": noise.new_ones(1, width)}
        return self.model.apply_model(x, torch.full((1,), 500, device=noise.device), cond)

    # --- what can be at work -----------------------------------------------------------------------------

    def switch_on(self, name):
        getattr(self, "_" + name.replace(" ", "_").lower())()

    def _clip_skip(self):
        self.shared.opts.CLIP_stop_at_last_layers = 2

    def _emphasis(self):
        self.shared.opts.emphasis = "Original"

    def _textual_inversion(self):
        self.embeddings["cat"] = torch.ones(WIDTH)

    def _stale_textual_inversion(self):
        """Leave what a run leaves that broke off between its tokens and its text encoder."""
        self.embeddings["cat"] = torch.ones(WIDTH)
        self.hijack.fixes = [[(0, torch.ones(WIDTH))]]

    def _hypernetwork(self):
        self.shared.loaded_hypernetworks.append(lambda context: context * 1.5 + 1)

    def _lora(self):
        self.load_loras("one")
        self.paint()  # the weights change when a layer runs

    def _lora_of_the_next_run(self):
        """Let the list of networks name another one than the weights have."""
        self._lora()
        self.load_loras("two")

    def _token_merging(self):
        self._apply_token_merging(self.model, 0.5)

    def _hypertile(self):
        for module in self.unet.modules():
            if isinstance(module, layers.Attention):
                params = SimpleNamespace(enabled=True, tile_size=128, forward=module.forward)
                setattr(module, "__webui_hypertile_params", params)
                module.forward = lambda *given, params=params: (
                    params.forward(*given) * (0.5 if params.enabled else 1)
                )

    def _controlnet(self):
        """Replace the UNet's forward; it stays replaced after a run that broke off."""
        unet = self.unet
        unet.original_forward = unet.forward
        unet.forward = lambda *given, **more: unet.original_forward(*given, **more) + 1

    def _replaced_apply_model(self):
        self.model.apply_model = lambda *given: type(self.model).apply_model(self.model, *given) + 1

    def _tiling(self):
        for module in self.model.modules():
            if isinstance(module, nn.Conv2d):
                module.padding_mode = "circular"

    def _tensorrt(self):
        engine = SimpleNamespace(forward=lambda x, _t, _context: torch.zeros_like(x))
        self.sd_unet.current_unet = engine

    def _downcast_alphas(self):
        self.model.alphas_cumprod = self.model.alphas_cumprod_original.half()

    # --- LoRA --------------------------------------------------------------------------------------------

    def _name_layers(self):
        parts = (self.model.model, self.model.cond_stage_model)
        for part in parts:
            for name, module in part.named_modules():
                module.network_layer_name = name.replace(".", "_")

    def load_loras(self, *names):
        """Load networks; each adds its own noise to all weights, and a missing bias; see _apply_weights."""
        self.networks.loaded_networks[:] = [SimpleNamespace(name=name) for name in names]

    def _patch_torch(self):
        for kind in (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.MultiheadAttention):
            original = kind.forward

            def forward(module, *given, original=original, **more):
                self._apply_weights(module)
                return original(module, *given, **more)

            self.patch.setattr(kind, "forward", forward)
        shared = self.shared

        class CrossAttention(layers.Attention):
            def forward(self, x, context=None):
                for hypernetwork in shared.loaded_hypernetworks:
                    context = hypernetwork(x if context is None else context)
                return super().forward(x, context)

        for module in self.unet.modules():
            if type(module) is layers.Attention:
                module.__class__ = CrossAttention

    def _apply_weights(self, module):
        layer = getattr(module, "network_layer_name", None)
        wanted = tuple((network.name, 1.0) for network in self.networks.loaded_networks)
        if layer is None or getattr(module, "network_current_names", ()) == wanted:
            return
        whole = isinstance(module, nn.MultiheadAttention)
        owner = module.out_proj if whole else module
        if getattr(module, "network_weights_backup", None) is None:
            assert getattr(module, "network_current_names", ()) == ()
            first = (module.in_proj_weight.clone(), owner.weight.clone()) if whole else owner.weight.clone()
            module.network_weights_backup = first
            module.network_bias_backup = None if owner.bias is None else owner.bias.clone()
        backup, bias = module.network_weights_backup, module.network_bias_backup
        with torch.no_grad():
            if whole:
                module.in_proj_weight.copy_(backup[0])
            owner.weight.copy_(backup[1] if whole else backup)
            if bias is None:
                owner.bias = None
            else:
                owner.bias.copy_(bias)
            for name, _ in wanted:
                generator = torch.Generator().manual_seed(len(name + layer))
                for weight in (module.in_proj_weight, owner.weight) if whole else (owner.weight,):
                    weight.add_(torch.randn(weight.shape, generator=generator).to(weight), alpha=0.1)
                if owner.bias is None:
                    owner.bias = nn.Parameter(torch.ones(owner.weight.shape[0]).to(owner.weight))
                else:
                    owner.bias += 0.1
        module.network_current_names = wanted

    # --- token merging -----------------------------------------------------------------------------------

    def _apply_token_merging(self, model, ratio):
        """Exchange the class of each transformer block, and hook the UNet."""
        current = getattr(model, "applied_token_merged_ratio", 0)
        if current == ratio:
            return
        unet = model.model.diffusion_model
        if current:
            self.merging_hook.remove()
        for module in unet.modules():
            if type(module).__name__ == "ToMeBlock":
                module.__class__ = module.parent
            elif ratio and isinstance(module, layers.TransformerBlock):
                module.__class__ = merging(type(module), ratio)
        if ratio:
            self.merging_hook = unet.register_forward_pre_hook(lambda *_: None)
        model.applied_token_merged_ratio = ratio

    # --- --medvram and --lowvram -------------------------------------------------------------------------

    def _send_everything_to_cpu(self):
        if self.lowvram.module_in_gpu is not None:
            self.lowvram.module_in_gpu.to(torch.device("cpu"))
        self.lowvram.module_in_gpu = None

    def save_memory(self, *, low):
        """Keep one part at a time on the device; running a layer of another part fails, as on a GPU."""
        model, device = self.model, self.devices.device
        model.lowvram = True

        def bring(part):
            if self.lowvram.module_in_gpu is not part:
                self._send_everything_to_cpu()
                part.to(device)
                self.lowvram.module_in_gpu = part

        def track(part, *entries):
            for entry in entries or (part,):
                entry.register_forward_pre_hook(lambda *_: bring(part))
            for leaf in part.modules():
                if next(leaf.children(), None) is None and next(leaf.parameters(), None) is not None:
                    leaf.register_forward_pre_hook(lambda *_: check(part))

        def check(part):
            if self.lowvram.module_in_gpu is not part:
                raise RuntimeError("Expected all tensors to be on the same device")

        vae, encode = model.first_stage_model, model.first_stage_model.encode

        def wrapped_encode(x):
            bring(vae)
            return encode(x)

        vae.encode = wrapped_encode
        track(vae)
        if model.is_sdxl:
            track(model.conditioner)
        elif model.is_sd2:
            track(model.cond_stage_model.wrapped, model.cond_stage_model.wrapped.model.token_embedding.wrapped)
        else:
            track(model.cond_stage_model.wrapped, model.cond_stage_model.wrapped.transformer)
        if low:
            for block in (*self.unet.input_blocks, self.unet.middle_block, *self.unet.output_blocks):
                track(block)
            track(self.unet.time_embed)
        else:
            track(model.model)


def make_host(model=None):
    """Return a host for the loaded model, or for another one, as the webui's session makes it."""
    modules = A1111App().webui_modules()
    return A1111Host(modules, modules.shared.sd_model if model is None else model)


def merging(parent, ratio):
    class ToMeBlock(parent):
        def forward(self, x, *given):
            return super().forward(x * (1 - ratio), *given)

    ToMeBlock.parent = parent
    return ToMeBlock


FEATURES = (
    "clip skip",
    "emphasis",
    "textual inversion",
    "stale textual inversion",
    "hypernetwork",
    "LoRA",
    "LoRA of the next run",
    "token merging",
    "Hypertile",
    "ControlNet",
    "replaced apply_model",
    "tiling",
    "TensorRT",
    "downcast alphas",
)
