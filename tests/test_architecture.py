"""The house: who may import whom, and that importing does nothing else."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "ldznet").rglob("*.py")) + sorted((ROOT / "scripts").glob("*.py"))
ROWS = [
    {"errors", "options"},
    {
        *("modeling", "image", "mask", "objects", "candidates", "refine", "segmentation", "prompts", "shortage"),
        *("render", "palette", "legend", "lettering"),
    },
    {"hosts"},
    {"methods"},
    {"segmenter", "batches", "passes", "second_look"},
    {"training", "evaluation"},
    {"webui", "commands"},
    {"__main__"},
    {"scripts"},
]
# library -> where it may be imported
RESERVED = {
    "modules": ("hosts/a1111.py", "webui/", "scripts/"),
    "gradio": ("webui/panel.py", "webui/clicks.py", "webui/settings.py", "webui/alone.py", "scripts/"),
    "fastapi": ("webui/",),
    "pydantic": ("webui/",),
    "diffusers": ("hosts/diffusers", "training/"),
    "transformers": ("hosts/diffusers", "training/", "evaluation/clipseg.py"),
    "accelerate": ("hosts/diffusers", "training/"),
    "scipy": ("training/", "evaluation/"),
    "skimage": ("training/", "evaluation/"),
}


def place(path):
    """The file's room: "modeling", "errors", "scripts" ..."""
    parts = path.relative_to(ROOT).parts
    return parts[0] if parts[0] != "ldznet" else parts[1].removesuffix(".py")


def row(room):
    return next((index for index, rooms in enumerate(ROWS) if room in rooms), None)


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            if node.module == "ldznet":
                yield from (f"ldznet.{alias.name}" for alias in node.names)
            else:
                yield node.module


def violations(path):
    room = place(path)
    where = path.relative_to(ROOT).as_posix().removeprefix("ldznet/")
    for name in imported(path):
        top, *rest = name.split(".")
        if top == "ldznet" and rest and row(rest[0]) is not None:
            if row(rest[0]) > row(room):
                yield f"{where} imports {name} from a row below"
        elif top in RESERVED and not where.startswith(RESERVED[top]):
            yield f"{where} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_file_imports_only_its_own_row_and_those_above(path):
    if path.name == "__init__.py" and path.parent.name == "ldznet":
        assert list(imported(path)) == []
        return
    assert row(place(path)) is not None, f"{path} has no row in the layers"
    assert list(violations(path)) == []


def test_a_wrong_import_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    wrong = tmp_path / "ldznet" / "modeling" / "layers.py"
    wrong.parent.mkdir(parents=True)
    wrong.write_text("from ldznet.segmenter import Segmenter\nimport ldznet.errors\nimport diffusers\n")

    assert list(violations(wrong)) == [
        "modeling/layers.py imports ldznet.segmenter from a row below",
        "modeling/layers.py imports diffusers",
    ]


AUDIT = """
import importlib, sys
import torch, numpy, PIL.Image, PIL.ImageDraw, PIL.ImageFont, PIL.ImageOps, cv2, safetensors.torch
import fastapi.openapi.models  # pydantic looks for plugins with the first model, whoever's it is
seen = []
def hook(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)):
        name = args[0] if isinstance(args[0], str) else args[0].decode()
        if not name.endswith((".py", ".pyc")) and "__pycache__" not in name:
            seen.append(f"opens {name}")
    elif event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.mkdir", "os.remove"):
        seen.append(f"{event} {args}")
sys.addaudithook(hook)
before = torch.get_rng_state()
for name in sys.argv[1:]:
    importlib.import_module(name)
assert torch.equal(before, torch.get_rng_state()), "the random state moved"
print("\\n".join(seen))
"""


def audit(names, folder):
    command = [sys.executable, "-B", "-c", AUDIT, *names]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


def test_importing_reads_no_disk_opens_no_connection_and_loads_no_model():
    names = [
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        for path in FILES
        if place(path) != "scripts" and path.name not in ("panel.py", "clicks.py")  # they need the webui's gradio
    ]

    assert audit(names, ROOT) in ([], [""])


def test_the_audit_notices_a_file_that_reads_on_import(tmp_path):
    (tmp_path / "greedy.py").write_text("open('data.txt').read()")
    (tmp_path / "data.txt").write_text("weights")

    assert audit(["greedy"], tmp_path) == ["opens data.txt"]
