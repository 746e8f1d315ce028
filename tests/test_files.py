"""Writing whole or not at all, the lock between processes, and the cache."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ldznet.files import (
    LruCache,
    atomic_path,
    locked,
    process_runs,
    remove_leftovers,
    temporary_folder,
    temporary_name,
    write_text,
)


def test_the_new_file_appears_when_the_block_ends_and_nothing_else_is_left(tmp_path):
    target = tmp_path / "report.json"

    with atomic_path(target) as temporary:
        temporary.write_text("whole")
        assert not target.exists()
        assert temporary.parent == tmp_path

    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert target.read_text() == "whole"


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_file_that_a_library_writes_can_be_read_by_whom_any_new_file_can(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "head.safetensors") as temporary:
            save_file({"weight": np.zeros(2)}, temporary)
            temporary.chmod(0o600)  # as newer versions of safetensors do
    finally:
        os.umask(before)

    assert (tmp_path / "head.safetensors").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_block_that_raises_leaves_the_old_file_and_no_other(tmp_path, error):
    target = tmp_path / "report.json"
    target.write_text("old")

    with pytest.raises(error), atomic_path(target) as temporary:  # noqa: PT012
        temporary.write_text("ha")
        raise error

    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("report.json", "old")]


@pytest.mark.parametrize("links", [True, False])
def test_without_overwrite_a_file_that_appeared_meanwhile_stays(tmp_path, monkeypatch, links):
    if not links:

        def refuse(*_args):
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    target = tmp_path / "head.safetensors"

    with atomic_path(target, overwrite=False) as temporary:
        temporary.write_text("first")
    assert target.read_text() == "first"

    target.unlink()
    with pytest.raises(FileExistsError), atomic_path(target, overwrite=False) as temporary:  # noqa: PT012
        temporary.write_text("ours")
        target.write_text("theirs")

    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("head.safetensors", "theirs")]


def test_a_name_of_255_letters_can_be_written_and_text_is_utf_8_everywhere(tmp_path):
    target = tmp_path / ("a" * 250 + ".json")

    write_text(target, "bücket バケツ\n")

    assert target.read_bytes() == "bücket バケツ\n".encode()


def test_a_temporary_folder_goes_with_all_that_it_holds(tmp_path):
    with pytest.raises(ZeroDivisionError), temporary_folder(tmp_path) as folder:  # noqa: PT012
        (folder / "mask.png").write_text("x")
        raise ZeroDivisionError

    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_killed_processes_go_and_those_of_living_ones_stay(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    own = temporary_name()
    (tmp_path / own).write_text("being written")
    killed = own.replace(f"-{os.getpid()}-", f"-{process.pid}-")
    (tmp_path / killed).write_text("left")
    (tmp_path / f"{killed}2").mkdir()
    (tmp_path / f"{killed}2" / "mask.png").write_text("left")
    (tmp_path / ".ldznet-other_machine-1-ab.partial").write_text("unknown")

    remove_leftovers(tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {own, ".ldznet-other_machine-1-ab.partial"}
    assert process_runs(str(os.getpid()))
    assert not process_runs(str(process.pid))


def test_a_killed_process_leaves_the_old_file_and_a_recognisable_leftover(tmp_path):
    target = tmp_path / "report.json"
    target.write_text("old")
    program = (
        "import os, signal, sys; from ldznet.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as t:\n    t.write_text('ha'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program, str(target)], check=False, cwd=Path(__file__).parents[1])
    assert len(list(tmp_path.iterdir())) == 2

    remove_leftovers(tmp_path)

    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("report.json", "old")]


def test_one_process_at_a_time_holds_a_lock_and_a_killed_one_frees_it(tmp_path):
    program = (
        "import sys, time; from ldznet.files import locked\n"
        "with locked(sys.argv[1]):\n    print('locked', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]) as process:
        process.stdout.readline()
        with pytest.raises(TimeoutError, match="in use"), locked(tmp_path, wait=0):
            pass
        with locked(tmp_path / "other", wait=0):
            pass
        process.kill()
        process.wait()

    with locked(tmp_path, wait=10):
        assert list(tmp_path.iterdir()) == []


def test_the_cache_keeps_what_was_used_last():
    cache = LruCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)

    assert (cache.get("b"), cache.values(), len(cache)) == (None, [1, 3], 2)
    assert "a" in cache
    assert cache.pop("a") == 1
    assert cache.pop("a") is None
    cache.clear()
    assert len(cache) == 0


def test_the_cache_drops_by_size_but_keeps_the_last_value():
    cache = LruCache(10, size=8, size_of=sum)
    for number in (3, 4, 5):
        cache.put(number, number)
    assert cache.values() == [5]

    cache.put("large", 100)

    assert cache.values() == [100]


def test_the_cache_takes_many_threads():
    cache = LruCache(4, size=100, size_of=len)

    def work():
        for number in range(2000):
            cache.put(number % 7, number)
            cache.get((number + 3) % 7)
            cache.values()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(cache) == 4
