"""Random values for all controls of the panel, with prompts that are hard to write and read back."""

import random

from ldznet.webui.controls import CONTROLS

WORDS = (
    "bucket", "red hat | shoe", "a, b: c", 'the "red" one', '"bucket"', "two\nlines", "emoji 🪣 | 帽子", "3x4",
    "512x512", " led by a space", "followed by two  ", "a\\b", '\\"', '"', '""', '"open', "closed\"", "[1]",
    '["a"]', "[", "-", "x", "LD-ZNet prompt", "LD-ZNet prompt: no", "Steps: 99", "tab\there", "return\rhere", ",",
    ":", "None", "Negative prompt: none", "True", "{}", "a\u2028b", "\x07bell", "ends with a comma,",
    "C:\\new\\table",
)  # fmt: skip


def some_values(number):
    """Return random values of all controls."""
    draw = random.Random(number)
    values = {}
    for control in CONTROLS:
        if draw.random() < 0.3:
            values[control.name] = control.default
        elif control.kind == "switch":
            values[control.name] = draw.random() < 0.5
        elif control.name in ("timesteps", "seeds", "objects"):
            values[control.name] = draw.choice(["", "7", "1 2", "3, 4", " 5"])
        elif control.kind == "text" or control.name == "head":
            values[control.name] = draw.choice(["", " | ", ", "]).join(draw.sample(WORDS, draw.randint(1, 3)))
        elif control.kind == "choice":
            values[control.name] = draw.choice(control.choices)
        elif isinstance(control.default, int):
            values[control.name] = draw.randint(int(control.low), min(int(control.high), 4096))
        else:
            values[control.name] = draw.choice(
                [control.low, control.high, draw.uniform(control.low, control.high)]
            )
    return values | {"enabled": True, "prompt": values["prompt"] or "bucket"}
