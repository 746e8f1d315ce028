"""Count the files of ldznet that one command or one click enters: python -m tests.entered_files.

A file counts when a function of it is called; what runs when a module is imported does not count. The command is
`segment photo.jpg bucket` with the embedded model, the click is Segment in the panel of the stand-in webui
under tests/host.
"""

import os
import sys
import tempfile
import threading
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = str(ROOT / "ldznet") + os.sep


def entered_files(work):
    """Call `work` and return the files of ldznet that it enters, relative to the package, sorted."""
    seen = set()

    def profile(frame, event, _argument):
        if event == "call" and not frame.f_code.co_name.startswith("<module"):
            seen.add(frame.f_code)

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    # A class body is a call too, but it runs at import.
    names = {code.co_filename for code in seen if not _is_class_body(code)}
    return sorted(name.removeprefix(PACKAGE) for name in names if name.startswith(PACKAGE))


def _is_class_body(code):
    return "__qualname__" in code.co_names and not code.co_flags & 0x02  # CO_NEWLOCALS: functions have it


def segment():
    """Run `segment` on an example image."""
    from ldznet.__main__ import main
    from tests.embedded_scenes import README_IMAGE, README_PROMPT

    with tempfile.TemporaryDirectory() as folder:
        assert main(["segment", str(README_IMAGE), README_PROMPT, "--out", folder, "--quiet"]) == 0


def make_click():
    """Return a function that clicks on Segment in the stand-in webui; everything is loaded, as in a session."""
    import pytest
    from conftest import webui
    from host.brightness import Brightness, half, use

    spec = spec_from_file_location("panel_fixtures", ROOT / "tests" / "webui" / "panel" / "conftest.py")
    fixtures = module_from_spec(spec)
    spec.loader.exec_module(fixtures)
    folder = Path(tempfile.mkdtemp())
    patch = pytest.MonkeyPatch()
    stand_in = webui.__wrapped__(patch, folder)
    use(Brightness(), patch)  # the tests' method, in place of a network
    panel = fixtures.Panel(stand_in.session)
    panel.segment(half())
    return lambda: panel.segment(half(left=254))


def report(what, most, files):
    """Print the files and how many they are."""
    print(f"{what}: {len(files)} files (at most {most} expected)")
    print("".join(f"  {name}\n" for name in files))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))
    report("segment photo.jpg word", 32, entered_files(segment))
    report("a click on Segment", 28, entered_files(make_click()))
