"""Let Forge's memory manager bring our head to the device, and take it off.

The manager moves what a ModelPatcher holds. It evicts other models where there is no room, and may evict ours for
a generation. Forge calls a model that nobody but its list holds abandoned, and Neo holds it weakly, so the patcher
is kept here for as long as the head is in the list.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ldznet.hosts.forge.modules import ForgeModules

log = logging.getLogger(__name__)


class ManagedModule:
    """A module of ours in the care of Forge's memory manager."""

    def __init__(self, webui: ForgeModules, module: nn.Module) -> None:
        self._webui = webui
        self._module = module
        self._patcher: Any = None

    @contextmanager
    def on_device(self) -> Iterator[torch.device]:
        """Ask for the module to be on the device, and yield the device on which it computes.

        It stays there until the manager needs the room, or `put_away` is called.
        """
        memory = self._webui.memory
        device, cpu = torch.device(memory.get_torch_device()), torch.device("cpu")
        if self._patcher is None:
            # The manager sets attributes on what it moves, and they refer to it: not on the head itself.
            cover = nn.ModuleList([self._module])
            self._patcher = self._webui.patcher(cover, load_device=device, offload_device=cpu, current_device=cpu)
        load(memory, self._patcher, whole=True)
        if any(tensor.device.type != device.type for tensor in self._module.parameters()):
            # There is room for a part only, which plain layers cannot make use of.
            log.warning("The head does not fit on %s beside the webui's own models; it runs on the CPU.", device)
            self.put_away()
            device = cpu
        yield device

    def put_away(self) -> None:
        """Take the module off the device and out of the manager's list; nothing of the manager holds it then."""
        patcher, self._patcher = self._patcher, None
        if patcher is None:
            return
        loaded = self._webui.memory.current_loaded_models
        for index in reversed(range(len(loaded))):
            if loaded[index].model is patcher:
                loaded.pop(index).model_unload()  # moves to the patcher's offload_device
        # Forge's patcher and what it moves refer to each other; the head must not wait for the garbage collector.
        del patcher.model[:]


def load(memory: Any, patcher: Any, needed: float = 0, *, whole: bool = False) -> None:
    """Ask the manager to have a model on its device, with `needed` bytes free for computing.

    Loading the original patcher of a model also takes LoRAs and patches of a run out of it; the run's own patcher
    puts them in again. With `whole`, no part of the model may stay in the memory of the CPU, where the manager
    knows of that.
    """
    more = {"force_full_load": True} if whole and _takes_full_load(memory) else {}
    memory.load_models_gpu([patcher], memory_required=needed, **more)


def _takes_full_load(memory: Any) -> bool:
    """Return whether this is Neo's manager, which loads parts of a model."""
    return "force_full_load" in inspect.signature(memory.load_models_gpu).parameters
