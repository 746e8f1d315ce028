"""Open any file of weights safely, without holding it in memory.

Safetensors are read tensor by tensor; pickled.py reads pickled checkpoints. Knows nothing of heads and models.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
from torch import Tensor

from ldznet.errors import CheckpointError
from ldznet.heads.pickled import read_pickled, require_stored


@dataclass(frozen=True)
class TensorFile:
    """The tensors of one checkpoint; `tensor` reads one by its name."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    tensor: Callable[[str], Tensor]
    metadata: Mapping[str, str]  # of a safetensors header, or the plain values beside a state dict


@contextlib.contextmanager
def open_tensors(path: str | os.PathLike[str]) -> Iterator[TensorFile]:
    """Open a checkpoint of any kind; its content decides the kind, not its name.

    Raises:
        CheckpointError: the file is missing, damaged, unsafe or holds no tensors.
    """
    path = Path(path)
    kind = _kind(path)
    if kind == "index":
        with _open_sharded(path) as tensors:
            yield tensors
    elif kind == "safetensors":
        with _open_safetensors(path) as tensors:
            yield tensors
    else:
        weights, values = read_pickled(path, archive=kind == "zip")
        shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        yield TensorFile(path, shapes, lambda name: require_stored(path, name, weights[name]), values)


def require_file(path: Path) -> None:
    """Refuse what cannot be a file of weights, by its first bytes.

    Raises:
        CheckpointError: the file is missing, empty, a folder, a pipe, or of another kind.
    """
    _kind(path)


# The first bytes of files that people take for weights -> what they are
_NOT_WEIGHTS: tuple[tuple[bytes, str], ...] = (
    (rb"\s*<(!doctype|html)", "a web page (a download page was saved instead of the file)"),
    (rb"\s*version https://git-lfs", "a Git LFS pointer (git cloned the name, not the content; run git lfs pull)"),
    (rb"gguf", "a GGUF file, which ldznet does not read"),
    # PyTorch before 0.1.10 wrote tar files.
    (rb".{257}ustar", "a tar archive, as PyTorch wrote in 2016, which ldznet does not read"),
    # As Python 2 wrote them. PyTorch has only ever written protocol 2 and reads nothing older safely.
    (
        rb"\((dp|lp|[ci]\w)|c[\w.]+\n\w+\n|[}\]]q\x00|\(?[}\]]q\x01",
        "a pickle of protocol 0 or 1, which cannot be read safely",
    ),
)


def _kind(path: Path) -> str:
    """Return "index", "zip", "safetensors" or "pickle", by a file's first bytes."""
    try:
        if path.is_dir():
            inside = "a model in diffusers' layout" if (path / "model_index.json").is_file() else "a folder"
            raise CheckpointError(f"{path} is {inside}, not a file. Give the checkpoint file itself.")
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path} is a device or a pipe, not a file. Give the checkpoint file itself.")
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist. Check the path.") from None
    except OSError as why:
        raise CheckpointError(f"{path} cannot be read: {why.strerror}. Check its permissions.") from why
    if not status.st_size:
        raise CheckpointError(
            f"{path} is empty (0 bytes): the download or copy did not work. Fetch the file again."
        )
    if is_index(path.name):
        return "index"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    # A safetensors file begins with the length of its header in 8 bytes, and the header with a brace.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return "safetensors"
    if head[:1] == b"\x80":
        return "pickle"
    what = "not a kind of file that ldznet reads (safetensors, or a checkpoint that PyTorch saved)"
    for pattern, kind in _NOT_WEIGHTS:
        if re.match(pattern, head, re.IGNORECASE | re.DOTALL):
            what = kind
            break
    raise CheckpointError(f"{path} is {what}. Fetch the file again, or give another one.")


@contextlib.contextmanager
def _open_safetensors(path: Path) -> Iterator[TensorFile]:
    try:
        file = safetensors.safe_open(str(path), framework="pt")
    except (safetensors.SafetensorError, OSError) as why:
        raise CheckpointError(
            f"{path} is a damaged or truncated safetensors file ({why}). Fetch or copy it again."
        ) from why
    with file as opened:
        # It has checked the header, whose shapes it gives much more slowly, tensor by tensor.
        with path.open("rb") as raw:
            header = json.loads(raw.read(int.from_bytes(raw.read(8), "little")))
        shapes = {name: tuple(header[name]["shape"]) for name in opened.keys()}  # noqa: SIM118
        yield TensorFile(path, shapes, opened.get_tensor, opened.metadata() or {})


@contextlib.contextmanager
def _open_sharded(path: Path) -> Iterator[TensorFile]:
    try:
        weight_map: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
        if any(map(is_index, names)):
            raise ValueError("an index lists an index")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as why:
        raise CheckpointError(
            f"{path} is not an index of a sharded checkpoint: it has no weight_map. Fetch it again."
        ) from why
    if any(Path(name).name != name for name in names):
        raise CheckpointError(
            f"{path} names parts outside its own folder, which no honest index does. Do not use it."
        )
    if missing := [name for name in names if not (path.parent / name).is_file()]:
        raise CheckpointError(
            f"{path} lists {len(names)} parts, but {len(missing)} of them are missing beside it: "
            f"{', '.join(missing[:5])}. Fetch the missing parts."
        )
    with contextlib.ExitStack() as stack:
        parts = {name: stack.enter_context(open_tensors(path.parent / name)) for name in names}
        if missing := [name for name, part in weight_map.items() if name not in parts[part].shapes]:
            raise CheckpointError(
                f"{path} lists {len(missing)} tensors that its parts do not hold, first {missing[0]}. The parts "
                "belong to another index: fetch all of them again."
            )
        shapes = {name: parts[part].shapes[name] for name, part in weight_map.items()}
        yield TensorFile(path, shapes, lambda name: parts[weight_map[name]].tensor(name), {})


def is_index(name: str) -> bool:
    """Return whether a file of this name lists the parts of a sharded checkpoint, such as x.index.fp16.json."""
    return re.search(r"\.index(\.\w+)?\.json$", name) is not None


def shard_number(path: Path) -> str | None:
    """Return "2 of 3" when the name is that of one part of a sharded checkpoint, else None."""
    match = re.search(r"-(\d{5})-of-(\d{5})\.", path.name)
    return f"{int(match[1])} of {int(match[2])}" if match else None
