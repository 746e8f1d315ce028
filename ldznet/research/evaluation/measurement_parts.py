"""Store the counts of a measurement on disk, so that it can be interrupted and shared by several processes.

FOLDER/parts/NAME.R-of-W.json   what process R of W has counted
FOLDER/parts/NAME.R-of-W.alive  written again and again while it measures
"""

from __future__ import annotations

import contextlib
import glob
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ldznet.errors import LaunchError, LdznetError, OptionError
from ldznet.files import write_text
from ldznet.research.evaluation.runner import Part

# Seconds between signs of life, and without one until a process counts as lost.
BEAT, PATIENCE = 30.0, 600.0


class MeasurementParts:
    """The parts of one measurement in a folder; `key` says which measurement.

    The processes of a launch meet only in this folder. So every `BEAT` seconds each of them writes a file, and the
    one that waits for the others sees that they still work.

    Raises:
        OptionError: the folder holds another measurement of that name.
    """

    def __init__(self, folder: Path, name: str, key: str, process: tuple[int, int] = (0, 1)) -> None:
        self.folder, self.name, self.key, self.process = folder / "parts", name, key, process
        self.path = self.folder / f"{name}.{process[0]}-of-{process[1]}.json"
        self.base = self._read(self.path) if self.path.exists() else Part()

    def save(self, part: Part) -> None:
        """Write what this process has counted, added to its part of before."""
        # A copy, because `base` is added again at the next save.
        whole = Part.from_state(self.base.state_dict())
        whole.merge(part)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.path, json.dumps({"key": self.key, **whole.state_dict()}))

    def done(self) -> set[int]:
        """Return the blocks that any process has measured."""
        return set().union(*(self._read(path).blocks for path in self._paths()))

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Give signs of life while the block runs; a single process need not."""
        if self.process[1] == 1:
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        alive, end = self.path.with_suffix(".alive"), threading.Event()

        def beat() -> None:
            count = 0
            # The first sign comes at once: another process may wait already.
            while not end.wait(BEAT if count else 0):
                count += 1
                with contextlib.suppress(OSError):  # a full disk is reported where results are written
                    alive.write_text(str(count), encoding="utf-8")

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()
            alive.unlink(missing_ok=True)

    def whole(self, blocks: int, *, patience: float = PATIENCE) -> Part:
        """Wait until all blocks are measured, and return the sum of all parts.

        Raises:
            LaunchError: no process has given a sign of life for `patience` seconds.
        """
        signs, since = self._signs(), time.monotonic()
        while missing := set(range(blocks)) - self.done():
            # Short enough not to be noticed, and long enough for a network disk.
            time.sleep(0.3)
            if (latest := self._signs()) != signs:
                signs, since = latest, time.monotonic()
            elif time.monotonic() - since > patience:
                # Block b belongs to process b % world.
                silent = sorted({block % self.process[1] for block in missing})
                raise LaunchError(
                    f"{len(missing)} of {blocks} blocks of samples are missing, and the processes that measure "
                    f"them ({', '.join(map(str, silent))} of {self.process[1]}) gave no sign of life for "
                    f"{patience:.0f} seconds: they have ended, or never began. Read their output, and start the "
                    "same command again: what is measured is kept."
                )
        whole = Part()
        for path in self._paths():
            whole.merge(self._read(path))
        return whole

    def _signs(self) -> dict[str, str | int]:
        """Return what changes while a process works: by file its content, or its time."""
        # Contents instead of times for .alive files: clocks of machines differ.
        signs: dict[str, str | int] = {}
        for path in self.folder.glob(f"{glob.escape(self.name)}.*"):
            with contextlib.suppress(OSError):
                alive = path.suffix == ".alive"
                signs[path.name] = path.read_text(encoding="utf-8") if alive else path.stat().st_mtime_ns
        return signs

    def _paths(self) -> list[Path]:
        """List the files of all processes, of any launch."""
        return sorted(self.folder.glob(f"{glob.escape(self.name)}.*-of-*.json"))

    def _read(self, path: Path) -> Part:
        """Read a part, or raise OptionError if it is unreadable or of another measurement."""
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            key, part = state["key"], Part.from_state(state)
        except (OSError, ValueError, KeyError, TypeError, LdznetError) as why:
            raise OptionError(
                f"{path} cannot be read ({why}). Delete it, and its part is measured again."
            ) from why
        if key != self.key:
            raise OptionError(
                f"{path.parent.parent} holds a measurement of other weights, options or data. Give another "
                f"--out, or delete {path.parent}."
            )
        return part
