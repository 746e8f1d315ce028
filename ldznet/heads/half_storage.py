"""Weights stored in half precision that compute in float32, one layer at a time.

A CPU computes in float32; a head whose weights are also stored in float32 takes twice the memory of its file. Here
the weights of a layer are widened when the layer runs and dropped right after. The widening costs the same
whatever the batch, so that with many prompts at once it hardly counts.
"""

from __future__ import annotations

import torch
from torch import nn

from ldznet.heads.unet import UNet


def store_narrow(module: UNet, storage: torch.dtype, compute: torch.dtype = torch.float32) -> None:
    """Keep the weights in `storage` from now on and compute in `compute`; for inference only."""
    module.to(storage).requires_grad_(False)
    module.compute_dtype = compute
    for layer in module.modules():
        if not any(parameter is not None for parameter in layer._parameters.values()):
            continue
        stored: dict[str, nn.Parameter | None] = {}

        def widen(layer: nn.Module, _args: object, stored: dict[str, nn.Parameter | None] = stored) -> None:
            stored.update(layer._parameters)
            for name, parameter in stored.items():
                if parameter is not None:
                    wide = parameter.to(module.compute_dtype or parameter.dtype)
                    layer._parameters[name] = nn.Parameter(wide, requires_grad=False)

        def narrow(
            layer: nn.Module, _args: object, _out: object, stored: dict[str, nn.Parameter | None] = stored
        ) -> None:
            layer._parameters.update(stored)
            stored.clear()

        layer.register_forward_pre_hook(widen)
        # Also when the layer raises, as when memory runs out.
        layer.register_forward_hook(narrow, always_call=True)
