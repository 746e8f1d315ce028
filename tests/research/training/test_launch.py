"""Several processes that train together: a GPU for each, the result of one, an end when one of them is lost."""

import argparse
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ldznet.cli.flags import device_and_dtype
from ldznet.cli.launch import require_own_gpus
from ldznet.errors import OptionError


def launch(folder, *arguments, processes):
    """Start each by hand, without a launcher that would end the others; -> their exit codes and what they said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), str(Path(__file__).parents[2])]),
        **({"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)} if processes > 1 else {}),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    script = str(Path(__file__).parent / "launched_training.py")
    running = [
        subprocess.Popen(
            [sys.executable, script, str(folder), *map(str, arguments)],
            env={**shared, **({"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {})},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    said = [process.communicate(timeout=300)[1] for process in running]
    return [process.returncode for process in running], said


def losses(folder):
    return [row["loss"] for row in torch.load(folder / "state.pt", weights_only=True)["rows"]]


def test_two_processes_that_compute_their_shares_in_parts_give_the_losses_of_one(tmp_path):
    for name, parts, processes in (("one", 1, 1), ("two", 2, 2)):
        codes, said = launch(tmp_path / name, parts, processes=processes)
        assert codes == [0] * processes, said

    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(set(one)) == 4
    assert two == pytest.approx(one, rel=1e-4)


@pytest.mark.skipif(os.name == "nt", reason="a process kills itself")
def test_when_a_process_is_lost_the_other_ends_with_an_error_and_the_training_goes_on_later(tmp_path):
    codes, said = launch(tmp_path, 1, 2, processes=2)

    assert codes == [1, -9]
    assert "Another process of this launch has ended or does not answer" in said[0]
    assert "Traceback" not in said[0]
    assert len(losses(tmp_path)) == 2
    assert launch(tmp_path, 1, processes=1)[0] == [0]
    assert len(losses(tmp_path)) == 4


def device_of(monkeypatch, local, asked, gpus=2):
    """What a process takes on a machine with so many GPUs, though there is none."""
    monkeypatch.setenv("LOCAL_RANK", str(local))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: taken.append(str(device)))
    monkeypatch.setattr(torch, "empty", lambda _size, device: torch.zeros(0))
    taken = []
    device, dtype = device_and_dtype(argparse.Namespace(device=asked, dtype=None))
    assert taken == [str(device)]
    assert dtype == torch.float16
    return str(device)


@pytest.mark.parametrize("asked", ["cuda", None])
def test_each_process_of_a_machine_takes_a_gpu_of_its_own(monkeypatch, asked):
    assert [device_of(monkeypatch, local, asked) for local in (0, 1)] == ["cuda:0", "cuda:1"]
    assert [device_of(monkeypatch, local, asked) for local in (2, 3)] == ["cuda:0", "cuda:1"]  # shared in turn


def test_a_gpu_that_is_named_is_taken_whichever_process_it_is(monkeypatch):
    assert [device_of(monkeypatch, local, "cuda:1") for local in (0, 1)] == ["cuda:1", "cuda:1"]


def test_the_cpu_stays_the_cpu_in_every_process(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")

    assert device_and_dtype(argparse.Namespace(device="cpu", dtype=None)) == (torch.device("cpu"), torch.float32)


def test_a_local_rank_that_is_none_is_an_error(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "first")

    with pytest.raises(OptionError, match=r"LOCAL_RANK is 'first' in the environment.* Unset it"):
        device_and_dtype(argparse.Namespace(device="cpu", dtype=None))


def test_processes_that_train_together_are_refused_one_gpu_for_all(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")

    require_own_gpus(None, 4)
    with pytest.raises(OptionError, match=r"names one GPU for all 4 processes.* Give --device cuda"):
        require_own_gpus("cuda:0", 4)
    with pytest.raises(OptionError, match=r"4 processes were .* there are 2 GPUs.* --num_processes 2"):
        require_own_gpus("cuda", 2)
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    require_own_gpus("cuda:0", 1)
