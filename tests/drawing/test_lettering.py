"""Lines of text in whatever fonts there are: any label can be drawn, also by an old Pillow without fonts."""

import numpy as np
import pytest
from PIL import ImageFont

from ldznet.drawing import lettering
from ldznet.drawing.overlay import color_map


@pytest.fixture
def fonts_forgotten():
    """Each test that changes the fonts starts and ends without remembered ones."""
    remembering = (lettering._font, lettering._installed, lettering._covers)
    for function in remembering:
        function.cache_clear()
    yield
    for function in remembering:
        function.cache_clear()


@pytest.fixture
def no_system_fonts(monkeypatch, fonts_forgotten):
    monkeypatch.setattr(lettering, "FONT_FILES", ())


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
    fonts = lettering.fonts_for(text)

    cut = lettering.elide(text, 14, 200, fonts)
    start, end = cut.split("...")

    assert text.startswith(start)
    assert text.endswith(end)
    assert 0 <= len(start) - len(end) <= 1
    assert 150 < lettering.draw_text(cut, 14, fonts).shape[1] <= 200
    assert lettering.elide("a short one", 14, 200, fonts) == "a short one"


def test_a_label_of_a_million_letters_is_cut_without_being_drawn(monkeypatch):
    drawn = []
    real = lettering.draw_text
    monkeypatch.setattr(lettering, "draw_text", lambda text, *others: drawn.append(text) or real(text, *others))

    cut = lettering.elide("x" * 1_000_000, 14, 200, [""])

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
    picture = color_map(np.ones((1, 30, 300), np.float32), [label]).picture

    assert entries(picture, 30)[:, :60].any()


@pytest.mark.usefixtures("no_system_fonts")
@pytest.mark.parametrize("label", ODD_LABELS)
def test_any_label_can_be_drawn_without_system_fonts(label):
    picture = color_map(np.ones((1, 30, 300), np.float32), [label]).picture

    assert entries(picture, 30)[:, :60].any()


@pytest.mark.usefixtures("old_pillow")
@pytest.mark.parametrize("label", ODD_LABELS)
def test_any_label_can_be_drawn_by_an_old_pillow_without_fonts(label):
    picture = color_map(np.ones((1, 30, 300), np.float32), [label]).picture

    assert entries(picture, 30)[:, :60].any()


@pytest.mark.usefixtures("old_pillow")
def test_an_old_pillow_writes_labels_in_its_bitmap_font():
    maps = np.zeros((1, 30, 300), np.float32)

    legends = {label: color_map(maps, [label]).picture for label in ("cat", "dog", "猫", "?")}

    assert not (legends["cat"] == legends["dog"]).all()
    assert (legends["猫"] == legends["?"]).all()


@pytest.mark.usefixtures("old_pillow")
def test_the_bitmap_font_grows_with_the_picture():
    small, large = (lettering.draw_text("cat", size, [""]) for size in (14, 36))

    assert small.shape[0] == 12
    assert (large == small.repeat(3, axis=0).repeat(3, axis=1)).all()


@scalable_default
def test_a_system_font_serves_letters_that_pillows_own_lacks(monkeypatch, fonts_forgotten):
    asked = []
    real = ImageFont.truetype

    def truetype(font, size=10, *arguments, **options):
        if not isinstance(font, str):
            return real(font, size, *arguments, **options)  # Pillow's own, from memory
        asked.append(font)
        if font != "Known.ttf":
            raise OSError("cannot open resource")
        return ImageFont.load_default(size)

    monkeypatch.setattr(lettering, "FONT_FILES", ("Missing.ttf", "Known.ttf"))
    monkeypatch.setattr(ImageFont, "truetype", truetype)

    plain = lettering.fonts_for("cat")
    assert (plain, asked) == ([""], [])  # no disk is searched for a label that Pillow can write
    assert lettering.fonts_for("猫") == ["", "Known.ttf"]
    assert set(asked) == {"Missing.ttf", "Known.ttf"}


@scalable_default
def test_the_font_that_knows_most_of_the_letters_comes_first(monkeypatch):
    monkeypatch.setattr(lettering, "FONT_FILES", ("Greek.ttf", "French.ttf"))
    monkeypatch.setattr(lettering, "_installed", lambda name: True)
    known = {"": "acf", "Greek.ttf": "αβγ", "French.ttf": "acfé"}
    monkeypatch.setattr(lettering, "_covers", lambda name, letter: letter in known[name])

    assert lettering.fonts_for("caf") == [""]
    assert lettering.fonts_for("café") == ["French.ttf", "", "Greek.ttf"]
    runs = [
        (name, "".join(letters)) for name, letters in lettering._runs("caféβ?", ["French.ttf", "", "Greek.ttf"])
    ]
    assert runs == [("French.ttf", "café"), ("Greek.ttf", "β"), ("French.ttf", "?")]


@pytest.mark.usefixtures("old_pillow")
def test_an_old_pillow_names_emoji_too():
    assert lettering.spelled("🐈 café", lettering.fonts_for("🐈 café")) == "[cat] café"


@pytest.mark.usefixtures("no_system_fonts")
def test_emoji_that_no_font_has_are_named():
    assert lettering.spelled("a 🐈 and 👩‍🚀 👍🏽", [""]) == "a [cat] and [woman][rocket] [thumbs up sign]"


@pytest.mark.usefixtures("no_system_fonts")
def test_letters_that_no_font_has_are_boxes_of_the_same_number():
    one, three = lettering.draw_text("猫", 20, [""]), lettering.draw_text("猫猫猫", 20, [""])

    assert one.any()
    assert three.shape[1] == pytest.approx(3 * one.shape[1], abs=4)


def test_a_label_is_one_line_of_text():
    assert lettering.readable("  a\n cat\t") == "a cat"
    assert lettering.readable("cafe\u0301") == "caf\u00e9"
    assert lettering.readable("\ud83d") == "?"
    assert lettering.readable(" ") == "(empty)"
