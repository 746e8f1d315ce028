"""Test our routes in a real webui, started with --nowebui and --api-auth. WEBUI_DIR as in running.py."""

import base64
import json
import re
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from embedded_scenes import PHRASE, README_IMAGE, README_PROMPT, SCENE, image_of
from host.bodies import ROUTES, asked_as_the_schema_says, bad_bodies
from PIL import Image
from running import (
    HEAD,
    LOG,
    NEEDS_A_WEBUI,
    PORT,
    ROOT,
    SIZE,
    THRESHOLD,
    decoded,
    encoded,
    make_data_folder,
    start,
    stop,
)

from ldznet.webui.controls import CONTROLS

ADDRESS, PAIR = f"http://127.0.0.1:{PORT}", "ann:secret"

pytestmark = NEEDS_A_WEBUI


class Client:
    """Ask the webui at ADDRESS, with a name and a password."""

    def __init__(self, pair):
        token = base64.b64encode(pair.encode()).decode()
        self.headers = {"Content-Type": "application/json", "Authorization": f"Basic {token}"}

    def ask(self, verb, path, body=None):
        """Return the answer's JSON."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(ADDRESS + path, data, self.headers, method=verb)
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def scene():
    return image_of(SCENE, SIZE)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    make_data_folder(data)
    start(data, "--nowebui", "--api-auth", PAIR)
    yield Client(PAIR)
    stop()


def test_a_prompt_gives_a_mask_by_the_head_that_fits(server, scene):
    request = {"image": encoded(scene), "prompt": PHRASE, "threshold": THRESHOLD, "return_overlay": True}

    answer = server.ask("POST", "/ldznet/segment", request)

    mask = decoded(answer["mask"])[..., 0]
    assert (answer["method"], mask.shape) == ("ld-znet", SIZE[::-1])
    assert answer["prompts"][0]["area"] == (mask > 127).sum() == answer["area"] > 0
    assert decoded(answer["overlay"]).shape == (*SIZE[::-1], 3)


def test_what_is_loaded_is_reported_and_unloaded(server, scene):
    server.ask("POST", "/ldznet/segment", {"image": encoded(scene), "prompt": PHRASE})

    heads, loaded = server.ask("GET", "/ldznet/heads"), server.ask("GET", "/ldznet/status")
    unloaded = server.ask("POST", "/ldznet/unload")

    assert [head["name"] for head in heads["heads"] if head["fits"]] == [HEAD]
    assert loaded["head"] == HEAD
    assert (unloaded["head"], unloaded["kept"]) == (None, 0)


def test_no_route_answers_without_the_password(server):
    for verb, path in ROUTES:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            Client("ann:wrong").ask(verb, f"/ldznet{path}", {} if verb == "POST" else None)


def test_docs_and_schema_have_every_route(server):
    with urllib.request.urlopen(f"{ADDRESS}/docs", timeout=60) as page:
        assert page.status == 200
    schema = server.ask("GET", "/openapi.json")

    for verb, path in ROUTES:
        route = schema["paths"][f"/ldznet{path}"][verb.lower()]
        assert route["security"] == [{"HTTPBasic": []}]
        assert "$ref" in route["responses"]["200"]["content"]["application/json"]["schema"]


def test_generated_bad_bodies_are_refused_and_leave_the_server_serving(server, scene):
    token = base64.b64encode(PAIR.encode()).decode()
    headers, wrong = {"Content-Type": "application/json", "Authorization": f"Basic {token}"}, []
    before = len(LOG.read_text())  # what the webui could not load at its start is not ours
    for body in bad_bodies(200, seed=1):
        request = urllib.request.Request(f"{ADDRESS}/ldznet/segment", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                wrong.append((answer.status, body[:100]))
        except urllib.error.HTTPError as refused:
            if not 400 <= refused.code < 500 or not json.load(refused)["detail"]:
                wrong.append((refused.code, body[:100]))

    assert wrong == []
    assert "Traceback" not in LOG.read_text()[before:]
    assert (
        server.ask("POST", "/ldznet/segment", {"image": encoded(scene), "prompt": "unicorn"})["width"] == SIZE[0]
    )


def test_schemathesis_finds_no_answer_that_the_schema_does_not_promise(server):
    schemathesis = pytest.importorskip("schemathesis")
    token = {"Authorization": f"Basic {base64.b64encode(PAIR.encode()).decode()}"}
    schema = schemathesis.openapi.from_url(f"{ADDRESS}/openapi.json", headers=token)

    assert asked_as_the_schema_says(schema, 20, **token) == set(ROUTES)


def test_a_refusal_has_its_reason(server, scene):
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.ask("POST", "/ldznet/segment", {"image": encoded(scene), "prompt": "a", "threshold": 2})

    assert json.load(refused.value)["detail"].startswith("threshold: ")


def test_what_img2img_would_leave_out_of_our_arguments_is_refused(server, scene):
    more = {"LD-ZNet segment": {"args": [None] * (len(CONTROLS) + 2)}}

    with pytest.raises(urllib.error.HTTPError) as refused:
        server.ask("POST", "/sdapi/v1/img2img", {"init_images": [encoded(scene)], "alwayson_scripts": more})

    detail = json.load(refused.value)["detail"]
    assert detail.startswith(f'"args" of LD-ZNet segment has {len(CONTROLS) + 2} values, but only the first')


def test_the_xyz_plot_has_our_axes_without_a_page_too(server):
    token = base64.b64encode(PAIR.encode()).decode()
    request = urllib.request.Request(
        f"{ADDRESS}/sdapi/v1/script-info", headers={"Authorization": f"Basic {token}"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        scripts = json.load(answer)

    plot = next(one for one in scripts if one["name"] == "x/y/z plot" and one["is_img2img"])
    axes = plot["args"][0]["choices"]
    assert axes.count("[LD-ZNet] Threshold") == axes.count("[LD-ZNet] What to select") == 1


def test_the_examples_of_curl_and_webuiapi_work(server, tmp_path):
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    (curl,) = (block for block in re.findall(r"```bash\n(.*?)```", text, re.S) if "curl" in block)
    (client,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "import webuiapi" in block)
    Image.open(README_IMAGE).save(tmp_path / "photo.jpg")
    curl = curl.replace("curl -sf", f"curl -sf -u {PAIR}").replace("python -c", f"{sys.executable} -c")
    client = client.replace("port=7860", f'port={PORT}, username="ann", password="secret"')
    client = client.replace('"a green star"', '"a green star", steps=2, width=128, height=128')

    for command in (["bash", "-e", "-c", curl.replace("7860", PORT)], [sys.executable, "-c", client]):
        command[-1] = command[-1].replace("bucket", README_PROMPT)
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=300)
        assert done.returncode == 0, done.stderr

    with Image.open(tmp_path / "mask.png") as mask:
        assert mask.getbbox()
    assert (tmp_path / "star.png").exists()
    assert done.stdout.startswith(f"{README_PROMPT} ")
