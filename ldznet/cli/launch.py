"""Processes of one launch (torchrun, accelerate launch): a GPU for each, and leaving without harm to the others.

A launcher ends all processes as soon as one of them fails. So a process in which something could not be done
waits for the others before it says so; they meet in the store that torchrun keeps for its processes.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from datetime import timedelta

from ldznet.errors import OptionError

log = logging.getLogger(__name__)


def process_of_launch() -> tuple[int, int]:
    """Which of how many processes this is, as `accelerate launch` and torchrun say it.

    Raises:
        OptionError: the environment's RANK and WORLD_SIZE are no such numbers.
    """
    if "RANK" not in os.environ and "MASTER_ADDR" in os.environ and os.environ.get("ACCELERATE_USE_CPU") == "True":
        _say_one_process()
    texts = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if all(text.isdecimal() for text in texts) and int(texts[0]) < int(texts[1]):
        return int(texts[0]), int(texts[1])
    raise OptionError(
        f"RANK is {texts[0]!r} and WORLD_SIZE {texts[1]!r} in the environment, which is no process of a launch. "
        "Unset both, or start with accelerate launch."
    )


def local_rank() -> int:
    """Which of the processes of a launch on this machine this is.

    Raises:
        OptionError: the environment's LOCAL_RANK is no such number.
    """
    text = os.environ.get("LOCAL_RANK", "0")
    if text.isdecimal():
        return int(text)
    raise OptionError(
        f"LOCAL_RANK is {text!r} in the environment, which is no process of a launch. Unset it, or start with "
        "accelerate launch."
    )


@functools.cache
def _say_one_process() -> None:
    log.warning(
        "accelerate launch --cpu starts one process on a machine, however many are asked for. For several on a "
        "CPU: torchrun --nproc_per_node N -m ldznet ..."
    )


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
