"""One process of a training on several: python launched_training.py FOLDER PARTS [STEP].

It computes its share in so many parts. With STEP the second process kills itself there. The environment says which
process it is, as launchers do.
"""

import os
import signal
import sys
from pathlib import Path

import torch
from stand_in_art import stand_in_samples
from stand_ins import SmallestHost

from ldznet.errors import LaunchError
from ldznet.methods.learned_head import random_head
from ldznet.research.training.trainer import Trainer, TrainOptions


def main(folder, parts, last=0):
    torch.set_num_threads(1)
    options = TrainOptions(steps=4, batch=8, accumulate=parts, size=64, rate=1e-3, log_every=1, save_every=1)
    host = SmallestHost()
    head = random_head(host.info.unet, "znet").head
    trainer = Trainer(host, head, stand_in_samples(4), options, folder)
    whole_loss = trainer.loss

    def loss(batch):
        if last and trainer.step == last and os.environ.get("RANK") == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return whole_loss(batch)

    trainer.loss = loss
    try:
        trainer.run(say=lambda _text: None)
    except LaunchError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
