"""The paper's method: a trained head (LD-ZNet, ZNet or RGBNet) gives one logit per pixel.

Source: PNVR et al., LD-ZNet, ICCV 2023, https://arxiv.org/abs/2303.12343
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ldznet.errors import CheckpointError, HostError, OptionError
from ldznet.heads.head_file import empty_head, load_head, read_head_info
from ldznet.heads.narrow_storage import store_narrow
from ldznet.heads.network import Head, HeadConfig, Kind, paper_pool_grids
from ldznet.heads.unet import UNetConfig
from ldznet.hosts.capture import capture
from ldznet.hosts.host import Host, HostInfo, require_fit
from ldznet.methods.method import Defaults, EncodedImage, Prompts, RandomInputs, SuitedThreshold
from ldznet.options import MaskOptions, SegmentOptions


class Carrier(Protocol):
    """A program's memory manager, in charge of one module."""

    def on_device(self) -> AbstractContextManager[torch.device]:
        """Bring the module to a device, and yield the device; the module may stay there afterwards."""

    def put_away(self) -> None:
        """Take the module off the device, and out of the manager's books."""


class LearnedHead:
    """A head as a method; it computes on its own device (`to`), or visits another for each step (`visit`).

    A webui with a memory manager carries it instead (`entrust`).
    """

    needs_all_prompts = False

    def __init__(self, head: Head, *, defaults: Defaults | None = None, origin: str = "") -> None:
        self.head = head.eval().requires_grad_(False)
        self._defaults = defaults or Defaults(threshold=_suited_threshold({}))  # the paper's
        self._origin = origin  # the SHA-256 of its file, or another text that identifies it
        self.path: Path | None = None  # its file, if it has one
        self._running = threading.Lock()  # weights that rest in half precision are widened in place while they run
        self._visits: tuple[torch.device, Callable[[], None]] | None = None
        self._carrier: Carrier | None = None
        self._stays = True  # with the carrier, between two steps

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        storage: torch.dtype | None = None,
    ) -> LearnedHead:
        """Load a head file; with `storage`, its weights rest in another precision than it computes in.

        A file in 8 bits stays so, whatever `storage` is.

        Raises:
            CheckpointError: see `load_head`.
        """
        info = read_head_info(path)
        # Loaded in the narrow type at once: the wide weights never are in memory as a whole.
        if info.in_8_bits or storage == torch.int8:
            head = load_head(path, device=device, dtype=dtype, in_8_bits=True)
        else:
            head = load_head(path, device=device, dtype=storage or dtype)
            if storage is not None and dtype is not None and storage != dtype:
                store_narrow(head, storage, dtype)
        method = cls(head, defaults=_trained_with(info.source), origin=info.sha256)
        method.path = info.path
        return method

    @property
    def name(self) -> str:
        """Return the kind of head."""
        return self.head.config.kind

    @property
    def defaults(self) -> Defaults:
        """Return the values that it was trained with."""
        return self._defaults

    @property
    def record(self) -> Mapping[str, Any]:
        """Return which head it is, in which precision it computes and in which its weights rest."""
        resting = self.head.stored_dtype or next(self.head.parameters()).dtype
        return {
            "method": self.name,
            "head": self._origin,
            "head_dtype": str(self.head.dtype).removeprefix("torch."),
            "head_storage": str(resting).removeprefix("torch."),
        }

    @property
    def device(self) -> torch.device:
        """Return the device of its weights."""
        return next(self.head.parameters()).device

    def to(self, device: torch.device | str) -> None:
        """Move to a device, and stay there."""
        self.release()
        self._visits = None
        # Even where nothing moves, PyTorch goes through all layers, in every request.
        if any(parameter.device != torch.device(device) for parameter in self.head.parameters()):
            self.head.to(device)

    def visit(self, device: torch.device | str, make_room: Callable[[], None] = lambda: None) -> None:
        """Stay in the memory of the CPU, and visit a device for the step of the head only.

        `make_room` is called before each visit, after the pass of the UNet.
        """
        self.release()
        self.head.to("cpu")
        self._visits = torch.device(device), make_room

    def entrust(self, carrier: Carrier, *, stays: bool) -> None:
        """Let a memory manager bring the head to its device; with `stays`, it may be there between two steps too.

        A head that is carried already keeps its carrier.
        """
        self._carrier, self._stays, self._visits = self._carrier or carrier, stays, None
        if not stays:
            self._carrier.put_away()

    def release(self) -> None:
        """Leave the memory manager, so that nothing of it holds the head."""
        carrier, self._carrier = self._carrier, None
        if carrier is not None:
            carrier.put_away()

    @contextmanager
    def _on_device(self) -> Iterator[torch.device]:
        """Yield the device on which the head computes; afterwards it is where it rests, also after an error."""
        if self._carrier is not None:
            try:
                with self._carrier.on_device() as device:
                    yield device
            finally:
                if not self._stays:
                    self._carrier.put_away()
            return
        if self._visits is None:
            yield self.device
            return
        device, make_room = self._visits
        # Before the head moves, so that UNet and head never are on the device together.
        make_room()
        try:
            self.head.to(device)
            yield device
        finally:
            self.head.to("cpu")

    def check(self, host: HostInfo) -> None:
        """Refuse a model that the head was not made for.

        Raises:
            HeadError: what differs.
        """
        require_fit(self.head.config, host)

    @torch.no_grad()
    def probability(self, host: Host, encoded: EncodedImage, prompts: Prompts, inputs: RandomInputs) -> Tensor:
        """Return the sigmoid of the head; the UNet runs only as far as the head reads it."""
        context = prompts.context
        kind = self.head.config.kind
        # Only LD-ZNet reads features; ZNet reads the latent and RGBNet the pixels, without a pass of the UNet.
        features: Mapping[str, Tensor] = {}
        if kind == "ld-znet":
            modules = host.feature_modules()
            noisy_latent = host.add_noise(encoded.latent, inputs.noise, inputs.timesteps)
            with capture({path: modules[path] for path in self.head.config.pool_grids}) as features:
                host.predict_noise(noisy_latent, inputs.timesteps, context)
        x = encoded.pixels if kind == "rgbnet" else encoded.latent
        # One thread at a time: narrow weights are widened in place.
        with self._running, self._on_device() as device:
            on_device = {path: feature.to(device) for path, feature in features.items()}
            logits: Tensor = self.head(x.to(device), context.tokens.to(device), on_device)
        logits = logits[:, 0].float()
        # Checked here, because the sigmoid turns infinity into a probability of 1.
        if not logits.isfinite().all():
            raise HostError(
                f"The {self.name} method gave values that are not numbers (NaN) or infinite in "
                f"{str(self.head.dtype).removeprefix('torch.')}: these weights overflow it. Use bfloat16 or "
                "float32 (--dtype)."
            )
        return logits.sigmoid()


def _trained_with(source: Mapping[str, Any]) -> Defaults:
    """Return the values that a head file says it was trained with; those of the paper where it says nothing.

    Raises:
        CheckpointError: a value is impossible.
    """
    try:
        options = SegmentOptions(
            resolution=source.get("resolution", 0),
            timesteps=tuple(source.get("timesteps", ())),
            template=source.get("template", ""),
        )
        threshold = _suited_threshold(source)
    except (OptionError, TypeError) as error:
        raise CheckpointError(
            f"The head file says that it was trained in an impossible way ({error}). It was damaged or written "
            "by another version of ldznet: convert or train the head again."
        ) from error
    paper = Defaults()
    return Defaults(
        options.resolution or paper.resolution,
        options.timesteps or paper.timesteps,
        options.template or paper.template,
        threshold,
    )


def _suited_threshold(source: Mapping[str, Any]) -> SuitedThreshold:
    """Return the threshold that was measured for a head; heads of before have none.

    Raises:
        OptionError: the value is no threshold.
    """
    value = MaskOptions(threshold=source.get("threshold")).threshold
    if value is None:
        return SuitedThreshold(reason="never measured for this head")
    return SuitedThreshold(value, "measured for this head")


def random_head(unet: UNetConfig, kind: Kind = "ld-znet", *, seed: int = 0) -> LearnedHead:
    """Return a head with random weights for a UNet: for tests and for measuring speed, not for masks."""
    config_of_unet = dataclasses.replace(unet, in_channels=4, out_channels=1)
    grids = paper_pool_grids(config_of_unet) if kind == "ld-znet" else {}
    config = HeadConfig(kind=kind, unet=config_of_unet, pool_grids=grids)
    head = empty_head(config).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in head.named_parameters():
        if name.startswith("final.") and parameter.ndim > 1:
            # A plain enlargement: random convolutions of one channel would only add a lattice.
            nn.init.constant_(parameter, 2.0 / 9 if parameter.shape[-1] == 3 else 1.0)
        elif parameter.ndim > 1:  # scaled so that the input reaches the output
            nn.init.normal_(parameter, std=1.4 / parameter[0].numel() ** 0.5, generator=generator)
        else:
            nn.init.constant_(parameter, float(name.endswith("weight")))  # of a norm; a bias is 0
    last = head.final[-1]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    nn.init.constant_(last.bias, -2.0)
    return LearnedHead(head, origin=f"random, seed {seed}")
