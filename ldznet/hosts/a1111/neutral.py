"""Bring the webui's model into the state that its checkpoint describes, for the length of a block.

A run leaves changes in the model, or has made them for its own sampling, that would change our result: networks
(LoRA) in the weights, hypernetworks, merged tokens, tiles, circular padding, forwards that extensions replaced,
another engine in the UNet's place. Each function below switches one of them off and puts it back, bit for bit,
however the block ends.

Nothing of the webui is imported here: `WebuiModules` has its modules. file:line in comments are of 1.10.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ldznet.errors import HostError
from ldznet.hosts.neutral_layers import own_forwards, replaced, zero_padding


@dataclass(frozen=True)
class WebuiModules:
    """The modules of the webui that a host works with; webui/app.py imports them."""

    devices: Any
    lowvram: Any
    sd_hijack: Any
    sd_models: Any
    sd_unet: Any
    shared: Any
    open_clip_tokenizer: Any
    networks: Any  # of the built-in Lora extension; None if that is off


def text_part(model: Any) -> Any:
    """Return the part of the model that reads text; for Stable Diffusion XL it is the conditioner."""
    conditioner = getattr(model, "conditioner", None)
    return model.cond_stage_model if conditioner is None else conditioner


@contextmanager
def neutral(webui: WebuiModules, model: Any) -> Iterator[None]:
    """Let the model compute what its checkpoint says inside the block, on the webui's device.

    Raises:
        HostError: the model's weights are gone.
    """
    parts = (model.model, model.first_stage_model, text_part(model))  # UNet, VAE, text encoders
    modules = [module for part in parts for module in part.modules()]
    with ExitStack() as undo:
        undo.enter_context(_emptied(webui.shared.loaded_hypernetworks))
        if webui.networks is not None:
            undo.enter_context(_emptied(webui.networks.loaded_networks))
        undo.enter_context(replaced(webui.sd_hijack.model_hijack, "fixes", None))  # textual inversions
        undo.enter_context(replaced(webui.sd_unet, "current_unet", None))  # TensorRT and its like
        undo.enter_context(_without_token_merging(webui, model))
        undo.enter_context(own_forwards(modules))
        undo.enter_context(zero_padding(modules))
        undo.enter_context(_original_weights(modules))
        # Entered last and undone first; the exchange of weights copies between any devices.
        undo.enter_context(_in_place(webui, model, parts))
        yield


@contextmanager
def _emptied(entries: list[Any]) -> Iterator[None]:
    """Empty a list inside the block; the list itself stays, since the webui holds it under several names."""
    content = list(entries)
    entries.clear()
    try:
        yield
    finally:
        entries[:] = content


@contextmanager
def _without_token_merging(webui: WebuiModules, model: Any) -> Iterator[None]:
    """Switch off token merging, which is on from before `process` to the end of a run (processing.py:841, 850)."""
    ratio = getattr(model, "applied_token_merged_ratio", 0)
    webui.sd_models.apply_token_merging(model, 0)
    try:
        yield
    finally:
        webui.sd_models.apply_token_merging(model, ratio)


@contextmanager
def _original_weights(modules: Iterable[Any]) -> Iterator[None]:
    """Exchange the weights that LoRA has written for the copies of the originals that it keeps.

    The Lora extension changes a layer's weights when the layer runs, notes for which networks, and keeps a copy
    on the CPU (Lora/networks.py:411). With the originals in their place, and its list of networks empty, it has
    nothing to do. Nothing is computed again afterwards, and no more memory is needed than that of one layer.
    """
    with ExitStack() as undo:
        for module in modules:
            names = getattr(module, "network_current_names", ())
            if names == ():  # no network has touched this layer
                continue
            undo.callback(setattr, module, "network_current_names", names)
            module.network_current_names = ()
            for owner, name, original in _copies(module):
                current = getattr(owner, name)
                if original is None:  # a bias that a network added
                    undo.callback(setattr, owner, name, current)
                    setattr(owner, name, None)
                else:
                    undo.callback(_exchange, current, original)
                    _exchange(current, original)
        yield


def _copies(module: Any) -> Iterator[tuple[Any, str, Tensor | None]]:
    """Yield owner, name and original of each weight whose original is kept."""
    weights = getattr(module, "network_weights_backup", None)
    bias = getattr(module, "network_bias_backup", None)
    if weights is None and bias is None:
        return
    owner = module
    if isinstance(weights, tuple):  # nn.MultiheadAttention, of OpenCLIP's text encoders
        owner = module.out_proj
        yield module, "in_proj_weight", weights[0]
        yield owner, "weight", weights[1]
    elif weights is not None:
        yield owner, "weight", weights
    if getattr(owner, "bias", None) is not None:
        yield owner, "bias", bias


def _exchange(one: Tensor, other: Tensor) -> None:
    """Exchange the values of two tensors, whatever devices they are on."""
    with torch.no_grad():
        copy = one.detach().to(other.device, copy=True)
        one.copy_(other)
        other.copy_(copy)


@contextmanager
def _in_place(webui: WebuiModules, model: Any, parts: Iterable[nn.Module]) -> Iterator[None]:
    """Bring to the device what was swapped to the CPU's memory; with --medvram and --lowvram hooks do that.

    Raises:
        HostError: the model's weights are gone.
    """
    device = torch.device(webui.devices.device)
    with ExitStack() as undo:
        for part in parts:
            home = next(part.parameters()).device
            if home.type == "meta":
                raise HostError(
                    "The weights of the Stable Diffusion model are gone: the webui has unloaded it. Choose a "
                    "checkpoint in the webui, wait until it is loaded, and try again."
                )
            if model.lowvram or home.type == device.type:
                continue
            undo.callback(part.to, home)
            part.to(device)
        if model.lowvram:  # the hooks bring parts to the device, and leave the last one there
            undo.callback(webui.lowvram.send_everything_to_cpu)
        yield
