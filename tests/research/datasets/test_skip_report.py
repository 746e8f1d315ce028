"""The report of what was left out: it counts all, names some, and does not grow."""

import itertools
import json

import numpy as np
import pytest

from ldznet.research.datasets.sample import Sample
from ldznet.research.datasets.skip_report import Report, Skipped


def skipped(*names, most=1000, reason="missing image"):
    report = Report(most)
    for name in names:
        report.add(Skipped(name, reason, "..."))
    return report


def faulty(key):
    return Sample(key, np.zeros((1, 1, 3), np.uint8), "x", np.ones((1, 1), bool), {}, faults=("a fault",))


def test_all_are_counted_and_the_first_in_the_alphabet_named():
    report = skipped("d", "b", "e", "a", "c", most=2)

    assert report.counts == {"missing image": 5}
    assert report.skipped == {"missing image": ["a", "b"]}
    assert str(report) == "5 skipped (missing image): a, b and 3 more"


def test_what_was_kept_with_faults_is_bounded_too():
    report = Report(most=2)
    for key in "cab":
        report.add(faulty(key))

    assert report.faulty == 3
    assert list(report.kept) == ["a", "b"]
    assert "3 used, though parts of their outlines are invalid: a, b and 1 more" in str(report)


def test_a_name_counts_once_as_long_as_all_are_named():
    assert skipped("a", "b", "a", "a").counts == {"missing image": 2}


def test_a_report_does_not_grow_with_what_is_left_out():
    sizes = []
    for count in (2000, 4000):
        report = Report(most=100)
        for number in range(count):
            report.add(Skipped(f"{number:06}", "missing image", "..."))
            report.add(faulty(f"{number:06}"))
        sizes.append(len(json.dumps(report.state_dict())))

    assert report.counts == {"missing image": 4000}
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_reports_added_in_any_order_are_one_also_beyond_the_names_that_are_kept(order):
    parts = [skipped("f", "a", "c", most=2), skipped("b", "g", most=2), skipped("e", "d", most=2)]
    whole = Report(most=2)
    for number in order:
        whole.merge(Report.from_state(json.loads(json.dumps(parts[number].state_dict())), 2))

    assert whole.state_dict() == skipped(*"abcdefg", most=2).state_dict()


def test_notes_on_the_dataset_are_kept_once():
    report = Report()
    for _ in range(2):
        other = Report()
        other.notes.add("left out is this")
        report.merge(Report.from_state(other.state_dict()))

    assert report.notes == {"left out is this"}
    assert str(report) == "nothing was skipped"


def test_reports_from_before_there_were_counts_are_read():
    report = Report.from_state({"skipped": {"missing image": ["a", "b"]}, "kept": {"c": ["a fault"]}})

    assert (report.counts, report.faulty, report.notes) == ({"missing image": 2}, 1, set())
