"""Training a head: the same result however it is interrupted or shared out."""

import copy
import dataclasses
import os
import re
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from stand_in_art import stand_in_samples, stand_in_world
from stand_ins import SmallestHost

from ldznet.errors import CheckpointError, OptionError
from ldznet.methods.learned_head import random_head
from ldznet.research.datasets.sample import Sample
from ldznet.research.datasets.skip_report import Skipped
from ldznet.research.scenes.icon_samples import IconSamples
from ldznet.research.training.cost import try_steps
from ldznet.research.training.items import Stream
from ldznet.research.training.progress import time_text
from ldznet.research.training.trainer import Trainer, TrainOptions

SMALL = TrainOptions(steps=4, batch=2, size=64, rate=1e-3, timesteps=(300, 499), save_every=2, log_every=1)


def say(_text): ...


@pytest.fixture(scope="module")
def samples():
    return stand_in_samples(4)


def trainer(host, samples, folder, kind="ld-znet", **changes):
    head = random_head(host.info.unet, kind).head
    return Trainer(host, head, samples, dataclasses.replace(SMALL, **changes), folder)


def weights(folder):
    return torch.load(folder / "state.pt", weights_only=True)


@pytest.mark.parametrize("kind", ["ld-znet", "znet", "rgbnet"])
def test_a_training_resumes_where_it_stopped_with_the_same_result(host, samples, tmp_path, kind):
    assert trainer(host, samples, tmp_path / "whole", kind).run(say=say)
    runs = 0
    while not trainer(host, samples, tmp_path / "parts", kind).run(minutes=0, say=say):
        runs += 1

    assert runs == 3
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert [row["loss"] for row in whole["rows"]] == [row["loss"] for row in parts["rows"]]
    for part in ("module", "average"):
        assert all(torch.equal(whole[part][name], parts[part][name]) for name in whole[part])


@pytest.mark.parametrize("other", ["model", "dataset"])
def test_a_training_does_not_go_on_with_another_model_or_dataset(samples, tmp_path, other):
    host = SmallestHost()
    trainer(host, samples, tmp_path, "znet").run(minutes=0, say=say)
    if other == "model":
        host.info = dataclasses.replace(host.info, fingerprint="of another one")
    else:
        samples = stand_in_samples(3)

    with pytest.raises(
        CheckpointError, match=rf"holds a training with another {other}, so this one cannot resume"
    ):
        trainer(host, samples, tmp_path, "znet")


def test_a_step_that_is_tried_costs_the_reading_of_its_samples_as_well(tmp_path, monkeypatch):
    now = [0.0]

    class Slow(IconSamples):
        def __getitem__(self, index):
            now[0] += 10
            return super().__getitem__(index)

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    cost = try_steps(
        trainer(SmallestHost(), Slow(stand_in_world(), ["noto"], 4, size=64), tmp_path, "znet", batch=2), 2
    )

    assert cost.seconds == 20


def test_parts_of_a_batch_and_computing_twice_give_the_same_losses(host, samples, tmp_path):
    for name, changes in (("plain", {}), ("parts", {"accumulate": 2}), ("twice", {"checkpointing": True})):
        trainer(host, samples, tmp_path / name, batch=4, steps=3, **changes).run(say=say)

    plain, parts, twice = (
        [row["loss"] for row in weights(tmp_path / name)["rows"]] for name in ("plain", "parts", "twice")
    )
    assert len(set(plain)) == 3
    assert parts == pytest.approx(plain, rel=1e-3)  # sums in another order, and Adam enlarges the difference
    assert twice == pytest.approx(plain, rel=1e-4)


def test_a_training_in_parts_goes_on_in_the_middle_of_an_epoch_bit_for_bit(samples, tmp_path):
    changes = {"batch": 4, "accumulate": 2, "steps": 6, "schedule": "plateau", "clip": 1.0}  # an epoch is 4 steps
    assert trainer(SmallestHost(), samples, tmp_path / "whole", "znet", **changes).run(say=say)
    while not trainer(SmallestHost(), samples, tmp_path / "parts", "znet", **changes).run(minutes=0, say=say):
        pass

    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert len(samples) == 16
    assert [row["loss"] for row in whole["rows"]] == [row["loss"] for row in parts["rows"]]
    assert all(torch.equal(whole["module"][name], parts["module"][name]) for name in whole["module"])
    assert parts["epoch_loss"] == whole["epoch_loss"] == [sum(row["loss"] for row in whole["rows"][4:]), 2]


def with_scaler(samples, folder, **changes):
    """A training in fp16 as on a GPU: its losses are scaled, by accelerate, so that gradients stay in range."""
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(mixed_precision="fp16", cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    accelerator.native_amp = True
    options = dataclasses.replace(SMALL, precision="fp16", **changes)
    host = SmallestHost()
    return Trainer(
        host, random_head(host.info.unet, "znet").head, samples, options, folder, accelerator=accelerator
    )


def test_the_scale_of_fp16_is_kept_and_a_training_goes_on_with_it_bit_for_bit(samples, tmp_path):
    assert with_scaler(samples, tmp_path / "whole", steps=5, clip=1.0).run(say=say)
    while not with_scaler(samples, tmp_path / "parts", steps=5, clip=1.0).run(minutes=0, say=say):
        pass
    AcceleratorState._reset_state(reset_partial_state=True)

    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole["scaler"]["scale"] == 4096.0  # doubled after every two steps, of which one is left over
    assert whole["scaler"]["_growth_tracker"] == 1
    assert parts["scaler"] == whole["scaler"]
    assert [row["loss"] for row in whole["rows"]] == [row["loss"] for row in parts["rows"]]
    assert all(torch.equal(whole["module"][name], parts["module"][name]) for name in whole["module"])


def test_a_step_of_fp16_that_overflows_changes_no_weight_and_halves_the_scale(samples, tmp_path, monkeypatch):
    one = with_scaler(samples, tmp_path, steps=2)
    start = copy.deepcopy(one.head.state_dict())
    whole_loss = one.loss
    monkeypatch.setattr(one, "loss", lambda batch: whole_loss(batch) * (float("inf") if one.step == 0 else 1))
    one.run(say=say)
    AcceleratorState._reset_state(reset_partial_state=True)

    # The second step is the first that is taken: its rate is the only one.
    state = weights(tmp_path)
    assert state["scaler"]["scale"] == 512.0
    assert {float(entry["step"]) for entry in state["optimizer"]["state"].values()} == {1.0}
    assert all(torch.isfinite(tensor).all() for tensor in state["module"].values())
    assert not all(torch.equal(state["module"][name], start[name]) for name in start)


def test_rows_of_metrics_are_the_same_when_a_run_stops_between_them(samples, tmp_path):
    host = SmallestHost()
    trainer(host, samples, tmp_path / "whole", "znet", log_every=3).run(say=say)
    while not trainer(host, samples, tmp_path / "parts", "znet", log_every=3).run(minutes=0, say=say):
        pass

    whole, parts = weights(tmp_path / "whole")["rows"], weights(tmp_path / "parts")["rows"]
    assert [row["step"] for row in whole] == [3, 4]
    assert parts == whole


def test_the_average_follows_the_weights_and_the_gradient_is_clipped(samples, tmp_path):
    host = SmallestHost()
    one = trainer(host, samples, tmp_path, "znet", steps=1, clip=1e-3)
    start = random_head(host.info.unet, "znet").head.state_dict()
    one.run(say=say)

    state = weights(tmp_path)
    norm = torch.cat([p.grad.flatten() for p in one.head.parameters() if p.grad is not None]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)
    name = "middle_block.0.in_layers.2.weight"
    expected = start[name].lerp(state["module"][name], 1 - 2 / 11)  # the decay after the first step
    assert not torch.equal(state["module"][name], start[name])
    assert torch.equal(state["average"][name], expected)


def test_mixed_precision_gives_nearly_the_same_losses_and_a_cpu_does_not_train_in_fp16(host, samples, tmp_path):
    for name in ("no", "bf16"):
        AcceleratorState._reset_state(reset_partial_state=True)  # a process has one precision
        trainer(host, samples, tmp_path / name, steps=1, precision=name).run(say=say)

    AcceleratorState._reset_state(reset_partial_state=True)
    plain, mixed = ([row["loss"] for row in weights(tmp_path / name)["rows"]] for name in ("no", "bf16"))
    assert mixed != plain
    assert mixed == pytest.approx(plain, rel=0.05)
    with pytest.raises(OptionError, match="A CPU does not train in fp16"):
        trainer(host, samples, tmp_path / "fp16", precision="fp16")


def test_a_training_that_is_done_has_no_step_to_try(samples, tmp_path):
    trainer(SmallestHost(), samples, tmp_path, "znet", steps=1).run(say=say)

    with pytest.raises(OptionError, match="is done, so no step is left to try"):
        try_steps(trainer(SmallestHost(), samples, tmp_path, "znet", steps=1), 3)


def test_the_plateau_is_that_of_pytorch_with_the_papers_settings():
    losses = [1.0, 0.9, 0.9, 0.89999, 0.9, 0.8, 0.81, 0.82, 0.83, 0.84, 0.7]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    mine = SimpleNamespace(options=TrainOptions(), plateau={"factor": 1.0, "best": float("inf"), "bad": 0.0})
    rates = []
    for loss in losses:
        theirs.step(loss)
        mine.epoch_loss = [3 * loss, 3.0]
        Trainer._end_epoch(mine)
        rates.append(mine.plateau["factor"])
        assert rates[-1] == optimizer.param_groups[0]["lr"]

    assert rates == [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]


class Photographs:
    """Four pictures with a phrase each, of which the third cannot be read."""

    report = ()

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 2:
            return Skipped("2", "missing image", "2: it is not there.")
        mask = np.zeros((64, 96), bool)
        mask[:, :48] = True
        image = np.full((64, 96, 3), 50 * index, np.uint8)
        return Sample(str(index), image, f"thing {index}", mask, {}, source=f"{index}.jpg")


def test_a_negative_is_the_same_picture_with_the_phrase_of_another_and_an_empty_mask():
    options = dataclasses.replace(SMALL, crop="whole", template="{}")
    plain, negative = (
        Stream(Photographs(), dataclasses.replace(options, negatives=share)) for share in (0.0, 1.0)
    )

    for position in range(8):
        one, other = plain[position], negative[position]
        assert one.image_name == other.image_name
        assert one.target.mean() == 0.5
        assert not other.target.any()
        assert other.sentence != one.sentence
        assert other.sentence.startswith("thing ")


def test_what_cannot_be_read_is_replaced_by_the_next_and_named():
    stream = Stream(Photographs(), SMALL)
    items = [stream[position] for position in range(4)]

    assert [skipped.reason for item in items for skipped in item.skipped] == ["missing image"]
    assert all(item.target.any() for item in items)


class SamplesWithSignal:
    """Samples that send a signal to this process when the sample of a position is read."""

    def __init__(self, samples, position, number=signal.SIGINT):
        self.samples, self.position, self.number, self.report = samples, position, number, samples.report
        self.count = 0

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        self.count += 1
        if self.count == self.position:
            os.kill(os.getpid(), self.number)
        return self.samples[index]


@pytest.mark.usefixtures("ctrl_c_works")
def test_ctrl_c_saves_the_state_says_at_which_step_and_the_training_resumes_there(samples, tmp_path):
    assert trainer(SmallestHost(), samples, tmp_path / "whole", "znet", save_every=100).run(say=say)
    texts = []

    # The third sample belongs to the second of four steps of two.
    stopped = trainer(SmallestHost(), SamplesWithSignal(samples, 3), tmp_path / "parts", "znet", save_every=100)
    with pytest.raises(KeyboardInterrupt) as stop:
        stopped.run(say=texts.append)
    assert trainer(SmallestHost(), samples, tmp_path / "parts", "znet", save_every=100).run(say=texts.append)

    assert stop.value.args == (signal.SIGINT,)
    assert f"stopped at step 2 of 4: the state is saved in {tmp_path / 'parts'}" in texts[2]
    assert texts[3] == "resuming at step 2 of 4"
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert [row["loss"] for row in whole["rows"]] == [row["loss"] for row in parts["rows"]]
    assert all(torch.equal(whole["module"][name], parts["module"][name]) for name in whole["module"])


@pytest.mark.usefixtures("ctrl_c_works")
def test_a_second_ctrl_c_stops_at_once(samples, tmp_path):
    class Impatient(SamplesWithSignal):
        def __getitem__(self, index):
            os.kill(os.getpid(), signal.SIGINT)
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        trainer(SmallestHost(), Impatient(samples, 99), tmp_path, "znet").run(say=say)
    assert not (tmp_path / "state.pt").exists()
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_lines_of_progress_have_the_time_that_is_left(samples, tmp_path):
    texts = []
    trainer(SmallestHost(), samples, tmp_path, "znet").run(say=texts.append)

    assert re.fullmatch(r"step 1 of 4, loss [\d.]+, [\d.]+ prompts/s, \d+ s left", texts[0])
    assert texts[-1].endswith(", 0 s left")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59, "59 s"), (61, "1 min"), (3599, "1 h 0 min"), (7500, "2 h 5 min"), (200_000, "2 days 7 h")],
)
def test_times_are_written_in_two_units(seconds, text):
    assert time_text(seconds) == text
