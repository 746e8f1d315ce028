"""A training that is killed, at any moment, and goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PLACES = (Path(__file__).parents[3], Path(__file__).parents[2])  # the package, and what the tests share


@pytest.mark.skipif(not hasattr(os, "fork"), reason="its processes are forked")
def test_killed_at_any_moment_a_training_leaves_files_that_load_and_ends_with_the_bits_of_one_that_was_not(
    tmp_path,
):
    run = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "killed_training.py"), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, PLACES))},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout)
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    assert said == {"survived": [], "unreadable": []}
    for name in ("last.safetensors", "best.safetensors", "metrics.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    states = [torch.load(folder / "state.pt", weights_only=True) for folder in (whole, killed)]
    for part in ("module", "average"):
        assert all(torch.equal(states[0][part][name], states[1][part][name]) for name in states[0][part])
    assert [row for row in states[0]["rows"] if "loss" in row] == [
        row for row in states[1]["rows"] if "loss" in row
    ]
    assert list(killed.glob("*partial")) == []
