"""Writing a head's file (see checkpoint.py): whole or not at all, tensor by tensor, a digest in its header."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import math
import os
import shutil
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldznet.errors import CheckpointError
from ldznet.heads.network import HeadConfig
from ldznet.heads.weight_files import process_runs

Shapes = Mapping[str, tuple[int, ...]]

CHUNK = 2**23  # bytes that are read or written at a time
NO_DIGEST = "0" * 64  # stands in the header while the digest is taken
_TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}


def write_head(
    path: Path,
    config: HeadConfig,
    source: Mapping[str, Any],
    shapes: Shapes,
    tensor: Callable[[str], Tensor],
    dtype: torch.dtype,
    overwrite: bool,
    report: Callable[[int], None] = lambda _bytes: None,
) -> str:
    """Write tensor by tensor, so that no more than one of them is in memory.

    The safetensors library writes from a dict of all tensors at once; its format is a length, a JSON header
    and the bytes, so this is all there is to it.
    """
    assert sys.byteorder == "little"
    itemsize = torch.empty(0, dtype=dtype).element_size()
    header: dict[str, Any] = {
        "__metadata__": {
            "format": "pt",
            "ldznet.config": config.to_json(),
            "ldznet.source": json.dumps(dict(source), sort_keys=True),
            "ldznet.sha256": NO_DIGEST,
        }
    }
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + itemsize * count(shape)
        header[name] = {"dtype": _TYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    front = struct.pack("<Q", len(text)) + text

    require_room(path, len(front) + end, overwrite)
    with _replacing(path) as file:
        digest = hashlib.sha256(front)
        file.write(front)
        for name in shapes:
            data = bytes_of(name, tensor(name), dtype)
            digest.update(data.data)
            file.write(data.data)
            report(data.size)
        file.seek(front.index(f'"ldznet.sha256":"{NO_DIGEST}"'.encode()) + len('"ldznet.sha256":"'))
        file.write(digest.hexdigest().encode())
    return digest.hexdigest()


def bytes_of(name: str, tensor: Tensor, dtype: torch.dtype) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A weight as it stands in the file.

    Raises:
        CheckpointError: it is no plain, finite floating-point tensor, or does not fit into `dtype`.
    """
    if not tensor.is_floating_point():
        raise CheckpointError(
            f"{name} holds {tensor.dtype}, but weights are floating-point numbers. The file was quantised, or "
            "is damaged: get the original."
        )
    if tensor.is_meta or tensor.layout != torch.strided:
        raise CheckpointError(f"{name} is a {tensor.layout} tensor without plain values. Get the original file.")
    fitted = tensor.detach().to("cpu", dtype).contiguous()
    if not fitted.isfinite().all():
        whole = tensor.detach().to("cpu", torch.float64)
        if not whole.isfinite().all():
            raise CheckpointError(
                f"{name} holds values that are not numbers (NaN or infinite): the training that made the file "
                "had failed, or the file is damaged. Get another one."
            )
        wider = " Use bfloat16 or float32 instead." if dtype == torch.float16 else " The file is damaged."
        raise CheckpointError(
            f"{name} reaches {whole.abs().max():.3g}, which {name_of(dtype)} cannot hold.{wider}"
        )
    return fitted.view(-1).view(torch.uint8).numpy()


def require_room(path: Path, size: int, overwrite: bool) -> None:
    """See before any work that so many bytes can be written there.

    Raises:
        CheckpointError: it is taken, no place for a file, or the disk has too little room.
    """
    try:
        if path.is_dir():
            raise CheckpointError(f"{path} is a folder. Give the name of the file to write.")
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path} is a device or a pipe, which stays as it is. Give the name of a file.")
        if os.path.lexists(path) and not overwrite:
            raise CheckpointError(
                f"{path} exists already and was left as it is. Give another name, or allow overwriting (--force)."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        with _partial(path).open("wb"):
            pass
        _partial(path).unlink()
    except OSError as why:
        raise CheckpointError(
            f"{path} cannot be written: {why.strerror}. Choose another folder or a shorter name."
        ) from why
    if free < size:
        raise CheckpointError(
            f"{path} needs {size / 1e9:.2f} GB, but its disk has {free / 1e9:.2f} GB left. Make room there or "
            "write elsewhere."
        )


@contextlib.contextmanager
def new_folders(path: Path) -> Iterator[None]:
    """The folders that are made for a file go again when it is not written."""
    missing = [folder for folder in path.parents if not os.path.lexists(folder)]
    try:
        yield
    except BaseException:
        for folder in missing:
            with contextlib.suppress(OSError):  # not empty, or never made
                folder.rmdir()
        raise


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Any]:
    """A new file beside `path` that takes its name when all went well and vanishes otherwise."""
    partial = _partial(path)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        if not process_runs(left.name.split(".")[-2]):  # what a killed conversion left
            left.unlink(missing_ok=True)
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as why:
        raise CheckpointError(
            f"{path} could not be written: {why.strerror or why}. Nothing was left behind; check the disk and "
            "the folder's permissions."
        ) from why
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def count(shape: Iterable[int]) -> int:
    """How many numbers a tensor holds."""
    return math.prod(shape)


def name_of(dtype: torch.dtype) -> str:
    """Without "torch."."""
    return str(dtype).removeprefix("torch.")


def digest_of(paths: Iterable[Path], report: Callable[[int], None] = lambda _bytes: None) -> str:
    """SHA-256 of some files, one after the other; `report` gets the bytes of each piece."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                report(len(chunk))
    return digest.hexdigest()
