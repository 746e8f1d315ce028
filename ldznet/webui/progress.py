"""How far a piece of work is, in the webui's own progress bar; Interrupt and Skip end it between two steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ldznet.errors import LdznetError
from ldznet.inference.passes import Progress
from ldznet.webui.controls import TITLE

_FIELDS = ("job_count", "sampling_step", "sampling_steps", "textinfo")
_LONGEST = 80  # characters of the live text


class StoppedError(LdznetError):
    """The user has pressed Interrupt or Skip."""


@contextmanager
def shown(text: str, progress: Progress | None = None) -> Iterator[Progress]:
    """Call what it gives with (done, total) between two steps; `progress` is called too.

    Afterwards the webui's state is as it was: a run counts its own jobs only where nobody has begun to.

    Raises:
        StoppedError: the user has had enough, at the beginning already or when the progress is told.
    """
    from modules import shared  # type: ignore[import-not-found]

    state = shared.state
    before = {name: getattr(state, name, None) for name in _FIELDS}

    def report(done: int, total: int) -> None:
        stop_if_asked()
        state.sampling_step, state.sampling_steps = _scaled(done, total)
        if progress is not None:
            progress(done, total)

    stop_if_asked()
    try:
        if (before["job_count"] or 0) < 1:  # nobody counts yet: this is the one job
            state.job_count = 1
        state.sampling_step, state.sampling_steps = 0, 1
        state.textinfo = f"{TITLE}: {' '.join(text.split())}"[:_LONGEST]  # the page shows one line only
        yield report
    finally:
        for name, value in before.items():
            setattr(state, name, value)


@contextmanager
def bar(task: str) -> Iterator[Callable[[], None]]:
    """The webui's own bar, which the page has asked for by a task's name, follows once what it gives is called; it
    goes when the block ends.
    """
    if not task:
        yield lambda: None
        return
    from modules import progress  # type: ignore[import-not-found,unused-ignore]

    progress.add_task_to_queue(task)
    try:
        yield lambda: progress.start_task(task)
    finally:
        progress.pending_tasks.pop(task, None)
        progress.finish_task(task)


def stop_if_asked() -> None:
    """Between two steps.

    Raises:
        StoppedError: the user has pressed Interrupt or Skip. The webui forgets about Skip when it has skipped, and
            so do we; Interrupt ends the other files of a batch as well.
    """
    from modules import shared

    state = shared.state
    if state.interrupted or state.skipped or state.stopping_generation:
        state.skipped = False
        raise StoppedError("The segmentation was interrupted. Nothing was generated.")


def _scaled(done: int, total: int) -> tuple[int, int]:
    """Bytes become parts of a thousand: the fields are meant for steps."""
    return (done, total) if total <= 1000 else (1000 * done // total, 1000)
