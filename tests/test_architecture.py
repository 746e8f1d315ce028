"""The house: which folder may import which, and that importing does nothing else."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "ldznet").rglob("*.py")) + sorted((ROOT / "scripts").glob("*.py"))
# A room may import rooms of its own layer and of those above it in this list, never below.
LAYERS = [
    {"errors"},
    {"options", "files", "memory_errors", "cpu_memory"},
    {"images", "masks", "drawing", "heads"},
    {"hosts"},
    {"methods"},
    {"inference"},
    {"result"},
    {"segmenter", "decision"},
    {"webui"},
    {"webui/page", "webui/panel", "webui/run", "webui/api"},
    {"cli"},
    {"research"},
    {"__main__"},
    {"scripts"},
]
# library -> where it may be imported
RESERVED = {
    "modules": ("webui/a1111_app.py", "webui/forge_app.py", "webui/reforge_app.py", "scripts/"),
    "modules_forge": ("webui/forge_app.py",),
    "backend": ("webui/forge_app.py",),
    "ldm_patched": ("webui/reforge_app.py",),
    "gradio": (
        "webui/panel/",
        "webui/page/a1111.py",
        "webui/page/current_page.py",
        "webui/page/gradio_versions.py",
        "webui/a1111_app.py",
        "webui/settings_page.py",
        "cli/examples.py",
        "cli/standalone_page.py",
        "scripts/",
    ),
    "fastapi": ("webui/",),
    "pydantic": ("webui/",),
    "diffusers": ("hosts/diffusers/", "research/"),
    "transformers": ("hosts/diffusers/", "research/"),
    "accelerate": ("hosts/diffusers/", "cli/", "research/"),
    "scipy": ("research/",),
    "skimage": ("research/",),
}


def room_of(path):
    """Return the room of a file: "heads", "errors", "webui/panel", "scripts" ..."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] != "ldznet":
        return parts[0]
    if parts[1] == "webui" and len(parts) > 3:
        return "/".join(parts[1:3])
    return parts[1]


def layer_of(room):
    return next((index for index, rooms in enumerate(LAYERS) if room in rooms), None)


def module_file(name):
    """Return the file of a module's dotted name, or None for other libraries."""
    base = ROOT.joinpath(*name.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.exists()), None)


def imports_of(path):
    """Yield (dotted name, whether it runs when the file is imported)."""
    tree = ast.parse(path.read_text())
    later = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node not in later) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            assert node.module
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                is_module = node.module.startswith("ldznet") and module_file(whole) is not None
                yield (whole if is_module else node.module), node not in later


def violations(path):
    room = room_of(path)
    where = path.relative_to(ROOT).as_posix().removeprefix("ldznet/")
    for name, _ in imports_of(path):
        if name.startswith("ldznet."):
            target = room_of(module_file(name) or ROOT.joinpath(*name.split(".")).with_suffix(".py"))
            if layer_of(target) is not None and layer_of(target) > layer_of(room):
                yield f"{where} imports {name} from a layer below"
        elif name.split(".")[0] in RESERVED and not where.startswith(RESERVED[name.split(".")[0]]):
            yield f"{where} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_file_imports_only_its_own_layer_and_those_above(path):
    if path.name == "__init__.py":
        assert list(imports_of(path)) == [] or path.parent.name == "ldznet"
        return
    assert layer_of(room_of(path)) is not None, f"{path} has no layer"
    if path != ROOT / "ldznet" / "__main__.py":
        assert list(violations(path)) == []


def test_a_wrong_import_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    wrong = tmp_path / "ldznet" / "heads" / "layers.py"
    wrong.parent.mkdir(parents=True)
    wrong.write_text("from ldznet.segmenter import Segmenter\nimport ldznet.errors\nimport diffusers\n")

    assert list(violations(wrong)) == [
        "heads/layers.py imports ldznet.segmenter from a layer below",
        "heads/layers.py imports diffusers",
    ]


def test_the_product_never_imports_the_laboratory():
    outside = [path for path in FILES if room_of(path) not in ("research", "__main__")]

    assert [
        (path.name, name) for path in outside for name, _ in imports_of(path) if name.startswith("ldznet.research")
    ] == []


def cycles(arrows):
    """Return the nodes that can reach themselves along the arrows {node: nodes}."""
    found = []
    for start in arrows:
        seen, stack = set(), list(arrows[start])
        while stack:
            node = stack.pop()
            if node not in seen:
                seen.add(node)
                stack.extend(arrows.get(node, ()))
        if start in seen:
            found.append(start)
    return found


@pytest.mark.parametrize("unit", ["files", "folders"])
def test_no_files_and_no_folders_import_each_other_in_a_circle(unit):
    arrows = {}
    for path in FILES:
        start = path if unit == "files" else room_of(path)
        for name, _ in imports_of(path):
            target = module_file(name) if name.startswith("ldznet") else None
            if target is not None and target.name != "__init__.py":
                end = target if unit == "files" else room_of(target)
                arrows.setdefault(start, set()).add(end)
    for start, ends in arrows.items():
        ends.discard(start)

    assert cycles(arrows) == []
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c"]


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
        if room_of(path) not in ("scripts", "webui/panel")  # the panel needs the webui's gradio
    ]

    assert audit(names, ROOT) in ([], [""])


def test_the_audit_notices_a_file_that_reads_on_import(tmp_path):
    (tmp_path / "greedy.py").write_text("open('data.txt').read()")
    (tmp_path / "data.txt").write_text("weights")

    assert audit(["greedy"], tmp_path) == ["opens data.txt"]
