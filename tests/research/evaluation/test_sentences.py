"""How much contexts differ."""

import pytest
import torch

from ldznet.hosts.diffusers.random_weights import random_host
from ldznet.research.evaluation.sentences import context_difference, sentence_difference


def test_the_difference_is_the_mean_distance_of_all_pairs_at_words_and_ends():
    tokens = torch.zeros(3, 5, 2)
    tokens[0, 0] = torch.tensor([100.0, 0.0])  # the start
    tokens[0, 1] = torch.tensor([3.0, 4.0])
    tokens[0, 4] = torch.tensor([100.0, 0.0])  # padding

    # Pairs 0-1 and 0-2 are 5 apart at the first of two and of three places, pair 1-2 is not apart.
    assert context_difference(tokens, [1, 1, 2]) == pytest.approx((5 / 2 + 5 / 3 + 0) / 3)


def test_nouns_are_compared_with_captions_in_the_sentence_that_is_used():
    host = random_host()
    words = ["dog", "bucket", "star"]

    assert sentence_difference(host, "{}", words, words) == pytest.approx(1)
    assert sentence_difference(host, "a photo of", words, words) == 0
