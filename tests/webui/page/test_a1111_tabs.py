"""The image and the mask of the open tab, as a run of the webui would get them (img2img.py:180)."""

import numpy as np
from PIL import Image

from ldznet.webui.page.a1111 import TABS, read_tab

SIZE = (128, 64)


def values(**more):
    given = {"img2img_mask_blur": 4, "img2img_mask_alpha": 0, "inpaint_sketch_before": None}
    return {name: None for tab in TABS for name in tab} | given | more


def sketched():
    """Return an image, and the same with a stroke."""
    before = Image.new("RGB", SIZE)
    before.paste((255,) * 3, (0, 0, 64, 64))
    drawn = before.copy()
    drawn.paste((255, 0, 0), (80, 10, 120, 40))
    return before, drawn


def test_a_canvas_gives_its_image_and_its_strokes():
    image, strokes = Image.new("RGB", SIZE), Image.new("L", SIZE)

    assert read_tab(2, values(img2maskimg={"image": image, "mask": strokes})) == (image, strokes)
    assert read_tab(0, values(img2img_image=image)) == (image, None)


def test_inpaint_upload_gives_both_images():
    image, mask = Image.new("RGB", SIZE), Image.new("L", SIZE)

    assert read_tab(4, values(img_inpaint_base=image, img_inpaint_mask=mask)) == (image, mask)


def test_preview_and_run_see_the_same_of_inpaint_sketch():
    before, drawn = sketched()

    given = values(inpaint_sketch=drawn, inpaint_sketch_before=before, img2img_mask_alpha=40)
    image, mask = read_tab(3, given)

    assert np.asarray(mask)[25, 100] == 153
    assert np.asarray(mask)[50, 20] == 0
    assert image.getpixel((100, 25))[0] in range(140, 160)  # the stroke shows at 60 %
    assert image.getpixel((20, 50)) == (255, 255, 255)


def test_without_a_stroke_inpaint_sketch_gives_the_image_itself():
    before, _ = sketched()

    for known in (before, None):
        image, mask = read_tab(3, values(inpaint_sketch=before, inpaint_sketch_before=known))
        assert image.tobytes() == before.tobytes()
        assert not mask.getbbox()
