"""Give a run of img2img its mask, or stop the run: the work of the script's hooks.

    prepare(p)           in `setup`
    apply(p, args)       in `process`, where the model is the right one and `p.init` has not read the mask yet;
                         after the values of CONTROLS, `args` has the key of the result in which the page's objects
                         were chosen
    finish(p, processed) in `postprocess`

The webui holds its `queue_lock` meanwhile. What stays on `p` from file to file of Batch: batch_state.py.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from PIL import Image

from ldznet.decision import Decision, decide, to_levels
from ldznet.drawing.overlay import overlay
from ldznet.errors import ImageError, LdznetError, PromptError
from ldznet.images.given_mask import read_given_mask
from ldznet.webui import head_files, infotext, results
from ldznet.webui.app import GeneratingApp
from ldznet.webui.controls import CONTROLS, TITLE, PanelSettings, is_enabled
from ldznet.webui.inpaint_preview import blur_levels, explain_unpainted
from ldznet.webui.refusals import refusal
from ldznet.webui.request_cost import require_passes, require_pixels
from ldznet.webui.results import SegmentResult
from ldznet.webui.run import axes
from ldznet.webui.run.batch_state import Outputs, Phase, RunState, mark_own, runs_script
from ldznet.webui.run.extra_images import append_images, save_images
from ldznet.webui.session import Session, UnforeseenError

log = logging.getLogger(__name__)


class RunHooks:
    """The hooks of one session."""

    def __init__(self, session: Session, app: GeneratingApp) -> None:
        self._session = session
        self._app = app

    def prepare(self, p: Any) -> None:
        """Do the work of the hook `setup`, which in Batch is called once, before there is any image."""
        if p.init_images and p.init_images[0] is None:
            RunState.note(p, is_batch=True)

    def apply(self, p: Any, args: Sequence[Any]) -> None:
        """Do the work of the hook `process`; any error stops the run, so that it never repaints everything.

        Raising is not enough: the webui prints an exception of a hook and continues without the mask.
        """
        if hasattr(p, "_ad_inner"):  # a pass of ADetailer, which has masks of its own
            return
        infotext.clear(p.extra_generation_params)  # of the file before in Batch, or of the cell before in a plot
        changes, page_args = axes.changes(p), args[len(CONTROLS) :]
        args = args[: len(CONTROLS)]
        if not is_enabled(args) and not changes:
            return
        try:
            values, settings = self._session.settings_page.read(args, changes)
            if getattr(p, "is_api", False):
                # Only programs are limited: a person at the page sees the bar and can press Interrupt.
                _require_small(p, settings)
                info = self._session.make_host(p.sd_model).info
                require_passes(settings, self._session.head_files, info)
            values["head"] = head_files.chosen_name(values["head"])  # a checkpoint is known by its converted file
            p.extra_generation_params |= infotext.to_parameters(values, settings.segment.template)
            # The object numbers of a plot apply to each cell.
            chosen_in = "" if "objects" in changes else next(iter(page_args), None) or ""
            self._mask_image(p, settings, chosen_in)
        except LdznetError as why:
            self._stop(p, why)
        except Exception as why:
            log.exception("The mask could not be made")
            text = f"The mask could not be made ({type(why).__name__}: {why}). The log has the details."
            self._stop(p, UnforeseenError(text))

    def finish(self, p: Any, processed: Any) -> None:
        """Do the work of the hook `postprocess`: mask and overlay join the results; Batch keeps all comments."""
        state = RunState.of(p)
        if state is None or state.phase is Phase.NOTED:
            return
        if not processed.images and state.phase is not Phase.SKIPPED:
            return  # ADetailer calls this between two images, with a copy of `p` and no results
        outputs = state.outputs
        if outputs.warning and getattr(p, "mask_round", True):  # False: Soft inpainting repaints faint masks too
            _warn(p, outputs.warning)
            processed.comments += f"{outputs.warning}\n"
        if outputs.save:
            save_images(self._app, p, processed, outputs.images)
        if outputs.append and not runs_script(p):
            append_images(processed, outputs.images)
        state.finish_image(p, processed)

    def _mask_image(self, p: Any, settings: PanelSettings, chosen_in: str) -> None:
        """Give `p` its mask.

        Raises:
            LdznetError: there is no mask, and the settings say that the run stops then.
        """
        state = RunState.of(p) or RunState.note(p)
        state.begin_image(p)
        image = _only_image(p)
        state.set_inpainting(p, settings)
        if state.phase is Phase.LOOP:
            state.repeat_mask(p)
            return
        result = self._session.segment_image(p.sd_model, image, settings)
        options = settings.mask
        # In Batch the numbers are meant for each file.
        if options.objects and not state.is_batch and not results.numbers_apply(result, chosen_in):
            options = dataclasses.replace(options, objects=())
        size = result.segmentation.size
        given_mask = None if state.given_mask is None else read_given_mask(state.given_mask, size)
        decision = decide(result.segmentation, options, given_mask, blur=partial(blur_levels, p))
        p.extra_generation_params[infotext.FOUND] = infotext.ReportForPrograms(
            results.report(result, options, decision)
        )
        infotext.set_threshold(p.extra_generation_params, decision.options.level)
        if options != settings.mask:
            del p.extra_generation_params[infotext.key("objects")]
            _warn(p, results.explain_dropped_numbers(settings.mask.objects))
        if decision.reason is not None:
            why = results.explain_reason(result, options, decision.reason)
            self._run_without(p, image, settings, _in_terms_of(p, result, decision, why))
            return
        if decision.only_given:
            _warn(p, _in_terms_of(p, result, decision, results.explain_only_given(result, options)))
        else:
            name = "the given mask" if getattr(p, "is_api", False) else "the painted mask"
            _note(p, results.explain_given_mask(given_mask, options, name))
        outputs = Outputs(
            append=settings.append,
            save=self._session.settings_page.value("save"),
            warning=explain_unpainted(p, to_levels(decision.mask)),
        )
        mask = results.mask_image(decision.mask)
        if outputs.append or outputs.save:
            outputs.images = {"mask": mask, "overlay": Image.fromarray(overlay(result.image, decision.mask))}
        state.set_mask(p, mask, outputs)

    @staticmethod
    def _run_without(p: Any, image: Image.Image, settings: PanelSettings, why: str) -> None:
        """Do what the settings say for an image in which there is nothing to inpaint.

        Raises:
            PromptError: the run should stop.
        """
        if settings.on_nothing == "stop":
            raise PromptError(f"{why} Nothing was generated.")
        log.info("%s", why)
        p.comment(why)
        p.extra_generation_params["LD-ZNet mask"] = f"nothing found, {settings.on_nothing}"
        if settings.on_nothing == "empty mask":
            # With "Only masked" the webui would repaint the whole image (processing.py:1649), and with "Mask mode"
            # it would turn the empty mask into a full one.
            p.inpaint_full_res = p.inpainting_mask_invert = 0
            p.image_mask = mark_own(Image.new("L", image.size))

    def _stop(self, p: Any, why: LdznetError) -> None:
        """End the run before anything is encoded or painted, with a text for the page or the API's answer.

        A program gets an error. On the page the run generates nothing, and the text is shown below the results:
        for an exception the webui would show the name of its class, and print its traceback. In Batch only this
        file is left out. A script of the menu counts on results, such as SD upscale, which puts tiles together:
        it gets the image as it is, and continues. Only the first of its images is explained.
        """
        p.image_mask = None
        # Only texts are kept: an error holds, by its traceback, everything in its frames.
        kind, text = type(why), str(why)
        log.warning("%s: %s", TITLE, text)
        if getattr(p, "is_api", False):

            def refuse(*_: object, **__: object) -> None:
                raise refusal(kind(text))

            # The first call of the webui after the hooks, and outside of what swallows exceptions.
            p.init = refuse
            return
        state = RunState.of(p) or RunState.note(p)
        unpainted = self._unpainted_results(p)
        if not unpainted:
            p.comment(text)
        elif not state.has_unpainted:
            p.comment(f"{text} The script continues with the picture as it is.")
        state.skip_image(p, unpainted)
        if unpainted or not state.is_batch:  # one `p` serves all files of Batch
            p.init = lambda *_, **__: None  # nothing is encoded for a run that generates nothing

    def _unpainted_results(self, p: Any) -> list[Image.Image]:
        """Return as many results as a script of the menu expects; none without one, and for a cell of a plot."""
        images = [image for image in p.init_images or [] if image is not None]
        if not images or not runs_script(p) or axes.changes(p):
            return []
        fitted = [self._app.fit_image(p, image) for image in images]
        return [fitted[at % len(fitted)] for at in range(p.n_iter * p.batch_size)]


def _in_terms_of(p: Any, result: SegmentResult, decision: Decision, text: str) -> str:
    """Return a text for people at the page, or the one for programs if a program asks."""
    is_api = getattr(p, "is_api", False)
    return (results.explain_to_program(result, decision) if is_api else None) or text


def _require_small(p: Any, settings: PanelSettings) -> None:
    """Refuse a request without a prompt, or with an image that is too large.

    Raises:
        PromptError, ImageError: says what to send instead.
    """
    if not settings.prompts:
        raise PromptError(
            f'There is no prompt for {TITLE}. Give "prompt", such as {{"prompt": "bucket"}}, or leave the script '
            "out."
        )
    for image in p.init_images or []:
        if image is not None:
            require_pixels(image.size, "An image of init_images")
    if p.image_mask is not None:
        require_pixels(p.image_mask.size, "mask")


def _only_image(p: Any) -> Image.Image:
    """Return the image of a run.

    Raises:
        ImageError: it has none, or several that differ.
    """
    first, *others = p.init_images or [None]
    if any(other is not first and other.tobytes() != first.tobytes() for other in others):
        raise ImageError(
            f"This run has {1 + len(others)} different pictures, but the webui has room for one mask. Send them "
            "one at a time."
        )
    if first is None:
        raise ImageError("There is no picture. Put one into the open tab of img2img.")
    image: Image.Image = first
    return image


def _warn(p: Any, text: str) -> None:
    """Log a text and show it; see `_note`."""
    log.warning("%s", text)
    _note(p, text)


def _note(p: Any, text: str) -> None:
    """Show a text, if any, below the results, and report it to programs, which get no comments."""
    if text:
        p.comment(text)
        p.extra_generation_params[infotext.FOUND].setdefault("notes", []).append(text)
