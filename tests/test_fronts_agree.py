"""Every front makes the same mask of the same request, or gives the same reason: one table for all fronts."""

import html
import json
from types import SimpleNamespace

import numpy as np
import pytest
from fastapi.testclient import TestClient
from host.api import application, base64_of, picture
from host.brightness import SIZE, Brightness, half, share
from host.process import Processing, Run
from PIL import Image

from ldznet.__main__ import main
from ldznet.cli import segment_run
from ldznet.decision import Reason, decide
from ldznet.images.given_mask import read_given_mask
from ldznet.methods.choose import MethodChoice
from ldznet.methods.method import Defaults, SuitedThreshold
from ldznet.webui import results
from ldznet.webui.controls import CONTROLS, read_panel_settings

WIDTH, HEIGHT = SIZE
LEFT, RIGHT, BOTH, NONE = (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.0, 0.0)


def upper(kind="L"):
    """Return a given mask whose upper half is selected, in one of the forms in which masks come."""
    white = Image.new("L", SIZE)
    white.paste(255, (0, 0, WIDTH, HEIGHT // 2))
    if kind == "L":
        return white
    strokes = Image.new("RGBA", SIZE, (0, 0, 0, 0))  # black strokes on a transparent ground
    strokes.putalpha(white)
    return strokes


# name -> prompt, options, given mask, and the share of the left and the right half, or the reason
ROWS = {
    "found": ("bright", {}, None, LEFT),
    "found at the threshold of the method": ("dim", {}, None, LEFT),
    "not found at a threshold that is asked for": ("dim", {"threshold": 0.5}, None, Reason.NOT_FOUND),
    "inverted": ("bright", {"invert": True}, None, RIGHT),
    "feathered": ("bright", {"feather": 2.0}, None, LEFT),
    "one object": ("bright", {"objects": (1,)}, None, LEFT),
    "an object that is missing": ("bright", {"objects": (7,)}, None, Reason.OPTIONS),
    "too small": ("bright", {"smallest_area": 2**20}, None, Reason.OPTIONS),
    "shrunk to nothing": ("bright", {"grow": -512}, None, Reason.OPTIONS),
    "nothing found": ("unicorn", {}, None, Reason.NOT_FOUND),
    "nothing found, inverted": ("unicorn", {"invert": True}, None, Reason.NOT_FOUND),
    "a given mask and nothing said about it": ("bright", {}, upper(), (1.0, 0.5)),
    "add": ("bright", {"brush": "add"}, upper(), (1.0, 0.5)),
    "replace": ("bright", {"brush": "replace"}, upper(), LEFT),
    "add to strokes": ("bright", {"brush": "add"}, upper("RGBA"), (1.0, 0.5)),
    "subtract": ("bright", {"brush": "subtract"}, upper(), (0.0, 0.5)),
    "intersect": ("bright", {"brush": "intersect"}, upper(), (0.5, 0.0)),
    "nothing found to add": ("unicorn", {"brush": "add"}, upper(), (0.5, 0.5)),
    "nothing found to add, inverted": ("unicorn", {"brush": "add", "invert": True}, upper(), Reason.NOT_FOUND),
    "nothing found to subtract": ("unicorn", {"brush": "subtract"}, upper(), Reason.NOTHING_TO_SUBTRACT),
    "nothing found to intersect": ("unicorn", {"brush": "intersect"}, upper(), Reason.NOT_FOUND),
}


@pytest.fixture(autouse=True)
def suited_threshold(monkeypatch):
    """Let the method have a threshold that suits it; it is the default of all fronts."""
    defaults = Defaults(resolution=64, threshold=SuitedThreshold(0.3, "measured for this test"))
    monkeypatch.setattr(Brightness, "defaults", defaults)


def threshold_of(row):
    """Return the threshold that all fronts should report, and where it comes from."""
    return (
        (row.options["threshold"], "asked for") if "threshold" in row.options else (0.3, "measured for this test")
    )


@pytest.fixture(params=ROWS.values(), ids=ROWS)
def row(request, webui, method):
    """Return a row of the table with the decision that all fronts should make."""
    prompt, options, given_mask, expected = request.param
    settings = read_panel_settings([{"prompt": prompt, **controls_of(options)}])
    result = webui.session.segment_image(webui.model, half(), settings)
    given = None if given_mask is None else read_given_mask(given_mask, (HEIGHT, WIDTH))
    decision = decide(result.segmentation, settings.mask, given)
    levels = np.asarray(results.mask_image(decision.mask))
    return SimpleNamespace(
        prompt=prompt,
        options=options,
        given_mask=given_mask,
        expected=expected,
        result=result,
        settings=settings,
        decision=decision,
        levels=levels,
    )


def controls_of(options):
    """Return options as values of controls, in which several numbers are a text."""
    return {
        name: " ".join(map(str, value)) if isinstance(value, tuple) else value for name, value in options.items()
    }


def text_for_people(row):
    return results.explain_reason(row.result, row.settings.mask, row.decision.reason)


def test_the_decision_is_the_one_of_the_table(row):
    if isinstance(row.expected, Reason):
        assert row.decision.reason is row.expected
        assert not row.levels.any()
    else:
        assert row.decision.reason is None
        assert share(row.levels) == pytest.approx(row.expected, abs=0.02)


def test_a_run_of_img2img_agrees(row, webui):
    p = Processing(webui.model, [half()], image_mask=row.given_mask)
    args = [{"prompt": row.prompt, "mask_blur": 0, **controls_of(row.options)}]

    level, reason = threshold_of(row)
    if row.decision.reason is not None:
        assert Run(webui.hooks).stopped(p, args) == f"{text_for_people(row)} Nothing was generated."
    else:
        Run(webui.hooks).once(p, args)
        np.testing.assert_array_equal(np.asarray(p.read["image_mask"]), row.levels)
        found = p.extra_generation_params["LD-ZNet found"]
        assert (found["threshold"], found["threshold_reason"]) == (level, reason)
    assert p.extra_generation_params["LD-ZNet threshold"] == str(level)


def test_the_route_agrees(row, webui):
    body = {"image": base64_of(half()), "prompt": row.prompt, **controls_of(row.options)}
    if row.given_mask is not None:
        body["mask"] = base64_of(row.given_mask)

    with TestClient(application(webui)) as client:
        answer = client.post("/ldznet/segment", json=body).json()

    np.testing.assert_array_equal(np.asarray(picture(answer["mask"])), row.levels)
    assert answer["nothing_found"] == results.explain_to_program(row.result, row.decision)
    assert (answer["threshold"], answer["threshold_reason"]) == threshold_of(row)
    assert (answer["nothing_found"] is None) == (row.decision.reason is None and not row.decision.only_given)


def test_the_command_line_agrees(row, host, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    choice = MethodChoice(Brightness(), "of a test")
    monkeypatch.setattr(segment_run, "load_chosen_model", lambda _: (host, choice))
    half().save("photo.png")
    flags = []
    for name, value in row.options.items():
        flag = f"--{name.replace('_', '-')}"
        flags += [flag] if value is True else [f"{flag}={' '.join(map(str, np.atleast_1d(value)))}"]
    if row.given_mask is not None:
        row.given_mask.save("given.png")
        flags += ["--brush-mask", "given.png"]

    code = main(["segment", "photo.png", row.prompt, *flags])

    assert code == 0
    with Image.open("masks/photo.mask.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask), row.levels)
    report = json.loads((tmp_path / "masks" / "photo.json").read_text())
    assert report["empty_reason"] == (row.decision.reason and row.decision.reason.value)
    assert (report["mask_options"]["threshold"], report["threshold_reason"]) == threshold_of(row)


def clicked(session, page, images, row):
    """Return what the panel shows after a click on Segment."""
    from ldznet.webui.panel.callbacks import Callbacks

    values = {control.name: control.default for control in CONTROLS}
    values |= {"prompt": row.prompt, "automatic_threshold": "threshold" not in row.options}
    values |= controls_of(row.options)
    values |= {"task": "", "tab": 4, "asked": "1", "chosen_in": "", "key": "", "given_mask": None, "status": ""}
    return Callbacks(session, page).segment(values | images)


def require_same(answer, row):
    from webui.panel.conftest import image_of

    np.testing.assert_array_equal(np.asarray(image_of(answer["mask_picture"])), row.levels)
    if row.decision.reason is not None:
        assert html.escape(text_for_people(row)) in answer["status"]
    else:
        assert "Nothing to inpaint" not in answer["status"]
        level, reason = threshold_of(row)
        assert f"Threshold: {level:.2f}, {reason}" in answer["status"]
    assert answer.get("threshold", 0.5) == (0.5 if "threshold" in row.options else 0.3)  # of the slider


def test_the_panel_agrees(row, webui):
    pytest.importorskip("gradio")
    from ldznet.webui.page import a1111, tab_inputs

    page = a1111.A1111Page()
    images = dict.fromkeys(page.input_names)
    images |= dict(zip(a1111.TABS[tab_inputs.UPLOAD_TAB], (half(), row.given_mask), strict=True))

    require_same(clicked(webui.session, page, images, row), row)


def test_the_page_of_serve_agrees(row, host, tmp_path):
    pytest.importorskip("gradio")
    from ldznet.cli import standalone_page
    from ldznet.webui.session import Session

    session = Session(standalone_page.StandaloneApp(host, tmp_path), lambda model: model)
    images = {standalone_page.IMAGE: half(), standalone_page.MASK: row.given_mask}

    require_same(clicked(session, standalone_page.StandalonePage({}, None), images, row), row)


def test_a_mask_that_the_webuis_blur_leaves_nothing_of_stops_a_run_only(webui, method):
    """The panel cannot know the blur of a run that comes later, and the other fronts have none."""
    image = Image.new("RGB", (512, 512))
    image.paste((255,) * 3, (256, 256, 264, 264))
    args = [{"prompt": "bright", "threshold": 0.7}]
    result = webui.session.segment_image(webui.model, image, read_panel_settings(args))
    p = Processing(webui.model, [image], mask_blur_x=64, mask_blur_y=64)

    text = Run(webui.hooks).stopped(p, args)

    assert decide(result.segmentation, read_panel_settings(args).mask).reason is None
    assert text.startswith(results.explain_reason(result, read_panel_settings(args).mask, Reason.FAINT))
