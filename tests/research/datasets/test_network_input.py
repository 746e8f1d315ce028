"""Crops and squares, with expected values written out, and what a training sees of a sample."""

import numpy as np

from ldznet.inference.prompts import TEMPLATES
from ldznet.research.datasets.network_input import random_crop, stretch_to_square
from ldznet.research.datasets.sample import Sample
from ldznet.research.datasets.skip_report import Report
from ldznet.research.training.items import Stream
from ldznet.research.training.train_options import TrainOptions


class Numbers:
    """Stands for a generator, and returns the given numbers."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def integers(self, _high):
        return self.numbers.pop(0)


def test_the_crop_is_the_first_with_more_than_five_percent_of_the_image():
    mask = np.zeros((10, 40), bool)
    mask[:3, 20:27] = True  # 5 % of the image are 20 pixels

    rng = Numbers(0, 0, 0, 11, 0, 16, 0, 18, 99)  # see 0, 3, 18 and 21 of them
    rows, columns = random_crop(mask, rng)

    assert (rows, columns) == (slice(0, 10), slice(18, 28))
    assert rng.numbers == [99]


def test_without_such_a_crop_it_is_the_first_of_the_best_of_fifty():
    mask = np.zeros((40, 10), bool)
    mask[20, 3:5] = True
    tops = [0] * 20 + [11] + [15] * 10 + [0] * 19

    rng = Numbers(*[number for top in tops for number in (top, 0)], 99)

    assert random_crop(mask, rng) == (slice(11, 21), slice(0, 10))
    assert rng.numbers == [99]


def test_the_square_is_bilinear_between_the_corners_and_its_mask_nearest():
    image = np.zeros((2, 3, 3), np.uint8)
    image[:, :, 0] = [[0, 100, 200], [50, 150, 250]]
    mask = np.array([[True, False, False], [False, False, True]])

    pixels, target = stretch_to_square(image, mask, 5)

    row = np.array([0, 50, 100, 150, 200])
    expected = np.stack([row, row + 12.5, row + 25, row + 37.5, row + 50]) / 255 * 2 - 1
    assert pixels.shape == (3, 5, 5)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels[0], expected, atol=1e-6)
    assert (pixels[1:] == -1).all()
    # rows 0 0 0 1 1 and columns 0 0 1 1 2 of the mask
    assert target.tolist() == [[1, 1, 0, 0, 0]] * 3 + [[0, 0, 0, 0, 1]] * 2


class OneSample:
    report = Report()

    def __init__(self, image, mask):
        self.image, self.mask = image, mask

    def __len__(self):
        return 1

    def __getitem__(self, _index):
        return Sample("key", self.image, "red star", self.mask, {})


def test_a_training_sees_random_crops_in_random_sentences():
    y, x = np.mgrid[:30, :50]
    mask = (x - 30) ** 2 + (y - 12) ** 2 < 64
    image = np.repeat(mask[:, :, None], 3, axis=2).astype(np.uint8) * 255
    stream = Stream(OneSample(image, mask), TrainOptions(size=64))

    items = [stream[position] for position in range(60)]

    assert {item.sentence for item in items} == {text.format("red star") for text in TEMPLATES}
    assert len({item.pixels.tobytes() for item in items}) > 10
    for item in items:
        assert item.target.any()
        # Image and mask are cropped alike; only the way they are enlarged differs.
        assert ((item.pixels[0] > 0) != item.target).mean() < 0.06
