"""Leaving a launch of several processes (torchrun, accelerate launch) without harm to the others.

A launcher ends all processes as soon as one of them fails. So a process in which something could not be done
waits for the others before it says so; they meet in the store that torchrun keeps for its processes.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta

from ldznet.commands.arguments import process_of_launch


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
