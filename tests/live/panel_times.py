"""Print how long the panel takes in a running webui, beside the answer of our own route in the same run.

    WEBUI_URL=http://127.0.0.1:7860 python tests/live/panel_times.py

WEBUI_URL, PLAYWRIGHT and CHROMIUM are those of test_panel.py. The times are those of a browser: from a click, or a
new value of a slider, until the overlay that it leads to is decoded. Route and panel take turns, so that another
program on the machine slows both. Each image is new, so that nothing of it is cached.
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from PIL import Image
from running import URL, WEBUI

SIDES = tuple(map(int, os.environ.get("SIDES", "256,1024,2048").split(",")))
ROUNDS = int(os.environ.get("ROUNDS", "5"))
MOST = {"segment": 4.0, "threshold": 1.0, "grow": 1.5, "feather": 1.5}  # times the route's answer, at 1024
PLAYWRIGHT = WEBUI / "browser" / "node_modules" / "playwright-core" / "index.mjs"


def photograph(number, side):
    """Return an image with the grain of a photograph and a few bright shapes, wider than high."""
    random = np.random.default_rng(number)
    size = (side, side * 3 // 4)
    ground = cv2.resize(random.integers(40, 160, (6, 8, 3), np.uint8), size, interpolation=cv2.INTER_CUBIC)
    for _ in range(4):
        place = (int(random.integers(size[0])), int(random.integers(size[1])))
        cv2.circle(ground, place, side // 8, tuple(map(int, random.integers(80, 256, 3))), -1)
    grain = random.normal(0, 6, ground.shape)
    return Image.fromarray(np.clip(ground + grain, 0, 255).astype(np.uint8))


def measure(folder, side):
    """Return the seconds of each step, a list for each."""
    paths = []
    for number in range(2 * ROUNDS + 1):
        paths.append(folder / f"{side}-{number}.png")
        photograph(1000 * side + number, side).save(paths[-1])
    settings = {"URL": URL, "IMAGES": ",".join(map(str, paths)), "PHRASE": os.environ.get("PHRASE", "circle")}
    settings["PLAYWRIGHT"] = os.environ.get("PLAYWRIGHT", str(PLAYWRIGHT))
    script = Path(__file__).with_name("panel_times.mjs")
    done = subprocess.run(
        ["node", str(script)], env=os.environ | settings, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def main():
    """Measure, and print a table: seconds (the median), and times the route's answer."""
    print(f"{'longer side':>11}  {'route':>8}  " + "".join(f"{name:>18}" for name in MOST))
    with tempfile.TemporaryDirectory() as folder:
        for side in SIDES:
            times = measure(Path(folder), side)
            route = median(times["route"])
            cells = [f"{median(times[name]):.2f} s = {median(times[name]) / route:4.1f} x" for name in MOST]
            print(f"{side:>11}  {route:6.2f} s  " + "".join(f"{cell:>18}" for cell in cells), flush=True)
    print(f"{'at most':>11}  {'':8}  " + "".join(f"{f'{most:.1f} x':>18}" for most in MOST.values()))


if __name__ == "__main__":
    main()
