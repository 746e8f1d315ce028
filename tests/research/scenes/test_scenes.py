import hashlib
import random
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from ldznet.errors import OptionError
from ldznet.research.scenes.brushes import COLORS
from ldznet.research.scenes.scenes import (
    LOOK_NAMES,
    PHRASE_KINDS,
    VOCABULARY,
    contact_sheet,
    make_scene,
)
from ldznet.research.scenes.shapes import KINDS, outline

SEEDS = range(60)

# The words as a reader knows them, not as the package lists them.
KIND_OF = {
    "circles": "circle",
    "squares": "square",
    "triangles": "triangle",
    "stars": "star",
    "hearts": "heart",
    "rings": "ring",
    "crosses": "cross",
    "crescents": "crescent",
    "arrows": "arrow",
    "hexagons": "hexagon",
    "drops": "drop",
    "leaves": "leaf",
    "flowers": "flower",
    "clouds": "cloud",
    "shapes": "shape",
}
COLOR_WORDS = {"red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown", "black"}
FILL_WORDS = {"striped", "dotted", "checkered"}
NUMBERS = {"a": 1, "an": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}


@pytest.fixture(scope="module")
def scenes():
    """Cartoons, which are the quickest to paint; what is said of them does not depend on the look."""
    return [make_scene(seed, look="cartoon", size=(128, 160)) for seed in SEEDS]


# ---- a slow reader of phrases ----


def described(scene, text):
    """Indices of all objects of which every word is true."""
    found = set()
    for i, item in enumerate(scene.objects):
        for word in text.split():
            if word in COLOR_WORDS:
                true = item.color == word
            elif word in FILL_WORDS:
                true = item.fill == word
            elif word in ("small", "large"):
                true = item.size_word == word
            else:
                noun = KIND_OF.get(word, word)
                assert noun in KIND_OF.values(), word
                true = noun in ("shape", item.kind)
            if not true:
                break
        else:
            found.add(i)
    return found


def centroid(mask):
    y, x = np.nonzero(mask)
    return x.mean(), y.mean()


def read(scene, text):
    """Indices of all objects that a phrase picks: a relation holds within 45 degrees of its axis."""
    if match := re.fullmatch(r"(largest|smallest) (\w+)", text):
        same = described(scene, match[2])
        return {(max if match[1] == "largest" else min)(same, key=lambda i: scene.objects[i].radius)}
    match = re.fullmatch(r"(.+) (left of|right of|above|below) the (.+)", text)
    if not match:
        return described(scene, text)
    (anchor,) = described(scene, match[3])
    ax, ay = centroid(scene.masks[anchor])
    picked = set()
    for i in described(scene, match[1]):
        x, y = centroid(scene.masks[i])
        beside, beneath = abs(x - ax) > abs(y - ay), abs(y - ay) > abs(x - ax)
        holds = {
            "left of": beside and x < ax,
            "right of": beside and x > ax,
            "above": beneath and y < ay,
            "below": beneath and y > ay,
        }
        if holds[match[2]]:
            picked.add(i)
    return picked


def digest(scene):
    text = repr((scene.caption, scene.objects, [(p.text, p.kind) for p in scene.phrases()]))
    return hashlib.sha256(scene.image.tobytes() + scene.masks.tobytes() + text.encode()).hexdigest()


# ---- the same seed, the same scene ----


@pytest.mark.parametrize("look", LOOK_NAMES)
def test_a_seed_gives_the_same_bytes_whatever_the_global_generators_are_at(look):
    first = digest(make_scene(7, look=look))
    random.seed(1)
    np.random.seed(1)
    cv2.setRNGSeed(1)

    assert digest(make_scene(7, look=look)) == first


def test_rendering_leaves_the_global_generators_alone():
    random.seed(5)
    np.random.seed(5)
    for look in LOOK_NAMES:
        make_scene(3, look=look).phrases()
    drawn = random.random(), np.random.random()

    random.seed(5)
    np.random.seed(5)
    assert drawn == (random.random(), np.random.random())


def test_another_process_renders_the_same_bytes():
    code = (
        "import hashlib; from ldznet.research.scenes.scenes import *;"
        "print(*(hashlib.sha256(make_scene(11, look=look).image.tobytes()).hexdigest() for look in LOOK_NAMES))"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)

    here = [hashlib.sha256(make_scene(11, look=look).image.tobytes()).hexdigest() for look in LOOK_NAMES]
    assert done.stdout.split() == here


def test_the_looks_of_a_seed_differ_in_paint_only():
    photo, *others = (make_scene(21, look=look) for look in LOOK_NAMES)

    for other in others:
        assert other.objects == photo.objects
        assert np.array_equal(other.masks, photo.masks)
        difference = np.abs(other.image.astype(int) - photo.image).mean()
        assert difference > 10


def test_seeds_differ():
    assert len({digest(make_scene(seed, look="cartoon")) for seed in SEEDS}) == len(SEEDS)


# ---- pictures and masks ----


@pytest.mark.parametrize("size", [(64, 64), (64, 200), (128, 96), (256, 160)])
@pytest.mark.parametrize("look", LOOK_NAMES)
def test_images_and_masks_have_the_size_that_was_asked_for(look, size):
    scene = make_scene(2, look=look, size=size)

    assert scene.image.shape == (*size, 3)
    assert scene.image.dtype == np.uint8
    assert scene.masks.shape == (len(scene.objects), *size)
    assert scene.masks.dtype == bool


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6])
def test_a_scene_holds_as_many_objects_as_were_asked_for(number):
    for size in ((64, 64), (128, 128)):
        assert len(make_scene(number, look="cartoon", size=size, objects=number).objects) == number


def test_no_pixel_belongs_to_two_objects(scenes):
    for scene in scenes:
        assert scene.masks.sum(axis=0).max() == 1


def test_more_than_half_of_every_object_is_visible(scenes):
    for scene in scenes:
        for item, mask in zip(scene.objects, scene.masks, strict=True):
            assert mask.sum() > 0.5 * item.area()


def test_boxes_and_centroids_are_those_of_the_masks(scenes):
    for scene in scenes:
        for item, mask in zip(scene.objects, scene.masks, strict=True):
            y, x = np.nonzero(mask)
            assert item.box == (x.min(), y.min(), x.max() + 1, y.max() + 1)
            assert item.centroid == pytest.approx((x.mean() + 0.5, y.mean() + 0.5))


def test_small_objects_are_about_twenty_pixels_across_and_size_words_do_not_overlap():
    found = [item for seed in range(300) for item in make_scene(seed, look="cartoon").objects]

    for measure in (lambda item: item.radius, lambda item: item.area()):
        spans = {
            word: sorted(measure(item) for item in found if item.size_word == word)
            for word in ("small", "", "large")
        }
        assert spans["small"][-1] < spans[""][0]
        assert spans[""][-1] < spans["large"][0]
    assert min(item.radius for item in found) > 9.5


def inside(polygons, x, y):
    """Even-odd rule, one edge at a time."""
    odd = np.zeros(x.shape, bool)
    for polygon in polygons:
        for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            if y0 != y1:
                odd ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return odd


def test_masks_are_what_the_outlines_cover_from_back_to_front():
    for seed in (1, 4, 5, 12):
        scene = make_scene(seed, look="cartoon", size=(96, 128), objects=5)
        n = 8  # samples per pixel and side
        y, x = np.mgrid[0 : 96 * n, 0 : 128 * n]
        owner = np.full(x.shape, -1)
        for i, item in enumerate(scene.objects):
            owner[inside(item.contours(), (x + 0.5) / n, (y + 0.5) / n)] = i
        for i, mask in enumerate(scene.masks):
            share = (owner == i).reshape(96, n, 128, n).mean(axis=(1, 3))
            assert mask[share > 0.75].all()
            assert not mask[share < 0.25].any()
            assert mask.sum() == pytest.approx(share.sum(), rel=0.02, abs=5)


def test_inside_its_mask_a_plain_cartoon_object_has_its_colour_exactly(scenes):
    checked = 0
    for scene in scenes:
        for item, mask in zip(scene.objects, scene.masks, strict=True):
            core = cv2.erode(np.pad(mask, 3).astype(np.uint8), np.ones((7, 7), np.uint8))[3:-3, 3:-3] > 0
            if item.fill == "solid" and core.any():
                assert np.unique(scene.image[core], axis=0).tolist() == [list(COLORS[item.color])]
                checked += 1
    assert checked > 30


@pytest.mark.parametrize(("look", "bound"), [("photo", 0.95), ("sketch", 0.95), ("painting", 0.95)])
def test_the_colour_word_holds_in_every_look(look, bound):
    """The median hue of a plain object is nearest to its own colour; black is told by its lightness."""
    names = [name for name in COLORS if name != "black"]
    palette = lab([COLORS[name] for name in names])
    right = []
    for seed in SEEDS:
        scene = make_scene(seed, look=look)
        for item, mask in zip(scene.objects, scene.masks, strict=True):
            if item.fill == "solid":
                median = lab([np.median(scene.image[mask], axis=0)])[0]
                if item.color == "black":
                    right.append(median[0] < 110 and np.abs(median[1:] - 128).max() < 12)
                else:
                    right.append(names[np.argmin(((palette - median) ** 2).sum(1))] == item.color)
    assert np.mean(right) > bound


def lab(colors):
    return cv2.cvtColor(np.uint8([colors]), cv2.COLOR_RGB2LAB)[0].astype(float)


def test_stripes_dots_and_squares_show_a_second_colour():
    for seed in SEEDS:
        scene = make_scene(seed, look="cartoon")
        for item, mask in zip(scene.objects, scene.masks, strict=True):
            if item.fill != "solid":
                second = (120, 78, 0) if item.color == "yellow" else (250, 248, 240)
                own, other = (
                    (np.abs(scene.image.astype(int) - color).max(axis=2) < 40)[mask].mean()
                    for color in (COLORS[item.color], second)
                )
                assert own > 0.1, (seed, item)
                assert other > 0.05, (seed, item)


def test_there_are_fourteen_outlines_within_the_unit_circle_and_no_two_alike():
    assert set(KINDS) == set(KIND_OF.values()) - {"shape"}
    drawn = []
    for kind in KINDS:
        reach = np.concatenate(outline(kind))
        assert np.hypot(*reach.T).max() == pytest.approx(1, abs=1e-3)
        y, x = np.mgrid[-1:1:64j, -1:1:64j]
        drawn.append(inside(outline(kind), x, y))
    for i, first in enumerate(drawn):
        for second in drawn[:i]:
            assert (first & second).sum() / (first | second).sum() < 0.9


def test_the_ground_never_has_the_colour_of_an_object(scenes):
    named = 0
    for scene in scenes:
        if match := re.search(r" on (\w+)$", scene.caption):
            assert match[1] not in {item.color for item in scene.objects}
            named += 1
    assert named > 20


# ---- phrases ----


def test_the_mask_of_a_phrase_is_the_union_of_all_that_its_words_pick(scenes):
    seen = dict.fromkeys(PHRASE_KINDS, 0)
    for scene in scenes:
        for phrase in scene.phrases(each=None):
            picked = sorted(read(scene, phrase.text))
            expected = np.zeros(scene.image.shape[:2], bool)
            for i in picked:
                expected |= scene.masks[i]
            assert np.array_equal(phrase.mask, expected), (scene.seed, phrase.text)
            assert (phrase.kind == "absent") == (not picked), (scene.seed, phrase.text)
            seen[phrase.kind] += 1
    assert min(seen.values()) > 100


def test_a_plural_is_said_of_several_or_of_none(scenes):
    several = 0
    for scene in scenes:
        for phrase in scene.phrases(each=None):
            if phrase.text.split(" of ")[0].split(" above ")[0].split(" below ")[0].split()[-1] in KIND_OF:
                assert len(read(scene, phrase.text)) != 1, phrase.text
                several += phrase.mask.any()
    assert several > 20


def test_phrases_are_as_many_as_asked_for_and_all_different(scenes):
    for scene in scenes:
        phrases = scene.phrases(each=2)
        assert len({phrase.text for phrase in phrases}) == len(phrases)
        for kind in PHRASE_KINDS:
            assert sum(phrase.kind == kind for phrase in phrases) <= 2
        assert sum(phrase.kind == "absent" for phrase in phrases) == 2


def test_phrases_are_the_same_for_the_same_seed_and_vary_with_it():
    scene = make_scene(8, objects=5)

    def texts(seed):
        return [phrase.text for phrase in scene.phrases(seed)]

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)


def test_absent_phrases_hold_near_misses_false_relations_and_absent_kinds(scenes):
    near = relations = absent_kind = total = 0
    for scene in scenes:
        kinds = {item.kind for item in scene.objects}
        for phrase in scene.phrases(each=2):
            if phrase.kind == "absent":
                total += 1
                words = {KIND_OF.get(word, word) for word in phrase.text.split()}
                relations += "the" in words
                near += "the" not in words and bool(words & kinds)
                absent_kind += not words & kinds
    assert min(near, relations, absent_kind) > 0.1 * total


def test_attributes_often_leave_out_another_object_of_the_same_kind():
    telling = total = 0
    for seed in SEEDS:
        scene = make_scene(seed, look="cartoon", objects=4)
        for phrase in scene.phrases(each=2):
            if phrase.kind == "attribute":
                noun = phrase.text.split()[-1]
                telling += len(described(scene, noun)) > len(described(scene, phrase.text))
                total += 1
    assert telling > 0.4 * total


# ---- captions and words ----


def test_captions_name_the_look_and_exactly_the_objects_that_are_there(scenes):
    for scene in scenes:
        match = re.fullmatch(r"a (\w+) of (.+?)(?: on [a-z ]+)?", scene.caption)
        assert match[1] == scene.look
        parts = re.split(r", | and | left of | right of | above | below ", match[2])
        named = []
        for part in parts:
            number, rest = part.split(" ", 1)
            assert len(described(scene, rest)) >= NUMBERS[number], scene.caption
            named += [KIND_OF.get(rest.split()[-1], rest.split()[-1])] * NUMBERS[number]
        assert sorted(named) == sorted(item.kind for item in scene.objects)


def test_relations_in_captions_are_true():
    relations = 0
    for seed in range(150):
        scene = make_scene(seed, look="cartoon", objects=2)
        caption = re.sub(r" on [a-z]+$", "", scene.caption.removeprefix("a cartoon of "))
        if match := re.fullmatch(r"an? (.+) (left of|right of|above|below) an? (.+)", caption):
            first, second = described(scene, match[1]), described(scene, match[3])
            held = False
            for i in first:
                for j in second - {i}:
                    (x, y), (ax, ay) = centroid(scene.masks[i]), centroid(scene.masks[j])
                    held |= {"left of": x < ax, "right of": x > ax, "above": y < ay, "below": y > ay}[match[2]]
            assert held, scene.caption
            relations += 1
    assert relations > 25


def test_attributes_are_sometimes_left_out_of_captions():
    said = possible = 0
    for seed in SEEDS:
        scene = make_scene(seed, look="cartoon", objects=1)
        possible += 1
        said += scene.objects[0].color in scene.caption
    assert 0.7 * possible < said < possible


def test_all_words_are_in_the_vocabulary():
    words = set()
    for look in LOOK_NAMES:
        for seed in range(40):
            scene = make_scene(seed, look=look)
            words |= set(re.findall(r"\w+|,", scene.caption))
            words |= {word for phrase in scene.phrases(each=None) for word in phrase.text.split()}

    assert words <= set(VOCABULARY)
    assert len(words) > 0.9 * len(VOCABULARY)
    assert len(set(VOCABULARY)) == len(VOCABULARY) < 100


def test_a_caption_written_out():
    """Training is repeated from seeds: a change here means another data set."""
    expected = "a photo of a blue circle, a checkered red circle, a dotted red heart and a small heart on sand"
    assert make_scene(0).caption == expected


# ---- sheets and errors ----


def test_a_contact_sheet_shows_every_scene_in_rows():
    pictures = [make_scene(seed, look="cartoon", size=(128, 256)) for seed in range(3)]

    sheet = contact_sheet(pictures, columns=2)

    assert sheet.dtype == np.uint8
    assert sheet.shape[1] == 2 * (256 + 8)
    assert np.array_equal(sheet[4:132, 4:260], pictures[0].image)
    assert np.array_equal(sheet[4:132, 268:524], pictures[1].image)
    assert (sheet[-20:, 268:] == 255).all()


def test_a_contact_sheet_outlines_the_masks_of_phrases():
    scene = make_scene(1, look="cartoon", size=(128, 256))
    present, absent = (next(p for p in scene.phrases() if p.kind == kind) for kind in ("name", "absent"))

    sheet = contact_sheet([scene, scene], [present, absent], columns=2)

    assert not np.array_equal(sheet[4:132, 4:260], scene.image)
    assert np.array_equal(sheet[4:132, 268:524], scene.image)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"look": "cubist"},
            "look is 'cubist', which no painter knows: "
            "give one of photo, cartoon, sketch, painting (default 'photo').",
        ),
        (
            {"size": (63, 128)},
            "size is (63, 128), but objects are legible and quickly drawn only on sides from 64 to 1024 pixels: "
            "give (height, width) in that range (default (128, 128)).",
        ),
        ({"size": (128, 1025)}, "size is (128, 1025), but"),
        ({"size": (128.0, 128)}, "size is (128.0, 128), but"),
        ({"size": 128}, "size is 128, but"),
        (
            {"objects": 7},
            "objects is 7, but a scene has room for 1 to 6: give such a number, or None to leave it to chance.",
        ),
        ({"objects": 0}, "objects is 0, but"),
        ({"seed": -1}, "seed is -1, but chance starts from a whole number: give one from 0 upwards."),
        ({"seed": 0.5}, "seed is 0.5, but"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_what_why_and_what_to_do(options, text):
    with pytest.raises(OptionError) as caught:
        make_scene(**{"seed": 0} | options)

    assert str(caught.value).startswith(text)


def test_an_impossible_number_of_phrases_is_refused():
    with pytest.raises(OptionError) as caught:
        make_scene(0, look="cartoon").phrases(each=0)

    assert str(caught.value) == (
        "each is 0, but it counts the phrases of every kind: give a number from 1, or None for all of them."
    )
