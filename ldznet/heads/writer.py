"""Write a head file (format: head_file.py) whole or not at all, with a digest in its header."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ldznet.errors import CheckpointError
from ldznet.files import atomic_path, digest_of, remove_leftovers
from ldznet.heads.narrow_storage import names_in_8_bits, quantised, scale_name
from ldznet.heads.network import HeadConfig

Shapes = Mapping[str, tuple[int, ...]]
Report = Callable[[int], None]  # gets the number of bytes that were read or written

NO_DIGEST = "0" * 64  # stands in the header while the digest is taken
# The key in the JSON of a configuration whose head is stored in 8 bits. Versions that do not know it refuse the
# file by it, and say that another version of ldznet has written it.
IN_8_BITS = "stored_in_8_bits"


def write_head(
    path: Path,
    config: HeadConfig,
    source: Mapping[str, Any],
    names: Iterable[str],
    tensor: Callable[[str], Tensor],
    dtype: torch.dtype,
    overwrite: bool,
    report: Report = lambda _bytes: None,
) -> str:
    """Write a head file and return its digest; `tensor` reads one weight by name.

    With int8 as `dtype` the head is stored in 8 bits (narrow_storage.py), and its small weights in float32. All
    weights are in memory at once as they are stored, because safetensors writes a file from a dict.

    Raises:
        CheckpointError: `path` exists and `overwrite` is False, a weight cannot be stored, or the disk is full.
    """
    metadata = {
        "format": "pt",
        "ldznet.config": _config_text(config, dtype),
        "ldznet.source": json.dumps(dict(source), sort_keys=True),
        "ldznet.sha256": NO_DIGEST,
    }
    try:
        weights: dict[str, Tensor] = {}
        large = names_in_8_bits(config) if dtype == torch.int8 else frozenset()
        for name in names:
            wide = fitted_weight(name, tensor(name), torch.float32 if dtype == torch.int8 else dtype)
            if name in large:
                weights[name], weights[scale_name(name)] = quantised(wide)
            else:
                weights[name] = wide
            report(weights[name].nbytes)
        require_room(path, sum(weight.nbytes for weight in weights.values()), overwrite)
        with atomic_path(path, overwrite=overwrite) as temporary:
            safetensors.torch.save_file(weights, temporary, metadata)
            # safetensors writes metadata in random order. Sorted, the same head always has the same digest.
            _write_header(temporary, NO_DIGEST)
            digest = digest_of([temporary])
            _write_header(temporary, digest)
    except FileExistsError:
        raise _exists(path) from None
    except (OSError, safetensors.SafetensorError) as why:
        raise CheckpointError(
            f"{path} could not be written ({getattr(why, 'strerror', None) or why}). No file was left there. "
            "Check the disk and the permissions of the folder."
        ) from why
    return digest


def _config_text(config: HeadConfig, dtype: torch.dtype) -> str:
    """Return the configuration as JSON, with the mark of a head in 8 bits."""
    raw = json.loads(config.to_json())
    if dtype == torch.int8:
        raw[IN_8_BITS] = True
    return json.dumps(raw, sort_keys=True)


def stored_bytes(config: HeadConfig, shapes: Shapes, dtype: torch.dtype) -> int:
    """Return the bytes of a head's weights in a file, without the scales of 8 bits, which are few."""
    if dtype != torch.int8:
        return dtype.itemsize * sum(map(math.prod, shapes.values()))
    large = names_in_8_bits(config)
    return sum(math.prod(shape) * (1 if name in large else 4) for name, shape in shapes.items())


def _write_header(path: Path, digest: str) -> None:
    """Write the header again, sorted and with `digest`, over the one that safetensors wrote."""
    with path.open("rb+") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted({**header["__metadata__"], "ldznet.sha256": digest}.items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= size, "the weights begin at a fixed place after the header"
        file.seek(8)
        file.write(text.ljust(size))


def fitted_weight(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a copy of a weight in `dtype`, on the CPU.

    Raises:
        CheckpointError: the tensor holds no plain, finite floating-point numbers, or `dtype` cannot hold them.
    """
    if not tensor.is_floating_point():
        raise CheckpointError(
            f"{name} holds {tensor.dtype}, but weights are floating-point numbers. The file was quantised, or "
            "is damaged: get the original."
        )
    if tensor.is_meta or tensor.layout != torch.strided:
        raise CheckpointError(f"{name} is a {tensor.layout} tensor without plain values. Get the original file.")
    # Always a copy: safetensors refuses tensors that share memory, such as two names of one weight.
    fitted = tensor.detach().to("cpu", dtype, copy=True).contiguous()
    if fitted.isfinite().all():
        return fitted
    exact = tensor.detach().to("cpu", torch.float64)
    if not exact.isfinite().all():
        raise CheckpointError(
            f"{name} holds values that are not numbers (NaN or infinite): the training that made the file "
            "had failed, or the file is damaged. Get another one."
        )
    advice = " Use bfloat16 or float32 instead." if dtype == torch.float16 else " The file is damaged."
    dtype_name = str(dtype).removeprefix("torch.")
    raise CheckpointError(f"{name} reaches {exact.abs().max():.3g}, which {dtype_name} cannot hold.{advice}")


def require_room(path: Path, size: int, overwrite: bool) -> None:
    """Check before any work that `size` bytes can be written to `path`; make missing folders.

    Raises:
        CheckpointError: the file exists, it is not a plain file, or the disk has too little room.
    """
    try:
        if path.is_dir():
            raise CheckpointError(f"{path} is a folder. Give the name of the file to write.")
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path} is a device or a pipe and was not changed. Give the name of a file.")
        if os.path.lexists(path) and not overwrite:
            raise _exists(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)  # before the free room is measured: a killed conversion may fill the disk
        free = shutil.disk_usage(path.parent).free
        tempfile.TemporaryFile(dir=path.parent).close()
        with contextlib.suppress(FileNotFoundError):
            path.lstat()  # raises OSError where the name is too long
    except OSError as why:
        raise CheckpointError(
            f"{path} cannot be written: {why.strerror}. Choose another folder or a shorter name."
        ) from why
    if free < size:
        raise CheckpointError(
            f"{path} needs {size / 1e9:.2f} GB, but its disk has {free / 1e9:.2f} GB left. Make room there or "
            "write elsewhere."
        )


def _exists(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} exists already and was not changed. Give another name, or allow overwriting (--force)."
    )


@contextlib.contextmanager
def new_folders(path: Path) -> Iterator[None]:
    """Remove the folders that the block made for `path` when the block raises."""
    missing = [folder for folder in path.parents if not os.path.lexists(folder)]
    try:
        yield
    except BaseException:
        for folder in missing:
            with contextlib.suppress(OSError):  # not empty, or never made
                folder.rmdir()
        raise
