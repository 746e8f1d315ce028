"""docs/peers.md: every mark of ours has a test that exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# "| 1 | feature | eight marks | ours | note | `test` |"
ROW = re.compile(r"^\| (\d+) \| (?:[^|]|(?<=\\)\|)+(?:\| [✔◐✘·] ){8}\| ([✔◐✘]) \| .* \| (?:`(.+)`)? \|$", re.M)
ROWS = ROW.findall((ROOT / "docs" / "peers.md").read_text())


def test_all_rows_are_there():
    assert [int(number) for number, _, _ in ROWS] == list(range(1, 46))


@pytest.mark.parametrize(("number", "mark", "named"), ROWS, ids=[number for number, _, _ in ROWS])
def test_what_is_there_names_a_test_that_exists(number, mark, named):
    if mark == "✘":
        assert named == ""
        return
    file, test = named.split("::")
    assert f"\ndef {test}(" in (ROOT / "tests" / file).read_text()


def test_the_sum_counts_the_rows():
    text = (ROOT / "docs" / "peers.md").read_text()

    assert f"ours {sum(mark == '✔' for _, mark, _ in ROWS)} of 45" in text
