"""CLIP's tokenizer: from text to token ids, by byte-pair encoding.

A text is brought to one form (composed characters, single spaces, small letters) and split into words, digits and
runs of other characters. The bytes of each are written as printable symbols, the last with "</w>" after it, and
neighbours are merged in the order of merges.txt for as long as that lists them.

Gives the ids of CLIPTokenizer in transformers, which takes seconds to import.

Source: Sennrich et al., Neural Machine Translation of Rare Words, https://arxiv.org/abs/1508.07909;
Radford et al., Language Models are Unsupervised Multitask Learners, 2019, section 2.2 (bytes);
Radford et al., CLIP, https://arxiv.org/abs/2103.00020
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

START, END = "<|startoftext|>", "<|endoftext|>"
_MARKS = re.compile(r"(<\|startoftext\|>|<\|endoftext\|>)")
# Unicode has no more spaces than these; Python also counts four control characters.
_SPACES = re.compile(r"[^\S\x1c-\x1f]+")
# On a text in which other alphabets are replaced by _STAND_INS. A digit is a word by itself.
_WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^ a-z0-9]+")
# First letter of a Unicode category -> a character that stands for it: letters, numbers, all others
_STAND_INS = {"L": "a", "N": "0"}
# The printable characters of Latin-1, in the order of CLIP's vocabulary, and characters for all other bytes.
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
_SYMBOLS = {**{byte: chr(byte) for byte in _PRINTABLE}, **{byte: chr(256 + n) for n, byte in enumerate(_OTHERS)}}


class ClipTokenizer:
    """A vocabulary with its merges; calling it gives ids of equal length.

    ids      token -> id
    merges   pairs of tokens, in the order in which they are merged
    padding  the token after the end mark
    """

    def __init__(
        self, ids: Mapping[str, int], merges: Iterable[tuple[str, str]], padding: str = END, length: int = 77
    ) -> None:
        self.ids = ids
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.padding = ids[padding]
        self.length = length
        self.marks = {mark: ids[mark] for mark in (START, END)}
        self._ids_of = lru_cache(2**14)(self._merge)  # most words come again

    def padded_with(self, token: str) -> ClipTokenizer:
        """Return the same tokenizer with another token after the end mark."""
        return ClipTokenizer(self.ids, self.ranks, token, self.length)

    def __len__(self) -> int:
        return len(self.ids)

    def __call__(self, prompts: Sequence[str]) -> tuple[Tensor, tuple[bool, ...]]:
        """Return the ids (P, L) of the prompts and, per prompt, whether it was cut."""
        rows, cut = [], []
        for prompt in prompts:
            ids = self.encode(prompt)
            row = [self.marks[START], *ids[: self.length - 2], self.marks[END]]
            rows.append(row + [self.padding] * (self.length - len(row)))
            cut.append(len(ids) > self.length - 2)
        return torch.tensor(rows), tuple(cut)

    def encode(self, text: str) -> list[int]:
        """Return all ids of a text, without marks at its start and end."""
        ids: list[int] = []
        for part in _MARKS.split(text):
            if part in self.marks:
                ids.append(self.marks[part])
                continue
            for word in _words(part):
                ids += self._ids_of(word)
        return ids

    def _merge(self, word: str) -> list[int]:
        """Return the ids of one word."""
        symbols = [_SYMBOLS[byte] for byte in word.encode()]
        symbols[-1] += "</w>"
        while len(symbols) > 1:
            best = min(pairwise(symbols), key=lambda pair: self.ranks.get(pair, len(self.ranks)))
            if best not in self.ranks:
                break
            merged: list[str] = []
            for symbol in symbols:
                # A symbol that was merged just now ends no pair again, since it is longer.
                if merged and (merged[-1], symbol) == best:
                    merged[-1] += symbol
                else:
                    merged.append(symbol)
            symbols = merged
        return [self.ids.get(symbol, self.marks[END]) for symbol in symbols]


def _words(text: str) -> list[str]:
    """Split a text into words, digits and runs of other characters."""
    text = _SPACES.sub(" ", unicodedata.normalize("NFC", text))
    # Letter by letter: Python knows a second small sigma for the end of a word.
    text = "".join(letter.lower() for letter in text)
    simple = "".join(
        letter if letter.isascii() else _STAND_INS.get(unicodedata.category(letter)[0], "!") for letter in text
    )
    return [text[match.start() : match.end()] for match in _WORDS.finditer(simple)]
