"""PhraseCut's subsets."""

import json

import pytest
from miniature import write_phrasecut

from ldznet.research.datasets.phrasecut import PhraseCut
from ldznet.research.datasets.subsets import PhraseStructure, Subsets


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "VGPhraseCut_v0"
    write_phrasecut(folder, scenes=1, splits=("train",))
    return folder


def phrase(name="dog", attributes=(), relations=(), kind="name"):
    return PhraseStructure((name,) if name else (), tuple(attributes), tuple(relations), kind)


def test_missing_subsets_are_in_the_report_with_the_reason(folder):
    (folder / "name_att_rel_count.json").unlink()

    (note,) = PhraseCut(folder).report.notes

    assert note == (
        "left out are the subsets c20 to c500+, a20 to a200+: they need name_att_rel_count.json, which is not in "
        "the folder"
    )


def test_a_phrase_without_attributes_ranks_as_the_rarest(folder):
    counts = {"cat": [["cup", 3], *([f"c{n}", 2] for n in range(600)), ["dog", 1]], "att": [["red", 2]]}
    (folder / "name_att_rel_count.json").write_text(json.dumps(counts))
    subsets = Subsets.read(folder)

    def ranks(**parts):
        return {name for name in subsets.of(phrase(**parts), 1, 0.1, True) if name[0] in "ca" and name != "all"}

    assert ranks(name="cup", attributes=["red"]) == {"c20", "c100", "c500", "a20", "a100", "a200"}
    assert ranks(name="dog") == {"c500+", "a200+"}
    assert ranks(name="nothing known", attributes=["nor this"]) == {"c500+", "a200+"}
