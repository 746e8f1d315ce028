"""How often a method is surer of the right one of two things: a measure of ours, beside the published ones.

probability  (S, S)  float32, of one phrase
masks        (S, S)  bool, of the thing that is named and of the other
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from ldznet.hosts.host import Host
from ldznet.methods.method import Method
from ldznet.research.datasets.samples import usable
from ldznet.research.datasets.skip_report import Report
from ldznet.research.evaluation.runner import predict
from ldznet.research.scenes.icon_samples import PairSamples
from ldznet.research.scenes.pairs import PAIR_KINDS
from ldznet.research.scenes.sprites import Array

__all__ = ["is_right", "measure_pairs", "pairs_table"]


def is_right(probability: Array, named: Array, other: Array) -> float:
    """Return 1 where the mean probability is higher over the named thing than over the other, 0 where lower."""
    difference = float(probability[named].mean()) - float(probability[other].mean())
    return 0.5 if not difference else float(difference > 0)


def measure_pairs(
    host: Host, method: Method, samples: PairSamples, progress: Callable[[int], None] = lambda _count: None
) -> dict[str, float]:
    """Return the percentage of phrases, by kind, for which the method is surer of the right one of two things."""
    right, counts = Counter[str](), Counter[str]()
    predictions = predict(host, method, usable(samples, Report()), size=samples.size)
    for index, found in enumerate(predictions):
        pair = samples.pair(index)
        kind, way = pair.kind, index % 2
        right[kind] += is_right(found.probability, pair.masks[way], pair.masks[1 - way])  # type: ignore[assignment]
        counts[kind] += 1
        progress(1)
    return {f"pair_{kind}": 100 * right[kind] / counts[kind] for kind in PAIR_KINDS if counts[kind]}


def pairs_table(numbers: dict[str, dict[str, float]]) -> str:
    """Return the percentages of several artists as a Markdown table."""
    rows = [_row("right one of two by", PAIR_KINDS), "|---|" + "---:|" * len(PAIR_KINDS)]
    for artist, percents in numbers.items():
        rows.append(_row(artist, [f"{percents.get(f'pair_{kind}', np.nan):.1f}" for kind in PAIR_KINDS]))
    return "\n".join(rows)


def _row(name: str, cells: Sequence[str]) -> str:
    return f"| {name} | " + " | ".join(cells) + " |"
