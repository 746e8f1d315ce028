"""Every method, once: its name, its help, how it is made for a model, and what it costs.

The flag --method, the panel's control, the API and its limits, and the studies all read this list. Importing this
file loads neither torch nor a network: each method is imported when it is made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ldznet.errors import OptionError

if TYPE_CHECKING:
    from ldznet.hosts.host import HostInfo
    from ldznet.methods.method import Method

AUTO = "auto"


@dataclass(frozen=True)
class MethodEntry:
    """One method that a user can choose."""

    name: str
    help: str
    # Latents that go through the UNet for P prompts that run together, at one timestep and with one seed. Without
    # a HostInfo, the published values for full-size models count.
    count_passes: Callable[[int, HostInfo | None], int]
    make: Callable[[HostInfo], Method] | None = None  # None: the method is made from a head file

    @property
    def needs_head(self) -> bool:
        """Return whether the method runs a trained head."""
        return self.make is None


def _make_attention(info: HostInfo) -> Method:
    from ldznet.methods.attention import AttentionMethod

    return AttentionMethod.for_host(info)


def _make_difference(info: HostInfo) -> Method:
    from ldznet.methods.noise_difference import DifferenceMethod

    return DifferenceMethod.for_host(info)


def _count_head(prompts: int, info: HostInfo | None) -> int:
    return prompts


def _count_attention(prompts: int, info: HostInfo | None) -> int:
    from ldznet.methods.attention_options import AttentionOptions, suited_options

    options = AttentionOptions() if info is None else suited_options(info)[0]
    # The evidence predicts each noise with every prompt and with every rival.
    evidence = len(options.evidence) * options.evidence_noises * (prompts + len(options.evidence_rivals))
    return (2 if options.flip else 1) * prompts + evidence


def _count_difference(prompts: int, info: HostInfo | None) -> int:
    from ldznet.methods.noise_difference import DifferenceOptions

    return DifferenceOptions().noises * (prompts + 1)  # each noise with the empty prompt as well


METHODS = (
    MethodEntry("head", "a trained head", _count_head),
    MethodEntry("attention", "the UNet's own attention, without a head", _count_attention, _make_attention),
    MethodEntry(
        "difference",
        "where the prompt changes the UNet's noise, without a head",
        _count_difference,
        _make_difference,
    ),
)
METHOD_NAMES = (AUTO, *(entry.name for entry in METHODS))
METHOD_HELP = "; ".join(
    [
        *(f"{entry.name}: {entry.help}" for entry in METHODS),
        f"{AUTO}: a head where one fits the model, else attention",
    ]
)
# Methods that work with every model, without a head file.
HEADLESS_NAMES = tuple(entry.name for entry in METHODS if not entry.needs_head)


def method_entry(name: str) -> MethodEntry:
    """Return the method of this name.

    Raises:
        OptionError: no method has this name.
    """
    for entry in METHODS:
        if entry.name == name:
            return entry
    raise OptionError(f"The method {name!r} is not known: give one of {', '.join(METHOD_NAMES)}.")
