"""Training a head: the same result however it is interrupted or shared out."""

import pytest
import torch

from ldznet.hosts.diffusers_files import random_host
from ldznet.methods.learned import random_head
from ldznet.training.loop import Trainer, TrainOptions
from ldznet.training.scene_samples import SceneSamples

SMALL = TrainOptions(steps=4, batch=2, size=64, rate=1e-3, timesteps=(300, 499), save_every=2, log_every=1)


def say(_text): ...


@pytest.fixture(scope="module")
def host():
    return random_host()


@pytest.fixture(scope="module")
def samples():
    return SceneSamples("photo", 4, size=64)


def trainer(host, samples, folder, kind="ld-znet", **changes):
    import dataclasses

    head = random_head(host.info.unet, kind).head
    return Trainer(host, head, samples, dataclasses.replace(SMALL, **changes), folder)


def weights(folder):
    return torch.load(folder / "state.pt", weights_only=True)


@pytest.mark.parametrize("kind", ["ld-znet", "znet", "rgbnet"])
def test_a_training_goes_on_where_it_stopped_with_the_same_result(host, samples, tmp_path, kind):
    assert trainer(host, samples, tmp_path / "whole", kind).run(say=say)
    runs = 0
    while not trainer(host, samples, tmp_path / "parts", kind).run(minutes=0, say=say):
        runs += 1

    assert runs == 3
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert [row["loss"] for row in whole["rows"]] == [row["loss"] for row in parts["rows"]]
    for part in ("module", "average"):
        assert all(torch.equal(whole[part][name], parts[part][name]) for name in whole[part])


def test_parts_of_a_batch_and_computing_twice_give_the_same_losses(host, samples, tmp_path):
    for name, changes in (("plain", {}), ("parts", {"accumulate": 2}), ("twice", {"checkpointing": True})):
        trainer(host, samples, tmp_path / name, batch=4, steps=3, **changes).run(say=say)

    plain, parts, twice = (
        [row["loss"] for row in weights(tmp_path / name)["rows"]] for name in ("plain", "parts", "twice")
    )
    assert len(set(plain)) == 3
    assert parts == pytest.approx(plain, rel=1e-4)
    assert twice == pytest.approx(plain, rel=1e-4)
