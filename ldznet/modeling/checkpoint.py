"""Files of heads: written so that a flipped bit is noticed, read strictly, converted from the released layout.

A head's file is one .safetensors; its header holds

    ldznet.config   the HeadConfig, as JSON
    ldznet.source   where the weights come from, as JSON
    ldznet.sha256   SHA-256 of the whole file, taken with these 64 digits set to "0"

The released layout is a Lightning checkpoint: the head's raw weights under `model.diffusion_model.`, their
average (EMA), with which the paper predicts, under `model_ema.` with all dots taken out of the names, beside
the groups of the Stable Diffusion model, which the host has already and which are left out.

Source: the released LD-ZNet checkpoint, https://arxiv.org/abs/2303.12343
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import json
import os
import re
import shutil
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ldznet.errors import CheckpointError, ShapeError
from ldznet.modeling.head import Head, HeadConfig
from ldznet.modeling.tensorfile import (
    TensorFile,
    describe,
    open_tensors,
    process_runs,
    require_file,
    shard_number,
    verify_archive,
)
from ldznet.modeling.unet import UNetConfig

# done, total: bytes; called often while a long piece of work goes on
Progress = Callable[[int, int], None]
Shapes = Mapping[str, tuple[int, ...]]

_CHUNK = 2**23
_NO_DIGEST = "0" * 64
_TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}

_RAW = "model.diffusion_model."
_EMA = "model_ema."


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
    return _write(Path(path), head.config, source, shapes, state.__getitem__, dtype, overwrite)


def _write(
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
            "ldznet.sha256": _NO_DIGEST,
        }
    }
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + itemsize * _count(shape)
        header[name] = {"dtype": _TYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    front = struct.pack("<Q", len(text)) + text

    _require_room(path, len(front) + end, overwrite)
    with _replacing(path) as file:
        digest = hashlib.sha256(front)
        file.write(front)
        for name in shapes:
            data = _bytes_of(name, tensor(name), dtype)
            digest.update(data.data)
            file.write(data.data)
            report(data.size)
        file.seek(front.index(f'"ldznet.sha256":"{_NO_DIGEST}"'.encode()) + len('"ldznet.sha256":"'))
        file.write(digest.hexdigest().encode())
    return digest.hexdigest()


def _bytes_of(name: str, tensor: Tensor, dtype: torch.dtype) -> np.ndarray[Any, np.dtype[np.uint8]]:
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
            f"{name} reaches {whole.abs().max():.3g}, which {_name_of(dtype)} cannot hold.{wider}"
        )
    return fitted.view(-1).view(torch.uint8).numpy()


def _require_room(path: Path, size: int, overwrite: bool) -> None:
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
def _new_folders(path: Path) -> Iterator[None]:
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
        CheckpointError: this is not a head's file; the text says what it seems to be.
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
        raise CheckpointError(f"{tensors.path} is no head's file; it seems to be {what}. {advice}")


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
        digest.update(header.replace(expected.encode(), _NO_DIGEST.encode(), 1))
        while chunk := file.read(_CHUNK):
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


# --- converting ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConvertReport:
    """What `convert` wrote and what it left out."""

    path: Path
    config: HeadConfig
    weights: str
    dtype: str
    parameters: int
    bytes: int
    sha256: str
    source_sha256: str
    left_out: Mapping[str, int]  # group -> number of tensors that the host has already


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str] | None = None,
    *,
    weights: Literal["ema", "raw"] = "ema",
    dtype: torch.dtype = torch.float16,
    heads: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ConvertReport:
    """Make a head's file from a checkpoint in the released layout; by default beside it.

    `heads` is the number of attention heads, which no shape tells: 8 in the released size, to be given for
    any other. Nothing in the source is unpickled as an object, nothing of it is held in memory as a whole.

    Raises:
        CheckpointError: the source is damaged, unsafe, or something else; the text says what it seems to be.
    """
    source = Path(source)
    require_file(source)
    path = Path(target) if target is not None else source.with_name(f"{source.stem}-{weights}.safetensors")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_new_folders(path))
        _require_room(path, 0, overwrite or path.resolve() == source.resolve())
        tensors = stack.enter_context(open_tensors(source, scratch=path.parent))
        if path.resolve() in {part.resolve() for part in (source, *_parts(tensors))}:
            raise CheckpointError(f"{path} would be written over its own source. Give the new file another name.")
        names = _released_names(tensors, weights)
        config = _released_config(source, {name: tensors.shapes[key] for name, key in names.items()}, heads)
        expected = shapes_of(empty_head(config))
        require_fit(
            f"{source} ({weights} weights)",
            expected,
            {name: tensors.shapes[key] for name, key in names.items()},
        )
        size = dtype.itemsize * sum(map(_count, expected.values()))
        # All that can be refused is refused before the long reading begins.
        _require_room(path, size, overwrite)
        counter = _Counter(progress, size + sum(part.stat().st_size for part in _parts(tensors)))
        source_sha256 = _digest_of(_parts(tensors), counter)
        for part in _parts(tensors):
            verify_archive(part)
        origin = {
            "file": source.name,
            "sha256": source_sha256,
            "weights": weights,
            **{key: tensors.metadata[key] for key in ("epoch", "global_step") if key in tensors.metadata},
        }
        sha256 = _write(
            path,
            config,
            origin,
            expected,
            lambda name: tensors.tensor(names[name]),
            dtype,
            overwrite,
            counter,
        )
        return ConvertReport(
            path=path,
            config=config,
            weights=weights,
            dtype=_name_of(dtype),
            parameters=sum(map(_count, expected.values())),
            bytes=path.stat().st_size,
            sha256=sha256,
            source_sha256=source_sha256,
            left_out=_left_out(tensors.shapes),
        )


# What a head has and a Stable Diffusion model has not, in both namings.
_OF_A_HEAD = re.compile(r"diffusion_model\.?final\.?\d|attentionpool2D|attn3")


def _released_names(tensors: TensorFile, weights: str) -> dict[str, str]:
    """The head's own name -> the name in the file."""
    shapes = tensors.shapes
    if part := shard_number(tensors.path):
        raise CheckpointError(
            f"{tensors.path} seems to be part {part} of a sharded checkpoint. Give its .index.json, with all "
            "parts beside it."
        )
    raw = {name.removeprefix(_RAW): name for name in shapes if name.startswith(_RAW)}
    averaged = {name.removeprefix(_EMA): name for name in shapes if name.startswith(_EMA)}
    if "ldznet.config" in tensors.metadata:
        raise CheckpointError(f"{tensors.path} is a converted head already. Use it as it is.")
    if not any(_OF_A_HEAD.search(name) for name in shapes):
        raise CheckpointError(
            f"{tensors.path} holds no LD-ZNet head; it seems to be {describe(shapes)}. Give the released "
            "LD-ZNet checkpoint, whose tensors are called model.diffusion_model.* and model_ema.*."
        )
    if weights == "raw":
        if not raw:
            raise CheckpointError(
                f"{tensors.path} has averaged (EMA) weights only, no raw ones. Convert it without --raw."
            )
        return raw
    if not averaged:
        raise CheckpointError(
            f"{tensors.path} has no averaged (EMA) weights (model_ema.*), with which the paper predicts. "
            "Convert its raw weights instead: add --raw."
        )
    # Dots are gone from the names, so they are matched against names that are known: those of the raw
    # weights, or of the released structure when the file has only the average.
    known = raw or shapes_of(empty_head(HeadConfig()))
    dotless = {f"diffusion_model{name}".replace(".", ""): name for name in known}
    counters = {"decay", "num_updates"}
    # A name that matches nothing is kept, so that it is listed as left over.
    return {dotless.get(name, name): key for name, key in averaged.items() if name not in counters}


def _released_config(path: Path, shapes: Shapes, heads: int | None) -> HeadConfig:
    """The structure of the head in a released file."""
    known = shapes_of(empty_head(HeadConfig()))  # names are the same at every width
    try:
        # Any number of heads that divides every width will do until the right one is known.
        unet = UNetConfig.from_shapes(shapes, heads=1)
        if heads is not None and heads >= 1:
            unet = dataclasses.replace(unet, heads=heads)
    except ShapeError as why:
        missing = [name for name in known if name not in shapes]
        extra = [name for name in shapes if name not in known]
        listed = (
            f"{len(missing)} tensors are missing: {', '.join(missing[:8])}{' ...' if len(missing) > 8 else ''}; "
            if missing
            else ""
        )
        listed += f"{len(extra)} are left over: {', '.join(extra[:8])}; " if extra else ""
        if heads is not None and not listed and "attention heads" in str(why):
            raise CheckpointError(
                f"{heads} attention heads do not divide the widths of this head, which start at "
                f"{shapes['input_blocks.0.0.weight'][0]} channels. Check --heads."
            ) from why
        raise CheckpointError(f"The head in {path} is not complete or damaged ({listed}{why})") from why
    if heads is not None and heads < 1:
        raise CheckpointError(f"--heads is {heads}, but it must be at least 1. The released head has 8.")
    if heads is None and unet.model_channels != 320:
        raise CheckpointError(
            f"This head is {unet.model_channels} channels wide; the released one has 320. The number of its "
            "attention heads cannot be seen in the file: give it (--heads)."
        )
    unet = dataclasses.replace(unet, heads=8 if heads is None else heads, in_channels=4, out_channels=1)
    table = re.compile(r"(.+)\.attentionpool2D\.positional_embedding")
    grids = {
        found[1]: round((shape[1] - 1) ** 0.5)
        for name, shape in shapes.items()
        if (found := table.fullmatch(name)) and len(shape) == 2 and shape[1] > 1
    }
    kind: Literal["ld-znet", "znet", "rgbnet"] = (
        "ld-znet" if grids else "rgbnet" if "stem.0.weight" in shapes else "znet"
    )
    return HeadConfig(kind=kind, unet=unet, pool_grids=grids)


def _left_out(shapes: Shapes) -> dict[str, int]:
    groups: dict[str, int] = {}
    for name in shapes:
        group = name.split(".")[0] if "." in name else "schedule"
        if group not in ("model", "model_ema"):
            groups[group] = groups.get(group, 0) + 1
    return groups


class _Counter:
    """Adds up bytes and tells `progress`."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self, more: int) -> None:
        self.done += more
        if self.progress is not None:
            self.progress(self.done, self.total)


def _parts(tensors: TensorFile) -> list[Path]:
    """The files that a checkpoint consists of."""
    path = tensors.path
    if not path.name.endswith(".index.json"):
        return [path]
    return [path.parent / name for name in sorted(set(json.loads(path.read_text())["weight_map"].values()))]


def _digest_of(paths: Iterable[Path], report: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                report(len(chunk))
    return digest.hexdigest()


def _count(shape: Iterable[int]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
