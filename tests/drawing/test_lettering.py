"""Lines of text in whatever fonts there are: any label can be drawn, also by an old Pillow without fonts."""

import numpy as np
import pytest
from PIL import ImageFont

from ldznet.drawing import lettering
from ldznet.drawing.overlay import color_map


@pytest.fixture
def fonts_forgotten():
    """Each test that changes the fonts starts and ends without remembered ones."""
    remembering = (lettering._load_font, lettering._has_letter)
    for function in remembering:
        function.cache_clear()
    yield
    for function in remembering:
        function.cache_clear()


@pytest.fixture
def no_system_fonts(monkeypatch, fonts_forgotten):
    monkeypatch.setattr(lettering, "FONT_FILES", ("",))


@pytest.fixture
def old_pillow(monkeypatch, no_system_fonts):
    """Pillow before 10.1 on a machine without fonts: load_default takes no size and gives a bitmap font."""
    bitmap = getattr(ImageFont, "load_default_imagefont", ImageFont.load_default)()
    monkeypatch.setattr(ImageFont, "load_default", lambda: bitmap)


scalable_default = pytest.mark.skipif(
    not hasattr(ImageFont, "load_default_imagefont"), reason="Pillow before 10.1 brings no scalable font"
)


def entries(picture, height):
    """The panel below the picture as rows of booleans: where there is anything."""
    return (picture[height:] != (250, 250, 250)).any(axis=2)


def test_a_long_label_is_cut_in_its_middle_and_fits():
    text = "a photograph of a very old bicycle leaning against the wall of a house"

    cut = lettering.elide(text, 14, 200)
    start, end = cut.split("...")

    assert text.startswith(start)
    assert text.endswith(end)
    assert 0 <= len(start) - len(end) <= 1
    assert 150 < lettering.draw_text(cut, 14).shape[1] <= 200
    assert lettering.elide("a short one", 14, 200) == "a short one"


def test_a_label_of_a_million_letters_is_cut_without_being_drawn(monkeypatch):
    drawn = []
    real = lettering.draw_text
    monkeypatch.setattr(lettering, "draw_text", lambda text, size: drawn.append(text) or real(text, size))

    cut = lettering.elide("x" * 1_000_000, 14, 200)

    assert 10 < len(cut) < 100
    assert max(map(len, drawn)) <= 403


ODD_LABELS = [
    "",
    " \n\t ",
    "two\nlines",
    "猫と犬",
    "고양이",
    "🐈 cat",
    "👩‍🚀",
    "👍🏽",
    "🇫🇷",
    "café",
    "cafe\u0301",
    "лошадь",
    "סוס",
    "حصان",
    "घोड़ा",
    "\ud83d",
    "\x00\x07\u200b\ufeff",
    "\U0010fffd",
    "<b>&amp;",
    "x" * 5000,
    "ﷺ" * 50,
]


@pytest.mark.parametrize("label", ODD_LABELS)
def test_any_label_can_be_drawn(label):
    picture = color_map(np.ones((1, 30, 300), np.float32), [label]).image

    assert entries(picture, 30)[:, :60].any()


@pytest.mark.usefixtures("no_system_fonts")
@pytest.mark.parametrize("label", ODD_LABELS)
def test_any_label_can_be_drawn_without_system_fonts(label):
    picture = color_map(np.ones((1, 30, 300), np.float32), [label]).image

    assert entries(picture, 30)[:, :60].any()


@pytest.mark.usefixtures("old_pillow")
@pytest.mark.parametrize("label", ODD_LABELS)
def test_any_label_can_be_drawn_by_an_old_pillow_without_fonts(label):
    picture = color_map(np.ones((1, 30, 300), np.float32), [label]).image

    assert entries(picture, 30)[:, :60].any()


@pytest.mark.usefixtures("old_pillow")
def test_an_old_pillow_writes_labels_in_its_bitmap_font():
    maps = np.zeros((1, 30, 300), np.float32)

    legends = {label: color_map(maps, [label]).image for label in ("cat", "dog", "猫", "?")}

    assert not (legends["cat"] == legends["dog"]).all()
    assert (legends["猫"] == legends["?"]).all()


@pytest.mark.usefixtures("old_pillow")
def test_the_bitmap_font_grows_with_the_picture():
    small, large = (lettering.draw_text("cat", size) for size in (14, 36))

    assert small.shape[0] == 12
    assert (large == small.repeat(3, axis=0).repeat(3, axis=1)).all()


@pytest.mark.usefixtures("fonts_forgotten")
def test_the_first_installed_font_with_all_letters_draws(monkeypatch):
    installed = {"Latin.ttf": "catdog", "Chinese.ttf": "catdog猫", "": "catdogé"}
    monkeypatch.setattr(lettering, "FONT_FILES", ("Missing.ttf", *installed))
    monkeypatch.setattr(lettering, "_load_font", lambda name, _size: name if name in installed else None)
    monkeypatch.setattr(lettering, "_has_letter", lambda name, letter: letter in installed[name])

    assert lettering.font_for("cat", 14) == "Latin.ttf"
    assert lettering.font_for("cat猫", 14) == "Chinese.ttf"
    assert lettering.font_for("é", 14) == ""
    assert lettering.font_for("dog高", 14) == "Latin.ttf"  # none has all: the first of those with most


def test_a_missing_font_is_passed_over_and_pillows_own_is_always_there(fonts_forgotten):
    assert lettering._load_font("no such font.ttf", 16) is None
    assert lettering._load_font("", 16) is not None


@scalable_default
@pytest.mark.usefixtures("no_system_fonts")
def test_letters_that_no_font_has_are_boxes_of_the_same_number():
    one, three = lettering.draw_text("猫", 20), lettering.draw_text("猫猫猫", 20)

    assert one.any()
    assert three.shape[1] == pytest.approx(3 * one.shape[1], abs=4)


def test_a_label_is_one_line_of_text():
    assert lettering.one_line("  a\n cat\t") == "a cat"
    assert lettering.one_line("\ud83d") == "?"
    assert lettering.one_line(" ") == "(empty)"
