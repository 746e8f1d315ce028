"""Which method runs: the one asked for, or the best that fits the loaded model.

A head that was trained for the model beats the methods that need none; where no head fits, attention does
the job. What was chosen comes with the reason, to be shown to the user.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ldznet.errors import CheckpointError, HeadError, NoHeadError, OptionError
from ldznet.heads.head_file import HeadInfo, read_head_info
from ldznet.hosts.host import HostInfo, require_fit
from ldznet.methods.attention import AttentionMethod
from ldznet.methods.learned_head import LearnedHead
from ldznet.methods.method import Method
from ldznet.methods.noise_difference import DifferenceMethod

log = logging.getLogger(__name__)

METHODS = ("auto", "head", "attention", "difference")
_RANKS = ("ld-znet", "znet", "rgbnet")


@dataclass(frozen=True)
class MethodChoice:
    """A method, and why it is this one."""

    method: Method
    reason: str


class HeadList(list[HeadInfo]):
    """HeadList that were found, and the names of files beside them that cannot be read: each may be one."""

    def __init__(self, heads: Iterable[HeadInfo] = (), unreadable: Iterable[str] = ()) -> None:
        super().__init__(heads)
        self.unreadable = list(unreadable)


def find_heads(folders: Iterable[str | os.PathLike[str]]) -> HeadList:
    """All heads in some folders and one level below; files of other weights are left out, without a word."""
    found = HeadList()
    for folder in dict.fromkeys(map(Path, folders)):
        for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")]):
            try:
                found.append(read_head_info(path))
            except (CheckpointError, OSError) as why:
                log.debug("%s is no head: %s", path, why)
                if not isinstance(why, NoHeadError):
                    found.unreadable.append(path.name)
    return found


def fits(info: HeadInfo, host: HostInfo) -> bool:
    """Whether a head was made for a model of this structure."""
    try:
        require_fit(info.config, host)
    except HeadError:
        return False
    return True


def best_head(heads: Sequence[HeadInfo], host: HostInfo) -> HeadInfo | None:
    """Of the heads that fit, one that was trained for these very weights, else LD-ZNet before the others."""

    def rank(info: HeadInfo) -> tuple[bool, int]:
        exact = bool(host.fingerprint) and info.source.get("model_fingerprint") == host.fingerprint
        return not exact, _RANKS.index(info.config.kind)

    return min((info for info in heads if fits(info, host)), key=rank, default=None)


def choose_method(
    wanted: str,
    host: HostInfo,
    heads: Sequence[HeadInfo],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    storage: torch.dtype | None = None,
) -> MethodChoice:
    """The method of a name, or for "auto" the best one; a head is loaded with device, dtype and storage.

    Raises:
        OptionError: there is no method of that name. HeadError: a head is asked for, but none fits.
        CheckpointError: the head's file is damaged.
    """
    if wanted == "attention":
        return MethodChoice(AttentionMethod.for_host(host), "asked for")
    if wanted == "difference":
        return MethodChoice(DifferenceMethod.for_host(host), "asked for")
    if wanted not in METHODS:
        raise OptionError(f"The method {wanted!r} is not known: give one of {', '.join(METHODS)}.")
    info = best_head(heads, host)
    if info is not None:
        method = LearnedHead.load(info.path, device=device, dtype=dtype, storage=storage)
        return MethodChoice(method, f"{info.path.name} fits {host.name}")
    if wanted == "head":
        if heads:
            require_fit(heads[0].config, host)
        raise HeadError(
            f"There is no head for {host.name}{_damaged(heads)}. Convert or train one for it, or use the method "
            "attention, which needs none."
        )
    what = f"none of {len(heads)} heads fits {host.name}" if heads else f"there is no head for {host.name}"
    return MethodChoice(AttentionMethod.for_host(host), what + _damaged(heads))


def _damaged(heads: Sequence[HeadInfo]) -> str:
    """Files that might have been the right head, as the end of a sentence."""
    names = heads.unreadable if isinstance(heads, HeadList) else []
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f", but {', '.join(names[:3])}{more} cannot be read: damaged, or not copied whole" if names else ""
