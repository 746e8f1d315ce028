"""Send many requests to a real webui, at once, interrupted, and while something is broken. See running.py.

SOAK is how many mixed requests are sent while its memory is watched, after as many that warm it up: 200, if
it says nothing else.
"""

import base64
import dataclasses
import json
import math
import os
import random
import re
import shutil
import subprocess
import threading
import time
from statistics import median

import numpy as np
import pytest
from embedded_scenes import (
    ABSENT,
    OTHER,
    OTHER_PHRASE,
    PHRASE,
    SCENE,
    SECOND_PHRASE,
    image_of,
    numbered_image,
)
from host.bodies import bad_bodies
from random_model import STRUCTURE
from running import (
    HOST,
    LOW_THRESHOLD,
    MODEL,
    NEEDS_A_WEBUI,
    ONLY_A1111,
    REPEATS_WITHIN,
    SIZE,
    Client,
    ask,
    decoded,
    encoded,
    make_data_folder,
    resident,
    start,
    stop,
)

from ldznet.heads.head_file import save_head
from ldznet.hosts.diffusers.host import DiffusersHost
from ldznet.methods.learned_head import random_head
from ldznet.methods.load import EMBEDDED

SOAK = int(os.environ.get("SOAK", "200"))
WORDS = (PHRASE, f"{SECOND_PHRASE} | {PHRASE}", "star", "a unicorn in the rain")
NOTHING = {"threshold": 1.0, "grow": -512}
FAULTS = """
import torch
from modules import script_callbacks, scripts, shared

KIND = [""]
ERRORS = {
    "memory": torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "foreign": RuntimeError("other_extension: tensor sizes differ"),
}

def fail(*_):
    if KIND[0] in ERRORS:
        raise ERRORS[KIND[0]]

def fault(kind: str):
    KIND[0] = kind
    model = shared.sd_model
    objects = getattr(model, "forge_objects_original", None)
    unet = (objects.unet.model if objects else model.model).diffusion_model
    if not hasattr(unet, "ldznet_fault"):
        unet.ldznet_fault = unet.time_embed.register_forward_hook(fail)

script_callbacks.on_app_started(lambda _demo, app: app.post("/faults/{kind}")(fault))

class Fault(scripts.Script):
    def title(self):
        return "Fault"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def process(self, p, *args):
        if KIND[0] == "hook":
            raise ZeroDivisionError("of another extension")
"""

pytestmark = NEEDS_A_WEBUI


def is_same(images, others):
    """Return whether two runs have given the same images."""
    if len(images) != len(others):
        return False
    return all(
        np.abs(decoded(one) - decoded(other)).max() <= REPEATS_WITHIN
        for one, other in zip(images, others, strict=True)
    )


def segment(image, prompt=PHRASE, **more):
    return ask("segment", {"image": encoded(image), "prompt": prompt, **more}, at="ldznet")


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """Return the folder models/ldznet of the webui."""
    data = tmp_path_factory.mktemp("data")
    make_data_folder(data)
    script = data / "extensions" / "a-faults" / "scripts" / "faults.py"
    script.parent.mkdir(parents=True)
    script.write_text(FAULTS)
    folder = data / "models" / "ldznet"
    folder.mkdir(parents=True)
    start(data)
    yield folder
    stop()


@pytest.fixture(scope="module")
def client(heads):
    client = Client(image_of(SCENE, SIZE))
    client.run()
    return client


# --- at once, and interrupted ----------------------------------------------------------------------------


def test_two_clients_at_once_get_what_each_gets_alone(client):
    asked = [(image_of(SCENE, SIZE), PHRASE), (image_of(OTHER, (128, 160)), OTHER_PHRASE)]
    options = {"threshold": LOW_THRESHOLD, "return_probabilities": True}
    alone, together, waited = [[], []], [[], []], []
    for number, (image, prompt) in enumerate(asked):
        ask("unload", b"", at="ldznet")
        alone[number] = [told(segment(image, prompt, seeds=[seed], **options)) for seed in range(4)]
    ask("unload", b"", at="ldznet")

    def work(number):
        image, prompt = asked[number]
        for seed in range(4):
            answer = segment(image, prompt, seeds=[seed], **options)
            together[number].append(told(answer))
            waited.append(answer[1]["seconds"]["waited"])

    workers = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert together == alone
    assert len({probabilities for answers in alone for *_, probabilities in answers}) == 8
    assert max(waited) > 0.05  # for each other: the webui's queue is held


def told(answer):
    status, found = answer
    assert status == 200, found
    one = found["prompts"][0]
    return one["prompt"], found["mask"], one["probabilities"]


@pytest.mark.parametrize("press", ["interrupt", "skip"])
@pytest.mark.parametrize("how", ["segment", "img2img"])
def test_interrupt_and_skip_end_a_segmentation_and_the_next_one_works(client, press, how):
    prompt, many, answers = PHRASE, list(range(100, 900, 4)), []
    work = {
        "segment": lambda: segment(client.scene, prompt, timesteps=many),
        "img2img": lambda: client.run({"prompt": prompt, "timesteps": " ".join(map(str, many))}),
    }
    worker = threading.Thread(target=lambda: answers.append(work[how]()))
    worker.start()
    text, steps = "", 0
    while worker.is_alive() and steps < 3:
        state = ask("progress?skip_current_image=true")[1]
        text, steps = state["textinfo"] or "", state["state"]["sampling_step"]
        time.sleep(0.05)
    ask(press, b"")
    begin = time.monotonic()
    worker.join()
    (status, found), took = answers[0], time.monotonic() - begin

    assert text == f"LD-ZNet segment: {PHRASE}"
    assert (status, took < 30) == (409, True)
    assert "interrupted" in found["detail"]
    assert segment(client.scene, prompt, threshold=LOW_THRESHOLD)[1]["area"] > 0
    assert client.run({"prompt": prompt, "threshold": LOW_THRESHOLD})[0] == 200


# --- while something is broken ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broken(heads):
    """Put two files into the folder of heads: a damaged one, and one for a model with other prompts."""
    unet = DiffusersHost.load(EMBEDDED).info.unet if HOST == "a1111" else STRUCTURE
    save_head(random_head(unet).head, heads / "damaged.safetensors", source={})
    content = bytearray((heads / "damaged.safetensors").read_bytes())
    content[-5000] ^= 64
    (heads / "damaged.safetensors").write_bytes(content)
    wider = dataclasses.replace(unet, context_width=2 * unet.context_width)
    save_head(random_head(wider).head, heads / "other.safetensors", source={})
    save_head(random_head(unet).head, heads / "gone.safetensors", source={})
    assert segment(image_of(SCENE, SIZE), head="gone.safetensors")[0] == 200
    (heads / "gone.safetensors").unlink()


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("damaged.safetensors", "damaged"),
        ("other.safetensors", "prompts of width"),
        ("gone.safetensors", "There is no head 'gone.safetensors'"),
    ],
)
def test_a_head_that_cannot_be_used_is_reported_and_nothing_is_painted(client, broken, head, said):
    route, run = segment(client.scene, head=head), client.run({"prompt": PHRASE, "head": head})

    assert (route[0], run[0]) == (422, 422)
    assert said in route[1]["detail"]
    assert said in run[1]["detail"]
    assert segment(client.scene, threshold=LOW_THRESHOLD)[1]["area"] > 0


@pytest.mark.parametrize(
    ("kind", "expected", "said"),
    [
        ("memory", 503, "does not fit into memory"),
        ("foreign", 500, "other_extension: tensor sizes differ). The extension a-faults was at work"),
    ],
)
def test_a_fault_in_the_middle_is_reported_and_the_next_run_works(client, kind, expected, said):
    before = client.run({"prompt": PHRASE, "threshold": LOW_THRESHOLD})[1]["images"]
    ask("unload", b"", at="ldznet")
    ask(kind, b"", at="faults")
    try:
        route, run = segment(client.scene), client.run({"prompt": PHRASE, "threshold": LOW_THRESHOLD})
    finally:
        ask("none", b"", at="faults")

    assert (route[0], run[0]) == (expected, expected)
    assert said in route[1]["detail"]
    assert said in run[1]["detail"]
    assert is_same(client.run({"prompt": PHRASE, "threshold": LOW_THRESHOLD})[1]["images"], before)


def test_an_exception_in_another_extensions_hook_leaves_ours_as_it_is(client):
    args = {"prompt": PHRASE, "threshold": LOW_THRESHOLD, "append": True}
    before = client.run(args)[1]["images"]
    ask("hook", b"", at="faults")
    try:
        status, found = client.run(args)
    finally:
        ask("none", b"", at="faults")

    assert status == 200
    assert is_same(found["images"], before)


@pytest.fixture
def small_disk(client, tmp_path):
    """Let the webui save images to a disk of 64 KB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    ask("options", {"outdir_img2img_samples": str(tmp_path), "save_to_dirs": False, "ldznet_save": True})
    yield tmp_path
    ask("options", {"outdir_img2img_samples": "outputs/img2img-images", "ldznet_save": False})
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk_is_reported_and_the_picture_stays(client, small_disk):
    args = {"prompt": PHRASE, "threshold": LOW_THRESHOLD}
    picture = client.run(args)[1]["images"][0]
    # Room for the picture and the mask, and too little for an overlay.
    pages = 2 + math.ceil(len(base64.b64decode(picture)) / 4096)
    (small_disk / "rest").write_bytes(bytes(shutil.disk_usage(small_disk).free - 4096 * pages))

    status, found = client.run(args, save_images=True)

    assert status == 200
    assert is_same(found["images"], [picture])
    told = json.loads(found["info"])["extra_generation_params"]["LD-ZNet found"]["not_saved"]
    assert "No space left on device" in told
    names = sorted(path.name for path in small_disk.iterdir())
    assert len(names) == 3, names  # rest, picture and mask
    assert names[0].endswith("-ldznet-mask.png")
    assert client.run(args)[0] == 200


# --- arguments that the webui does not look at -----------------------------------------------------------


def test_what_the_webui_would_leave_out_of_our_arguments_is_refused(client):
    args = [
        arg["value"]
        for arg in next(one for one in ask("script-info")[1] if one["name"] == "ld-znet segment")["args"]
    ]

    statuses = [
        client.run(others={"LD-ZNet segment": said})
        for said in ({"args": args}, {"args": [*args, 1]}, {"args": {"prompt": "a"}}, {"prompt": "a"})
    ]

    assert [status for status, _ in statuses] == [200, 422, 422, 422]
    assert f"has {len(args) + 1} values" in statuses[1][1]["detail"]


# --- settings, plots, checkpoints ------------------------------------------------------------------------


def test_settings_act_with_the_next_run(client):
    args = {"prompt": PHRASE, "threshold": LOW_THRESHOLD}
    changed = {"ldznet_append": True, "ldznet_rest": "unloaded", "ldznet_average_templates": True}
    try:
        before = client.run(args)[1]
        ask("options", changed | {"ldznet_on_nothing": "empty mask"})
        after, status = client.run(args)[1], ask("status", at="ldznet")[1]
        ask("options", {"ldznet_template": "a drawing of {}", "ldznet_average_templates": False})
        drawing, nothing = client.run(args)[1], client.run(args | NOTHING)[0]
    finally:
        ask("options", dict.fromkeys(("ldznet_append", "ldznet_average_templates"), False))
        ask("options", {"ldznet_rest": "GPU", "ldznet_template": "", "ldznet_on_nothing": "stop"})

    assert [len(one["images"]) for one in (before, after, drawing)] == [1, 3, 3]
    assert (status["rest"], status["head"]) == ("unloaded", None)
    assert "LD-ZNet average templates: True" in json.loads(after["info"])["infotexts"][0]
    assert "LD-ZNet template: a drawing of {}" in json.loads(drawing["info"])["infotexts"][0]
    assert (nothing, client.run(args | NOTHING)[0]) == (200, 422)


@ONLY_A1111
def test_a_plot_has_a_cell_for_each_threshold_and_word(client):
    scripts = ask("script-info")[1]
    axes = next(one for one in scripts if one["name"] == "x/y/z plot" and one["is_img2img"])["args"][0]["choices"]
    place = {axis: axes.index(f"[LD-ZNet] {axis}") for axis in ("Threshold", "What to select")}
    plot = [place["Threshold"], "0.05, 0.2", [], place["What to select"], f"star, {PHRASE}", [], 0, "", []]
    plot += [True, True, False, False, False, False, False, 0, False]

    status, found = client.run(
        {"prompt": "ball", "on_nothing": "empty mask"}, script_name="x/y/z plot", script_args=plot, steps=1
    )

    cells = [
        re.findall(r"LD-ZNet (?:prompt|threshold): ([^,]+)", one) for one in json.loads(found["info"])["infotexts"]
    ]
    assert (status, len(found["images"])) == (200, 5)
    assert sorted(cells[1:]) == [[word, level] for word in (PHRASE, "star") for level in ("0.05", "0.2")]


@ONLY_A1111
def test_runs_work_after_a_checkpoint_was_switched_or_unloaded(client):
    before = segment(client.scene, threshold=LOW_THRESHOLD)[1]["mask"]
    ask("options", {"sd_model_checkpoint": "nine.safetensors"})
    other = segment(client.scene)
    ask("options", {"sd_model_checkpoint": "tiny.safetensors"})
    ask("unload-checkpoint", b"")
    unloaded = segment(client.scene, threshold=LOW_THRESHOLD)
    ask("reload-checkpoint", b"")

    assert other[1]["method"] == "attention"  # no head fits a model with 9 channels
    assert (unloaded[0], unloaded[1]["mask"]) == (200, before)
    assert segment(client.scene, threshold=LOW_THRESHOLD)[1]["mask"] == before


@ONLY_A1111
def test_attention_leaves_the_mask_of_what_is_nowhere_in_the_picture_empty(client):
    status, found = segment(client.scene, prompt=f"{PHRASE} | {ABSENT}", method="attention")
    there, absent = found["prompts"]

    assert (status, found["method"]) == (200, "attention")
    assert there["area"] > 0.03 > absent["area"] == 0


# --- many ------------------------------------------------------------------------------------------------


def some_request(draw, number, client, bad):
    """Send some request; return its kind and its status."""
    size = tuple(draw.choice((96, 128, 200, 333, 512)) for _ in range(2))
    image, prompt = numbered_image(draw.randrange(1000), size), draw.choice(WORDS)
    args = {"prompt": prompt, "threshold": draw.random() / 4, "seeds": str(draw.randrange(5))}
    args |= {"method": draw.choice(("auto", "auto", "attention", "difference")), "refine": draw.random() < 0.2}
    kind = draw.choices(
        ("segment", "wrong", "img2img", "interrupted", "status", "heads", "unload", "switch"),
        (10, 5, 6, 2, 2, 1, 2, 2),
    )[0]
    if kind == "segment":
        pictures = {name: draw.random() < 0.5 for name in ("return_masks", "return_overlay", "return_objects")}
        return kind, segment(image, **args, **pictures, negative_prompt=draw.choice(("", "star")))[0]
    if kind == "wrong":
        return kind, ask("segment", next(bad), at="ldznet")[0]
    if kind == "img2img":
        args["on_nothing"] = draw.choice(("stop", "empty mask"))
        return kind, Client(image).run(args | {"append": draw.random() < 0.5}, steps=1)[0]
    if kind == "interrupted":
        timer = threading.Timer(draw.random(), ask, ("interrupt", b""))
        timer.start()
        status = segment(image, prompt, timesteps=list(range(100, 900, 40)))[0]
        timer.join()
        return kind, status
    if kind == "switch":
        name = draw.choice((MODEL, "nine.safetensors")) if HOST == "a1111" else MODEL
        return kind, ask("options", {"sd_model_checkpoint": name})[0]
    return kind, ask(kind, b"" if kind == "unload" else None, at="ldznet")[0]


def test_many_mixed_requests_leave_memory_flat_and_the_server_serving(client):
    draw, bad, counts, sizes = random.Random(1), bad_bodies(2 * SOAK, seed=9), {}, []
    for number in range(2 * SOAK):
        key = some_request(draw, number, client, bad)
        counts[key] = counts.get(key, 0) + 1
        sizes.append(resident())
    quarters = [median(sizes[SOAK * n // 2 : SOAK * (n + 1) // 2]) / 2**20 for n in range(4)]
    print(json.dumps({" ".join(map(str, key)): count for key, count in sorted(counts.items())}))
    print("MB, median of each quarter:", [round(one) for one in quarters], "highest:", round(max(sizes) / 2**20))

    assert {status for _, status in counts} <= {200, 400, 409, 422}
    assert quarters[3] < 1.05 * quarters[2]
    ask("options", {"sd_model_checkpoint": MODEL})
    assert segment(client.scene, threshold=LOW_THRESHOLD)[1]["area"] > 0
