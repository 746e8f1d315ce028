"""Text files are UTF-8, whatever the system's code page is."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Calls of `open` that open no text file.
OTHER_KINDS = ("Image.", "os.", "archive.", "tarfile.", "urllib.")


def calls_without_encoding(path):
    """Return the lines of calls that open a text file in the system's code page."""
    lines = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        function = ast.unparse(node.func)
        texts = [
            one.value for argument in node.args for one in ast.walk(argument) if isinstance(one, ast.Constant)
        ]
        modes = [text for text in texts if isinstance(text, str)]
        opens = function.endswith((".read_text", ".write_text"))
        opens |= function.split(".")[-1] == "open" and not function.startswith(OTHER_KINDS)
        binary = any("b" in mode for mode in modes if len(mode) < 4)
        if opens and not binary and "encoding" not in {keyword.arg for keyword in node.keywords}:
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("room", ["ldznet", "scripts", "*.py"])
def test_every_text_file_is_opened_as_utf_8(room):
    paths = sorted(ROOT.glob(room) if "*" in room else (ROOT / room).rglob("*.py"))

    assert paths
    files = {str(path.relative_to(ROOT)): calls_without_encoding(path) for path in paths}
    assert {path: lines for path, lines in files.items() if lines} == {}
