"""A small random `shared.sd_model` in the layouts of Stable Diffusion 1.x, 2.x and XL.

The parts behave like the originals where hosts/a1111.py depends on it: who wraps whom, what is called how, what is
drawn from the global random state. `webui` is the stand-in of the modules around them (webui.py).
"""

import hashlib
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import nn

from ldznet.heads.unet import UNet, UNetConfig

VOCABULARY, WIDTH = 1000, 32
_SMALL = UNetConfig(
    model_channels=32, channel_mult=(1, 2), depths=(1, 0), res_blocks=1, heads=4, context_width=WIDTH
)
_SMALL_2 = replace(_SMALL, depths=(1, 1), heads=8, head_channels=16, linear_projection=True)
CONFIGS = {
    "sd1": _SMALL,
    "sd2": _SMALL_2,
    "sdxl": replace(_SMALL_2, depths=(1, 2), middle_depth=2, context_width=2 * WIDTH),
}
SIZES = 8  # numbers that say one side, of Stable Diffusion XL; 256 in the real one


# --- words -----------------------------------------------------------------------------------------------


def word_ids(text):
    """Return one id for each word of a text; the two last ids of the vocabulary are start and end."""
    digests = [hashlib.sha256(word.encode()).digest() for word in text.lower().split()]
    return [1 + int.from_bytes(digest[:4], "big") % (VOCABULARY - 3) for digest in digests]


class Tokenizer:
    """A tokenizer of transformers, as the first text encoders have it."""

    def __call__(self, texts, truncation, add_special_tokens):
        assert isinstance(texts, list)
        assert truncation is False
        assert add_special_tokens is False
        return {"input_ids": [word_ids(text) for text in texts]}


class Embeddings(nn.Module):
    """An embedding that inserts the vectors of textual inversions where the hijack's `fixes` says, once."""

    def __init__(self, hijack):
        super().__init__()
        self.wrapped = nn.Embedding(VOCABULARY, WIDTH)
        self.hijack = hijack

    def forward(self, ids):
        fixes, self.hijack.fixes = self.hijack.fixes, None
        vectors = self.wrapped(ids)
        for row, places in enumerate(fixes or []):
            for place, vector in places:
                vectors[row, place + 1] = vector
        return vectors


class Clip(nn.Module):
    """The `transformer` of a FrozenCLIPEmbedder."""

    def __init__(self, hijack):
        super().__init__()
        self.token_embedding = Embeddings(hijack)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.final_layer_norm = nn.LayerNorm(WIDTH)

    def forward(self, input_ids, output_hidden_states=False):
        states = [self.token_embedding(input_ids)]
        for layer in self.layers:
            mean = states[-1].cumsum(1) / torch.arange(1, 78, device=input_ids.device)[:, None].to(states[-1])
            states.append(states[-1] + layer(mean).tanh())
        last = self.final_layer_norm(states[-1])
        return SimpleNamespace(last_hidden_state=last, hidden_states=states if output_hidden_states else None)


class FrozenClip(nn.Module):
    def __init__(self, hijack, layer="last", layer_idx=None):
        super().__init__()
        self.tokenizer = Tokenizer()
        self.transformer = Clip(hijack)
        self.layer, self.layer_idx = layer, layer_idx


class OpenClip(nn.Module):
    """The `model` of a FrozenOpenCLIPEmbedder: its attention is PyTorch's own."""

    def __init__(self, hijack):
        super().__init__()
        self.token_embedding = Embeddings(hijack)
        self.attention = nn.ModuleList(nn.MultiheadAttention(WIDTH, 4) for _ in range(2))
        self.ln_final = nn.LayerNorm(WIDTH)
        self.text_projection = nn.Parameter(torch.zeros(WIDTH, WIDTH))


class FrozenOpenClip(nn.Module):
    def __init__(self, hijack, pooled):
        super().__init__()
        self.model = OpenClip(hijack)
        self.layer, self.gives_pooled = "penultimate", pooled

    def encode_with_transformer(self, ids):
        model = self.model
        x = model.token_embedding(ids).transpose(0, 1)
        penultimate = x + model.attention[0](x, x, x, need_weights=False)[0]
        if not self.gives_pooled:
            return model.ln_final(penultimate.transpose(0, 1))
        last = penultimate + model.attention[1](penultimate, penultimate, penultimate, need_weights=False)[0]
        last, penultimate = last.transpose(0, 1), penultimate.transpose(0, 1)
        chosen = model.ln_final(last)[torch.arange(len(ids)), ids.argmax(dim=-1)]
        return {"last": last, "penultimate": penultimate, "pooled": chosen @ model.text_projection}


class CustomWords(nn.Module):
    """The webui's wrapper of a text encoder; a call of the wrapper follows the webui's settings."""

    def __init__(self, wrapped, webui, id_pad):
        super().__init__()
        self.wrapped, self.webui = wrapped, webui
        self.chunk_length = 75
        self.id_start, self.id_end, self.id_pad = VOCABULARY - 2, VOCABULARY - 1, id_pad

    def forward(self, texts):
        """Encode with emphasis in parentheses, clip skip, and a textual inversion named "cat"."""
        opts, rows, fixes = self.webui.shared.opts, [], []
        for text in texts:
            ids = word_ids(text)[: self.chunk_length]
            rows.append([self.id_start, *ids] + [self.id_end] * (76 - len(ids)))
            found = [n for n, word in enumerate(text.split()) if word in self.webui.embeddings]
            fixes.append([(n, self.webui.embeddings[text.split()[n]]) for n in found])
        self.webui.hijack.fixes = fixes
        ids = torch.tensor(rows, device=self.webui.devices.device)
        skip = opts.CLIP_stop_at_last_layers
        if hasattr(self.wrapped, "transformer"):
            answer = self.wrapped.transformer(input_ids=ids, output_hidden_states=True)
            state = answer.hidden_states[-skip] if skip > 1 else answer.last_hidden_state
        else:
            state = self.wrapped.encode_with_transformer(ids)
            state = state["penultimate"] if isinstance(state, dict) else state
        if opts.emphasis != "None":
            for row, text in enumerate(texts):
                for place, word in enumerate(text.split()):
                    state[row, place + 1] *= 1.5 if "(" in word else 1.0
        return state


class Conditioner(nn.Module):
    """The conditioner of Stable Diffusion XL: text encoders, and embedders of sizes, which wrap nothing."""

    def __init__(self, *embedders):
        super().__init__()
        self.embedders = nn.ModuleList(embedders)

    def forward(self, texts):
        return torch.cat([embedder(texts) for embedder in self.embedders if hasattr(embedder, "wrapped")], dim=-1)


# --- pictures --------------------------------------------------------------------------------------------


class Fragile(nn.Module):
    """A convolution that overflows float16 when `loud`."""

    loud = False

    def forward(self, x):
        return x * 1e5 / 1e5 if self.loud else x


class Autoencoder(nn.Module):
    """The first_stage_model; that of Stable Diffusion XL draws a sample from the global random state."""

    def __init__(self, samples):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 32, 8, stride=8), nn.SiLU(), Fragile(), nn.Conv2d(32, 8, 3, padding=1)
        )
        self.quant_conv = nn.Conv2d(8, 8, 1)
        self.samples = samples

    def encode(self, x):
        mean, log_variance = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        noise = torch.randn(mean.shape).to(mean)
        sample = mean + (0.5 * log_variance).exp() * noise
        return sample if self.samples else SimpleNamespace(sample=lambda: sample, mode=lambda: mean)


class UNetModel(UNet):
    """A UNet whose class has the webui's forward, which calls another engine if there is one."""

    def __init__(self, config, webui, sizes):
        super().__init__(config)
        self.webui = webui
        self.added = None
        if sizes:
            width = 4 * config.model_channels
            self.label_emb = nn.Sequential(nn.Sequential(nn.Linear(WIDTH + 6 * SIZES, width), nn.SiLU()))
        self.time_embed.register_forward_hook(lambda _m, _a, out: out if self.added is None else out + self.added)

    def forward(self, x, timesteps=None, context=None, y=None):
        if self.webui.sd_unet.current_unet is not None:
            return self.webui.sd_unet.current_unet.forward(x, timesteps, context)
        self.added = None if y is None else self.label_emb(y)
        return super().forward(x, timesteps, context)


class DiffusionWrapper(nn.Module):
    """The `sd_model.model` of Stable Diffusion 1.x and 2.x."""

    def __init__(self, unet, conditioning_key):
        super().__init__()
        self.diffusion_model = unet
        self.conditioning_key = conditioning_key

    def forward(self, x, t, c_crossattn=None, c_concat=None):
        x = torch.cat([x, *c_concat], dim=1) if self.conditioning_key == "hybrid" else x
        return self.diffusion_model(x, t, context=torch.cat(c_crossattn, 1))


class OpenAIWrapper(DiffusionWrapper):
    """The `sd_model.model` of Stable Diffusion XL."""

    def forward(self, x, t, c):
        return self.diffusion_model(x, timesteps=t, context=c["crossattn"], y=c["vector"])


class LatentDiffusion(nn.Module):
    """The model of Stable Diffusion 1.x and 2.x."""

    def __init__(self, family, webui, in_channels=4):
        super().__init__()
        config = CONFIGS[family]
        config = UNetConfig(**{**vars(config), "in_channels": in_channels})
        unet = UNetModel(config, webui, sizes=family == "sdxl")
        wrapper = OpenAIWrapper if family == "sdxl" else DiffusionWrapper
        self.model = wrapper(unet, "hybrid" if in_channels != 4 and family != "sdxl" else "crossattn")
        self.first_stage_model = Autoencoder(samples=family == "sdxl")
        hijack = webui.hijack
        if family == "sdxl":
            first = CustomWords(FrozenClip(hijack, "hidden", 2), webui, VOCABULARY - 1)
            second = CustomWords(FrozenOpenClip(hijack, pooled=True), webui, 0)
            self.conditioner = Conditioner(first, second, nn.Identity(), nn.Identity())
            self.cond_stage_model = self.conditioner
        elif family == "sd2":
            self.cond_stage_model = CustomWords(FrozenOpenClip(hijack, pooled=False), webui, 0)
        else:
            self.cond_stage_model = CustomWords(FrozenClip(hijack), webui, VOCABULARY - 1)
        generator = torch.Generator().manual_seed(7)
        for parameter in self.parameters():
            wide = parameter.ndim > 1
            std = 1 / parameter[0].numel() ** 0.5 if wide else 0.1
            nn.init.normal_(parameter, mean=0.0 if wide else 0.5, std=std, generator=generator)
        self.eval().requires_grad_(False)
        self.webui = webui
        self.scale_factor = 0.18215
        self.parameterization = "eps"
        levels = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        self.alphas_cumprod = self.alphas_cumprod_original = (1 - levels).cumprod(dim=0)
        self.lowvram = False
        self.is_sd1, self.is_sd2, self.is_sdxl, self.is_sd3 = (family == f for f in ("sd1", "sd2", "sdxl", "sd3"))
        self.sd_checkpoint_info = SimpleNamespace(
            title=f"{family}.safetensors [0123456789]", sha256="0123456789" * 6 + "abcd", shorthash="0123456789"
        )
        self.sd_model_checkpoint = f"/models/{family}.safetensors"
        self.sd_model_hash = "0123456789"
        self.loaded_vae_file = None

    def apply_model(self, x, t, cond):
        devices = self.webui.devices
        cast = devices.dtype_unet
        with devices.autocast():
            if self.is_sdxl:
                x = torch.cat([x, *cond["c_concat"]], dim=1) if "c_concat" in cond else x
                cond = {name: value.to(cast) for name, value in cond.items() if name != "c_concat"}
                return self.model(x.to(cast), t.to(cast), cond)
            cond = {name: [tensor.to(cast) for tensor in tensors] for name, tensors in cond.items()}
            return self.model(x.to(cast), t.to(cast), **cond)
