"""Segment with the model that the webui has loaded, once for the same request.

    session = Session(app, make_host)                             # in the webui: webui_session()
    result = session.segment_image(sd_model, image, settings)     # the networks run
    decision = decide(result.segmentation, settings.mask)         # decision.py: nothing runs again

The caller is inside of `app.run_exclusively`, or of a run of the webui, when it calls `segment_image` or `unload`.
Whatever goes wrong in `segment_image`, the next call works.
"""

from __future__ import annotations

import hashlib
import logging
import time
import traceback
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ldznet.errors import LdznetError, OutOfMemoryError, PromptError
from ldznet.files import LruCache
from ldznet.heads.head_file import HeadInfo
from ldznet.images.saving import image_digest
from ldznet.inference.passes import Progress
from ldznet.memory_errors import explain_out_of_memory
from ldznet.methods.choose import best_head, choose_method
from ldznet.methods.learned_head import LearnedHead
from ldznet.segmenter import Segmenter
from ldznet.webui import head_files
from ldznet.webui.app import App
from ldznet.webui.controls import AUTOMATIC, TITLE, PanelSettings
from ldznet.webui.head_files import ROOT, HeadFiles
from ldznet.webui.head_placement import head_device, head_storage, place_head
from ldznet.webui.memory import MemoryUse, device_memory, measure_memory, megabytes, weight_bytes
from ldznet.webui.progress import StoppedError, progress_shown, stop_if_requested
from ldznet.webui.results import SegmentResult, flatten_image
from ldznet.webui.settings_page import SettingsPage
from ldznet.webui.views import make_views

__all__ = ["Session", "StoppedError", "UnforeseenError"]

log = logging.getLogger(__name__)

# Results that stay for the sliders of everybody who has the page open; fewer of large images, but always the last.
MOST_RESULTS = 8
MOST_RESULT_BYTES = 2**29


class UnforeseenError(LdznetError):
    """A fault that the user has not caused, such as another extension's exception in the model."""


class Session:
    """The segmenter of the loaded model, and the last results; made once and handed to panel, runs and API."""

    def __init__(self, app: App, make_host: Callable[[Any], Any]) -> None:
        """Take the door to the webui; `make_host` returns a Host for the loaded model.

        It also has `borrowed`, `is_current` and `clear_memory`, and calls `before_pass` before each pass.
        """
        self.app = app
        self.make_host = make_host
        self.settings_page = SettingsPage(app)
        self.head_files = HeadFiles(self.settings_page)
        self._host: Any = None
        # Weak, since Forge drops a model before it loads another: held here, both would be in memory.
        self._model: Callable[[], Any] = _no_model
        self._segmenter: Segmenter | None = None
        self._choice: tuple[Any, ...] = ()  # of method and head, for which the segmenter was made
        self._reason = ""  # why it is this method
        self._head_name = ""
        self._encoded_image = ""  # the digest of the image whose latent the segmenter has
        self._last_use: MemoryUse | None = None
        self._results: LruCache[str, SegmentResult] = LruCache(MOST_RESULTS, MOST_RESULT_BYTES, _result_bytes)
        self.views = make_views()

    def segment_image(
        self, sd_model: Any, image: Image.Image, settings: PanelSettings, progress: Progress | None = None
    ) -> SegmentResult:
        """Segment the image with the loaded model; return an earlier result of the same request if it is kept.

        Raises:
            LdznetError: it cannot be done; the text says why, and what to do.
        """
        if not settings.prompts:
            raise PromptError(
                f'There is no prompt. Type what to select into "What to select" of {TITLE}, such as: bucket. '
                f"Or close {TITLE}, which switches it off."
            )
        flat = flatten_image(image, self.app.option("img2img_background_color", "#ffffff"))
        host = self._host_for(sd_model)
        # Before the heads are listed: the converted file is one of them.
        if checkpoint := self.head_files.waiting_checkpoint(settings):
            with progress_shown(self.app, f"converting {checkpoint.name}, once") as report:
                head_files.convert_checkpoint(checkpoint, host.info, report)
        heads, rest = self.head_files.candidates(settings), self.settings_page.value("rest")
        device, dtype = head_device(self.app, self.settings_page)
        # A file may be replaced under its name while the webui runs, so its digest counts too.
        files = tuple((str(info.path), info.sha256) for info in heads)
        storage = head_storage(settings.head, self.settings_page)
        choice = (settings.method, head_files.chosen_name(settings.head), files, str(device), storage, dtype)
        digest = image_digest(flat)
        request = (digest, settings.prompts, settings.negatives, settings.segment, choice, host.info.fingerprint)
        # The page gets the key; a digest, since the request itself may be long.
        key = hashlib.sha256(repr(request).encode()).hexdigest()[:32]
        if known := self._results.get(key):
            self._apply_rest(host, device, rest)
            return known
        prompts = ", ".join(settings.prompts)
        with (
            measure_memory(host.device) as use,
            self._recover_from_errors(host, rest),
            progress_shown(self.app, prompts, progress) as report,
        ):
            segmenter = self._segmenter_for(host, settings, heads, choice)
            place_head(self.app, segmenter.method, sd_model, device, rest)
            with host.borrowed():
                encoding = self._encode_image(segmenter, flat, digest, settings)
                segmentation = segmenter.segment(
                    settings.prompts, settings.segment, negative_prompts=settings.negatives, progress=report
                )
        self._last_use = use
        log.info("%s in %s by %s: %s.", prompts, host.info.name, self._reason, use)
        pixels = self._shared_pixels(digest, flat)
        return self._results.put(key, SegmentResult(key, segmentation, pixels, self._reason, encoding, digest))

    def _encode_image(
        self, segmenter: Segmenter, image: Image.Image, digest: str, settings: PanelSettings
    ) -> float:
        """Encode the image unless the segmenter has it already; return the seconds that this took."""
        if self._encoded_image == digest:
            return 0.0
        self._encoded_image = ""  # stays so if encoding breaks off
        start = time.perf_counter()
        segmenter.set_image(image, settings.segment)
        self._encoded_image, seconds = digest, time.perf_counter() - start
        stop_if_requested(self.app)
        return seconds

    def kept_result(self, key: str) -> SegmentResult | None:
        """Return an earlier result by its key, if it is still kept."""
        return self._results.get(key)

    def obstacle(self, sd_model: Any, settings: PanelSettings) -> str:
        """Return why the chosen method and head cannot run with a checkpoint; empty if they can.

        Where no checkpoint is loaded, one will be when it is needed, and may not be a problem.
        """
        if sd_model is None:
            return ""
        try:
            info = self.make_host(sd_model).info
            if self.head_files.waiting_checkpoint(settings):
                return ""
            heads = self.head_files.candidates(settings)
            needs_head = settings.method == "head" or (settings.method == "auto" and settings.head != AUTOMATIC)
            if needs_head and best_head(heads, info) is None:
                choose_method("head", info, heads)  # raises the error that says why, and loads nothing
        except LdznetError as why:
            return str(why)
        return ""

    # --- memory --------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Return what is loaded and where, fit for JSON; sizes in MB, None where there is nothing to count."""
        host, method = self._host, None if self._segmenter is None else self._segmenter.method
        head = method if isinstance(method, LearnedHead) else None
        device = self.app.device()
        return {
            "model": None if host is None else host.info.name,
            "method": None if method is None else method.name,
            "head": None if head is None else self._head_name,
            "head_device": None if head is None else str(head.device),
            "head_dtype": None if head is None else str(head.head.dtype).removeprefix("torch."),
            "head_mb": None if head is None else megabytes(weight_bytes(head.head)),
            "rest": self.settings_page.first_value("rest"),
            "kept": len(self._results),
            "last_run": None if self._last_use is None else self._last_use.as_dict(),
            "device": str(device),
            **device_memory(device),
        }

    def unload(self) -> dict[str, Any]:
        """Free the head, the encoded prompts and image, and all results; return the `status` after it."""
        host = self._host
        self.forget_model()
        self._results.clear()
        self.views.clear()
        if host is not None:
            host.clear_memory()
        return self.status()

    def forget_model(self) -> None:
        """Free the head and what the model has encoded, because the webui has loaded another model."""
        self._forget_segmenter()
        self._host, self._model = None, _no_model

    def _forget_segmenter(self) -> None:
        if self._segmenter is not None and isinstance(self._segmenter.method, LearnedHead):
            self._segmenter.method.release()  # from a memory manager's list
        self._segmenter, self._choice, self._encoded_image, self._head_name = None, (), "", ""

    @contextmanager
    def _recover_from_errors(self, host: Any, rest: str) -> Iterator[None]:
        """Restore a state in which the next run works, whatever the block raises; unload what should not stay."""
        stays = rest != "unloaded"
        try:
            with explain_out_of_memory("The segmentation"):
                yield
        except OutOfMemoryError:
            stays = False  # the memory is needed more than a quick next run
            raise
        except LdznetError:
            raise  # nothing is broken: the next run can use the same segmenter
        except Exception as why:
            stays = False
            log.exception("The segmentation broke off")
            extension = _other_extension(why)
            advice = f" The extension {extension} was at work: switch it off and try again." if extension else ""
            raise UnforeseenError(
                f"The segmentation broke off ({type(why).__name__}: {why}).{advice} The log has the details."
            ) from why
        finally:
            if not stays:
                self._forget_segmenter()
                host.clear_memory()

    def _shared_pixels(self, digest: str, image: Image.Image) -> np.ndarray[Any, Any]:
        """Return the image as an array, the same one for all results of an image."""
        # Results of one image with different prompts are common, and an image of 8K takes 100 MB.
        same = (result.image for result in self._results.values() if result.digest == digest)
        pixels = next(same, None)
        return np.asarray(image) if pixels is None else pixels

    # --- the model and the method --------------------------------------------------------------------

    def _host_for(self, sd_model: Any) -> Any:
        if self._host is None or not self._host.is_current or self._model() is not sd_model:
            self._forget_segmenter()
            self._host, self._model = self.make_host(sd_model), weakref.ref(sd_model)
            self._host.before_pass = partial(stop_if_requested, self.app)
        return self._host

    def _segmenter_for(
        self, host: Any, settings: PanelSettings, heads: Sequence[HeadInfo], choice: tuple[Any, ...]
    ) -> Segmenter:
        """Return the segmenter, a new one if the model, the method or the head files have changed."""
        if self._segmenter is None or choice != self._choice:
            self._forget_segmenter()
            # Who names a head wants it: automatic choice must not fall back to attention silently.
            name = "head" if settings.head != AUTOMATIC and settings.method == "auto" else settings.method
            with head_files.paths_hidden(*(info.path for info in heads)):
                method_choice = choose_method(name, host.info, heads, storage=choice[-2], dtype=choice[-1])
            reason = f"{method_choice.method.name}, {method_choice.reason}"
            if isinstance(method_choice.method, LearnedHead):
                digest = method_choice.method.record["head"]
                self._head_name = next(info.path.name for info in heads if info.sha256 == digest)
            elif name == "auto" and (waiting := head_files.unconverted(self.head_files.folders())):
                reason += f"; {waiting[0].name} can be converted to one: choose it as the head"
            self._segmenter = Segmenter(host, method_choice.method)
            self._choice, self._reason = choice, reason
        return self._segmenter

    def _apply_rest(self, host: Any, device: torch.device, rest: str) -> None:
        """Move or free the head as the settings say, in a request for which no network runs."""
        if self._segmenter is None:
            return
        if rest != "unloaded":
            try:
                place_head(self.app, self._segmenter.method, self._model(), device, rest)
                return
            except Exception:
                log.warning("The head could not be moved; the next run loads it again.", exc_info=True)
        self._forget_segmenter()
        host.clear_memory()


def _other_extension(why: Exception) -> str:
    """Return the name of another extension of the webui through whose code an exception came; empty if none."""
    for frame, _ in traceback.walk_tb(why.__traceback__):
        path = Path(frame.f_code.co_filename)
        for parent in path.parents:
            if parent.parent.name in ("extensions", "extensions-builtin") and parent.resolve() != ROOT.resolve():
                return parent.name
    return ""


def _no_model() -> None:
    """Return no model, as a weak reference does whose model is gone."""


def _result_bytes(results: Collection[SegmentResult]) -> int:
    """Return the memory of results, of which those of one image share its array."""
    images = {id(result.image): result.image.nbytes for result in results}
    return sum(images.values()) + sum(result.segmentation.nbytes for result in results)
