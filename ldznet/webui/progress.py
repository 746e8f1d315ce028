"""Show the progress of a piece of work in the webui's progress bar, and stop between two steps on request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ldznet.errors import LdznetError
from ldznet.inference.passes import Progress
from ldznet.webui.app import App
from ldznet.webui.controls import TITLE

_LONGEST_TEXT = 80  # characters of the text in the bar
_MOST_STEPS = 1000


class StoppedError(LdznetError):
    """The user has pressed Interrupt, Skip or Cancel."""


@contextmanager
def progress_shown(app: App, text: str, progress: Progress | None = None) -> Iterator[Progress]:
    """Show `text` as the work in progress; call the yielded function with (done, total) between two steps.

    `progress` is called with the same numbers.

    Raises:
        StoppedError: the user wants it to stop; checked on entry and whenever the yielded function is called.
    """
    stop_if_requested(app)
    one_line = " ".join(text.split())  # the page shows one line only
    with app.show_progress(f"{TITLE}: {one_line}"[:_LONGEST_TEXT]) as show:

        def report(done: int, total: int) -> None:
            stop_if_requested(app)
            show(*_scaled(done, total))
            if progress is not None:
                progress(done, total)

        yield report


def stop_if_requested(app: App) -> None:
    """Raise StoppedError if the user has pressed Interrupt, Skip or Cancel."""
    if app.stop_requested():
        raise StoppedError("The segmentation was interrupted; there is no new mask.")


def _scaled(done: int, total: int) -> tuple[int, int]:
    """Return parts of a thousand for counts of bytes: the bar is meant for steps."""
    return (done, total) if total <= _MOST_STEPS else (_MOST_STEPS * done // total, _MOST_STEPS)
