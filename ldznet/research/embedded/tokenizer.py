"""A small tokenizer in CLIP's format: it knows the words of the scenes whole and spells all others.

Source: Sennrich et al., Neural Machine Translation of Rare Words, https://arxiv.org/abs/1508.07909
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from ldznet.files import write_text


def write_tokenizer(folder: Path, words: Sequence[str]) -> int:
    """Write a tokenizer in CLIP's format that knows `words` whole and spells all others; return its size."""
    folder.mkdir(parents=True, exist_ok=True)
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [*map(chr, printable), *(chr(256 + n) for n in range(256 - len(printable)))]
    merges = _merges([word for word in words if word.isalpha()])
    joined = ["".join(pair) for pair in merges]
    tokens = list(dict.fromkeys([*symbols, *(symbol + "</w>" for symbol in symbols), *joined]))
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    write_text(folder / "vocab.json", json.dumps({token: n for n, token in enumerate(tokens)}))
    write_text(folder / "merges.txt", "\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n")
    special = {"bos_token": tokens[-2], "eos_token": tokens[-1], "unk_token": tokens[-1], "pad_token": tokens[-1]}
    write_text(folder / "special_tokens_map.json", json.dumps(special))
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special}
    write_text(folder / "tokenizer_config.json", json.dumps(settings))
    return len(tokens)


def _merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Run byte-pair encoding to its end and return the merges, in order, after which every word is one token.

    Source: Sennrich et al., Neural Machine Translation of Rare Words, https://arxiv.org/abs/1508.07909
    """
    spelled = [[*word[:-1], word[-1] + "</w>"] for word in sorted(set(words))]
    merges: list[tuple[str, str]] = []
    while pairs := [pair for parts in spelled for pair in pairwise(parts)]:
        counts = Counter(pairs)
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for parts in spelled:
            for place in range(len(parts) - 1, 0, -1):
                if place < len(parts) and (parts[place - 1], parts[place]) == best:
                    parts[place - 1 : place + 1] = ["".join(best)]
    return merges
