"""What noise predictions say of a phrase: where it is, and whether it is there at all."""

import pytest
import torch
from embedded_scenes import ABSENT, PAIRS, image_of

from ldznet.errors import OptionError
from ldznet.hosts.diffusers.host import DiffusersHost
from ldznet.hosts.diffusers.random_weights import random_host
from ldznet.hosts.host import Context
from ldznet.methods import attention
from ldznet.methods.attention import AttentionMethod
from ldznet.methods.attention_options import AttentionOptions
from ldznet.methods.load import EMBEDDED
from ldznet.methods.method import EncodedImage, Prompts, RandomInputs
from ldznet.methods.noise_evidence import (
    Evidence,
    apply_evidence,
    compare,
    names_another_thing,
    noise_errors,
    presence,
)
from ldznet.segmenter import Segmenter

OPTIONS = {"gate": (), "evidence": (300, 600), "evidence_rivals": ("dog", "red bird", "tree")}


@pytest.fixture(scope="module")
def hosts():
    predictions = {"sd1": "noise", "sd2": "v", "sdxl": "noise"}
    return {family: random_host(family, prediction=predictions[family]) for family in predictions}


@pytest.fixture
def host(hosts):
    return hosts["sd1"]


def a_picture(host, height=64, width=128):
    pixels = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return EncodedImage(pixels, host.encode_image(pixels))


def prompts_of(host, *phrases):
    return Prompts(phrases, ("{}",) * len(phrases), host.encode_prompt)


def probability(host, *phrases, picture=None, **options):
    picture = picture or a_picture(host)
    noise = torch.randn(picture.latent.shape, generator=torch.Generator().manual_seed(0))
    method = AttentionMethod(AttentionOptions(**OPTIONS | options))
    return method.probability(
        host, picture, prompts_of(host, *phrases), RandomInputs(torch.full((len(phrases),), 100), noise, seed=4)
    )


# --- on tensors ----------------------------------------------------------------------------------------


def test_gains_are_parts_of_the_error_of_the_rivals_that_count():
    errors = torch.tensor([[[[1.0, 3.0]]]])
    rivals = torch.tensor([[[[2.0, 2.0]], [[9.0, 9.0]], [[2.0, 6.0]]]])

    found = compare(errors, rivals, torch.tensor([[True, False, True]]), torch.tensor([[[1.0, 0.0]]]), 0)

    assert found.gains.flatten().tolist() == pytest.approx([0.5, 0.25])  # 1 of 2, 1 of 4
    assert found.whole.tolist() == pytest.approx([0.5])  # where it was found


def test_every_noise_prediction_counts_the_same_however_large_its_errors_are():
    errors = torch.tensor([[[[1.0, 1.0]]], [[[400.0, 100.0]]]])
    rivals = torch.tensor([[[[2.0, 2.0]]], [[[200.0, 200.0]]]])

    found = compare(errors, rivals, torch.tensor([[True]]), torch.ones(1, 1, 2), 0)

    assert found.gains.flatten().tolist() == pytest.approx([(0.5 - 1) / 2, (0.5 + 0.5) / 2])
    assert found.whole.item() == pytest.approx((-0.25 + 0.5) / 2)


def test_a_phrase_without_rivals_is_left_as_it_is():
    errors, counts = torch.rand(2, 2, 3, 3), torch.tensor([[True], [False]])
    found = torch.rand(2, 3, 3)

    evidence = compare(errors, torch.rand(2, 1, 3, 3), counts, found, 1.0)
    seen = apply_evidence(found, evidence, scale=0.05, level=0.3, width=0.01)

    assert evidence.whole[1] == torch.inf
    torch.testing.assert_close(seen[1], found[1])
    assert not torch.equal(seen[0], found[0])


def test_places_where_the_words_do_not_help_count_less_and_the_largest_value_stays():
    found = torch.tensor([[[0.8, 0.8, 0.1]]])
    evidence = Evidence(torch.tensor([[[0.05, -0.05, 0.0]]]), torch.tensor([1.0]))

    seen = apply_evidence(found, evidence, scale=0.05, level=0.0, width=0.01)

    up, down = 0.7310586, 0.2689414
    assert seen.flatten().tolist() == pytest.approx([0.8, 0.8 * down / up, 0.1 * 0.5 / up])
    assert torch.equal(apply_evidence(found, evidence, scale=0, level=0.0, width=0.01), found)
    uniform = Evidence(torch.full((1, 1, 3), -0.05), torch.tensor([1.0]))
    torch.testing.assert_close(apply_evidence(found, uniform, scale=1e-4, level=0.0, width=0.01), found)


def test_what_does_not_help_as_a_whole_is_likely_absent():
    evidence = Evidence(torch.zeros(4, 1, 1), torch.tensor([-0.02, 0.01, 0.02, 0.04]))

    assert presence(evidence, level=0.01, width=0.01).tolist() == pytest.approx(
        [0.0474, 0.5, 0.7311, 0.9526], abs=1e-4
    )
    assert apply_evidence(torch.ones(4, 1, 1), evidence, 0, 0.01, 0.01).flatten().tolist() == pytest.approx(
        presence(evidence, 0.01, 0.01).tolist()
    )


def test_nothing_found_stays_nothing():
    evidence = compare(
        torch.rand(1, 1, 2, 2), torch.rand(1, 1, 2, 2), torch.tensor([[True]]), torch.zeros(1, 2, 2), 0
    )

    assert torch.equal(apply_evidence(torch.zeros(1, 2, 2), evidence, 0.05, 0.0, 0.01), torch.zeros(1, 2, 2))


@pytest.mark.parametrize(
    ("phrase", "rival", "expected"),
    [
        ("red star", "star", False),
        ("Star,", "star", False),
        ("stars", "star", True),
        ("cat", "food", True),
        ("a cup on the table", "a person on the ground", True),
    ],
)
def test_a_rival_shares_no_word_with_the_phrase_but_small_ones(phrase, rival, expected):
    assert names_another_thing(phrase, rival) is expected


# --- on random models of every structure ---------------------------------------------------------------


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_errors_are_those_of_the_noise_that_was_added(hosts, family):
    host = hosts[family]
    latent, noises = a_picture(host).latent, torch.randn(2, 4, 8, 16)
    context = host.encode_prompt(["a cat", "a dog", ""])

    errors = noise_errors(host, latent, context, (100, 700), noises)

    assert tuple(errors.shape) == (4, 3, 8, 16)
    for row, (timestep, noise) in enumerate((t, n) for t in (100, 700) for n in noises):
        given = torch.tensor([timestep])
        noisy_latent = host.add_noise(latent, noise[None], given)
        for index in range(3):
            predicted = host.predict_noise(noisy_latent, given, context[index : index + 1])
            expected = ((predicted[0].double() - noise.double()) ** 2).mean(dim=0).float()
            torch.testing.assert_close(errors[row, index], expected, atol=1e-4, rtol=1e-3)


def test_no_more_than_eight_latents_run_at_once(host, monkeypatch):
    rows = []
    predict_noise = host.predict_noise
    monkeypatch.setattr(host, "predict_noise", lambda *args: rows.append(len(args[0])) or predict_noise(*args))

    noise_errors(
        host, a_picture(host).latent, Context.join([host.encode_prompt(["a"])] * 19), (5,), torch.ones(1, 4, 8, 16)
    )

    assert rows == [8, 8, 3]


def test_what_does_not_fit_into_memory_runs_in_smaller_parts(host, monkeypatch):
    latent, context, noise = a_picture(host).latent, host.encode_prompt(["a", "b", "c"]), torch.ones(1, 4, 8, 16)
    expected = noise_errors(host, latent, context, (5, 9), noise)
    predict_noise, cleared = host.predict_noise, []

    def predict_at_most(most, noisy_latent, *more):
        if len(noisy_latent) > most:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return predict_noise(noisy_latent, *more)

    monkeypatch.setattr(host, "clear_memory", lambda: cleared.append(1))
    monkeypatch.setattr(host, "predict_noise", lambda *args: predict_at_most(1, *args))
    torch.testing.assert_close(noise_errors(host, latent, context, (5, 9), noise), expected)
    assert len(cleared) == 3  # 8, 4, 2, and then it is known

    monkeypatch.setattr(host, "predict_noise", lambda *args: predict_at_most(0, *args))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        noise_errors(host, latent, context, (5, 9), noise)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_the_same_picture_gives_the_same_whatever_prompts_come_with_it(hosts, family):
    host = hosts[family]
    phrases = ("cat", "two red dogs", "bird")
    bare = probability(host, *phrases, evidence=())

    every = probability(host, *phrases)

    assert every.shape == (3, 64, 128)
    assert every.isfinite().all()
    assert not torch.equal(every, bare)
    assert torch.equal(every, probability(host, *phrases))
    for index, phrase in enumerate(phrases):
        torch.testing.assert_close(every[index : index + 1], probability(host, phrase), atol=5e-3, rtol=0)


@pytest.mark.parametrize("size", [(64, 128), (192, 64)])
def test_pictures_of_any_size(host, size):
    picture = a_picture(host, *size)
    assert tuple(probability(host, "cat", picture=picture).shape) == (1, *picture.pixels.shape[-2:])


def test_where_it_was_found_may_be_coarser_than_the_latent(host):
    fine, coarse = probability(host, "cat"), probability(host, "cat", self_level=1)
    assert coarse.shape == fine.shape
    assert not torch.equal(coarse, fine)


def test_a_phrase_that_all_rivals_share_words_with_costs_no_pass(host, monkeypatch):
    monkeypatch.setattr(attention, "noise_errors", None)
    options = {"evidence_rivals": ("cat", "a cat")}
    assert torch.equal(probability(host, "Cat", **options), probability(host, "Cat", evidence=()))


def test_the_level_decides_which_phrases_are_present(host):
    there = probability(host, "cat", presence_level=-1.0)
    assert probability(host, "cat", presence_level=1.0).max() < 1e-6
    torch.testing.assert_close(there.max(), probability(host, "cat", evidence=()).max(), atol=0.05, rtol=0)


def test_the_published_options_ask_for_none():
    assert AttentionOptions().evidence == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evidence": (300,), "evidence_rivals": ()}, "something to compare with: give evidence_rivals"),
        ({"evidence_template": "a photo"}, "the phrase has to stand somewhere in it"),
    ],
)
def test_options_that_cannot_be_are_refused(changes, message):
    with pytest.raises(OptionError, match=message):
        AttentionOptions(**changes)


# --- what it is worth ------------------------------------------------------------------------------------


def test_on_the_embedded_model_what_is_nowhere_in_the_image_gives_an_empty_mask():
    """Without the evidence none is empty."""
    host = DiffusersHost.load(EMBEDDED)
    segmenter = Segmenter(host, AttentionMethod.for_host(host.info))
    there, absent = [], []
    for name, phrases in PAIRS.items():
        segmenter.set_image(image_of(name))
        *present, other = segmenter.segment([*phrases, ABSENT]).probabilities()
        there += [bool((probability >= 0.5).any()) for probability in present]
        absent.append(bool((other >= 0.5).any()))

    assert sum(there) >= 3
    assert not any(absent)


def test_a_map_without_anything_costs_no_noise_prediction(host, monkeypatch):
    monkeypatch.setattr(attention, "noise_errors", None)
    assert probability(host, "cat", gate=(900.0, 1000.0)).max() == 0
