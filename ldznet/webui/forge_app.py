"""The door to Forge and Forge Neo: with a1111_app.py the only files that import the webui's modules.

Forge has AUTOMATIC1111's page, settings and queue; its model, its memory and its threads differ. File names and
lines in comments are those of Forge dfdcbab.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ldznet.errors import HostError
from ldznet.hosts.forge.host import ForgeHost
from ldznet.hosts.forge.memory import ManagedModule
from ldznet.hosts.forge.modules import ForgeModules
from ldznet.methods.learned_head import Carrier
from ldznet.webui.a1111_app import A1111App
from ldznet.webui.app import Result


class ForgeApp(A1111App):
    """The door to Forge and Forge Neo."""

    def run_exclusively(self, work: Callable[[], Result]) -> Result:
        """Call `work` under the webui's `queue_lock`, in the thread in which Forge generates."""
        return super().run_exclusively(lambda: run_in_main_thread(work))

    # --- the model -----------------------------------------------------------------------------------

    def load_model(self) -> Any:
        """Return the model that the webui's page names; before the first generation none is loaded.

        Raises:
            HostError: there is no checkpoint, or Forge cannot load it.
        """
        from modules import sd_models  # type: ignore[import-not-found]

        data = sd_models.model_data
        if not data.forge_loading_parameters:  # with --nowebui no page has filled them in
            from modules_forge import main_entry  # type: ignore[import-not-found]

            main_entry.refresh_model_loading_parameters()
        if data.sd_model is None:
            # Loading broke off. Forge has no model now, but returns it as the loaded one where the checkpoint of
            # before is chosen again.
            data.forge_hash = ""
        try:
            return sd_models.forge_model_reload()[0]
        except Exception as why:
            raise HostError(
                f"The webui could not load its checkpoint ({str(why) or type(why).__name__}). Choose another "
                "checkpoint in the webui and try again; its log has the details."
            ) from why

    def current_model(self) -> Any:
        """Return the model that the webui has loaded, None before the first generation."""
        from modules import sd_models

        model = sd_models.model_data.sd_model
        return model if hasattr(model, "forge_objects_original") else None

    def device(self) -> torch.device:
        """Return the device on which the webui computes."""
        from backend import memory_management  # type: ignore[import-not-found]

        return torch.device(memory_management.get_torch_device())

    def room_maker(self, model: Any) -> None:
        """Return None: Forge's memory manager makes room by itself."""

    def make_host(self, model: Any) -> Any:
        """Return the Host of a model that the webui has loaded."""
        return ForgeHost(self._forge_modules(), model)

    def carrier(self, module: nn.Module, device: torch.device) -> Carrier | None:
        """Return what lets Forge's memory manager move a module; None for a device that is not Forge's."""
        # --ldznet-device may name another GPU, where Forge has nothing.
        return ManagedModule(self._forge_modules(), module) if device == self.device() else None

    def _forge_modules(self) -> ForgeModules:
        from backend import memory_management, operations
        from backend.patcher.base import ModelPatcher  # type: ignore[import-not-found]
        from modules import sd_models

        def loaded_as() -> str:
            text: str = sd_models.model_data.forge_hash
            return text

        return ForgeModules(memory_management, operations, ModelPatcher, self.current_model, loaded_as)


def run_in_main_thread(work: Callable[[], Result]) -> Result:
    """Call `work` in Forge's main thread, which alone loads and runs models for the page.

    Forge prints an exception of such work and returns None instead (main_thread.py:34); here it is raised.
    """
    # A run's hooks are in that thread already; waiting for it there would never end.
    if threading.current_thread() is threading.main_thread():
        return work()
    from modules_forge import main_thread

    results: list[Result] = []
    errors: list[BaseException] = []

    def keep_outcome() -> None:
        try:
            results.append(work())
        except BaseException as why:
            errors.append(why)

    main_thread.run_and_wait_result(keep_outcome)
    if errors:
        raise errors.pop()
    return results.pop()
