"""One step changed at a time, the search for what suits a model, and pictures of the steps."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from stand_in_art import stand_in_samples

from ldznet.__main__ import main
from ldznet.hosts.diffusers.random_weights import random_host
from ldznet.methods import attention
from ldznet.methods.attention_options import SMALL, AttentionOptions, suited_options
from ldznet.research.scenes.wording import VOCABULARY
from ldznet.research.studies import ablation
from ldznet.research.studies.ablation import AblationRow, Setup, Workbench, ablation_table, looks_of
from ldznet.research.studies.search import search
from ldznet.research.studies.steps import draw_steps
from ldznet.research.studies.variants import Step, steps_for, value_text, variants

FAST = ("--random-weights", "--quiet")

pytestmark = pytest.mark.usefixtures("art")


@pytest.fixture(scope="module")
def samples():
    return [
        scenes[index]
        for scenes in (stand_in_samples(1, artist) for artist in ("noto", "twemoji"))
        for index in range(len(scenes))
    ]


@pytest.fixture
def setup(host):
    return Setup.of("attention", host.info).having(resolution=64, gate=())


def test_a_setup_is_the_method_that_suits_the_model_with_one_thing_changed(host):
    options, defaults = suited_options(host.info)
    setup = Setup.of("attention", host.info)

    changed = setup.having(eta=0.5, timesteps=(7,))

    assert (setup.options, setup.defaults) == (options, defaults)
    assert (changed.value("eta"), changed.value("timesteps")) == (0.5, (7,))
    assert changed.having(eta=options.eta, timesteps=defaults.timesteps) == setup
    method = changed.method()
    assert (method.name, method.options.eta, method.defaults.timesteps) == ("attention", 0.5, (7,))
    assert Setup.of("difference", host.info).having(blur=0.0).method().options.blur == 0.0


@pytest.mark.parametrize("name", ["attention", "difference"])
def test_every_variant_differs_in_one_thing_and_can_be_run(host, name):
    setup = Setup.of(name, host.info)
    found = list(variants(setup, host.info))

    titles = [title for title, _ in found]
    assert len(set(titles)) == len(titles) > 8
    for _, one in found:
        plain, other = ({**part["options"], **part["defaults"]} for part in (setup.record(), one.record()))
        changed = {key for key in plain if plain[key] != other[key]}
        assert len(changed) == 1 or changed in ({"distractors", "tokens"}, {"together", "tokens"})
        one.method().check(host.info)


def test_words_to_compare_with_and_sentences_are_those_of_captions(host):
    steps = {step.name: step.values for step in steps_for(Setup.of("attention", host.info), host.info)}
    own = [words for words in steps["distractors"] if words != AttentionOptions().distractors]
    own += [words for words in steps["evidence_rivals"] if words != AttentionOptions().evidence_rivals]

    assert {word for words in own for word in words} <= {"", *VOCABULARY}  # "": captions are left out at times
    for template in steps["evidence_template"]:
        assert set(template.replace("{}", "").split()) <= set(VOCABULARY), template


def test_a_rows_name_is_the_option_and_its_value(host):
    small, full = (Setup(options, SMALL) for options in (suited_options(host.info)[0], AttentionOptions()))

    assert {"distractors: published", "together: on", "tokens: max"} <= {t for t, _ in variants(small, host.info)}
    assert {"distractors: none", "together: on", "tokens: max"} <= {t for t, _ in variants(full, host.info)}


def test_every_option_of_attention_but_those_of_speed_is_a_step(host):
    names = {step.name for step in steps_for(Setup.of("attention", host.info), host.info)}

    assert set(AttentionOptions.__dataclass_fields__) - names == {"blocks"}


def test_values_are_said_as_a_person_would():
    assert value_text("distractors", AttentionOptions().distractors) == "published"
    assert value_text("distractors", ("a", "b")) == "a, b"
    assert [value_text("gate", ()), value_text("gate", (1.0, 2.5)), value_text("flip", True)] == [
        "none",
        "1, 2.5",
        "on",
    ]
    assert value_text("template", "a {}") == "`a {}`"


# --- rows ----------------------------------------------------------------------------------------------


def test_a_row_has_the_numbers_that_the_method_itself_gives(host, samples, setup):
    """What is kept between rows changes nothing."""
    bench = Workbench(host, samples)
    for one in (setup, setup.having(eta=0.0), setup.having(iterations=0), setup.having(timesteps=(300,))):
        row = bench.measure("row", one.method())
        scores = ablation.Scores()
        for found in ablation.predict(host, one.method(), samples):
            scores.update(found)
        assert row.numbers == pytest.approx(scores.numbers())
    assert list(row.looks) == looks_of(samples) == ["noto", "twemoji"]


def test_rows_that_differ_in_what_is_made_of_it_run_the_unet_once(host, samples, setup, monkeypatch):
    ran = []
    predict_noise = host.predict_noise
    monkeypatch.setattr(host, "predict_noise", lambda *args: ran.append(1) or predict_noise(*args))
    monkeypatch.setattr(ablation, "_TIMED", 0)
    bench = Workbench(host, samples)

    setup = setup.having(evidence=())
    for changes in ({}, {"eta": 0.5}, {"rescale": False}, {"iterations": 0}, {"self_level": 1}):
        bench.measure("row", setup.having(**changes).method())
    assert len(ran) == 2  # one for each scene
    bench.measure("row", setup.having(timesteps=(300,)).method())
    assert len(ran) == 4


def test_noise_is_predicted_once_with_each_sentence_at_each_timestep(host, samples, setup, monkeypatch):
    ran = []
    noise_errors = attention.noise_errors
    monkeypatch.setattr(
        attention, "noise_errors", lambda *args: ran.append((args[3], len(args[2]))) or noise_errors(*args)
    )
    monkeypatch.setattr(ablation, "_TIMED", 0)
    bench = Workbench(host, samples)
    setup = setup.having(evidence=(200, 400), evidence_rivals=("cat", "dog"))
    phrases = len(samples)

    first = bench.measure("row", setup.method())
    assert sum(count for _, count in ran) == 2 * (phrases + 2 * 2)  # at each timestep; the rivals in both scenes
    for changes in ({"presence_level": 0.5}, {"evidence_blur": 2.0}, {"evidence": (400,)}, {"halfway": 0.3}):
        bench.measure("row", setup.having(**changes).method())
    before = len(ran)
    bench.measure("row", setup.having(evidence=(200, 600)).method())
    assert {timesteps for timesteps, _ in ran[before:]} == {(600,)}
    scores = ablation.Scores()
    for found in ablation.predict(host, setup.method(), samples):
        scores.update(found)
    assert first.numbers == pytest.approx(scores.numbers())


def test_a_row_may_go_without_its_time(host, samples, setup):
    assert Workbench(host, samples, timed=False).measure("row", setup.method()).seconds == 0


def test_a_row_that_was_measured_is_read_from_its_file(host, samples, setup, tmp_path, monkeypatch):
    first = Workbench(host, samples, tmp_path).measure("one", setup.method())
    monkeypatch.setattr(Workbench, "_measure", lambda *_: pytest.fail("measured again"))

    again = Workbench(host, samples, tmp_path).measure("another name", setup.method())

    assert (again.numbers, again.looks, again.name) == (first.numbers, first.looks, "another name")
    with pytest.raises(pytest.fail.Exception):
        Workbench(host, samples[:4], tmp_path).measure("one", setup.method())


def test_another_model_or_sample_is_measured_anew(host, samples, setup, tmp_path, monkeypatch):
    method, measured = setup.method(), []
    row = AblationRow("row", {}, {}, 0.0)
    monkeypatch.setattr(Workbench, "_measure", lambda *_: measured.append(1) or row)
    text = random_host()
    text.others = "of other text encoders"
    larger = stand_in_samples(1, size=128)
    other_phrase = dataclasses.replace(samples[0], phrase="a word")

    benches = [
        (host, samples[:1]),
        (text, samples[:1]),
        (random_host(prediction="v"), samples[:1]),
        (host, [larger[0]]),
        (host, [other_phrase]),
    ]
    assert larger[0].key == samples[0].key
    for number, (model, some) in enumerate(benches, start=1):
        Workbench(model, some, tmp_path).measure("row", method)
        assert len(measured) == number
    Workbench(host, samples[:1], tmp_path).measure("row", method)
    assert len(measured) == 5


@pytest.mark.parametrize("left", ["", "{", "[]", '{"name": "row"}', "null"])
def test_a_row_that_cannot_be_read_is_measured_again(host, samples, setup, tmp_path, monkeypatch, left):
    row = AblationRow("row", {"miou": 4.0}, {}, 0.0)
    monkeypatch.setattr(Workbench, "_measure", lambda *_: row)
    Workbench(host, samples[:1], tmp_path).measure("row", setup.method())
    (path,) = (tmp_path / "rows").iterdir()
    whole = path.read_text()
    path.write_text(left)

    assert Workbench(host, samples[:1], tmp_path).measure("row", setup.method()) == row
    assert path.read_text() == whole


def test_a_rows_time_is_without_a_first_pass_and_without_encoding_texts(host, samples, setup, monkeypatch):
    done, passes = [0], []
    encode_prompt, predict_noise = host.encode_prompt, host.predict_noise

    def encode(texts):
        done[0] += 1
        return encode_prompt(texts)

    def run(*given):
        done[0] += 0 if passes else 1000
        passes.append(1)
        return predict_noise(*given)

    monkeypatch.setattr(host, "encode_prompt", encode)
    monkeypatch.setattr(host, "predict_noise", run)
    monkeypatch.setattr(ablation, "time", SimpleNamespace(process_time=lambda: done[0]))
    method = setup.having(distractors=("ground",)).method()  # in another sentence than the template's

    assert Workbench(host, samples[:2]).measure("row", method).seconds == 0
    assert done[0] > 1000


def test_usefulness_counts_absent_things_as_well():
    row = AblationRow("r", {"samples": 3, "miou_0.5": 40.0, "absent": 1, "empty_0.5": 100.0}, {}, 0.1)

    assert row.usefulness == 55


def test_the_table_has_a_column_for_every_look_and_times_as_ratios():
    numbers = {"miou": 40.0, "fgiou": 41.0, "ap": 42.0, "miou_0.5": 30.0, "empty_0.5": 20.0}
    base, other = (
        AblationRow(name, numbers, {"photo": 39.0}, seconds) for name, seconds in (("base", 0.2), ("b", 0.5))
    )

    shown = ablation_table([other], base, ["photo"])

    assert "| | mIoU | photo | IoU_FG | AP | mIoU at 0.5 | absent: empty | time |" in shown
    assert "| b | 40.0 | 39.0 | 41.0 | 42.0 | 30.0 | 20.0 | 2.50 |" in shown


# --- the search ----------------------------------------------------------------------------------------


class Judge:
    """Likes an eta of 0.2, a gate, and nothing else; the gate only where eta is right."""

    def __init__(self):
        self.asked = []

    def measure(self, name, method):
        options = method.options
        self.asked.append(name)
        right = options.eta == 0.2
        numbers = {"samples": 1, "miou": 10.0 + 5 * right, "miou_0.5": 10.0, "absent": 1, "empty_0.5": 0.0}
        numbers["empty_0.5"] = 50.0 * (right and options.gate == (1.0, 2.0))
        return AblationRow(name, numbers, {}, 0.0)


def test_the_search_keeps_the_best_of_each_step_and_goes_round_again(setup):
    steps = [
        Step("gate", ((), (1.0, 2.0)), "usefulness"),
        Step("eta", (0.0, 0.2, 0.5)),
        Step("flip", (False, True), ""),
    ]
    said_lines, judge = [], Judge()

    best, row = search(judge, setup, steps, say=said_lines.append)

    assert (best.value("eta"), best.value("gate"), best.value("flip")) == (0.2, (1.0, 2.0), False)
    assert row.usefulness == 30
    assert len(said_lines) == 4
    assert said_lines[0].startswith("round 1, gate: none")
    assert said_lines[2].startswith("round 2, gate: 1, 2 (mIoU 15.0, at 0.5 10.0, absent and empty 50)")
    assert not any("flip" in name for name in judge.asked)


# --- pictures and commands -----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "steps"), [("attention", 7), ("difference", 8)])
def test_the_steps_of_a_method_are_drawn_in_a_row_for_each_phrase(host, samples, name, steps):
    sheet = draw_steps(host, name, [samples[0], samples[3]])

    assert sheet.dtype == np.uint8
    assert sheet.shape[1] == steps * (168 + 8)
    assert sheet.shape[0] > 2 * 168


def test_the_pictures_of_the_steps_have_no_chance_in_them(host, samples):
    first = draw_steps(host, "attention", [samples[0]])
    torch.randn(3)

    assert np.array_equal(draw_steps(host, "attention", [samples[0]]), first)


def test_an_ablation_from_the_command_line_goes_on_where_it_was(capsys, tmp_path, monkeypatch):
    short = [Step("eta", (0.0, 0.02)), Step("flip", (False, True), "")]
    monkeypatch.setattr("ldznet.research.studies.variants.steps_for", lambda *_: short)
    command = ["evaluate", "ablation", "--method", "attention", "--scenes", "1", "--artists", "noto", *FAST]
    command += ["--out", str(tmp_path)]

    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "| **attention, defaults** |" in shown
    assert "| *difference* |" in shown
    assert "| flip: on |" in shown
    assert (tmp_path / "attention.md").read_text() in shown
    monkeypatch.setattr(Workbench, "_measure", lambda *_: pytest.fail("measured again"))
    assert main([*command, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) >= 4


def test_a_search_from_the_command_line_writes_what_it_found(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("ldznet.research.studies.variants.steps_for", lambda *_: [Step("eta", (0.0, 0.02))])

    code = main(["evaluate", "ablation", "--greedy", "--scenes", "1", *FAST, "--out", str(tmp_path)])

    assert code == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert AttentionOptions(**{k: tuple(v) if isinstance(v, list) else v for k, v in found["options"].items()})
    assert found["phrases"] == 4
    assert json.loads(capsys.readouterr().out) == found


def test_the_steps_are_drawn_from_the_command_line(capsys, tmp_path):
    assert main(["evaluate", "steps", *FAST, "--out", str(tmp_path)]) == 0

    assert sorted(path.name for path in tmp_path.iterdir()) == ["attention-steps.jpg", "difference-steps.jpg"]
    with Image.open(tmp_path / "attention-steps.jpg") as sheet:
        assert sheet.width > 1000


def test_a_second_look_is_measured_from_the_command_line(capsys, tmp_path):
    command = [
        "evaluate",
        "refine",
        "--sizes",
        "96",
        "--scenes",
        "1",
        "--artists",
        "noto",
        "--method",
        "attention",
        *FAST,
    ]

    assert main([*command, "--out", str(tmp_path)]) == 0
    assert "| 96 px | all | 3 |" in capsys.readouterr().out
    assert json.loads((tmp_path / "refine.json").read_text())[0]["size"] == 96
    assert main(["evaluate", "refine", "--sizes", "big", *FAST]) == 2
    assert "--sizes is 'big', but it must be numbers" in capsys.readouterr().err


@pytest.mark.parametrize("study", ["ablation", "refine", "features"])
def test_a_study_of_an_unknown_artist_is_refused(capsys, study):
    assert main(["evaluate", study, "--artists", "picasso", *FAST]) == 2
    assert "--artists names 'picasso', who is unknown. Give some of fluent-3d" in capsys.readouterr().err


def test_the_attention_method_is_benched_against_a_plain_pass(capsys):
    command = ["bench", "--attention", "--resolution", "64", "--prompts", "2", "--repeat", "1", "--json"]

    assert main(command) == 0
    result = json.loads(capsys.readouterr().out)
    steps = [timing["step"] for timing in result["timings"]]
    assert steps == ["UNet, plain pass", "attention", "attention, together"]
    assert set(result["ratios"]) == {"attention / plain pass, 2 prompts", "2 prompts together / one each"}
