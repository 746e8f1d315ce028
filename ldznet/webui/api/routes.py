"""Our routes in the webui's API: POST /ldznet/segment, GET /ldznet/heads, POST /ldznet/unload, GET /ldznet/status.

What they take and give: api_models.py, shown in the webui's /docs. What refuses: guard.py. They are there where
the webui's own API is, that is with --api or --nowebui. The networks run under the webui's `queue_lock`; pictures
are read before it and written after it.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from PIL import Image

from ldznet.drawing.overlay import color_map, overlay
from ldznet.errors import HeadError, LdznetError, OptionError
from ldznet.heads.head_file import HeadInfo
from ldznet.inference.prompts import check_prompts
from ldznet.masks.pipeline import SoftMask, area
from ldznet.memory_errors import explain_out_of_memory
from ldznet.methods.choose import find_heads, fits
from ldznet.methods.registry import METHOD_NAMES
from ldznet.options import MaskOptions
from ldznet.result import Segmentation
from ldznet.webui import results, session, settings_page
from ldznet.webui.api import img2img_arguments
from ldznet.webui.api.base64_png import decode, encode, encode_probability
from ldznet.webui.api.guard import GuardedRoute, ShownBasic
from ldznet.webui.api.models import (
    NUMBERS,
    WORDS,
    Choice,
    Found,
    Head,
    Heads,
    Problem,
    Seconds,
    SegmentAnswer,
    SegmentRequest,
    Status,
    Thing,
    Unwanted,
    given,
)
from ldznet.webui.controls import Settings
from ldznet.webui.head_files import head_folders
from ldznet.webui.limits import MOST_ANSWERED
from ldznet.webui.request_cost import require_passes

_REFUSED: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The body cannot be read"},
    401: {"model": Problem, "description": "Name or password is wrong (--api-auth)"},
    500: {"model": Problem, "description": "A fault of ours; the webui's log has the whole story"},
}
_ASKED_WRONGLY: dict[int | str, dict[str, Any]] = {
    409: {"model": Problem, "description": "Interrupted in the webui"},
    413: {"model": Problem, "description": "The body is too long"},
    422: {"model": Problem, "description": "A field is wrong or unknown, or it cannot be done; names it"},
    503: {"model": Problem, "description": "It does not fit into memory; the server goes on"},
}

router = APIRouter(prefix="/ldznet", tags=["ldznet"], route_class=GuardedRoute, responses=_REFUSED)


def register(app: FastAPI) -> None:
    """Add the routes to the webui's application, if it was started with an API."""
    from modules import shared  # type: ignore[import-not-found]

    options = shared.cmd_opts
    if not (getattr(options, "api", False) or getattr(options, "nowebui", False)):
        return
    asked = [Depends(ShownBasic())] if getattr(options, "api_auth", None) else []
    app.include_router(router, dependencies=asked)
    img2img_arguments.watch(app)


# --- segment -----------------------------------------------------------------------------------------


@router.post("/segment", response_model=SegmentAnswer, responses=_ASKED_WRONGLY)
def segment(asked: SegmentRequest) -> SegmentAnswer:
    """Find things in a picture by words, with the checkpoint that the webui has loaded."""
    start = time.perf_counter()
    with explain_out_of_memory("The picture"):
        settings = _settings(asked)
        image = decode(asked.image, "image")
        _require_room(asked, settings, image)
        brush = _brush(asked, settings, image)
        found, settings, seconds = _find(image, asked)
        drawing = time.perf_counter()
        answer = _answer(asked, settings, found, brush)
    end = time.perf_counter()
    seconds |= {"masks": end - drawing, "total": end - start}
    answer.seconds = Seconds(**{name: round(value, 4) for name, value in seconds.items()})
    return answer


def _settings(asked: SegmentRequest) -> Settings:
    """What the request says, as the panel would; a list of prompts is taken word by word.

    Raises:
        LdznetError: something is wrong with it, or it is too much.
    """
    values = given(asked)
    listed = {name: value for name, value in values.items() if isinstance(value, list)}
    lists = {name: listed[name] for name in WORDS if name in listed}
    texts = {name: " ".join(map(str, listed[name])) for name in NUMBERS if name in listed}
    settings = settings_page.read([{**values, **dict.fromkeys(lists, ""), **texts}])[1]
    _require_name(settings.head)
    prompts, negatives = check_prompts(
        lists.get("prompt", settings.prompts), lists.get("negative_prompt", settings.negatives)
    )
    settings = dataclasses.replace(settings, prompts=prompts, negatives=negatives)
    require_passes(settings)
    return settings


def _require_name(head: str) -> None:
    """No path of a request is opened, nor is it a pattern."""
    if set(head) & set("/\\\0*?[]") or head in (".", ".."):
        raise HeadError(f"head is {head!r}, which is no name of a file. GET /ldznet/heads lists those there are.")


def _require_room(asked: SegmentRequest, settings: Settings, image: Image.Image) -> None:
    """Refuse an answer that would be too large, or not the whole, before the networks run."""
    if settings.segment.refine and asked.return_probabilities and asked.probability_size == "network":
        raise OptionError(
            'What refine finds has no place in probabilities of probability_size "network". Ask for "picture", or '
            "leave refine out."
        )
    words = (len(settings.prompts) + len(settings.negatives)) * asked.return_probabilities
    pictures = len(settings.prompts) * asked.return_masks + asked.return_objects + 3 * asked.return_candidates
    size, seen = image.width * image.height, settings.segment.resolution**2
    if pictures * size + words * (size if asked.probability_size == "picture" else seen) > MOST_ANSWERED:
        raise OptionError(
            f"The answer would have {pictures + words} pictures, of more than the {MOST_ANSWERED:,} pixels in all "
            "that are sent. Ask for fewer prompts, a smaller image, a lower resolution, or probability_size "
            '"network".'
        )


def _brush(asked: SegmentRequest, settings: Settings, image: Image.Image) -> SoftMask | None:
    if (asked.mask is None) != (settings.mask.brush == "replace"):
        raise OptionError(
            "mask and brush go together: a mask that is there already, and whether to add to it, subtract from it "
            "or intersect with it. Give both, or none."
        )
    return None if asked.mask is None else results.brush_of(decode(asked.mask, "mask"), image.size)


def _find(image: Image.Image, asked: SegmentRequest) -> tuple[results.Found, Settings, dict[str, float]]:
    """-> what was found, by which settings, and where the time went."""
    from modules import shared
    from modules.call_queue import queue_lock  # type: ignore[import-not-found]

    steps: list[int] = []  # stays empty where all was found before
    start = time.perf_counter()
    with queue_lock:
        begin = time.perf_counter()
        shared.state.begin(job="ldznet")
        try:
            settings = _settings(asked)  # until now the page may have said what another's run had overridden
            model = session.loaded_model()
            require_passes(settings, session.RUNS.make_host(model).info)
            found = session.RUNS.find(model, image, settings, lambda done, _total: steps.append(done))
        finally:
            shared.state.end()
        took, encoding = time.perf_counter() - begin, found.encoding if steps else 0.0
    return found, settings, {"waited": begin - start, "encode": encoding, "segment": took - encoding}


def _answer(
    asked: SegmentRequest, settings: Settings, found: results.Found, brush: SoftMask | None
) -> SegmentAnswer:
    segmentation, options = found.segmentation, settings.mask
    something = results.is_something(found, options)
    if not something:
        options = dataclasses.replace(options, invert=False)  # inverted, nothing would be everything
    mask, objects = segmentation.mask(options, given_mask=brush), segmentation.objects(options)
    method, _, reason = found.reason.partition(", ")
    return SegmentAnswer(
        width=segmentation.size[1],
        height=segmentation.size[0],
        area=area(mask >= 0.5),
        mask=encode(results.to_picture(mask)) if asked.return_mask else None,
        overlay=encode(overlay(found.image, mask)) if asked.return_overlay else None,
        colors=_colors(found, settings) if asked.return_colors else None,
        prompts=_prompts(asked, settings, segmentation),
        objects=[Thing(**one) for one in segmentation.object_statistics(objects, options.objects)],
        object_numbers=encode(objects.numbers) if asked.return_objects else None,
        candidates=_candidates(options, segmentation, brush) if asked.return_candidates else None,
        negative_prompts=[
            Unwanted(prompt=prompt, probabilities=_probabilities(asked, segmentation, number))
            for number, prompt in enumerate(segmentation.negative_prompts, start=len(segmentation))
        ],
        method=method,
        reason=reason,
        notes=list(segmentation.notes),
        nothing_found=None if something and mask.any() else results.nothing(found, options),
        seconds=Seconds(waited=0, encode=0, segment=0, masks=0, total=0),
        record=segmentation.record,
    )


def _prompts(asked: SegmentRequest, settings: Settings, segmentation: Segmentation) -> list[Found]:
    options = dataclasses.replace(settings.mask, invert=False)
    answers = []
    masks = segmentation.each_mask(options) if asked.return_masks else itertools.repeat(None)
    for number, (one, made) in enumerate(zip(segmentation.prompt_statistics(options), masks, strict=False)):
        mask = None if made is None else encode(results.to_picture(made))
        answers.append(Found(**one, mask=mask, probabilities=_probabilities(asked, segmentation, number)))
    return answers


def _candidates(options: MaskOptions, segmentation: Segmentation, brush: SoftMask | None) -> list[Choice]:
    chosen = segmentation.candidates(options)
    levels = [dataclasses.replace(options, threshold=one.threshold, objects=()) for one in chosen]
    masks = [encode(results.to_picture(segmentation.mask(level, given_mask=brush))) for level in levels]
    return [Choice(**one._asdict(), mask=mask) for one, mask in zip(chosen, masks, strict=True)]


def _probabilities(asked: SegmentRequest, segmentation: Segmentation, number: int) -> str | None:
    """Of a prompt, or behind them of a negative prompt."""
    if not asked.return_probabilities:
        return None
    if asked.probability_size == "network":
        return encode_probability(segmentation.maps[number].numpy())
    words = (*segmentation.prompts, *segmentation.negative_prompts)
    alike = dataclasses.replace(segmentation, prompts=words, negative_prompts=())
    return encode_probability(alike.probability(number))


def _colors(found: results.Found, settings: Settings) -> str | None:
    segmentation = found.segmentation
    if len(segmentation) < 2:
        return None
    maps = map(segmentation.net_probability, range(len(segmentation)))
    picture = color_map(maps, segmentation.prompts, found.image, background=settings.mask.threshold).picture
    return encode(picture)


# --- what is there, and what is loaded ---------------------------------------------------------------


@router.get("/heads", response_model=Heads, responses={422: _ASKED_WRONGLY[422]})
def heads() -> Heads:
    """The heads that can be asked for, and the checkpoint that they would work with."""
    from modules import shared

    try:
        host = session.RUNS.make_host(shared.sd_model).info
    except LdznetError:  # none is loaded, or none that can be used; a request will say why
        host = None
    first: dict[str, HeadInfo] = {}
    for info in find_heads(head_folders()):
        first.setdefault(info.path.name, info)
    return Heads(
        checkpoint=host.name if host else None,
        fingerprint=host.fingerprint if host else None,
        methods=list(METHOD_NAMES),
        heads=[
            Head(
                name=name,
                kind=info.config.kind,
                sha256=info.sha256,
                fits=None if host is None else fits(info, host),
            )
            for name, info in first.items()
        ],
    )


@router.post("/unload", response_model=Status)
def unload() -> Any:
    """Take all that is ours off the device and out of memory; the next request loads it again."""
    from modules.call_queue import queue_lock

    with queue_lock:
        return session.RUNS.unload()


@router.get("/status", response_model=Status)
def status() -> Any:
    """What of ours is loaded, where, and how much memory it takes."""
    return session.RUNS.status()
