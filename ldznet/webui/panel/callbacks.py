"""The functions that the panel's events call.

Each method gets the values of components by name and returns new values by name; a component without a new value
stays as it is. wiring.py says which event calls which method.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import gradio as gr  # type: ignore[import-not-found,import-untyped,unused-ignore]
from PIL import Image

from ldznet.decision import Decision, decide
from ldznet.drawing.colors import RgbImage
from ldznet.errors import LdznetError
from ldznet.images.given_mask import read_given_mask
from ldznet.masks.checks import SoftMask
from ldznet.options import MaskOptions
from ldznet.webui import head_files, results, settings_page, views
from ldznet.webui.controls import AUTOMATIC, BY_NAME, PanelSettings, read_mask_options
from ldznet.webui.inpaint_preview import HALF
from ldznet.webui.page.page import Page
from ldznet.webui.panel import figures, preview
from ldznet.webui.panel.events import Answer, Values
from ldznet.webui.panel.messages import error, is_error, lines, of_result
from ldznet.webui.results import SegmentResult
from ldznet.webui.session import Session
from ldznet.webui.views import Drawn, View

log = logging.getLogger(__name__)

# Sliders of inpainting, with the switch beside each that says "as set in the tab": then the slider is hidden.
AS_IN_TAB = {"padding": "padding_of_tab", "mask_blur": "mask_blur_of_tab"}
_FIRST_OWN = {"padding": 32, "mask_blur": 4}  # the webui's own first values

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
        # Off, so that Generate paints what lies there then, also where the user replaces it.
        return {**answer, **self._page.send(image, mask), "enabled": False}

    def cancel(self, _values: Values) -> Answer:
        """Stop the segmentation that runs now; its own event says so."""
        self._session.app.request_stop()
        return {}

    def _segment(self, values: Values) -> tuple[SegmentResult, Decision, Answer]:
        """Segment, and return the new values of the whole panel too.

        Numbers of objects that were chosen in another result are dropped; numbers that stay belong to this one.
        """
        result, given_mask, note, settings = self._segment_tab(values)
        options, answer = settings.mask, self._converted_head(settings)
        if options.objects and not results.numbers_apply(result, values["chosen_in"]):
            options, answer["objects"] = dataclasses.replace(options, objects=()), ""
        if options.threshold is None:
            answer["threshold"] = result.segmentation.threshold.value
        decision = decide(result.segmentation, options, given_mask)
        answer |= {"key": result.key, "chosen_in": result.key, "given_mask": given_mask, "note": note}
        # JavaScript notes what was asked, and learns by this what is shown now.
        answer |= {"shown": values["asked"], "preview": gr.update(visible=True)}
        answer |= {"enlarge": gr.update(visible=result.shown is not result)}
        answer |= self._show(result, options, decision, note, given_mask) | self._show_choices(result, options)
        answer["view"] = views.new_name()
        view = View(self.redraw, result.key, given_mask, note, answer.pop("drawn"))
        self._session.views.put(answer["view"], view)
        return result, decision, answer | {"heat": _heat_figure(result)}

    def _segment_tab(self, values: Values) -> tuple[SegmentResult, SoftMask | None, str, PanelSettings]:
        """Return the result for the open tab, its painted or uploaded mask, its note, and the settings in use."""
        app, session = self._session.app, self._session
        with _unforeseen_explained(), app.progress_bar(values["task"]) as start_bar:
            settings = self._read_settings(values)
            tab = self._page.read_image(values, app)

            def run() -> tuple[SegmentResult, PanelSettings]:
                start_bar()
                # While this waited, another run may have overridden the settings page; now it is as it was.
                settings = self._read_settings(values)
                return session.segment_image(app.load_model(), tab.image, settings), settings

            if not settings.prompts:  # refused at once, since another run may use the model for long
                session.segment_image(None, tab.image, settings)
            result, settings = app.run_exclusively(run)
            given_mask = None if tab.mask is None else read_given_mask(tab.mask, result.segmentation.size)
        return result, given_mask, tab.note, settings

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
        """Show the result with other options of the mask.

        `kind` is "all" if masks of other thresholds depend on these options too.
        """
        if not values["key"]:  # nothing has been segmented yet
            return {}
        result, options, decision = self._decide(values)
        suited, drawn = result.segmentation.threshold.value, values["drawn"]
        is_drawn = drawn is not None and (drawn.key, drawn.options) == (result.key, options)
        if is_drawn and values["threshold"] in (suited, options.threshold):
            return {}  # a value that this panel has set itself
        if (
            options.threshold is None
            and values["threshold"] != suited
            and drawn
            and drawn.options.threshold is None
        ):
            # The slider was moved, and the switch follows; this event does not know of it yet.
            options = dataclasses.replace(options, threshold=values["threshold"])
            decision = decide(result.segmentation, options, values["given_mask"])
        answer = self._show(result, options, decision, values["note"], values["given_mask"], drawn)
        if options.threshold is None:
            answer["threshold"] = suited
        return answer | self._show_choices(result, options) if values["kind"] == "all" else answer

    @_shows_errors
    def enlarge(self, values: Values) -> Answer:
        """Show the overlay of a large image at its own size."""
        result, _, decision = self._decide(values)
        return {"overlay": _overlay_figure(preview.draw_whole_overlay(result, decision))}

    @_shows_errors
    def cut_out(self, values: Values) -> Answer:
        """Show what the mask selects on a transparent background, with a link to download it."""
        result, options, decision = self._decide(values)
        if decision.reason is not None:
            raise LdznetError(results.explain_reason(result, options, decision.reason))
        image = preview.draw_cutout(result, decision)
        source = figures.encode_exactly(image)
        return {"cutout_picture": figures.figure(source, image.shape[:2], "Cutout", download="cutout.png")}

    @_shows_errors
    def choose_object(self, values: Values) -> Answer:
        """Select the object that was clicked in addition to the selected ones, or deselect it.

        `clicked` begins with its number, "#3", or with a place as parts of the image's sides, "0.5 0.25".
        """
        result, options, decision = self._decide(values)
        first, second, *_ = values["clicked"].split()
        is_number = first.startswith("#")
        number = int(first[1:]) if is_number else preview.object_at(decision, float(first), float(second))
        # Without a selection all objects are meant, so that the first click leaves the clicked one alone.
        selected = set(options.objects) ^ ({number} if number else set())
        return {"objects": ", ".join(map(str, sorted(selected))), "chosen_in": result.key}

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

    def _show(
        self,
        result: SegmentResult,
        options: MaskOptions,
        decision: Decision,
        note: str,
        given_mask: SoftMask | None,
        drawn: Drawn | None = None,
    ) -> Answer:
        """Return the new images and texts; without the images of objects and prompts that are `drawn` already."""
        has_objects = drawn is not None and drawn.has_objects_of(result.key, options)
        if drawn is not None and has_objects:
            decision.use_objects(drawn.objects)
            has_objects = drawn.options.objects == options.objects
        images = preview.draw_preview(result, decision.options, decision, with_objects=not has_objects)
        share = preview.masked_share(images.mask)
        text = f"Mask: {share:.1%} of the picture" + (" will be repainted." if self._page.generates else ".")
        if decision.reason is not None:
            first = error(results.explain_reason(result, options, decision.reason))
        else:
            if decision.only_given:
                given = results.explain_only_given(result, options)
            else:
                given = results.explain_given_mask(given_mask, options)
            faint = _FAINT if 0 < images.mask.max() < HALF else ""
            first = lines([" ".join(filter(None, [text, given, faint]))])
        more = [results.explain_threshold(result, options), *([note] if note else [])]
        colors = images.colors
        answer = {
            "status": of_result(first, [*more, *preview.describe_result(result, decision.options, decision)]),
            "overlay": _overlay_figure(images.overlay),
            # "picture", since elem_ids are known to style sheets and to other extensions.
            "mask_picture": figures.figure(
                figures.encode_exactly(images.mask), images.mask.shape, "Mask", download="mask.png"
            ),
            "cutout_picture": "",  # an earlier one is of another mask
            "drawn": Drawn(result.key, options, decision.objects),
        }
        if images.objects is not None:
            answer["objects_picture"] = _objects_figure(images.objects, images.object_labels, options)
            answer["colors"] = "" if colors is None else _colors_figure(colors, result.segmentation.prompts)
        return answer

    def _show_choices(self, result: SegmentResult, options: MaskOptions) -> Answer:
        choices = preview.draw_threshold_choices(result, options)
        each = ((figures.encode_photograph(one.image), one.caption, one.threshold) for one in choices)
        return {"choices": figures.thumbnails("Other thresholds: click one", each)}

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

    def first_values(self, values: Values) -> Answer:
        """Return the values with which the page opens: those of the settings page, and the list of heads."""
        page = self._session.settings_page
        answer = {name: page.first_value(name) for name in settings_page.OF_CONTROLS} | self.refresh_heads({})
        for name in AS_IN_TAB:  # ui-config.json may have brought another first value
            answer |= self.show_value(name, values)
        return answer

    def use_value(self, name: str, values: Values) -> Answer:
        """Show the slider of an option that the tab has too, or hide it and use what is set in the tab."""
        is_own = not values[AS_IN_TAB[name]]
        return {name: gr.update(value=_FIRST_OWN[name] if is_own else BY_NAME[name].low, visible=is_own)}

    def show_value(self, name: str, values: Values) -> Answer:
        """Show the slider of an option if it has a value of its own, and not that of the tab."""
        is_own = values[name] is not None and values[name] >= 0
        return {name: gr.update(visible=is_own), AS_IN_TAB[name]: not is_own}

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


def _overlay_figure(image: RgbImage) -> str:
    source = figures.encode_photograph(image)
    return figures.figure(source, image.shape[:2], "Overlay", download="overlay.jpg")


def _heat_figure(result: SegmentResult) -> str:
    image = preview.draw_probability(result)
    scale = figures.probability_scale(preview.OPACITY)
    return figures.figure(figures.encode_photograph(image), image.shape[:2], "Probability", details=scale)


def _colors_figure(image: RgbImage, prompts: Sequence[str]) -> str:
    legend = figures.color_legend(prompts, preview.OPACITY)
    return figures.figure(figures.encode_photograph(image), image.shape[:2], "Several prompts", details=legend)


def _objects_figure(image: RgbImage, labels: Sequence[str], options: MaskOptions) -> str:
    legend = figures.object_legend(labels, options.objects, preview.OPACITY)
    source, size = figures.encode_photograph(image), image.shape[:2]
    return figures.figure(source, size, "Objects: click to choose", details=legend, act="objects")
