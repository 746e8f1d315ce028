"""Files that are written whole or not at all, their digest, a lock between processes, and a small cache.

Knows nothing of weights, images or reports. `OSError` is passed on as it is: the caller says in words what could
not be written and what to do.
"""

from __future__ import annotations

import contextlib
import getpass
import glob
import hashlib
import os
import platform
import re
import secrets
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

import filelock

Key = TypeVar("Key")
Value = TypeVar("Value")

# --- writing, then renaming ----------------------------------------------------------------------

_TEMPORARY = ".ldznet-"  # begins the name of everything temporary; hidden, so that no folder of images shows it


def temporary_name() -> str:
    """Return a new name for a temporary file or folder of this process, which `remove_leftovers` recognises."""
    # The name of the target is not part of it: with that, a name of 255 letters would become too long.
    return f"{_TEMPORARY}{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.partial"


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str], *, overwrite: bool = True) -> Iterator[Path]:
    """Yield the path of an empty temporary file, which takes the name `path` when the block ends well.

    The temporary file lies in the same folder, which must exist. It is removed when the block raises. Readers see
    the old content or the new one and never a part, also when the process is killed or the power fails. A link at
    `path` is replaced, not followed. Its permissions are those of any new file. Close it before the block ends.

    Raises:
        FileExistsError: `path` exists and `overwrite` is False; checked at the end, in one step with the renaming.
        OSError: the file cannot be written.
    """
    target = Path(path)
    temporary = target.with_name(temporary_name())
    try:
        temporary.open("xb").close()
        permissions = temporary.stat().st_mode
        yield temporary
        # A library may have written another file of this name, which its owner alone can read (safetensors does).
        if temporary.stat().st_mode != permissions:
            with contextlib.suppress(OSError):  # some network disks have no permissions
                temporary.chmod(permissions)
        # Windows can flush only a file that is open for writing.
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # else the new name may come to disk before the content does
        if overwrite:
            os.replace(temporary, target)
        else:
            _rename_if_free(temporary, target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a new folder inside `folder`, which must exist; remove it and its content at the end."""
    path = Path(folder) / temporary_name()
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def write_text(path: str | os.PathLike[str], text: str, *, overwrite: bool = True) -> None:
    r"""Write a text file as UTF-8 and with "\n" on every system, whole or not at all; see `atomic_path`."""
    with atomic_path(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(text.encode())


def digest_of(paths: Iterable[str | os.PathLike[str]], report: Callable[[int], None] = lambda _bytes: None) -> str:
    """Return the SHA-256 of files, one after the other; `report` gets the bytes of each piece that was read."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while chunk := file.read(2**23):  # 8 MB, so that the largest file takes no memory to speak of
                digest.update(chunk)
                report(len(chunk))
    return digest.hexdigest()


def _rename_if_free(source: Path, target: Path) -> None:
    """Rename, but raise FileExistsError where the target exists; `os.rename` replaces it without a word."""
    if os.name == "nt":
        os.rename(source, target)  # Windows itself refuses
        return
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # FAT and some network drives have no hard links: take the name first, then replace that file
        target.open("xb").close()
        os.replace(source, target)


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Remove temporary files and folders whose process, on this machine, was killed before it could."""
    begin = f"{_TEMPORARY}{_machine()}-"
    for leftover in Path(folder).glob(f"{glob.escape(begin)}*"):
        number = re.match(r"\d+", leftover.name.removeprefix(begin))
        if number is None or process_runs(number[0]):
            continue
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                leftover.unlink()


def process_runs(pid: str) -> bool:
    """Return whether a process with this number runs on this machine; True where the system does not say."""
    if not pid.isdecimal() or os.name == "nt":  # there os.kill(pid, 0) would end the process
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _machine() -> str:
    """Return this machine's name in letters that every file system takes."""
    return re.sub(r"\W", "_", platform.node(), flags=re.ASCII)[:64]


# --- a lock between processes --------------------------------------------------------------------


@contextlib.contextmanager
def locked(path: str | os.PathLike[str], *, wait: float = -1) -> Iterator[None]:
    """Let one process of this machine and user at a time work on `path`, a file or folder that need not exist.

    `wait` is in seconds; a negative number waits without end, 0 not at all. The system frees the lock when the
    process ends, however it ends.

    Raises:
        TimeoutError: another process, or another thread of this one, still holds the lock.
    """
    # The lock's file stays after use (removing it would race with the next owner), so it lies among the system's
    # temporary files and not in a folder that people look at.
    digest = hashlib.sha256(os.path.realpath(path).encode(errors="surrogateescape")).hexdigest()[:24]
    lock = filelock.FileLock(os.path.join(tempfile.gettempdir(), f"ldznet-{_user()}-{digest}.lock"))
    try:
        lock.acquire(timeout=wait)
    except filelock.Timeout as why:
        raise TimeoutError(f"{path} is in use by another process") from why
    try:
        yield
    finally:
        lock.release()


def _user() -> str:
    """Return a mark of the user: a file that another user made in a shared folder could not be opened."""
    if hasattr(os, "getuid"):
        return str(os.getuid())
    return re.sub(r"\W", "_", getpass.getuser(), flags=re.ASCII)


# --- a cache -------------------------------------------------------------------------------------


class LruCache(Generic[Key, Value]):
    """Keep the values that were used last; every method may be called from several threads.

    `count` is the largest number of values. With `size`, the oldest values, but never the last one, are dropped
    while `size_of` of all values is larger. `size_of` gets the values together, because some may share memory.
    """

    def __init__(
        self, count: int, size: int | None = None, size_of: Callable[[Collection[Value]], int] | None = None
    ) -> None:
        assert count >= 1
        assert (size is None) == (size_of is None)
        self.count, self.size, self.size_of = count, size, size_of
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._lock = threading.RLock()  # `size_of` may ask the cache

    def get(self, key: Key) -> Value | None:
        """Return the value and mark it as the last one used; None if it is missing."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Key, value: Value) -> Value:
        """Keep the value, drop the oldest ones that no longer fit, and return the value."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self.count or (len(self._values) > 1 and self._is_too_large()):
                self._values.popitem(last=False)
        return value

    def pop(self, key: Key) -> Value | None:
        """Drop one value and return it; None if it is missing."""
        with self._lock:
            return self._values.pop(key, None)

    def values(self) -> list[Value]:
        """Return all values, the least recently used first, without marking them as used."""
        with self._lock:
            return list(self._values.values())

    def clear(self) -> None:
        """Drop all values."""
        with self._lock:
            self._values.clear()

    def __len__(self) -> int:
        with self._lock:
            return len(self._values)

    def __contains__(self, key: object) -> bool:
        with self._lock:
            return key in self._values

    def _is_too_large(self) -> bool:
        return (
            self.size is not None and self.size_of is not None and self.size_of(self._values.values()) > self.size
        )
