"""The weights that the recorded tensors in tests/parity were computed with, packed and unpacked.

Most tensors have five values at most, evenly spaced, so that three numbers fit into one byte (5^3 = 125).

    codes   (N / 3,) uint8     three places on the scale, the first counts most
    scales  (T, 2) float32     of each tensor: its lowest value and the step
    names, shapes              in the order of the codes
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch

PARITY = Path(__file__).parent / "parity"
_HEAD = "model.diffusion_model."


def pack(state, path, **plain):
    """Write tensors, and in addition plain arrays; a tensor of more than five values becomes one of these."""
    codes, scales = [], []
    for name, tensor in state.items():
        values = tensor.float().numpy().ravel()
        levels = np.unique(values)
        if len(levels) > 5:
            plain[name] = tensor.numpy()
            continue
        step = np.diff(levels).min() if len(levels) > 1 else np.float32(1)
        places = np.round((values - levels[0]) / step)
        assert np.array_equal(levels[0] + places.astype(np.float32) * step, values)
        codes.append(places.astype(np.uint8))
        scales.append((levels[0], step))
    digits = np.concatenate(codes)
    digits = np.pad(digits, (0, -len(digits) % 3)).reshape(-1, 3)
    names = json.dumps([[name, list(tensor.shape)] for name, tensor in state.items()])
    np.savez_compressed(
        path, codes=digits @ np.array([25, 5, 1], np.uint8), scales=np.float32(scales), names=names, **plain
    )


def unpack(name):
    """Return the tensors of a file in tests/parity by name, and the plain arrays beside them."""
    with np.load(PARITY / name) as file:
        plain = {key: file[key] for key in file.files}
    codes, names = plain.pop("codes"), json.loads(str(plain.pop("names")))
    scales = iter(plain.pop("scales"))
    digits = np.stack([codes // 25, codes // 5 % 5, codes % 5], axis=1).ravel()
    state, start = {}, 0
    for tensor, shape in names:
        if tensor in plain:
            state[tensor] = torch.from_numpy(plain.pop(tensor))
            continue
        low, step = next(scales)
        places = digits[start : start + int(np.prod(shape))].astype(np.float32)
        state[tensor] = torch.from_numpy((low + places * step).reshape(shape))
        start += places.size
    return state, plain


def released_checkpoint():
    """Return the path of a checkpoint in the layout of the released one, written once and kept.

    Only the averaged weights were recorded; the raw ones are the same numbers, each tensor from its end.
    """
    packed = PARITY / "released_head.npz"
    digest = hashlib.sha256(packed.read_bytes() + Path(__file__).read_bytes()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"ldznet-tests-{os.getuid() if hasattr(os, 'getuid') else ''}-{digest}"
    path = folder / "released_layout_small.ckpt"
    if not path.exists():
        folder.mkdir(exist_ok=True)
        temporary = folder / f"{os.getpid()}.partial"
        temporary.write_bytes(_compressed(_checkpoint()))
        temporary.replace(path)
    return path


def _checkpoint():
    average, schedule = unpack("released_head.npz")
    state = {_HEAD + name: tensor.flatten().flip(0).view(tensor.shape) for name, tensor in average.items()}
    state |= {name: torch.from_numpy(array) for name, array in schedule.items()}
    state |= {"model_ema.diffusion_model" + name.replace(".", ""): t for name, t in average.items()}
    state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(123456)}
    lightning = {"epoch": 7, "global_step": 123456, "pytorch-lightning_version": "1.9.4"}
    return {
        **lightning,
        "state_dict": state,
        "loops": {},
        "callbacks": {},
        "optimizer_states": [],
        "lr_schedulers": [],
    }


def _compressed(checkpoint):
    """Return what torch.save writes, deflated, as some tools publish it."""
    stored, deflated = io.BytesIO(), io.BytesIO()
    torch.save(checkpoint, stored)
    with (
        zipfile.ZipFile(stored) as source,
        zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target,
    ):
        for record in source.infolist():
            target.writestr(record.filename, source.read(record))
    return deflated.getvalue()
