"""A painted or uploaded mask, read by one rule."""

import numpy as np
import pytest
from PIL import Image

from ldznet.images.given_mask import read_given_mask

SIZE = (2, 4)  # height, width


def picture(mode, left, right):
    image = Image.new(mode, (4, 2), right)
    image.paste(left, (0, 0, 2, 2))
    return image


@pytest.mark.parametrize(
    ("image", "columns"),
    [
        (picture("L", 255, 0), [1, 1, 0, 0]),
        (picture("L", 51, 0), [0.2, 0.2, 0, 0]),
        (picture("1", 1, 0), [1, 1, 0, 0]),
        (picture("RGB", (255, 255, 255), (0, 0, 0)), [1, 1, 0, 0]),
        (picture("RGBA", (255, 255, 255, 255), (0, 0, 0, 255)), [1, 1, 0, 0]),  # opaque: its luminance
        (picture("RGBA", (0, 0, 0, 255), (255, 255, 255, 0)), [1, 1, 0, 0]),  # strokes: their alpha
        (picture("RGBA", (0, 0, 0, 129), (0, 0, 0, 128)), [1, 1, 0, 0]),  # more than half
        (picture("LA", (0, 255), (255, 0)), [1, 1, 0, 0]),
        (picture("RGBA", (0, 0, 0, 0), (0, 0, 0, 0)), [0, 0, 0, 0]),
    ],
    ids=["L", "grey", "1", "RGB", "opaque RGBA", "strokes", "half", "LA", "empty"],
)
def test_alpha_counts_where_there_is_some_and_luminance_elsewhere(image, columns):
    mask = read_given_mask(image, SIZE)

    assert mask.dtype == np.float32
    assert np.allclose(mask, [columns] * 2)


def test_a_palette_with_a_transparent_colour_counts_as_alpha():
    image = picture("P", 1, 0)
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.info["transparency"] = 0

    assert np.array_equal(read_given_mask(image, SIZE), [[1, 1, 0, 0]] * 2)


def test_another_size_is_scaled_to_the_images():
    assert read_given_mask(picture("L", 255, 0), (4, 8)).shape == (4, 8)
