"""Processes of one launch (torchrun, accelerate launch): a GPU for each, and leaving without harm to the others.

A launcher ends all processes as soon as one of them fails. So a process in which something could not be done
waits for the others before it says so; they meet in the store that torchrun keeps for its processes.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta

from ldznet.cli.flags import process_of_launch
from ldznet.errors import OptionError


def require_own_gpus(asked: str | None, gpus: int) -> None:
    """Refuse to train where processes of this machine would share a GPU: what joins them, NCCL, cannot do that.

    Raises:
        OptionError: one GPU is named for all of them, or there are more processes than GPUs.
    """
    text = os.environ.get("LOCAL_WORLD_SIZE", "1")  # launchers that do not say it give each process its GPU alone
    local = int(text) if text.isdecimal() else 1
    if local > 1 and asked is not None and ":" in asked:
        raise OptionError(
            f"--device {asked} names one GPU for all {local} processes, but to train together each needs its own. "
            "Give --device cuda, and which GPUs there are to be with CUDA_VISIBLE_DEVICES."
        )
    if local > gpus:
        raise OptionError(
            f"{local} processes were started here, but there are {gpus} GPUs, and to train together each needs "
            f"its own. Give --num_processes {gpus} (torchrun: --nproc_per_node {gpus})."
        )


def leave(*, failed: bool) -> None:
    """Say that this process has done its part; one that failed waits until all have said so."""
    rank, world = process_of_launch()
    if world == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return  # nobody ends the others
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
        return  # the launcher has gone, and with it the others
