"""What every way of making a probability map has in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ldznet.hosts.host import Context, Host, HostInfo


@dataclass(frozen=True)
class EncodedImage:
    """One image as the network sees it."""

    pixels: Tensor  # (1, 3, h, w) in [-1, 1]
    latent: Tensor  # (1, 4, h/8, w/8)


@dataclass(frozen=True)
class Prompts:
    """The prompts of one pass."""

    phrases: tuple[str, ...]  # as the user wrote them
    templates: tuple[str, ...]  # the sentence around each; {} stands for the phrase
    encode: Callable[[Sequence[str]], Context]  # any sentences, whose contexts are then kept

    @property
    def sentences(self) -> tuple[str, ...]:
        """Each phrase in its sentence."""
        return tuple(t.replace("{}", phrase) for t, phrase in zip(self.templates, self.phrases, strict=True))

    @property
    def context(self) -> Context:
        """The sentences as the text encoder returns them."""
        return self.encode(self.sentences)

    def __len__(self) -> int:
        return len(self.phrases)


@dataclass(frozen=True)
class RandomInputs:
    """The chance in one pass, drawn beforehand so that a method has none of its own."""

    timesteps: Tensor  # (P,)
    noise: Tensor  # (1 or P, 4, h/8, w/8)
    seed: int = 0  # for a method that needs more noise: of a private generator on the CPU


@dataclass(frozen=True)
class Defaults:
    """What a method does best with, where the user asks for nothing else."""

    resolution: int = 384  # the side of the square, in pixels, whose area suits it best
    timesteps: tuple[int, ...] = (400,)
    template: str = "a photo of a {}."


class Method(Protocol):
    """A strategy that turns a picture and prompts into probabilities."""

    @property
    def name(self) -> str:
        """As the user chooses it."""

    @property
    def defaults(self) -> Defaults:
        """What it does best with."""

    @property
    def needs_all_prompts(self) -> bool:
        """Whether all prompts of a picture must come in one pass, since each changes what the others find."""

    @property
    def record(self) -> Mapping[str, Any]:
        """What is needed to repeat a result, beside the options."""

    def check(self, host: HostInfo) -> None:
        """Refuse a model that it cannot work with, before any work, with a HeadError or HostError."""

    def probability(self, host: Host, picture: EncodedImage, prompts: Prompts, draw: RandomInputs) -> Tensor:
        """One pass over P prompts -> (P, h, w) float32 in [0, 1], at the size of the picture's pixels."""
