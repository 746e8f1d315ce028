"""A method that needs no training, images to try it on, and a check of their masks."""

import numpy as np
import torch
from PIL import Image

from ldznet.methods.choose import MethodChoice
from ldznet.methods.method import Defaults
from ldznet.webui import session

SIZE = (128, 64)  # width, height


class Brightness:
    """A method that finds "bright" where the image is bright, "dark" where it is dark, and nothing else.

    It finds "dim" where the image is bright, with four tenths of the probability.
    """

    name, defaults, record, needs_all_prompts = "brightness", Defaults(resolution=64), {}, False

    def __init__(self):
        self.calls = 0

    def check(self, host):
        pass

    def probability(self, host, picture, prompts, draw):
        self.calls += 1
        bright = ((picture.pixels.mean(dim=1) + 1) / 2).clamp(0, 1)[0]
        found = {"bright": bright, "dark": 1 - bright, "dim": 0.4 * bright}
        return torch.stack([found.get(phrase, torch.zeros_like(bright)) for phrase in prompts.phrases])


def use(method, monkeypatch):
    """Let panel, script and routes use this method, whichever is chosen."""
    monkeypatch.setattr(session, "choose_method", lambda *_given, **_more: MethodChoice(method, "of a test"))
    return method


def half(left=255, right=0):
    """Return an image with a bright half."""
    picture = Image.new("RGB", SIZE, (right,) * 3)
    picture.paste((left,) * 3, (0, 0, SIZE[0] // 2, SIZE[1]))
    return picture


def share(mask):
    """Return the selected share of the left and of the right half, without 8 pixels at the edge between them."""
    found, middle = np.asarray(mask) > 127, SIZE[0] // 2
    return round(float(found[:, : middle - 8].mean()), 2), round(float(found[:, middle + 8 :].mean()), 2)
