"""The segmentation heads: LD-ZNet, ZNet and RGBNet, one network.

    kind      reads                                             of the paper's Table 1
    ld-znet   the clean latent, the prompt, the UNet's features  "LD-ZNet"
    znet      the clean latent, the prompt                       "ZNet"
    rgbnet    the image, the prompt                              "RGBNet"

All three are the UNet of Stable Diffusion at timestep 0 with one output channel, brought to the image's size by
three transposed convolutions. LD-ZNet adds, at five of the transformers, attention to the features that the host's
UNet has at the same place; or, as in the paper's Table 4, joins them to its own channels right before the
transformer. The 1 x 1 convolution after the join is our design, as the paper does not describe it. RGBNet puts
three strided convolutions in front, whose widths are our design: the paper only says that they are learnable.

    latent    (B, 4, h, w)        VAE output, scaled as the UNet expects it, without noise
    image     (B, 3, 8h, 8w)      in [-1, 1], RGBNet only
    context   (B, L, D)           the prompt as the text encoder returns it
    features  path -> (B, C, h', w')
    logits    (B, 1, 8h, 8w)      before the sigmoid; 0 parts mask from background

Source: PNVR et al., LD-ZNet, ICCV 2023, https://arxiv.org/abs/2303.12343
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ldznet.errors import CheckpointError, FeatureError, HeadError, LdznetError, ShapeError
from ldznet.heads.unet import UNet, UNetConfig

Kind = Literal["ld-znet", "znet", "rgbnet"]
Fusion = Literal["attention", "concat"]

# The paper's blocks 6 to 10 of the 16 transformers of Stable Diffusion 1.x, with the side of the feature map
# that a 384 x 384 image gives there.
PAPER_POOL_GRIDS: Mapping[str, int] = {
    "input_blocks.8.1": 12,
    "middle_block.1": 6,
    "output_blocks.3.1": 12,
    "output_blocks.4.1": 12,
    "output_blocks.5.1": 12,
}


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The structure of a head; the defaults are the released LD-ZNet."""

    kind: Kind = "ld-znet"
    unet: UNetConfig = field(default_factory=lambda: UNetConfig(out_channels=1))
    pool_grids: Mapping[str, int] = field(default_factory=lambda: dict(PAPER_POOL_GRIDS))
    stem_width: int = 64  # RGBNet: channels after the first strided convolution
    fusion: Fusion = "attention"  # LD-ZNet: how features come in; "concat" uses the places of pool_grids alone

    def __post_init__(self) -> None:
        if self.kind not in ("ld-znet", "znet", "rgbnet"):
            raise HeadError(f"The kind of head {self.kind!r} is not known: use ld-znet, znet or rgbnet.")
        if self.fusion not in ("attention", "concat"):
            raise HeadError(f"The fusion of features {self.fusion!r} is not known: use attention or concat.")
        if self.kind != "ld-znet":
            # The other kinds read no features, whatever these two fields say.
            object.__setattr__(self, "pool_grids", {})
            object.__setattr__(self, "fusion", "attention")
        if not isinstance(self.pool_grids, Mapping) or not all(
            type(grid) is int and 1 <= grid <= 1024 for grid in self.pool_grids.values()
        ):
            raise HeadError(
                f"The grids {self.pool_grids!r} are no whole numbers by path: the configuration is damaged."
            )
        if type(self.stem_width) is not int or not 1 <= self.stem_width <= 4096:
            raise HeadError(
                f"The stem is {self.stem_width!r} channels wide, which no head is: the configuration is damaged."
            )
        if unknown := sorted(set(self.pool_grids) - set(self.unet.transformer_paths())):
            raise HeadError(
                f"The head is to read features at {', '.join(unknown)}, but this UNet has no transformer there. "
                f"It has them at {', '.join(self.unet.transformer_paths())}."
            )

    def to_json(self) -> str:
        """Return the configuration as one line of JSON, as in the header of a head file."""
        raw = dataclasses.asdict(self)
        if self.fusion == "attention":  # the only one of the first versions, whose text had no such field
            del raw["fusion"]
        return json.dumps(raw, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> HeadConfig:
        """Read what `to_json` wrote.

        Raises:
            CheckpointError: the text is not a configuration, or comes from a newer version.
        """
        try:
            raw: dict[str, Any] = json.loads(text)
            unet = raw.pop("unet")
            for name in ("channel_mult", "depths"):
                unet[name] = tuple(unet[name])
            return cls(unet=UNetConfig(**unet), **raw)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, LdznetError) as why:
            raise CheckpointError(
                f"The head's configuration cannot be read ({why}). The file was damaged or written by another "
                "version of ldznet: convert the head again, or update ldznet."
            ) from why


class Head(UNet):
    """A UNet with one logit per pixel of the image as its output."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__(config.unet, config.pool_grids, concat=config.fusion == "concat")
        self.config = config
        self.out.append(nn.SiLU())
        self.final = nn.Sequential(
            nn.Conv2d(1, 1, 3, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(1, 1, 2, stride=2),
            nn.SiLU(),
            nn.Conv2d(1, 1, 3, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(1, 1, 2, stride=2),
            nn.SiLU(),
            nn.Conv2d(1, 1, 3, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(1, 1, 2, stride=2),
            nn.SiLU(),
            nn.Conv2d(1, 1, 3, padding=1),
        )
        if config.kind == "rgbnet":
            # Ends in as many channels as a latent has, so that the UNet after it can start from
            # Stable Diffusion's weights, its first convolution included.
            wide = config.stem_width
            self.stem = nn.Sequential(
                nn.Conv2d(3, wide, 3, stride=2, padding=1),
                nn.SiLU(),
                nn.Conv2d(wide, 2 * wide, 3, stride=2, padding=1),
                nn.SiLU(),
                nn.Conv2d(2 * wide, 4 * wide, 3, stride=2, padding=1),
                nn.SiLU(),
                nn.Conv2d(4 * wide, config.unet.in_channels, 3, padding=1),
            )

    def forward(  # type: ignore[override]
        self, x: Tensor, context: Tensor, features: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Return logits (B, 1, 8h, 8w) from (1 or B, 4, h, w), or for RGBNet from (1 or B, 3, 8h, 8w).

        B is the number of prompts in `context` (B, L, D); `features` have a batch of 1 or B.

        Raises:
            ShapeError: a side, the number of channels or the context's width does not fit.
            FeatureError: a feature that the head reads is missing or of another width.
        """
        features = self._checked(x, context, features or {})
        x = x.to(self.dtype)
        if self.config.kind == "rgbnet":
            x = self.stem(x)
        timesteps = torch.zeros(1, device=x.device)  # the input has no noise
        coarse = super().forward(x, timesteps, context, features)
        return self.final(coarse)

    def _checked(self, x: Tensor, context: Tensor, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        unet = self.config.unet
        channels = 3 if self.config.kind == "rgbnet" else unet.in_channels
        if x.ndim != 4 or x.shape[1] != channels:
            raise ShapeError(
                f"{self.config.kind} reads (batch, {channels}, height, width), but was given "
                f"{tuple(x.shape)}. Give {'the image' if channels == 3 else 'the latent of the VAE'}."
            )
        if self.config.kind == "rgbnet" and (x.shape[-2] % 8 or x.shape[-1] % 8):
            raise ShapeError(
                f"The image is {x.shape[-2]} x {x.shape[-1]}, but both sides must be multiples of "
                f"{8 * unet.multiple}. Resize it."
            )
        if context.ndim != 3 or context.shape[-1] != unet.context_width:
            raise ShapeError(
                f"The head reads prompts of width {unet.context_width}, but was given {tuple(context.shape)}. "
                "It was trained for another text encoder: use a head for this model."
            )
        if not len(x) or not len(context):
            raise ShapeError("There is no latent or no prompt: give at least one of each.")
        if len(x) not in (1, len(context)) and len(context) != 1:
            raise ShapeError(
                f"{len(x)} latents and {len(context)} prompts do not pair up: give one latent for all prompts, "
                "one prompt for all latents, or as many of one as of the other."
            )
        if missing := [path for path in self.config.pool_grids if path not in features]:
            raise FeatureError(
                f"The head reads {len(self.config.pool_grids)} features of the UNet, but {len(missing)} were not "
                f"given, first {missing[0]}. Capture them while the UNet runs."
            )
        modules = self.transformers()
        used = {}
        for path in self.config.pool_grids:
            width = modules[path].norm.num_channels
            if features[path].ndim == 4 and len(features[path]) not in (1, max(len(x), len(context))):
                raise FeatureError(
                    f"The feature at {path} is of {len(features[path])} prompts, but there are {len(context)}. "
                    "Capture the features with the same prompts."
                )
            if features[path].ndim != 4 or features[path].shape[1] != width or not features[path].numel():
                raise FeatureError(
                    f"The feature at {path} is {tuple(features[path].shape)}, but the head reads "
                    f"(batch, {width}, height, width). The head belongs to a UNet of another size: use a head "
                    "for this model."
                )
            used[path] = features[path].to(self.dtype)
        return used


# Fusion of features, the way up to the image's size, RGBNet's stem.
_HEAD_ONLY = re.compile(r"\.attentionpool2D\.|\.attn3\.|\.norm_sd\.|\.concatenation\.|^final\.|^stem\.")


@dataclass(frozen=True)
class StartReport:
    """The weights that a head took from a Stable Diffusion UNet, as names below `model.diffusion_model.`."""

    taken: list[str]  # unchanged
    cut: list[str]  # the part that fits: one output channel, or four input channels of an inpainting model
    new: list[str]  # of the head alone; they keep their first values
    unused: list[str]  # of the UNet alone

    def __str__(self) -> str:
        return (
            f"{len(self.taken)} tensors taken, {len(self.cut)} cut to fit, {len(self.new)} new, "
            f"{len(self.unused)} of the UNet not used"
        )


@torch.no_grad()
def start_from_unet(head: Head, unet: Mapping[str, Tensor]) -> StartReport:
    """Copy a Stable Diffusion UNet's weights into the head "wherever possible" (section 3.1 of the paper).

    `unet` has the original names, with or without `model.diffusion_model.` in front. Everything of the
    same name and shape is taken. Of the last convolution the first output channel is kept, as in the
    released code; of an inpainting model's first convolution the four channels of the latent.

    Raises:
        HeadError: the UNet has another structure than the head; the head is then unchanged.
    """
    prefix = "model.diffusion_model."
    source = {
        name.removeprefix(prefix): tensor
        for name, tensor in unet.items()
        if name.startswith(prefix) or not any(key.startswith(prefix) for key in unet)
    }
    own = head.state_dict()
    if any(tensor.is_meta for tensor in own.values()):
        raise HeadError("The head is on the meta device and holds no weights: make it on a real one first.")
    cuts = {"out.2.weight", "out.2.bias", "input_blocks.0.0.weight"}
    taken, cut, new, wrong = [], [], [], []
    for name, target in own.items():
        if name not in source:
            new.append(name)
        elif source[name].shape == target.shape:
            taken.append(name)
        elif name in cuts and _covers(source[name], target):
            cut.append(name)
        else:
            wrong.append(f"{name} {tuple(source[name].shape)} instead of {tuple(target.shape)}")
    missing = [name for name in new if not _HEAD_ONLY.search(name)]
    if wrong or missing:
        differences = wrong + [f"{name} is missing" for name in missing]
        raise HeadError(
            f"The head cannot start from this UNet: {len(differences)} of {len(own)} tensors do not fit, first "
            f"{'; '.join(differences[:3])}. The two have another structure: make the head's configuration with "
            "UNetConfig.from_shapes from this UNet."
        )
    for name in taken:
        own[name].copy_(source[name])
    for name in cut:
        part = tuple(slice(side) for side in own[name].shape)
        own[name].copy_(source[name][part])
    return StartReport(taken, cut, new, sorted(set(source) - set(own)))


@torch.no_grad()
def start_as_enlargement(head: Head, background: float = -2.0) -> None:
    """Let the layers up to the image's size start as a plain enlargement of their input.

    Their convolutions have one channel. With PyTorch's own first values next to no signal passes through, and a
    short training spends its time on getting some. `background` is the first logit of the background.
    """
    for layer in head.final:
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            # Twice the mean of 3 x 3: SiLU halves what is small.
            nn.init.constant_(layer.weight, 2.0 / 9 if layer.kernel_size[0] == 3 else 1.0)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    last = head.final[-1]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    nn.init.constant_(last.bias, background)


def _covers(source: Tensor, target: Tensor) -> bool:
    return source.ndim == target.ndim and all(
        have >= want for have, want in zip(source.shape, target.shape, strict=True)
    )


def parameter_count(module: nn.Module) -> int:
    """Return the number of trainable values."""
    return sum(parameter.numel() for parameter in module.parameters())


def head_config_for_unet(
    shapes: Mapping[str, Sequence[int]], kind: Kind = "ld-znet", *, heads: int = 8, head_channels: int = 0
) -> HeadConfig:
    """Return a head configuration with the structure of a UNet (original names, no prefix).

    LD-ZNet reads the paper's blocks: the last transformer before the middle, the middle, and the first level of
    the decoder that has transformers; the grids are those of a 384 x 384 image.
    """
    unet = UNetConfig.from_shapes(shapes, heads=heads, head_channels=head_channels)
    unet = dataclasses.replace(unet, in_channels=4, out_channels=1)
    return HeadConfig(kind=kind, unet=unet, pool_grids=paper_pool_grids(unet) if kind == "ld-znet" else {})


def paper_pool_grids(unet: UNetConfig, latent_side: int = 48) -> dict[str, int]:
    """Return the paper's five places in a UNet of any depth, with their grids for a square latent."""
    paths = unet.transformer_paths()
    middle = paths.index("middle_block.1")
    places = paths[middle - 1 : middle + 2 + unet.res_blocks]
    return {path: pool_grid(unet, path, latent_side) for path in places}


def pool_grid(unet: UNetConfig, path: str, latent_side: int = 48) -> int:
    """Return the side of the feature map at a transformer, for a square latent.

    Raises:
        HeadError: the UNet has no transformer there.
    """
    paths = unet.transformer_paths()
    if path not in paths:
        raise HeadError(f"There is no transformer at {path!r}; this UNet has them at {', '.join(paths)}.")
    return latent_side // 2 ** unet.level_of(path)
