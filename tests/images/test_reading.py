import errno
import hashlib
import io
import math
import os
import struct
import sys
import threading
import tracemalloc
import types
import warnings
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from ldznet.errors import ImageError, OptionError, OutOfMemoryError
from ldznet.images.decoding import count_scans
from ldznet.images.pixel_formats import MAX_PIXELS, MAX_SIDE
from ldznet.images.reading import load_image, on_background, read_image
from ldznet.images.saving import image_digest, save_png
from ldznet.images.tensors import from_tensor, network_size, to_image_size, to_tensor

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file written by hand: Pillow would not write some of them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def four_corners() -> Image.Image:
    """3 wide, 2 high: red and green above, blue and white below, black between."""
    image = Image.new("RGB", (3, 2))
    for place, colour in zip([(0, 0), (2, 0), (0, 1), (2, 1)], [RED, GREEN, BLUE, WHITE], strict=True):
        image.putpixel(place, colour)
    return image


def corners(image: Image.Image) -> list[object]:
    right, bottom = image.width - 1, image.height - 1
    return [image.getpixel(place) for place in [(0, 0), (right, 0), (0, bottom), (right, bottom)]]


def palette_image(mode: str, pixel: object, **info: object) -> Image.Image:
    image = Image.new(mode, (3, 2), pixel)
    image.putpalette([200, 100, 0, 10, 20, 30])
    image.info.update(info)
    return image


# Where an image may come from.


def test_a_path_bytes_and_a_binary_file_give_the_same_image(tmp_path):
    data = encoded(four_corners())
    path = tmp_path / "Bäume 🌳.png"
    path.write_bytes(data)

    with path.open("rb") as file:
        loaded = [load_image(s) for s in (path, str(path), data, bytearray(data), memoryview(data), file)]

    for image in loaded:
        assert (image.mode, image.size, corners(image)) == ("RGB", (3, 2), [RED, GREEN, BLUE, WHITE])


def test_a_file_of_the_caller_is_read_from_its_start_and_stays_open():
    file = io.BytesIO()
    four_corners().save(file, "PNG")  # leaves it at its end

    image = load_image(file)

    assert not file.closed
    assert corners(image) == [RED, GREEN, BLUE, WHITE]


def piped(data: bytes) -> BinaryIO:
    receive, send = os.pipe()
    with open(send, "wb") as file:
        file.write(data)
    return open(receive, "rb")


def test_a_stream_that_cannot_seek_is_read():
    class Stream:
        def __init__(self, data: bytes) -> None:
            self.read = io.BytesIO(data).read

    data = encoded(four_corners())

    with piped(data) as pipe:
        assert corners(load_image(pipe)) == [RED, GREEN, BLUE, WHITE]
    assert corners(load_image(Stream(data))) == [RED, GREEN, BLUE, WHITE]
    with piped(b"<html>") as pipe, pytest.raises(ImageError, match=r"^The data is not an image: it holds text"):
        load_image(pipe)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_taken(kind):
    first, second = Image.new("RGB", (3, 2), RED), Image.new("RGB", (3, 2), BLUE)

    image = load_image(encoded(first, kind, save_all=True, append_images=[second], lossless=True))

    assert image.size == (3, 2)
    assert corners(image) == [RED] * 4


def test_an_open_animation_gives_the_frame_at_which_it_stands():
    first, second = Image.new("RGB", (3, 2), RED), Image.new("RGB", (3, 2), BLUE)
    animation = Image.open(io.BytesIO(encoded(first, "GIF", save_all=True, append_images=[second])))
    animation.seek(1)

    assert corners(load_image(animation)) == [BLUE] * 4
    assert animation.tell() == 1


# Modes. What is transparent shows white.


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("1", (3, 2), 1), WHITE),
        (Image.new("1", (3, 2), 0), BLACK),
        (Image.new("L", (3, 2), 100), (100, 100, 100)),
        (Image.new("LA", (3, 2), (100, 255)), (100, 100, 100)),
        (Image.new("LA", (3, 2), (100, 51)), (224, 224, 224)),  # 100 * 0.2 + 255 * 0.8
        (Image.new("LA", (3, 2), (100, 0)), WHITE),
        (Image.new("La", (3, 2), (20, 51)), (224, 224, 224)),  # 20 is 100 * 0.2
        (palette_image("P", 1), (10, 20, 30)),
        (palette_image("P", 0, transparency=1), (200, 100, 0)),
        (palette_image("P", 1, transparency=1), WHITE),
        (palette_image("P", 0, transparency=b"\x33\xff"), (244, 224, 204)),
        (palette_image("P", 1, transparency=b"\x33\xff"), (10, 20, 30)),
        (palette_image("PA", (0, 51)), (244, 224, 204)),
        (Image.new("RGB", (3, 2), (1, 2, 3)), (1, 2, 3)),
        (Image.new("RGBA", (3, 2), (200, 100, 0, 255)), (200, 100, 0)),
        (Image.new("RGBA", (3, 2), (200, 100, 0, 51)), (244, 224, 204)),
        (Image.new("RGBA", (3, 2), (200, 100, 0, 0)), WHITE),
        (Image.new("RGBa", (3, 2), (40, 20, 0, 51)), (244, 224, 204)),
        (Image.new("RGBX", (3, 2), (1, 2, 3, 0)), (1, 2, 3)),
        (Image.new("CMYK", (3, 2), (0, 255, 255, 0)), RED),
        (Image.new("CMYK", (3, 2), (0, 0, 0, 255)), BLACK),
        (Image.new("YCbCr", (3, 2), (90, 128, 128)), (90, 90, 90)),
        (Image.new("YCbCr", (3, 2), (76, 85, 255)), (254, 0, 0)),
        (Image.new("HSV", (3, 2), (85, 255, 255)), GREEN),
        (Image.new("I", (3, 2), 200), (200, 200, 200)),  # nothing above 255: 8 bits
        (Image.new("I", (3, 2), 257 * 100), (100, 100, 100)),
        (Image.new("I", (3, 2), 65535), WHITE),
        (Image.new("I;16", (3, 2), 257 * 100), (100, 100, 100)),
        (Image.new("I;16", (3, 2), 65535), WHITE),
        (Image.new("I;16", (3, 2), 255), (1, 1, 1)),  # dark, not white: the type says 16 bits
        (Image.new("I;16B", (3, 2), 257 * 100), (100, 100, 100)),
        (Image.new("I;16L", (3, 2), 257 * 100), (100, 100, 100)),
        (Image.new("I;16N", (3, 2), 257 * 100), (100, 100, 100)),
        (Image.new("F", (3, 2), 0.4), (102, 102, 102)),
        (Image.new("F", (3, 2), 1.0), WHITE),
        (Image.new("F", (3, 2), 100.0), (100, 100, 100)),
        (Image.new("F", (3, 2), 255.0001), WHITE),
    ],
    ids=lambda value: f"{value.mode} {value.getpixel((0, 0))}" if isinstance(value, Image.Image) else None,
)
def test_every_mode_has_its_colour(image, expected):
    loaded = load_image(image)

    assert (loaded.mode, loaded.size) == ("RGB", (3, 2))
    assert corners(loaded) == [expected] * 4


def test_lab_is_converted_by_its_white_point():
    # sRGB red seen under D50 is L 54.3, a 80.8, b 69.9; L is stored over 255, a and b with 128 added
    red = load_image(Image.new("LAB", (3, 2), (138, 209, 198)))
    white = load_image(Image.new("LAB", (3, 2), (255, 128, 128)))

    np.testing.assert_allclose(red.getpixel((2, 1)), RED, atol=6)
    np.testing.assert_allclose(white.getpixel((2, 1)), WHITE, atol=2)


@pytest.mark.parametrize(
    ("depth", "colour_type", "row", "key", "expected"),
    [
        (8, 0, bytes([7, 9]), struct.pack(">H", 9), [(7, 7, 7), BLUE]),
        (8, 2, bytes([1, 2, 3, 4, 5, 6]), struct.pack(">3H", 4, 5, 6), [(1, 2, 3), BLUE]),
        (16, 0, struct.pack(">2H", 257 * 7, 300), struct.pack(">H", 300), [(7, 7, 7), BLUE]),
    ],
    ids=["gray", "colour", "16-bit gray"],
)
def test_one_colour_of_a_png_can_stand_for_transparent(depth, colour_type, row, key, expected):
    image = load_image(png(2, 1, depth, colour_type, b"\0" + row, (b"tRNS", key)), background=BLUE)

    assert [image.getpixel((0, 0)), image.getpixel((1, 0))] == expected


def test_transparency_in_a_mode_that_cannot_have_it_is_ignored():
    image = Image.new("LAB", (3, 2), (0, 128, 128))
    image.info["transparency"] = 0

    np.testing.assert_allclose(corners(load_image(image)), 0, atol=2)


def test_a_16_bit_png_is_scaled_not_cut(tmp_path):
    ramp = np.array([[0, 128, 129, 32768, 65535]], np.uint16)
    path = tmp_path / "ramp.png"
    Image.fromarray(ramp).save(path)

    gray = np.asarray(load_image(path))[:, :, 0]

    assert gray.tolist() == [[0, 0, 1, 128, 255]]


def test_the_background_can_be_chosen():
    image = Image.new("RGBA", (3, 2), (255, 255, 255, 51))

    assert corners(load_image(image, background=(0, 100, 200))) == [(51, 131, 211)] * 4


@pytest.mark.parametrize("background", [(0, 0), (0, 0, 256), (0, 0, -1), (0.5, 0, 0), "white", None])
def test_a_background_that_is_no_colour_is_refused(background):
    with pytest.raises(OptionError, match="three whole numbers from 0 to 255"):
        load_image(Image.new("RGBA", (3, 2)), background=background)


# Arrays.


@pytest.mark.parametrize(
    ("pixel", "dtype", "expected"),
    [
        (100, "uint8", (100, 100, 100)),
        ([100], "uint8", (100, 100, 100)),
        ([100, 51], "uint8", (224, 224, 224)),
        ([1, 2, 3], "uint8", (1, 2, 3)),
        ([200, 100, 0, 51], "uint8", (244, 224, 204)),
        (257 * 100, "uint16", (100, 100, 100)),
        ([0, 129, 65535], ">u2", (0, 1, 255)),
        ([51400, 25700, 0, 13107], "uint16", (244, 224, 204)),
        (True, "bool", WHITE),
        ([True, False, True], "bool", (255, 0, 255)),
        (0.4, "float16", (102, 102, 102)),
        ([0.0, 0.4, 1.0], "float32", (0, 102, 255)),
        ([1.0001, -0.0001, 0.4], "float64", (255, 0, 102)),
    ],
)
def test_arrays_of_every_kind_have_their_colour(pixel, dtype, expected):
    array = np.empty((2, 3, *np.shape(pixel)), dtype)
    array[:] = pixel

    image = load_image(array)

    assert (image.mode, image.size) == ("RGB", (3, 2))
    assert corners(image) == [expected] * 4


def test_rows_of_an_array_run_downwards_and_columns_to_the_right():
    array = np.asarray(four_corners())

    assert corners(load_image(array)) == [RED, GREEN, BLUE, WHITE]
    assert corners(load_image(array[::-1, ::-1])) == [WHITE, BLUE, GREEN, RED]  # memory out of order


def test_an_image_does_not_follow_its_array():
    for shape in [(2, 3), (2, 3, 3), (2, 3, 4)]:
        array = np.full(shape, 255, np.uint8)
        image = load_image(array)
        array[:] = 0
        assert corners(image) == [WHITE] * 4


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.zeros((3, 20, 30), np.uint8), r"shape \(3, 20, 30\).*channels last"),
        (np.zeros(5, np.uint8), r"shape \(5,\)"),
        (np.zeros((1, 2, 3, 3), np.uint8), r"shape \(1, 2, 3, 3\)"),
        (np.zeros((2, 3, 0), np.uint8), r"shape \(2, 3, 0\)"),
        (np.zeros((0, 3), np.uint8), "no pixels: it is 3 x 0"),
        (np.zeros((2, 0, 3), np.float32), "no pixels: it is 0 x 2"),
        (np.zeros((2, 3), np.int64), "int64.*range is not known.*uint8"),
        (np.zeros((2, 3), np.complex64), "complex64"),
        (np.full((2, 3), "x"), "type <U1"),
        (np.array([[0.0, 255.0]]), "from 0 to 255, but floats must lie between 0 and 1"),
        (np.array([[-1.0, 1.0]]), "from -1 to 1"),
        (np.array([[0.5, np.nan]], np.float32), "holds NaN"),
        (np.array([[0.5, np.inf]], np.float16), "from 0.5 to inf"),
        (np.zeros((1, MAX_SIDE + 1), np.uint8), "16385 x 1 pixels"),
    ],
    ids=lambda value: "" if isinstance(value, str) else f"{value.dtype} {value.shape}",
)
def test_an_array_that_is_no_image_is_explained(array, text):
    with pytest.raises(ImageError, match=f"^The array .*{text}"):
        load_image(array)


# EXIF.


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "size", "expected"),
    [
        (1, (3, 2), [RED, GREEN, BLUE, WHITE]),
        (2, (3, 2), [GREEN, RED, WHITE, BLUE]),
        (3, (3, 2), [WHITE, BLUE, GREEN, RED]),
        (4, (3, 2), [BLUE, WHITE, RED, GREEN]),
        (5, (2, 3), [RED, BLUE, GREEN, WHITE]),
        (6, (2, 3), [BLUE, RED, WHITE, GREEN]),
        (7, (2, 3), [WHITE, GREEN, BLUE, RED]),
        (8, (2, 3), [GREEN, WHITE, RED, BLUE]),
        (0, (3, 2), [RED, GREEN, BLUE, WHITE]),  # no such orientation
        (9, (3, 2), [RED, GREEN, BLUE, WHITE]),
    ],
)
def test_the_image_is_turned_upright_once(kind, orientation, size, expected):
    exif = Image.Exif()
    exif[0x0112] = orientation

    image = load_image(encoded(four_corners(), kind, exif=exif.tobytes(), lossless=True))

    assert (image.size, corners(image)) == (size, expected)
    assert load_image(image).size == size  # and no second time


def test_an_open_photo_is_turned_upright_and_itself_stays_as_it_is():
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = Image.open(io.BytesIO(encoded(Image.new("RGB", (48, 32), RED), "JPEG", exif=exif)))

    assert load_image(photo).size == (32, 48)
    assert photo.size == (48, 32)
    assert photo.getexif()[0x0112] == 6


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0no TIFF header here",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\0\0\0\x01",  # ends within an entry
        b"Exif\0\0II*\0\xff\xff\xff\xff",  # points beyond its end
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04six\0\0\0\0\0",  # a word for a number
        b"",
    ],
)
def test_broken_exif_costs_the_orientation_only(exif):
    photo = Image.new("RGB", (48, 32), WHITE)

    for kind in ("JPEG", "PNG"):
        image = load_image(encoded(photo, kind, exif=exif))
        assert (image.size, corners(image)) == ((48, 32), [WHITE] * 4)


# Promises to the caller.


@pytest.mark.parametrize(
    "image",
    [
        four_corners(),
        palette_image("P", 0, transparency=b"\x33\xff"),
        Image.new("RGBA", (3, 2), (200, 100, 0, 51)),
        Image.new("I;16", (3, 2), 300),
        Image.new("F", (3, 2), 0.5),
    ],
    ids=lambda image: image.mode,
)
def test_the_callers_image_is_neither_changed_nor_shared(image):
    before = (image.mode, image.size, image.tobytes(), image.getpalette(), dict(image.info))

    load_image(image).paste(BLACK, (0, 0, 3, 2))

    assert (image.mode, image.size, image.tobytes(), image.getpalette(), dict(image.info)) == before


def test_the_image_carries_no_metadata_of_its_file():
    exif = Image.Exif()
    exif[0x010F] = "a camera"

    assert load_image(encoded(four_corners(), "PNG", exif=exif, dpi=(300, 300))).info == {}


def test_warnings_of_pillow_do_not_escape(monkeypatch):
    data = encoded(four_corners())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(data))

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        load_image(data)

    assert seen == []


def test_global_state_is_left_as_it_was_also_after_errors():
    state = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))

    load_image(encoded(four_corners()))
    with pytest.raises(ImageError):
        load_image(encoded(Image.new("RGB", (300, 200)), "JPEG")[:-300])

    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)) == state


def test_two_threads_leave_the_warning_filters_as_they_were():
    # Without a lock: the first saves the filters, the second saves "ignore", the first restores,
    # and the second restores "ignore" for good.
    second_is_in, first_is_out = threading.Event(), threading.Event()

    class Meeting(io.BytesIO):
        def __init__(self, arrived: threading.Event, other: threading.Event) -> None:
            super().__init__(encoded(four_corners()))
            self.arrived, self.other = arrived, other

        def read(self, *size: int) -> bytes:
            self.arrived.set()
            self.other.wait(0.2)
            self.other.set()  # one wait is enough
            return super().read(*size)

    first_is_in = threading.Event()
    filters = list(warnings.filters)
    first = threading.Thread(target=load_image, args=(Meeting(first_is_in, second_is_in),))
    second = threading.Thread(target=load_image, args=(Meeting(second_is_in, first_is_out),))

    first.start()
    first_is_in.wait()
    second.start()
    first.join()
    first_is_out.set()
    second.join()

    assert list(warnings.filters) == filters


def test_a_slow_image_does_not_hold_up_another():
    reached, released = threading.Event(), threading.Event()

    class Slow(io.BytesIO):
        def read(self, *size: int) -> bytes:
            reached.set()
            released.wait(30)
            return super().read(*size)

    filters = list(warnings.filters)
    slow = threading.Thread(target=load_image, args=(Slow(encoded(four_corners())),))
    slow.start()
    reached.wait()
    quick = threading.Thread(target=load_image, args=(encoded(four_corners()),))
    quick.start()
    quick.join(20)
    waits = quick.is_alive()
    released.set()
    slow.join()
    quick.join()

    assert not waits
    assert list(warnings.filters) == filters


def progressive(scans: int) -> bytes:
    """A JPEG whose last scan is there again and again, as an attacker would write it."""
    data = encoded(Image.new("RGB", (64, 48), (200, 100, 50)), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * scans + b"\xff\xd9"


def test_a_jpeg_of_thousands_of_scans_is_refused_before_it_is_decoded(monkeypatch):
    many, usual = progressive(5000), encoded(Image.new("RGB", (64, 48)), "JPEG", progressive=True)
    decoded = []
    real = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: decoded.append(image.size) or real(image))

    with pytest.raises(ImageError, match=r"JPEG of 64 x 48 pixels with 100 scans or more: .* Save it again"):
        load_image(many)

    assert decoded == []
    assert load_image(usual).size == (64, 48)
    assert count_scans(usual, 100) == 10
    assert count_scans(encoded(Image.new("RGB", (64, 48)), "JPEG"), 100) == 1
    assert count_scans(many, 101) == 101


def test_scans_of_a_thumbnail_and_after_the_end_do_not_count():
    thumbnail = encoded(Image.new("RGB", (8, 8)), "JPEG", progressive=True)
    data = encoded(Image.new("RGB", (64, 48)), "JPEG", comment=thumbnail * 3) + b"\xff\xda" * 500

    assert count_scans(data, 100) == 1
    assert load_image(data).size == (64, 48)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF"])
def test_of_an_animation_or_several_pages_the_first_is_read_and_a_warning_says_so(kind, caplog):
    first, second = Image.new("RGB", (3, 2), RED), Image.new("RGB", (3, 2), BLUE)
    data = encoded(
        first, kind, save_all=True, append_images=[second], **({"lossless": True} if kind == "WEBP" else {})
    )

    image = load_image(data)
    load_image(encoded(first, kind))

    assert image.getpixel((0, 0)) == RED
    assert [record.getMessage() for record in caplog.records] == [
        "The data is an animation or has several pages: its first frame is read."
    ]


HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(64)


def test_heic_without_pillow_heif_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed

    with pytest.raises(ImageError, match=r"is a HEIC image, which Pillow cannot read alone. Install pillow-heif"):
        load_image(HEIC)


def test_heic_is_read_where_pillow_heif_is_installed(monkeypatch):
    class Opened:
        def to_pillow(self) -> Image.Image:
            return four_corners()

    module = types.ModuleType("pillow_heif")
    module.open_heif = lambda file: Opened() if file.read() == HEIC else None
    monkeypatch.setitem(sys.modules, "pillow_heif", module)

    assert load_image(HEIC).getpixel((2, 0)) == GREEN


# What cannot be read, and why.


@pytest.mark.parametrize("url", ["http://example.org/cat.png", "HTTPS://example.org", "file:///cat.png"])
def test_an_address_is_refused_before_any_connection(url):
    with pytest.raises(ImageError, match=r"is an address, not a path.*no connections.*Download the image first"):
        load_image(url)


def test_a_long_text_given_as_a_path_is_shortened_in_the_error():
    with pytest.raises(ImageError, match=r"^'data:image/png;base64,AAAA.*is an address") as caught:
        load_image("data:image/png;base64," + "A" * 100_000)

    assert len(str(caught.value)) < 400


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"'.*cat.png' does not exist. Check the spelling"):
        load_image(tmp_path / "cat.png")


def test_a_folder_is_named(tmp_path):
    with pytest.raises(ImageError, match=f"'{tmp_path}' is a folder, not an image. Give the path of one file"):
        load_image(str(tmp_path))


def test_a_path_that_no_file_can_have_is_explained():
    with pytest.raises(ImageError, match=r"^'a\\x00b' cannot be opened \(embedded null byte\). Check the path"):
        load_image("a\0b")


def test_a_file_without_permission_is_named(tmp_path, monkeypatch):
    path = tmp_path / "cat.png"
    path.write_bytes(encoded(four_corners()))

    def forbidden(*_args: object, **_options: object) -> None:  # root may read everything
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", forbidden)

    with pytest.raises(ImageError, match=r"'.*cat.png' cannot be opened: its permissions.*copy the file"):
        load_image(path)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "is empty: it has 0 bytes.*Get the file again"),
        (b"<!DOCTYPE html>\n<title>404</title>", "is not an image: it holds text.*Give the image itself"),
        (("\ufeff" + "Keine Bäume. " * 50).encode(), "is not an image: it holds text"),
        (bytes(range(255, -1, -1)) * 4, "is not an image that Pillow can read.*save it there as PNG"),
        (encoded(four_corners())[:10], "is not an image that Pillow can read, or its beginning is damaged"),
        (encoded(Image.new("RGB", (300, 200)), "JPEG")[:-300], r"cannot be decoded \(.*truncated.*Get it again"),
        (encoded(four_corners(), "WEBP")[:-20], r"cannot be decoded \(.*Part of it is missing or damaged"),
        (encoded(four_corners(), "EPS"), "is a PostScript file, which ldznet does not run"),
        (png(16385, 1, 8, 0, b""), "is 16385 x 1 pixels. At most 16384 a side.*Make the image smaller"),
        (png(11586, 11586, 8, 0, b""), "is 11586 x 11586 pixels. At most .* 134,217,728 in all"),
        (png(60000, 60000, 8, 0, b""), "has too many pixels. At most 16384 a side"),
        (png(0, 1, 8, 0, b""), "is not an image|no pixels|cannot be decoded"),
    ],
    ids=[
        "empty", "web page", "text", "bytes", "ten bytes", "half a JPEG", "half a WebP", "PostScript",
        "long", "large", "bomb", "zero",
    ],
)  # fmt: skip
def test_a_file_that_holds_no_good_image_is_named_and_explained(data, text, tmp_path):
    path = tmp_path / "cat.png"
    path.write_bytes(data)

    with pytest.raises(ImageError, match=f"(?s)^'.*cat.png' ({text})"):
        load_image(path)


def test_an_open_file_is_called_by_its_name(tmp_path):
    path = tmp_path / "cat.png"
    path.write_bytes(b"")

    with path.open("rb") as file, pytest.raises(ImageError, match=r"cat.png' is empty"):
        load_image(file)
    with pytest.raises(ImageError, match=r"^The data is empty"):
        load_image(b"")


def test_a_file_opened_as_text_is_explained():
    with pytest.raises(ImageError, match=r'opened as text.*mode "rb"'):
        load_image(io.StringIO("picture"))


@pytest.mark.parametrize("source", [None, 5, torch.zeros(2, 3), ["cat.png"]])
def test_an_object_of_another_type_is_explained(source):
    kind = type(source).__name__
    with pytest.raises(ImageError, match=f"object of type {kind}. Give a path, bytes, a binary file"):
        load_image(source)


def test_a_closed_file_and_a_closed_image_are_explained(tmp_path):
    path = tmp_path / "cat.png"
    four_corners().save(path)
    with path.open("rb") as file:
        pass
    with Image.open(path) as image:
        pass

    for source in (file, image):
        with pytest.raises(ImageError, match=r"cat.png' cannot be decoded"):
            load_image(source)


@pytest.mark.parametrize("size", [(0, 2), (3, 0)])
def test_an_image_without_pixels_is_refused(size):
    with pytest.raises(ImageError, match=f"has no pixels: it is {size[0]} x {size[1]}"):
        load_image(Image.new("RGB", size))


@pytest.mark.parametrize("size", [(MAX_SIDE + 1, 1), (1, MAX_SIDE + 1)])
def test_an_image_that_is_too_long_is_refused(size):
    with pytest.raises(ImageError, match=f"^The image is {size[0]} x {size[1]} pixels. At most {MAX_SIDE} a side"):
        load_image(Image.new("1", size))


def test_the_limit_lies_below_that_of_pillow_and_above_8192_squared():
    assert 8192 * 8192 < MAX_PIXELS < 2 * Image.MAX_IMAGE_PIXELS
    assert load_image(Image.new("1", (MAX_SIDE, 1))).size == (MAX_SIDE, 1)


@pytest.mark.parametrize(
    ("mode", "value", "text"),
    [
        ("I", -1, "32-bit values from -1 to -1, and which of them is white is not known"),
        ("I", 65536, "Scale them to 0 to 65535"),
        ("F", math.nan, "NaN"),
        ("F", math.inf, "from inf to inf"),
        ("F", 256.0, "from 256 to 256, but floats must lie between 0 and 1"),
        ("F", -0.5, "from -0.5 to -0.5"),
    ],
)
def test_values_whose_range_is_not_known_are_refused(mode, value, text):
    with pytest.raises(ImageError, match=f"^The image holds .*{text}"):
        load_image(Image.new(mode, (3, 2), value))


def test_an_error_gives_the_values_as_they_are_stored():
    image = Image.fromarray(np.array([[-100, 0, 200]], np.float32))

    with pytest.raises(ImageError, match="from -100 to 200, but"):
        load_image(image)


def test_a_lack_of_memory_is_another_error_than_a_damaged_file(monkeypatch):
    def exhausted(*_args: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", exhausted)

    with pytest.raises(OutOfMemoryError, match="does not fit into the memory that is free"):
        load_image(Image.new("L", (3, 2)))


@settings(deadline=None, database=None, max_examples=200)
@given(st.data())
def test_damage_gives_an_image_or_an_image_error_and_nothing_else(data):
    kind, mode = data.draw(
        st.sampled_from([("PNG", "P"), ("PNG", "I;16"), ("GIF", "P"), ("JPEG", "CMYK"), ("BMP", "RGB")])
    )
    damaged = bytearray(encoded(Image.new(mode, (9, 5)), kind))
    for _ in range(data.draw(st.integers(0, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(0, len(damaged)))]

    try:
        image = load_image(bytes(damaged))
    except ImageError:
        return
    assert image.mode == "RGB"
    assert min(image.size) >= 1


# The size rule.


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (512, 512, (384, 384)),
        (640, 480, (384, 320)),
        (800, 600, (384, 320)),
        (1024, 768, (384, 320)),
        (768, 512, (448, 256)),
        (1920, 1080, (512, 256)),
        (704, 512, (448, 320)),
        (900, 400, (576, 256)),
        (2000, 500, (768, 192)),
    ],
)
def test_the_size_is_that_of_the_released_code(width, height, expected):
    assert network_size((height, width)) == expected[::-1]


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        ((1, 1), {}, (384, 384)),
        ((1, 8192), {}, (64, 2304)),
        ((8192, 1), {}, (2304, 64)),
        ((100, 4000), {}, (64, 2304)),  # 40:1
        ((480, 640), {"side": 128}, (128, 128)),  # rounded down: (64, 128)
        ((1080, 1920), {"side": 128}, (128, 128)),
        ((400, 800), {"side": 128}, (64, 128)),
        ((300, 900), {"side": 128}, (64, 192)),
        ((500, 500), {"side": 100}, (64, 64)),
        ((512, 512), {"side": 128}, (128, 128)),
        ((300, 400), {"side": 128, "multiple": 8}, (104, 144)),
        ((512, 512), {"side": 32}, (64, 64)),
        ((2, 16384), {"side": 100}, (64, 128)),
        ((16384, 1), {"side": 1, "multiple": 1}, (1, 1)),
    ],
)
def test_sizes_beyond_the_released_rule_and_other_sides(size, options, expected):
    assert network_size(size, **options) == expected


SIZES = st.tuples(st.integers(1, MAX_SIDE), st.integers(1, MAX_SIDE))
SIDES = st.integers(1, 1024)
MULTIPLES = st.sampled_from([1, 8, 32, 64])


@settings(deadline=None, database=None, max_examples=500)
@given(SIZES, SIDES, MULTIPLES)
def test_every_size_is_of_whole_multiples_within_the_area(size, side, multiple):
    height, width = network_size(size, side, multiple)

    assert height % multiple == width % multiple == 0
    assert min(height, width) >= multiple
    assert height * width <= max(side * side, multiple * multiple)


@settings(deadline=None, database=None, max_examples=500)
@given(SIZES, SIDES, MULTIPLES)
def test_the_released_rule_holds_wherever_it_gives_a_size(size, side, multiple):
    h, w = size
    a = h / w
    new_w = np.trunc(np.sqrt(side * side / a))
    new_h = np.trunc(a * new_w)
    released = (int(new_h // multiple * multiple), int(new_w // multiple * multiple))

    if min(released) > 0 and side >= 4 * multiple:
        assert network_size(size, side, multiple) == released


@settings(deadline=None, database=None, max_examples=200)
@given(SIZES, SIDES)
def test_the_longer_side_of_the_image_is_the_longer_side_of_the_network(size, side):
    height, width = network_size(size, side)

    assert (height - width) * (size[0] - size[1]) >= 0


# To the network and back.


def test_pixels_run_from_minus_one_to_one_by_channel_row_and_column():
    pixels = to_tensor(four_corners(), (2, 3))

    assert (pixels.shape, pixels.dtype, pixels.is_contiguous()) == ((1, 3, 2, 3), torch.float32, True)
    red, green, blue = pixels[0].tolist()
    assert red == [[1, -1, -1], [-1, -1, 1]]
    assert green == [[-1, -1, 1], [-1, -1, 1]]
    assert blue == [[-1, -1, -1], [1, -1, 1]]


def test_a_level_becomes_twice_its_share_of_255_less_one():
    pixels = to_tensor(Image.new("RGB", (3, 2), (0, 51, 204)), (2, 3))

    torch.testing.assert_close(pixels[0, :, 1, 2], torch.tensor([-1.0, -0.6, 0.6]))


@pytest.mark.parametrize(("length", "size"), [(12, 30), (30, 12), (10, 64), (8, 8)])
def test_the_image_is_resized_with_lanczos_of_three_lobes(length, size):
    row = np.random.default_rng(0).integers(60, 196, length)  # away from the ends: no clipping
    image = Image.fromarray(np.repeat(row[None, :, None], 4, axis=0).repeat(3, axis=2).astype(np.uint8))

    resized = to_tensor(image, (4, size))[0, 0, 2]

    stretch = max(length / size, 1)
    centres = (np.arange(size) + 0.5) * length / size - 0.5
    x = (np.arange(length) - centres[:, None]) / stretch
    weights = np.where(abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
    expected = weights @ row / weights.sum(axis=1)
    np.testing.assert_allclose((resized.numpy() + 1) * 127.5, expected, atol=1)  # rounded to a level


def test_all_levels_survive_the_way_to_the_network_and_back():
    levels = np.arange(256, dtype=np.uint8).reshape(8, 32)
    image = Image.fromarray(np.stack([levels, levels[::-1], 255 - levels], axis=2))

    back = from_tensor(to_tensor(image, (8, 32)))

    assert (back.mode, back.size) == ("RGB", (32, 8))
    assert back.tobytes() == image.tobytes()


def test_what_lies_beyond_the_range_of_pixels_is_clipped():
    pixels = torch.tensor([-1.5, 0.0, 1.5], dtype=torch.float16).view(1, 3, 1, 1)

    assert from_tensor(pixels).getpixel((0, 0)) == (0, 128, 255)


@pytest.mark.parametrize(
    ("size", "network"),
    [((1, 1), (384, 384)), ((1, 8192), (2304, 64)), ((8192, 1), (64, 2304))],
)
def test_an_image_of_extreme_shape_goes_to_the_network_and_its_probability_returns(size, network):
    image = load_image(Image.new("L", size, 204))
    width, height = size

    pixels = to_tensor(image, network_size((height, width)))
    probability = to_image_size((pixels[0, 0] + 1) / 2, (height, width))

    assert pixels.shape == (1, 3, *network)
    np.testing.assert_allclose(pixels, 0.6, atol=1e-6)
    assert probability.shape == (height, width)
    np.testing.assert_allclose(probability, 0.8, atol=1e-3)


def test_an_image_of_8192_squared_is_read_and_gets_its_map():
    image = Image.new("1", (8192, 8192))
    image.paste(1, (8000, 0, 8192, 100))
    data = encoded(image, compress_level=1)

    image = load_image(data)
    probability = to_image_size(np.linspace(0, 1, 384, dtype=np.float32)[None].repeat(384, 0), image.size)

    assert (image.mode, image.size) == ("RGB", (8192, 8192))
    assert corners(image) == [BLACK, WHITE, BLACK, BLACK]
    assert (probability.shape, probability.dtype) == ((8192, 8192), np.float32)
    np.testing.assert_allclose(probability[8191, [0, 4095, 4096, 8191]], [0, 0.49994, 0.50006, 1], atol=1e-3)


# Probability at the image's size.


def smooth_map(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).random((height, width), dtype=np.float32)


def test_a_map_of_the_images_size_stays_as_it_is_in_memory_of_its_own():
    probability = smooth_map(4, 6)

    result = to_image_size(probability, (4, 6))

    assert np.array_equal(result, probability)
    assert not np.shares_memory(result, probability)


@pytest.mark.parametrize(
    ("small", "large"),
    [((5, 6), (20, 24)), ((5, 6), (33, 47)), ((1, 1), (3, 4)), ((3, 4), (3, 9)), ((40, 48), (1080, 1297))],
)
def test_enlarging_is_torchs_bicubic_between_pixel_centres(small, large):
    probability = smooth_map(*small)
    expected = F.interpolate(
        torch.from_numpy(probability)[None, None], large, mode="bicubic", align_corners=False
    )[0, 0].clamp(0, 1)

    np.testing.assert_allclose(to_image_size(probability, large), expected, atol=1e-4)


def test_bicubic_overshoot_is_clipped():
    edge = np.zeros((4, 8), np.float32)
    edge[:, 4:] = 1
    raw = F.interpolate(torch.from_numpy(edge)[None, None], (16, 32), mode="bicubic")
    assert raw.min() < -0.05
    assert raw.max() > 1.05

    result = to_image_size(edge, (16, 32))

    assert (result.min(), result.max()) == (0, 1)


def test_reducing_averages_the_area():
    probability = smooth_map(12, 20)

    result = to_image_size(probability, (3, 4))

    np.testing.assert_allclose(result, probability.reshape(3, 4, 4, 5).mean(axis=(1, 3)), atol=1e-6)


def test_reducing_does_not_alias():
    stripes = np.zeros((60, 90), np.float32)
    stripes[:, ::2] = 1

    np.testing.assert_allclose(to_image_size(stripes, (37, 9)), 0.5, atol=1e-6)


def test_one_axis_can_shrink_while_the_other_grows():
    probability = np.tile(np.array([[0.2, 0.4], [0.6, 0.8]], np.float32), (1, 8))  # (2, 16)

    result = to_image_size(probability, (8, 1))

    # averaged over columns: 0.3 and 0.7; bicubic keeps the mean and the symmetry
    assert result.shape == (8, 1)
    np.testing.assert_allclose(result + result[::-1], 1, atol=1e-6)
    assert result[0, 0] <= 0.3 < result[3, 0] < 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_tensor_of_any_precision_becomes_a_float32_array(dtype):
    probability = torch.full((2, 3), 0.5, dtype=dtype, requires_grad=True)

    result = to_image_size(probability, (4, 9))

    assert (type(result), result.dtype, result.shape) == (np.ndarray, np.float32, (4, 9))
    np.testing.assert_allclose(result, 0.5)


def test_several_maps_are_resized_one_by_one():
    maps = np.stack([smooth_map(4, 6), 1 - smooth_map(4, 6), np.zeros((4, 6), np.float32)])

    result = to_image_size(torch.from_numpy(maps), (11, 17))

    assert result.shape == (3, 11, 17)
    for one, all_together in zip(maps, result, strict=True):
        assert np.array_equal(to_image_size(one, (11, 17)), all_together)
    assert to_image_size(maps[:0], (11, 17)).shape == (0, 11, 17)


def test_the_map_is_made_without_a_second_copy():
    probability = smooth_map(384, 384)
    tracemalloc.start()

    to_image_size(probability, (1024, 2048))

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 1 <= peak / (4 * 1024 * 2048) < 1.2


# Files.


@pytest.mark.parametrize(
    ("array", "mode", "expected"),
    [
        (np.array([[0, 7, 255]], np.uint8), "L", [0, 7, 255]),
        (np.array([[0.0, 0.5, 1.0]], np.float32), "L", [0, 128, 255]),
        (np.array([[0.0029, 0.0059, 0.9989]], np.float64), "L", [1, 2, 255]),  # rounded, not cut
        (np.array([[False, True, True]]), "L", [0, 255, 255]),
        (np.array([[RED, GREEN, (1, 2, 3)]], np.uint8), "RGB", [RED, GREEN, (1, 2, 3)]),
    ],
)
def test_an_array_is_saved_as_a_png(array, mode, expected, tmp_path):
    save_png(array, tmp_path / "mask.png")

    with Image.open(tmp_path / "mask.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", mode, (3, 1))
        assert [image.getpixel((x, 0)) for x in range(3)] == expected


def test_an_image_is_saved_over_an_older_one_and_missing_folders_are_made(tmp_path):
    path = tmp_path / "new" / "folder" / "mask.png"

    save_png(Image.new("L", (3, 2), 7), str(path))
    save_png(four_corners(), path)

    assert corners(load_image(path)) == [RED, GREEN, BLUE, WHITE]
    assert os.listdir(path.parent) == ["mask.png"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_saved_file_has_the_permissions_that_new_files_have(tmp_path):
    before = os.umask(0o027)
    try:
        save_png(four_corners(), tmp_path / "mask.png")
    finally:
        os.umask(before)

    assert (tmp_path / "mask.png").stat().st_mode & 0o777 == 0o640


def test_when_the_disk_is_full_the_older_file_stays_whole(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "mask.png"
    save_png(four_corners(), path)
    noise = np.random.default_rng(0).integers(0, 255, (200, 300), dtype=np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(ImageError, match=r"mask.png' cannot be written \(.+\), and nothing was changed"):
            save_png(noise, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert os.listdir(tmp_path) == ["mask.png"]
    assert corners(load_image(path)) == [RED, GREEN, BLUE, WHITE]


def test_an_interrupted_save_leaves_no_file(tmp_path, monkeypatch):
    def interrupted(_file: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)

    with pytest.raises(KeyboardInterrupt):
        save_png(four_corners(), tmp_path / "mask.png")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "place", [Path("file", "mask.png"), Path("folder"), Path("x" * 300 + ".png"), Path("a\0b.png")]
)
def test_a_place_that_cannot_be_written_is_named(place, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder").mkdir()

    with pytest.raises(ImageError, match=r"^'.*' cannot be written \(.+\).*choose another place"):
        save_png(four_corners(), tmp_path / place)

    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


@pytest.mark.parametrize("image", [np.ones((MAX_SIDE + 1, 1), np.uint8), Image.new("1", (1, MAX_SIDE + 1))])
def test_what_was_drawn_may_be_larger_than_what_is_read(image, tmp_path):
    save_png(image, tmp_path / "colors.png")

    with Image.open(tmp_path / "colors.png") as saved:
        assert saved.size == (1, 16385)


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (np.array([[0.5, 2.0]]), "The array holds values from 0.5 to 2"),
        (np.array([[0.5, np.nan]]), "The array holds NaN"),
        (np.zeros((2, 0), np.uint8), "has no pixels"),
        (Image.new("L", (0, 2)), "has no pixels"),
        (Image.new("F", (3, 2)), "cannot write mode F as PNG"),
    ],
)
def test_what_is_no_picture_is_not_saved(image, text, tmp_path):
    with pytest.raises(ImageError, match=text):
        save_png(image, tmp_path / "mask.png")

    assert os.listdir(tmp_path) == []


def test_the_digest_is_sha_256_over_mode_size_and_pixels():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (700, 5, 3), dtype=np.uint8))

    expected = hashlib.sha256(b"RGB 5x700\n" + image.tobytes()).hexdigest()

    assert image_digest(image) == expected


def test_the_digest_tells_pixels_shapes_and_modes_apart():
    one_pixel_off = four_corners()
    one_pixel_off.putpixel((1, 1), (0, 0, 1))
    images = [
        four_corners(),
        one_pixel_off,
        Image.new("RGB", (3, 2)),
        Image.new("RGB", (2, 3)),
        Image.new("L", (6, 3)),  # as many bytes
    ]

    assert len({image_digest(image) for image in images}) == 5


def test_the_digest_does_not_depend_on_how_the_image_was_stored():
    assert image_digest(load_image(encoded(four_corners(), "TIFF"))) == image_digest(four_corners())


# What is transparent can stay so.


def test_what_is_transparent_is_put_on_another_background_later():
    image = Image.new("RGBA", (3, 2), (255, 0, 0, 51))

    read = read_image(encoded(image, "PNG"))

    assert (read.mode, read.size) == ("RGBA", (3, 2))
    for background in ((0, 100, 200), (255, 255, 255)):
        assert corners(on_background(read, background)) == corners(load_image(image, background=background))
    opaque = read_image(four_corners())
    assert (opaque.mode, on_background(opaque, (0, 0, 0)) is opaque) == ("RGB", True)


# Files that are none.


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes in folders")
def test_a_pipe_is_refused_instead_of_being_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")

    with pytest.raises(ImageError, match=r"pipe.png' is a pipe or a device, not a file. Give a file"):
        load_image(tmp_path / "pipe.png")


def test_a_link_to_nowhere_differs_from_a_missing_file(tmp_path):
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere.png")

    with pytest.raises(ImageError, match=r"link.png' is a link to a file that does not exist. Fix the link"):
        load_image(tmp_path / "link.png")
