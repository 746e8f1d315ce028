"""docs/peers.md: every mark of ours has a test that exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "peers.md").read_text(encoding="utf-8")
# "| 1 | question | ours | five marks |" and "| 1 | what we do | `test` |"
MARKS = dict(re.findall(r"^\| (\d+) \| [^|]+ \| ([✔◐✘]) (?:\| [✔◐✘·] ){5}\|$", TEXT, re.M))
TESTS = re.findall(r"^\| (\d+) \| [^|]+ \| `(.+)` \|$", TEXT, re.M)


def test_ten_questions_are_answered():
    assert list(MARKS) == [str(number) for number in range(1, 11)]


def test_every_yes_of_ours_is_shown_by_a_test():
    assert {number for number, mark in MARKS.items() if mark != "✘"} == {number for number, _ in TESTS}


@pytest.mark.parametrize(("number", "test"), TESTS, ids=[number for number, _ in TESTS])
def test_a_named_test_exists(number, test):
    file, name = test.split("::")

    assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8")
