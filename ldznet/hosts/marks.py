"""Marks that trainers put into a checkpoint as tensors, and that say how the model was trained."""

from __future__ import annotations

import contextlib
import os

from ldznet.errors import CheckpointError
from ldznet.heads.weight_files import open_tensors

V_PREDICTION = "v_pred"  # the model predicts v
ZERO_SNR = "ztsnr"  # its noise schedule ends in pure noise


def read_marks(path: str | os.PathLike[str]) -> frozenset[str]:
    """Return the marks in a .safetensors; empty for other kinds of files, and where it cannot be read.

    Only the header is read, so this is cheap enough for a model that another program has loaded.
    """
    if str(path).lower().endswith(".safetensors"):
        with contextlib.suppress(CheckpointError), open_tensors(path) as file:
            return frozenset({V_PREDICTION, ZERO_SNR} & file.shapes.keys())
    return frozenset()
