"""The page of Forge: canvases of three components, and the image and mask that a run would get of each tab."""

import gradio as gr
import numpy as np
import pytest
from host.forge_page import make_canvas, make_logical_image, make_tab, text_of
from PIL import Image

from ldznet.errors import ImageError
from ldznet.webui.page.forge import TABS, ForgePage, read_tab

SIZE = (128, 64)


def page_of(*makers):
    """Return a page that has got the components which each of `makers` makes."""
    page = ForgePage()

    def report(component, **options):
        if name := page.name_of(component, options.get("elem_id")):
            page.add(name, component)

    with gr.Blocks():
        for make in makers:
            make(report)
    return page


def painted(level=255, box=(80, 10, 120, 40)):
    """Return strokes: red on a transparent image, of the size of the canvas."""
    strokes = Image.new("RGBA", SIZE)
    strokes.paste((255, 0, 0, level), box)
    return strokes


def values(**more):
    return {name: None for tab in TABS for name in tab} | more


def test_a_canvas_is_known_by_the_element_before_its_two_images():
    page = page_of(make_tab)

    assert set(page.components) >= {name for tab in TABS for name in tab}
    for name in ("img2img_image", "img2img_sketch", "img2maskimg", "inpaint_sketch"):
        assert page.components[name].elem_classes == ["logical_image_background"]
    for name in ("img2img_sketch", "img2maskimg", "inpaint_sketch"):
        strokes = page.components[f"{name}_strokes"]
        assert strokes.elem_classes == ["logical_image_foreground"]
        assert strokes.elem_id == page.components[name].elem_id


def test_canvases_of_other_extensions_are_not_taken_for_the_tabs():
    page = page_of(make_canvas, make_tab, make_canvas)
    alone = page_of(make_canvas, lambda report: make_canvas(report, "controlnet_image"))

    assert page.components["img2maskimg"].elem_id != page.components["img2img_sketch"].elem_id
    assert alone.components == {}


def test_it_is_complete_once_with_the_last_component():
    calls = []
    page = ForgePage()
    page.when_complete(lambda: calls.append("wired"))
    names = [*page.input_names, *page.output_names]

    for name in names[:-1]:
        page.add(name, object())
    before = list(calls)
    page.add(names[-1], object())

    assert (before, calls) == ([], ["wired"])


def test_img2img_has_its_image_and_sketch_has_the_strokes_in_it():
    image = Image.new("RGBA", SIZE, "white")

    plain, no_mask = read_tab(0, values(img2img_image=image))
    sketch, no_mask_either = read_tab(1, values(img2img_sketch=image, img2img_sketch_strokes=painted()))

    assert (plain.tobytes(), no_mask, no_mask_either) == (image.tobytes(), None, None)
    assert (sketch.getpixel((100, 25)), sketch.getpixel((20, 50))) == ((255, 0, 0, 255), (255,) * 4)


@pytest.mark.parametrize(("alpha", "level"), [(255, 255), (129, 255), (128, 0), (60, 0)])
def test_the_mask_of_inpaint_is_the_alpha_of_the_strokes_cut_at_one_half(alpha, level):
    image = Image.new("RGBA", SIZE, "white")

    found, mask = read_tab(2, values(img2maskimg=image, img2maskimg_strokes=painted(alpha)))

    assert found.tobytes() == image.tobytes()
    assert (mask.mode, mask.getpixel((100, 25)), mask.getpixel((20, 50))) == ("L", level, 0)


def test_inpaint_sketch_searches_the_image_with_its_strokes_and_masks_a_rim_around_them():
    image = Image.new("RGBA", (400, 200), "white")
    strokes = Image.new("RGBA", image.size)
    strokes.paste((255, 0, 0, 255), (100, 50, 200, 100))

    found, mask = read_tab(3, values(inpaint_sketch=image, inpaint_sketch_strokes=strokes))

    assert found.getpixel((150, 75)) == (255, 0, 0, 255)
    # 0.015 * 200 = 3 pixels to each side
    assert mask.getbbox() == (97, 47, 203, 103)


def test_the_mask_of_inpaint_upload_is_cut_at_one_half():
    image, mask = Image.new("RGB", SIZE), Image.new("RGBA", SIZE, (128, 128, 128, 255))
    mask.paste((129, 129, 129, 255), (80, 10, 120, 40))

    _, found = read_tab(4, values(img_inpaint_base=image, img_inpaint_mask=mask))

    assert np.unique(np.asarray(found.convert("L"))).tolist() == [0, 255]
    assert found.convert("L").getbbox() == (80, 10, 120, 40)


@pytest.mark.parametrize("tab", range(6))
def test_without_an_image_every_tab_says_so(tab):
    with pytest.raises(ImageError, match=r"no picture"):
        read_tab(tab, values())


def test_marks_of_one_image_do_not_leak_into_the_next_of_the_same_canvas():
    with gr.Blocks():
        canvas = make_logical_image()
    first, second = (canvas.preprocess(text_of(Image.new("RGB", SIZE, color))) for color in ("red", "blue"))
    assert first.info is second.info  # the trap

    found, _ = read_tab(0, values(img2img_image=first))
    found.info["ours"] = True

    assert second.info == {}


@pytest.mark.parametrize(("step", "expected"), [(8, [328, 200]), (64, [320, 192]), (1, [328, 200])])
def test_the_size_that_is_sent_is_one_that_the_sliders_have(step, expected):
    page = page_of(lambda report: report(gr.Slider(64, 2048, step=step), elem_id="img2img_width"))

    sent = page.send(Image.new("RGB", (327, 201)), Image.new("L", (327, 201)))

    assert [sent["img2img_width"], sent["img2img_height"]] == expected
