"""Describe what a measurement depends on: in a record for the report, and in a key.

Only a measurement with the same key may continue in a folder of results: the counts themselves do not show what
they were counted from.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldznet.research.cli.datasets import inner_phrasecut, is_phrasecut

if TYPE_CHECKING:
    from ldznet.hosts.diffusers.host import DiffusersHost
    from ldznet.hosts.host import Host
    from ldznet.methods.choose import MethodChoice
    from ldznet.methods.method import Method


def record_of(parsed: argparse.Namespace, host: Host, choice: MethodChoice) -> dict[str, Any]:
    """Return what was measured, for people; CLIPSeg uses its own model, in float32."""
    record = {"method": choice.method.name, "reason": choice.reason, **choice.method.record}
    if parsed.clipseg:
        return {**record, "model": parsed.clipseg.resolve().name, "dtype": "float32"}
    return {
        **record,
        "model": host.info.name,
        "model_fingerprint": host.info.fingerprint,
        "dtype": str(host.dtype).removeprefix("torch."),
    }


def key_of(
    parsed: argparse.Namespace,
    place: Path | None,
    host: DiffusersHost,
    method: Method,
    name: str,
    count: int,
    block: int,
) -> str:
    """Return a digest of all that the numbers of a dataset depend on; names of weight files do not matter."""
    from ldznet.research.evaluation.runner import PROTOCOL

    # `others` covers VAE and text encoder: two models with the same UNet may differ in them.
    model = [host.info.fingerprint, host.others, host.info.prediction, str(host.dtype), host.device.type]
    data = [str(place or parsed.data), _annotations(place, parsed.split) if place else [], name, count]
    # The order of this list is part of the key: folders of earlier versions stay valid.
    return hashlib.sha256(
        json.dumps(
            [
                [PROTOCOL, block, method.defaults.resolution, parsed.on_problem],
                dict(method.record),
                [] if parsed.clipseg else model,
                data,
            ]
        ).encode()
    ).hexdigest()


def _annotations(place: Path, split: str) -> list[tuple[str, str]]:
    """Return names and SHA-256 of the annotation files that a measurement reads; images are not compared."""
    from ldznet.files import digest_of

    folder = inner_phrasecut(place)
    if place.is_file():
        files = {place}
    elif is_phrasecut(folder):
        files = {*folder.glob("*.json")}
        # Files of other splits do not change the numbers.
        tasks = {folder / f"refer_{name}.json" for name in split.split("_")}
        files -= set(folder.glob("refer_*.json")) - tasks
    else:
        files = {*folder.glob("*.json"), *folder.glob("annotations/*.json")}
    return [(path.name, digest_of([path])) for path in sorted(files)]
