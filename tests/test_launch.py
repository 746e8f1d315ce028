"""Several processes that train together: the result of one, and an end when one of them is lost."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch


def launch(folder, *arguments, processes):
    """Start each by hand, without a launcher that would end the others; -> their exit codes and what they said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[1]),
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
