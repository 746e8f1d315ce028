"""Run `segment` on small images with random weights, and look at what it writes."""

import json

import numpy as np
from PIL import Image

from ldznet.__main__ import main
from ldznet.cli.segment_run import SegmentRun

FAST = ("--random-weights", "--resolution", "64")
CAT = ("-p", "cat", *FAST, "--save", "mask")


def picture(path, size=(60, 40), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), np.uint8)
    Image.fromarray(noise).resize(size).save(path)
    return path


def opened(path):
    with Image.open(path) as image:
        return np.array(image)


def files(path):
    return sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())


def command(*arguments):
    return main(["segment", *map(str, arguments)])


def report_names(path):
    return [name for name in files(path) if name.endswith(".json")]


def report(path):
    return json.loads(path.read_text())


def counted(monkeypatch):
    """Return the list to which every image is added that is segmented from now on."""
    done = []
    plain = SegmentRun._segment

    def count(self, segmenter, work, *args):
        done.append(work.job.source)
        return plain(self, segmenter, work, *args)

    monkeypatch.setattr(SegmentRun, "_segment", count)
    return done
