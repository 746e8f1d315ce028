"""Measuring a method on a dataset: what it predicts, and numbers that do not depend on how it was run."""

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from miniature import write_aigi, write_phrasecut
from PIL import Image
from stand_in_art import stand_in_samples

from ldznet.__main__ import main
from ldznet.errors import LaunchError, OptionError
from ldznet.methods.attention import AttentionMethod
from ldznet.methods.learned_head import random_head
from ldznet.methods.method import Defaults
from ldznet.research.cli import evaluate
from ldznet.research.datasets.sample import Sample
from ldznet.research.datasets.samples import usable
from ldznet.research.datasets.skip_report import Report
from ldznet.research.evaluation import contact_sheets, measurement_parts
from ldznet.research.evaluation.contact_sheets import caption_cells, prediction_sheet
from ldznet.research.evaluation.measurement_parts import MeasurementParts
from ldznet.research.evaluation.paper_tables import TABLES, comparable_rows
from ldznet.research.evaluation.report import (
    as_json,
    breakdown,
    latex_row,
    numbers_of_parts,
    scores_table,
)
from ldznet.research.evaluation.runner import Part, Prediction, Scores, intersection_over_union, measure, predict
from ldznet.research.metrics.accumulator import MetricError
from ldznet.research.metrics.clipseg_metrics import ClipSegMetrics
from ldznet.research.metrics.phrasecut_metrics import PhraseCutMetrics
from ldznet.research.studies.features import FeatureScore, _fit, draw_scores, measure_features
from ldznet.segmenter import Segmenter, SegmentOptions

FAST = ("--random-weights", "--quiet")
NOTO = ("--scenes", "1", "--artists", "noto", "--pairs", "0")


@pytest.fixture(scope="module")
def method(host):
    head = random_head(host.info.unet)
    head._defaults = Defaults(64, (300, 500), "{}")
    return head


@pytest.fixture(scope="module")
def samples():
    return stand_in_samples(3)


def test_a_prediction_is_what_the_segmenter_gives(host, method, samples):
    found = list(predict(host, method, samples))

    assert [one.sample.key for one in found] == [samples[n].key for n in range(len(samples))]
    segmenter = Segmenter(host, method)
    for one in found:
        segmenter.set_image(one.sample.image, SegmentOptions(resolution=64))
        maps = segmenter.segment(one.sample.phrase, SegmentOptions(resolution=64)).maps
        torch.testing.assert_close(torch.from_numpy(one.probability), maps[0], atol=1e-5, rtol=1e-4)
        assert np.array_equal(one.target, one.sample.mask)


def test_a_method_without_a_head_is_measured_the_same_way(host, samples):
    found = list(predict(host, AttentionMethod(), [samples[0], samples[1]], size=64))

    assert [one.probability.shape for one in found] == [(64, 64)] * 2


def test_scores_of_parts_are_those_of_the_whole(host, method, samples):
    found = list(predict(host, method, samples))
    whole, parts = Scores(), [Scores(), Scores()]
    for number, one in enumerate(found):
        whole.update(one)
        parts[number % 2].update(one)
    again = Scores.from_state(json.loads(json.dumps(parts[0].state_dict())))
    again.merge(parts[1])

    assert again.state_dict() == whole.state_dict()
    assert again.numbers() == whole.numbers()


def test_absent_things_count_apart_and_present_ones_by_the_papers_measure(host, method, samples):
    scores, plain = Scores(), ClipSegMetrics()
    absent = 0
    for one in predict(host, method, samples):
        scores.update(one)
        if one.target.any():
            plain.update(one.probability, one.target, sample=one.sample.key)
        else:
            absent += 1

    numbers = scores.numbers()
    assert numbers["absent"] == absent == 3
    assert numbers["samples"] == len(samples) - absent
    assert numbers["miou"] == pytest.approx(100 * plain.result().miou.best)
    kinds = {name for name in scores.categories if name.startswith("kind")}
    assert "kind: name" in kinds
    assert "kind: absent" not in kinds


def test_what_cannot_be_read_is_left_out_and_named(host, method, tmp_path):
    from ldznet.research.datasets.phrasecut import PhraseCut

    write_phrasecut(tmp_path, scenes=3, seed=1, size=(96, 96), splits=("test",))
    broken = sorted((tmp_path / "images").iterdir())[0]
    broken.write_bytes(b"no image")
    report, data = Report(), PhraseCut(tmp_path, "test")

    found = list(predict(host, method, usable(data, report)))

    assert 0 < len(found) < len(data)
    assert len(found) + len(report.skipped["unreadable image"]) == len(data)


def test_blocks_measured_by_any_processes_and_interruptions_give_the_same_bits(host, method, samples, tmp_path):
    whole = measure(host, method, samples, block=4)

    class StopError(Exception): ...

    def stop_after_one(part):
        store.save(part)
        raise StopError

    store = MeasurementParts(tmp_path, "scenes", "key")
    with pytest.raises(StopError):
        measure(host, method, samples, block=4, save=stop_after_one)
    for rank in (1, 0):  # then two processes go on
        other = MeasurementParts(tmp_path, "scenes", "key", (rank, 2))
        measure(host, method, samples, block=4, process=(rank, 2), done=other.done(), save=other.save)

    assert store.whole(3).state_dict() == whole.state_dict()
    assert len(whole.extremes) == whole.scores.numbers()["samples"]
    with pytest.raises(OptionError, match="holds a measurement of other weights, options or data"):
        MeasurementParts(tmp_path, "scenes", "another key").done()


def test_published_rows_stand_beside_ours_and_are_marked():
    shown = scores_table(
        {"PhraseCut-test": {"samples": 3, "miou": 50.04, "fgiou": 60.0, "ap": 70.0}}, TABLES["phrasecut"]
    )

    assert "| PhraseCut-test | 3 | 50.0 | 60.0 | 70.0 |" in shown
    assert "| LD-ZNet (published) | | 52.7 | 60.0 | 78.9 |" in shown
    assert "| MDETR (published) | | 53.7 |  |  |" in shown
    assert latex_row("a_b", {"miou": 1.25, "fgiou": 2}) == r"a\_b & 1.2 & 2.0 & -- \\"


def test_published_rows_are_left_out_with_a_note_where_few_samples_were_measured():
    assert comparable_rows("aigi", 210) == (TABLES["aigi"], "")
    rows, note = comparable_rows("phrasecut", 8)
    assert rows == ()
    assert note == "The published rows are left out: they were measured on 14,354 phrases, and this set has 8."


def prediction(target, probability):
    sample = Sample("k", np.zeros((64, 64, 3), np.uint8), "a thing", target, {})
    return Prediction(sample, probability.astype(np.float32), target)


def test_phrasecuts_protocol_measures_at_the_images_size_with_the_mask_that_it_draws_itself():
    target, own = np.zeros((64, 64), bool), np.zeros((32, 64), bool)
    target[:, :32] = True
    own[:, :16] = True  # of 2048 pixels 512; found are the 1024 of the left half
    found = prediction(target, np.where(np.arange(64) < 32, 0.9, 0.1) * np.ones((64, 1)))
    stretched = dataclasses.replace(found.sample, mask=target[::2], own_mask=own)
    scores = Scores()

    scores.update(dataclasses.replace(found, sample=stretched))

    numbers = scores.numbers()
    assert numbers["phrasecut_mean_iou"] == numbers["phrasecut_cum_iou"] == 50
    assert [numbers[f"phrasecut_above_{level}"] for level in (0.5, 0.6)] == [0, 0]
    assert numbers["miou"] == pytest.approx(100 * 2048 / 2049)


def test_the_breakdown_shows_the_largest_parts_of_each_kind():
    scores, target = Scores(), np.ones((64, 64), bool)
    for number, colour in enumerate(["red", "red", "blue"]):
        found = prediction(target, 0.9 * target)
        categories = {"attributes": (colour,), "subset": ("a|b",)}
        sample = dataclasses.replace(found.sample, key=str(number), categories=categories)
        scores.update(dataclasses.replace(found, sample=sample))

    assert breakdown(scores, most=1).splitlines() == [
        "| | samples | mIoU | IoU_FG | AP | mean IoU* | cum. IoU* |",
        "|---|---:|---:|---:|---:|---:|---:|",
        "| attributes: red | 2 | 100.0 | 100.0 | 0.0 | 100.0 | 100.0 |",
        "| attributes: 1 more, in the JSON | | | | | | |",
        "| subset: a\\|b | 3 | 100.0 | 100.0 | 0.0 | 100.0 | 100.0 |",
        "",
        "\\* by PhraseCut's own protocol, at 0.5",
    ]


def test_parts_are_measured_by_both_protocols_at_the_thresholds_that_are_best_for_the_whole():
    scores, target = Scores(), np.ones((64, 64), bool)
    levels = {"a": 0.9, "b": 0.9, "d": 0.9, "c": 0.3}  # c alone is best below 0.3, the whole above
    for key, level in levels.items():
        half = np.arange(64)[:, None] < 32
        found = prediction(half & target, np.where(half, level, 0.4 if key != "c" else 0.1) * np.ones((64, 64)))
        sample = dataclasses.replace(found.sample, key=key, categories={"name": (key, key)})
        scores.update(dataclasses.replace(found, sample=sample))
    numbers = numbers_of_parts(scores)

    assert scores.numbers()["miou_threshold"] == 0.4
    # A word that is said twice of one sample counts once.
    assert [numbers[f"name: {key}"]["samples"] for key in levels] == [1, 1, 1, 1]
    assert numbers["name: a"]["miou"] == pytest.approx(100 * 2048 / 2049)
    assert numbers["name: c"]["miou"] == 0
    own = PhraseCutMetrics()
    own.update(np.zeros((64, 64), bool), half & target, sample="c")
    assert numbers["name: c"]["phrasecut_mean_iou"] == own.result().mean_iou == 0
    assert numbers["name: a"]["phrasecut_cum_iou"] == 100


def test_what_is_counted_does_not_grow_with_the_samples():
    scores, sizes = Scores(), []
    target = np.zeros((64, 64), bool)
    target[:8] = True
    for number in range(200):
        found = prediction(target, 0.9 * target)
        sample = dataclasses.replace(
            found.sample, key=f"a long name of sample {number}", categories={"name": ("x",)}
        )
        scores.update(dataclasses.replace(found, sample=sample))
        sizes.append(len(pickle.dumps(scores)))

    assert scores.numbers()["samples"] == 200
    assert sizes[199] - sizes[99] < 200  # counts of more digits, no names


class Clock:
    """Time that passes by sleeping only; at some times something happens."""

    def __init__(self, events):
        self.now, self.events = 0.0, events

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        for when in [when for when in self.events if when <= self.now]:
            self.events.pop(when)()


def measured(*blocks):
    part = Part()
    part.blocks |= set(blocks)
    return part


def test_a_folders_name_may_hold_what_means_something_in_patterns(tmp_path):
    store = MeasurementParts(tmp_path, "pictures [2026]", "key")
    store.save(measured(0))

    assert store.done() == {0}
    assert store.whole(1, patience=0).blocks == {0}


def test_a_process_waits_for_others_as_long_as_they_live_and_no_longer(tmp_path, monkeypatch):
    mine, other = (MeasurementParts(tmp_path, "scenes", "key", (rank, 2)) for rank in (0, 1))
    mine.save(measured(0, 2))
    alive = tmp_path / "parts" / "scenes.1-of-2.alive"
    monkeypatch.setattr(
        measurement_parts, "time", Clock({5: lambda: alive.write_text("1"), 12: lambda: alive.write_text("2")})
    )
    with pytest.raises(LaunchError, match="1 of 3 blocks") as caught:
        mine.whole(3, patience=10)

    assert 22 <= measurement_parts.time.now < 24  # the second sign came after 12 seconds
    assert "(1 of 2) gave no sign of life for 10 seconds" in str(caught.value)
    assert "start the same command again: what is measured is kept" in str(caught.value)
    monkeypatch.setattr(measurement_parts, "time", Clock({8: lambda: other.save(measured(1))}))
    assert mine.whole(3, patience=10).blocks == {0, 1, 2}


def test_a_process_of_several_says_that_it_lives_while_it_measures(tmp_path):
    store = MeasurementParts(tmp_path, "scenes", "key", (1, 2))
    with store.at_work():
        while not (signs := list((tmp_path / "parts").glob("*.alive"))):
            pass
        assert [path.name for path in signs] == ["scenes.1-of-2.alive"]
    assert list((tmp_path / "parts").iterdir()) == []

    alone = MeasurementParts(tmp_path / "alone", "scenes", "key")
    with alone.at_work():
        assert not (tmp_path / "alone").exists()


def test_a_block_that_two_have_measured_is_not_counted_twice():
    part = measured(0, 1)
    with pytest.raises(MetricError, match="1 blocks of samples were measured twice, first block 1"):
        part.merge(measured(1, 2))


@pytest.mark.parametrize("content", ["[]", "{}", '{"key": "key"}', '{"key": "key", "scores": 1}', "{"])
def test_a_part_that_is_damaged_is_an_error_that_names_it(tmp_path, content):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "scenes.0-of-1.json").write_text(content)

    with pytest.raises(
        OptionError, match=r"scenes.0-of-1.json cannot be read .*Delete it, and its part is measured"
    ):
        MeasurementParts(tmp_path, "scenes", "key")


def test_a_sheet_shows_every_prediction_with_its_iou():
    target = np.zeros((64, 64), bool)
    target[:32] = True
    half = np.where(np.arange(64)[:, None] < 16, 0.9, 0.1) * np.ones((64, 64))

    assert intersection_over_union(prediction(target, half)) == pytest.approx(0.5)
    assert intersection_over_union(prediction(np.zeros((64, 64), bool), 0 * half)) == 1
    sheet = prediction_sheet([prediction(target, half)] * 4, columns=2)
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] == 2 * (2 * 192 + 8)


def test_a_sheet_has_its_images_in_rows_each_with_its_text_below():
    images = [np.full((40, 120, 3), level, np.uint8) for level in (10, 90, 170)]

    sheet = caption_cells(images, ["one", "two words", "three"], columns=2)

    assert sheet.shape[1] == 2 * (120 + 8)
    assert (sheet[4:44, 4:124] == 10).all()
    assert (sheet[4:44, 132:252] == 90).all()
    below = sheet.shape[0] // 2
    assert (sheet[below + 4 : below + 44, 4:124] == 170).all()
    assert (sheet[below:, 128:] == 255).all()  # nothing beside the last one
    assert (sheet[44:below, :128] < 128).any()


def test_a_sheet_says_which_half_is_the_truth_and_which_the_prediction(monkeypatch):
    target = np.zeros((64, 64), bool)
    target[:, :32] = True
    plain = prediction_sheet([prediction(target, 0.9 * target)], columns=1)
    texts = []
    monkeypatch.setattr(contact_sheets, "_labelled", lambda image, text: texts.append(text) or image)

    without = prediction_sheet([prediction(target, 0.9 * target)], columns=1)

    assert texts == ["truth", "prediction"]
    rows, columns = np.nonzero((plain != without).any(axis=2))
    assert rows.max() < 30  # in the upper corners of both halves
    assert {int(column) // 196 for column in columns} == {0, 1}


# --- features ------------------------------------------------------------------------------------------


def test_a_decoder_learns_from_fewer_samples_than_a_batch():
    """A channel tells the left half; what an untrained decoder gives is the same on both sides."""
    features = torch.zeros(5, 3, 8, 8)
    features[:, 1, :, :4] = 1
    targets = torch.zeros(5, 16, 16, dtype=torch.bool)
    targets[:, :, :8] = True

    decoder = _fit(features, targets, 60, 32)

    with torch.no_grad():
        found = decoder(features).sigmoid()[0, 0]
    assert found[:, :3].min() > 0.9
    assert found[:, 5:].max() < 0.1


def test_a_feature_that_holds_the_mask_scores_higher_than_one_that_does_not(host, samples, monkeypatch):
    from ldznet.research.studies import features

    generator = torch.Generator().manual_seed(0)

    def made(_host, some, size, _template, _timestep, _batch):
        target = torch.from_numpy(np.stack([one.mask for one in some]))
        known = torch.nn.functional.interpolate(target[:, None].float(), size=(16, 16), mode="area")
        noise = torch.randn(len(some), 4, 16, 16, generator=generator)
        told = torch.cat([noise[:, :3], known + 0.1 * noise[:, 3:]], dim=1)
        return {"knows": (told.half(), target), "does not": (noise.half(), target)}

    monkeypatch.setattr(features, "_features", made)
    data = stand_in_samples(24, absent=0)
    some = [data[n] for n in range(len(data))]
    scores = measure_features(
        host, some[:48], some[48:], size=64, timesteps=(100,), epochs=60, batch=8, say=lambda _text: None
    )

    by_path = {score.path: score.ap for score in scores}
    assert by_path["knows"] > 30
    assert by_path["knows"] > by_path["does not"] + 20


def test_every_transformer_is_measured_at_every_timestep(host, samples):
    data = [samples[n] for n in range(len(samples)) if samples[n].mask.any()]
    scores = measure_features(
        host, data, data[:4], size=64, timesteps=(100, 500), epochs=1, batch=4, say=lambda _text: None
    )

    assert [(score.timestep, score.path) for score in scores] == [
        (step, path) for step in (100, 500) for path in host.feature_modules()
    ]


def test_the_heat_map_has_a_cell_for_every_score():
    scores = [FeatureScore(f"input_blocks.{n}.1", step, n + step / 100) for step in (100, 500) for n in (1, 2, 4)]
    picture = draw_scores(scores, "title")

    dark, bright = picture[128 + 5, 70 + 5], picture[128 + 34 + 5, 70 + 2 * 74 + 5]
    assert dark.sum() < bright.sum()
    assert picture.shape[2] == 3


# --- the command -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("art")
def test_scenes_are_measured_from_the_command_line(capsys, tmp_path):
    out = tmp_path / "out"
    code = main(["evaluate", "scenes", *NOTO, *FAST, "--out", str(out)])

    assert code == 0
    text = capsys.readouterr().out
    assert "| noto | 3 |" in text
    assert "mIoU" in text
    names = ["noto.jpg", "noto.json", "noto.md", "noto.tex", "parts"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert "look: noto" in json.loads((out / "noto.json").read_text())["categories"]
    assert (out / "noto.tex").read_text().startswith("ld-znet & ")


@pytest.mark.usefixtures("art")
def test_two_processes_of_a_launch_write_the_report_of_one(monkeypatch, tmp_path):
    monkeypatch.setattr(evaluate, "_BLOCK", 2)
    command = ["evaluate", "scenes", *NOTO, *FAST, "--out"]
    assert main([*command, str(tmp_path / "one")]) == 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):  # the first one waits for the others
        monkeypatch.setenv("RANK", rank)
        assert main([*command, str(tmp_path / "two")]) == 0

    parts = sorted(path.name for path in (tmp_path / "two" / "parts").iterdir())
    assert parts == ["noto.0-of-2.json", "noto.1-of-2.json"]
    for name in ("noto.json", "noto.md", "noto.tex", "noto.jpg"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), name


@pytest.mark.parametrize("form", ["masks", "coco", "labelme"])
def test_a_folder_of_masks_and_captions_is_measured(capsys, tmp_path, form):
    write_aigi(tmp_path, form, scenes=1, seed=2)
    data = next(tmp_path.glob("*.json")) if form == "coco" else tmp_path

    assert main(["evaluate", str(data), *FAST, "--limit", "2", "--json"]) == 0
    (numbers,) = json.loads(capsys.readouterr().out)["numbers"].values()
    assert numbers["samples"] == 2


@pytest.mark.usefixtures("art")
def test_a_model_paints_captions(capsys, tmp_path):
    assert main(["evaluate", "samples", *FAST, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "samples.jpg")
    with Image.open(tmp_path / "samples.jpg") as sheet:
        assert sheet.width == 4 * (256 + 8)


def test_phrasecut_is_measured_from_its_folder(capsys, tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    write_phrasecut(data, scenes=1, seed=1, size=(96, 96), splits=("test",))

    assert main(["evaluate", str(data), *FAST, "--limit", "2", "--out", str(out)]) == 0
    assert "| PhraseCut-test | 2 |" in capsys.readouterr().out
    report = (out / "PhraseCut-test.md").read_text()
    assert "(published)" not in report
    assert "The published rows are left out: they were measured on 14,354 phrases, and this set has 2." in report
    assert "| subset: all | 2 |" in report
    categories = json.loads((out / "PhraseCut-test.json").read_text())["categories"]
    assert {name.split(":")[0] for name in categories} >= {"name", "subset"}
    assert categories["subset: all"]["samples"] == 2


def test_what_is_damaged_is_counted_or_ends_a_measurement(capsys, tmp_path):
    write_phrasecut(tmp_path, scenes=2, seed=1, size=(96, 96), splits=("test",))
    sorted((tmp_path / "images").iterdir())[0].write_bytes(b"no image")

    assert main(["evaluate", str(tmp_path), *FAST]) == 0
    assert "skipped (unreadable image)" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path), *FAST, "--on-problem", "refuse"]) == 1
    assert "is not an image: it holds text" in capsys.readouterr().err


@pytest.mark.usefixtures("art")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere does not exist. Give a dataset's folder, or one of phrasecut, aigi, scenes,"),
        (["scenes", "--scenes", "0"], "--scenes and --limit must be at least 1"),
        (["scenes", "--artists", "picasso"], "--artists names 'picasso', who is unknown. Give some of fluent-3d,"),
    ],
)
def test_a_wrong_request_is_an_error(capsys, arguments, said):
    assert main(["evaluate", *arguments, *FAST]) == 2
    assert said in capsys.readouterr().err


def test_what_could_not_be_measured_is_null_in_json():
    text = as_json({"ap": float("nan"), "parts": [{"ap": float("nan")}, 1.5], "path": Path("x")})

    assert json.loads(text) == {"ap": None, "parts": [{"ap": None}, 1.5], "path": "x"}
    assert "NaN" not in text
