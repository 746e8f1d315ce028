"""Layers of a webui's model compute inside a block what their classes say, whatever was put over single ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

# Attributes of a class that extensions overlay on single modules: Hypertile, ControlNet, tiled VAEs, older LoRAs.
_FORWARDS = ("forward", "_forward", "_conv_forward")


@contextmanager
def own_forwards(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let each module run the code of its class, which has the webui's own patches, such as those of attention."""
    with ExitStack() as undo:
        for module in modules:
            own = vars(module)  # an attribute of the instance hides that of the class
            for name in _FORWARDS:
                if name in own and hasattr(type(module), name):
                    undo.callback(own.__setitem__, name, own.pop(name))
        yield


@contextmanager
def zero_padding(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Pad with zeros: tiling makes the padding circular, until a run without tiling (sd_hijack.py:311)."""
    with ExitStack() as undo:
        for module in modules:
            if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
                undo.enter_context(replaced(module, "padding_mode", "zeros"))
        yield


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give an attribute another value inside the block."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
