"""Files of heads: written so that a flipped bit is noticed, and read strictly.

A head's file is one .safetensors; its header holds

    ldznet.config   the HeadConfig, as JSON
    ldznet.source   where the weights come from, as JSON
    ldznet.sha256   SHA-256 of the whole file, taken with these 64 digits set to "0"

conversion.py makes one of a released checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ldznet.errors import CheckpointError, NoHeadError
from ldznet.heads.network import Head, HeadConfig
from ldznet.heads.weight_files import (
    TensorFile,
    describe,
    open_tensors,
)
from ldznet.heads.writer import CHUNK, NO_DIGEST, Shapes, write_head

# --- writing -------------------------------------------------------------------------------------


def save_head(
    head: Head,
    path: str | os.PathLike[str],
    *,
    source: Mapping[str, Any],
    dtype: torch.dtype = torch.float16,
    overwrite: bool = False,
) -> str:
    """Write a head with its configuration; returns the file's SHA-256 (see above).

    Raises:
        CheckpointError: the file exists, the disk is full, or a weight does not fit into `dtype`.
    """
    state = head.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    return write_head(Path(path), head.config, source, shapes, state.__getitem__, dtype, overwrite)


# --- reading -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeadInfo:
    """What a head's header says; reading it does not read the weights."""

    path: Path
    config: HeadConfig
    source: Mapping[str, Any]
    sha256: str


def read_head_info(path: str | os.PathLike[str]) -> HeadInfo:
    """Read the header only.

    Raises:
        NoHeadError: this is the file of something else; the text says what it seems to be.
        CheckpointError: it is damaged, or none of weights.
    """
    with open_tensors(path) as tensors:
        return _info(tensors)


def _require_head(tensors: TensorFile) -> None:
    metadata = tensors.metadata
    if not {"ldznet.config", "ldznet.source", "ldznet.sha256"} <= set(metadata):
        what = describe(tensors.shapes)
        advice = (
            f"Convert it once: python -m ldznet convert {tensors.path}"
            if "released layout" in what
            else "Give a head that `python -m ldznet convert` or `train` has written."
        )
        raise NoHeadError(f"{tensors.path} is no head's file; it seems to be {what}. {advice}")


def _info(tensors: TensorFile) -> HeadInfo:
    _require_head(tensors)
    metadata = tensors.metadata
    try:
        source = json.loads(metadata["ldznet.source"])
    except (ValueError, RecursionError):
        raise CheckpointError(f"{tensors.path} is damaged: its header cannot be read. Copy it again.") from None
    return HeadInfo(
        tensors.path, HeadConfig.from_json(metadata["ldznet.config"]), source, metadata["ldznet.sha256"]
    )


def load_head(
    path: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    verify: bool = True,
) -> Head:
    """Load a head, in eval mode and without gradients; `dtype` None keeps the file's.

    `verify` compares the file's SHA-256 with the one in its header.

    Raises:
        CheckpointError: no head's file, damaged, or names and shapes that do not fit its configuration.
    """
    path = Path(path)
    with open_tensors(path) as tensors:
        _require_head(tensors)
        if verify:  # before anything in the header is believed
            verify_digest(path, tensors.metadata["ldznet.sha256"])
        head = empty_head(_info(tensors).config)
        require_fit(str(path), shapes_of(head), tensors.shapes)
        # A copy: what the library hands out is still a map of the file, which may be written to.
        state = {name: tensors.tensor(name).to(device, dtype, copy=True) for name in tensors.shapes}
    if wrong := [name for name, tensor in state.items() if not tensor.is_floating_point()]:
        raise CheckpointError(
            f"{path} holds {wrong[0]} as {state[wrong[0]].dtype}, which is no weight. Copy it again."
        )
    head.load_state_dict(state, assign=True)
    return head.eval().requires_grad_(False)


def empty_head(config: HeadConfig) -> Head:
    """A head on the meta device: names and shapes without memory."""
    with torch.device("meta"):
        return Head(config)


def shapes_of(head: Head) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a head's tensors, in order."""
    return {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}


def verify_digest(path: Path, expected: str) -> None:
    """Compare a head's file with the SHA-256 in its header.

    Raises:
        CheckpointError: they differ.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        length = file.read(8)
        header = file.read(struct.unpack("<Q", length)[0])
        digest.update(length)
        digest.update(header.replace(expected.encode(), NO_DIGEST.encode(), 1))
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        raise CheckpointError(
            f"{path} is damaged: its content does not match the SHA-256 in its header ({expected[:12]}...). "
            "Copy, download or convert it again."
        )


def require_fit(what: str, wanted: Shapes, given: Shapes) -> None:
    """Every name and every shape must fit.

    Raises:
        CheckpointError: lists what is missing, left over or of the wrong shape.
    """
    problems = {
        "missing": [name for name in wanted if name not in given],
        "left over": [name for name in given if name not in wanted],
        "of the wrong shape": [
            f"{name} {given[name]} instead of {wanted[name]}"
            for name in wanted
            if name in given and tuple(given[name]) != tuple(wanted[name])
        ],
    }
    if not any(problems.values()):
        return
    listed = "; ".join(
        f"{len(names)} {problem}: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"
        for problem, names in problems.items()
        if names
    )
    raise CheckpointError(
        f"{what} does not fit the network ({listed}). It belongs to another network or was cut: get the "
        "original file."
    )
