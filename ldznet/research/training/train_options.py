"""The recipe of a training: every option, with the paper's values as defaults. Nothing heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ldznet.errors import OptionError
from ldznet.options import Options, option

if TYPE_CHECKING:
    from ldznet.methods.method import Defaults


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Options):
    """A recipe. The defaults are the paper's, or the released code's where the paper is silent."""

    steps: int = option(146_000, "optimizer steps of the whole training", low=1, high=10**8)
    batch: int = option(32, "prompts per step, over all processes", low=1, high=65536)
    accumulate: int = option(1, "parts in which a process computes its share of a batch", low=1, high=1024)
    size: int = option(384, "side of the square that the network sees", low=64, high=2048, step=64)
    rate: float = option(1.6e-5, "learning rate of AdamW", low=0.0, high=1.0)
    schedule: str = option(
        "plateau",
        "plateau: halved when the training loss of an epoch is no better than two epochs before; cosine: falls to "
        "0 at the last step; constant",
        choices=("plateau", "cosine", "constant"),
    )
    warmup: int = option(0, "steps over which the rate rises from 0", low=0, high=10**6)
    weight_decay: float = option(0.01, "weight decay of AdamW", low=0.0, high=1.0)
    clip: float = option(0.0, "largest norm of a step's gradient; 0 for no limit", low=0.0, high=10**6)
    ema: float = option(0.9999, "decay of the averaged weights, which the written head has", low=0.0, high=1.0)
    precision: str = option("no", "mixed precision", choices=("no", "fp16", "bf16"))
    checkpointing: bool = option(False, "compute each block twice instead of storing it: less memory")
    timesteps: tuple[int, ...] = option(
        (300, 499), "lowest and highest timestep of the noise that the UNet sees", low=0, high=999
    )
    posterior: str = option(
        "sample", "latents are samples of the VAE's posterior, or its mean", choices=("sample", "mean")
    )
    template: str = option(
        "", "sentence around the phrase, with {} in its place; without it, a random one of nine"
    )
    crop: str = option(
        "random",
        "random: a square around the object; whole: the whole image stretched, whose latent is computed once",
        choices=("random", "whole"),
    )
    negatives: float = option(
        0.0,
        "share of the prompts that name something absent from the image, with an empty mask",
        low=0.0,
        high=1.0,
    )
    seed: int = option(0, "seed of all randomness", low=0, high=2**31 - 1)
    log_every: int = option(50, "steps between rows of metrics", low=1, high=10**6)
    save_every: int = option(1000, "steps between checkpoints", low=1, high=10**6)
    validate_every: int = option(5000, "steps between validations", low=1, high=10**6)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.timesteps) != 2 or self.timesteps[0] > self.timesteps[1]:
            raise OptionError(
                f"timesteps is {self.timesteps!r}, but it must be the lowest and the highest (default (300, 499))."
            )
        if self.template and self.template.count("{}") != 1:
            raise OptionError(f"template is {self.template!r}, but it must hold {{}} once, where the phrase goes.")
        if self.size % 64:
            raise OptionError(f"size is {self.size}, but it must be a multiple of 64 (default 384).")

    @property
    def defaults(self) -> Defaults:
        """Return the resolution, timestep and template that suit the trained head."""
        from ldznet.inference.prompts import TEMPLATES
        from ldznet.methods.method import Defaults

        low, high = self.timesteps
        return Defaults(self.size, ((low + high + 1) // 2,), self.template or TEMPLATES[0])
