"""List the files of a model on disk, and read the UNet's weights in them, from which a head can start."""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from ldznet.errors import HostError
from ldznet.heads.weight_files import open_tensors
from ldznet.hosts.diffusers.configuration import read_configuration
from ldznet.hosts.diffusers.part_names import UNET
from ldznet.hosts.diffusers.tokenizers import tokenizer_folders
from ldznet.hosts.diffusers.unet_names import original_unet_names

# diffusion_pytorch_model.fp16.safetensors, model.safetensors.index.fp16.json, pytorch_model.bin ...
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?P<variant>\.[a-z]\w*)??"
    r"\.(?P<form>safetensors|bin)(?:\.index(?P<index_variant>\.\w+)?\.json)?"
)


def model_files(path: Path) -> list[Path]:
    """Return all files that a model is loaded from, and on which its masks therefore depend.

    Raises:
        HostError: the .yaml next to the checkpoint is not a configuration.
    """
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.is_file())
    configuration = path.with_suffix(".yaml")
    folders = tokenizer_folders(path, read_configuration(path))
    tokenizers = [p for folder in folders if folder.is_dir() for p in sorted(folder.iterdir()) if p.is_file()]
    # The parts of a sharded checkpoint lie next to their index.
    parts = sorted(path.parent.glob("*-of-*")) if path.name.endswith(".index.json") else []
    return [path, *parts, *([configuration] if configuration.is_file() else []), *tokenizers]


def weights_file(folder: Path, part: str) -> Path:
    """Return the file, or the index of the files, with the weights of one part of a model in diffusers' layout.

    Whole weights come before variants such as fp16, and safetensors before .bin, which is read safely, too.

    Raises:
        HostError: the folder holds no weights; `part` says whose, as in "UNet".
    """

    def rank(match: re.Match[str]) -> tuple[bool, bool, bool, str]:
        # False sorts before True; the name decides last, so that the choice is the same on every system.
        variant = match["variant"] or match["index_variant"] or ""
        return variant != "", variant != ".fp16", match["form"] == "bin", match.string

    names = [path.name for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    matches = sorted(filter(None, map(_WEIGHTS.fullmatch, names)), key=rank)
    if not matches:
        raise HostError(
            f"The {part} is missing: {folder} holds no weights, such as {_usual_name(folder)}. Copy the folder "
            f"{folder.name} from where the model came from, or from another model of the same kind."
        )
    return folder / matches[0].string


def _usual_name(folder: Path) -> str:
    stem = "model" if folder.name.startswith("text_encoder") else "diffusion_pytorch_model"
    return f"{stem}.safetensors"


def unet_state(path: Path) -> dict[str, Tensor]:
    """Return the UNet's tensors of a checkpoint by their original names, in float32, for a head to start from.

    `path` is a file in the original layout or a folder in diffusers'.

    Raises:
        CheckpointError: the file cannot be read. HostError: it holds no UNet that ldznet knows.
    """
    if path.is_dir():
        with open_tensors(weights_file(path / "unet", "UNet")) as file:
            renamed = original_unet_names(file.shapes)
            return {renamed[name]: file.tensor(name).float() for name in file.shapes}
    with open_tensors(path) as file:
        names = [name for name in file.shapes if name.startswith(UNET)]
        if not names:
            raise HostError(
                f"{path} holds no UNet in the original layout (model.diffusion_model.*), from which a head could "
                "start. Give the checkpoint as one .safetensors or .ckpt file, or start from random weights."
            )
        return {name.removeprefix(UNET): file.tensor(name).float() for name in names}
