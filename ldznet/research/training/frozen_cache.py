"""Answers of the frozen Stable Diffusion model about images and sentences that occur again.

The latest answers are kept in memory; with a folder all of them are kept on disk as well, for later runs and for
the other processes of a launch. An answer has the same bits wherever it comes from.

    FOLDER/MODEL/latents/XX/NAME    a latent (4, h, w), half precision: 18 KB at 384 pixels
    FOLDER/MODEL/contexts/XX/NAME   a sentence's context, in the model's precision: in half precision 118 KB for
                                    77 tokens of width 768, twice that in float32

MODEL is a digest of the model's name, fingerprint, precision and of its answers to a few fixed questions; NAME is
a digest of the image's pixels on the network's square, or of the sentence. Nothing is ever removed: delete an old
folder as a whole. An entry is SHA-256 and safetensors, and a damaged one counts as missing. Any number of
processes may use a folder at the same time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ldznet.files import LruCache, atomic_path, remove_leftovers
from ldznet.hosts.host import Context, Host
from ldznet.inference.prompts import TEMPLATES
from ldznet.research.training.train_options import TrainOptions

log = logging.getLogger(__name__)

LEAST_FREE = 2**30  # bytes that stay free on the disk for the training itself
_DIGEST = 32  # bytes of SHA-256


class AnswerFolder:
    """Answers of one model on disk."""

    def __init__(self, folder: Path, host: Host) -> None:
        self.folder = folder / _model_key(host)
        self.read, self.written = Counter[str](), Counter[str]()
        self._full = False
        self._tidy = set[Path]()  # folders without leftovers of killed processes

    def _path(self, kind: str, name: str) -> Path:
        """Return the path of an entry."""
        return self.folder / kind / name[:2] / name

    def get(self, kind: str, name: str) -> dict[str, Tensor] | None:
        """Return an entry's tensors; None if it is missing or damaged."""
        try:
            data = self._path(kind, name).read_bytes()
            if hashlib.sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
                return None
            tensors = load(data[_DIGEST:])
        except (OSError, SafetensorError):
            return None
        self.read[kind] += 1
        return tensors

    def put(self, kind: str, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write an entry; on a full disk the training continues without further entries."""
        if self._full:
            return
        body = save({key: tensor.contiguous() for key, tensor in tensors.items()})
        path = self._path(kind, name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.parent not in self._tidy:
                remove_leftovers(path.parent)
                self._tidy.add(path.parent)
            # Checked before each entry: other programs fill disks, too.
            if shutil.disk_usage(path.parent).free < LEAST_FREE:
                raise OSError("less than 1 GB is left on its disk")
            with atomic_path(path) as temporary:
                temporary.write_bytes(hashlib.sha256(body).digest() + body)
            self.written[kind] += 1
        except OSError as why:
            self._full = True
            log.warning(
                "Nothing more is written to %s (%s). The training continues without; make room, or leave --cache "
                "out.",
                self.folder,
                why.strerror or why,
            )

    def __str__(self) -> str:
        counts = [
            f"{self.read[kind]:,} {kind} read and {self.written[kind]:,} written"
            for kind in ("latents", "contexts")
        ]
        return f"cache {self.folder}: {', '.join(counts)}"


@torch.no_grad()
def _model_key(host: Host) -> str:
    """Return a digest that also differs for models that share a UNet but not the VAE or the text encoder."""
    # Answers instead of weights: they also differ with a text encoder's settings.
    generator = torch.Generator().manual_seed(0)
    latent = host.encode_image(torch.rand(1, 3, 64, 64, generator=generator) * 2 - 1)
    digest = hashlib.sha256(json.dumps([host.info.name, host.info.fingerprint, str(host.dtype)]).encode())
    for tensor in (latent, *(host.encode_prompt([text]).tokens for text in ("", *TEMPLATES))):
        digest.update(tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def may_keep_latents(options: TrainOptions) -> bool:
    """Return whether an image has the same latent each time it occurs."""
    return options.crop == "whole" and options.posterior == "mean"


class FrozenModel:
    """The Stable Diffusion model's answers about a batch; what occurs again is computed once.

    In memory latents are kept in half precision on the CPU: 2 bytes per number.
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
        self._latents = LruCache[str, Tensor](latents)
        self._contexts = LruCache[str, Context](contexts)

    def latent(self, pixels: Tensor, names: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """Encode (B, 3, S, S) -> (B, 4, S/8, S/8); equal names that are not empty stand for equal pixels."""
        if self.options.posterior == "sample":
            # A sample of the posterior is new every time, so it is not cached.
            side = pixels.shape[-1] // 8
            noise = torch.stack([private_noise(seed + 1, (4, side, side)) for seed in seeds])
            return self.host.encode_image(pixels, noise)
        if not may_keep_latents(self.options):
            # Rounded as cached latents are, so that --crop does not change the precision.
            return self.host.encode_image(pixels).half().to(self.host.dtype)
        latents = [self._latent(one, name) for one, name in zip(pixels, names, strict=True)]
        return torch.stack(latents).to(self.host.device, self.host.dtype)

    def _latent(self, pixels: Tensor, name: str) -> Tensor:
        """Encode (3, S, S) -> (4, S/8, S/8), rounded to half precision, on the CPU.

        Images are encoded one by one, because the answer must not depend on which others were new.
        """
        if (latent := self._latents.get(name)) is None:
            key = hashlib.sha256(pixels.numpy().tobytes()).hexdigest() if self.store else ""
            stored = self.store.get("latents", key) if self.store else None
            latent = stored["latent"] if stored else self.host.encode_image(pixels[None])[0].half().cpu()
            if self.store and not stored:
                self.store.put("latents", key, {"latent": latent})
            self._latents.put(name, latent)
        return latent

    def context(self, sentences: Sequence[str]) -> Context:
        """Return the contexts of the sentences of a batch, on the CPU."""
        contexts = {text: self._context(text) for text in dict.fromkeys(sentences)}
        return Context.join([contexts[text] for text in sentences])

    def _context(self, text: str) -> Context:
        """Return the context of one sentence."""
        if (context := self._contexts.get(text)) is None:
            key = hashlib.sha256(text.encode()).hexdigest() if self.store else ""
            stored = self.store.get("contexts", key) if self.store else None
            if stored:
                context = Context(stored["tokens"], stored.get("pooled"), tuple(stored["cut"].tolist()))
            else:
                fresh = self.host.encode_prompt([text])
                pooled = None if fresh.pooled is None else fresh.pooled.cpu()
                context = Context(fresh.tokens.cpu(), pooled, fresh.cut)
            if self.store and not stored:
                parts = {"tokens": context.tokens, "cut": torch.tensor(context.cut, dtype=torch.bool)}
                if context.pooled is not None:
                    parts["pooled"] = context.pooled
                self.store.put("contexts", key, parts)
            self._contexts.put(text, context)
        return context


def private_noise(seed: int, shape: Sequence[int]) -> Tensor:
    """Return normal noise from a separate generator, the same on every device."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))
