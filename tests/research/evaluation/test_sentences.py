"""How much contexts differ."""

import pytest
import torch

from ldznet.hosts.diffusers.random_weights import random_host
from ldznet.research.evaluation.sentences import context_difference, sentence_difference


def test_the_difference_is_the_mean_distance_of_all_pairs_and_leaves_out_the_first_token():
    tokens = torch.zeros(3, 3, 2)
    tokens[0, 0] = torch.tensor([100.0, 0.0])
    tokens[0, 1] = torch.tensor([3.0, 4.0])

    # Pairs 0-1 and 0-2 are 5 apart in one of two tokens, pair 1-2 is not apart.
    assert context_difference(tokens) == pytest.approx((2.5 + 2.5 + 0) / 3)


def test_nouns_are_compared_with_captions_in_the_sentence_that_is_used():
    host = random_host()
    words = ["dog", "bucket", "star"]

    assert sentence_difference(host, "{}", words, words) == pytest.approx(1)
    assert sentence_difference(host, "a photo of", words, words) == 0
