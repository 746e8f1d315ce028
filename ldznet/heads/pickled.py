"""Read checkpoints that PyTorch pickled (.ckpt, .pt, .bin) without running anything in them.

Weights are memory-mapped where the archive stores them as they are. An archive with compressed records is read
into memory, because PyTorch maps such a file without an error and reads noise.
"""

from __future__ import annotations

import contextlib
import io
import math
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldznet.errors import CheckpointError
from ldznet.heads.model_kinds import model_kind

_CHUNK = 2**22  # bytes that are unpacked at a time
# Weights hardly compress. A large archive that unpacks to more times its size was made to fill the memory.
_MOST_COMPRESSED, _LARGE = 20, 2**30


def read_pickled(path: Path, *, archive: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the named tensors of a checkpoint, and the plain values in it such as its epoch.

    Raises:
        CheckpointError: the file is damaged, asks for code to be run, or holds no named tensors.
    """
    mapped = False
    if archive:
        with _opened_archive(path) as records:
            _require_plain(path, records)
            _require_storages(path, records)
            mapped = all(record.compress_type == zipfile.ZIP_STORED for record in records.infolist())
        if not mapped:
            verify_archive(path)  # a bit that flipped in a compressed record changes all that follows it
    content = _unpickle(path, archive, mapped)
    state = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    tensors = {
        name: value
        for name, value in (state.items() if isinstance(state, Mapping) else ())
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    if not tensors:
        names = [name for name in content if isinstance(name, str)] if isinstance(content, Mapping) else []
        kind = model_kind(dict.fromkeys(names, ()))
        if "textual inversion" in kind:
            raise CheckpointError(f"{path} is {kind}. Give another file.")
        raise CheckpointError(
            f"{path} holds no tensors under names, so it is not the weights of a model. Give another file."
        )
    values = {
        key: str(value)
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, (int, float, str))
    }
    return tensors, values


def require_stored(path: Path, name: str, tensor: Tensor) -> Tensor:
    """Return the tensor if the file stores every value of it.

    A few bytes with stride 0 can claim any size, and would fill the memory when they are copied.

    Raises:
        CheckpointError: the tensor repeats values, or claims more than its storage holds.
    """
    if tensor.layout == torch.strided and not tensor.is_meta:
        repeats = any(size > 1 and not stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        if repeats or tensor.nbytes > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"{path} is damaged or was made to do harm: {name} claims {math.prod(tensor.shape):,} values, "
                "which the file does not store. Get the original file."
            )
    return tensor


@contextlib.contextmanager
def _opened_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except Exception as why:  # a broken directory can make the parser raise anything
        raise CheckpointError(
            f"{path} is a truncated or damaged PyTorch archive ({why}): the end of the file is missing or "
            "broken. Fetch or copy it again."
        ) from why
    with archive:
        yield archive


def _require_plain(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse archives of programs, and archives that unpack to far more than their size."""
    if any(re.search(r"(^|/)(constants\.pkl|code/.+)$", name) for name in archive.namelist()):
        # Checked here, because `torch.load` before 2.6 hands such a file to the loader of programs.
        raise CheckpointError(
            f"{path} is a TorchScript archive, which holds a program and not only weights. Nothing of it was run. "
            "Get the weights as .safetensors."
        )
    size = sum(record.file_size for record in archive.infolist())
    if size > _LARGE and size > _MOST_COMPRESSED * path.stat().st_size:
        raise CheckpointError(
            f"{path} would unpack to {size / 1e9:.0f} GB, {size // path.stat().st_size} times its size, as no "
            "weights do. It was made to fill the memory: do not use it."
        )


class _Inert:
    """Stand for an object of a training library: take anything, do nothing."""

    def __init__(self, *_args: object, **_kwargs: object) -> None: ...

    def __call__(self, *_args: object, **_kwargs: object) -> _Inert:
        """Stand for what a factory makes."""
        return _Inert()

    def __setstate__(self, _state: object) -> None: ...

    def __setitem__(self, _key: object, _value: object) -> None: ...

    def append(self, _value: object) -> None:
        """Take a value, as a list does."""

    def extend(self, _values: object) -> None:
        """Take values, as a list does."""

    def add(self, _value: object) -> None:
        """Take a value, as a set does."""


# Bytes of a value in the storages of PyTorch; others count as one byte. Its own classes warn when they are asked.
_ITEM_SIZES = {
    "Double": 8,
    "Long": 8,
    "ComplexFloat": 8,
    "Float": 4,
    "Int": 4,
    "Half": 2,
    "BFloat16": 2,
    "Short": 2,
}


class _Storages(pickle.Unpickler):
    """Collect the storages that a pickle asks for. Every global is replaced, so nothing in it runs."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.sizes: dict[str, int] = {}  # record -> bytes that tensors expect in it

    def find_class(self, module: str, name: str) -> Any:
        """Return the size of a value for one of PyTorch's storages, and an inert class for everything else."""
        if module in ("torch", "torch.storage") and name.endswith("Storage"):
            return _ITEM_SIZES.get(name.removesuffix("Storage"), 1)
        return _Inert

    def persistent_load(self, pid: Any) -> Any:
        """Note one storage: ("storage", size of a value, record, device, number of values)."""
        _, item_size, record, _, count = pid
        self.sizes[str(record)] = max(self.sizes.get(str(record), 0), int(count) * int(item_size))
        return _Inert()


def _require_storages(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse storages that are larger than their records: PyTorch would map what follows them in the file."""
    pickled = next((name for name in archive.namelist() if name.endswith("data.pkl")), None)
    if pickled is None:
        return  # PyTorch reports this itself
    folder = pickled.removesuffix("data.pkl")
    try:
        storages = _Storages(archive.read(pickled))
        storages.load()
        sizes = {name: archive.getinfo(f"{folder}data/{name}").file_size for name in storages.sizes}
    except Exception:  # a broken pickle can raise anything; the load that follows reports what is wrong with it
        return
    if wrong := [name for name, size in storages.sizes.items() if size > sizes[name]]:
        raise CheckpointError(
            f"{path} is damaged: {len(wrong)} of its {len(sizes)} records are smaller than the tensors in them. "
            "Fetch or copy it again."
        )


def verify_archive(path: Path, report: Callable[[int], None] = lambda _bytes: None) -> None:
    """Compare the records of a PyTorch archive with their checksums, which PyTorch itself does not do.

    Other kinds of files pass, because they have no checksums. So does an archive that was written without them, in
    which none fits.

    Raises:
        CheckpointError: a record is damaged.
    """
    if not zipfile.is_zipfile(path):
        return
    bad = 0
    with _opened_archive(path) as archive:
        records = [record for record in archive.infolist() if record.file_size]
        for record in records:
            try:
                with archive.open(record) as file:
                    while chunk := file.read(_CHUNK):
                        report(len(chunk))
            except Exception:  # zlib and zipfile each have errors of their own
                bad += 1
    if 0 < bad < len(records):
        raise CheckpointError(
            f"{path} is damaged: {bad} of its {len(records)} records do not match their checksums. Fetch or copy "
            "it again."
        )


class _InertDict:
    """Stand for objects that are filled like a dict, which PyTorch allows for its own kinds only."""

    def __new__(cls, *_args: object, **_kwargs: object) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


# What training programs leave in a checkpoint in addition to weights. Never made: inert classes stand in.
_HARMLESS = re.compile(
    r"(pytorch_lightning|lightning|lightning_fabric|omegaconf|torchmetrics|numpy|ldm|typing|pathlib|argparse"
    r"|collections|ruamel)\.[\w.]+|builtins\.(bool|bytes|complex|dict|float|int|list|set|str|tuple)"
)
_DICTS = re.compile(r".*\.(\w*Dict|defaultdict)")


def _unpickle(path: Path, archive: bool, mapped: bool) -> Any:
    options: dict[str, Any] = {"map_location": "cpu", "weights_only": True}
    if mapped:
        options["mmap"] = True
    with contextlib.ExitStack() as stack:
        # PyTorch warns of its own typed storages in old files; a user can do nothing about it.
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        if archive and hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
            with contextlib.suppress(Exception):  # the load below reports what is wrong with the file
                names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
                stand_ins: list[Any] = [
                    (_InertDict if _DICTS.fullmatch(name) else _Inert, name)
                    for name in names
                    if _HARMLESS.fullmatch(name)
                ]
                stack.enter_context(torch.serialization.safe_globals(stand_ins))
        try:
            # Not torch.load: AUTOMATIC1111 replaces it by one that returns None for files it does not know.
            return torch.serialization.load(str(path), **options)
        except pickle.UnpicklingError as why:
            raise _refused(path, why) from why
        except Exception as why:  # a broken file can make the parser raise anything
            raise CheckpointError(
                f"{path} is a truncated or damaged checkpoint ({_first_line(why)}). Fetch or copy it again."
            ) from why


def _refused(path: Path, why: pickle.UnpicklingError) -> CheckpointError:
    """Return the error for a pickle that is damaged or asks for more than weights."""
    match = re.search(r"GLOBAL (\S+)", str(why)) or re.search(r"global[: ]+`?([\w.]+)", str(why))
    if match is None and "Weights only load failed" not in str(why):
        return CheckpointError(f"{path} is a damaged pickle ({_first_line(why)}). Fetch or copy it again.")
    name = f" ({match[1]})" if match else ""
    return CheckpointError(
        f"{path} holds more than weights: it asks for code to be run or objects to be made when it is "
        f"opened{name}. Nothing of that was done. Unless you know why it does, do not use this file; get the "
        "weights as .safetensors, or from a source that you trust."
    )


def _first_line(why: BaseException) -> str:
    return (str(why).strip().splitlines() or [type(why).__name__])[0][:200]
