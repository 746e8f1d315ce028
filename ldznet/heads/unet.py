"""The UNet of Stable Diffusion in the original ("ldm") layout, for any width, depth and number of levels.

Heads are built on it (network.py). It also stands in for a real Stable Diffusion UNet in tests and in the bench,
and the embedded model is trained with it. Knows nothing of files or hosts.

    noisy_latent (B, C_in, h, w)   h and w multiples of `config.multiple` (8 for Stable Diffusion 1.x)
    timesteps    (B,)
    context      (B, L, D)

Source: Rombach et al., CVPR 2022, https://arxiv.org/abs/2112.10752
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ldznet.errors import ShapeError
from ldznet.heads.layers import (
    Downsample,
    GroupNorm,
    ResBlock,
    SpatialTransformer,
    Upsample,
    timestep_embedding,
    zeroed,
)


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The structure of a UNet; the defaults are Stable Diffusion 1.x."""

    in_channels: int = 4
    out_channels: int = 4
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    res_blocks: int = 2
    depths: tuple[int, ...] = (1, 1, 1, 0)  # transformer blocks after each residual block, per level
    middle_depth: int = 1
    heads: int = 8  # of every attention, unless head_channels says otherwise
    head_channels: int = 0  # when not 0: channels per head, and their number follows from the width
    context_width: int = 768
    linear_projection: bool = False

    def __post_init__(self) -> None:
        """Refuse what no UNet can be, so that a damaged configuration is an error and not a crash later."""
        # The limits are far above any published model, so that a damaged header builds no huge network.
        numbers = [self.in_channels, self.out_channels, self.model_channels, self.context_width]
        numbers += [self.middle_depth, self.res_blocks, self.heads, *self.channel_mult]
        whole = all(type(n) is int and n >= 1 for n in numbers)
        whole = whole and all(type(n) is int and n >= 0 for n in (*self.depths, self.head_channels))
        if (
            not whole
            or not 1 <= len(self.channel_mult) == len(self.depths) <= 8
            or max(*self.channel_mult, *self.depths, self.middle_depth, self.res_blocks) > 64
            or max(numbers) > 2**16
            or self.model_channels % 32
            or any(self._undivided(self.model_channels * mult) for mult in self.channel_mult)
        ):
            raise ShapeError(
                f"No UNet has the structure {self}: widths must be multiples of 32 and of the number of attention "
                "heads, and there must be as many depths as levels. The configuration is wrong or damaged."
            )

    def _undivided(self, channels: int) -> bool:
        if self.head_channels:
            return channels % self.head_channels != 0
        return channels % self.heads != 0

    @property
    def multiple(self) -> int:
        """Return the number that both sides of a latent must be divisible by."""
        return int(2 ** (len(self.channel_mult) - 1))

    def heads_for(self, channels: int) -> int:
        """Return the number of attention heads at a width."""
        return channels // self.head_channels if self.head_channels else self.heads

    def transformer_paths(self) -> list[str]:
        """Return the places with a transformer, in the order in which the UNet runs them."""
        paths, index = [], 1  # place 0 is the first convolution
        for level, depth in enumerate(self.depths):
            paths += [f"input_blocks.{index + n}.1" for n in range(self.res_blocks) if depth]
            # A level ends with its downsampling, except for the last one.
            index += self.res_blocks + (level < len(self.depths) - 1)
        paths.append("middle_block.1")
        index = 0
        for depth in reversed(self.depths):
            paths += [f"output_blocks.{index + n}.1" for n in range(self.res_blocks + 1) if depth]
            index += self.res_blocks + 1
        return paths

    def level_of(self, path: str) -> int:
        """Return how often the latent has been halved at a place of `transformer_paths`."""
        last = len(self.depths) - 1
        if path == "middle_block.1":
            return last
        side, index, _ = path.split(".")
        per_level = self.res_blocks + 1
        return (int(index) - 1) // per_level if side == "input_blocks" else last - int(index) // per_level

    @classmethod
    def from_shapes(
        cls, shapes: Mapping[str, Sequence[int]], *, heads: int = 8, head_channels: int = 0
    ) -> UNetConfig:
        """Read the structure off the names and shapes of a state dict.

        The shapes do not tell the number of attention heads: it comes from the caller.

        Raises:
            ShapeError: the names are not those of such a UNet.
        """
        try:
            return cls._from_shapes(shapes, heads, head_channels)
        except KeyError as missing:
            raise ShapeError(
                f"The weights have no {missing}, so they are not a Stable Diffusion UNet in the original "
                "layout. Give a checkpoint with names such as model.diffusion_model.input_blocks.0.0.weight."
            ) from None
        except (IndexError, ValueError, TypeError, ZeroDivisionError) as why:
            raise ShapeError(
                f"The weights have shapes that no Stable Diffusion UNet has ({why}). The file is damaged: use the "
                "original checkpoint."
            ) from None

    @classmethod
    def _from_shapes(cls, shapes: Mapping[str, Sequence[int]], heads: int, head_channels: int) -> UNetConfig:
        model_channels, in_channels = shapes["input_blocks.0.0.weight"][:2]

        def depth(place: str) -> int:
            count = 0
            while f"{place}.transformer_blocks.{count}.norm1.weight" in shapes:
                count += 1
            return count

        levels: list[list[tuple[int, int]]] = [[]]  # per level, per block: channels, depth
        index = 1
        while any(name.startswith(f"input_blocks.{index}.") for name in shapes):
            if f"input_blocks.{index}.0.op.weight" in shapes:
                levels.append([])
            else:
                channels = shapes[f"input_blocks.{index}.0.in_layers.2.weight"][0]
                levels[-1].append((channels, depth(f"input_blocks.{index}.1")))
            index += 1
        if not all(len(level) == len(levels[0]) and len(set(level)) == 1 for level in levels):
            raise ShapeError(
                "The UNet's blocks differ within a level, which no Stable Diffusion 1.x, 2.x or SDXL model "
                "has; pruned models are not supported. Give the model that it was pruned from."
            )
        if any(level[0][0] % model_channels for level in levels):
            raise ShapeError(
                f"The UNet's widths {[level[0][0] for level in levels]} are no multiples of its first, "
                f"{model_channels}. The file is damaged: use the original checkpoint."
            )
        # A linear layer has two dimensions, a 1 x 1 convolution four.
        projection = shapes["middle_block.1.proj_in.weight"]
        return cls(
            in_channels=in_channels,
            out_channels=shapes["out.2.weight"][0],
            model_channels=model_channels,
            channel_mult=tuple(level[0][0] // model_channels for level in levels),
            res_blocks=len(levels[0]),
            depths=tuple(level[0][1] for level in levels),
            middle_depth=depth("middle_block.1"),
            heads=heads,
            head_channels=head_channels,
            context_width=shapes["middle_block.1.transformer_blocks.0.attn2.to_k.weight"][1],
            linear_projection=len(projection) == 2,
        )


class Block(nn.Sequential):
    """The layers at one place of the UNet; each gets the inputs that it reads."""

    def forward(self, x: Tensor, emb: Tensor, context: Tensor, feature: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Map (1 or B, C, h, w) to (B, C_out, h', w')."""
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context, feature)
            else:
                x = layer(x)
        return x


class UNet(nn.Module):
    """Encoder, middle and decoder of residual blocks and transformers, joined by skip connections.

    `pool_grids` names the transformers that also read a feature map, with the side of the square grid that
    their table of positions was made for; with `concat` they have no such table, but join the feature to `x`.
    `label_width` is that of what is added to the timestep: size and pooled prompt in Stable Diffusion XL.
    """

    def __init__(
        self,
        config: UNetConfig,
        pool_grids: Mapping[str, int] | None = None,
        *,
        concat: bool = False,
        label_width: int = 0,
    ) -> None:
        super().__init__()
        self.unet_config = config
        self.compute_dtype: torch.dtype | None = None  # None: that of the weights; see narrow_storage.py
        self.stored_dtype: torch.dtype | None = None  # of most weights between runs; None: as it computes
        self.checkpointing = False  # train with less memory, computing each block again for its gradient
        grids = dict(pool_grids or {})
        width = config.model_channels
        emb_width = 4 * width
        self.time_embed = nn.Sequential(nn.Linear(width, emb_width), nn.SiLU(), nn.Linear(emb_width, emb_width))
        self.label_width = label_width
        self.label_emb: nn.Module | None = None
        if label_width:
            self.label_emb = nn.Sequential(
                nn.Sequential(nn.Linear(label_width, emb_width), nn.SiLU(), nn.Linear(emb_width, emb_width))
            )

        def transformer(path: str, channels: int, depth: int) -> SpatialTransformer:
            return SpatialTransformer(
                channels,
                config.context_width,
                config.heads_for(channels),
                depth,
                pool_grid=grids.get(path),
                concat=concat,
                linear_projection=config.linear_projection,
            )

        blocks: list[nn.Module] = [Block(nn.Conv2d(config.in_channels, width, 3, padding=1))]
        skips, channels = [width], width
        for level, (mult, depth) in enumerate(zip(config.channel_mult, config.depths, strict=True)):
            for _ in range(config.res_blocks):
                layers: list[nn.Module] = [ResBlock(channels, mult * width, emb_width)]
                channels = mult * width
                if depth:
                    layers.append(transformer(f"input_blocks.{len(blocks)}.1", channels, depth))
                blocks.append(Block(*layers))
                skips.append(channels)
            if level < len(config.channel_mult) - 1:
                blocks.append(Block(Downsample(channels)))
                skips.append(channels)
        self.input_blocks = nn.ModuleList(blocks)

        self.middle_block = Block(
            ResBlock(channels, channels, emb_width),
            transformer("middle_block.1", channels, config.middle_depth),
            ResBlock(channels, channels, emb_width),
        )

        blocks = []
        for level, (mult, depth) in reversed(
            list(enumerate(zip(config.channel_mult, config.depths, strict=True)))
        ):
            # One block more than in the encoder, for the skip of the downsampling or of the first convolution.
            for n in range(config.res_blocks + 1):
                layers = [ResBlock(channels + skips.pop(), mult * width, emb_width)]
                channels = mult * width
                if depth:
                    layers.append(transformer(f"output_blocks.{len(blocks)}.1", channels, depth))
                if level and n == config.res_blocks:
                    layers.append(Upsample(channels))
                blocks.append(Block(*layers))
        self.output_blocks = nn.ModuleList(blocks)

        self.out = nn.Sequential(
            GroupNorm(channels, eps=1e-5),
            nn.SiLU(),
            zeroed(nn.Conv2d(channels, config.out_channels, 3, padding=1)),
        )

    def forward(
        self,
        noisy_latent: Tensor,
        timesteps: Tensor,
        context: Tensor,
        features: Mapping[str, Tensor] | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Map (1 or B, C_in, h, w), (1 or B,), (1 or B, L, D) to (B, C_out, h, w).

        `labels` (1 or B, E) are for a UNet with `label_width`.

        Raises:
            ShapeError: a side of the latent is not a multiple of `config.multiple`.
        """
        self.check_size(noisy_latent)
        features = features or {}
        x = noisy_latent.to(self.dtype)
        context = context.to(self.dtype)
        emb = self.time_embed(timestep_embedding(timesteps, self.unet_config.model_channels).to(self.dtype))
        if labels is not None:
            assert self.label_emb is not None
            emb = emb + self.label_emb(labels.to(self.dtype))
        skips = []
        for index, block in enumerate(self.input_blocks):
            x = self._run(block, x, emb, context, features.get(f"input_blocks.{index}.1"))
            skips.append(x)
        x = self._run(self.middle_block, x, emb, context, features.get("middle_block.1"))
        for index, block in enumerate(self.output_blocks):
            skip = skips.pop()
            # A skip from before the first attention to the text may have a batch of one for many prompts.
            x = torch.cat([x, skip.expand(len(x), -1, -1, -1)], dim=1)
            x = self._run(block, x, emb, context, features.get(f"output_blocks.{index}.1"))
        return self.out(x)

    def _run(self, block: nn.Module, *inputs: Tensor | None) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            output: Tensor = checkpoint(block, *inputs, use_reentrant=False)
            return output
        return block(*inputs)

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype in which the UNet computes."""
        return self.compute_dtype or next(self.parameters()).dtype

    def check_size(self, latent: Tensor) -> None:
        """Refuse a latent that the skip connections could not join."""
        multiple = self.unet_config.multiple
        height, width = latent.shape[-2:]
        if height % multiple or width % multiple or not height or not width:
            raise ShapeError(
                f"The latent is {height} x {width}, but both sides must be multiples of {multiple}: the UNet "
                f"halves it {len(self.unet_config.channel_mult) - 1} times. Resize the image to sides that are "
                f"multiples of {8 * multiple}."
            )

    def transformers(self) -> dict[str, SpatialTransformer]:
        """Return the transformers by path, in the order in which they run."""
        modules: dict[str, Any] = dict(self.named_modules())
        return {path: modules[path] for path in self.unet_config.transformer_paths()}
