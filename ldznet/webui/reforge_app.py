"""The door to reForge and Forge Classic, one of the files that import the webui's modules.

Page, settings, queue and loading are AUTOMATIC1111's; generating in one thread is Forge's; the memory manager is
ldm_patched's. Lines in comments are those of reForge 3b56b26.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ldznet.errors import HostError
from ldznet.hosts.forge.modules import ForgeModules
from ldznet.hosts.reforge.host import ReforgeHost
from ldznet.webui.forge_app import ForgeApp


class ReforgeApp(ForgeApp):
    """The door to reForge."""

    def load_model(self) -> Any:
        """Return the model that the webui's page names.

        Raises:
            HostError: there is no checkpoint, or reForge cannot load it.
        """
        from modules import sd_models, shared  # type: ignore[import-not-found]

        try:
            _ = shared.sd_model  # waits while the first model is loaded; the next line would load a second one
            sd_models.reload_model_weights()
        except Exception as why:
            raise HostError(
                f"The webui could not load its checkpoint ({str(why) or type(why).__name__}). Choose another "
                "checkpoint in the webui and try again; its log has the details."
            ) from why
        return shared.sd_model

    def device(self) -> torch.device:
        """Return the device on which the webui computes."""
        from ldm_patched.modules import model_management  # type: ignore[import-not-found]

        return torch.device(model_management.get_torch_device())

    def make_host(self, model: Any) -> Any:
        """Return the Host of a model that the webui has loaded."""
        return ReforgeHost(self._forge_modules(), model)

    def _forge_modules(self) -> ForgeModules:
        from ldm_patched.modules import model_management
        from ldm_patched.modules.model_patcher import ModelPatcher  # type: ignore[import-not-found]

        def patcher(module: nn.Module, *, load_device: Any, offload_device: Any, **_: Any) -> Any:
            return ModelPatcher(module, load_device, offload_device)

        # ldm_patched keeps no weights in streams, and tells a reloaded model by the model itself.
        return ForgeModules(model_management, None, patcher, self.current_model, str)
