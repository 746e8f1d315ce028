"""The functions that the panel's events call.

Each method gets the values of components by name and returns new values by name; a component without a new value
stays as it is. wiring.py says which event calls which method.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import gradio as gr  # type: ignore[import-not-found,import-untyped,unused-ignore]
from PIL import Image

from ldznet.decision import Decision, decide
from ldznet.errors import LdznetError
from ldznet.images.given_mask import read_given_mask
from ldznet.masks.checks import SoftMask
from ldznet.options import MaskOptions
from ldznet.webui import head_files, results, settings_page
from ldznet.webui.controls import AUTOMATIC, BY_NAME, PanelSettings, read_mask_options
from ldznet.webui.inpaint_preview import is_faint
from ldznet.webui.page.page import Page
from ldznet.webui.panel import preview
from ldznet.webui.panel.events import Answer, Values
from ldznet.webui.panel.messages import error, is_error, lines
from ldznet.webui.results import SegmentResult
from ldznet.webui.session import Session

log = logging.getLogger(__name__)

_FAINT = "The mask stays below 50%, from which on the webui repaints. Make the feather smaller."


def _shows_errors(act: Callable[..., Answer]) -> Callable[..., Answer]:
    """Make a method show an LdznetError in the status instead of raising it."""

    @wraps(act)
    def call(callbacks: Callbacks, *values: Any) -> Answer:
        try:
            return act(callbacks, *values)
        except LdznetError as why:
            return {"status": error(why)}

    return call


class Callbacks:
    """The events of one panel, with the session that segments and the page that has the images."""

    def __init__(self, session: Session, page: Page) -> None:
        self._session = session
        self._page = page

    # --- Segment -------------------------------------------------------------------------------------

    @_shows_errors
    def segment(self, values: Values) -> Answer:
        """Segment the image of the open tab, and show the result."""
        _, _, answer = self._segment(values)
        return answer

    @_shows_errors
    def send(self, values: Values) -> Answer:
        """Segment, and send image and mask to where the page inpaints; an empty mask is not sent."""
        result, decision, answer = self._segment(values)
        if decision.reason is not None:  # the status says why; Inpaint upload stays as it is
            return answer
        image, mask = Image.fromarray(result.image), results.mask_image(decision.mask)
        return {**answer, **self._page.send(image, mask)}

    def _segment(self, values: Values) -> tuple[SegmentResult, Decision, Answer]:
        """Segment, and return the new values of the whole panel too.

        Numbers of objects that were chosen in another result are dropped; numbers that stay belong to this one.
        """
        result, given_mask, settings = self._segment_tab(values)
        options, answer = settings.mask, self._converted_head(settings)
        if options.objects and not results.numbers_apply(result, values["chosen_in"]):
            options, answer["objects"] = dataclasses.replace(options, objects=()), ""
        decision = decide(result.segmentation, options, given_mask)
        answer |= {"key": result.key, "chosen_in": result.key, "given_mask": given_mask}
        answer |= self._show(result, options, decision) | self._show_choices(result, options)
        return result, decision, answer | {"heat": preview.draw_probability(result)}

    def _segment_tab(self, values: Values) -> tuple[SegmentResult, SoftMask | None, PanelSettings]:
        """Return the result for the open tab, the painted or uploaded mask, and the settings that were used."""
        app, session = self._session.app, self._session
        with _unforeseen_explained(), app.progress_bar(values["task"]) as start_bar:
            settings = self._read_settings(values)
            image, mask = self._page.read_image(values)

            def run() -> tuple[SegmentResult, PanelSettings]:
                start_bar()
                # While this waited, another run may have overridden the settings page; now it is as it was.
                settings = self._read_settings(values)
                return session.segment_image(app.load_model(), image, settings), settings

            if not settings.prompts:  # refused at once, since another run may use the model for long
                session.segment_image(None, image, settings)
            result, settings = app.run_exclusively(run)
            given_mask = None if mask is None else read_given_mask(mask, result.segmentation.size)
        return result, given_mask, settings

    def _read_settings(self, values: Values) -> PanelSettings:
        # A single object with names is how programs give the controls too.
        controls = {name: values[name] for name in BY_NAME if name in values}
        return self._session.settings_page.read([controls])[1]

    def _converted_head(self, settings: PanelSettings) -> Answer:
        """Return the new list and choice of heads if a checkpoint was chosen, which is converted by now."""
        if not settings.head.removesuffix(head_files.TO_CONVERT).endswith(".ckpt"):
            return {}
        return {"head": gr.update(choices=self.head_names(), value=head_files.chosen_name(settings.head))}

    # --- another mask of the same result -------------------------------------------------------------

    @_shows_errors
    def redraw(self, values: Values) -> Answer:
        """Show the result with other options of the mask."""
        return self._redraw(values, with_choices=False)

    @_shows_errors
    def redraw_all(self, values: Values) -> Answer:
        """Show the result with other options of the mask, on which the masks of other thresholds depend too."""
        return self._redraw(values, with_choices=True)

    @_shows_errors
    def enlarge(self, values: Values) -> Answer:
        """Show the overlay of a large image at its own size."""
        result, _, decision = self._decide(values)
        return {"overlay": preview.draw_whole_overlay(result, decision)}

    @_shows_errors
    def cut_out(self, values: Values) -> Answer:
        """Show what the mask selects on a transparent background; gradio's image has the button to download it."""
        result, options, decision = self._decide(values)
        if decision.reason is not None:
            raise LdznetError(results.explain_reason(result, options, decision.reason))
        return {"cutout_picture": gr.update(value=preview.draw_cutout(result, decision), visible=True)}

    def choose_threshold(self, values: Values, index: int) -> Answer:
        """Take the threshold of the mask that was clicked, and empty the gallery; `show_choices` fills it again.

        A gallery remembers which image was clicked last, and reports no second click on it until it was empty.
        """
        return {"threshold": values["offered"][index].threshold, "choices": gr.update(value=[])}

    def show_choices(self, values: Values) -> Answer:
        """Show the masks of other thresholds again."""
        return {"choices": _gallery(values["offered"])}

    @_shows_errors
    def choose_object(self, values: Values, place: tuple[int, int]) -> Answer:
        """Select the object that was clicked in addition to the selected ones, or deselect it."""
        result, options, decision = self._decide(values)
        number = preview.object_at(result, decision, *place)
        # Without a selection all objects are meant, so that the first click leaves the clicked one alone.
        selected = set(options.objects) ^ ({number} if number else set())
        return {"objects": ", ".join(map(str, sorted(selected))), "chosen_in": result.key}

    def _redraw(self, values: Values, *, with_choices: bool) -> Answer:
        if not values["key"]:  # nothing has been segmented yet
            return {}
        result, options, decision = self._decide(values)
        answer = self._show(result, options, decision)
        return answer | self._show_choices(result, options) if with_choices else answer

    def _decide(self, values: Values) -> tuple[SegmentResult, MaskOptions, Decision]:
        """Return the result that is shown, the options of the mask, and what is to be inpainted."""
        result = self._session.kept_result(values["key"])
        if result is None:
            raise LdznetError(
                "The result that is shown is no longer cached: newer ones replaced it, or the memory was freed. "
                "Press Segment again; then the controls act on it."
            )
        options = read_mask_options(values)
        return result, options, decide(result.segmentation, options, values["given_mask"])

    # --- what is shown -------------------------------------------------------------------------------

    def _show(self, result: SegmentResult, options: MaskOptions, decision: Decision) -> Answer:
        images = preview.draw_preview(result, options, decision)
        if decision.reason is None:
            notes = [results.explain_only_given(result, options)] if decision.only_given else []
            notes += [_FAINT] if is_faint(images.mask) else []
            status = lines([*preview.describe_result(result, options, decision), *notes])
        else:
            status = error(results.explain_reason(result, options, decision.reason))
        return {
            "status": status,
            "preview": gr.update(visible=True),
            "overlay": images.overlay,
            # "picture", since elem_ids are known to style sheets and to other extensions.
            "mask_picture": images.mask,
            "colors": _image_if_any(images.colors),
            "objects_picture": _image_if_any(images.objects),
            "enlarge": gr.update(visible=result.shown is not result),
            "cutout_picture": gr.update(value=None, visible=False),  # an earlier one is of another mask
        }

    def _show_choices(self, result: SegmentResult, options: MaskOptions) -> Answer:
        choices = preview.draw_threshold_choices(result, options)
        return {"offered": choices, "choices": _gallery(choices)}

    # --- heads, memory, and opening the page ---------------------------------------------------------

    @_shows_errors
    def explain_choice(self, values: Values) -> Answer:
        """Say why method and head cannot run with the loaded checkpoint, or that a head will be converted."""
        settings = self._read_settings(values)
        if checkpoint := self._session.head_files.waiting_checkpoint(settings):
            text = f"{checkpoint.name} is converted when you press Segment: once, which takes some minutes."
            return {"status": lines([text])}
        if why := self._session.obstacle(self._session.app.current_model(), settings):
            return {"status": error(why)}
        # Only an error gives way: a status that describes the shown result stays.
        return {"status": ""} if is_error(values["status"]) else {}

    @_shows_errors
    def unload(self, _values: Values) -> Answer:
        """Free the head and all results."""
        status = self._session.app.run_exclusively(self._session.unload)
        free, total = status["free_mb"], status["total_mb"]
        room = "" if free is None else f" {free / 1024:.1f} of {total / 1024:.1f} GB of the GPU are free."
        return {"status": lines([f"Unloaded: nothing of LD-ZNet is in memory.{room}"])}

    def refresh_heads(self, _values: Values) -> Answer:
        """Look for heads again."""
        return {"head": gr.update(choices=self.head_names())}

    def first_values(self, _values: Values) -> Answer:
        """Return the values with which the page opens: those of the settings page, and the list of heads."""
        page = self._session.settings_page
        return {name: page.first_value(name) for name in settings_page.OF_CONTROLS} | self.refresh_heads({})

    def head_names(self) -> list[str]:
        """Return the choices of the drop-down; no heads if a folder cannot be read, so that the page opens."""
        try:
            return self._session.head_files.names()
        except Exception:  # a share that is gone, a folder without permission
            log.exception("The folders of heads cannot be read")
            return [AUTOMATIC]


@contextmanager
def _unforeseen_explained() -> Iterator[None]:
    """Turn every exception into one that the page shows."""
    try:
        yield
    except LdznetError:
        raise
    except Exception as why:
        log.exception("The mask could not be made")
        raise LdznetError(
            f"The mask could not be made ({type(why).__name__}: {why}). The log of the program has the details."
        ) from why


def _image_if_any(image: Image.Image | None) -> Any:
    return gr.update(value=image, visible=image is not None)


def _gallery(choices: list[preview.ThresholdChoice]) -> Any:
    return gr.update(value=[(one.image, one.caption) for one in choices], visible=bool(choices))
