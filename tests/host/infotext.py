"""Write and read the text below an image as the webui does, and put its values into a script's controls.

After processing.py:771 and infotext_utils.py:57, 233, 255 and 476 of 1.10.1, told anew: a value with a comma, a
colon or a new line is written as JSON; the last line is read from left to right, what is no "key: value" is passed
over; where it has fewer than three of them, it belongs to the prompt.
"""

import contextlib
import json
import string

KEY = set(string.ascii_letters + string.digits + "_ -/")
OTHERS = {"Steps": "20", "Sampler": "Euler a", "CFG scale": "7", "Seed": "1", "Size": "512x512"}


def write(own, prompt="a green star"):
    """Return the text; `own` is p.extra_generation_params."""
    parts = []
    for key, given in {**OTHERS, **own, "Version": "v1.10.1"}.items():
        value = given[0] if isinstance(given, list) else given  # a list has one for each picture
        value = value(p=None, index=0) if callable(value) else value
        if value is not None:
            parts.append(key if key == value else f"{key}: {quoted(value)}")
    return f"{prompt}\nNegative prompt: blurry\n{', '.join(parts)}"


def quoted(value):
    return json.dumps(value, ensure_ascii=False) if set(",:\n") & set(str(value)) else value


def read(text):
    """Return the values of the last line by key."""
    line, found, count, at = text.strip().split("\n")[-1], {}, 0, 0
    while at < len(line):
        start = at
        while start < len(line) and line[start].isspace():
            start += 1
        end = start
        while end < len(line) and (line[end] in KEY or line[end].isalnum()):
            end += 1
        if end - start < 2 or line[start] in " -/" or line[end : end + 1] != ":":
            at += 1  # begins here no key
            continue
        while line[end + 1 : end + 2].isspace():
            end += 1
        value, at = take_value(line, end + 1)
        put(found, line[start : line.index(":", start)], value)
        count += 1
    return found if count >= 3 else {}


def take_value(line, at):
    """Return the value that begins there, and the place after it."""
    if line[at : at + 1] == '"':
        end = at + 1
        while end < len(line) and line[end] != '"':
            end += 2 if line[end] == "\\" else 1
        if end > at + 1 and line[end : end + 1] == '"' and line[end + 1 : end + 2] in ("", ","):
            return line[at : end + 1], end + 2
    end = line.find(",", at)
    end = len(line) if end < 0 else end
    return line[at:end], end + 1


def put(found, key, value):
    if not value:
        return  # it cannot be read, and is told in the log
    if value[0] == value[-1] == '"':
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    sides = str(value).split("x")
    if len(sides) == 2 and all(side.isascii() and side.isdigit() for side in sides):
        found[f"{key}-1"], found[f"{key}-2"] = sides
    else:
        found[key] = value


def paste(fields, text, callbacks=()):
    """Return the values of the page's components after pasting; `fields` is a script's infotext_fields."""
    params = read(text)
    for callback in callbacks:
        callback(text, params)
    shown = []
    for component, key in fields:
        value = key(params) if callable(key) else params.get(key)
        kind = type(component.value)
        if value is None:
            shown.append(component.value)
        elif kind is bool and value == "False":
            shown.append(False)
        else:
            shown.append(float(value) if kind is int else kind(value))
    return shown


def by_api(fields, text):
    """Return the arguments of an API call that has only the text (api.py:366)."""
    params, given = read(text), []
    for component, key in fields:
        value = key(params) if callable(key) else params.get(key)
        if value is not None and not isinstance(value, type(component.value)):
            value = type(component.value)(value)
        given.append(component.value if value is None else value)
    return given
