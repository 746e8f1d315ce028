"""Weights that are stored narrowly and widened one layer at a time, while the layer runs.

    in half precision   a CPU computes in float32, in which a head takes twice the memory of its file
    in 8 bits           each weight is a whole number from -127 to 127 times the scale of its output channel

The wide weights of a layer are dropped right after it, so that those of one layer are in memory at once. Widening
costs the same whatever the batch. The networks compute in their usual precision.

In 8 bits are the weights of all large linear layers and convolutions, 99 % of a head; biases, norms and tables of
positions keep the precision of the computation. int8 with a scale per channel is nearer to the weights than
float8: its error is 0.6 % of a trained head's weights, and that of float8 (e4m3) with the same scales 2.3 %.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ldznet.heads.network import Head, HeadConfig
from ldznet.heads.unet import UNet

_MOST = 127  # of an 8-bit weight; -128 is left out, so that both signs have the same range
_INPUTS, _OUTPUTS = 64, 32  # a layer with fewer of either keeps its weights: they are few, and matter most
_SCALE = "weight_scale"
_PART = 2**18  # weights that are widened at once: few enough to stay in a CPU's cache

Widen = Callable[[nn.Module], Mapping[str, Tensor]]  # returns the wide parameters of a layer, by name


class _WideMemory:
    """Memory for the wide weights of the layer that runs; each layer uses it again, and the run's end drops it.

    On a CPU, fresh memory for every large layer takes five times as long as the widening itself, since the system
    clears it page by page.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._most = max(parameter.numel() for parameter in module.parameters())
        self._memory: Tensor | None = None
        module.register_forward_hook(self._drop, always_call=True)

    def take(self, stored: Tensor) -> Tensor:
        """Return uninitialised memory of the shape of a stored weight, on its device."""
        if self._memory is None or self._memory.device != stored.device:
            self._memory = torch.empty(self._most, dtype=self._dtype, device=stored.device)
        return self._memory[: stored.numel()].view(stored.shape)

    def _drop(self, *_call: object) -> None:
        self._memory = None


# --- half precision ------------------------------------------------------------------------------


def store_narrow(module: UNet, storage: torch.dtype, compute: torch.dtype = torch.float32) -> None:
    """Keep the weights in `storage` from now on and compute in `compute`; for inference only.

    Args:
        storage: float16, bfloat16, or int8 for 8 bits.
    """
    if storage == torch.int8:
        store_in_8_bits(module, compute)
        return
    module.to(storage).requires_grad_(False)
    module.compute_dtype, module.stored_dtype = compute, storage
    memory = _WideMemory(module, compute)

    def widen(layer: nn.Module) -> dict[str, Tensor]:
        parameters = {name: p for name, p in layer._parameters.items() if p is not None}
        # A weight has several dimensions; what has one is small, and must not share the memory of the weight.
        return {name: memory.take(p).copy_(p) if p.ndim > 1 else p.to(compute) for name, p in parameters.items()}

    for layer in module.modules():
        if any(parameter is not None for parameter in layer._parameters.values()):
            _widen_while_running(layer, widen)


def _widen_while_running(layer: nn.Module, widen: Widen) -> None:
    """Replace parameters of a layer whenever it runs, and put the stored ones back afterwards."""
    stored: dict[str, nn.Parameter | None] = {}

    def before(layer: nn.Module, _args: object) -> None:
        stored.update(layer._parameters)
        for name, wide in widen(layer).items():
            layer._parameters[name] = nn.Parameter(wide, requires_grad=False)

    def after(layer: nn.Module, _args: object, _out: object) -> None:
        layer._parameters.update(stored)
        stored.clear()

    layer.register_forward_pre_hook(before)
    # Also when the layer raises, as when memory runs out.
    layer.register_forward_hook(after, always_call=True)


# --- 8 bits --------------------------------------------------------------------------------------


def store_in_8_bits(module: UNet, compute: torch.dtype) -> None:
    """Keep the large weights in 8 bits from now on and compute in `compute`; for inference only.

    Works on the meta device too, where it makes the places for the weights and scales of a file.
    """
    module.to(compute).requires_grad_(False)
    module.compute_dtype, module.stored_dtype = compute, torch.int8
    memory = _WideMemory(module, compute)

    def widen_weight(layer: nn.Module) -> dict[str, Tensor]:
        whole: Tensor = layer.weight  # type: ignore[assignment]
        return {"weight": _widen_into(memory.take(whole), whole, getattr(layer, _SCALE))}

    for layer in module.modules():
        if _is_large(layer):
            whole, scale = quantised(layer.weight)  # type: ignore[arg-type]
            layer.weight = nn.Parameter(whole, requires_grad=False)
            layer.register_buffer(_SCALE, scale)
            _widen_while_running(layer, widen_weight)


def _is_large(layer: nn.Module) -> bool:
    if not isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)):
        return False
    return layer.weight[0].numel() >= _INPUTS and len(layer.weight) >= _OUTPUTS


def names_in_8_bits(config: HeadConfig) -> frozenset[str]:
    """Return the names of the weights that a head in 8 bits stores as whole numbers."""
    with torch.device("meta"):
        head = Head(config)
    return frozenset(f"{path}.weight" for path, layer in head.named_modules() if _is_large(layer))


def scale_name(name: str) -> str:
    """Return the name of the scales that belong to a weight."""
    return name.removesuffix("weight") + _SCALE


def quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return a weight (O, ...) as int8 and the scales (O,), float32, of its output channels."""
    wide = weight.detach().float()
    scale = wide.flatten(1).abs().amax(dim=1) / _MOST
    # A channel of zeros has any scale, but not 0, by which nothing can be divided.
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (wide / _along(scale, wide)).round_().to(torch.int8), scale


def widened(whole: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the weight (O, ...) in `dtype` of whole numbers and scales."""
    return _widen_into(torch.empty(whole.shape, dtype=dtype, device=whole.device), whole, scale)


def _widen_into(wide: Tensor, whole: Tensor, scale: Tensor) -> Tensor:
    """Fill `wide` with the weight of whole numbers and scales, and return it."""
    # The product is rounded once, from float32. In parts: as a whole it would take the memory of the layer again.
    rows = len(whole) if whole.is_cuda else max(1, _PART // whole[0].numel())
    scales = _along(scale, whole)
    for first in range(0, len(whole), rows):
        part = slice(first, first + rows)
        torch.mul(whole[part], scales[part], out=wide[part])
    return wide


def _along(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (weight.ndim - 1))


# --- back ----------------------------------------------------------------------------------------


def wide_state(module: nn.Module, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Return all weights of a head as its network names them, in `dtype`, however they are stored."""
    return widened_state(module.state_dict(), dtype)


def widened_state(state: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Return tensors by name in `dtype`; those in 8 bits are joined with their scales."""
    result = {}
    for name, tensor in state.items():
        if tensor.dtype == torch.int8:
            result[name] = widened(tensor, state[scale_name(name)], dtype)
        elif not name.endswith(f".{_SCALE}"):
            result[name] = tensor.detach().to(dtype)
    return result
