"""The list of methods, and what each costs."""

import pytest
import torch

from ldznet.errors import OptionError
from ldznet.hosts.diffusers.host import DiffusersHost
from ldznet.inference.passes import count_passes
from ldznet.methods.learned_head import random_head
from ldznet.methods.load import EMBEDDED
from ldznet.methods.registry import HEADLESS_NAMES, METHOD_HELP, METHOD_NAMES, METHODS, method_entry
from ldznet.options import SegmentOptions
from ldznet.segmenter import Segmenter


@pytest.fixture(scope="module")
def small():
    return DiffusersHost.load(EMBEDDED)


def test_the_names_are_those_that_every_front_offers():
    assert METHOD_NAMES == ("auto", "head", "attention", "difference")
    assert HEADLESS_NAMES == ("attention", "difference")
    assert all(f"{name}: " in METHOD_HELP for name in METHOD_NAMES)
    with pytest.raises(OptionError, match="The method 'magic' is not known: give one of auto, head, attention"):
        method_entry("magic")


@pytest.mark.parametrize(
    ("name", "options", "prompts", "expected"),
    [
        ("head", {}, 3, 3),
        ("head", {"timesteps": (1, 2, 3), "seeds": (0, 1)}, 3, 18),
        ("head", {"average_templates": True}, 2, 18),
        ("head", {"refine": True}, 2, 2 * 13),
        ("head", {"timesteps": (1, 2), "randomness": "released"}, 2, 2),  # each prompt draws one timestep
        ("attention", {}, 3, 3),
        ("difference", {}, 1, 20),  # ten noises, with the prompt and without
        ("difference", {}, 3, 40),
        ("difference", {"batch": 1}, 3, 60),  # the empty prompt runs in each batch
        ("difference", {"refine": True}, 2, 10 * 30 + 3 * 2 * 20),  # ten looks at both, three boxes of each
    ],
)
def test_passes_for_a_full_size_model(name, options, prompts, expected):
    assert count_passes(name, SegmentOptions(**options), prompts) == expected


def test_on_a_small_model_the_evidence_of_attention_counts(small):
    # Three timesteps, two noises, each predicted with the prompts and with nothing.
    assert count_passes("attention", SegmentOptions(), 1, small.info) == 1 + 6 * (1 + 1)
    assert count_passes("attention", SegmentOptions(), 8, small.info) == 8 + 6 * (8 + 1)
    assert count_passes("head", SegmentOptions(), 8, small.info) == 8


@pytest.mark.parametrize("name", ["head", "attention", "difference"])
@pytest.mark.parametrize("options", [{}, {"timesteps": (100, 200), "seeds": (1, 2)}, {"refine": True}])
def test_no_more_latents_go_through_the_unet_than_the_registry_says(small, monkeypatch, name, options):
    rows, plain = [], small.predict_noise

    def counted(noisy_latent, timesteps, context):
        rows.append(max(len(noisy_latent), len(context)))
        return plain(noisy_latent, timesteps, context)

    monkeypatch.setattr(small, "predict_noise", counted)
    entry = method_entry(name)
    segmenter = Segmenter(small, random_head(small.info.unet) if entry.needs_head else entry.make(small.info))
    options = SegmentOptions(resolution=64, **options)
    segmenter.set_image(torch.rand(256, 320, 3, generator=torch.Generator().manual_seed(1)).numpy(), options)
    segmenter.segment(["red circle", "blue square"], options)

    most = count_passes(name, options, 2, small.info)
    assert 0 < sum(rows) <= most
    if not options.refine and name != "attention":  # attention asks for no evidence of what it has not found
        assert sum(rows) == most


def test_every_method_but_the_head_is_made_for_a_model(small):
    assert [entry.make(small.info).name for entry in METHODS if not entry.needs_head] == list(HEADLESS_NAMES)
