"""Our routes in the webui's API: POST /ldznet/segment, GET /ldznet/heads, POST /ldznet/unload, GET /ldznet/status.

Requests and answers: models.py, shown in the webui's /docs. Refusals: guard.py. The routes exist where the webui's
own API does, with --api or --nowebui. The networks run inside of `app.run_exclusively`; images are read before and
written after.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from PIL import Image

from ldznet.decision import decide
from ldznet.errors import HeadError, LdznetError, OptionError
from ldznet.heads.head_file import HeadInfo
from ldznet.images.given_mask import read_given_mask
from ldznet.inference.prompts import check_prompts
from ldznet.masks.checks import SoftMask
from ldznet.memory_errors import explain_out_of_memory
from ldznet.methods.choose import find_heads, fits
from ldznet.methods.registry import METHOD_NAMES
from ldznet.webui.api.answers import make_answer
from ldznet.webui.api.base64_png import decode
from ldznet.webui.api.drawing import register_drawing
from ldznet.webui.api.guard import DocumentedBasic, guarded_route, require_own_site
from ldznet.webui.api.img2img_arguments import watch_img2img
from ldznet.webui.api.models import (
    NUMBERS,
    WORDS,
    HeadAnswer,
    HeadsAnswer,
    Problem,
    Seconds,
    SegmentAnswer,
    SegmentRequest,
    Status,
    given_options,
)
from ldznet.webui.app import GeneratingApp
from ldznet.webui.controls import PanelSettings
from ldznet.webui.limits import MOST_ANSWERED
from ldznet.webui.request_cost import require_passes
from ldznet.webui.results import SegmentResult
from ldznet.webui.session import Session

_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The body cannot be read"},
    401: {"model": Problem, "description": "Name or password is wrong (--api-auth)"},
    500: {"model": Problem, "description": "A fault of ours; the webui's log has the details"},
}
_REFUSALS_OF_UNLOAD: dict[int | str, dict[str, Any]] = {
    403: {"model": Problem, "description": "A browser says that a page of another site asks"},
}
_REFUSALS_OF_SEGMENT: dict[int | str, dict[str, Any]] = {
    409: {"model": Problem, "description": "Interrupted in the webui"},
    413: {"model": Problem, "description": "The body is too long"},
    422: {"model": Problem, "description": "A field is wrong or unknown, or it cannot be done; names it"},
    503: {"model": Problem, "description": "It does not fit into memory; the server continues"},
}


def register(fastapi_app: FastAPI, session: Session, app: GeneratingApp) -> None:
    """Add the page's own route to the webui's application, and ours if it was started with an API."""
    register_drawing(fastapi_app, session)
    if not (app.flag("api") or app.flag("nowebui")):
        return
    # The guard itself checks the password; this shows the lock in /docs.
    dependencies = [Depends(DocumentedBasic())] if app.flag("api_auth") else []
    fastapi_app.include_router(make_router(session), dependencies=dependencies)
    watch_img2img(fastapi_app, app)


def register_refusal(fastapi_app: FastAPI, why: str) -> None:
    """Answer all requests to our routes with the reason why ldznet does not work in this webui."""

    @fastapi_app.api_route("/ldznet/{route}", methods=["GET", "POST"], responses={422: {"model": Problem}})
    def refuse(route: str) -> None:
        """Answer that ldznet does not work in this webui."""
        raise HTTPException(422, why)


def make_router(session: Session) -> APIRouter:
    """Return the routes of a session."""
    router = APIRouter(
        prefix="/ldznet", tags=["ldznet"], route_class=guarded_route(session.app), responses=_REFUSALS
    )

    @router.post("/segment", response_model=SegmentAnswer, responses=_REFUSALS_OF_SEGMENT)
    def segment(request: SegmentRequest) -> SegmentAnswer:
        """Segment an image by prompts, with the checkpoint that the webui has loaded."""
        return answer_request(session, request)

    @router.get("/heads", response_model=HeadsAnswer, responses={422: _REFUSALS_OF_SEGMENT[422]})
    def heads() -> HeadsAnswer:
        """List the heads that a request can name, and the checkpoint that they would work with."""
        return _heads(session)

    @router.post("/unload", response_model=Status, responses=_REFUSALS_OF_UNLOAD)
    def unload(request: Request) -> Any:
        """Free all our memory, on the device and off it; the next request loads what it needs again."""
        require_own_site(request.headers)
        return session.app.run_exclusively(session.unload)

    @router.get("/status", response_model=Status)
    def status() -> Any:
        """Report what we have loaded, where, and how much memory it takes."""
        return session.status()

    return router


# --- segment -----------------------------------------------------------------------------------------


def answer_request(session: Session, request: SegmentRequest) -> SegmentAnswer:
    """Return the answer to a request, or raise the LdznetError that says why there is none."""
    start = time.perf_counter()
    with explain_out_of_memory("The image"):
        settings = _read_settings(session, request)
        image = decode(request.image, "image")
        _require_room(request, settings, image)
        # All that can be refused is refused before the queue is waited for.
        given_mask = _read_mask(request, settings, image)
        result, settings, seconds = _run_networks(session, request, image)
        del image  # the result has its own pixels
        drawing = time.perf_counter()
        decision = decide(result.segmentation, settings.mask, given_mask)
        answer = make_answer(request, settings.mask, result, decision, given_mask)
    end = time.perf_counter()
    seconds |= {"masks": end - drawing, "total": end - start}
    answer.seconds = Seconds(**{name: round(value, 4) for name, value in seconds.items()})
    return answer


def _read_settings(session: Session, request: SegmentRequest) -> PanelSettings:
    """Return the settings that a request makes, as the panel would; a list of prompts is taken item by item.

    Raises:
        LdznetError: something is wrong with it, or it is too much.
    """
    values = given_options(request)
    list_values = {name: value for name, value in values.items() if isinstance(value, list)}
    lists = {name: list_values[name] for name in WORDS if name in list_values}
    texts = {name: " ".join(map(str, list_values[name])) for name in NUMBERS if name in list_values}
    # Lists are joined for the controls, whose values are texts; prompts follow below, since one may have | in it.
    settings = session.settings_page.read([{**values, **dict.fromkeys(lists, ""), **texts}])[1]
    _require_file_name(settings.head)
    prompts, negatives = check_prompts(
        lists.get("prompt", settings.prompts), lists.get("negative_prompt", settings.negatives)
    )
    settings = dataclasses.replace(settings, prompts=prompts, negatives=negatives)
    require_passes(settings, session.head_files)
    return settings


def _require_file_name(head: str) -> None:
    """Refuse a path or a pattern as the name of a head; a path of a request is never opened."""
    if set(head) & set("/\\\0*?[]") or head in (".", ".."):
        raise HeadError(f"head is {head!r}, which is not the name of a file. GET /ldznet/heads lists the names.")


def _require_room(request: SegmentRequest, settings: PanelSettings, image: Image.Image) -> None:
    """Refuse an answer that would be too large, or incomplete, before the networks run."""
    if settings.segment.refine and request.return_probabilities and request.probability_size == "network":
        raise OptionError(
            'The results of refine do not fit into probabilities of probability_size "network". Ask for '
            '"picture", or leave refine out.'
        )
    # At most; candidates may be fewer than three.
    maps = (len(settings.prompts) + len(settings.negatives)) * request.return_probabilities
    images = len(settings.prompts) * request.return_masks + request.return_objects + 3 * request.return_candidates
    size, network_size = image.width * image.height, settings.segment.resolution**2
    if images * size + maps * (size if request.probability_size == "picture" else network_size) > MOST_ANSWERED:
        raise OptionError(
            f"The answer would have {images + maps} images, of more than the {MOST_ANSWERED:,} pixels in all "
            "that are sent. Ask for fewer prompts, a smaller image, a lower resolution, or probability_size "
            '"network".'
        )


def _read_mask(request: SegmentRequest, settings: PanelSettings, image: Image.Image) -> SoftMask | None:
    if request.mask is None and settings.mask.brush in ("subtract", "intersect"):
        raise OptionError(f"brush is {settings.mask.brush!r}, which needs a mask to work on. Give mask as well.")
    if request.mask is None:
        return None
    return read_given_mask(decode(request.mask, "mask"), (image.height, image.width))


def _run_networks(
    session: Session, request: SegmentRequest, image: Image.Image
) -> tuple[SegmentResult, PanelSettings, dict[str, float]]:
    """Return the result, the settings that it was made with, and where the time went."""
    steps: list[int] = []  # stays empty if an earlier result is returned
    start = time.perf_counter()

    def work() -> tuple[SegmentResult, PanelSettings, dict[str, float]]:
        begin = time.perf_counter()
        # Read anew: until now another run may have overridden the settings page.
        settings = _read_settings(session, request)
        model = session.app.load_model()
        require_passes(settings, session.head_files, session.make_host(model).info)
        result = session.segment_image(model, image, settings, lambda done, _total: steps.append(done))
        took, encoding = time.perf_counter() - begin, result.encoding if steps else 0.0
        return result, settings, {"waited": begin - start, "encode": encoding, "segment": took - encoding}

    return session.app.run_exclusively(work)


# --- heads -------------------------------------------------------------------------------------------


def _heads(session: Session) -> HeadsAnswer:
    try:
        host = session.make_host(session.app.current_model()).info
    except LdznetError:  # no checkpoint, or one that cannot be used; a request to segment says why
        host = None
    first: dict[str, HeadInfo] = {}  # of files with the same name, the first one is used
    for info in find_heads(session.head_files.folders()):
        first.setdefault(info.path.name, info)
    return HeadsAnswer(
        checkpoint=host.name if host else None,
        fingerprint=host.fingerprint if host else None,
        methods=list(METHOD_NAMES),
        heads=[
            HeadAnswer(
                name=name,
                kind=info.config.kind,
                sha256=info.sha256,
                fits=None if host is None else fits(info, host),
            )
            for name, info in first.items()
        ],
    )
