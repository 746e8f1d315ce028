"""What alwayson_scripts of a request of img2img says of our script: all of it is used, or refused by its name."""

import json

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from host.api import application, base64_of, picture
from host.brightness import half, share

from ldznet.webui.a1111_app import A1111App
from ldznet.webui.api import img2img_arguments
from ldznet.webui.controls import CONTROLS

DEFAULTS = [control.default for control in CONTROLS]
OBJECTS = [control.name for control in CONTROLS].index("objects")
OF_A_PICTURE = "a cat\nSteps: 20, Seed: 1, LD-ZNet prompt: bright"


@pytest.fixture
def client(webui, method):
    with TestClient(application(webui)) as client:
        yield client


def ask(client, said, name="LD-ZNet segment", **more):
    return run(client, alwayson_scripts={name: said}, **more)


def run(client, **more):
    return client.post("/sdapi/v1/img2img", json={"init_images": [base64_of(half())], **more})


def told(answer):
    """What is written below the picture, and what was found."""
    assert answer.status_code == 200, answer.text
    return json.loads(answer.json()["info"])["extra_generation_params"]


@pytest.mark.parametrize(
    ("said", "named"),
    [
        (
            {"args": [*DEFAULTS, 1]},
            f"has {len(CONTROLS) + 1} values, but only the first {len(CONTROLS)} are used",
        ),
        ({"args": [{"prompt": "bright"}, *DEFAULTS[1:], "more"]}, f"has {len(CONTROLS) + 1} values"),
        ({"args": [{"promt": "bright"}]}, "has no control 'promt'"),
        ({"args": [{"prompt": "bright"}, "dark"]}, "after it, 'dark' at the place of prompt"),
        ({"args": [{"threshold": 1.5}]}, "Threshold is 1.5, but it must be from 0.0 to 1.0: "),
        ({"args": [True, "bright", "", "auto", "automatic", "0.5"]}, "Threshold is '0.5'"),
        (
            {"args": [{"padding": 999}]},
            "Only masked padding (px) (padding) is 999, but it must be from -1 to 256: ",
        ),
        ({"args": [{"seeds": "9999999999999999999999"}]}, "Seeds of the mask (seeds) is '99999"),
        ({"args": ["yes", "bright"]}, "LD-ZNet segment (enabled) is 'yes', but it must be true or false"),
        ({"args": [{"timesteps": "early"}]}, "Timesteps is 'early'"),
        ({"args": [{"invert": 1}]}, "Invert is 1, but it must be true or false"),
        ({"args": [{"prompt": "bright", "seeds": " ".join(map(str, range(1001)))}]}, "make up to 1001 passes"),
        ({"args": [{"prompt": " | ".join("x" * 101)}]}, "have 101 parts together, but at most 100 are allowed"),
        (
            {"args": {"prompt": "bright"}},
            "\"args\" of LD-ZNet segment is {'prompt': 'bright'}, but it must be a list",
        ),
        ({"prompt": "bright"}, "in alwayson_scripts has ['prompt'], but only \"args\" in an object is read"),
        ({"args": [], "arg": []}, "in alwayson_scripts has ['arg', 'args']"),
        ({}, "in alwayson_scripts has no values, so that the whole image would be repainted"),
        ({"args": []}, "in alwayson_scripts has no values, so that the whole image would be repainted"),
        ({"args": [{"prompt": ""}]}, "There is no prompt for LD-ZNet segment."),
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


@pytest.mark.parametrize("pages_own", ["", None])
def test_all_that_script_info_shows_may_be_sent_back_with_what_is_the_pages_own_left_empty(client, pages_own):
    args = [True, "bright", *DEFAULTS[2:], pages_own]
    args[OBJECTS] = "1"

    assert told(ask(client, {"args": args}))["LD-ZNet objects"] == "1"


def test_our_script_in_two_spellings_is_refused_as_one_would_be_dropped(client, method):
    said = {"args": [{"prompt": "bright"}]}

    answer = run(client, alwayson_scripts={"LD-ZNet segment": said, "ld-znet segment": said})

    assert answer.status_code == 422
    assert "more than once (LD-ZNet segment, ld-znet segment)" in answer.json()["detail"]
    assert method.calls == 0


def test_the_limit_of_passes_counts_what_the_settings_page_says(client, webui, method):
    webui.shared.opts.ldznet_average_templates = True

    answer = ask(client, {"args": [{"prompt": "bright", "timesteps": " ".join(map(str, range(112)))}]})

    assert answer.status_code == 422
    # 112 timesteps and nine sentences
    assert "make up to 1008 passes" in answer.json()["detail"]
    assert method.calls == 0


@pytest.mark.parametrize("said", [{"args": [False]}, {"args": [None] * len(CONTROLS)}])
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

    @app.post(img2img_arguments.ROUTE)
    async def img2img(body: dict):
        return body

    img2img_arguments.watch_img2img(app, A1111App())

    with TestClient(app) as client:
        assert client.get("/other?prompt=a").json() == {"prompt": "a"}
        assert client.post(img2img_arguments.ROUTE, json={"a": 1}).json() == {"a": 1}


# --- the field infotext ------------------------------------------------------------------------------------


def test_settings_of_a_picture_reach_the_run(client):
    found = told(run(client, infotext=f"{OF_A_PICTURE}, LD-ZNet threshold: 0.3"))

    assert (found["LD-ZNet prompt"], found["LD-ZNet threshold"]) == ("bright", "0.3")


@pytest.mark.parametrize(
    "infotext",
    [
        "LD-ZNet prompt: bright",
        "a cat\nLD-ZNet prompt: bright, LD-ZNet grow: 1",
        "a cat\nSteps: 1, LD-ZNet grow: 1 ",
    ],
)
def test_settings_that_the_webui_would_take_for_a_prompt_are_refused(client, infotext):
    answer = run(client, infotext=infotext)

    assert answer.status_code == 422
    assert "the webui takes a last line with fewer than three parameters for a prompt" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("LD-ZNet threshold: 7", "LD-ZNet threshold in the picture's parameters cannot be used: Threshold is 7.0"),
        ("LD-ZNet timesteps: early", "LD-ZNet timesteps in the picture's parameters cannot be used"),
        ("LD-ZNet prompt: [", "LD-ZNet prompt in the picture's parameters cannot be used"),
    ],
)
def test_a_value_in_infotext_that_cannot_be_used_is_refused_by_its_name(client, method, wrong, said):
    answer = run(client, infotext=f"{OF_A_PICTURE}, {wrong}")

    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(said)
    assert method.calls == 0


def test_passes_that_infotext_asks_for_are_limited(client, method):
    steps = " ".join(map(str, range(1000)))

    answer = run(client, infotext=f"{OF_A_PICTURE}, LD-ZNet timesteps: {steps}, LD-ZNet seeds: 1 2")

    assert answer.status_code == 422
    assert "make up to 2000 passes" in answer.json()["detail"]
    assert method.calls == 0
