"""Head files: written so that a flipped bit is noticed, and read strictly.

A head file is one .safetensors; its header holds

    ldznet.config   the HeadConfig, as JSON; with "stored_in_8_bits": true where the weights are in 8 bits
    ldznet.source   where the weights come from, as JSON
    ldznet.sha256   SHA-256 of the whole file, taken with these 64 digits set to "0"

convert.py makes one from a released checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldznet.errors import CheckpointError, NoHeadError
from ldznet.heads.model_kinds import model_kind
from ldznet.heads.narrow_storage import (
    names_in_8_bits,
    quantised,
    scale_name,
    store_in_8_bits,
    wide_state,
)
from ldznet.heads.network import Head, HeadConfig
from ldznet.heads.weight_files import TensorFile, open_tensors
from ldznet.heads.writer import IN_8_BITS, NO_DIGEST, Shapes, write_head

# --- writing -------------------------------------------------------------------------------------


def save_head(
    head: Head,
    path: str | os.PathLike[str],
    *,
    source: Mapping[str, Any],
    dtype: torch.dtype = torch.float16,
    overwrite: bool = False,
) -> str:
    """Write a head with its configuration and return the SHA-256 in its header (see above).

    Raises:
        CheckpointError: the file exists, the disk is full, or a weight does not fit into `dtype`.
    """
    state = wide_state(head) if head.stored_dtype == torch.int8 else head.state_dict()
    return write_head(Path(path), head.config, source, state, state.__getitem__, dtype, overwrite)


def write_threshold(path: str | os.PathLike[str], threshold: float) -> str:
    """Write the threshold that suits a head into the header of its file; return the new SHA-256.

    Raises:
        CheckpointError: the file is not a head file, is damaged, or cannot be written.
    """
    info = read_head_info(path)
    # The small weights of a file in 8 bits are float32, and stay so.
    head = load_head(path, dtype=torch.float32 if info.in_8_bits else None)
    dtype = torch.int8 if info.in_8_bits else next(head.parameters()).dtype
    return save_head(head, path, source={**info.source, "threshold": threshold}, dtype=dtype, overwrite=True)


# --- reading -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeadInfo:
    """The header of a head file; reading it does not read the weights."""

    path: Path
    config: HeadConfig
    source: Mapping[str, Any]
    sha256: str
    in_8_bits: bool = False


def read_head_info(path: str | os.PathLike[str]) -> HeadInfo:
    """Read the header only.

    Raises:
        NoHeadError: the file holds something else; the text says what it seems to be.
        CheckpointError: the file is damaged, or not a file of weights.
    """
    with open_tensors(path) as tensors:
        return _info(tensors)


def find_head_info(path: str | os.PathLike[str]) -> HeadInfo | None:
    """Read the header only, as `read_head_info`; None where the file holds something else, whatever it is.

    Raises:
        CheckpointError: the file is damaged, or not a file of weights.
    """
    with open_tensors(path) as tensors:
        return _info(tensors) if _has_head(tensors) else None


def _has_head(tensors: TensorFile) -> bool:
    return {"ldznet.config", "ldznet.source", "ldznet.sha256"} <= set(tensors.metadata)


def _require_head(tensors: TensorFile) -> None:
    if not _has_head(tensors):
        what = model_kind(tensors.shapes)
        advice = (
            f"Convert it once: python -m ldznet convert {tensors.path}"
            if "released layout" in what
            else "Give a head that `python -m ldznet convert` or `train` has written."
        )
        raise NoHeadError(f"{tensors.path} is not a head file; it seems to be {what}. {advice}")


def _info(tensors: TensorFile) -> HeadInfo:
    _require_head(tensors)
    metadata = tensors.metadata
    try:
        source = json.loads(metadata["ldznet.source"])
        if not isinstance(source, dict):
            raise ValueError("its source is not a JSON object")
    except (ValueError, RecursionError) as why:
        raise CheckpointError(
            f"{tensors.path} is damaged: its header cannot be read ({why}). Copy it again."
        ) from None
    config, in_8_bits = _read_config(metadata["ldznet.config"])
    return HeadInfo(tensors.path, config, source, metadata["ldznet.sha256"], in_8_bits)


def _read_config(text: str) -> tuple[HeadConfig, bool]:
    """Return the configuration of a header, and whether its head is stored in 8 bits.

    Raises:
        CheckpointError: see `HeadConfig.from_json`.
    """
    try:
        raw = json.loads(text)
        in_8_bits = raw.pop(IN_8_BITS, False) is True
    except (ValueError, TypeError, AttributeError, RecursionError):
        return HeadConfig.from_json(text), False  # raises, and says what is wrong
    return HeadConfig.from_json(json.dumps(raw)), in_8_bits


def load_head(
    path: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    in_8_bits: bool = False,
    verify: bool = True,
) -> Head:
    """Load a head in eval mode and without gradients; with `dtype` None it keeps the dtype of the file.

    A head that the file stores in 8 bits stays so, and so does any other with `in_8_bits`: `dtype` is then the
    one in which it computes, by default that of the file if it is in half precision, else float16.

    `verify` compares the SHA-256 of the file with the one in its header.

    Raises:
        CheckpointError: the file is not a head file, is damaged, holds weights that are not finite, or does not
            fit its own configuration.
    """
    path = Path(path)
    with open_tensors(path) as tensors:
        _require_head(tensors)
        if verify:  # before anything in the header is believed
            verify_digest(path, tensors.metadata["ldznet.sha256"])
        info = _info(tensors)
        head = empty_head(info.config)
        if info.in_8_bits or in_8_bits:
            state = _read_8_bits(tensors, info, head, torch.device(device), dtype)
        else:
            require_shapes(str(path), shapes_of(head), tensors.shapes)
            # A copy: what the library hands out is still a map of the file, which may be written to.
            state = {name: tensors.tensor(name).to(device, dtype, copy=True) for name in tensors.shapes}
            _require_finite(path, state)
    head.load_state_dict(state, assign=True)
    return head.eval().requires_grad_(False)


def _read_8_bits(
    tensors: TensorFile, info: HeadInfo, head: Head, device: torch.device, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """Return the weights and scales of a head in 8 bits, and give the empty `head` the places for them.

    A file in another precision is converted tensor by tensor, so that its weights are never in memory as a whole.
    """
    if not info.in_8_bits:
        require_shapes(str(info.path), shapes_of(head), tensors.shapes)
    if dtype is None:
        stored = tensors.tensor(next(iter(tensors.shapes))).dtype
        dtype = stored if stored in (torch.float16, torch.bfloat16) else torch.float16
    store_in_8_bits(head, dtype)
    if info.in_8_bits:
        require_shapes(str(info.path), shapes_of(head), tensors.shapes)
    large = names_in_8_bits(info.config)
    scales = {scale_name(name) for name in large}
    state: dict[str, Tensor] = {}
    for name in tensors.shapes:
        tensor = tensors.tensor(name)
        if name in large and info.in_8_bits:
            if tensor.dtype != torch.int8:
                raise CheckpointError(f"{info.path} holds {name} as {tensor.dtype}, not in 8 bits. Copy it again.")
            state[name] = tensor.to(device, copy=True)
        elif name in large:
            _require_finite(info.path, {name: tensor})
            # On the device, which is quicker at it than the CPU.
            state[name], state[scale_name(name)] = quantised(tensor.to(device))
        else:
            _require_finite(info.path, {name: tensor})
            state[name] = tensor.to(device, torch.float32 if name in scales else dtype, copy=True)
            _require_finite(info.path, {name: state[name]})  # again: half precision may not hold it
    return state


def _require_finite(path: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse weights that would only give masks of noise.

    Raises:
        CheckpointError: a weight is not a floating-point number, NaN or infinite.
    """
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            raise CheckpointError(f"{path} holds {name} as {tensor.dtype}, which is not a weight. Copy it again.")
        if not tensor.isfinite().all():
            raise CheckpointError(
                f"{path} holds values in {name} that are not finite in {str(tensor.dtype).removeprefix('torch.')} "
                "(NaN or infinite). Use another precision (bfloat16 or float32), or another head: the training "
                "that made this file may have failed."
            )


def empty_head(config: HeadConfig) -> Head:
    """Return a head on the meta device: names and shapes without memory."""
    with torch.device("meta"):
        return Head(config)


def shapes_of(head: Head) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of a head's tensors, in order."""
    return {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}


def verify_digest(path: Path, expected: str) -> None:
    """Compare a head file with the SHA-256 in its header.

    Raises:
        CheckpointError: they differ.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        length = file.read(8)
        header = file.read(int.from_bytes(length, "little"))
        digest.update(length)
        # The digest covers its own header, in which zeros stood while it was taken.
        digest.update(header.replace(expected.encode(), NO_DIGEST.encode(), 1))
        while chunk := file.read(2**23):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        raise CheckpointError(
            f"{path} is damaged: its content does not match the SHA-256 in its header ({expected[:12]}...). "
            "Copy, download or convert it again."
        )


def require_shapes(what: str, expected: Shapes, actual: Shapes) -> None:
    """Check that every name and every shape fits; `what` names the weights in the error.

    Raises:
        CheckpointError: lists what is missing, left over or of the wrong shape.
    """
    problems = {
        "missing": [name for name in expected if name not in actual],
        "left over": [name for name in actual if name not in expected],
        "of the wrong shape": [
            f"{name} {actual[name]} instead of {expected[name]}"
            for name in expected
            if name in actual and tuple(actual[name]) != tuple(expected[name])
        ],
    }
    if not any(problems.values()):
        return
    differences = "; ".join(
        f"{len(names)} {problem}: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"
        for problem, names in problems.items()
        if names
    )
    raise CheckpointError(
        f"{what} does not fit the network ({differences}). It belongs to another network or was cut: get the "
        "original file."
    )
