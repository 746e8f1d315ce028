"""What alwayson_scripts of a request of img2img says of our script: all of it is used, or refused by its name."""

import json

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from host.api import application, base64_of, picture
from host.brightness import half, share

from ldznet.webui import alwayson
from ldznet.webui.controls import CONTROLS

DEFAULTS = [control.default for control in CONTROLS]


@pytest.fixture
def client(webui, method):
    with TestClient(application(webui)) as client:
        yield client


def ask(client, said, name="LD-ZNet segment"):
    body = {"init_images": [base64_of(half())], "alwayson_scripts": {name: said}}
    return client.post("/sdapi/v1/img2img", json=body)


@pytest.mark.parametrize(
    ("said", "named"),
    [
        (
            {"args": [*DEFAULTS, 1]},
            f"was given {len(CONTROLS) + 1} arguments, but it has {len(CONTROLS)}: enabled, ",
        ),
        ({"args": [{"prompt": "bright"}, *DEFAULTS[1:], "more"]}, f"was given {len(CONTROLS) + 1} arguments"),
        ({"args": [{"promt": "bright"}]}, "has no control 'promt'"),
        ({"args": [{"promt": "bright", "enabled": False}]}, "has no control 'promt'"),
        ({"args": [{"prompt": "bright"}, "dark"]}, "after it, 'dark', which stands where prompt stands"),
        ({"args": [{"threshold": 1.5}]}, "Threshold is 1.5, but it must be a number from 0 to 1"),
        ({"args": [False, "bright", "", "auto", "automatic", "0.5"]}, "Threshold is '0.5'"),
        ({"args": ["yes", "bright"]}, "LD-ZNet segment is 'yes', but it must be true or false"),
        ({"args": [{"timesteps": "early"}]}, "Timesteps is 'early'"),
        ({"args": [{"invert": 1}]}, "Invert is 1, but it must be true or false"),
        ({"args": [{"prompt": "bright", "seeds": " ".join(map(str, range(1001)))}]}, "make up to 1001 passes"),
        ({"args": [{"prompt": " | ".join("x" * 101)}]}, "have 101 parts together, but at most 100 are taken"),
        (
            {"args": {"prompt": "bright"}},
            "\"args\" of LD-ZNet segment is {'prompt': 'bright'}, but it must be a list",
        ),
        ({"prompt": "bright"}, "in alwayson_scripts has ['prompt'], but only \"args\" in an object is read"),
        ({"args": [], "arg": []}, "in alwayson_scripts has ['arg', 'args']"),
        ([True, "bright"], "in alwayson_scripts is [True, 'bright'], but only \"args\""),
        (None, "in alwayson_scripts is None"),
    ],
)
@pytest.mark.parametrize("name", ["LD-ZNet segment", "ld-znet SEGMENT"])
def test_what_would_not_be_used_is_refused_by_its_name_before_anything_runs(client, method, name, said, named):
    answer = ask(client, said, name)

    assert answer.status_code == 422
    assert named in answer.json()["detail"]
    assert method.calls == 0


@pytest.mark.parametrize(
    "args",
    [
        [{"prompt": "bright", "append": True}],
        [{"enabled": None, "prompt": "bright", "append": True}],
        [True, "bright", *DEFAULTS[2:]],
    ],
)
def test_what_is_right_reaches_the_run(client, args):
    place = [control.name for control in CONTROLS].index("append")
    if len(args) > 1:
        args[place] = True

    answer = ask(client, {"args": args})

    assert share(picture(answer.json()["images"][1])) == (1.0, 0.0)
    found = json.loads(answer.json()["info"])["extra_generation_params"]["LD-ZNet found"]
    assert found["prompts"][0]["prompt"] == "bright"


@pytest.mark.parametrize("said", [{}, {"args": []}, {"args": [False]}, {"args": [None] * len(CONTROLS)}])
def test_what_says_nothing_is_off(client, method, said):
    assert ask(client, said).status_code == 200
    assert method.calls == 0


def test_other_scripts_are_none_of_our_business(client):
    assert ask(client, ["anything"], "ControlNet").status_code == 200


def test_a_webui_without_that_route_and_another_answer_of_it_stay_as_they_are():
    app = FastAPI()

    @app.get("/other")
    def other(prompt: str):
        return {"prompt": prompt}

    @app.post(alwayson.ROUTE)
    async def img2img(body: dict):
        return body

    alwayson.watch(app)

    with TestClient(app) as client:
        assert client.get("/other?prompt=a").json() == {"prompt": "a"}
        assert client.post(alwayson.ROUTE, json={"a": 1}).json() == {"a": 1}


@pytest.mark.parametrize(
    ("infotext", "status"),
    [
        ("a cat\nSteps: 20, LD-ZNet prompt: bright, LD-ZNet threshold: 0.3", 422),
        ("a cat\nLD-ZNet prompt: bright", 422),
        ("LD-ZNet found: nothing, as the prompt says\nSteps: 20", 200),
        ("a cat\nSteps: 20", 200),
        (None, 200),
    ],
)
def test_settings_that_are_said_by_names_and_in_infotext_as_well_are_refused(client, method, infotext, status):
    said = {"LD-ZNet segment": {"args": [{"prompt": "bright"}]}}
    body = {"init_images": [base64_of(half())], "alwayson_scripts": said, "infotext": infotext}

    answer = client.post("/sdapi/v1/img2img", json=body)

    assert answer.status_code == status
    assert ("twice: in infotext" in answer.text) == (status == 422)
