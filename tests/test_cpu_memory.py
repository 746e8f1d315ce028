"""Freed memory stays with the process while networks run on a CPU, and goes back afterwards."""

import platform
import subprocess
import sys

import pytest

from ldznet import cpu_memory
from ldznet.cpu_memory import kept_memory


class Library:
    """glibc: keeps the calls."""

    def __init__(self):
        self.calls = []

    def mallopt(self, parameter, value):
        self.calls.append((parameter, value))

    def malloc_trim(self, pad):
        self.calls.append(("trim", pad))


BEGIN = [(-4, 0), (-1, 2**31 - 1)]  # no blocks of their own, nothing given back
END = [(-4, 65536), (-3, 32 * 2**20), (-1, 64 * 2**20), ("trim", 0)]


@pytest.fixture
def library(monkeypatch):
    library = Library()
    monkeypatch.setattr(cpu_memory, "_glibc", lambda: library)
    return library


def test_the_outer_block_changes_the_settings_and_restores_them_when_it_raises(library):
    def work():
        with kept_memory("cpu"):
            with kept_memory("cpu"):
                assert library.calls == BEGIN
            assert library.calls == BEGIN
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()

    assert library.calls == BEGIN + END


def test_nothing_happens_for_another_device(library):
    with kept_memory("cuda"):
        pass

    assert library.calls == []


def test_nothing_happens_with_another_c_library(monkeypatch):
    cpu_memory._glibc.cache_clear()
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    try:
        assert cpu_memory._glibc() is None
        with kept_memory("cpu"):
            pass
    finally:
        cpu_memory._glibc.cache_clear()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_a_large_block_costs_the_system_no_work_again_inside_and_is_given_back_after():
    code = """
import resource, torch
from ldznet.cpu_memory import kept_memory
torch.set_num_threads(1)
x = torch.ones(10_000_000)
def faults():
    # The first blocks find holes in the memory that do not fit, so the best of several counts.
    counts = []
    for _ in range(12):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        x + 1
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return min(counts)
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
outside, before = faults(), resident()
with kept_memory("cpu"):
    inside, kept = faults(), resident()
after = resident()
print(outside, inside, kept - before, after - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    outside, inside, kept, after = map(float, done.stdout.split())
    # pages of 4 KB of a block of 40 MB
    assert outside > 5000
    assert inside < 100
    # MB
    assert kept > 30
    assert after < 10
