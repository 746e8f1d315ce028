"""Capture outputs of the UNet's layers with hooks, and stop the UNet as soon as all of them are there.

The hooks are on the transformers themselves, not on the blocks around them: later layers of the same block, such
as an upsampling, must not be in the feature, and some webuis walk the layers of a block themselves. A hook fires
in every thread that runs the UNet; threads other than the capture's own are ignored.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from ldznet.errors import FeatureError


class _EnoughError(Exception):
    """Leave the UNet's forward pass; caught by the capture that it was raised for."""


class _Capture:
    def __init__(self, names: frozenset[str], early_exit: bool) -> None:
        self.thread = threading.get_ident()
        self.names = names
        self.early_exit = early_exit
        self.features: dict[str, Tensor] = {}

    @property
    def done(self) -> bool:
        return self.early_exit and self.names <= self.features.keys()


class _Active(threading.local):
    """The captures that are open in this thread; nested ones share a pass, which ends when all have enough."""

    def __init__(self) -> None:
        self.captures: list[_Capture] = []


_active = _Active()


@contextmanager
def capture(modules: Mapping[str, nn.Module], *, early_exit: bool = True) -> Iterator[dict[str, Tensor]]:
    """Collect each module's output by name while the UNet runs once inside the block.

    With `early_exit` the rest of the pass is skipped, and with it the rest of the block: put nothing after the
    call of the UNet. The features are the same, bit for bit. The hooks are removed however the block ends. Other
    threads that run the UNet meanwhile are not affected.

    Raises:
        FeatureError: the block ended, but some of the modules were never called.
    """
    mine = _Capture(frozenset(modules), early_exit)
    with ExitStack() as undo:
        for name, module in modules.items():

            def keep(_module: nn.Module, _args: object, output: object, name: str = name) -> None:
                if threading.get_ident() != mine.thread:
                    return
                # diffusers' transformers answer with a tuple
                feature = output[0] if isinstance(output, tuple) else output
                assert isinstance(feature, Tensor)
                mine.features[name] = feature
                # Nested captures share the pass, so it goes on until the last of them has its features.
                if all(capture.done for capture in _active.captures):
                    raise _EnoughError

            undo.callback(module.register_forward_hook(keep).remove)
        _active.captures.append(mine)
        undo.callback(_active.captures.remove, mine)
        try:
            yield mine.features
        except _EnoughError:
            if not mine.done:
                raise
    if silent := sorted(modules.keys() - mine.features.keys()):
        raise FeatureError(
            f"The UNet ran, but {len(silent)} of {len(modules)} layers were never called, first "
            f"{silent[0]}. This webui, or another extension, runs the UNet in its own way. "
            "Switch other extensions off and try again; if it stays, report your webui's version."
        )
