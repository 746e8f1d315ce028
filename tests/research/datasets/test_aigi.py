"""Captioned images in three forms, whole and damaged."""

import base64
import io
import json
import pickle
import shutil
import unicodedata

import numpy as np
import pytest
from conftest import iou, read_all
from miniature import miniature_scene, run_lengths, write_aigi
from PIL import Image, ImageDraw

from ldznet.research.datasets import samples
from ldznet.research.datasets.aigi import Aigi
from ldznet.research.datasets.sample import Sample
from ldznet.research.datasets.samples import DatasetError, SampleError
from ldznet.research.datasets.skip_report import Skipped

FORMS = ("masks", "coco", "labelme")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """form -> folder, exact masks by key."""
    root = tmp_path_factory.mktemp("aigi")
    return {form: (root / form, write_aigi(root / form, form)) for form in FORMS}


@pytest.fixture
def copy(written, tmp_path):
    """Form -> a folder to damage."""
    return lambda form: shutil.copytree(written[form][0], tmp_path / form)


def save_mask(path, mask, low=0, high=255):
    Image.fromarray(np.where(mask, high, low).astype(np.uint8)).save(path)


def save_photo(path, seed=0):
    """A picture in which no mask can be seen."""
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(path)


def part(x0, y0, x1, y1, size=(40, 60)):
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


# ---- whole ----


@pytest.mark.parametrize("form", FORMS)
def test_every_caption_comes_back_with_its_image_and_mask(written, form):
    folder, masks = written[form]
    dataset = Aigi(folder)  # the form is found out
    found, report = read_all(dataset)

    assert str(report) == "nothing was skipped"
    assert {sample.key for sample in found} == masks.keys()
    for sample in found:
        assert iou(sample.mask, masks[sample.key]) > 0.95
        assert sample.key == f"{sample.source.rsplit('/', 1)[1]}/{sample.phrase}"
        assert sample.categories == {"name": (sample.phrase,)}
    assert np.array_equal(found[0].image, miniature_scene(0, (96, 128)).image)
    assert [sample.source for sample in found] == sorted(sample.source for sample in found)


@pytest.mark.parametrize("segmentation", ["text", "numbers"])
def test_run_lengths_give_exactly_the_mask(tmp_path, segmentation):
    masks = write_aigi(tmp_path, "coco", segmentation=segmentation)

    for sample in Aigi(tmp_path / "annotations.json"):
        assert np.array_equal(sample.mask, masks[sample.key])


def test_cocos_polygons_count_from_the_corners_of_pixels(tmp_path):
    masks = write_aigi(tmp_path, "coco", segmentation="polygons")
    assert all(iou(sample.mask, masks[sample.key]) > 0.95 for sample in Aigi(tmp_path))

    document = json.loads((tmp_path / "annotations.json").read_text())
    document["annotations"] = [
        {"image_id": 1, "caption": "box", "segmentation": [[10, 20, 30, 20, 30, 25, 10, 25]]}
    ]
    (tmp_path / "annotations.json").write_text(json.dumps(document))
    assert np.array_equal(Aigi(tmp_path)[0].mask, part(10, 20, 30, 25, (96, 128)))


@pytest.mark.parametrize("form", FORMS)
def test_the_same_arguments_write_the_same_bytes(written, form, tmp_path):
    write_aigi(tmp_path, form)

    names = sorted(path.name for path in written[form][0].iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir())
    for name in names:
        assert (tmp_path / name).read_bytes() == (written[form][0] / name).read_bytes(), name


@pytest.mark.parametrize("form", ["coco", "labelme"])
def test_opening_reads_no_image_and_a_reader_can_be_sent_to_another_process(written, form, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(samples, "load_image", None)
        dataset = Aigi(written[form][0])

    again = pickle.loads(pickle.dumps(dataset))
    assert np.array_equal(again[3].mask, dataset[3].mask)


def test_opening_reads_masks_only_where_names_do_not_say_what_is_one(tmp_path, monkeypatch):
    save_photo(tmp_path / "a.jpg")
    save_photo(tmp_path / "a_2.jpg")  # an image that is no PNG is one for certain
    save_photo(tmp_path / "b.png")
    for name in ("a_car.png", "a_2_car.png", "b_cat.png"):
        save_mask(tmp_path / name, part(1, 1, 9, 9))
    with monkeypatch.context() as patch:
        patch.setattr(samples, "load_image", None)
        dataset = Aigi(tmp_path)

    assert [sample.key for sample in dataset] == ["a.jpg/car", "a_2.jpg/car", "b.png/cat"]


# ---- the three forms ----


def test_pictures_whose_names_begin_alike_are_told_apart_by_their_pixels(tmp_path):
    for name in ("dog.png", "dog_2.png"):
        save_photo(tmp_path / name)
    masks = {
        "dog.png/tail": part(1, 1, 9, 9),
        "dog.png/tail end": part(1, 1, 5, 5),
        "dog_2.png/tail": part(20, 1, 30, 9),
    }
    for key, mask in masks.items():
        save_mask(tmp_path / (key.replace(".png/", "_").replace(" ", "_") + ".png"), mask)

    found, report = read_all(Aigi(tmp_path))

    assert str(report) == "nothing was skipped"
    assert {sample.key for sample in found} == masks.keys()
    assert all(np.array_equal(sample.mask, masks[sample.key]) for sample in found)


def test_images_and_masks_may_have_folders_of_their_own(tmp_path):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    save_photo(tmp_path / "images" / "a.png")
    save_photo(tmp_path / "images" / "lonely.png")
    save_mask(tmp_path / "masks" / "a_Teddy_Bear.png", part(1, 1, 9, 9))
    save_mask(tmp_path / "masks" / "b_cat.png", part(1, 1, 9, 9))

    dataset = Aigi(tmp_path)

    assert [sample.phrase for sample in dataset] == ["Teddy Bear"]
    assert dataset.report.skipped == {
        "image without a mask": ["lonely.png"],
        "mask without an image": ["b_cat.png"],
    }
    with pytest.raises(SampleError, match='on_problem="skip"'):
        Aigi(tmp_path, on_problem="refuse")


@pytest.mark.parametrize("kind", ["0 and 1", "colour", "alpha", "bits", "jpeg-like"])
def test_a_mask_may_be_a_picture_of_several_kinds(tmp_path, kind):
    mask = part(10, 5, 30, 25)
    save_photo(tmp_path / "a.jpg")
    path = tmp_path / "a_cat.png"
    if kind == "0 and 1":
        save_mask(path, mask, 0, 1)
    elif kind == "colour":
        Image.fromarray(mask[:, :, None] * np.array([128, 0, 0], np.uint8)).save(path)
    elif kind == "alpha":
        Image.fromarray(mask[:, :, None] * np.full(4, 255, np.uint8)).save(path)
    elif kind == "bits":
        Image.fromarray(mask).convert("1").save(path)
    else:
        save_mask(path, mask, 9, 248)

    assert np.array_equal(Aigi(tmp_path)[0].mask, mask)


def test_a_mask_may_be_a_picture_with_a_palette(tmp_path):
    mask = part(10, 5, 30, 25)
    save_photo(tmp_path / "a.jpg")
    picture = Image.fromarray(mask.astype(np.uint8), mode="L").convert("P")
    picture.putpalette([0, 0, 0, 192, 128, 0])
    picture.save(tmp_path / "a_cat.png")

    assert np.array_equal(Aigi(tmp_path)[0].mask, mask)


def test_numbers_of_several_things_are_no_mask(tmp_path):
    save_photo(tmp_path / "a.jpg")
    numbers = part(1, 1, 9, 9) + 2 * part(20, 1, 40, 20).astype(np.uint8)
    Image.fromarray(numbers).save(tmp_path / "a_cat.png")

    found = Aigi(tmp_path)[0]

    assert found.reason == "not a mask"
    assert "holds the numbers 0, 1, 2 as if of several things" in found.text


def test_names_are_the_same_however_their_accents_are_written_and_commas_belong_to_captions(tmp_path):
    composed, apart = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")
    save_photo(tmp_path / f"{composed}.jpg")
    (tmp_path / f"._{composed}.jpg").write_bytes(b"of a Mac")
    save_mask(tmp_path / f"{apart}_red,_small_déjà_vu.png", part(1, 1, 9, 9))

    found, report = read_all(Aigi(tmp_path))

    assert [sample.phrase for sample in found] == [unicodedata.normalize("NFC", "red, small déjà vu")]
    assert str(report) == "nothing was skipped"


def test_a_photograph_in_the_place_of_a_mask_is_skipped(tmp_path):
    save_photo(tmp_path / "a.jpg")
    save_photo(tmp_path / "a_cat.png", seed=1)

    assert Aigi(tmp_path)[0].reason == "not a mask"


def test_a_mask_that_does_not_fit_its_image_is_skipped(tmp_path):
    save_photo(tmp_path / "a.jpg")
    save_mask(tmp_path / "a_cat.png", part(1, 1, 9, 9, (60, 40)))

    found = Aigi(tmp_path)[0]

    assert (found.name, found.reason) == ("a.jpg/cat", "wrong size")
    assert "its mask a_cat.png is 40 x 60 pixels instead of 60 x 40" in found.text


def test_an_empty_mask_is_skipped(tmp_path):
    save_photo(tmp_path / "a.jpg")
    save_mask(tmp_path / "a_cat.png", part(0, 0, 0, 0))

    assert Aigi(tmp_path)[0].reason == "empty mask"


def coco(folder, annotations, **changes):
    save_photo(folder / "a.png")
    document = {
        "images": [{"id": 7, "file_name": "a.png", "height": 40, "width": 60}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": annotations,
    }
    (folder / "annotations.json").write_text(json.dumps(document | changes))
    return folder


def runs(mask):
    return {"size": list(mask.shape), "counts": run_lengths(mask)}


def test_a_phrase_of_the_annotation_goes_before_its_category_and_equal_ones_are_one_mask(tmp_path):
    parts = [part(1, 1, 9, 9), part(20, 1, 30, 9), part(40, 1, 50, 9), part(40, 20, 50, 30)]
    texts = [{"caption": "black cat"}, {"phrase": "black cat"}, {}, {"phrase": ""}]
    dataset = Aigi(
        coco(
            tmp_path,
            [
                {"image_id": 7, "category_id": 1, "segmentation": runs(mask), **text}
                for mask, text in zip(parts, texts, strict=True)
            ],
        )
    )

    assert [sample.key for sample in dataset] == ["a.png/black cat", "a.png/cat"]
    assert np.array_equal(dataset[0].mask, parts[0] | parts[1])
    assert np.array_equal(dataset[1].mask, parts[2] | parts[3])


def test_cocos_images_may_lie_in_a_folder_of_their_own(tmp_path):
    coco(tmp_path, [{"image_id": 7, "category_id": 1, "segmentation": runs(part(1, 1, 9, 9))}])
    (tmp_path / "images").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "images" / "a.png")

    assert Aigi(tmp_path)[0].mask.sum() == 64


def test_cocos_images_of_one_name_in_two_folders_are_two(tmp_path):
    masks = {"a/1.png": part(1, 1, 9, 9), "b/1.png": part(20, 1, 30, 9)}
    images = []
    for number, name in enumerate(masks, start=1):
        (tmp_path / name).parent.mkdir()
        save_photo(tmp_path / name, number)
        images.append({"id": number, "file_name": name, "height": 40, "width": 60})
    annotations = [
        {"image_id": number, "category_id": 1, "segmentation": runs(mask)}
        for number, mask in enumerate(masks.values(), start=1)
    ]
    dataset = Aigi(coco(tmp_path, annotations, images=images))

    assert [sample.key for sample in dataset] == ["a/1.png/cat", "b/1.png/cat"]
    assert all(np.array_equal(dataset[at].mask, mask) for at, mask in enumerate(masks.values()))
    assert not dataset.report.counts


def test_cocos_file_names_may_have_windows_backslashes(tmp_path):
    image = {"id": 7, "file_name": "photos\\a.png", "height": 40, "width": 60}
    annotation = {"image_id": 7, "category_id": 1, "segmentation": runs(part(1, 1, 9, 9))}
    coco(tmp_path, [annotation], images=[image])
    (tmp_path / "photos").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "photos" / "a.png")

    assert Aigi(tmp_path)[0].mask.sum() == 64


def test_coco_may_be_laid_out_with_a_folder_of_annotations_beside_that_of_images_and_crowds_count(tmp_path):
    crowd = {"image_id": 7, "category_id": 1, "iscrowd": 1, "segmentation": runs(part(20, 1, 30, 9))}
    one = {"image_id": 7, "category_id": 1, "iscrowd": 0, "segmentation": [[1, 1, 9, 1, 9, 9, 1, 9]]}
    coco(tmp_path, [one, crowd])
    for folder, name in (("images", "a.png"), ("annotations", "annotations.json")):
        (tmp_path / folder).mkdir()
        (tmp_path / name).rename(tmp_path / folder / name)

    for place in (tmp_path, tmp_path / "annotations" / "annotations.json"):
        assert np.array_equal(Aigi(place)[0].mask, part(1, 1, 9, 9) | part(20, 1, 30, 9))


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ({"size": [40, 60], "counts": [5, 5]}, "bad run lengths"),
        ({"size": [60, 40], "counts": [2400]}, "bad run lengths"),
        ({"size": [40, 60], "counts": [2401, -1]}, "bad run lengths"),
        ({"size": [40, 60], "counts": "zzz"}, "bad run lengths"),
        ({"size": [40, 60], "counts": "P"}, "bad run lengths"),
        ({"size": [40, 60], "counts": ""}, "bad run lengths"),
        ({"size": [40, 60], "counts": []}, "bad run lengths"),
        ({"size": [40, 60], "counts": "5"}, "bad run lengths"),
        ({"size": [40, 60], "counts": "a" * 50}, "bad run lengths"),
        ({"size": [40, 60], "counts": [2401]}, "bad run lengths"),
        ({"size": [40, 60], "counts": None}, "bad run lengths"),
        ({"size": [40, 60]}, "bad run lengths"),
        ([[1, 2, 3]], "bad outline"),
        ([["a", 1, 2, 3, 4, 5]], "bad outline"),
        ([5], "bad outline"),
        (None, "bad outline"),
        ([], "empty mask"),
        ([[1, 1, 5, 5]], "empty mask"),
        ([[90, 90, 95, 90, 95, 95]], "empty mask"),
    ],
)
def test_a_segmentation_that_means_nothing_is_skipped_and_the_others_are_read(tmp_path, segmentation, reason):
    good = {"image_id": 7, "category_id": 1, "segmentation": runs(part(1, 1, 9, 9))}
    bad = {"image_id": 7, "caption": "ghost", "segmentation": segmentation}
    found, report = read_all(Aigi(coco(tmp_path, [bad, good])))

    assert [sample.phrase for sample in found] == ["cat"]
    assert report.skipped == {reason: ["a.png/ghost"]}


@pytest.mark.parametrize(
    "bad",
    [
        5,
        {"image_id": 8, "category_id": 1, "segmentation": []},
        {"image_id": 7, "category_id": 2, "segmentation": []},
        {"image_id": 7, "category_id": 1},
        {"image_id": 7, "caption": 5, "segmentation": []},
        {"image_id": [], "category_id": 1, "segmentation": []},
    ],
)
def test_an_annotation_that_means_nothing_is_named_by_its_number(tmp_path, bad):
    good = {"image_id": 7, "category_id": 1, "segmentation": runs(part(1, 1, 9, 9))}
    dataset = Aigi(coco(tmp_path, [good, bad]))

    assert len(dataset) == 1
    assert list(dataset.report.skipped.values()) == [["annotations.json, annotation 2"]]
    with pytest.raises(SampleError, match="annotation 2: "):
        Aigi(tmp_path, on_problem="refuse")


@pytest.mark.parametrize("changes", [{"images": None}, {"images": [{}]}, {"categories": [5]}])
def test_a_coco_file_without_its_lists_is_an_error_that_names_it(tmp_path, changes):
    coco(tmp_path, [], **changes)

    with pytest.raises(DatasetError, match="annotations"):
        Aigi(tmp_path)


def labelme(folder, shapes, **changes):
    save_photo(folder / "a.png")
    document = {"imagePath": "a.png", "imageHeight": 40, "imageWidth": 60, "shapes": shapes}
    (folder / "a.json").write_text(json.dumps(document | changes))
    return folder


def png(mask):
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_labelmes_masks_lie_between_their_corners_and_may_reach_beyond_the_image(tmp_path):
    patch = np.ones((10, 20), bool)
    patch[0, 0] = False
    shapes = [
        {"label": "cat", "shape_type": "mask", "points": [[50, 35], [69, 44]], "mask": png(patch)},
        {"label": "cat", "shape_type": "oriented_rectangle", "points": [[2, 2], [9, 2], [9, 9], [2, 9]]},
    ]
    expected = part(50, 35, 60, 40) | part(2, 2, 10, 10)
    expected[35, 50] = False

    assert np.array_equal(Aigi(labelme(tmp_path, shapes))[0].mask, expected)


@pytest.mark.parametrize(
    "change", [{"mask": None}, {"mask": "no base64"}, {"mask": "aGVsbG8="}, {"points": [[0, 0], [5, 5]]}]
)
def test_a_mask_of_labelme_that_cannot_be_read_skips_its_caption(tmp_path, change):
    shape = {
        "label": "cat",
        "shape_type": "mask",
        "points": [[1, 1], [20, 10]],
        "mask": png(np.ones((10, 20), bool)),
    }
    assert Aigi(labelme(tmp_path, [shape]))[0].mask.sum() == 200

    assert Aigi(labelme(tmp_path, [shape | change]))[0].reason == "bad mask"


@pytest.mark.parametrize("kind", ["line", "point", "linestrip", "points"])
def test_a_line_or_a_point_of_labelme_is_named_as_it_has_no_area(tmp_path, kind):
    square = {"label": "cat", "points": [[2, 2], [9, 2], [9, 9], [2, 9]]}
    line = {"label": "cat", "shape_type": kind, "points": [[1, 1], [30, 30]]}

    (sample,), report = read_all(Aigi(labelme(tmp_path, [square, line])))

    assert np.array_equal(sample.mask, part(2, 2, 10, 10))
    assert report.kept == {"a.png/cat": (f"a {kind} of 2 points has no area",)}


def test_labelmes_shapes_are_drawn_as_labelme_draws_them_and_one_label_is_one_mask(tmp_path):
    shapes = [
        {"label": "cat", "shape_type": "polygon", "points": [[2.5, 2.5], [20.2, 4.1], [9.9, 15.5]]},
        {"label": "cat", "shape_type": "rectangle", "points": [[50.5, 30.5], [40.5, 20.5]]},
        {"label": "cat", "shape_type": "circle", "points": [[30, 20], [36, 20]]},
        {"label": "dog", "points": [[2, 2], [9, 2], [9, 9], [2, 9]]},
    ]
    canvas = Image.new("1", (60, 40))
    draw = ImageDraw.Draw(canvas)
    draw.polygon([(2.5, 2.5), (20.2, 4.1), (9.9, 15.5)], outline=1, fill=1)
    draw.rectangle([40, 20, 50, 30], outline=1, fill=1)
    draw.ellipse([24, 14, 36, 26], outline=1, fill=1)

    cat, dog = Aigi(labelme(tmp_path, shapes))

    assert (cat.phrase, dog.phrase) == ("cat", "dog")
    assert iou(cat.mask, np.array(canvas)) > 0.97  # Pillow's discs differ by their corners
    assert np.array_equal(dog.mask, part(2, 2, 10, 10))


def test_a_path_as_windows_writes_it_is_followed_or_the_image_lies_beside(tmp_path):
    square = [{"label": "cat", "points": [[2, 2], [9, 2], [9, 9], [2, 9]]}]
    labelme(tmp_path, square, imagePath="..\\imgs\\a.png")
    assert isinstance(Aigi(tmp_path)[0], Sample)

    inner = tmp_path / "json"
    inner.mkdir()
    (tmp_path / "imgs").mkdir()
    (tmp_path / "a.json").rename(inner / "a.json")
    (tmp_path / "a.png").rename(tmp_path / "imgs" / "a.png")
    assert isinstance(Aigi(inner)[0], Sample)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ({"shape_type": "line", "points": [[1, 1], [5, 5]]}, "empty mask"),
        ({"shape_type": "circle", "points": [[1, 1]]}, "empty mask"),
        ({"shape_type": "polygon", "points": [[1, 1]]}, "empty mask"),
        ({"shape_type": "polygon", "points": [[1, "x"]]}, "bad outline"),
        ({"shape_type": "circle", "points": None}, "bad outline"),
    ],
)
def test_a_shape_that_means_nothing_is_skipped_or_noted_beside_a_good_one(tmp_path, shape, reason):
    good = {"points": [[2, 2], [9, 2], [9, 9], [2, 9]]}
    shapes = [{"label": "ghost", **shape}, {"label": "cat", **shape}, {"label": "cat", **good}]
    found, report = read_all(Aigi(labelme(tmp_path, shapes)))

    lost = ["a.png/ghost"] if reason == "empty mask" else ["a.png/cat", "a.png/ghost"]
    assert report.skipped == {reason: lost}
    assert list(report.kept) == ([] if reason == "bad outline" else ["a.png/cat"])
    assert len(found) == 2 - len(lost)


@pytest.mark.parametrize("text", ["{", "[]", '{"shapes": []}', '{"imagePath": 5}', ""])
def test_a_broken_labelme_file_is_skipped_by_name_or_refused(copy, text):
    folder = copy("labelme")
    (folder / "scene001.json").write_text(text)

    found, report = read_all(Aigi(folder))

    assert report.skipped == {"bad JSON": ["scene001.json"]}
    assert {sample.source[-7:] for sample in found} == {"002.png", "003.png", "004.png"}
    with pytest.raises(SampleError, match=r"scene001\.json"):
        Aigi(folder, on_problem="refuse")


def test_a_caption_that_two_files_give_to_one_image_counts_once(copy):
    folder = copy("labelme")
    shutil.copy(folder / "scene001.json", folder / "again.json")

    dataset = Aigi(folder)

    assert list(dataset.report.skipped) == ["duplicate caption"]
    assert len({sample.key for sample in dataset}) == len(dataset)


# ---- damaged images ----


def shrink(path):
    with Image.open(path) as image:
        small = image.resize((64, 48))
    small.save(path)


DAMAGE = {
    "missing image": lambda path: path.unlink(),
    "unreadable image": lambda path: path.write_bytes(path.read_bytes()[:1000]),
    "wrong size": shrink,
}


@pytest.mark.parametrize("reason", DAMAGE)
@pytest.mark.parametrize("form", FORMS)
def test_a_damaged_image_is_skipped_by_name_and_the_others_are_read(copy, written, form, reason):
    folder, keys = copy(form), set(written[form][1])
    lost = {key for key in keys if key.startswith("scene002")}
    if (form, reason) == ("masks", "missing image"):
        return  # see below
    DAMAGE[reason](folder / "scene002.png")

    dataset = Aigi(folder)
    found, report = read_all(dataset)

    assert report.skipped == {reason: sorted(lost)}
    assert {sample.key for sample in found} == keys - lost
    first = next(index for index in range(len(dataset)) if isinstance(dataset[index], Skipped))
    with pytest.raises(SampleError, match="scene002"):
        Aigi(folder, on_problem="refuse")[first]


def test_masks_whose_image_is_missing_are_not_taken_for_images(copy, written):
    folder, keys = copy("masks"), set(written["masks"][1])
    (folder / "scene001.png").unlink()

    found, report = read_all(Aigi(folder))

    assert {sample.key for sample in found} == {key for key in keys if not key.startswith("scene001")}
    assert report.skipped["not an image"] == [
        "scene001_The_Bacon.png/At The Bottom",
        "scene001_The_Bacon.png/On The Left",
    ]
    assert "scene001_Dogs.png" in report.skipped["image without a mask"]


# ---- damaged folders ----


@pytest.mark.parametrize("text", ["", "{", "<html>", b"\xff\xfe"])
def test_a_broken_coco_file_is_an_error_that_names_it(copy, text):
    folder = copy("coco")
    (folder / "annotations.json").write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(DatasetError, match=r"annotations.*cannot be read as JSON"):
        Aigi(folder / "annotations.json")


def test_folders_that_hold_nothing_are_errors_that_say_what_is_expected(tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        Aigi(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="masks, coco, labelme"):
        Aigi(tmp_path)


# ---- run lengths ----


@pytest.mark.parametrize("counts", [[4, 20, 4, 2], "4d04^O"])
def test_run_lengths_go_down_the_columns(tmp_path, counts):
    image = {"id": 7, "file_name": "a.png", "height": 5, "width": 6}
    annotation = {"image_id": 7, "category_id": 1, "segmentation": {"size": [5, 6], "counts": counts}}
    coco(tmp_path, [annotation], images=[image])
    Image.new("RGB", (6, 5), "red").save(tmp_path / "a.png")

    mask = Aigi(tmp_path)[0].mask

    expected = np.zeros((5, 6), bool)
    expected.T.flat[4:24] = True
    expected.T.flat[28:] = True
    assert np.array_equal(mask, expected)
    assert mask.flags.c_contiguous
