"""PhraseCut's subsets: those of its files, and those that need its authors' lists of words."""

import json

import pytest

from ldznet.research.datasets.miniature import write_phrasecut
from ldznet.research.datasets.phrasecut import PhraseCut
from ldznet.research.datasets.samples import DatasetError
from ldznet.research.datasets.subsets import WORDS, PhraseStructure, Subsets

# As the authors' file is made, with words of our own; it must be read and not run.
LISTS = "\n".join(
    [
        "import nowhere",
        "raise SystemExit('it was run')",
        "people_names = [1, 2]  # not needed",
        "coco = ['wine glass', 'dog']",
        "stuff_names = ['sky', 'grass', 'sky']",
        *(f"att_{label[2:]} = ['{label[2:]} word', 'both']" for label in WORDS if label.startswith("a_")),
    ]
)


@pytest.fixture
def folder(tmp_path):
    """VGPhraseCut_v0 as it lies in the repository of its authors."""
    folder = tmp_path / "data" / "VGPhraseCut_v0"
    write_phrasecut(folder, scenes=1, splits=("train",))
    return folder


def phrase(name="dog", attributes=(), relations=(), kind="name"):
    return PhraseStructure((name,) if name else (), tuple(attributes), tuple(relations), kind)


def words(subsets, **parts):
    every = {*WORDS, "t_obj"}
    return {label for label in subsets.of(phrase(**parts), 1, 0.1, True) if label in every}


def test_lists_of_words_beside_the_dataset_are_read_and_nothing_is_run(folder):
    (folder / "subset.py").write_text(LISTS)
    subsets = Subsets.read(folder)

    assert subsets.left_out == ()
    assert words(subsets, name="dog") == {"t_obj", "c_coco"}
    assert words(subsets, name="glass") == {"t_obj"}  # not the whole name
    assert words(subsets, name="cloudy skyline") == {"t_stuff"}  # for stuff a part of it will do
    assert words(subsets, name="") == {"t_obj"}
    assert words(subsets, name="cup", attributes=["color word", "count word"]) == {"t_obj", "a_color", "a_count"}
    kinds = {label for label in WORDS if label.startswith("a_")}
    assert len(kinds) == 10
    assert words(subsets, name="cup", attributes=["both"]) == {"t_obj", *kinds}


def test_the_lists_are_found_where_the_authors_repository_has_them_and_only_there(folder):
    utils = folder.parents[1] / "utils"
    utils.mkdir()
    (utils / "subset.py").write_text("of another program = 5")
    assert Subsets.read(folder).left_out

    (utils / "refvg_loader.py").write_text("")
    (utils / "subset.py").write_text(LISTS)
    assert Subsets.read(folder).left_out == ()


def test_what_is_left_out_is_said_with_its_reason_in_the_report(folder):
    (folder / "name_att_rel_count.json").unlink()

    ranks, lists = sorted(PhraseCut(folder).report.notes)

    assert ranks == (
        "left out are the subsets c20 to c500+, a20 to a200+: they need name_att_rel_count.json, which is not in "
        "the folder"
    )
    assert lists.startswith("left out are the subsets c_coco, t_stuff, a_color,")
    assert lists.endswith(
        "they need its authors' lists of words: put utils/subset.py of their repository into the folder"
    )


@pytest.mark.parametrize(
    "text",
    ["coco = [", "coco = ['dog']", LISTS.replace("['wine glass', 'dog']", "make()"), LISTS + "\ncoco = [5]"],
)
def test_a_file_without_the_lists_is_an_error_that_names_it(folder, text):
    (folder / "subset.py").write_text(text)

    with pytest.raises(DatasetError, match=r"subset\.py' does not hold PhraseCut's lists of words"):
        PhraseCut(folder)


def test_a_phrase_without_attributes_ranks_as_the_rarest(folder):
    counts = {"cat": [["cup", 3], *([f"c{n}", 2] for n in range(600)), ["dog", 1]], "att": [["red", 2]]}
    (folder / "name_att_rel_count.json").write_text(json.dumps(counts))
    subsets = Subsets.read(folder)

    def ranks(**parts):
        return {name for name in subsets.of(phrase(**parts), 1, 0.1, True) if name[0] in "ca" and name != "all"}

    assert ranks(name="cup", attributes=["red"]) == {"c20", "c100", "c500", "a20", "a100", "a200"}
    assert ranks(name="dog") == {"c500+", "a200+"}
    assert ranks(name="nothing known", attributes=["nor this"]) == {"c500+", "a200+"}
