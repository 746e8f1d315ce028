"""How well a sentence tells words apart in a text encoder: a check that it has read sentences of this form.

A text encoder that was trained from scratch on captions knows nothing of a form of text that no caption has: asked
with it, different nouns give nearly the same context, and no head can learn what they mean.

    context  (B, L, D)  of B texts
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ldznet.hosts.host import Host

__all__ = ["context_difference", "sentence_difference"]


def context_difference(tokens: Tensor) -> float:
    """Return the mean distance of two of B contexts (B, L, D): of each token but the first, over all pairs."""
    count = len(tokens)
    assert count > 1
    # (L - 1, B, B): the first token is the start of the text and says nothing
    tokens = tokens[:, 1:].float().transpose(0, 1)
    distances = (tokens[:, :, None] - tokens[:, None]).norm(dim=-1)
    return float(distances.mean() * count / (count - 1))


def sentence_difference(host: Host, template: str, nouns: Sequence[str], captions: Sequence[str]) -> float:
    """Return how much nouns in the sentence differ, relative to captions; at least 0.5 is wanted."""
    sentences = [template.replace("{}", noun) for noun in nouns]
    of_nouns, of_captions = (
        context_difference(host.encode_prompt(texts).tokens) for texts in (sentences, list(captions))
    )
    return of_nouns / of_captions
