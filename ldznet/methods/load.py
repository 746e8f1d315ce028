"""Load a Stable Diffusion model from disk, and the method for it: for `Segmenter.load` and the command line.

Inside a webui the model is borrowed instead. Importing this file loads no network.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ldznet.errors import OptionError
from ldznet.methods.registry import AUTO, HEADLESS_NAMES, method_entry

if TYPE_CHECKING:
    import torch

    from ldznet.hosts.diffusers.host import DiffusersHost
    from ldznet.hosts.host import Prediction
    from ldznet.methods.choose import MethodChoice

MODELS = Path(__file__).parents[2] / "models"  # in the repository; an installed package has none
EMBEDDED = MODELS / "tiny" / "tiny.safetensors"


def find_device(name: str | torch.device | None = None, *, local_rank: int = 0) -> torch.device:
    """Return the device of this name, or the GPU where there is one; "cuda" is the GPU of this process.

    Raises:
        OptionError: no such device, or it cannot compute.
    """
    import torch

    from ldznet.hosts.diffusers.host import default_device, own_device

    name = str(default_device()) if name is None else str(name)
    try:
        device = own_device(torch.device(name), local_rank, torch.cuda.device_count())
        torch.empty(0, device=device).cpu()  # raises for the device "meta", which holds no values
        if device.type == "cuda":
            torch.cuda.set_device(device)  # from now on "cuda" alone means this GPU, for accelerate as well
    # A PyTorch that was built without CUDA raises an AssertionError.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise OptionError(
            f"The device {name} cannot be used here ({str(error).splitlines()[0]}). Leave the device out, or give "
            "cpu."
        ) from error
    return device


def load_model(
    checkpoint: str | os.PathLike[str],
    head: str | os.PathLike[str] | None = None,
    *,
    method: str = AUTO,
    device: torch.device,
    dtype: torch.dtype,
    storage: torch.dtype | None = None,
    prediction: Prediction | None = None,
    vae: str | os.PathLike[str] | None = None,
    download: bool = False,
    folders: Sequence[str | os.PathLike[str]] = (MODELS,),
) -> tuple[DiffusersHost, MethodChoice]:
    """Load a checkpoint, and choose the method: `head`, or what `method` says, with the heads in `folders`.

    `vae` is the file of another VAE than the checkpoint's.

    Raises:
        OptionError: no method has this name, or a head is given to one that needs none. HostError,
        CheckpointError, HeadError: a file cannot be used.
    """
    from ldznet.hosts.diffusers.host import DiffusersHost
    from ldznet.methods.choose import MethodChoice, choose_method, find_heads
    from ldznet.methods.learned_head import LearnedHead

    if method != AUTO and not method_entry(method).needs_head and head is not None:
        raise OptionError(f"The method {method} needs no head: leave one of the two out.")
    learned = None
    if head is not None:  # before the model: a head is read quickly, and a wrong file is reported at once
        learned = LearnedHead.load(head, device=device, dtype=dtype, storage=storage)
    host = DiffusersHost.load(
        checkpoint, device=device, dtype=dtype, prediction=prediction, vae=vae, download=download
    )
    if learned is not None:
        return host, MethodChoice(learned, "asked for")
    heads = () if method in HEADLESS_NAMES else find_heads(folders)
    return host, choose_method(method, host.info, heads, device=device, dtype=dtype, storage=storage)
