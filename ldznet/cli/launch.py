"""Let the processes of one launch (torchrun, accelerate launch) end without harm to each other.

A launcher ends all processes as soon as one of them fails. So a process that failed waits for the others before it
ends; they meet in the store that torchrun keeps for its processes.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta

from ldznet.cli.flags import process_of_launch
from ldznet.errors import OptionError


def require_own_gpus(device: str | None, gpus: int) -> None:
    """Refuse to train where processes of this machine would share a GPU, which NCCL cannot do.

    Raises:
        OptionError: one GPU is named for all of them, or there are more processes than GPUs.
    """
    text = os.environ.get("LOCAL_WORLD_SIZE", "1")  # other launchers show each process only its own GPU
    local = int(text) if text.isdecimal() else 1
    if local > 1 and device is not None and ":" in device:
        raise OptionError(
            f"--device {device} names one GPU for all {local} processes, but in a training each needs its own. "
            "Give --device cuda, and choose the GPUs with CUDA_VISIBLE_DEVICES."
        )
    if local > gpus:
        raise OptionError(
            f"{local} processes were started here, but there are {gpus} GPUs, and to train together each needs "
            f"its own. Give --num_processes {gpus} (torchrun: --nproc_per_node {gpus})."
        )


def leave(*, failed: bool) -> None:
    """Report that this process is done; one that failed waits until all have reported."""
    rank, world = process_of_launch()
    if world == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return  # no launcher that ends the others
    from torch import distributed

    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    parts = [f"ldznet/{attempt}/{number}" for number in range(world)]
    try:
        store = distributed.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=60),
        )
        store.set(parts[rank], "done")
        while failed and not store.check(parts):
            time.sleep(0.1)
    except (RuntimeError, KeyError, ValueError):
        return  # the launcher has ended, and with it the others
