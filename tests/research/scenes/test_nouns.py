"""The nouns of the embedded model's world, their plurals and groups."""

import re
from pathlib import Path

import pytest

from ldznet.research.scenes.nouns import COLORS, GROUPS, NOUNS, near_words, plural_of, with_article


def test_the_world_has_more_than_two_hundred_nouns_of_one_icon_each():
    assert len(NOUNS) == 215
    assert len({noun.icon for noun in NOUNS.values()}) == 215


def test_a_bird_is_an_animal_and_an_apple_is_fruit_and_food():
    assert NOUNS["owl"].words == ("owl", "animal", "bird")
    assert NOUNS["apple"].words == ("apple", "food", "fruit")
    assert NOUNS["bird"].words == ("bird", "animal")
    assert NOUNS["bucket"].words == ("bucket",)
    assert "plane" in NOUNS["airplane"].words


def test_every_member_of_a_group_is_a_noun():
    assert {member for members in GROUPS.values() for member in members} <= set(NOUNS)


@pytest.mark.parametrize(
    ("word", "plural"),
    [
        ("dog", "dogs"),
        ("bus", "buses"),
        ("fox", "foxes"),
        ("torch", "torches"),
        ("butterfly", "butterflies"),
        ("donkey", "donkeys"),
        ("potato", "potatoes"),
        ("knife", "knives"),
        ("mouse", "mice"),
        ("sheep", "sheep"),
        ("scissors", "scissors"),
        ("bread", "bread"),
    ],
)
def test_plurals_are_those_of_english(word, plural):
    assert plural_of(word) == plural


def test_articles_follow_the_sound():
    phrases = ("bucket", "apple", "unicorn", "umbrella", "orange car")
    assert [with_article(phrase) for phrase in phrases] == [
        "a bucket",
        "an apple",
        "a unicorn",
        "an umbrella",
        "an orange car",
    ]


def test_near_words_are_nouns_and_never_the_word_itself():
    assert "wolf" in near_words("dog")
    assert near_words("bomb") == ()
    for word in NOUNS:
        assert word not in near_words(word)
        assert set(near_words(word)) <= set(NOUNS), word


def test_colours_that_artists_agree_on_are_colour_words():
    assert NOUNS["tomato"].own_color == "red"
    assert {noun.own_color for noun in NOUNS.values()} - {""} <= set(COLORS)
    assert not [noun.word for noun in NOUNS.values() if noun.own_color and noun.takes_color]


def test_the_document_that_a_note_points_to_lists_all_words():
    text = (Path(__file__).parents[3] / "docs" / "tiny.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"[\w ]+\w", text[text.index("| group | words |") : text.index("## The art")]))

    words = {word.strip() for word in listed}
    assert set(COLORS) <= words
    for noun in NOUNS.values():
        assert {noun.word, *noun.synonyms} <= words
