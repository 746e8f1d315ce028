"""The state that borrowing a model must leave alone, of the stand-in and of a real webui."""

import hashlib
import random

import numpy as np
import torch

FORWARDS = ("forward", "_forward", "_conv_forward", "encode", "decode")


def digest(tensor):
    """Return a digest of dtype, shape and every bit."""
    raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return f"{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(raw).hexdigest()}"


def backups(module):
    """Return what the Lora extension keeps of a layer."""
    kept = [getattr(module, "network_current_names", ())]
    for name in ("network_weights_backup", "network_bias_backup"):
        backup = getattr(module, name, None)
        tensors = backup if isinstance(backup, tuple) else [backup]
        kept.append([None if tensor is None else digest(tensor) for tensor in tensors])
    return repr(kept)


def state_of(model, shared, networks=None, hijack=None, sd_unet=None):
    """Return a text for each name; equal texts mean that nothing has changed."""
    state = {
        f"tensor {name}": digest(tensor) for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
    for name, module in model.named_modules():
        params = getattr(module, "__webui_hypertile_params", None)
        state[f"module {name}"] = repr(
            (
                type(module).__name__,
                module.training,
                getattr(module, "padding_mode", None),
                sorted((key, id(vars(module)[key])) for key in FORWARDS if key in vars(module)),
                (len(module._forward_hooks), len(module._forward_pre_hooks)),
                None if params is None else (params.enabled, params.tile_size),
                backups(module),
            )
        )
    for name in ("alphas_cumprod", "alphas_cumprod_original"):
        if isinstance(tensor := getattr(model, name, None), torch.Tensor):
            state[name] = digest(tensor)
    state["hypernetworks"] = repr([id(entry) for entry in shared.loaded_hypernetworks])
    state["networks"] = repr([id(entry) for entry in getattr(networks, "loaded_networks", [])])
    state["fixes"] = repr(getattr(hijack, "fixes", None))
    state["engine"] = repr(id(getattr(sd_unet, "current_unet", None)))
    state["token merging"] = repr(getattr(model, "applied_token_merged_ratio", 0))
    state["chance"] = digest(torch.get_rng_state()) + str(np.random.get_state()) + str(random.getstate())
    if torch.cuda.is_available():
        state["chance of the GPU"] = digest(torch.cuda.get_rng_state())
    state["gradients"] = repr(torch.is_grad_enabled())
    return state


def changes(before, after):
    """Return the names of what has changed."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
