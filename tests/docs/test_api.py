"""docs/api.md: its examples are run as they stand, and the limits are the limits."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from host.api import application, serve
from host.brightness import Brightness, half, share, use
from PIL import Image

from ldznet.images.decoding import MOST_SCANS
from ldznet.images.pixel_formats import MAX_SIDE
from ldznet.inference.passes import count_passes
from ldznet.inference.prompts import LONGEST_PROMPT, TEMPLATES
from ldznet.methods.noise_difference import DifferenceOptions
from ldznet.options import SegmentOptions
from ldznet.webui import limits
from ldznet.webui.api.models import OPTIONS
from ldznet.webui.controls import read_panel_settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text()


def blocks(kind):
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.S)


class Buckets(Brightness):
    """Finds a bucket where the picture is bright, a red hat where it is dark."""

    def probability(self, host, picture, prompts, draw):
        bright = ((picture.pixels.mean(dim=1) + 1) / 2).clamp(0, 1)[0]
        return torch.stack([bright if phrase == "bucket" else 1 - bright for phrase in prompts.phrases])


@pytest.fixture
def example(monkeypatch, tmp_path, webui):
    """Run an example of the page beside photo.jpg, against a server -> what it prints."""
    use(Buckets(), monkeypatch)
    half().save(tmp_path / "photo.jpg", quality=95)
    places = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def run(command, text):
        with serve(application(webui)) as address:
            port = address.rpartition(":")[2]
            done = subprocess.run(
                [*command, text.replace("7860", port)],
                capture_output=True,
                text=True,
                cwd=tmp_path,
                env={**os.environ, "PATH": places},
                timeout=300,
                check=False,
            )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def seen(path):
    with Image.open(path) as image:
        return share(image)


def test_curl_gets_a_mask(example, tmp_path):
    example(["bash", "-e", "-c"], blocks("bash")[0])

    assert seen(tmp_path / "mask.png") == (1.0, 1.0)  # bucket and red hat together
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert [one["prompt"] for one in answer["prompts"]] == ["bucket", "red hat"]
    assert answer["overlay"]


def test_plain_python_gets_a_mask_for_each_prompt(example, tmp_path):
    said = example([sys.executable, "-c"], blocks("python")[0])

    assert re.fullmatch(r"bucket \d+ \[0, 0, \d+, 64\] 0\.\d+\nred hat \d+ \[\d+, 0, 128, 64\] 0\.\d+\n", said)
    assert seen(tmp_path / "bucket.png") == (1.0, 0.0)
    assert seen(tmp_path / "red hat.png") == (0.0, 1.0)


def test_the_public_client_segments_and_inpaints(example, tmp_path):
    pytest.importorskip("webuiapi")

    said = example([sys.executable, "-c"], blocks("python")[1])

    assert said.startswith("bucket ")
    assert seen(tmp_path / "bucket-mask.png") == (1.0, 0.0)
    assert (tmp_path / "star.png").exists()


def test_the_arguments_of_img2img_are_taken_as_they_stand():
    by_name, by_place = (
        read_panel_settings(json.loads(block)["alwayson_scripts"]["LD-ZNet segment"]["args"])
        for block in blocks("json")
    )

    assert by_name.enabled
    assert by_place.enabled
    assert (by_name.prompts, by_name.mask.threshold, by_name.append) == (("bucket",), 0.4, True)
    assert (by_place.prompts, by_place.negatives, by_place.mask.threshold) == (("bucket",), ("shadow",), 0.4)


def test_the_limits_are_those_of_the_code():
    said = {int(number.replace(",", "")) for number in re.findall(r"\| [^|]+ \| ([\d,]+) \|", PAGE)}

    assert said == {
        limits.MOST_PIXELS,
        MAX_SIDE,
        limits.LONGEST_IMAGE,
        limits.LONGEST_BODY,
        limits.MOST_VALUES,
        limits.MOST_SIGNS,
        MOST_SCANS,
        limits.MOST_PROMPTS,
        LONGEST_PROMPT,
        limits.MOST_PASSES,
        limits.MOST_SMALL_PASSES,
        limits.MOST_ANSWERED,
        limits.LONGEST_TEXT,
        limits.LONGEST_WORD,
    }


def test_what_multiplies_the_passes_is_that_of_the_code():
    row = next(line for line in PAGE.splitlines() if line.startswith("| prompts x timesteps x seeds"))
    each = (len(TEMPLATES), count_passes("head", SegmentOptions(refine=True), 1), DifferenceOptions().noises)

    assert [int(number) for number in re.findall(r"x (\d+) with", row)] == list(each)


def test_every_option_of_a_request_is_told():
    assert [name for name in OPTIONS if f"`{name}`" not in PAGE] == []
