"""A training run in a small file, from which another one goes on: `--pack` writes it, `--go-on` reads it.

It has the averages of the stages that are trained so far, the UNet's large weights in 8 bits, all others in half
precision. What the optimisers remember is left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldznet.errors import OptionError
from ldznet.files import atomic_path
from ldznet.heads.narrow_storage import quantised, scale_name, widened_state
from ldznet.heads.weight_files import open_tensors
from ldznet.research.embedded.autoencoder import average_of
from ldznet.research.embedded.model import TinyConfig, TinyModel
from ldznet.research.embedded.resumable_stage import is_given, save_whole
from ldznet.research.scenes.icons import IconWorld

__all__ = ["is_packed", "pack", "unpack_run"]

_KEY = "ldznet.run"  # of the file's metadata
_STAGES = ("encoder", "decoder", "text", "unet")
_LARGE = 4096  # numbers of a weight from which it is kept in 8 bits


def pack(folder: Path, target: Path, config: TinyConfig, world: IconWorld) -> dict[str, Any]:
    """Write the stages that `folder` has trained so far; return what was written.

    A decoder that is not done is left out: nothing needs it before the end, and it is trained anew.

    Raises:
        OptionError: there are none yet.
    """
    from safetensors.torch import save_file

    stages = [stage for stage in _STAGES if (folder / f"{stage}.pt").exists()]
    if "decoder" in stages and not _is_done(folder / "decoder.pt", config.decoder_steps):
        stages.remove("decoder")
    if not stages:
        raise OptionError(
            f"{folder} holds no trained stage to pack. Train one first, or give its folder to --out."
        )
    tensors: dict[str, Tensor] = {}
    for stage in stages:
        for name, tensor in _own(stage, average_of(folder, stage)).items():
            if stage == "unet" and tensor.ndim > 1 and tensor.numel() >= _LARGE:
                tensors[f"unet.{name}"], tensors[scale_name(f"unet.{name}")] = quantised(tensor)
            else:
                tensors[f"{stage}.{name}"] = tensor.half()
    header = json.dumps({"stages": stages, "words": world.vocabulary})
    with atomic_path(target) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, {_KEY: header})
    return {"written": str(target), "stages": stages, "megabytes": target.stat().st_size / 1e6}


def is_packed(path: Path) -> bool:
    """Return whether a file is a packed run, and not a model.

    Raises:
        CheckpointError: the file cannot be read.
    """
    if path.is_dir():
        return False
    with open_tensors(path) as file:
        return _KEY in file.metadata


def unpack_run(path: Path, folder: Path, config: TinyConfig, world: IconWorld) -> None:
    """Lay out a packed run in `folder`: the UNet starts from its weights, and no other stage is trained again.

    Raises:
        OptionError: it was trained with other words or another structure, or `folder` has trained an encoder.
    """
    if (folder / "encoder.pt").exists() and not is_given(folder / "encoder.pt"):
        raise OptionError(
            f"{folder} has trained an encoder, and {path} has another one, so that its UNet would have to learn "
            "anew what latents mean. Give another --out."
        )
    with open_tensors(path) as file:
        header = json.loads(file.metadata[_KEY])
        tensors = {name: file.tensor(name) for name in file.shapes}
    folder.mkdir(parents=True, exist_ok=True)
    model = TinyModel(config, folder / "tokenizer", world.vocabulary)
    expected = {name: tensor.shape for name, tensor in model.unet.state_dict().items()}
    weights = widened_state(tensors)
    unet = {name.removeprefix("unet."): t for name, t in weights.items() if name.startswith("unet.")}
    same_shapes = expected == {name: tensor.shape for name, tensor in unet.items()}
    if header["words"] != list(world.vocabulary) or (unet and not same_shapes):
        raise OptionError(
            f"{path} was trained with other words or another structure than this version's, so its training "
            "cannot continue. Leave --go-on out."
        )
    for stage in header["stages"]:
        # A run without a UNet is laid out by every command that goes on from it; what these have trained stays.
        if stage != "unet" and not (folder / f"{stage}.pt").exists():
            own = {n.removeprefix(f"{stage}."): t for n, t in weights.items() if n.startswith(f"{stage}.")}
            save_whole({"average": own}, folder / f"{stage}.pt")
    if unet:
        save_whole(unet, folder / "start.pt")


def _is_done(path: Path, steps: int) -> bool:
    return is_given(path) or torch.load(path, map_location="cpu", weights_only=True)["step"] >= steps


def _own(stage: str, average: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what belongs to a stage alone: not the decoder that is thrown away, nor the frozen text encoder."""
    if stage == "unet":
        return {n.removeprefix("unet."): t for n, t in average.items() if n.startswith("unet.")}
    return {name: tensor for name, tensor in average.items() if not name.startswith(("light.", "contrast."))}
