"""state.pt: all that a training needs to resume, and the check that it is resumed with the same recipe."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ldznet.errors import CheckpointError
from ldznet.files import atomic_path
from ldznet.heads.network import HeadConfig
from ldznet.research.training.train_options import TrainOptions

FORMAT = 1  # of state.pt
# Options that do not change the result, so a training may resume with other values.
_FREE = frozenset({"log_every", "save_every", "validate_every", "checkpointing"})


def save_state(state: Mapping[str, Any], path: Path) -> None:
    """Write a state, whole or not at all.

    Raises:
        CheckpointError: the disk is full or fails; the state of before stays.
    """
    try:
        with atomic_path(path) as temporary:
            torch.save(state, temporary)
    except (OSError, RuntimeError) as why:  # for a full disk PyTorch raises "unexpected pos"
        free = shutil.disk_usage(path.parent).free
        raise CheckpointError(
            f"{path} could not be written ({str(why).splitlines()[0]}): {free / 1e9:.2f} GB are left on its disk, "
            "which may be too little. What was saved before is whole. Make room, and the same command resumes "
            "there."
        ) from why


def recipe_of(options: TrainOptions, config: HeadConfig, belongs: Mapping[str, str | int]) -> dict[str, Any]:
    """Return the part of a state that must be the same when the training resumes."""
    return {
        "format": FORMAT,
        "options": json.dumps(dataclasses.asdict(options)),
        "head": config.to_json(),
        "belongs": dict(belongs),
    }


def load_state(path: Path, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Read the state of a training with this recipe (see `recipe_of`).

    Raises:
        CheckpointError: it cannot be read, or belongs to a training with another recipe.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        readable = state["format"] == FORMAT
    except Exception as why:
        raise CheckpointError(
            f"{path} cannot be read ({why}). Give another folder, or delete it and train from the start."
        ) from why
    mine = json.loads(recipe["options"])
    theirs = json.loads(state["options"]) if readable else {}
    changed = [name for name in mine if mine[name] != theirs.get(name) and name not in _FREE]
    if not readable or changed or state["head"] != recipe["head"]:
        what = f"other options ({', '.join(changed)})" if changed else "another head or version"
        raise CheckpointError(
            f"{path.parent} holds a training with {what}, so this one cannot resume there. Give the same options, "
            "or another folder."
        )
    mine, theirs = recipe["belongs"], state.get("belongs", {})  # older states lack some of them
    if differs := [name for name in theirs if theirs[name] != mine.get(name, theirs[name])]:
        raise CheckpointError(
            f"{path.parent} holds a training with {' and '.join(differs)}, so this one cannot resume there. Give "
            "the same --checkpoint, dataset and --start, or another folder."
        )
    return state
