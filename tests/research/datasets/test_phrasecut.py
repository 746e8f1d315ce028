"""PhraseCut in miniature, whole and damaged in every way, and what all readers share."""

import json
import pickle
import shutil
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from conftest import iou, read_all
from miniature import miniature_scene, outlines, present_phrases, write_phrasecut
from PIL import Image
from torch.utils.data import DataLoader

from ldznet.errors import OptionError
from ldznet.research.datasets import phrasecut, samples
from ldznet.research.datasets.phrasecut import WRONG_SIZES, PhraseCut
from ldznet.research.datasets.sample import Sample
from ldznet.research.datasets.samples import DatasetError, SampleError, usable
from ldznet.research.datasets.skip_report import Report, Skipped

ALL = "train_val_test_miniv"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Folder, and the exact masks by key."""
    folder = tmp_path_factory.mktemp("phrasecut")
    return folder, write_phrasecut(folder)


@pytest.fixture
def folder(written, tmp_path):
    """A copy to damage."""
    return shutil.copytree(written[0], tmp_path / "copy")


def tasks_of(folder, split="train"):
    return json.loads((folder / f"refer_{split}.json").read_text())


def with_tasks(folder, tasks, split="train"):
    (folder / f"refer_{split}.json").write_text(json.dumps(tasks))
    return folder


# ---- whole ----


def test_every_task_comes_back_with_its_image_phrase_and_masks(written):
    folder, masks = written
    found, report = read_all(PhraseCut(folder, ALL, both_masks=True))

    assert str(report) == "nothing was skipped"
    assert {sample.key for sample in found} == masks.keys()
    for sample in found:
        for mask in (sample.mask, sample.own_mask):
            assert iou(mask, masks[sample.key]) > 0.95
        assert sample.mask.shape == (96, 128)
        assert sample.mask.dtype == bool
    scene = miniature_scene(0, (96, 128))
    first = found[0]
    assert first.source.endswith("1.jpg")
    assert first.phrase in {phrase.text for phrase in present_phrases(scene)}
    assert first.image.dtype == np.uint8
    assert np.abs(first.image.astype(int) - scene.image).mean() < 5  # JPEG


def test_samples_of_one_image_follow_one_another(written):
    sources = [sample.source for sample in usable(PhraseCut(written[0], ALL), Report())]

    changes = sum(a != b for a, b in pairwise(sources))
    assert changes == len(set(sources)) - 1 == 7


def test_tasks_of_one_image_keep_their_order_when_the_file_mixes_images(folder):
    tasks = tasks_of(folder)
    mixed = [{**tasks[n % 2], "task_id": str(n), "image_id": (1, 5)[n % 3 > 0]} for n in range(40)]

    keys = [int(sample.key) for sample in PhraseCut(with_tasks(folder, mixed))]

    assert keys == [*range(0, 40, 3), *(n for n in range(40) if n % 3)]


def test_the_same_files_give_the_same_samples(written, tmp_path):
    write_phrasecut(tmp_path)
    for path in sorted(written[0].rglob("*.*")):
        assert (tmp_path / path.relative_to(written[0])).read_bytes() == path.read_bytes(), path

    for a, b in zip(PhraseCut(written[0]), PhraseCut(tmp_path), strict=True):
        assert (a.key, a.phrase, a.categories, a.faults) == (b.key, b.phrase, b.categories, b.faults)
        assert np.array_equal(a.image, b.image)
        assert np.array_equal(a.mask, b.mask)


def test_categories_are_those_of_phrasecut(folder):
    square = [[10.0, 10.0], [19.0, 10.0], [19.0, 19.0], [10.0, 19.0]]
    task = {
        "task_id": "1__5",
        "image_id": 1,
        "phrase": "tall young man on horse",
        "Polygons": [[square], [square]],
        "phrase_structure": {
            "name": "man",
            "attributes": ["tall", "young"],
            "relation_ids": [7],
            "relation_descriptions": [["on", "horse"]],
            "type": "relation",
        },
    }
    rank = {"cat": [[f"c{n}", 9] for n in range(50)] + [["man", 1]], "att": [["young", 3], ["tall", 2]], "rel": []}
    (folder / "name_att_rel_count.json").write_text(json.dumps(rank))

    categories = PhraseCut(with_tasks(folder, [task]))[0].categories

    assert categories["name"] == ("man",)
    assert categories["attributes"] == ("tall", "young")
    assert categories["relations"] == ("on",)
    assert set(categories["subset"]) == {
        *("all", "d_cocotv", "c21-100", "c100", "c500", "a20", "a100", "a200"),
        *("p_att", "p_attm", "p_rel", "p_att_rel", "p_rel+", "i_multi", "s_small"),
    }


def test_without_frequencies_and_structure_there_are_fewer_categories(folder):
    (folder / "name_att_rel_count.json").unlink()
    tasks = tasks_of(folder)[:1]
    tasks[0]["phrase_structure"] = None

    categories = PhraseCut(with_tasks(folder, tasks))[0].categories

    assert categories["name"] == categories["attributes"] == categories["relations"] == ()
    assert not [name for name in categories["subset"] if name[0] in "cap" and name != "all"]


def test_an_image_with_an_exif_turn_is_read_as_it_lies_in_the_file(folder):
    path = folder / "images" / "1.jpg"
    before = PhraseCut(folder)[0].image
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as image:
        image.save(path, quality="keep", exif=exif)

    with Image.open(path) as image:
        assert image.getexif()[0x0112] == 6
    after = PhraseCut(folder)[0].image
    assert np.abs(after.astype(int) - before).mean() < 1  # it was encoded once more


# ---- lazy ----


def test_opening_reads_no_image(written, monkeypatch):
    monkeypatch.setattr(samples, "load_image", None)
    monkeypatch.setattr(Image, "open", None)

    assert len(PhraseCut(written[0], ALL)) == len(written[1])


def test_a_reader_does_not_grow_with_its_polygons(folder):
    small = len(pickle.dumps(PhraseCut(folder)))
    tasks = tasks_of(folder)
    for task in tasks:
        task["Polygons"] = [[[[x * 0.1, 5.0] for x in range(1000)]]]

    assert len(pickle.dumps(PhraseCut(with_tasks(folder, tasks)))) == small
    assert small < 2000 + 32 * len(tasks)


def test_reading_keeps_nothing(written):
    dataset = PhraseCut(written[0], ALL)
    list(dataset)
    tracemalloc.start()
    try:
        for _ in range(3):
            assert all(sample.mask.any() for sample in dataset)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert kept < 100_000  # of 6 MB that were read
    assert peak < 1_000_000  # a few images of 37 kB


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_tasks_are_found_wherever_reading_was_interrupted(folder, monkeypatch, chunk):
    monkeypatch.setattr(phrasecut, "_CHUNK", chunk)
    words = ['größter Stern ★ "x" [1, {2]', "𝔘 two", "plain"]
    tasks = [{**task, "phrase": word} for task, word in zip(tasks_of(folder), words, strict=False)]
    text = json.dumps(tasks, ensure_ascii=False, indent=3 if chunk > 1 else None).replace("\n", "\r\n")
    (folder / "refer_train.json").write_bytes(text.encode())

    assert [sample.phrase for sample in PhraseCut(folder)] == words


# ---- damaged images ----


def cut(path):
    path.write_bytes(path.read_bytes()[:900])


def shrink(path):
    with Image.open(path) as image:
        small = image.resize((64, 48))
    small.save(path)


IMAGE_DAMAGE = {
    "missing image": lambda path: path.unlink(),
    "unreadable image": cut,
    "wrong size": shrink,
}


@pytest.mark.parametrize("reason", IMAGE_DAMAGE)
def test_a_damaged_image_is_skipped_by_name_and_the_others_are_read(folder, reason):
    IMAGE_DAMAGE[reason](folder / "images" / "1.jpg")
    lost = {task["task_id"] for task in tasks_of(folder) if task["image_id"] == 1}
    dataset = PhraseCut(folder, ALL)

    found, report = read_all(dataset)

    assert report.skipped == {reason: sorted(lost)}
    assert len(found) == len(dataset) - len(lost)
    skipped = dataset[0]
    assert isinstance(skipped, Skipped)
    assert "1.jpg" in skipped.text or reason == "wrong size"


@pytest.mark.parametrize("reason", IMAGE_DAMAGE)
def test_a_damaged_image_can_be_refused(folder, reason):
    IMAGE_DAMAGE[reason](folder / "images" / "1.jpg")
    dataset = PhraseCut(folder, on_problem="refuse")

    with pytest.raises(SampleError, match='on_problem="skip"') as caught:
        dataset[0]
    assert caught.value.reason == reason
    assert caught.value.name in str(caught.value)
    assert isinstance(dataset[len(dataset) - 1], Sample)  # of another image


def test_a_wrong_size_is_said_in_numbers(folder):
    shrink(folder / "images" / "1.jpg")

    assert "is 64 x 48 pixels instead of 128 x 96" in PhraseCut(folder)[0].text


def test_a_program_that_calls_itself_an_image_is_not_run(folder):
    (folder / "images" / "1.jpg").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 128 96\n%%EndComments\n"
    )

    assert "PostScript" in PhraseCut(folder)[0].text


def test_the_images_of_the_published_list_are_left_out(folder):
    assert len(WRONG_SIZES) == 17
    for name in ("image_data_split.json", "refer_train.json"):
        path = folder / name
        path.write_text(path.read_text().replace('"image_id": 1,', '"image_id": 61564,'))
    (folder / "images" / "1.jpg").rename(folder / "images" / "61564.jpg")
    shrink(folder / "images" / "61564.jpg")
    listed = sorted(task["task_id"] for task in tasks_of(folder) if task["image_id"] == 61564)

    assert listed
    for on_problem in ("skip", "refuse"):
        _, report = read_all(PhraseCut(folder, on_problem=on_problem))
        assert report.skipped == {"image left out by rule": listed}


# ---- damaged tasks ----


def test_a_task_that_occurs_twice_counts_once(folder):
    tasks = tasks_of(folder)
    dataset = PhraseCut(with_tasks(folder, [*tasks, tasks[2]]))

    assert len(dataset) == len(tasks)
    (name,) = dataset.report.skipped["duplicate task"]
    assert name == f"{tasks[2]['task_id']} (refer_train.json, task {len(tasks) + 1})"
    with pytest.raises(SampleError, match="would count twice"):
        PhraseCut(folder, on_problem="refuse")


SQUARE = [[10.0, 10.0], [30.0, 10.0], [30.0, 30.0], [10.0, 30.0]]
DEGENERATE = {
    "has 2 of at least 3 points": [[1.0, 1.0], [5.0, 5.0]],
    "has 0 of at least 3 points": [],
    "encloses no area": [[1.0, 1.0], [5.0, 5.0], [9.0, 9.0]],
    "covers no pixel": [[500.0, 500.0], [520.0, 500.0], [520.0, 520.0]],
}


@pytest.mark.parametrize("fault", DEGENERATE)
def test_a_degenerate_polygon_next_to_a_good_one_is_reported(folder, fault):
    task = {**tasks_of(folder)[0], "Polygons": [[SQUARE], [DEGENERATE[fault]]]}
    with_tasks(folder, [task])
    (sample,), report = read_all(PhraseCut(folder))

    assert sample.mask[11:30, 11:30].all()
    assert fault in sample.faults[0]
    assert report.kept == {task["task_id"]: sample.faults}
    assert not report.skipped
    with pytest.raises(SampleError, match=fault):
        PhraseCut(folder, on_problem="refuse")[0]


@pytest.mark.parametrize("polygons", [[], [[]], [[DEGENERATE["covers no pixel"]]]])
def test_a_mask_without_a_pixel_is_skipped(folder, polygons):
    with_tasks(folder, [{**tasks_of(folder)[0], "Polygons": polygons}])

    found = PhraseCut(folder)[0]
    assert isinstance(found, Skipped)
    assert found.reason == "empty mask"


@pytest.mark.parametrize(
    "polygon", [None, 7, "abc", [["a", "b"]], [[1, 2, 3]], [[1.0, float("nan")]] * 3, [[1, 10**400]] * 3]
)
def test_an_outline_that_cannot_be_read_skips_the_whole_task_as_part_of_its_mask_would_be_missing(folder, polygon):
    with_tasks(folder, [{**tasks_of(folder)[0], "Polygons": [[SQUARE, polygon]]}])

    assert PhraseCut(folder)[0].reason == "bad outline"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"phrase": "  "}, "bad phrase"),
        ({"phrase": 5}, "bad phrase"),
        ({"phrase": "x" * 2001}, "bad phrase"),
        ({"phrase": "half \ud800"}, "bad phrase"),
        ({"image_id": 999}, "unknown image"),
        ({"image_id": 10**30}, "unknown image"),
        ({"image_id": "x"}, "bad task"),
        ({"image_id": 1.5}, "bad task"),
        ({"task_id": None}, "bad task"),
        (None, "bad task"),
    ],
)
def test_a_task_that_means_nothing_is_skipped_when_the_dataset_is_opened(folder, change, reason):
    tasks = tasks_of(folder)
    with_tasks(folder, [None if change is None else {**tasks[0], **change}, *tasks[1:]])

    dataset = PhraseCut(folder)

    assert len(dataset) == len(tasks) - 1
    assert list(dataset.report.skipped) == [reason]
    with pytest.raises(SampleError, match='on_problem="skip"'):
        PhraseCut(folder, on_problem="refuse")


def test_files_without_polygons_are_told_from_the_others(folder):
    shutil.copy(folder / "refer_input_train.json", folder / "refer_train.json")

    with pytest.raises(DatasetError, match="no task in the split train") as caught:
        PhraseCut(folder)
    assert "skipped (bad task): refer_train.json, task 1" in str(caught.value)
    with pytest.raises(SampleError, match="those called refer_input have no polygons"):
        PhraseCut(folder, on_problem="refuse")


# ---- damaged files ----


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text[:-1],
        lambda text: b"",
        lambda text: b"{}",
        lambda text: b"<html>",
        lambda text: text.replace(b'"task_id"', b"task_id", 3),
        lambda text: text.replace(b"}, {", b"} {", 1),
        lambda text: text.replace(b"a", b"\xff", 1),
        lambda text: b"[" * 100_000,
    ],
)
@pytest.mark.parametrize("name", ["refer_train.json", "image_data_split.json"])
def test_a_broken_file_is_an_error_that_names_it(folder, damage, name):
    path = folder / name
    path.write_bytes(damage(path.read_bytes().replace(b'"image_id": 1,', b'"task_id": "a", "image_id": 1,')))

    with pytest.raises(DatasetError, match=name):
        PhraseCut(folder)


@pytest.mark.parametrize("text", ["[", "[]", '{"cat": 5, "att": []}'])
def test_broken_frequencies_are_an_error_that_names_the_file(folder, text):
    (folder / "name_att_rel_count.json").write_text(text)

    with pytest.raises(DatasetError, match="name_att_rel_count"):
        PhraseCut(folder)


def test_an_empty_split_is_an_error(folder):
    with pytest.raises(DatasetError, match="no task in the split train"):
        PhraseCut(with_tasks(folder, []))


def test_missing_files_are_errors_that_say_which(folder, tmp_path):
    with pytest.raises(DatasetError, match="does not hold PhraseCut"):
        PhraseCut(tmp_path / "nowhere")
    (folder / "refer_val.json").unlink()
    with pytest.raises(DatasetError, match=r"refer_val\.json' does not exist"):
        PhraseCut(folder, "val")
    (folder / "image_data_split.json").rename(folder / "image_data_split3000.json")
    assert len(PhraseCut(folder)) > 0
    shutil.rmtree(folder / "images")
    with pytest.raises(DatasetError, match="the folder images"):
        PhraseCut(folder)


def test_a_row_that_says_no_size_makes_its_image_unknown(folder):
    path = folder / "image_data_split.json"
    rows = json.loads(path.read_text())
    rows[0] = {"image_id": 1, "height": 96}
    rows.append(5)
    path.write_text(json.dumps(rows))

    assert list(PhraseCut(folder).report.skipped) == ["unknown image"]


def test_a_file_that_changes_under_a_reader_is_an_error_and_no_other_task(folder):
    dataset = PhraseCut(folder)
    tasks = tasks_of(folder)
    with_tasks(folder, tasks[::-1])

    with pytest.raises(DatasetError, match="has changed since the dataset was opened"):
        list(dataset)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"split": "dev"}, "train, val, test, miniv"),
        ({"split": "val_val"}, "val_miniv"),
        ({"on_problem": "ignore"}, '"refuse"'),
    ],
)
def test_a_wrong_option_is_an_error_that_lists_the_right_ones(written, options, text):
    with pytest.raises(OptionError, match=text):
        PhraseCut(written[0], **options)


# ---- what all readers share ----


def test_an_index_beyond_the_end_is_an_index_error_and_a_negative_one_counts_from_it(written):
    dataset = PhraseCut(written[0])

    assert dataset[-1].key == dataset[len(dataset) - 1].key
    for index in (len(dataset), -len(dataset) - 1):
        with pytest.raises(IndexError):
            dataset[index]


def test_worker_processes_bring_skipped_samples_back(folder):
    (folder / "images" / "1.jpg").unlink()
    dataset = PhraseCut(folder)
    loader = DataLoader(dataset, batch_size=2, num_workers=2, collate_fn=list)

    report = Report()
    report.merge(dataset.report)
    kept = 0
    for batch in loader:
        for found in batch:
            report.add(found)
            kept += isinstance(found, Sample)

    assert kept + len(report.skipped["missing image"]) == len(dataset)
    assert report.state_dict() == read_all(dataset)[1].state_dict()


def test_shards_add_up_to_the_whole(folder):
    cut(folder / "images" / "1.jpg")
    dataset = PhraseCut(folder, ALL)
    whole, expected = read_all(dataset)

    report, keys = Report(), []
    report.merge(dataset.report)
    for process in (2, 0, 1):
        part = Report()
        keys += [sample.key for sample in usable(dataset, part, range(process, len(dataset), 3))]
        report.merge(Report.from_state(json.loads(json.dumps(part.state_dict()))))

    assert sorted(keys) == sorted(sample.key for sample in whole)
    assert report.state_dict() == expected.state_dict()


def test_a_report_counts_and_names():
    report = Report()
    for number in (3, 1, 2, 1, 4, 5, 6):
        report.add(Skipped(f"t{number}", "missing image", "..."))
    report.add(Sample("k", np.zeros((1, 1, 3), np.uint8), "x", np.ones((1, 1), bool), {}, faults=("a fault",)))

    assert str(report) == (
        "6 skipped (missing image): t1, t2, t3, t4, t5 and 1 more\n"
        "1 used, though parts of their outlines are invalid: k"
    )


def test_outlines_fill_to_the_mask_again_holes_included():
    y, x = np.mgrid[:60, :90]
    distance = np.hypot(x - 40, y - 30)
    mask = (distance < 25) & (distance > 12) | (distance < 6) | (x > 80)
    mask[30, 40] = False

    for rasterize in (phrasecut.rasterize_pillow, phrasecut.rasterize_skimage):
        raster = rasterize(outlines(mask), mask.shape)
        assert iou(raster.mask, mask) > 0.995
        assert not raster.faults
