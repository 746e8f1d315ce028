"""Choose a method: the one that the user names, or the best one that fits the loaded model.

A head that was trained for the model beats the methods that need none; where no head fits, attention does
the job. A choice comes with its reason, to be shown to the user.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from ldznet.errors import CheckpointError, HeadError
from ldznet.heads.head_file import HeadInfo, find_head_info
from ldznet.hosts.host import HostInfo, require_fit
from ldznet.methods.learned_head import LearnedHead
from ldznet.methods.method import Method
from ldznet.methods.registry import AUTO, METHODS, method_entry

log = logging.getLogger(__name__)

_RANKS = ("ld-znet", "znet", "rgbnet")  # kinds of heads, the best first


@dataclass(frozen=True)
class MethodChoice:
    """A method, and why it was chosen."""

    method: Method
    reason: str


class HeadList(list[HeadInfo]):
    """Heads in some folders, and the names of files there that cannot be read, each of which may be a head."""

    def __init__(self, heads: Iterable[HeadInfo] = (), unreadable: Iterable[str] = ()) -> None:
        super().__init__(heads)
        self.unreadable = list(unreadable)


def find_heads(folders: Iterable[str | os.PathLike[str]]) -> HeadList:
    """Return all heads in some folders and one level below, ignoring files of other weights."""
    heads = HeadList()
    for folder in dict.fromkeys(map(Path, folders)):
        for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")]):
            try:
                status = path.stat()
                found = _read_once(path, status.st_ino, status.st_size, status.st_mtime_ns)
            except OSError as error:
                found = CheckpointError(str(error))
            if isinstance(found, HeadInfo):
                heads.append(found)
            # A folder may hold checkpoints and LoRAs too; only a damaged file is worth a word to the user.
            elif found is not None:
                log.debug("%s cannot be read: %s", path, found)
                heads.unreadable.append(path.name)
    return heads


@lru_cache(maxsize=1024)
def _read_once(path: Path, inode: int, size: int, modified: int) -> HeadInfo | CheckpointError | None:
    """Return a head's header, None for other weights, or an error; each request asks, and files seldom change."""
    try:
        return find_head_info(path)
    except CheckpointError as error:
        return error.with_traceback(None)


def fits(info: HeadInfo, host: HostInfo) -> bool:
    """Return whether a head was made for a model of this structure."""
    try:
        require_fit(info.config, host)
    except HeadError:
        return False
    return True


def best_head(heads: Sequence[HeadInfo], host: HostInfo) -> HeadInfo | None:
    """Return the best head that fits: one that was trained for these very weights, else LD-ZNet first."""

    def rank(info: HeadInfo) -> tuple[bool, int]:
        exact = bool(host.fingerprint) and info.source.get("model_fingerprint") == host.fingerprint
        return not exact, _RANKS.index(info.config.kind)

    # The key is smallest for exact ones, then for the best kind.
    return min((info for info in heads if fits(info, host)), key=rank, default=None)


def choose_method(
    name: str,
    host: HostInfo,
    heads: Sequence[HeadInfo],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    storage: torch.dtype | None = None,
) -> MethodChoice:
    """Return the method of a name, or for "auto" the best one; a head is loaded with device, dtype and storage.

    Raises:
        OptionError: no method has this name. HeadError: a head is needed, but none fits.
        CheckpointError: the head file is damaged, and it was asked for, not found in a folder.
    """
    if name != AUTO and (make := method_entry(name).make):
        return MethodChoice(make(host), "asked for")
    # Heads are tried until one can be read, since a file with a sound header may have damaged weights.
    candidates, damaged = list(heads), list[CheckpointError]()
    while (info := best_head(candidates, host)) is not None:
        try:
            method = LearnedHead.load(info.path, device=device, dtype=dtype, storage=storage)
        except CheckpointError as error:
            # In a folder one damaged file must not hide the others; a head that was asked for by name is an error.
            if name != AUTO or not isinstance(heads, HeadList):
                raise
            log.warning("%s", error)
            candidates.remove(info)
            damaged.append(error)
            continue
        return MethodChoice(method, f"{info.path.name} fits {host.name}")
    if name != AUTO:
        if heads:
            require_fit(heads[0].config, host)  # raises, and says what differs
        raise HeadError(
            f"There is no head for {host.name}{_unreadable(heads)}. Convert or train one for it, or use the "
            "method attention, which needs none."
        )
    if damaged:
        reason = f"no head that fits {host.name} can be read"
    elif heads:
        reason = f"none of {len(heads)} heads fits {host.name}"
    else:
        reason = f"there is no head for {host.name}"
    return MethodChoice(_headless(host), reason + _unreadable(heads))


def _headless(host: HostInfo) -> Method:
    """Make the first method that needs no head: attention."""
    return next(entry.make for entry in METHODS if entry.make)(host)


def _unreadable(heads: Sequence[HeadInfo]) -> str:
    """Return the end of a sentence that names files that might have been the right head."""
    names = heads.unreadable if isinstance(heads, HeadList) else []
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f", but {', '.join(names[:3])}{more} cannot be read: damaged, or not copied whole" if names else ""
