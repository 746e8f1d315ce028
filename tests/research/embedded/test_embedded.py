"""The embedded model: what it has learned, on fixed scenes that it has never seen."""

import json

import numpy as np
import pytest

from ldznet.__main__ import main
from ldznet.hosts.diffusers.host import DiffusersHost
from ldznet.methods.choose import choose_method, find_heads
from ldznet.methods.load import EMBEDDED, MODELS
from ldznet.research.scenes.scenes import make_scene
from ldznet.segmenter import Segmenter


@pytest.fixture(scope="module")
def segmenter():
    host = DiffusersHost.load(EMBEDDED)
    return Segmenter(host, choose_method("auto", host.info, find_heads([MODELS])).method)


def scenes(count, objects):
    """Scenes with so many things, all of another kind."""
    found, seed = [], 0
    while len(found) < count:
        scene = make_scene(seed, objects=objects)
        if len({item.kind for item in scene.objects}) == objects:
            found.append(scene)
        seed += 1
    return found


def overlap(mask, other):
    return np.count_nonzero(mask & other) / max(1, np.count_nonzero(mask | other))


def test_auto_takes_the_embedded_head(segmenter):
    assert segmenter.method.name == "ld-znet"


def test_what_is_there_is_found(segmenter):
    overlaps = []
    for scene in scenes(12, 1):
        segmenter.set_image(scene.image)
        probability = segmenter.segment(scene.objects[0].kind).probability(0)
        overlaps.append(overlap(probability > 0.3, scene.masks[0]))

    assert np.mean(overlaps) > 0.65


def test_another_phrase_gives_another_mask(segmenter):
    right = []
    for scene in scenes(12, 2):
        if scene.objects[0].color == scene.objects[1].color:
            continue
        segmenter.set_image(scene.image)
        maps = segmenter.segment([f"{item.color} {item.kind}" for item in scene.objects]).probabilities()
        for index in (0, 1):
            mine, others = (maps[index][scene.masks[which]].mean() for which in (index, 1 - index))
            right.append(mine > others)

    assert len(right) >= 10
    assert np.mean(right) > 0.85


def test_what_is_not_there_gives_an_empty_mask_more_often_than_what_is(segmenter):
    empty = {True: [], False: []}
    for seed in range(24):
        scene = make_scene(seed)
        said = scene.phrases(0, 1)
        segmenter.set_image(scene.image)
        found = segmenter.segment([phrase.text for phrase in said])
        for index, phrase in enumerate(said):
            empty[phrase.kind == "absent"].append(not found.mask(only=index).any())

    assert np.mean(empty[True]) > 0.2
    assert np.mean(empty[True]) > np.mean(empty[False])


def test_the_first_command_of_the_readme_needs_no_options(tmp_path, capsys):
    picture = MODELS.parent / "docs" / "pictures" / "triangle.jpg"

    assert main(["segment", str(picture), "triangle", "--out", str(tmp_path)]) == 0

    out, err = capsys.readouterr()
    assert "ld-znet" in err
    assert "triangle: " in out
    assert "nothing" not in out
    assert (tmp_path / "triangle.overlay.png").exists()
    report = json.loads((tmp_path / "triangle.json").read_text())
    assert report["reason"] == "ld-znet.safetensors fits tiny.safetensors"
