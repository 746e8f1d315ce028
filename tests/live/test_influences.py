"""Test in Forge, reForge or Neo that nothing a run has switched on changes the mask, and that all is as before.

WEBUI_DIR as in running.py. The probabilities are compared bit for bit: those of the route after a run with LoRA,
token merging and the like, whose patches are still in the model, and those of the run itself, by the numbers of
its report. Also other ways to start the webui, and a model that cannot be used. AUTOMATIC1111: test_host.py.
"""

import json

import numpy as np
import pytest
import torch
from embedded_scenes import PHRASE, SCENE, SECOND_PHRASE, image_of
from lora import write_lora
from random_model import STRUCTURE, unet_state
from running import (
    HOST,
    LOW_THRESHOLD,
    MODEL,
    NEEDS_A_WEBUI,
    REPEATS_WITHIN,
    SIZE,
    THRESHOLD,
    Client,
    ask,
    decoded,
    encoded,
    make_data_folder,
    resident,
    start,
    stop,
)
from safetensors.torch import load_file, save_file

from ldznet.heads.unet import UNetConfig

pytestmark = [*NEEDS_A_WEBUI, pytest.mark.skipif(HOST == "a1111", reason="test_host.py is for AUTOMATIC1111")]

# FreeU acts on layers that are wider than the first ones; the random model has none.
OTHER, WIDER = "the-other.safetensors", UNetConfig(channel_mult=(1, 1, 1, 2))
MASKED = {"prompt": PHRASE, "threshold": THRESHOLD, "resolution": 256, "append": True}
# The model of a run as another kind, for as long as a test asks for it: none of those can be loaded here.
KINDS = """
from modules import script_callbacks, shared

def change(kind: str):
    engine = shared.sd_model
    own = type(engine).__mro__[1] if "ldznet_kind" in vars(type(engine)) else type(engine)
    engine.__class__ = own if kind == "own" else type(kind, (own,), {"ldznet_kind": kind})
    engine.is_sd1 = kind == "own"

script_callbacks.on_app_started(lambda _demo, app: app.post("/kinds/{kind}")(change))
"""
FREEU = "FreeU Integrated (SD 1.x, SD 2.x, SDXL)" if HOST == "forge" else "FreeU Integrated"
CASES = {
    "LoRA": {"prompt": "a green star <lora:rand:1>"},
    "clip skip and emphasis": {
        "prompt": "a (green:1.5) star",
        "override_settings": {"CLIP_stop_at_last_layers": 2, "emphasis": "No norm"},
    },
    "ControlNet": {},
    "token merging": {"override_settings": {"token_merging_ratio": 0.5}},
}
CASES["LoRA and token merging"] = CASES["LoRA"] | CASES["token merging"]


# In the images of a random model these make no difference that is larger than that of two runs.
MARKS = {
    "token merging": "Token merging ratio",
    "ControlNet": "ControlNet 0",
    "clip skip and emphasis": "Clip skip: 2",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    checkpoints = make_data_folder(folder)
    parts = load_file(checkpoints / MODEL)
    torch.manual_seed(8)
    unet = {name: tensor.half().contiguous() for name, tensor in unet_state(WIDER).items()}
    save_file(parts | unet, checkpoints / OTHER)
    write_lora(folder / "models" / "Lora" / "rand.safetensors", STRUCTURE)
    script = folder / "extensions" / "kinds" / "scripts" / "kinds.py"
    script.parent.mkdir(parents=True)
    script.write_text(KINDS)
    return folder


@pytest.fixture(scope="module")
def client(data):
    start(data)
    client = Client(image_of(SCENE, SIZE))
    unit = {"enabled": True, "module": "reference_only", "model": "None", "image": encoded(client.scene)}
    CASES["ControlNet"] = {"others": {"ControlNet": {"args": [unit]}}}
    client.run()  # the first run loads the model
    # After its first run with these, images of reForge differ by 3 of 255 for good, without us too.
    client.run(**CASES["clip skip and emphasis"])
    yield client
    stop()


def probabilities(client):
    """Return the answer of the route, computed anew."""
    ask("unload", {}, at="ldznet")
    body = {"image": encoded(client.scene), "prompt": PHRASE, "resolution": 256, "return_probabilities": True}
    status, answer = ask("segment", body, at="ldznet")
    assert status == 200, answer
    return answer["prompts"][0]["probabilities"], answer["prompts"][0]["probability"]


def masked(client, **more):
    """Return image, mask and report of a run with us, computed anew."""
    ask("unload", {}, at="ldznet")
    status, found = client.run(MASKED, **more)
    assert status == 200, found
    report = json.loads(found["info"])["extra_generation_params"]["LD-ZNet found"]
    return *map(decoded, found["images"][:2]), report


def image(client, mark="", **more):
    """Return the image of a run without us, whose parameters have `mark`: what says that something was at work."""
    status, found = client.run(**more)
    assert status == 200, found
    assert mark in found["info"]
    return decoded(found["images"][0])


def apart(one, other):
    return int(np.abs(one - other).max())


@pytest.fixture(scope="module")
def plain(client):
    """Return an image without us, mask and report of a run with us, and the answer of the route."""
    before = image(client)
    _, mask, report = masked(client)
    assert 0.005 < (mask > 127).mean() < 0.995
    return before, mask, report, probabilities(client)


@pytest.mark.parametrize("name", CASES)
def test_nothing_that_is_at_work_changes_the_mask_or_is_changed(client, plain, name):
    if name == "ControlNet" and "controlnet" not in map(str.lower, ask("scripts")[1]["img2img"]):
        pytest.skip("ControlNet could not be loaded")
    before, mask, report, answer = plain
    alone = image(client, MARKS.get(name, ""), **CASES[name])

    after_run = probabilities(client)
    _, own_mask, own_report = masked(client, **CASES[name])
    again = image(client, **CASES[name]) if "token merging" not in name else alone  # which draws at random

    assert apart(alone, before) > 5 or name in MARKS  # it was really at work
    assert after_run == answer
    assert (own_report, np.array_equal(own_mask, mask)) == (report, True)
    assert apart(again, alone) <= REPEATS_WITHIN
    assert apart(image(client), before) <= REPEATS_WITHIN


def test_a_plot_has_a_cell_for_each_threshold_and_prompt(client):
    plot = next(one for one in ask("script-info")[1] if one["name"] == "x/y/z plot" and one["is_img2img"])["args"]
    axes = plot[0]["choices"]
    # Without a page no value of a list is known.
    values = {"X type": axes.index("[LD-ZNet] Threshold"), "X values": f"{LOW_THRESHOLD}, {THRESHOLD}"}
    values |= {"Y type": axes.index("[LD-ZNet] What to select"), "Y values": f"{SECOND_PHRASE}, {PHRASE}"}
    values |= {"Z type": 0, "Z values": "", "Include Sub Images": True}
    by_label = {}
    args = []
    for arg in plot:
        label = arg["label"]
        known = label in values and label not in by_label  # the list of values has the label of their text
        by_label[label] = True
        default = [] if label in ("X values", "Y values", "Z values") else arg["value"]
        args.append(values[label] if known else default)

    status, found = client.run(
        {"prompt": "ball", "on_nothing": "empty mask", "resolution": 256},
        script_name="x/y/z plot",
        script_args=args,
        steps=1,
    )

    assert status == 200, found
    texts = json.loads(found["info"])["infotexts"]
    cells = {
        (word, level)
        for text in texts
        for word in (PHRASE, SECOND_PHRASE)
        for level in (str(LOW_THRESHOLD), str(THRESHOLD))
        if f"LD-ZNet prompt: {word}," in f"{text}," and f"LD-ZNet threshold: {level}," in f"{text},"
    }
    assert len(found["images"]) == 5
    assert len(cells) == 4


def test_a_model_of_another_kind_is_refused_in_words_and_nothing_is_repainted(client, plain):
    said = "it is of another kind (Flux). Load a plain or an inpainting checkpoint of Stable Diffusion"
    assert ask("Flux", b"", at="kinds")[0] == 200
    try:
        route = ask("segment", {"image": encoded(client.scene), "prompt": PHRASE}, at="ldznet")
        heads, status = ask("heads", at="ldznet"), ask("status", at="ldznet")
        run = client.run(MASKED)
    finally:
        ask("own", b"", at="kinds")

    assert [answer[0] for answer in (route, run)] == [422, 422]
    assert said in route[1]["detail"]
    assert said in run[1]["detail"]
    assert (heads[0], status[0]) in {(200, 200), (422, 200)}
    assert probabilities(client) == plain[3]


@pytest.mark.skipif(HOST == "neo", reason="Neo has no FreeU")
def test_freeu_does_not_change_the_mask(client, plain):
    steps = [0.0, 1.0] if HOST == "forge" else []
    freeu = {"others": {FREEU: {"args": [True, 1.5, 1.6, 0.9, 0.2, *steps]}}}
    assert ask("options", {"sd_model_checkpoint": OTHER})[0] == 200
    try:
        before, answer = image(client), probabilities(client)
        image(client, "freeu_enabled", **freeu)
        after_run = probabilities(client)
        again = image(client)
    finally:
        ask("options", {"sd_model_checkpoint": MODEL})

    assert after_run == answer != plain[3]
    assert apart(again, before) <= REPEATS_WITHIN


def test_checkpoints_that_are_switched_are_used_and_leave_no_copy_in_memory(client, plain):
    sizes = []
    for _ in range(2):
        assert ask("options", {"sd_model_checkpoint": OTHER})[0] == 200
        other = probabilities(client)
        assert ask("options", {"sd_model_checkpoint": MODEL})[0] == 200
        assert probabilities(client) == plain[3] != other
        sizes.append(resident())

    print("MB after each switch:", [round(size / 2**20) for size in sizes])
    assert sizes[1] - sizes[0] < 300 * 2**20  # the model has 1.3 GB in float32


# --- other ways to start the webui -----------------------------------------------------------------------

OFFLOAD = {"neo": "--disable-smart-memory"}.get(HOST, "--always-offload-from-vram")


def test_where_everything_is_moved_away_after_use_the_mask_is_the_same(client, data, plain):
    stop()
    start(data, OFFLOAD)
    first = probabilities(client)  # loads the model
    before = image(client)

    _, mask, report = masked(client, **CASES["LoRA"])

    assert first == plain[3]
    assert (report, np.array_equal(mask, plain[1])) == (plain[2], True)
    assert probabilities(client) == plain[3]
    assert apart(image(client), before) <= REPEATS_WITHIN
