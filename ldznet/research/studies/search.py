"""Search for the options that suit a model: a coordinate search, one step of the method after the other.

It uses other samples than those that are reported, and goes through the steps twice, because the best value of one
step depends on the later ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ldznet.methods.attention_options import AttentionOptions
from ldznet.research.studies.ablation import AblationRow, Setup, Workbench
from ldznet.research.studies.variants import Step, value_text


def starts(setup: Setup) -> list[Setup]:
    """Return where to begin: the setup, and one with a single plain refinement, which suits other levels."""
    if not isinstance(setup.options, AttentionOptions):
        return [setup]
    # The published method refines once.
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
    """Return the best setup on the way, and its row; of equal ones the first."""
    best = start
    row = bench.measure("defaults", best.method())
    for number in range(rounds):
        for step in steps:
            if not step.search:
                continue
            # Cached passes make most of these rows cheap.
            for value in step.values:
                setup = best.having(**{step.name: value})
                candidate = bench.measure(f"{step.name}: {value_text(step.name, value)}", setup.method())
                if _score(candidate, step) > _score(row, step):
                    best, row = setup, candidate
            progress(1)
            best_value = value_text(step.name, best.value(step.name))
            say(
                f"round {number + 1}, {step.name}: {best_value} (mIoU {row.numbers['miou']:.1f}, at 0.5 "
                f"{row.numbers['miou_0.5']:.1f}, absent and empty {row.numbers.get('empty_0.5', 0):.0f})"
            )
    return best, row


def _score(row: AblationRow, step: Step) -> float:
    """Return the measure that the search of a step maximizes."""
    return row.usefulness if step.search == "usefulness" else row.numbers["miou"]
