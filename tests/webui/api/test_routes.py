"""Our routes in the webui's API, against a stand-in of the webui; tests/live asks a real one.

BAD_BODIES is how many generated bad requests are sent: 2,000, if it says nothing else. Before a release:
BAD_BODIES=10000 python -m pytest tests/webui/api/test_routes.py
"""

import base64
import io
import json
import os
import struct
import sys
import threading
import zlib

import numpy as np
import pytest
from fastapi.testclient import TestClient
from host.api import application, base64_of, picture
from host.bodies import ROUTES, asked_as_the_schema_says, bad_bodies
from host.brightness import SIZE, half, share
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from ldznet.heads.head_file import save_head
from ldznet.inference.prompts import LONGEST_PROMPT
from ldznet.methods.learned_head import random_head
from ldznet.webui import limits
from ldznet.webui.api import guard
from ldznet.webui.api.models import OF_A_RUN
from ldznet.webui.controls import CONTROLS

BAD_BODIES = int(os.environ.get("BAD_BODIES", "2000"))
SCHEMA_EXAMPLES = 30  # of each route, right and wrong ones
HALF = SIZE[0] * SIZE[1] // 2


@pytest.fixture
def client(webui, method):
    with TestClient(application(webui)) as client:
        yield client


def ask(client, prompt="bright", image=None, **more):
    body = {"image": base64_of(half()) if image is None else image, "prompt": prompt, **more}
    return client.post("/ldznet/segment", json=body)


def send(client, content, **headers):
    return client.post("/ldznet/segment", content=content, headers={"content-type": "application/json", **headers})


def answered(client, *given, **more):
    answer = ask(client, *given, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(answer, status=422):
    assert answer.status_code == status, answer.text
    return answer.json()["detail"]


# --- right answers ---------------------------------------------------------------------------------------


def test_a_picture_and_a_word_give_a_mask_and_where_it_lies(client):
    answer = answered(client)

    mask = picture(answer["mask"])
    assert (mask.mode, mask.size, share(mask)) == ("L", SIZE, (1.0, 0.0))
    assert (answer["width"], answer["height"]) == SIZE
    assert answer["area"] == pytest.approx(HALF, rel=0.05)
    found = answer["prompts"][0]
    assert found["prompt"] == "bright"
    assert found["area"] == answer["area"]
    assert found["share"] == pytest.approx(0.5, abs=0.03)
    assert found["box"] == [0, 0, found["box"][2], SIZE[1]]
    assert found["box"][2] == pytest.approx(SIZE[0] // 2, abs=4)
    assert found["probability"] > 0.9
    assert found["highest"] == pytest.approx(1)
    assert (answer["method"], answer["reason"]) == ("brightness", "of a test")
    assert (answer["notes"], answer["nothing_found"]) == ([], None)
    assert answer["record"]["prompts"] == ["bright"]


def test_only_the_pictures_that_are_asked_for_come_back(client):
    plain = answered(client, "bright | dark", return_mask=False)
    asked = answered(client, "bright | dark", return_masks=True, return_overlay=True, return_colors=True)

    assert [plain[name] for name in ("mask", "overlay", "colors")] == [None] * 3
    assert plain["prompts"][0]["mask"] is None
    assert [share(picture(one["mask"])) for one in asked["prompts"]] == [(1.0, 0.0), (0.0, 1.0)]
    assert picture(asked["overlay"]).size == SIZE
    assert picture(asked["colors"]).mode == "RGB"
    assert answered(client, return_colors=True)["colors"] is None


def test_the_cutout_is_what_the_mask_selects_on_a_transparent_ground(client):
    answer = answered(client, feather=2, return_cutout=True)

    cutout = picture(answer["cutout"])
    assert (cutout.mode, cutout.size) == ("RGBA", SIZE)
    assert np.array_equal(np.asarray(cutout)[..., 3], np.asarray(picture(answer["mask"])))
    assert np.array_equal(np.asarray(cutout)[..., :3], np.asarray(half()))
    assert answered(client)["cutout"] is None


@pytest.fixture
def two():
    """Two bright boxes in the dark, 48 x 48 and 32 x 32."""
    picture = Image.new("RGB", SIZE)
    picture.paste((255,) * 3, (8, 8, 56, 56))
    picture.paste((255,) * 3, (88, 16, 120, 48))
    return base64_of(picture)


def test_every_object_is_told_and_which_pixel_is_whose(client, two):
    answer = answered(client, image=two, return_objects=True)

    large, small = answer["objects"]
    assert [(one["number"], one["prompt"], one["selected"]) for one in (large, small)] == [
        (1, "bright", True),
        (2, "bright", True),
    ]
    assert large["box"] == pytest.approx([8, 8, 56, 56], abs=2)
    assert small["box"] == pytest.approx([88, 16, 120, 48], abs=2)
    assert small["area"] == pytest.approx(32 * 32, rel=0.1)
    assert small["share"] == pytest.approx(small["area"] / (SIZE[0] * SIZE[1]))
    assert small["probability"] > 0.8
    numbers = np.asarray(picture(answer["object_numbers"]))
    assert (numbers.dtype, numbers[30, 30], numbers[30, 100], numbers[30, 70]) == (np.uint8, 1, 2, 0)
    assert [int((numbers == number).sum()) for number in (1, 2)] == [large["area"], small["area"]]
    assert answered(client, image=two)["object_numbers"] is None


@pytest.mark.parametrize("objects", ["2", [2]])
def test_objects_are_chosen_by_their_numbers(client, two, objects):
    answer = answered(client, image=two, objects=objects)

    mask = np.asarray(picture(answer["mask"]))
    assert (mask[30, 30], mask[30, 100]) == (0, 255)
    assert [one["selected"] for one in answer["objects"]] == [False, True]
    assert answer["prompts"][0]["area"] > 48 * 48  # of all
    assert "objects" in refused(ask(client, objects=[0]))
    assert "smallest_area, objects" in answered(client, image=two, objects="3")["nothing_found"]


def test_masks_to_choose_from_come_with_their_thresholds(client):
    grey = Image.new("RGB", SIZE)
    for level, side in ((70, 60), (130, 44), (230, 24)):
        grey.paste((level,) * 3, (2, 2, 2 + side, 2 + side))

    answer = answered(client, image=base64_of(grey), return_candidates=True)

    assert [one["name"] for one in answer["candidates"]] == ["tight", "middle", "loose"]
    for one in answer["candidates"]:
        assert (np.asarray(picture(one["mask"])) > 127).sum() == one["area"]
    assert [one["area"] for one in answer["candidates"]] == pytest.approx([24**2, 44**2, 60**2], rel=0.15)
    assert answered(client)["candidates"] is None


def test_a_picture_may_be_a_single_line(client):
    line = Image.new("RGB", (16384, 1), "white")

    answer = answered(client, image=base64_of(line), return_objects=True, return_candidates=True)

    assert (answer["area"], len(answer["objects"])) == (16384, 1)


def test_a_mask_to_choose_from_is_combined_with_the_given_mask_as_brush_says(client):
    given = Image.new("L", SIZE)
    given.paste(255, (0, 0, SIZE[0], SIZE[1] // 2))

    answer = answered(client, mask=base64_of(given), brush="intersect", return_candidates=True)

    assert [share(picture(one["mask"])) for one in answer["candidates"]] == [(0.5, 0.0)]


def test_probabilities_come_in_16_bits_as_large_as_the_picture_or_as_the_network_gave_them(client):
    large = answered(client, negative_prompt="dark", return_probabilities=True)
    small = answered(client, return_probabilities=True, probability_size="network")

    values = np.asarray(picture(large["prompts"][0]["probabilities"]))
    assert (values.dtype, values.shape) == (np.uint16, SIZE[::-1])
    assert (values[30, 10], values[30, 118]) == (65535, 0)
    unwanted = large["negative_prompts"][0]
    assert unwanted["prompt"] == "dark"
    assert np.asarray(picture(unwanted["probabilities"]))[30, 118] == 65535
    network = picture(small["prompts"][0]["probabilities"])
    assert [network.height, network.width] == small["record"]["network_size"]


def test_a_list_of_prompts_is_taken_word_by_word(client):
    listed = answered(client, ["bright", "a | b"], timesteps=[300, 400], seeds=[1, 2])
    joined = answered(client, "bright | dark", timesteps="300 400", seeds="1, 2")

    assert [one["prompt"] for one in listed["prompts"]] == ["bright", "a | b"]
    assert [one["prompt"] for one in joined["prompts"]] == ["bright", "dark"]
    for answer in (listed, joined):
        assert (answer["record"]["timesteps"], answer["record"]["seeds"]) == ([300, 400], [1, 2])


def test_the_options_of_the_panel_act(client):
    grown = answered(client, grow=16)
    inverted = answered(client, invert=True, return_masks=True)
    less = answered(client, "bright | dark", negative_prompt="dark", combine="union")

    assert grown["area"] > answered(client)["area"] + 8 * SIZE[1]
    assert share(picture(inverted["mask"])) == (0.0, 1.0)
    assert share(picture(inverted["prompts"][0]["mask"])) == (1.0, 0.0)
    assert share(picture(less["mask"])) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("mode", "expected"), [("add", (1.0, 0.5)), ("subtract", (0.0, 0.5)), ("intersect", (0.5, 0.0))]
)
def test_a_mask_that_is_there_is_combined_as_brush_says(client, mode, expected):
    upper = Image.new("L", SIZE)
    upper.paste(255, (0, 0, SIZE[0], SIZE[1] // 2))

    answer = answered(client, mask=base64_of(upper), brush=mode)

    assert share(picture(answer["mask"])) == expected


@pytest.mark.parametrize("more", [{}, {"invert": True}])
def test_nothing_found_is_an_empty_mask_with_a_note_and_no_error(client, more):
    answer = answered(client, "unicorn", return_masks=True, **more)

    assert (answer["area"], picture(answer["mask"]).getbbox()) == (0, None)
    found = answer["prompts"][0]
    assert (found["area"], found["box"], found["probability"]) == (0, None, 0)
    assert answer["nothing_found"].startswith('"unicorn" reaches 0.00, and threshold is 0.50: nothing was found')


@pytest.mark.parametrize(("mode", "expected"), [("add", (0.5, 0.5)), ("subtract", (0, 0)), ("intersect", (0, 0))])
def test_where_nothing_is_found_a_given_mask_is_the_answer_only_if_it_is_added_to(client, mode, expected):
    upper = Image.new("L", SIZE)
    upper.paste(255, (0, 0, SIZE[0], SIZE[1] // 2))

    answer = answered(client, "unicorn", mask=base64_of(upper), brush=mode)

    assert share(picture(answer["mask"])) == expected
    assert answer["nothing_found"].startswith('"unicorn" reaches 0.00')


def test_a_picture_may_come_in_a_data_url_turned_by_exif_and_partly_transparent(client):
    exif = Image.Exif()
    exif[274] = 3  # upside down
    clear = Image.new("RGBA", SIZE, (0, 0, 0, 0))
    clear.paste((0, 0, 0, 255), (0, 0, SIZE[0] // 2, SIZE[1]))

    turned = answered(client, image="data:image/jpeg;base64," + base64_of(half(), "JPEG", exif=exif))
    shown = answered(client, image=base64_of(clear, "WEBP", lossless=True))

    assert share(picture(turned["mask"])) == (0.0, 1.0)
    assert share(picture(shown["mask"])) == (0.0, 1.0)


def test_the_same_question_runs_no_network_again_and_the_times_are_told(client, method):
    first = answered(client)["seconds"]
    calls = method.calls
    again = answered(client, threshold=0.7)["seconds"]

    assert method.calls == calls
    assert set(first) == {"waited", "encode", "segment", "masks", "total"}
    assert first["encode"] > 0
    assert again["encode"] == 0
    assert all(one["total"] >= one["encode"] + one["segment"] + one["masks"] - 0.001 for one in (first, again))


def test_two_clients_at_once_get_their_own_right_answers(client):
    wanted = {"bright": (1.0, 0.0), "dark": (0.0, 1.0)}
    wrong = []

    def work(prompt):
        for number in range(8):
            left = 255 if number % 2 else 200
            answer = ask(client, prompt, base64_of(half(left, number))).json()
            if share(picture(answer["mask"])) != wanted[prompt] or answer["prompts"][0]["prompt"] != prompt:
                wrong.append(answer)

    clients = [threading.Thread(target=work, args=(prompt,)) for prompt in wanted]
    for one in clients:
        one.start()
    for one in clients:
        one.join()

    assert wrong == []


# --- what is refused, and how ----------------------------------------------------------------------------


WRONG = [
    ("threshold", 1.5),
    ("threshold", "0.5"),
    ("threshold", True),
    ("grow", 0.5),
    ("grow", 513),
    ("invert", 1),
    ("method", "magic"),
    ("combine", None),
    ("prompt", None),
    ("prompt", ["a", 1]),
    ("prompt", {"text": "a"}),
    ("prompt", ["a"] * 101),
    ("seeds", [-1]),
    ("image", 7),
    ("mask", []),
    ("return_mask", "yes"),
    ("probability_size", "huge"),
    ("promt", "bucket"),
    ("fill", "original"),
    ("enabled", True),
    ("\0", 1),
]
PASSES = "Prompts, timesteps, seeds, noises, sentences and refined parts make up to"
CANNOT = [
    ({"prompt": ""}, "There is no prompt."),
    ({"prompt": " | "}, "There is no prompt."),
    ({"prompt": ["bucket", " "]}, "Prompt 2 is empty."),
    ({"prompt": "x" * (LONGEST_PROMPT + 1)}, f"Prompt 1 has {LONGEST_PROMPT + 1} characters"),
    ({"prompt": "|".join(map(str, range(101)))}, "prompt and negative_prompt have 101 parts together"),
    ({"prompt": "a|b", "timesteps": list(range(501))}, f"{PASSES} 1002 passes"),
    ({"timesteps": list(range(77)), "refine": True}, f"{PASSES} 1001 passes"),
    ({"timesteps": list(range(9)), "refine": True, "average_templates": True}, f"{PASSES} 1053 passes"),
    # ten noises, with the prompt and without
    ({"timesteps": list(range(101)), "method": "difference"}, f"{PASSES} 2020 passes"),
    ({"timesteps": "early"}, "Timesteps is 'early', but it must be whole numbers"),
    ({"timesteps": [1000]}, "Timesteps is '1000'"),
    ({"brush": "subtract"}, "brush is 'subtract', which needs a mask to work on"),
    ({"head": "../../secret"}, "head is '../../secret', which is not the name of a file"),
    ({"head": "/etc/passwd"}, "head is '/etc/passwd', which is not the name of a file"),
    ({"image": ""}, "image holds 0 bytes in none of the formats PNG"),
    ({"image": "QUJD"}, "image holds 3 bytes in none of the formats PNG"),
    ({"image": "http://127.0.0.1/a.png"}, "image is not base64"),
    ({"image": "file:///etc/hostname"}, "image is not base64"),
    ({"image": "data:text/html,<b>"}, "image is not base64"),
    ({"mask": "QUJD", "brush": "add"}, "mask holds 3 bytes"),
]


def test_a_wrong_field_is_refused_by_its_name(client, method):
    body = {"image": base64_of(half()), "prompt": "bright"}

    answers = [(field, refused(send(client, json.dumps({**body, field: value})))) for field, value in WRONG]

    assert [(field, text) for field, text in answers if not text.startswith(f"{field}: ")] == []
    assert method.calls == 0


def test_what_cannot_be_done_is_refused_with_the_reason_before_any_network_runs(client, method):
    body = {"image": base64_of(half()), "prompt": "bright"}

    answers = [(said, refused(send(client, json.dumps({**body, **more})))) for more, said in CANNOT]

    assert [(said, text) for said, text in answers if not text.startswith(said)] == []
    assert method.calls == 0


def test_half_a_character_is_refused(client, method):
    for name in ("prompt", "negative_prompt", "image", "head", "\ud800"):
        refused(send(client, json.dumps({"image": base64_of(half()), "prompt": "bright", name: "\ud800"})))

    assert method.calls == 0


@pytest.mark.parametrize(
    ("more", "expected", "note"),
    [
        ({}, (1.0, 1.0), "The given mask stays, and what is found is added to it."),
        ({"brush": "replace"}, (1.0, 0.0), "The given mask is not used: only what is found is masked."),
    ],
)
def test_a_mask_without_brush_is_added_to_and_a_note_says_what_happens_to_it(client, more, expected, note):
    answer = ask(client, mask=base64_of(half(0, 255)), **more).json()

    assert share(picture(answer["mask"])) == expected
    assert answer["notes"] == [note]


def test_a_path_of_the_server_is_not_opened(client, tmp_path):
    half().save(tmp_path / "secret.png")

    assert refused(ask(client, image=str(tmp_path / "secret.png"))).startswith("image ")
    assert refused(ask(client, image=f"file://{tmp_path}/secret.png")).startswith("image is not base64")


def test_a_damaged_picture_is_refused(client):
    data = base64.b64decode(base64_of(half(), "JPEG", quality=95))

    for cut in (20, 300, len(data) // 2):
        assert refused(ask(client, image=base64.b64encode(data[:cut]).decode())).startswith("image")


def png_head(width, height):
    """A small file that says that it is a large picture."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )
    return base64.b64encode(data).decode()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_with_too_many_pixels_is_refused_by_its_head(client):
    for size in ((8192, 8193), (10000, 10000), (60000, 60000), (2, 16385)):
        text = refused(ask(client, image=png_head(*size)))
        assert text.startswith("image has ")
        assert f"{limits.MOST_PIXELS:,}" in text


def test_an_answer_that_would_be_too_large_is_refused_before_any_network_runs(client, method, monkeypatch, webui):
    monkeypatch.setattr("ldznet.webui.api.routes.MOST_ANSWERED", 3 * SIZE[0] * SIZE[1])
    words = {"prompt": ["bright", "dark"], "negative_prompt": "red"}

    text = refused(ask(client, **words, return_masks=True, return_probabilities=True))
    small = {**words, "return_probabilities": True, "probability_size": "network"}

    assert text.startswith("The answer would have 5 images, of more than the 24,576 pixels in all")
    assert "a lower resolution" in refused(ask(client, **small, resolution=128))
    assert method.calls == 0
    answered(client, **words, return_probabilities=True)
    answered(client, **small, resolution=64)


def test_a_body_that_is_too_long_is_refused_before_it_is_read(client, monkeypatch):
    monkeypatch.setattr(guard, "LONGEST_BODY", 1000)
    read = []

    def parts():
        for number in range(100):
            read.append(number)
            yield b" " * 600

    said = send(client, b"{}", **{"content-length": "1001"})
    counted = client.post("/ldznet/segment", content=parts())

    assert refused(said, 413).startswith("The request has 1,001 bytes or more, but at most 1,000 are read.")
    assert refused(counted, 413).startswith("The request has ")
    assert refused(send(client, b"{}", **{"content-length": "-1"}), 400)


NO_REQUESTS = [
    (b"", 422),
    (b"{", 422),
    (b"[]", 422),
    (b"null", 422),
    (b'"text"', 422),
    (b'{"prompt": "\xff"}', 400),
    (b"[" * 100_000, 400),
    (b'{"grow": 1' + b"0" * 5000 + b"}", 400),
    (b'{"threshold": NaN}', 422),
    (b'{"threshold": Infinity}', 422),
    (b'{"prompt": "a", "image": "\\ud800"}', 422),
]


def test_a_body_that_is_no_request_is_refused_with_what_to_do(client, webui):
    for content, status in NO_REQUESTS:
        text = refused(send(client, content), status)
        assert text.endswith("listed in /docs of the webui.")
        assert (status == 400) == text.startswith(
            "The body cannot be read: JSON must be text in UTF-8, not nested"
        )


def test_json_of_hundreds_of_thousands_of_values_is_refused_before_it_is_parsed(client, monkeypatch):
    fields = b'{"prompt": "a"' + b"".join(b', "f%d": 1' % number for number in range(300_000)) + b"}"
    many = {
        "fields": fields,
        "the same field": b"{" + b'"a": 1, ' * 300_000 + b'"a": 1}',
        "items": b'{"seeds": [' + b"1," * 300_000 + b"1]}",
        "lists": b'{"prompt": [' + b"[[]]," * 300_000 + b"[]]}",
        "after texts that look like ends": b'{"prompt": ["\\\\", "\\"", "\\\\\\"", ' + b"1," * 300_000 + b"1]}",
        "quotes": b'{"prompt": "' + b'\\",' * 300_000 + b'" ' + b',"a":1' * 300_000 + b"}",
    }

    with monkeypatch.context() as patch:
        patch.setattr(json, "loads", None)  # FastAPI parses with it
        answers = {name: send(client, content) for name, content in many.items()}

    for name, answer in answers.items():
        assert "more than 10,000 fields and items" in refused(answer), name
    for encoding in ("utf-16", "utf-16-le", "utf-32-be"):  # whose bytes hide quotes and commas
        assert "text in UTF-8" in refused(send(client, '{"prompt": "a"}'.encode(encoding)), 400)


def test_commas_and_quotes_in_prompts_are_no_values(client):
    prompts = ['",' * (LONGEST_PROMPT // 2 - 1) + "\\\n"] * 20

    assert len(answered(client, ["bright", *prompts])["prompts"]) == 21


def test_a_jpeg_of_thousands_of_scans_is_refused_before_it_is_decoded(client, method, monkeypatch):
    file = io.BytesIO()
    half().save(file, "JPEG", progressive=True)
    start = file.getvalue().rindex(b"\xff\xda")
    data = file.getvalue()[:start] + file.getvalue()[start:-2] * 3000 + b"\xff\xd9"
    monkeypatch.setattr(JpegImageFile, "load", None)

    image = base64.b64encode(data).decode()
    assert refused(ask(client, image=image)).startswith(
        "image is a JPEG of 128 x 64 pixels with 100 scans or more"
    )
    assert refused(ask(client, mask=image, brush="add")).startswith("mask is a JPEG of ")
    assert method.calls == 0


# --- faults ----------------------------------------------------------------------------------------------


def test_interrupt_ends_the_request_and_the_next_one_works(client, method, webui, monkeypatch):
    real = method.probability

    def interrupted(*given):
        webui.shared.state.interrupted = True
        return real(*given)

    monkeypatch.setattr(method, "probability", interrupted)
    stopped = ask(client)
    monkeypatch.setattr(method, "probability", real)
    webui.shared.state.interrupted = False

    assert "interrupted" in refused(stopped, 409)
    assert answered(client)["area"] > 0


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (MemoryError(), 503, "memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 503, "memory"),
        (ZeroDivisionError("secret"), 500, "ZeroDivisionError"),
    ],
)
def test_after_a_fault_the_server_goes_on(client, method, monkeypatch, error, status, said):
    def fail(*_):
        raise error

    real = method.probability
    monkeypatch.setattr(method, "probability", fail)
    failed = ask(client)
    monkeypatch.setattr(method, "probability", real)

    assert said in refused(failed, status)
    assert answered(client)["area"] > 0


def test_the_queue_is_held_while_networks_run_and_left_however_they_end(client, method, webui, monkeypatch):
    lock, held = sys.modules["modules.call_queue"].queue_lock, []
    real = method.probability
    monkeypatch.setattr(method, "probability", lambda *given: held.append(lock.locked()) or real(*given))

    answered(client)

    assert held == [True]
    assert not lock.locked()
    assert webui.shared.state.jobs == ["ldznet", "end"]


def test_settings_are_those_of_the_page_when_the_queue_is_free_not_another_runs(
    client, webui, method, monkeypatch
):
    opts = webui.shared.opts
    opts.ldznet_template, opts.ldznet_average_templates = "a drawing of {}", True  # overridden by a run
    monkeypatch.setattr(sys.modules["modules.call_queue"], "queue_lock", RunThatEnds(opts))

    record = answered(client)["record"]

    assert (record["template"], method.calls) == ("a photo of a {}.", 1)  # the default, and one sentence


class RunThatEnds:
    """The queue, whose run gives back its settings before the next one's turn."""

    def __init__(self, opts):
        self.opts = opts

    def __enter__(self):
        self.opts.ldznet_template, self.opts.ldznet_average_templates = "", False

    def __exit__(self, *_):
        pass


# --- who may ask, and what is told -----------------------------------------------------------------------


def basic(pair):
    return "Basic " + base64.b64encode(pair.encode()).decode()


WRONG_PAIRS = ("ann:wrong", "bob:secret", "eve:pässword", "ann:", ":secret", "ann:secret,bob:pässword", "")
NO_PAIRS = ("", "Basic", "Basic ***", basic("ann:secret").replace("Basic", "Bearer"))


def test_api_auth_protects_every_route_before_the_body_is_looked_at(webui, method):
    with TestClient(application(webui, api_auth="ann:secret,bob:pässword")) as client:

        def status(verb, path, header):
            given = {"authorization": header} if header else {}
            return client.request(verb, f"/ldznet{path}", headers=given, content=b"{").status_code

        for route in ROUTES:
            bad = [status(*route, header) for header in (*map(basic, WRONG_PAIRS), *NO_PAIRS)]
            good = [status(*route, basic(pair)) for pair in ("ann:secret", "bob:pässword")]
            assert bad == [401] * len(bad)
            assert good == [422 if route[1] == "/segment" else 200] * 2


def test_the_schema_says_that_a_password_is_needed(webui, method):
    with TestClient(application(webui, api_auth="ann:secret")) as client:
        schema = client.get("/openapi.json").json()

    assert schema["paths"]["/ldznet/segment"]["post"]["security"] == [{"HTTPBasic": []}]
    assert schema["components"]["securitySchemes"]["HTTPBasic"]["scheme"] == "basic"


def test_there_are_no_routes_in_a_webui_without_an_api(webui, method):
    with TestClient(application(webui, with_api=False)) as client:
        assert client.get("/ldznet/heads").status_code == 404
    webui.shared.cmd_opts.nowebui = True
    with TestClient(application(webui, with_api=False)) as client:
        assert client.get("/ldznet/heads").status_code == 200


def test_the_heads_are_listed_with_what_they_fit(webui, method, tmp_path, monkeypatch):
    (tmp_path / "ldznet").mkdir()
    info = webui.session.make_host(webui.model).info
    save_head(random_head(info.unet).head, tmp_path / "ldznet" / "one.safetensors", source={})
    with TestClient(application(webui)) as client:
        answer = client.get("/ldznet/heads").json()
        webui.shared.sd_model = None
        without = client.get("/ldznet/heads").json()

    own = next(head for head in answer["heads"] if head["name"] == "one.safetensors")
    assert (own["kind"], own["fits"], len(own["sha256"])) == ("ld-znet", True, 64)
    assert answer["checkpoint"] == "sd1.safetensors [0123456789]"
    assert answer["methods"] == ["auto", "head", "attention", "difference"]
    assert (without["checkpoint"], without["heads"][-1]["fits"]) == (None, None)


@pytest.mark.parametrize("name", ["private.ckpt", "private.safetensors"])
def test_a_refused_head_is_named_without_the_folder_that_it_lies_in(webui, tmp_path, name):
    (tmp_path / "ldznet").mkdir()
    (tmp_path / "ldznet" / name).write_bytes(b"no weights of anything")
    with TestClient(application(webui)) as client:
        said = refused(ask(client, head=name))

    assert name in said
    assert str(tmp_path) not in said


def test_a_folder_of_heads_that_cannot_be_opened_is_no_fault_of_ours(client, webui):
    webui.shared.opts.ldznet_heads = "x" * 5000

    assert "cannot be opened (File name too long)" in refused(client.get("/ldznet/heads"))


def test_unload_takes_all_away_and_the_next_request_works(client, method):
    area = answered(client)["area"]
    calls = method.calls

    loaded = client.get("/ldznet/status").json()
    unloaded = client.post("/ldznet/unload").json()

    assert (loaded["method"], loaded["kept"], loaded["device"]) == ("brightness", 1, "cpu")
    assert (unloaded["method"], unloaded["model"], unloaded["kept"]) == (None, None, 0)
    assert answered(client)["area"] == area
    assert method.calls > calls


FOREIGN = [
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},  # another port or subdomain
    {"origin": "https://example.org"},
    {"origin": "http://testserver:81"},
    {"origin": "null"},
    {"origin": "http://["},
]
OWN = [
    {},  # curl
    {"sec-fetch-site": "same-origin", "origin": "https://behind.a.proxy"},
    {"sec-fetch-site": "none"},
    {"origin": "http://testserver"},
    {"origin": "HTTP://TestServer"},
]


def test_no_page_of_another_site_can_unload(client):
    answered(client)

    for headers in FOREIGN:
        answer = client.post("/ldznet/unload", headers=headers)
        assert refused(answer, 403).startswith("A page of another site asked for this, so it was refused")
    assert client.get("/ldznet/status").json()["kept"] == 1
    assert [client.post("/ldznet/unload", headers=headers).status_code for headers in OWN] == [200] * len(OWN)
    assert client.get("/ldznet/status").json()["kept"] == 0


def test_nothing_is_unloaded_while_others_have_the_queue(client, monkeypatch, webui):
    lock, held = sys.modules["modules.call_queue"].queue_lock, []
    unload = webui.session.unload
    monkeypatch.setattr(webui.session, "unload", lambda: held.append(lock.locked()) or unload())

    client.post("/ldznet/unload")

    assert held == [True]
    assert not lock.locked()


# --- the schema ------------------------------------------------------------------------------------------


@pytest.fixture
def schema(client):
    return client.get("/openapi.json").json()


def test_every_route_says_what_it_takes_and_gives(schema):
    for verb, path in ROUTES:
        route = schema["paths"][f"/ldznet{path}"][verb.lower()]
        answer = route["responses"]["200"]["content"]["application/json"]["schema"]
        assert answer["$ref"].startswith("#/components/schemas/")
        problems = {status: said for status, said in route["responses"].items() if status != "200"}
        assert all("Problem" in json.dumps(said) for said in problems.values())
        assert route["description"]


def test_the_options_are_the_controls_with_their_ranges_and_defaults(schema):
    fields = schema["components"]["schemas"]["SegmentRequest"]["properties"]

    for control in CONTROLS:
        if control.name in OF_A_RUN:
            assert control.name not in fields
            continue
        field = fields[control.name]
        assert control.label in field["description"]
        if control.name != "prompt":
            # Without a threshold it is automatic.
            assert field.get("default") == (None if control.name == "threshold" else control.default)
        if control.low is not None:
            bounded = field if "minimum" in field else field["anyOf"][0]
            assert (bounded["minimum"], bounded["maximum"]) == (control.low, control.high)
        if control.choices:
            assert tuple(field["enum"]) == control.choices
    assert schema["components"]["schemas"]["SegmentRequest"]["required"] == ["prompt", "image"]


def test_the_schema_has_no_bound_that_means_something_else_in_older_openapi(schema):
    assert "exclusiveM" not in json.dumps(schema["components"])  # the webui's says that it is 3.0


def test_every_example_is_told_in_the_words_of_older_openapi_too(schema):
    models = schema["components"]["schemas"].values()
    fields = [field for model in models for field in model.get("properties", {}).values() if "examples" in field]

    assert len(fields) > 10
    assert [field for field in fields if field.get("example") != field["examples"][0]] == []


def test_the_example_of_the_schema_is_a_picture(schema):
    example = schema["components"]["schemas"]["SegmentRequest"]["properties"]["image"]["examples"][0]

    picture(example).load()


# --- strangers -------------------------------------------------------------------------------------------


def test_every_generated_bad_body_is_a_4xx_with_a_reason_and_the_server_goes_on(client, method):
    wrong = []
    for body in bad_bodies(BAD_BODIES):
        answer = send(client, body)
        if not 400 <= answer.status_code < 500 or not answer.json().get("detail"):
            wrong.append((answer.status_code, body[:200]))

    assert wrong == []
    assert method.calls == 0
    assert answered(client)["area"] > 0


def test_schemathesis_finds_no_answer_that_the_schema_does_not_promise(webui, method):
    schemathesis = pytest.importorskip("schemathesis")  # where Python is new enough for it
    schema = schemathesis.openapi.from_asgi("/openapi.json", application(webui))

    assert asked_as_the_schema_says(schema, SCHEMA_EXAMPLES) == set(ROUTES)
