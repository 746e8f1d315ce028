"""Finding, with the model that the webui has loaded: once for the same question.

    found = RUNS.find(sd_model, image, settings)     # the networks run
    look = show(found, settings.mask)                # found.py: heat map, mask, overlay; nothing runs again

The caller holds the webui's `queue_lock` around `find` and `unload`. Whatever goes wrong in `find`, the next one
works. `modules` is the webui's, and is imported when something is done.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image

from ldznet.errors import LdznetError, OptionError, OutOfMemoryError, PromptError
from ldznet.heads.head_file import HeadInfo
from ldznet.hosts.a1111.host import A1111Host
from ldznet.images.reading import image_digest
from ldznet.inference.passes import Progress
from ldznet.memory_errors import explain_out_of_memory
from ldznet.methods.choose import best_head, choose_method
from ldznet.methods.learned_head import LearnedHead
from ldznet.result import Segmentation
from ldznet.segmenter import Segmenter
from ldznet.webui import head_files, settings_page
from ldznet.webui.controls import AUTOMATIC, TITLE, Settings
from ldznet.webui.memory import Usage, bytes_of, device_memory, measured, megabytes
from ldznet.webui.progress import StoppedError, shown, stop_if_asked
from ldznet.webui.results import Found, flattened

__all__ = ["RUNS", "Runs", "StoppedError", "UnforeseenError"]

log = logging.getLogger(__name__)

# Segmentations that stay at hand for the sliders of all who have the page open; of large ones fewer, but the last.
KEPT = 8
MOST_KEPT = 2**29  # bytes of their maps and pictures
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class UnforeseenError(LdznetError):
    """What is no fault of the user's, such as another extension's exception in the model."""


class Runs:
    """Keeps the segmenter of the loaded model, and the last segmentations."""

    def __init__(self) -> None:
        # what is loaded -> a host with `borrowed` and `is_current`, which calls `before_pass`
        self.make_host: Callable[[Any], Any] = A1111Host
        self._host: Any = None
        self._model: Any = None
        self._segmenter: Segmenter | None = None
        self._chosen: tuple[Any, ...] = ()
        self._reason = ""
        self._head = ""  # the name of its file
        self._image = ""
        self._last: Usage | None = None
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
        host = self._host_for(sd_model)
        if checkpoint := head_files.waiting_checkpoint(settings):
            with shown(f"converting {checkpoint.name}, once") as report:
                head_files.convert_checkpoint(checkpoint, host.info, report)
        heads, rest, (device, dtype) = head_files.wanted_heads(settings), settings_page.setting("rest"), _where()
        chosen = (settings.method, head_files.chosen_name(settings.head), _identities(heads), str(device), dtype)
        digest = image_digest(picture)
        words = (settings.prompts, settings.negatives, settings.segment)
        question = (digest, *words, chosen, host.info.fingerprint)
        key = hashlib.sha256(repr(question).encode()).hexdigest()[:32]
        if known := self._look_up(key):
            self._rest(host, device, rest)
            return known
        said, encoding = ", ".join(settings.prompts), 0.0
        with measured(host.device) as usage, self._survived(host, rest), shown(said, progress) as report:
            segmenter = self._segmenter_for(host, settings, heads, chosen)
            self._settle(segmenter.method, device, rest)
            with host.borrowed():
                if self._image != digest:
                    self._image = ""
                    start = time.perf_counter()
                    segmenter.set_image(picture, settings.segment)
                    self._image, encoding = digest, time.perf_counter() - start
                    stop_if_asked()
                segmentation = segmenter.segment(
                    settings.prompts,
                    settings.segment,
                    negative_prompts=settings.negatives,
                    progress=report,
                )
        self._last = usage
        log.info("%s in %s by %s: %s.", said, host.info.name, self._reason, usage)
        return self._keep(key, segmentation, digest, picture, encoding)

    def kept(self, key: str) -> Found | None:
        """What was found before under this key, if it is still there."""
        return self._look_up(key)

    def why_not(self, sd_model: Any, settings: Settings) -> str:
        """Why the chosen method and head cannot run with the loaded checkpoint; empty if they can."""
        try:
            info = self.make_host(sd_model).info
            if head_files.waiting_checkpoint(settings):
                return ""
            heads = head_files.wanted_heads(settings)
            asked_for = settings.method == "head" or (settings.method == "auto" and settings.head != AUTOMATIC)
            if asked_for and best_head(heads, info) is None:
                choose_method("head", info, heads)  # says why, and loads none
        except LdznetError as why:
            return str(why)
        return ""

    # --- memory --------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What is loaded and where, fit for JSON; sizes in MB, None where there is nothing or nobody counts."""
        segmenter, host, last = self._segmenter, self._host, self._last
        method = None if segmenter is None else segmenter.method
        head = method if isinstance(method, LearnedHead) else None
        device = _webuis_device()
        return {
            "model": None if host is None else host.info.name,
            "method": None if method is None else method.name,
            "head": None if head is None else self._head,
            "head_device": None if head is None else str(head.device),
            "head_dtype": None if head is None else str(head.head.dtype).removeprefix("torch."),
            "head_mb": None if head is None else megabytes(bytes_of(head.head)),
            "rest": settings_page.first_value("rest"),
            "kept": len(self._found),
            "last_run": None if last is None else last.as_dict(),
            "device": str(device),
            **device_memory(device),
        }

    def unload(self) -> dict[str, Any]:
        """Let go of all that is ours: head, contexts, the picture's latent, what was found; -> `status`."""
        host = self._host
        self.forget_model()
        with self._lock:
            self._found.clear()
        if host is not None:
            host.clear_memory()
        return self.status()

    def forget_model(self) -> None:
        """The webui has loaded another one: let go of the head, and of what the one before has encoded."""
        self._forget()
        self._host = self._model = None

    def _forget(self) -> None:
        self._segmenter, self._chosen, self._image, self._head = None, (), "", ""

    @contextmanager
    def _survived(self, host: Any, rest: str) -> Iterator[None]:
        """Whatever happens inside, the next run works; and what shall not stay does not."""
        keep = rest != "unloaded"
        try:
            with explain_out_of_memory("The segmentation"):
                yield
        except OutOfMemoryError:
            keep = False
            raise
        except LdznetError:
            raise
        except Exception as why:
            keep = False
            log.exception("The segmentation broke off")
            raise UnforeseenError(
                f"The segmentation broke off ({type(why).__name__}: {why}). Another extension that works on the "
                "model may be the cause. Switch other extensions off and try again; the log has the whole story."
            ) from why
        finally:
            if not keep:
                self._forget()
                host.clear_memory()

    # --- what was found ------------------------------------------------------------------------------

    def _look_up(self, key: str) -> Found | None:
        with self._lock:
            found = self._found.get(key)
            if found is not None:
                self._found.move_to_end(key)
            return found

    def _keep(
        self, key: str, segmentation: Segmentation, digest: str, picture: Image.Image, encoding: float
    ) -> Found:
        with self._lock:
            same = (found.image for found in self._found.values() if found.digest == digest)
            pixels = next(same, None)  # one array for all that was found in a picture
            pixels = np.asarray(picture) if pixels is None else pixels
            found = Found(key, segmentation, pixels, self._reason, encoding, digest)
            self._found[key] = found
            while len(self._found) > KEPT or (len(self._found) > 1 and self._kept_bytes() > MOST_KEPT):
                self._found.popitem(last=False)
        return found

    def _kept_bytes(self) -> int:
        pictures = {id(found.image): found.image.nbytes for found in self._found.values()}
        return sum(pictures.values()) + sum(found.segmentation.nbytes for found in self._found.values())

    # --- the model and the method --------------------------------------------------------------------

    def _host_for(self, sd_model: Any) -> Any:
        if self._host is None or not self._host.is_current or self._model is not sd_model:
            self._forget()
            self._host, self._model = self.make_host(sd_model), sd_model
            self._host.before_pass = stop_if_asked
        return self._host

    def _segmenter_for(
        self, host: Any, settings: Settings, heads: Sequence[HeadInfo], chosen: tuple[Any, ...]
    ) -> Segmenter:
        """The one there is, as long as the webui's model, the method and the files of heads are the same."""
        if self._segmenter is None or chosen != self._chosen:
            self._forget()
            wanted = "head" if settings.head != AUTOMATIC and settings.method == "auto" else settings.method
            with head_files.without_folders(*(info.path for info in heads)):
                choice = choose_method(wanted, host.info, heads, dtype=chosen[-1])
            reason = f"{choice.method.name}, {choice.reason}"
            if isinstance(choice.method, LearnedHead):
                self._head = next(i.path.name for i in heads if i.sha256 == choice.method.record["head"])
            elif wanted == "auto" and (waiting := head_files.unconverted(head_files.head_folders())):
                reason += f"; {waiting[0].name} can be converted to one: choose it as the head"
            self._segmenter = Segmenter(host, choice.method)
            self._chosen, self._reason = chosen, reason
        return self._segmenter

    def _rest(self, host: Any, device: torch.device, rest: str) -> None:
        """What the settings say of the head holds where nothing has to run, too; all is known without it."""
        if self._segmenter is None:
            return
        if rest != "unloaded":
            try:
                self._settle(self._segmenter.method, device, rest)
                return
            except Exception:
                log.warning("The head could not go to where it rests; the next run loads it again.", exc_info=True)
        self._forget()
        host.clear_memory()

    def _settle(self, head: Any, device: torch.device, rest: str) -> None:
        """Where a head lives, by the settings, and with --medvram and --lowvram never beside the UNet."""
        if not isinstance(head, LearnedHead):
            return
        saving = bool(getattr(self._model, "lowvram", False))
        if device.type == "cpu" or (rest == "GPU" and not saving):
            head.to(device)
        elif saving:
            from modules import lowvram  # type: ignore[import-not-found,unused-ignore]

            head.visit(device, lowvram.send_everything_to_cpu)
        else:
            head.visit(device)


RUNS = Runs()


def loaded_model() -> Any:
    """The model that the webui's page names; the caller holds `queue_lock`.

    A run with another checkpoint of its own leaves that one loaded until the next run begins as this does.
    """
    from modules import sd_models, shared  # type: ignore[import-not-found,unused-ignore]

    _ = shared.sd_model  # while the webui loads its first one, this waits; the next line would load a second
    sd_models.reload_model_weights()
    return shared.sd_model


def _identities(heads: Sequence[HeadInfo]) -> tuple[tuple[str, str], ...]:
    return tuple((str(info.path), info.sha256) for info in heads)


def _webuis_device() -> torch.device:
    from modules import devices  # type: ignore[import-not-found,unused-ignore]

    return torch.device(devices.device)


def _where() -> tuple[torch.device, torch.dtype | None]:
    """Device and precision of heads; a CPU computes in float32 unless it is told otherwise."""
    from modules import shared  # type: ignore[import-not-found,unused-ignore]

    given = getattr(shared.cmd_opts, "ldznet_device", None)
    try:
        device = _webuis_device() if given is None else torch.device(given)
    except RuntimeError as why:
        raise OptionError(f"--ldznet-device is {given!r}, which PyTorch does not know ({why}).") from why
    precision = settings_page.precision()
    if precision == "auto" and device.type == "cpu":
        return device, torch.float32
    return device, DTYPES.get(precision)
