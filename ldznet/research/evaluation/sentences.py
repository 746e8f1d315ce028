"""How well a sentence tells words apart in a text encoder: a check that it has read sentences of this form.

A text encoder that was trained from scratch on captions knows nothing of a form of text that no caption has: asked
with it, different nouns give nearly the same context, and no head can learn what they mean.

    context  (B, L, D)  of B texts
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from ldznet.hosts.host import Host

__all__ = ["context_difference", "sentence_difference"]


def context_difference(tokens: Tensor, counts: Sequence[int]) -> float:
    """Return the mean distance of two of B contexts (B, L, D) over all pairs.

    `counts` are the numbers of tokens of each text, without start and end. Two contexts are compared at the words
    of the longer text and at its end: the start says nothing, and in a small text encoder the padding says less,
    the further it is from the words.
    """
    count = len(tokens)
    assert count > 1
    distances = [
        (tokens[one, 1 : stop + 2].float() - tokens[other, 1 : stop + 2].float()).norm(dim=-1).mean()
        for one, other in combinations(range(count), 2)
        for stop in (max(counts[one], counts[other]),)
    ]
    return float(torch.stack(distances).mean())


def sentence_difference(host: Host, template: str, nouns: Sequence[str], captions: Sequence[str]) -> float:
    """Return how much nouns in the sentence differ, relative to captions; at least 0.5 is wanted."""
    sentences = [template.replace("{}", noun) for noun in nouns]
    of_nouns, of_captions = (
        context_difference(host.encode_prompt(texts).tokens, host.count_tokens(texts))
        for texts in (sentences, list(captions))
    )
    return of_nouns / of_captions
