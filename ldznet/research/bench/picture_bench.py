"""Measure the answer of POST /ldznet/segment by the size of the image: its time, and its memory above the model's.

Each request is new to the session: another image, so that nothing is cached. The answer is the mask alone, as PNG.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from ldznet.cli.flags import load_chosen_model
from ldznet.errors import OptionError
from ldznet.methods.load import MODELS
from ldznet.research.bench.timing import (
    Timing,
    Work,
    figure_rows,
    machine,
    machine_text,
    time_in_rounds,
    timing_rows,
)

if TYPE_CHECKING:
    from ldznet.webui.session import Session

LARGEST = 8192  # the longest side that the routes take


def measure_pictures(parsed: argparse.Namespace) -> int:
    """Time requests with square images of `parsed.pictures` pixels alternately, and print the result."""
    sides = sorted(set(parsed.pictures))
    if sides[0] < 64 or sides[-1] > LARGEST:
        raise OptionError(f"--pictures is {sides}, but a side is from 64 to {LARGEST} pixels.")
    from ldznet.cli.standalone_page import StandaloneApp
    from ldznet.webui.session import Session

    host, _choice = load_chosen_model(parsed)
    session = Session(StandaloneApp(host, MODELS), lambda model: model)
    works: list[Work] = []
    for side in sides:
        images = iter([encoded_image(side, number) for number in range(parsed.repeat + 1)])
        works.append((f"{side} px", 1, partial(_ask, session, images)))
    _warm_up(session)
    timings = time_in_rounds(host.device, parsed.repeat, works)
    result = {
        "machine": machine(host.device),
        "model": host.info.name,
        "timings": [asdict(timing) for timing in timings],
        "ratios": _ratios(timings),
    }
    print(json.dumps(result, indent=2) if parsed.json else _table(result, timings))
    return 0


def encoded_image(side: int, number: int) -> str:
    """Return a triangle on soft colours as PNG in base64; each number gives another image."""
    colors = np.random.default_rng(number).integers(128, 256, (16, 16, 3), np.uint8)
    image = Image.fromarray(colors).resize((side, side), Image.Resampling.BICUBIC)
    corners = [(0.2 * side, 0.8 * side), (0.7 * side, 0.75 * side), (0.4 * side, 0.3 * side)]
    ImageDraw.Draw(image).polygon(corners, fill=(200, 30, 30))
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getbuffer()).decode()


def _ask(session: Session, images: Iterator[str]) -> None:
    """Send the next image."""
    from ldznet.webui.api.models import SegmentRequest
    from ldznet.webui.api.routes import answer_request

    answer = answer_request(session, SegmentRequest(image=next(images), prompt="triangle", threshold=0.3))
    assert answer.mask is not None


def _warm_up(session: Session) -> None:
    """Load the head and every library before anything is measured."""
    _ask(session, iter([encoded_image(64, 10**6)]))


def _ratios(timings: Sequence[Timing]) -> dict[str, float]:
    """Return the least times in multiples of that of the smallest image."""
    first, *others = timings
    return {f"{timing.step} / {first.step}": timing.least / first.least for timing in others}


def _table(result: dict[str, Any], timings: Sequence[Timing]) -> str:
    """Return the result as Markdown tables."""
    lines = [machine_text(result["machine"]), result["model"], "", *timing_rows(timings)]
    return "\n".join([*lines, *figure_rows("ratio of the least times", "", result["ratios"], ".2f")])
