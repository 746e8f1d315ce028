"""python -m ldznet train diffusion: train the embedded diffusion model, stage by stage."""

from __future__ import annotations

import argparse
import json

from ldznet.cli.flags import process_of_launch
from ldznet.errors import OptionError
from ldznet.research.cli.train_head import training_device

# Arguments of `train` that the diffusion model uses, and what the parser adds itself.
_USED = frozenset(
    (
        *("command", "data", "folder", "out", "minutes", "steps", "workers", "device", "go_on", "default_of"),
        *("art", "stage", "precision", "pack"),
    )
)


def train_diffusion(parsed: argparse.Namespace) -> int:
    """Train the stages that are not done yet, then write the model; return 3 when it stopped before."""
    from ldznet.research.embedded.autoencoder import train_decoder, train_encoder
    from ldznet.research.embedded.diffusion import train_unet
    from ldznet.research.embedded.files import export, unpack
    from ldznet.research.embedded.model import TinyConfig
    from ldznet.research.embedded.packed_run import is_packed, pack, unpack_run
    from ldznet.research.embedded.resumable_stage import RunOptions, is_given, join_launch, wait_for_all
    from ldznet.research.embedded.text_encoder import train_text
    from ldznet.research.scenes.icons import IconWorld

    _refuse_unused(parsed)
    # Without --minutes nearly two years, which is no limit.
    minutes = 10**6 if parsed.minutes is None else parsed.minutes
    device = training_device(parsed)[0]
    rank, processes = process_of_launch()
    if processes > 1:
        join_launch(device.type)
    config, world = TinyConfig(), IconWorld.read(parsed.art)
    if parsed.pack:
        print(json.dumps(pack(parsed.out, parsed.pack, config, world)))
        return 0
    # Only once, and by one process: later runs resume what they have trained.
    if parsed.go_on and not (parsed.out / "start.pt").exists() and not rank:
        lay_out = unpack_run if is_packed(parsed.go_on) else unpack
        lay_out(parsed.go_on, parsed.out, config, world)
    # Files must be complete before other processes read them.
    wait_for_all()
    stages = {
        "encoder": (train_encoder, config.encoder_steps),
        "decoder": (train_decoder, config.decoder_steps),
        "text": (train_text, config.text_steps),
        "unet": (train_unet, config.unet_steps),
    }
    names = [parsed.stage] if parsed.stage else list(stages)
    # What --go-on has taken from the model is not trained again.
    names = [name for name in names if not is_given(parsed.out / f"{name}.pt")]
    done = True
    for name in names:
        train, steps = stages[name]
        # --steps means the stage of --stage, and the UNet where all are trained.
        if parsed.steps and name == (parsed.stage or "unet"):
            steps = parsed.steps
        options = RunOptions(
            folder=parsed.out,
            steps=steps,
            minutes=minutes,
            device=str(device),
            workers=parsed.workers,
            autocast=parsed.precision == "bf16",
        )
        done = done and train(config, options, world)
        wait_for_all()
    if rank:
        return 0 if done else 3
    if parsed.stage:
        print(f"{parsed.stage}: {'done' if done else 'stopped; the same command resumes there'}")
    elif done:
        target = parsed.out / "tiny.safetensors"
        print(json.dumps({"written": str(target), **export(config, parsed.out, target, world)}))
    else:
        print("stopped; the same command resumes there")
    return 0 if done else 3


def _refuse_unused(parsed: argparse.Namespace) -> None:
    """Refuse arguments that only the training of a head uses.

    Raises:
        OptionError: such an argument is given.
    """
    unused = [
        f"--{name.replace('_', '-')}"
        for name, value in vars(parsed).items()
        if name not in _USED and value != parsed.default_of(name)
    ]
    if unused:
        raise OptionError(
            f"{', '.join(unused)} would be ignored: the diffusion model has its own recipe, whose only options "
            "are --steps and --precision. Leave them out, or train a head."
        )
