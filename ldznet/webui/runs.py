"""Finding, with the model that the webui has loaded: once for the same question.

    found = RUNS.find(sd_model, image, settings)     # the networks run
    look = show(found, settings.mask)                # found.py: heat map, mask, overlay; nothing runs again

The caller holds the webui's `queue_lock` around `find`. `modules` is the webui's, and is imported when something
is done.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ldznet.errors import HeadError, LdznetError, OptionError, PromptError
from ldznet.hosts.a1111 import A1111Host
from ldznet.image import image_digest
from ldznet.methods.choose import choose_method, find_heads
from ldznet.modeling.checkpoint import HeadInfo
from ldznet.segmenter import Progress, Segmenter
from ldznet.webui.controls import AUTOMATIC, TITLE, Settings
from ldznet.webui.found import Found, flattened

ROOT = Path(__file__).parents[2]
KEPT = 8  # segmentations that stay at hand for the sliders of all who have the page open
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class StoppedError(LdznetError):
    """The user has pressed Interrupt or Skip."""


class Runs:
    """Keeps the segmenter of the loaded model, and the last segmentations."""

    def __init__(self) -> None:
        self._host: A1111Host | None = None
        self._model: Any = None
        self._segmenter: Segmenter | None = None
        self._chosen: tuple[Any, ...] = ()
        self._reason = ""
        self._image = ""
        self._found: OrderedDict[str, Found] = OrderedDict()
        self._lock = threading.Lock()

    def find(
        self, sd_model: Any, image: Image.Image, settings: Settings, progress: Progress | None = None
    ) -> Found:
        """What is asked for in the image, by the loaded model; what was found before is not looked for again.

        Raises:
            LdznetError: it cannot be done; the text says why, and what to do.
        """
        if not settings.prompts:
            raise PromptError(
                f'There is no prompt. Type what to select into "What to select" of {TITLE}, such as: bucket. '
                f"Or close {TITLE}, which switches it off."
            )
        picture = flattened(image)
        segmenter = self._segmenter_for(sd_model, settings)
        digest = image_digest(picture)
        question = (
            digest,
            settings.prompts,
            settings.negatives,
            settings.segment,
            self._chosen,
            segmenter.host.info.fingerprint,
        )
        key = hashlib.sha256(repr(question).encode()).hexdigest()[:32]
        if known := self._look_up(key):
            return known
        assert self._host is not None
        with self._host.borrowed():
            if self._image != digest:
                self._image = ""
                segmenter.set_image(picture, settings.segment)
                self._image = digest
            segmentation = segmenter.segment(
                settings.prompts,
                settings.segment,
                negative_prompts=settings.negatives,
                progress=_watching(settings.prompts, progress),
            )
        return self._keep(Found(key, segmentation, np.asarray(picture), self._reason))

    def kept(self, key: str) -> Found | None:
        """What was found before under this key, if it is still there."""
        return self._look_up(key)

    def _look_up(self, key: str) -> Found | None:
        with self._lock:
            found = self._found.get(key)
            if found is not None:
                self._found.move_to_end(key)
            return found

    def _keep(self, found: Found) -> Found:
        with self._lock:
            self._found[found.key] = found
            while len(self._found) > KEPT:
                self._found.popitem(last=False)
        return found

    def _segmenter_for(self, sd_model: Any, settings: Settings) -> Segmenter:
        """The one there is, as long as the webui's model, the method and the files of heads are the same."""
        host = self._host_for(sd_model)
        heads = _wanted_heads(settings)
        chosen = (settings.method, settings.head, tuple((info.path, info.sha256) for info in heads))
        if self._segmenter is None or chosen != self._chosen:
            self._forget()
            wanted = "head" if settings.head != AUTOMATIC and settings.method == "auto" else settings.method
            device, dtype = _where()
            choice = choose_method(wanted, host.info, heads, device=device, dtype=dtype)
            self._segmenter = Segmenter(host, choice.method)
            self._chosen, self._reason = chosen, f"{choice.method.name}, {choice.reason}"
        return self._segmenter

    def _host_for(self, sd_model: Any) -> A1111Host:
        if self._host is None or not self._host.is_current or self._model is not sd_model:
            self._forget()
            self._host, self._model = A1111Host(sd_model), sd_model
        return self._host

    def _forget(self) -> None:
        self._segmenter, self._chosen, self._image = None, (), ""

    def why_not(self, sd_model: Any, settings: Settings) -> str:
        """Why the chosen method and head cannot run with the loaded checkpoint; empty if they can."""
        try:
            host = self._host_for(sd_model)
            heads = _wanted_heads(settings)
            if settings.method == "head" or (settings.method == "auto" and settings.head != AUTOMATIC):
                choose_method("head", host.info, heads)
        except LdznetError as why:
            return str(why)
        return ""


RUNS = Runs()


# --- heads, device, progress -------------------------------------------------------------------------


def head_folders() -> list[Path]:
    """Where heads are looked for: in the extension, in the webui, and where the command line says."""
    from modules import paths, shared  # type: ignore[import-not-found]

    given = getattr(shared.cmd_opts, "ldznet_heads", None)
    folders = [ROOT / "models", Path(paths.models_path) / "ldznet"]
    return [*folders, Path(given)] if given else folders


def head_names() -> list[str]:
    """Choices for the drop-down."""
    return [AUTOMATIC, *dict.fromkeys(info.path.name for info in find_heads(head_folders()))]


def _wanted_heads(settings: Settings) -> list[HeadInfo]:
    heads = find_heads(head_folders())
    if settings.head == AUTOMATIC:
        return heads
    chosen = [info for info in heads if info.path.name == settings.head]
    if not chosen and settings.method in ("auto", "head"):
        known = ", ".join(info.path.name for info in heads) or "none"
        raise HeadError(
            f"There is no head {settings.head!r} (there: {known}). Put the file into models/ldznet of the webui, "
            f'or choose "{AUTOMATIC}".'
        )
    return chosen[:1]


def _where() -> tuple[torch.device, torch.dtype | None]:
    """Device and precision of heads, by the command line."""
    from modules import devices, shared

    device = getattr(shared.cmd_opts, "ldznet_device", None) or devices.device
    precision = getattr(shared.cmd_opts, "ldznet_precision", None) or "auto"
    try:
        return torch.device(device), DTYPES.get(precision)
    except RuntimeError as why:
        raise OptionError(f"--ldznet-device is {device!r}, which PyTorch does not know ({why}).") from why


def _watching(prompts: Sequence[str], progress: Progress | None) -> Callable[[int, int], None]:
    """Tells the webui how far it is, and ends the work if the user has pressed Interrupt."""
    from modules import shared

    state = shared.state
    state.textinfo = f"{TITLE}: {', '.join(prompts)}"[:80]

    def report(done: int, total: int) -> None:
        if state.interrupted or state.skipped or state.stopping_generation:
            raise StoppedError("The segmentation was interrupted. Nothing was generated.")
        if progress is not None:
            progress(done, total)

    return report
