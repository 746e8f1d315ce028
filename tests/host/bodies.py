"""Requests to our routes for several tests: wrong ones, and those that the schema describes."""

import base64
import json
import random

from host.api import base64_of
from host.brightness import half
from ldznet.webui.api.models import OF_A_RUN
from ldznet.webui.controls import CONTROLS

ROUTES = [("POST", "/segment"), ("GET", "/heads"), ("POST", "/unload"), ("GET", "/status")]


def bad_bodies(count, seed=0):
    """Return wrong requests: missing and added fields, wrong types, damaged images, no JSON."""
    chance = random.Random(seed)
    good = {"image": base64_of(half()), "prompt": "bright"}
    names = [control.name for control in CONTROLS if control.name not in OF_A_RUN]
    names += ["image", "mask", "return_mask", "return_masks", "return_overlay", "probability_size"]
    odd = [
        None, {}, [], [[]], {"a": {"b": []}}, -1, 2**70, 1e308, -0.5, float("nan"), float("-inf"), "\ud800", "\0",
        "' OR 1=1", "../" * 9, "http://127.0.0.1/", "file:///etc/passwd", "data:image/png;base64,", "A" * 30_000,
        "💧" * 3000, [None] * 200, ["a"] * 101, [1.5], [True], ["\ud800"], "" ,
    ]  # fmt: skip
    wrong_anywhere = [None, {}, [[]], {"a": 1}, [None], [{}]]
    for number in range(count):
        kind = number % 5
        body = dict(good)
        if kind == 0:
            body[chance.choice(names)] = chance.choice(wrong_anywhere)
            if body["image"] == good["image"] and body["prompt"] == good["prompt"] and len(body) == 2:
                del body["prompt"]
            if None in (body.get("mask", 0), body.get("threshold", 0)):  # these two may be null
                del body["image"]
            yield json.dumps(body).encode()
        elif kind == 1:
            body["".join(chance.choices("abc_\ud800💧 /.", k=chance.randrange(1, 40)))] = chance.choice(odd)
            yield json.dumps(body).encode()
        elif kind == 2:
            del body[chance.choice(["image", "prompt"])]
            body |= {chance.choice(names[2:]): chance.choice(odd) for _ in range(3)}
            body.pop(chance.choice(["image", "prompt"]), None)
            yield json.dumps(body).encode()
        elif kind == 3:
            data = bytearray(base64.b64decode(good["image"]))
            del data[chance.randrange(8, 60) :]
            body["image"] = base64.b64encode(data).decode()
            yield json.dumps(body).encode()
        else:
            text = bytearray(json.dumps(body).encode())
            for _ in range(chance.randrange(1, 4)):
                text[chance.randrange(40)] = chance.randrange(128, 256)
            yield bytes(text)


def asked_as_the_schema_says(schema, examples, **headers):
    """Send right and wrong requests; return the routes, if all answers are as the schema promises."""
    import schemathesis
    from hypothesis import HealthCheck, given, settings
    from schemathesis.specs.openapi import checks

    chosen = [
        schemathesis.checks.not_a_server_error,
        checks.status_code_conformance,
        checks.response_schema_conformance,
        checks.content_type_conformance,
        checks.negative_data_rejection,
    ]
    few = settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    asked = set()
    for operation in schema.include(path_regex="^/ldznet/").get_all_operations():
        found = operation.ok()
        modes = [schemathesis.GenerationMode.POSITIVE]
        modes += [schemathesis.GenerationMode.NEGATIVE] if found.body else []  # else nothing can be wrong
        for mode in modes:
            cases = found.as_strategy(generation_mode=mode)

            @few
            @given(case=cases)
            def one(case):
                asked.add((case.method, case.path.removeprefix("/ldznet")))
                case.call_and_validate(checks=chosen, headers=headers)

            one()
    return asked
