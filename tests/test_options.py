"""Options: one class for every front, with ranges that hold."""

import dataclasses
import json

import numpy as np
import pytest

from ldznet.errors import OptionError
from ldznet.options import MaskOptions, Option, SegmentOptions, check_value, options_of

CLASSES = (MaskOptions, SegmentOptions)
FIELDS = [(kind, item) for kind in CLASSES for item in dataclasses.fields(kind)]


@pytest.mark.parametrize(("kind", "item"), FIELDS, ids=lambda x: getattr(x, "name", getattr(x, "__name__", "")))
def test_every_field_says_what_it_is_for_and_refuses_another_type(kind, item):
    assert item.metadata["help"]
    assert item.metadata["help"][0].islower() or item.name in ("randomness",)
    wrong = 3 if isinstance(item.default, str) else "3"

    with pytest.raises(OptionError, match=rf"{item.name} is {wrong!r}, but it must be .* \(default"):
        kind(**{item.name: wrong})


@pytest.mark.parametrize(("kind", "item"), FIELDS, ids=lambda x: getattr(x, "name", getattr(x, "__name__", "")))
def test_both_ends_of_a_range_belong_to_it_and_what_lies_beyond_is_refused(kind, item):
    several = isinstance(item.default, tuple)
    for end, beyond in ((item.metadata["low"], -1), (item.metadata["high"], 1)):
        if end is None:
            continue
        number = item.metadata["kind"] or type(item.default[0] if several else item.default)
        kind(**{item.name: (number(end),) if several else number(end)})
        outside = number(end) + beyond
        with pytest.raises(OptionError, match=rf"{item.name} is {outside}, but it must be"):
            kind(**{item.name: (outside,) if several else outside})


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (MaskOptions, {"threshold": 1.5}, r"threshold is 1.5, but it must be from 0.0 to 1.0: probability from"),
        (MaskOptions, {"threshold": float("nan")}, "threshold is nan, but it must be a finite number"),
        (MaskOptions, {"threshold": True}, "threshold is True, but it must be a number"),
        (MaskOptions, {"grow": 1.5}, "grow is 1.5, but it must be a whole number"),
        (
            MaskOptions,
            {"brush": "erase"},
            "brush is 'erase', which is not known: give one of replace, add, subtract",
        ),
        (SegmentOptions, {"seeds": ()}, "seeds is .., but it must be a tuple of at least one value"),
        (SegmentOptions, {"timesteps": (400, 1000)}, "each of timesteps is 1000, but it must be from 0 to 999"),
        (SegmentOptions, {"timesteps": (1000,)}, r"400 for the released one \(default none\)"),
        (SegmentOptions, {"seeds": (-1,)}, r"each of seeds is -1, .*averaged \(default \(0,\)\)"),
        (SegmentOptions, {"template": "a photo"}, "template is 'a photo', but it must hold {} once"),
        (
            SegmentOptions,
            {"background": "white"},
            "background is 'white', but it must be a colour such as #ffffff",
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_is_right(kind, values, said):
    with pytest.raises(OptionError, match=said.replace("{}", r"\{\}")):
        kind(**values)


def test_a_whole_number_is_taken_where_any_number_is():
    assert MaskOptions(threshold=1, feather=3).feather == 3


def test_numbers_of_numpy_are_taken_and_become_pythons():
    mask = MaskOptions(threshold=np.float32(0.5), grow=np.int64(3), invert=np.bool_(True))
    segment = SegmentOptions(timesteps=(np.int64(300), 400))

    assert (mask, segment) == (
        MaskOptions(threshold=0.5, grow=3, invert=True),
        SegmentOptions(timesteps=(300, 400)),
    )
    assert json.dumps([dataclasses.asdict(mask), dataclasses.asdict(segment)])
    with pytest.raises(OptionError, match=r"grow is 1\.5, but it must be a whole number"):
        MaskOptions(grow=np.float64(1.5))
    with pytest.raises(OptionError, match=r"grow is array\(\[3\]\), but it must be a whole number"):
        MaskOptions(grow=np.array([3]))


def test_every_front_checks_a_value_with_the_same_function():
    options = options_of(MaskOptions)

    assert list(options) == [item.name for item in dataclasses.fields(MaskOptions)]
    assert check_value(options["grow"], 3.0, "Grow") == 3  # JavaScript has no whole numbers
    assert type(check_value(options["grow"], 3.0, "Grow")) is int
    assert check_value(options["objects"], (), "Objects") == ()
    assert check_value(Option("a", choices=("a", "b")), "b", "Letter") == "b"
    with pytest.raises(OptionError, match=r"Grow \(px\) is 600, but it must be from -512 to 512: pixels by which"):
        check_value(options["grow"], 600, "Grow (px)")
    with pytest.raises(OptionError, match=r"Letter is 'c', which is not known: give one of a, b \(default 'a'\)"):
        check_value(Option("a", choices=("a", "b")), "c", "Letter")
