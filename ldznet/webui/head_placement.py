"""Decide where a head computes and where it stays between runs, by the settings and the command line."""

from __future__ import annotations

from typing import Any

import torch

from ldznet.errors import OptionError
from ldznet.heads.convert import DTYPES
from ldznet.methods.learned_head import LearnedHead
from ldznet.webui.app import App
from ldznet.webui.head_files import wants_8_bits
from ldznet.webui.settings_page import IN_8_BITS, SettingsPage


def head_device(app: App, settings_page: SettingsPage) -> tuple[torch.device, torch.dtype | None]:
    """Return device and precision of heads; None is the precision of the head's file.

    Raises:
        OptionError: --ldznet-device is not a device, or the setting of the precision cannot be used.
    """
    flag = app.flag("ldznet_device")
    try:
        device = app.device() if flag is None else torch.device(flag)
    except RuntimeError as why:
        raise OptionError(f"--ldznet-device is {flag!r}, which PyTorch does not know ({why}).") from why
    precision = settings_page.precision()
    if precision not in ("auto", IN_8_BITS):
        return device, DTYPES[precision]
    # Half precision is slow on a CPU.
    return device, torch.float32 if device.type == "cpu" else None


def head_storage(head: str, settings_page: SettingsPage) -> torch.dtype | None:
    """Return in which precision the weights of a head rest, by its name in the panel; None: as it computes.

    Raises:
        OptionError: the setting of the precision cannot be used.
    """
    return torch.int8 if wants_8_bits(head) or settings_page.precision() == IN_8_BITS else None


def place_head(app: App, method: Any, model: Any, device: torch.device, rest: str) -> None:
    """Move a head to where it stays; a method without a head stays as it is.

    `rest` is the setting. Where the program has a memory manager for the device, that one moves the head. Where
    the program can take the model off the device, as with --medvram and --lowvram, a head is never on the device
    together with the UNet.
    """
    if not isinstance(method, LearnedHead):
        return
    carrier = app.carrier(method.head, device)
    if carrier is not None:
        method.entrust(carrier, stays=rest == "GPU")
        return
    make_room = app.room_maker(model)
    # With --medvram and --lowvram "GPU" acts as "CPU": the head leaves the device after each of its steps.
    if device.type == "cpu" or (rest == "GPU" and make_room is None):
        method.to(device)
    elif make_room is None:
        method.visit(device)
    else:
        method.visit(device, make_room)
