"""Finding what suits a model: each step in its order, the best value kept.

A coordinate search, on samples that are not those that are reported. It goes through the steps twice, since what
is best in one depends on those behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ldznet.methods.attention_options import AttentionOptions
from ldznet.research.studies.ablation import AblationRow, Setup, Workbench
from ldznet.research.studies.variants import Step, value_text


def starts(setup: Setup) -> list[Setup]:
    """Where a search begins: at what there is, and with one plain refinement, for which other levels are best."""
    if not isinstance(setup.options, AttentionOptions):
        return [setup]
    plain = setup.having(iterations=1, eta=0.0, column_max=False)
    return [setup] if plain == setup else [setup, plain]


def search(
    bench: Workbench,
    start: Setup,
    steps: Sequence[Step],
    *,
    rounds: int = 2,
    say: Callable[[str], None] = print,
    progress: Callable[[int], None] = lambda _done: None,
) -> tuple[Setup, AblationRow]:
    """The best setup that was met on the way, and its row; of equals the one that was there first."""
    best = start
    row = bench.measure("defaults", best.method())
    for number in range(rounds):
        for step in steps:
            if not step.search:
                continue
            for value in step.values:
                setup = best.having(**{step.name: value})
                found = bench.measure(f"{step.name}: {value_text(step.name, value)}", setup.method())
                if _score(found, step) > _score(row, step):
                    best, row = setup, found
            progress(1)
            chosen = value_text(step.name, best.value(step.name))
            say(
                f"round {number + 1}, {step.name}: {chosen} (mIoU {row.numbers['miou']:.1f}, at 0.5 "
                f"{row.numbers['miou_0.5']:.1f}, absent and empty {row.numbers.get('empty_0.5', 0):.0f})"
            )
    return best, row


def _score(row: AblationRow, step: Step) -> float:
    return row.usefulness if step.search == "usefulness" else row.numbers["miou"]
