"""What every way of making a probability map has in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ldznet.hosts.host import Context, Host, HostInfo


@dataclass(frozen=True)
class Picture:
    """One image as the network sees it."""

    pixels: Tensor  # (1, 3, h, w) in [-1, 1]
    latent: Tensor  # (1, 4, h/8, w/8)


@dataclass(frozen=True)
class Draw:
    """The chance in one pass, drawn beforehand so that a method has none of its own."""

    timesteps: Tensor  # (P,)
    noise: Tensor  # (1 or P, 4, h/8, w/8)


class Method(Protocol):
    """A strategy that turns a picture and prompts into probabilities."""

    @property
    def name(self) -> str:
        """As the user chooses it."""

    @property
    def resolution(self) -> int:
        """The side of the square, in pixels, whose area suits it best."""

    @property
    def record(self) -> Mapping[str, Any]:
        """What is needed to repeat a result, beside the options."""

    def check(self, host: HostInfo) -> None:
        """Refuse a model that it cannot work with, before any work, with a HeadError or HostError."""

    def probability(self, host: Host, picture: Picture, context: Context, draw: Draw) -> Tensor:
        """One pass over P prompts -> (P, h, w) float32 in [0, 1], at the size of the picture's pixels."""
