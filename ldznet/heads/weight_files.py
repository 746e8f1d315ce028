"""Reading any file of weights: safely, without holding it in memory, and saying what it seems to be.

Safetensors are read tensor by tensor. A pickled checkpoint (.ckpt, .pt, .bin) is read with
`weights_only=True`, so that no code in it runs, and memory-mapped where its records are stored as they
are. Knows nothing of heads: `describe` tells kinds of files apart by the names of their tensors.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import pickle
import platform
import re
import shutil
import stat
import struct
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from ldznet.errors import CheckpointError


@dataclass(frozen=True)
class TensorFile:
    """The tensors of one checkpoint; `tensor` reads them one by one."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    tensor: Callable[[str], Tensor]
    metadata: Mapping[str, str]  # of a safetensors header, or the plain values beside a state dict


@contextlib.contextmanager
def open_tensors(path: str | os.PathLike[str], scratch: Path | None = None) -> Iterator[TensorFile]:
    """Open a checkpoint of any kind; the kind is told by its content, not by its name.

    `scratch` is the folder for the uncompressed copy that a compressed archive needs (default: the
    system's folder for temporary files).

    Raises:
        CheckpointError: the file is missing, damaged, unsafe or holds no tensors.
    """
    path = Path(path)
    kind = _kind(path)
    if kind == "index":
        with _open_sharded(path, scratch) as tensors:
            yield tensors
    elif kind == "safetensors":
        with _open_safetensors(path) as tensors:
            yield tensors
    else:
        with _open_pickle(path, scratch) as tensors:
            yield tensors


def require_file(path: Path) -> None:
    """Refuse what is no file of weights at all, before anything else is done.

    Raises:
        CheckpointError: missing, empty, a folder, a pipe, or of another kind.
    """
    _kind(path)


# --- temporary things and who made them ----------------------------------------------------------


def process_mark() -> str:
    """This machine and process, for the name of something temporary."""
    return f"{_machine()}-{os.getpid()}"


def remove_leftovers(folder: Path, prefix: str) -> None:
    """Remove the folders PREFIX MARK ... whose process, of this machine, was killed before it could."""
    for left in folder.glob(f"{glob.escape(prefix + _machine())}-*"):
        pid = re.match(r"\d+", left.name.removeprefix(f"{prefix}{_machine()}-"))
        if pid and not process_runs(pid[0]):
            shutil.rmtree(left, ignore_errors=True)


def _machine() -> str:
    return re.sub(r"\W", "_", platform.node())


def process_runs(pid: str) -> bool:
    """Whether a process with this number runs; where that cannot be told, it does."""
    if not pid.isdecimal() or os.name == "nt":
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


# --- kinds of files ------------------------------------------------------------------------------


def _kind(path: Path) -> str:
    try:
        if path.is_dir():
            inside = "a model in diffusers' layout" if (path / "model_index.json").is_file() else "a folder"
            raise CheckpointError(f"{path} is {inside}, not a file. Give the checkpoint file itself.")
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise CheckpointError(f"{path} is a device or a pipe, not a file. Give the checkpoint file itself.")
        size = found.st_size
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist. Check the path.") from None
    except OSError as why:
        raise CheckpointError(f"{path} cannot be read: {why.strerror}. Check its permissions.") from why
    if not size:
        raise CheckpointError(
            f"{path} is empty (0 bytes): the download or copy did not work. Fetch the file again."
        )
    if path.name.endswith(".index.json"):
        return "index"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 2**32:
        return "safetensors"
    if head[:1] == b"\x80":
        return "pickle"
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html")):
        what = "a web page (a download page was saved instead of the file)"
    elif text.startswith(b"version https://git-lfs"):
        what = "a Git LFS pointer (git cloned the name, not the content; run git lfs pull)"
    elif text.startswith(b"gguf"):
        what = "a GGUF file, which ldznet does not read"
    else:
        what = "none of the kinds that ldznet reads (safetensors, or a checkpoint that PyTorch saved)"
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
        shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        yield TensorFile(path, shapes, opened.get_tensor, opened.metadata() or {})


@contextlib.contextmanager
def _open_pickle(path: Path, scratch: Path | None) -> Iterator[TensorFile]:
    with contextlib.ExitStack() as stack:
        source, mapped = path, False
        if _kind(path) == "zip":
            if compressed := _zip_compressed(path):
                source = stack.enter_context(_stored_copy(path, compressed, scratch))
            mapped = True
        content = _unpickle(path, source, mapped)
        state = content.get("state_dict", content) if isinstance(content, Mapping) else {}
        tensors = {
            name: value
            for name, value in (state.items() if isinstance(state, Mapping) else ())
            if isinstance(name, str) and isinstance(value, Tensor)
        }
        if not tensors:
            raise CheckpointError(
                f"{path} holds no tensors under names, so it is no model's weights. Give another file."
            )
        metadata = {
            key: str(value)
            for key, value in content.items()
            if isinstance(key, str) and isinstance(value, (int, float, str))
        }
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        yield TensorFile(path, shapes, tensors.__getitem__, metadata)


def _zip_compressed(path: Path) -> int:
    """The number of bytes after unpacking if any record is compressed, else 0.

    PyTorch maps compressed records without an error and reads noise, so this must be known before.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except Exception as why:  # a broken directory can make the parser raise anything
        raise CheckpointError(
            f"{path} is a truncated or damaged PyTorch archive ({why}): the end of the file is missing or "
            "broken. Fetch or copy it again."
        ) from why
    if all(record.compress_type == zipfile.ZIP_STORED for record in records):
        return 0
    return sum(record.file_size for record in records)


@contextlib.contextmanager
def _stored_copy(path: Path, size: int, scratch: Path | None) -> Iterator[Path]:
    """The same archive with its records uncompressed and aligned, so that it can be memory-mapped."""
    with contextlib.ExitStack() as stack:
        try:
            remove_leftovers(scratch or Path(tempfile.gettempdir()), "ldznet-")
            made = tempfile.TemporaryDirectory(prefix=f"ldznet-{process_mark()}-", dir=scratch)
            folder = stack.enter_context(made)
            free = shutil.disk_usage(folder).free
        except OSError as why:
            raise CheckpointError(
                f"{path} is a compressed archive and must be unpacked, but {scratch or 'the temporary folder'} "
                f"cannot be written ({why.strerror}). Choose another folder for the result."
            ) from why
        if free < size + 2**20:
            raise CheckpointError(
                f"{path} is a compressed archive; unpacking it needs {size / 1e9:.1f} GB in {folder}, where "
                f"{free / 1e9:.1f} GB are free. Make room there."
            )
        copy = Path(folder) / "stored.ckpt"
        try:
            _store(path, copy)
        except Exception as why:  # zlib, zipfile and the disk each have errors of their own
            raise CheckpointError(f"{path} is a damaged PyTorch archive ({why}). Fetch or copy it again.") from why
        yield copy


def _store(path: Path, copy: Path) -> None:
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(copy, "w") as target:
        for record in source.infolist():
            info = zipfile.ZipInfo(record.filename)
            # The data starts 30 bytes and the name after the record; a filler field brings it to a
            # multiple of 64, as PyTorch writes it.
            assert target.fp is not None
            start = target.fp.tell() + 30 + len(record.filename.encode())
            gap = -(start + 4) % 64
            info.extra = struct.pack("<HH", 0x4246, gap) + bytes(gap)
            with source.open(record) as packed, target.open(info, "w") as stored:
                shutil.copyfileobj(packed, stored, 2**22)


def verify_archive(path: Path, report: Callable[[int], None] = lambda _bytes: None) -> None:
    """Compare the records of a PyTorch archive with their checksums, which PyTorch itself does not do.

    Other kinds of files pass: they have none. So does an archive that was written without checksums, in which
    none fits.

    Raises:
        CheckpointError: a record is damaged.
    """
    if _kind(path) != "zip":
        return
    bad = 0
    with zipfile.ZipFile(path) as archive:
        records = [record for record in archive.infolist() if record.file_size]
        for record in records:
            try:
                with archive.open(record) as file:
                    while chunk := file.read(2**22):
                        report(len(chunk))
            except Exception:  # zlib and zipfile each have errors of their own
                bad += 1
    if 0 < bad < len(records):
        raise CheckpointError(
            f"{path} is damaged: {bad} of its {len(records)} records do not match their checksums. Fetch or copy "
            "it again."
        )


class _Inert:
    """Stands for an object of a training library: takes anything, does nothing."""

    def __init__(self, *_args: object, **_kwargs: object) -> None: ...

    def __setstate__(self, _state: object) -> None: ...


class _InertDict:
    """The same for objects that are filled like a dict, which PyTorch allows for its own kinds only."""

    def __new__(cls, *_args: object, **_kwargs: object) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


# What training programs leave in a checkpoint beside its weights. Never made: inert classes stand in.
_HARMLESS = re.compile(
    r"(pytorch_lightning|lightning|lightning_fabric|omegaconf|torchmetrics|numpy|ldm|typing|pathlib|argparse"
    r"|collections|ruamel)\.[\w.]+|builtins\.(bool|bytes|complex|dict|float|int|list|set|str|tuple)"
)
_DICTS = re.compile(r".*\.(\w*Dict|defaultdict)")


def _unpickle(path: Path, source: Path, mapped: bool) -> Any:
    options: dict[str, Any] = {"map_location": "cpu", "weights_only": True}
    if mapped:
        options["mmap"] = True
    with contextlib.ExitStack() as stack:
        stack.enter_context(_quiet())
        if mapped and hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
            with contextlib.suppress(Exception):  # what is wrong with the file is said by the load below
                found = torch.serialization.get_unsafe_globals_in_checkpoint(source)
                stand_ins: list[Any] = [
                    (_InertDict if _DICTS.fullmatch(name) else _Inert, name)
                    for name in found
                    if _HARMLESS.fullmatch(name)
                ]
                stack.enter_context(torch.serialization.safe_globals(stand_ins))
        try:
            # Not torch.load: AUTOMATIC1111 has put another one there, which gives None for files it does not know.
            return torch.serialization.load(str(source), **options)
        except pickle.UnpicklingError as why:
            named = re.search(r"GLOBAL (\S+)", str(why)) or re.search(r"global[: ]+`?([\w.]+)", str(why))
            if named is None and "Weights only load failed" not in str(why):
                raise CheckpointError(
                    f"{path} is a damaged pickle ({_first_line(why)}). Fetch or copy it again."
                ) from why
            what = f" ({named[1]})" if named else ""
            raise CheckpointError(
                f"{path} holds more than weights: it asks for code to be run or objects to be made when it is "
                f"opened{what}. Nothing of that was done. Unless you know why it does, do not use this file; get "
                "the weights as .safetensors, or from a source that you trust."
            ) from why
        except Exception as why:  # a broken file can make the parser raise anything
            raise CheckpointError(
                f"{path} is a truncated or damaged checkpoint ({_first_line(why)}). Fetch or copy it again."
            ) from why


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """PyTorch warns of its own typed storages while it reads old files; a user can do nothing about it."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _first_line(why: BaseException) -> str:
    return (str(why).strip().splitlines() or [type(why).__name__])[0][:200]


@contextlib.contextmanager
def _open_sharded(path: Path, scratch: Path | None) -> Iterator[TensorFile]:
    try:
        weight_map: dict[str, str] = json.loads(path.read_text())["weight_map"]
        names = sorted(set(weight_map.values()))
        if any(name.endswith(".index.json") for name in names):
            raise ValueError("an index lists an index")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as why:
        raise CheckpointError(
            f"{path} is not an index of a sharded checkpoint: it has no weight_map. Fetch it again."
        ) from why
    if any(Path(name).name != name for name in names):
        raise CheckpointError(
            f"{path} names parts outside its own folder, which no honest index does. Do not use it."
        )
    if lost := [name for name in names if not (path.parent / name).is_file()]:
        raise CheckpointError(
            f"{path} lists {len(names)} parts, but {len(lost)} of them are missing beside it: "
            f"{', '.join(lost[:5])}. Fetch the missing parts."
        )
    with contextlib.ExitStack() as stack:
        parts = {name: stack.enter_context(open_tensors(path.parent / name, scratch)) for name in names}
        if lost := [name for name, part in weight_map.items() if name not in parts[part].shapes]:
            raise CheckpointError(
                f"{path} lists {len(lost)} tensors that its parts do not hold, first {lost[0]}. The parts "
                "belong to another index: fetch all of them again."
            )
        shapes = {name: parts[part].shapes[name] for name, part in weight_map.items()}
        yield TensorFile(path, shapes, lambda name: parts[weight_map[name]].tensor(name), {})


def shard_number(path: Path) -> str | None:
    """ "2 of 3" when the name is that of one part of a sharded checkpoint."""
    found = re.search(r"-(\d{5})-of-(\d{5})\.", path.name)
    return f"{int(found[1])} of {int(found[2])}" if found else None


def describe(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What a file with these tensors seems to be, as the end of a sentence "it seems to be ..."."""
    names = list(shapes)

    def some(pattern: str) -> bool:
        return any(re.search(pattern, name) for name in names)

    unet = "model.diffusion_model."
    first = shapes.get(f"{unet}input_blocks.0.0.weight", ())
    context = next((shapes[name][1] for name in names if name.endswith("attn2.to_k.weight")), 0)
    if some(r"lora_(up|down|A|B)\b|^lora_|_lora\.|\.lora\.|lora_linear_layer|\.lokr_|\.hada_|\.oft_|\.on_input$"):
        return "a LoRA, which changes a model but is none"
    if some(r"^control_model\.|controlnet_cond_embedding|^zero_convs\."):
        return "a ControlNet"
    if some(r"^string_to_param|^emb_params$|^clip_[lg]$"):
        return "a textual inversion"
    if some(r"joint_blocks\.|double_blocks\.|single_transformer_blocks\."):
        return "a Stable Diffusion 3 or Flux model, which has no UNet"
    if some(rf"^{unet}final\.0\.weight") and some("attn3"):
        return "an LD-ZNet checkpoint in the released layout"
    if some(r"^final\.12\.weight$"):
        return "a segmentation head"
    if some(r"^conditioner\.embedders\."):
        return "a Stable Diffusion XL checkpoint"
    if first:
        if len(first) == 4 and first[1] == 9:
            return "a Stable Diffusion inpainting checkpoint"
        if len(first) == 4 and first[1] == 8:
            return "an InstructPix2Pix checkpoint"
        if context == 1024 or some(r"^cond_stage_model\.model\.transformer\.resblocks"):
            return "a Stable Diffusion 2.x checkpoint"
        if context == 2048:
            return "a Stable Diffusion XL checkpoint"
        return "a plain Stable Diffusion 1.x checkpoint, with no segmentation head in it"
    if some(r"^model_ema\."):
        return "a checkpoint with averaged (EMA) weights only"
    if some(r"^first_stage_model\.|^(encoder|decoder)\.(down|up|mid|layers|\d)"):
        return "a VAE"
    if "input_blocks.0.0.weight" in shapes:
        return "a UNet alone, without VAE and text encoder"
    if some(r"^down_blocks\.|^mid_block\."):
        return "a UNet in diffusers' layout"
    if some(r"^text_model\.|^cond_stage_model\."):
        return "a text encoder"
    return f"something that ldznet does not know ({len(names)} tensors, first {names[0] if names else 'none'})"
