"""The page of reForge, whose canvas of Inpaint gives a picture without strokes."""

import pytest
from PIL import Image

from ldznet.webui.page.a1111 import read_tab
from ldznet.webui.page.reforge import ReforgePage


class Canvas:
    """A component that reForge has just made and reported."""


def read(value):
    """Read what the browser sends as reForge does: a picture alone is not foreseen."""
    if value is None:
        return None
    if isinstance(value, str):
        raise OSError("cannot identify image file")
    sizes = {"a picture": (128, 64), "strokes": (128, 64)}
    return {name: part and Image.new("RGBA", sizes[part], "white") for name, part in value.items()}


@pytest.fixture
def canvas():
    page = ReforgePage()
    for name in (*page.required_names, *page.output_names):
        component = Canvas()
        page.add(name, component)
        component.preprocess = read  # reForge sets its own reading after it has reported a component
    return page.components["img2maskimg"]


@pytest.mark.parametrize("sent", ["a picture", {"image": "a picture", "mask": None}])
def test_a_picture_without_strokes_has_a_blank_mask(canvas, sent):
    image, mask = read_tab(2, {"img2maskimg": canvas.preprocess(sent)})

    assert (image.size, mask.size) == ((128, 64), (128, 64))
    assert mask.convert("L").getextrema() == (0, 0)


def test_strokes_and_an_empty_canvas_are_read_as_ever(canvas):
    painted = canvas.preprocess({"image": "a picture", "mask": "strokes"})

    assert painted["mask"].convert("L").getextrema() == (255, 255)
    assert canvas.preprocess(None) is None
