"""Files of the laboratory are UTF-8, whatever the system's code page is."""

import ast
from pathlib import Path

import pytest

RESEARCH = Path(__file__).parents[2] / "ldznet" / "research"


def calls_without_encoding(path):
    """Return the lines of calls that open a text file in the system's code page."""
    lines = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        modes = [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        opens = name in ("read_text", "write_text") and isinstance(node.func, ast.Attribute)
        opens |= name == "open" and getattr(getattr(node.func, "value", None), "id", "") not in ("Image", "os")
        binary = any("b" in mode for mode in modes if len(mode) < 4)
        if opens and not binary and "encoding" not in {keyword.arg for keyword in node.keywords}:
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("room", ["bench", "cli", "datasets", "evaluation", "metrics", "studies", "training"])
def test_every_text_file_is_opened_as_utf_8(room):
    paths = sorted((RESEARCH / room).rglob("*.py"))

    assert paths
    assert {path.name: lines for path in paths if (lines := calls_without_encoding(path))} == {}
