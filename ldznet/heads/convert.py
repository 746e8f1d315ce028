"""Make a head file (head_file.py) from a checkpoint in the released layout.

The released checkpoint was written by Lightning. It holds the raw weights of the head under
`model.diffusion_model.` and their average (EMA), with which the paper predicts, under `model_ema.` with no dots in
the names. The parts of the Stable Diffusion model in it are left out: the host has them already.

Source: the released LD-ZNet checkpoint, https://arxiv.org/abs/2303.12343
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from ldznet.errors import CheckpointError, ShapeError
from ldznet.files import digest_of
from ldznet.heads.head_file import empty_head, require_shapes, shapes_of
from ldznet.heads.model_kinds import model_kind
from ldznet.heads.network import HeadConfig
from ldznet.heads.pickled import verify_archive
from ldznet.heads.unet import UNetConfig
from ldznet.heads.weight_files import TensorFile, open_tensors, require_file, shard_number
from ldznet.heads.writer import Shapes, new_folders, require_room, stored_bytes, write_head

# done, total: bytes; called often during a long piece of work
Progress = Callable[[int, int], None]
DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "int8": torch.int8,  # 8 bits, with a scale per output channel: narrow_storage.py
}

_RAW = "model.diffusion_model."
_EMA = "model_ema."


@dataclass(frozen=True)
class ConvertReport:
    """The result of `convert`: what it wrote and what it left out."""

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
    """Make a head file from a checkpoint in the released layout, by default in the checkpoint's folder.

    `heads` is the number of attention heads, which no shape shows: 8 in the released size, required for any other.
    No object in the source is unpickled. The source is mapped, so that the peak of memory is the head alone,
    unless its records are compressed.

    Raises:
        CheckpointError: the source is damaged, unsafe, or something else; the text says what it seems to be.
    """
    source = Path(source)
    require_file(source)
    path = Path(target) if target is not None else source.with_name(f"{source.stem}-{weights}.safetensors")
    with contextlib.ExitStack() as stack:
        stack.enter_context(new_folders(path))
        require_room(path, 0, overwrite or path.resolve() == source.resolve())
        tensors = stack.enter_context(open_tensors(source))
        if path.resolve() in {part.resolve() for part in (source, *_parts(tensors))}:
            raise CheckpointError(f"{path} would be written over its own source. Give the new file another name.")
        names = _released_names(tensors, weights)
        config = _released_config(source, {name: tensors.shapes[key] for name, key in names.items()}, heads)
        expected = shapes_of(empty_head(config))
        require_shapes(
            f"{source} ({weights} weights)",
            expected,
            {name: tensors.shapes[key] for name, key in names.items()},
        )
        parameters = sum(map(math.prod, expected.values()))
        size = stored_bytes(config, expected, dtype)
        # Everything that can be refused is refused before the long reading begins.
        require_room(path, size, overwrite)
        counter = _Counter(progress, size + sum(part.stat().st_size for part in _parts(tensors)))
        source_sha256 = digest_of(_parts(tensors), counter)
        for part in _parts(tensors):
            verify_archive(part)
        origin = {
            "file": source.name,
            "sha256": source_sha256,
            "weights": weights,
            **{key: tensors.metadata[key] for key in ("epoch", "global_step") if key in tensors.metadata},
        }
        sha256 = write_head(
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
            dtype=str(dtype).removeprefix("torch."),
            parameters=parameters,
            bytes=path.stat().st_size,
            sha256=sha256,
            source_sha256=source_sha256,
            left_out=_left_out(tensors.shapes),
        )


# Layers that a head has and a Stable Diffusion model does not have, in both namings.
_OF_A_HEAD = re.compile(r"diffusion_model\.?final\.?\d|attentionpool2D|attn3")


def _released_names(tensors: TensorFile, weights: str) -> dict[str, str]:
    """Return {name in the head: name in the file}."""
    shapes = tensors.shapes
    if part := shard_number(tensors.path):
        raise CheckpointError(
            f"{tensors.path} seems to be part {part} of a sharded checkpoint. Give its .index.json, with all "
            "parts beside it."
        )
    raw = {name.removeprefix(_RAW): name for name in shapes if name.startswith(_RAW)}
    averaged = {name.removeprefix(_EMA): name for name in shapes if name.startswith(_EMA)}
    if {"ldznet.config", "ldznet.sha256"} <= tensors.metadata.keys():
        raise CheckpointError(f"{tensors.path} is a converted head already. Use it as it is.")
    if not any(_OF_A_HEAD.search(name) for name in shapes):
        raise CheckpointError(
            f"{tensors.path} holds no LD-ZNet head; it seems to be {model_kind(shapes)}. Give the released "
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
    # A name that matches nothing stays as it is, so that it is listed as left over.
    return {dotless.get(name, name): key for name, key in averaged.items() if name not in counters}


def _released_config(path: Path, shapes: Shapes, heads: int | None) -> HeadConfig:
    """Return the structure of the head in a released file."""
    known = shapes_of(empty_head(HeadConfig()))  # names are the same at every width
    try:
        # Any number of heads that divides every width will do until the right one is known.
        unet = UNetConfig.from_shapes(shapes, heads=1)
        if heads is not None and heads >= 1:
            unet = dataclasses.replace(unet, heads=heads)
    except ShapeError as why:
        missing = [name for name in known if name not in shapes]
        extra = [name for name in shapes if name not in known]
        differences = (
            f"{len(missing)} tensors are missing: {', '.join(missing[:8])}{' ...' if len(missing) > 8 else ''}; "
            if missing
            else ""
        )
        differences += f"{len(extra)} are left over: {', '.join(extra[:8])}; " if extra else ""
        if heads is not None and not differences and "attention heads" in str(why):
            raise CheckpointError(
                f"{heads} attention heads do not divide the widths of this head, which start at "
                f"{shapes['input_blocks.0.0.weight'][0]} channels. Check --heads."
            ) from why
        raise CheckpointError(f"The head in {path} is not complete or damaged ({differences}{why})") from why
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
        match[1]: round((shape[1] - 1) ** 0.5)
        for name, shape in shapes.items()
        if (match := table.fullmatch(name)) and len(shape) == 2 and shape[1] > 1
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
    """Add up bytes and report them to `progress`."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self, more: int) -> None:
        self.done += more
        if self.progress is not None:
            self.progress(self.done, self.total)


def _parts(tensors: TensorFile) -> list[Path]:
    """Return the files that a checkpoint consists of."""
    path = tensors.path
    if not path.name.endswith(".index.json"):
        return [path]
    return [
        path.parent / name
        for name in sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
    ]
