"""What the frozen model says, kept in memory and on disk: the same bits, whoever wrote them and however often."""

import dataclasses
import logging
import os
import shutil

import numpy as np
import pytest
import torch
from stand_in_art import stand_in_samples
from stand_ins import SmallestHost

from ldznet import files
from ldznet.hosts.diffusers.random_weights import random_host
from ldznet.methods.learned_head import random_head
from ldznet.research.training import frozen_cache
from ldznet.research.training.frozen_cache import AnswerFolder, FrozenModel, may_keep_latents
from ldznet.research.training.trainer import Trainer, TrainOptions

WHOLE = TrainOptions(
    steps=3, batch=2, size=64, rate=1e-3, timesteps=(300, 499), crop="whole", posterior="mean", log_every=1
)


@pytest.fixture
def pixels():
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1


def train(host, folder, options=WHOLE, **more):
    trainer = Trainer(host, random_head(host.info.unet, "znet").head, stand_in_samples(2), options, folder, **more)
    assert trainer.run(say=lambda _text: None)
    return trainer


def weights(folder):
    state = torch.load(folder / "state.pt", weights_only=True)
    return [row["loss"] for row in state["rows"]], state["module"]


def entries(folder, kind):
    return sorted(path for path in folder.glob(f"*/{kind}/*/*"))


def test_a_training_has_the_same_bits_without_a_cache_while_filling_one_and_from_one(tmp_path, monkeypatch):
    host = SmallestHost()
    train(host, tmp_path / "without")
    filling = train(host, tmp_path / "filling", cache=tmp_path / "cache").frozen.store
    monkeypatch.setattr(frozen_cache, "_model_key", lambda _host, key=filling.folder.name: key)
    monkeypatch.setattr(host, "encode_image", None)
    monkeypatch.setattr(host, "encode_prompt", None)
    from_disk = train(host, tmp_path / "from", cache=tmp_path / "cache").frozen.store

    losses, module = weights(tmp_path / "without")
    for name in ("filling", "from"):
        assert weights(tmp_path / name)[0] == losses
        assert all(torch.equal(weights(tmp_path / name)[1][key], module[key]) for key in module)
    assert filling.read == {}
    assert from_disk.read == filling.written
    assert len(entries(tmp_path / "cache", "latents")) == from_disk.read["latents"] == 2
    contexts = from_disk.read["contexts"]
    assert str(from_disk).endswith(f"2 latents read and 0 written, {contexts} contexts read and 0 written")


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_what_a_model_said_comes_back_from_disk_as_it_was(family, pixels, tmp_path):
    host, texts = random_host(family), ["a cat", "x " * 200]
    said = (
        FrozenModel(host, WHOLE).context(texts),
        FrozenModel(host, WHOLE).latent(pixels, ["a", "b", "c"], [0] * 3),
    )

    for _ in ("written", "read"):
        frozen = FrozenModel(host, WHOLE, AnswerFolder(tmp_path, host))
        context = frozen.context(texts)
        assert torch.equal(context.tokens, said[0].tokens)
        assert context.cut == (False, True)
        assert (context.pooled is None) == (family == "sd1")
        assert context.pooled is None or torch.equal(context.pooled, said[0].pooled)
        assert torch.equal(frozen.latent(pixels, ["a", "b", "c"], [0] * 3), said[1])
    assert frozen.store.read == {"latents": 3, "contexts": 2}


@pytest.mark.parametrize("changes", [{"crop": "random"}, {"posterior": "sample"}], ids=str)
def test_latents_that_never_come_again_are_not_kept(tmp_path, changes):
    options = dataclasses.replace(WHOLE, steps=1, **changes)
    train(SmallestHost(), tmp_path / "run", options, cache=tmp_path / "cache")

    assert not may_keep_latents(options)
    assert entries(tmp_path / "cache", "latents") == []
    assert len(entries(tmp_path / "cache", "contexts")) == 2


def test_a_latent_does_not_depend_on_which_others_were_new(host, pixels):
    together, apart = FrozenModel(host, WHOLE), FrozenModel(host, WHOLE)
    apart.latent(pixels[1:2], ["b"], [0])

    found = together.latent(pixels, ["a", "b", "c"], [0] * 3)

    assert torch.equal(found, apart.latent(pixels, ["a", "b", "c"], [0] * 3))
    assert torch.equal(found, found.half().float())
    assert (found - host.encode_image(pixels)).abs().max() < 1e-2


def test_memory_forgets_the_oldest_but_never_what_a_batch_still_asks_for(host, pixels):
    frozen = FrozenModel(host, WHOLE, latents=2, contexts=2)
    first = frozen.context(["a", "b"])
    frozen.latent(pixels[:2], ["a", "b"], [0, 0])

    found = frozen.context(["a", "c", "d"])
    latent = frozen.latent(pixels, ["a", "b", "c"], [0] * 3)

    assert torch.equal(found.tokens[0], first.tokens[0])
    assert len(found) == len(latent) == 3
    assert [text in frozen._contexts for text in "abcd"] == [False, False, True, True]
    assert [name in frozen._latents for name in "abc"] == [False, True, True]


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_entry_counts_as_missing_and_is_written_anew(host, pixels, tmp_path, damage):
    whole = FrozenModel(host, WHOLE, AnswerFolder(tmp_path, host)).latent(pixels[:1], ["a"], [0])
    (entry,) = entries(tmp_path, "latents")
    data = bytearray(entry.read_bytes())
    data[-3] ^= damage == "changed"
    entry.write_bytes({"cut": data[:-3], "changed": data, "empty": b""}[damage])

    store = AnswerFolder(tmp_path, host)
    assert torch.equal(FrozenModel(host, WHOLE, store).latent(pixels[:1], ["a"], [0]), whole)
    assert (store.read["latents"], store.written["latents"]) == (0, 1)
    again = AnswerFolder(tmp_path, host)
    assert torch.equal(FrozenModel(host, WHOLE, again).latent(pixels[:1], ["a"], [0]), whole)
    assert again.read["latents"] == 1


def test_the_name_of_a_picture_does_not_matter_but_its_pixels_do(host, pixels, tmp_path):
    FrozenModel(host, WHOLE, AnswerFolder(tmp_path, host)).latent(pixels[:1], ["a"], [0])
    store = AnswerFolder(tmp_path, host)
    FrozenModel(host, WHOLE, store).latent(pixels[:2], ["renamed", "a"], [0, 0])

    assert (store.read["latents"], store.written["latents"]) == (1, 1)


def test_models_of_another_unet_text_encoder_vae_or_precision_do_not_share_entries(host, tmp_path):
    others = [random_host(seed=1), random_host(dtype=torch.bfloat16), random_host(), random_host()]
    with torch.no_grad():
        next(others[2].text[0].model.parameters()).add_(0.01)
        next(others[3].vae.parameters()).add_(0.01)

    folders = {AnswerFolder(tmp_path, one).folder for one in (host, random_host(), *others)}

    assert len(folders) == 5


def test_processes_that_write_the_same_entry_leave_one_and_a_killed_one_leaves_nothing(
    host, tmp_path, monkeypatch
):
    one, two = AnswerFolder(tmp_path, host), AnswerFolder(tmp_path, host)
    folder = one.folder / "contexts" / "ab"
    folder.mkdir(parents=True)
    monkeypatch.setattr(os, "getpid", lambda: 2**22 + 1)  # more than Linux gives
    killed = folder / files.temporary_name()
    monkeypatch.undo()
    killed.write_bytes(b"half")

    for store in (one, two):
        store.put("contexts", "ab12", {"tokens": torch.ones(2)})

    tensors = AnswerFolder(tmp_path, host).get("contexts", "ab12")
    assert torch.equal(tensors["tokens"], torch.ones(2))
    assert [path.name for path in folder.iterdir()] == ["ab12"]


def test_a_full_disk_ends_the_keeping_and_not_the_training(host, tmp_path, monkeypatch, caplog):
    usage = shutil.disk_usage(tmp_path)._replace(free=2**29)
    monkeypatch.setattr(frozen_cache.shutil, "disk_usage", lambda _path: usage)
    store = AnswerFolder(tmp_path, host)

    with caplog.at_level(logging.WARNING, logger="ldznet"):
        context = FrozenModel(host, WHOLE, store).context(["a", "b"])

    assert np.array_equal(context.tokens, torch.cat([host.encode_prompt([text]).tokens for text in "ab"]))
    assert [record.getMessage() for record in caplog.records] == [
        f"Nothing more is written to {store.folder} (less than 1 GB is left on its disk). The training continues "
        "without; make room, or leave --cache out."
    ]
    assert entries(tmp_path, "contexts") == []
