"""What the README and docs say can be done as they say it."""

import re
import shlex
from pathlib import Path

import pytest

from ldznet.__main__ import parse

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]
)
README = (ROOT / "README.md").read_text()
CALLS = re.findall(r"(?:python|accelerate launch --num_processes 4) -m ldznet (.+)", "\n".join(
    block for page in PAGES for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.S)
))  # fmt: skip


def test_ci_runs_the_test_command_of_the_readme():
    last = (ROOT / ".ci" / "run").read_text().strip().splitlines()[-1]

    assert last.startswith("python3 -m venv .venv && ")
    assert f"\n{last}\n" in README


@pytest.mark.parametrize("call", CALLS)
def test_every_command_in_the_docs_is_one_that_the_program_takes(call):
    arguments = shlex.split(call.split(" > ")[0], comments=True)

    parse(arguments)


def test_there_are_commands_to_check():
    assert len(CALLS) >= 6


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_to_one(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_python_in_the_readme_is_valid_and_names_what_exists():
    import importlib

    for block in re.findall(r"```python\n(.*?)```", README, re.S):
        compile(block, "README.md", "exec")
        for module, names in re.findall(r"from (ldznet[\w.]*) import (.+)", block):
            for name in names.split(", "):
                assert hasattr(importlib.import_module(module), name), name
