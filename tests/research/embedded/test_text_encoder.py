"""The text encoder's training: scenes and captions that belong together."""

import re

import pytest
import torch
from small_diffusion import TINY, WORLD, say

from ldznet.errors import OptionError
from ldznet.research.embedded.autoencoder import train_encoder
from ldznet.research.embedded.diffusion import train_unet
from ldznet.research.embedded.model import TinyModel
from ldznet.research.embedded.resumable_stage import RunOptions, is_given
from ldznet.research.embedded.text_encoder import Contrast, difference_of_nouns, load_text, train_text


def test_a_scene_and_its_own_caption_cost_less_than_others():
    contrast = Contrast(3)
    latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        images = contrast.of_image(contrast.layers(latents).amax(dim=(2, 3)))
        # Contexts that the projection of texts turns into the images' own vectors, as far as three numbers can.
        contrast.of_text.weight.copy_(torch.linalg.qr(images[:3].T).Q)
        ends = images @ contrast.of_text.weight
        own, mixed = contrast(latents, ends), contrast(latents, ends.roll(1, 0))

    assert own < mixed


def test_the_loss_is_that_of_a_guess_where_all_captions_are_alike():
    found = Contrast(3)(torch.randn(4, 4, 8, 8), torch.ones(4, 3))

    assert found.item() > torch.tensor(4.0).log().item() - 1e-4


def test_it_learns_from_latents_reports_on_nouns_and_the_unet_leaves_it_as_it_is(tmp_path):
    lines = []
    options = RunOptions(folder=tmp_path, steps=2)
    assert train_encoder(TINY, options, WORLD, say)
    assert train_text(TINY, options, WORLD, lines.append)
    assert train_unet(TINY, options, WORLD, say)

    assert any(re.match(r"text: contexts of nouns differ \d\.\d\d times", line) for line in lines)
    learned = torch.load(tmp_path / "text.pt", weights_only=True)["average"]
    used = torch.load(tmp_path / "unet.pt", weights_only=True)
    for part in ("module", "average"):
        texts = {name: tensor for name, tensor in used[part].items() if name.startswith("text.")}
        assert texts
        assert all(torch.equal(tensor, learned[name]) for name, tensor in texts.items())


def test_weights_that_were_given_are_told_from_those_of_a_training(tmp_path):
    assert not is_given(tmp_path / "text.pt")
    torch.save({"average": {}}, tmp_path / "text.pt")
    assert is_given(tmp_path / "text.pt")
    torch.save({"average": {}, "step": 3}, tmp_path / "text.pt")
    assert not is_given(tmp_path / "text.pt")


def test_a_text_encoder_that_has_lost_its_words_is_seen(tmp_path):
    model = TinyModel(TINY, tmp_path, WORLD.vocabulary)
    captions = ["a dog and a bucket on green", "two red cars", "the owl on the left"]
    nouns = ["dog", "bucket", "owl"]

    assert difference_of_nouns(model, nouns, captions) > 0.1
    with torch.no_grad():
        model.text.get_input_embeddings().weight.fill_(1)
    assert difference_of_nouns(model, nouns, captions) == 0


def test_it_must_be_trained_before_it_is_loaded(tmp_path):
    with pytest.raises(OptionError, match=r"no trained text .* Train the stage text first"):
        load_text(TinyModel(TINY, tmp_path, WORLD.vocabulary), tmp_path)
