"""What the frozen Stable Diffusion model says of pictures and sentences that come again.

The latest answers are kept in memory; with a folder all of them are kept on disk as well, for later runs and
for the other processes of a launch. An answer is the same bits wherever it comes from.

    FOLDER/MODEL/latents/XX/NAME    a latent (4, h, w), half precision: 18 KB at 384 pixels
    FOLDER/MODEL/contexts/XX/NAME   a sentence's context, as the model gives it: in half precision 118 KB for
                                    77 tokens of width 768, twice that in float32
    FOLDER/MODEL/partial/           what is being written

MODEL is a digest of the model's name, fingerprint, precision and of its answers to a few fixed questions; NAME
one of the picture's pixels on the network's square, or of the sentence. Nothing is ever removed: an old folder
can be deleted as a whole. An entry is SHA-256 and safetensors, under its name only when it is whole, and one
that is damaged counts as missing. So any number of processes may use a folder at the same time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import shutil
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ldznet.hosts.host import Context, Host
from ldznet.inference.prompts import TEMPLATES
from ldznet.research.training.train_options import TrainOptions

log = logging.getLogger(__name__)

LEAST_FREE = 2**30  # bytes of the disk that are left for the training itself
_DIGEST = 32  # bytes of SHA-256
_STALE = 3600  # seconds after which what was being written belongs to a killed process
Value = TypeVar("Value")


class AnswerFolder:
    """Answers of one model on disk."""

    def __init__(self, folder: Path, host: Host) -> None:
        self.folder = folder / _model_key(host)
        self.read, self.written = Counter[str](), Counter[str]()
        self._full = False
        for left in self._partial.glob("*"):
            with contextlib.suppress(OSError):  # another process may be at it as well
                if time.time() - left.stat().st_mtime > _STALE:
                    left.unlink()

    @property
    def _partial(self) -> Path:
        return self.folder / "partial"

    def _path(self, kind: str, name: str) -> Path:
        return self.folder / kind / name[:2] / name

    def get(self, kind: str, name: str) -> dict[str, Tensor] | None:
        """An entry's tensors; None where there is none that is whole."""
        try:
            data = self._path(kind, name).read_bytes()
            if hashlib.sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
                return None
            found = load(data[_DIGEST:])
        except (OSError, SafetensorError):
            return None
        self.read[kind] += 1
        return found

    def put(self, kind: str, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep an entry; a disk that is full ends the keeping, not the training."""
        if self._full:
            return
        body = save({key: tensor.contiguous() for key, tensor in tensors.items()})
        partial, path = self._partial / secrets.token_hex(8), self._path(kind, name)
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(partial.parent).free < LEAST_FREE:
                raise OSError("less than 1 GB is left on its disk")
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(hashlib.sha256(body).digest() + body)
            os.replace(partial, path)
            self.written[kind] += 1
        except OSError as why:
            self._full = True
            partial.unlink(missing_ok=True)
            log.warning(
                "Nothing more is kept in %s (%s). The training goes on without; make room, or leave --cache out.",
                self.folder,
                why.strerror or why,
            )

    def __str__(self) -> str:
        """What the cache has done so far."""
        counts = [
            f"{self.read[kind]:,} {kind} read and {self.written[kind]:,} written"
            for kind in ("latents", "contexts")
        ]
        return f"cache {self.folder}: {', '.join(counts)}"


@torch.no_grad()
def _model_key(host: Host) -> str:
    """Tells models apart that share a UNet, but not the VAE or the text encoder, by what they answer."""
    generator = torch.Generator().manual_seed(0)
    latent = host.encode_image(torch.rand(1, 3, 64, 64, generator=generator) * 2 - 1)
    digest = hashlib.sha256(json.dumps([host.info.name, host.info.fingerprint, str(host.dtype)]).encode())
    for tensor in (latent, *(host.encode_prompt([text]).tokens for text in ("", *TEMPLATES))):
        digest.update(tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def may_keep_latents(options: TrainOptions) -> bool:
    """Whether a picture has the same latent each time that it comes."""
    return options.crop == "whole" and options.posterior == "mean"


class FrozenModel:
    """What the Stable Diffusion model says of a batch; what comes again is computed once.

    In memory latents are kept in half precision on the CPU: 2 bytes for each of their numbers.
    """

    def __init__(
        self,
        host: Host,
        options: TrainOptions,
        store: AnswerFolder | None = None,
        *,
        latents: int = 100_000,
        contexts: int = 20_000,
    ) -> None:
        self.host, self.options, self.store = host, options, store
        self._latents: OrderedDict[str, Tensor] = OrderedDict()
        self._contexts: OrderedDict[str, Context] = OrderedDict()
        self._most = (latents, contexts)

    def latent(self, pixels: Tensor, names: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """(B, 3, S, S) -> (B, 4, S/8, S/8); a name that is not empty stands for its pixels."""
        if self.options.posterior == "sample":
            side = pixels.shape[-1] // 8
            noise = torch.stack([private_noise(seed + 1, (4, side, side)) for seed in seeds])
            return self.host.encode_image(pixels, noise)
        if not may_keep_latents(self.options):
            return self.host.encode_image(pixels).half().to(self.host.dtype)
        found = [self._latent(one, name) for one, name in zip(pixels, names, strict=True)]
        return torch.stack(found).to(self.host.device, self.host.dtype)

    def _latent(self, pixels: Tensor, name: str) -> Tensor:
        """(3, S, S) -> (4, S/8, S/8), rounded to half precision, on the CPU.

        Pictures are encoded one by one: the answer must not depend on which others were new.
        """
        if (kept := _used(self._latents, name)) is None:
            key = hashlib.sha256(pixels.numpy().tobytes()).hexdigest() if self.store else ""
            stored = self.store.get("latents", key) if self.store else None
            kept = stored["latent"] if stored else self.host.encode_image(pixels[None])[0].half().cpu()
            if self.store and not stored:
                self.store.put("latents", key, {"latent": kept})
            _keep(self._latents, name, kept, self._most[0])
        return kept

    def context(self, sentences: Sequence[str]) -> Context:
        """As many sentences as a batch has, on the CPU."""
        found = {text: self._context(text) for text in dict.fromkeys(sentences)}
        return Context.join([found[text] for text in sentences])

    def _context(self, text: str) -> Context:
        if (kept := _used(self._contexts, text)) is None:
            key = hashlib.sha256(text.encode()).hexdigest() if self.store else ""
            stored = self.store.get("contexts", key) if self.store else None
            if stored:
                kept = Context(stored["tokens"], stored.get("pooled"), tuple(stored["cut"].tolist()))
            else:
                fresh = self.host.encode_prompt([text])
                pooled = None if fresh.pooled is None else fresh.pooled.cpu()
                kept = Context(fresh.tokens.cpu(), pooled, fresh.cut)
            if self.store and not stored:
                parts = {"tokens": kept.tokens, "cut": torch.tensor(kept.cut, dtype=torch.bool)}
                self.store.put("contexts", key, parts if kept.pooled is None else {**parts, "pooled": kept.pooled})
            _keep(self._contexts, text, kept, self._most[1])
        return kept


def _used(kept: OrderedDict[str, Value], name: str) -> Value | None:
    """What is kept under a name, now the latest."""
    if name in kept:
        kept.move_to_end(name)
    return kept.get(name)


def _keep(kept: OrderedDict[str, Value], name: str, value: Value, most: int) -> None:
    kept[name] = value
    while len(kept) > most:
        kept.popitem(last=False)


def private_noise(seed: int, shape: Sequence[int]) -> Tensor:
    """Normal noise of a generator of its own, the same on every device."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))
