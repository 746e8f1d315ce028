"""What a click or a slider of the panel does; panel.py says which.

The answers are values for the page's components, in the order in which panel.py lists them.
"""

from __future__ import annotations

import dataclasses
import html
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr  # type: ignore[import-not-found,import-untyped,unused-ignore]
from PIL import Image

from ldznet.decision import decide
from ldznet.errors import LdznetError
from ldznet.images.given_mask import read_given_mask
from ldznet.masks.pipeline import SoftMask
from ldznet.options import MaskOptions
from ldznet.webui import head_files, results, session, settings_page
from ldznet.webui.controls import AUTOMATIC, Settings
from ldznet.webui.inpaint_preview import is_faint
from ldznet.webui.page.tab_inputs import PICTURES, SKETCH, fitting_size, source
from ldznet.webui.panel import preview
from ldznet.webui.progress import bar

log = logging.getLogger(__name__)

# How many components of the page show what was found, without and with the masks to choose from.
_SHOWN, _ALL = 8, 10
_FAINT = "The mask stays below 50%, from which on the webui repaints. Make the feather smaller."


def segment(*asked: Any) -> list[Any]:
    """Find what is asked for in the picture of the open tab, and show it."""
    try:
        found, brush, options, kept = _find(asked)
        return [*kept, *_shown_anew(found, options, brush)]
    except LdznetError as why:
        return [*_as_before(), *_refused(why, _ALL)]


def send(*asked: Any) -> list[Any]:
    """The same, into the tab Inpaint upload; if nothing is found, that tab stays as it is."""
    try:
        found, brush, options, kept = _find(asked)
        shown = [*kept, *_shown_anew(found, options, brush)]
        decision = decide(found.segmentation, options, brush)
        if decision.reason is not None:
            return [*[gr.update()] * 4, *shown]
        mask = results.mask_image(decision.mask)
        width, height = fitting_size(mask.size)
        return [Image.fromarray(found.image), mask, width, height, *shown]
    except LdznetError as why:
        return [*[gr.update()] * 4, *_as_before(), *_refused(why, _ALL)]


def redraw(key: str, brush: SoftMask | None, *args: Any) -> list[Any]:
    """Show what was found with other options of the mask: from the kept probabilities."""
    return _redrawn(_all_shown, _ALL, key, brush, args)


def move(key: str, brush: SoftMask | None, *args: Any) -> list[Any]:
    """The same with another threshold, or other objects, which the masks to choose from do not depend on."""
    return _redrawn(_shown, _SHOWN, key, brush, args)


def enlarge(key: str, brush: SoftMask | None, *args: Any) -> list[Any]:
    """What to say, and the overlay of a large picture at its own size."""
    try:
        return [gr.update(), _whole_overlay(_kept(key), settings_page.read(args)[1].mask, brush)]
    except LdznetError as why:
        return _refused(why, 2)


def choose(event: gr.SelectData, offered: list[preview.ThresholdChoice]) -> list[Any]:
    """The threshold of the mask that was clicked, and no picture to click; `offer` has them again.

    A gallery keeps in mind which one was clicked last, and does not tell of a second click until it was empty.
    """
    return [offered[event.index].threshold, gr.update(value=[])]


def offer(offered: list[preview.ThresholdChoice]) -> Any:
    """The masks to choose from."""
    return gr.update(value=[(one.image, one.caption) for one in offered], visible=bool(offered))


def pick(event: gr.SelectData, key: str, *args: Any) -> list[Any]:
    """A clicked object joins the chosen ones, or leaves -> numbers, what they were chosen in, what to say."""
    try:
        found, options = _kept(key), settings_page.read(args)[1].mask
    except LdznetError as why:
        return [gr.update(), gr.update(), error(str(why))]
    number = preview.object_at(found, decide(found.segmentation, options), *event.index)
    chosen = set(options.objects) ^ ({number} if number else set())
    return [", ".join(map(str, sorted(chosen))), key, gr.update()]


def explain(status: str, *args: Any) -> Any:
    """Why the chosen method and head cannot run with the loaded checkpoint, or that one will be converted."""
    from modules import shared  # type: ignore[import-not-found,unused-ignore]

    try:
        settings = settings_page.read(args)[1]
        if checkpoint := head_files.waiting_checkpoint(settings):
            return lines(
                [f"{checkpoint.name} is converted when you press Segment: once, which takes some minutes."]
            )
        if why := session.RUNS.obstacle(shared.sd_model, settings):
            return error(why)
    except LdznetError as why:
        return error(str(why))
    return "" if "ldznet-error" in (status or "") else gr.update()


def unload() -> str:
    """Let go of the head and of all that was found."""
    from modules.call_queue import queue_lock  # type: ignore[import-not-found,unused-ignore]

    try:
        with queue_lock:
            status = session.RUNS.unload()
    except LdznetError as why:
        return error(str(why))
    free = status["free_mb"]
    room = "" if free is None else f" {free / 1024:.1f} of {status['total_mb'] / 1024:.1f} GB of the GPU are free."
    return lines([f"Unloaded: nothing of LD-ZNet is in memory.{room}"])


def refresh() -> Any:
    """Look for heads again."""
    return gr.update(choices=head_choices())


def fresh() -> list[Any]:
    """Return what the page shows when it is opened: values of the settings page, and the current list of heads."""
    return [*map(settings_page.first_value, settings_page.OF_CONTROLS), gr.update(choices=head_choices())]


def head_choices() -> list[str]:
    """For the drop-down; a folder that cannot be read does not keep the page from opening."""
    try:
        return head_files.head_names()
    except Exception:
        log.exception("The folders of heads cannot be read")
        return [AUTOMATIC]


# --- finding -----------------------------------------------------------------------------------------


def _find(asked: tuple[Any, ...]) -> tuple[results.SegmentResult, SoftMask | None, MaskOptions, list[Any]]:
    """-> what was found, the mask that was given, the mask's options, and what the page keeps of it.

    Numbers of objects that were chosen in something else are let go; those that stay belong to this from now on.
    """
    *asked_for, chosen_in = asked
    found, brush, settings = _find_in_tab(*asked_for)
    options, objects = settings.mask, gr.update()
    if options.objects and not results.numbers_apply(found, chosen_in):
        options, objects = dataclasses.replace(options, objects=()), ""
    return found, brush, options, [found.key, brush, found.key, _head(settings), objects]


def _as_before() -> list[Any]:
    """What was found before is shown still, and stays at hand."""
    return [gr.update()] * 5


def _kept(key: str) -> results.SegmentResult:
    if found := session.RUNS.kept_result(key):
        return found
    raise LdznetError(
        "What is shown is not kept any more: others came after it, or the memory was freed. Press Segment again; "
        "then the controls act on it."
    )


def _find_in_tab(task: str, tab: int, *rest: Any) -> tuple[results.SegmentResult, SoftMask | None, Settings]:
    from modules import shared
    from modules.call_queue import queue_lock

    pictures, rest = rest[: len(PICTURES)], rest[len(PICTURES) :]
    sketch, args = rest[: len(SKETCH)], rest[len(SKETCH) :]
    with _explained(), bar(task) as begin:
        settings = settings_page.read(args)[1]
        image, mask = source(int(tab), pictures, sketch)
        if not settings.prompts:
            # Before the lock: another run may hold it for long.
            return session.RUNS.segment_image(None, image, settings), None, settings
        with queue_lock:
            begin()
            shared.state.begin(job="ldznet")
            try:
                settings = settings_page.read(args)[
                    1
                ]  # until now another's run may have overridden the settings page
                found = session.RUNS.segment_image(session.loaded_model(), image, settings)
            finally:
                shared.state.end()
        return found, None if mask is None else read_given_mask(mask, found.segmentation.size), settings


@contextmanager
def _explained() -> Iterator[None]:
    """What nobody foresaw is shown on the page as well."""
    try:
        yield
    except LdznetError:
        raise
    except Exception as why:
        log.exception("The mask could not be made")
        raise LdznetError(
            f"The mask could not be made ({type(why).__name__}: {why}). The log has the whole story."
        ) from why


# --- what the page shows -----------------------------------------------------------------------------


def _shown(found: results.SegmentResult, options: MaskOptions, brush: SoftMask | None) -> list[Any]:
    decision = decide(found.segmentation, options, brush)
    look = preview.draw_preview(found, options, decision)
    if decision.reason is None:
        notes = [
            results.explain_only_given(found, options) if decision.only_given else "",
            _FAINT if is_faint(look.mask) else "",
        ]
        status = lines([*preview.describe(found, options, decision), *filter(None, notes)])
    else:
        status = error(results.explain_reason(found, options, decision.reason))
    only_of_several = (gr.update(value=one, visible=one is not None) for one in (look.colors, look.objects))
    enlarge = gr.update(visible=found.shown is not found)
    return [status, gr.update(visible=True), look.overlay, look.mask, gr.update(), *only_of_several, enlarge]


def _whole_overlay(found: results.SegmentResult, options: MaskOptions, brush: SoftMask | None) -> Image.Image:
    return preview.draw_whole_overlay(found, decide(found.segmentation, options, brush))


def _all_shown(found: results.SegmentResult, options: MaskOptions, brush: SoftMask | None) -> list[Any]:
    choices = preview.draw_threshold_choices(found, options)
    return [*_shown(found, options, brush), offer(choices), choices]


def _shown_anew(found: results.SegmentResult, options: MaskOptions, brush: SoftMask | None) -> list[Any]:
    """With the probabilities, which no option of the mask changes."""
    status, row, overlay, mask, _, *more = _all_shown(found, options, brush)
    return [status, row, overlay, mask, preview.draw_probability(found), *more]


def _redrawn(
    show: Callable[..., list[Any]], count: int, key: str, brush: SoftMask | None, args: tuple[Any, ...]
) -> list[Any]:
    """The page's values; nothing changes before Segment was pressed at all."""
    if not key:
        return [gr.update()] * count
    try:
        return show(_kept(key), settings_page.read(args)[1].mask, brush)
    except LdznetError as why:
        return _refused(why, count)


def _head(settings: Settings) -> Any:
    """A checkpoint that was converted meanwhile goes by the name of its head."""
    if not settings.head.removesuffix(head_files.TO_CONVERT).endswith(".ckpt"):
        return gr.update()
    return gr.update(choices=head_choices(), value=head_files.chosen_name(settings.head))


def _refused(why: LdznetError, count: int) -> list[Any]:
    return [error(str(why)), *[gr.update()] * (count - 1)]


def error(text: str) -> str:
    """A message that cannot be overlooked."""
    return f'<div class="ldznet-error">{html.escape(text)}</div>'


def lines(texts: list[str]) -> str:
    """Several lines for the status."""
    return "".join(f"<div>{html.escape(text)}</div>" for text in texts)
