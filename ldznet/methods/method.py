"""The interface that all ways of making a probability map share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ldznet.hosts.host import Context, Host, HostInfo
from ldznet.options import STANDARD_THRESHOLD


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
    encode: Callable[[Sequence[str]], Context]  # encodes any sentences, and keeps their contexts

    @property
    def sentences(self) -> tuple[str, ...]:
        """Return each phrase in its sentence."""
        return tuple(t.replace("{}", phrase) for t, phrase in zip(self.templates, self.phrases, strict=True))

    @property
    def context(self) -> Context:
        """Return the sentences as the text encoder returns them."""
        return self.encode(self.sentences)

    def __len__(self) -> int:
        return len(self.phrases)


@dataclass(frozen=True)
class RandomInputs:
    """The random inputs of one pass, drawn beforehand so that a method draws none itself."""

    timesteps: Tensor  # (P,)
    noise: Tensor  # (1 or P, 4, h/8, w/8)
    seed: int = 0  # of a private generator on the CPU, for a method that needs more noise


@dataclass(frozen=True)
class SuitedThreshold:
    """The threshold that suits a method, and where it comes from."""

    value: float = STANDARD_THRESHOLD
    reason: str = "never measured for this method"


@dataclass(frozen=True)
class Defaults:
    """The values that suit a method best, where the user gives no others."""

    resolution: int = 384  # the side, in pixels, of the square whose area suits it best
    timesteps: tuple[int, ...] = (400,)
    template: str = "a photo of a {}."
    threshold: SuitedThreshold = SuitedThreshold()


class Method(Protocol):
    """A strategy that turns an image and prompts into probabilities."""

    @property
    def name(self) -> str:
        """Return the name by which the user chooses it."""

    @property
    def defaults(self) -> Defaults:
        """Return the values that suit it best."""

    @property
    def needs_all_prompts(self) -> bool:
        """Return whether all prompts of an image must come in one pass, since each changes the others' maps."""

    @property
    def record(self) -> Mapping[str, Any]:
        """Return what is needed to repeat a result, in addition to the options."""

    def check(self, host: HostInfo) -> None:
        """Refuse a model that it cannot work with, before any work.

        Raises:
            HeadError, HostError: the model does not fit.
        """

    def probability(self, host: Host, encoded: EncodedImage, prompts: Prompts, inputs: RandomInputs) -> Tensor:
        """Run one pass over P prompts -> (P, h, w) float32 in [0, 1], at the size of the image's pixels."""
