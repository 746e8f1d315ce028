"""A training that is killed again and again: python killed_training.py FOLDER.

FOLDER/whole is trained at once. FOLDER/killed is trained by one process after the other, each of which is killed
at a moment of its own, and at last by one that comes through. Prints as JSON which moments did not come, and what
of the files could not be read after a kill.
"""

import csv
import io
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import torch
from accelerate import Accelerator  # noqa: F401  here, so that not every process has to
from stand_in_art import stand_in_samples
from stand_ins import SmallestHost

from ldznet.heads import head_file, writer
from ldznet.methods.learned_head import random_head
from ldznet.research.training.trainer import Trainer, TrainOptions

OPTIONS = TrainOptions(
    steps=3,
    batch=1,
    size=64,
    rate=1e-3,
    crop="whole",
    posterior="mean",
    log_every=2,
    save_every=1,
    validate_every=2,
)
# Event, and which one of its kind in a process; nothing of a step is kept before its state is renamed.
MOMENTS = (
    ("open", 1),
    ("os.rename cache", 1),
    ("between weights and average", 1),
    ("open", 3),
    ("in the middle of a head", 1),
    ("os.rename last.safetensors", 1),
    ("os.rename metrics.csv", 1),
    ("in the middle of the state", 1),
    ("os.rename state.pt", 1),
    ("in the middle of the state", 2),
    ("os.rename best.safetensors", 1),
    ("os.rename state.pt", 1),
    ("in the middle of a head", 3),
    ("os.rename state.pt", 1),
)


def train(host, folder):
    def validate(method, picture):
        picture.parent.mkdir(exist_ok=True, parents=True)
        picture.write_bytes(b"")
        return {"miou": float(method.record["head"].removeprefix("step "))}

    trainer = Trainer(
        host,
        random_head(host.info.unet, "znet").head,
        stand_in_samples(2),
        OPTIONS,
        folder,
        validate=validate,
        cache=folder / "cache",
    )
    trainer.metrics.board = lambda _step: None
    trainer.run(say=lambda _text: None)


def arm(moment, folder):
    """Kill this process at an event."""
    count = Counter()

    def happens(what):
        count[what] += 1
        if (what, count[what]) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event, arguments):
        if event == "os.rename" and str(arguments[1]).startswith(str(folder)):
            happens(f"os.rename {Path(arguments[1]).relative_to(folder).parts[0]}")
        elif event == "open" and set(str(arguments[1])) & set("wax") and str(arguments[0]).startswith(str(folder)):
            happens("open")

    whole_save, fitted_weight, average = torch.save, writer.fitted_weight, Trainer._update_average

    def save(state, file):
        written = io.BytesIO()
        whole_save(state, written)
        half = written.tell() // 2
        file.write_bytes(written.getvalue()[:half])
        happens("in the middle of the state")
        file.write_bytes(written.getvalue())

    def weight_and_perhaps_the_end(name, tensor, dtype):
        if name == "middle_block.0.in_layers.0.weight":
            happens("in the middle of a head")
        return fitted_weight(name, tensor, dtype)

    def update(trainer):
        happens("between weights and average")
        average(trainer)

    sys.addaudithook(hook)
    torch.save, writer.fitted_weight, Trainer._update_average = save, weight_and_perhaps_the_end, update


def in_a_process(work):
    """Whether it came through."""
    child = os.fork()
    if not child:
        work()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), f"the training failed by itself: {status}"
    return status == 0


def broken(folder):
    """What cannot be read of the files that stand under their names."""
    found = []
    for path in sorted(folder.glob("*.*")):
        try:
            if path.suffix == ".safetensors":
                head_file.load_head(path)
            elif path.suffix == ".pt":
                torch.load(path, weights_only=True)
            elif path.suffix == ".csv":
                list(csv.DictReader(path.open()))
        except Exception as why:
            found.append(f"{path.name}: {why}")
    return found


def main(folder):
    torch.set_num_threads(1)
    host = SmallestHost()
    assert in_a_process(lambda: train(host, folder / "whole"))
    survived, unreadable = [], []
    for moment in MOMENTS:

        def attempt(moment=moment):
            arm(moment, folder / "killed")
            train(host, folder / "killed")

        if in_a_process(attempt):
            survived.append(moment)
        unreadable += broken(folder / "killed")
    assert in_a_process(lambda: train(host, folder / "killed"))
    print(json.dumps({"survived": survived, "unreadable": unreadable}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
