"""Scenes of icons: the same seed, the same scene; words that are true of what they pick and of nothing else."""

import numpy as np
import pytest
from stand_in_art import stand_in_world

from ldznet.errors import OptionError
from ldznet.research.embedded.crops import CropStream
from ldznet.research.scenes.composition import Thing
from ldznet.research.scenes.icon_samples import IconSamples, PairSamples
from ldznet.research.scenes.nouns import NOUNS
from ldznet.research.scenes.pairs import PAIR_KINDS, make_pair
from ldznet.research.scenes.wording import (
    PHRASE_KINDS,
    VOCABULARY,
    NounPhrase,
    draw_caption,
    draw_phrase,
    is_true_of,
    picks_of,
)

SIZE = (128, 160)  # wider than high, so that swapped axes show


@pytest.fixture(scope="module")
def world():
    return stand_in_world()


def test_the_same_seed_gives_the_same_scene_and_words(world):
    once, again = (world.scene(7, "noto", SIZE) for _ in range(2))

    assert np.array_equal(once.image, again.image)
    assert np.array_equal(once.masks, again.masks)
    assert (once.caption(3), once.phrase(5).text) == (again.caption(3), again.phrase(5).text)
    assert not np.array_equal(once.image, world.scene(8, "noto", SIZE).image)


def test_one_seed_has_the_same_things_in_every_hand(world):
    scenes = [world.scene(11, artist, SIZE) for artist in ("noto", "twemoji")]

    described = [[(thing.word, thing.color, thing.size_word) for thing in scene.things] for scene in scenes]
    assert described[0] == described[1]
    assert not np.array_equal(scenes[0].image, scenes[1].image)


def test_masks_show_every_thing_and_no_two_overlap(world):
    for seed in range(40):
        scene = world.scene(seed, "fluent-3d", SIZE)
        assert scene.image.shape == (*SIZE, 3)
        assert scene.masks.shape == (len(scene.things), *SIZE)
        assert scene.masks.sum(0).max() <= 1
        for thing, mask in zip(scene.things, scene.masks, strict=True):
            assert mask.sum() >= 30
            rows, columns = np.nonzero(mask)
            near = 0.5 * thing.side
            assert abs(columns.mean() - thing.center[0]) < near
            assert abs(rows.mean() - thing.center[1]) < near


def test_scenes_have_one_to_five_things_and_several_of_one_kind(world):
    scenes = [world.scene(seed, "noto") for seed in range(200)]

    counts = [len(scene.things) for scene in scenes]
    repeated = [scene for scene in scenes if len({thing.word for thing in scene.things}) < len(scene.things)]
    assert set(counts) == {1, 2, 3, 4, 5}
    assert 20 < len(repeated) < 110
    assert len(world.scene(1, "noto", things=3).things) == 3
    with pytest.raises(OptionError, match=r"things is 6, but a scene has room for 1 to 5"):
        world.scene(1, "noto", things=6)


def test_every_word_of_captions_and_phrases_is_in_the_vocabulary(world):
    words = set()
    for seed in range(300):
        scene = world.scene(seed, "emojitwo")
        texts = [scene.caption(number) for number in range(4)]
        texts += [phrase.text for kind in PHRASE_KINDS if (phrase := scene.phrase(0, (kind,)))]
        words |= {word for text in texts for word in text.replace(",", " ,").split()}

    assert words <= set(VOCABULARY)
    assert len(words) > 0.7 * len(VOCABULARY)


def test_captions_have_every_form_that_a_user_types(world):
    captions = [world.scene(seed, "noto").caption() for seed in range(400)]

    leads = [
        caption for caption in captions if caption.startswith(("a photo of ", "a picture of ", "an image of "))
    ]
    bare = [caption for caption in captions if caption in NOUNS]
    listed = [caption for caption in captions if " and " in caption]
    assert len(leads) > 100
    assert len(bare) > 15
    assert len(listed) > 60
    assert any(" on the left" in caption for caption in captions)
    assert any(caption.split()[0] in ("large", "small") for caption in captions)


def test_a_phrase_picks_exactly_what_it_says():
    left = Thing("dog", "", False, "large", 40.0, (30.0, 64.0))
    right = Thing("dog", "", False, "small", 20.0, (130.0, 64.0))
    balloon = Thing("balloon", "red", True, "", 30.0, (80.0, 100.0))
    plain = Thing("balloon", "", False, "", 30.0, (80.0, 20.0))
    things = [left, right, balloon]

    def picks(*words, among=things):
        return picks_of(NounPhrase(*words), among, SIZE)

    assert picks("dog") == (0, 1)
    assert picks("animal") == (0, 1)
    assert picks("dog", "", "large") == (0,)
    assert picks("dog", "", "", "right") == (1,)
    assert picks("balloon", "red") == (2,)
    assert picks("balloon", "blue") == ()
    assert picks("wolf") == ()
    # The balloon is neither left nor right, neither large nor small, and another one has no colour word.
    assert picks("balloon", "", "", "left") is None
    assert picks("balloon", "", "large") is None
    assert picks("balloon", "blue", among=[plain]) is None
    assert is_true_of(left, NounPhrase("dog", "", "small"), SIZE) is False


def test_a_dog_of_medium_size_is_not_the_large_dog_where_there_is_one():
    large = Thing("dog", "", False, "large", 90.0, (40.0, 64.0))
    medium = Thing("dog", "", False, "", 50.0, (120.0, 64.0))

    assert picks_of(NounPhrase("dog", size_word="large"), [large, medium], SIZE) == (0,)
    assert picks_of(NounPhrase("dog", size_word="large"), [medium], SIZE) is None
    assert picks_of(NounPhrase("dog", size_word="small"), [large, medium], SIZE) is None


def test_absent_phrases_pick_nothing_and_are_often_near(world):
    near = 0
    for seed in range(200):
        scene = world.scene(seed, "noto")
        phrase = scene.phrase(0, ("absent",))
        if phrase is None:
            continue
        assert not phrase.mask.any()
        assert phrase.kind == "absent"
        own = {word for thing in scene.things for word in NOUNS[thing.word].words}
        near += any(word in phrase.text for word in own)
    assert near > 10


def test_plural_and_article_follow_the_number_of_things():
    one = [Thing("dog", "", False, "", 50.0, (64.0, 64.0))]
    two = [*one, Thing("dog", "", False, "", 50.0, (130.0, 64.0))]

    def names(things):
        choices = (draw_phrase(things, SIZE, np.random.default_rng(n), kinds=("name",)) for n in range(60))
        return {choice.text for choice in choices if choice}

    assert names(one) == {"dog", "a dog", "the dog"}
    assert names(two) == {"dog", "dogs", "the dogs"}
    captions = {draw_caption("cartoon", two, "green", SIZE, np.random.default_rng(n)) for n in range(200)}
    assert any("two dogs" in caption for caption in captions)


@pytest.mark.parametrize("kind", PAIR_KINDS)
def test_a_pair_has_a_phrase_for_each_of_its_two_things(world, kind):
    for seed in range(5):
        pair = make_pair(seed, kind, world.hands["twemoji"])
        again = make_pair(seed, kind, world.hands["twemoji"])

        assert pair.masks.shape == (2, 128, 128)
        assert pair.masks.any((1, 2)).all()
        assert pair.phrases[0] != pair.phrases[1]
        assert pair.phrases == again.phrases
        columns = [np.nonzero(mask)[1].mean() for mask in pair.masks]
        if pair.phrases[0].endswith("on the left"):
            assert columns[0] < columns[1]
        if kind == "size":
            assert pair.phrases[0].startswith("the small ")
            assert pair.masks[0].sum() < pair.masks[1].sum()


def test_samples_are_phrases_of_scenes_with_the_share_of_absent_things_asked_for(world):
    samples = IconSamples(world, ["noto", "twemoji"], 4, start=20, each=3, absent=1)

    every = [samples[index] for index in range(len(samples))]

    assert len(every) == 16
    assert [sample.categories["look"][0] for sample in every[::4]] == ["noto", "twemoji"] * 2
    assert [sample.mask.any() for sample in every] == [True, True, True, False] * 4
    assert len({sample.key for sample in every}) == 16
    assert not samples.negative(0, np.random.default_rng(1)).mask.any()
    with pytest.raises(OptionError, match=r"artists is nobody, but must name some of fluent-3d"):
        IconSamples(world, ["nobody"], 4)


def test_pairs_are_asked_both_ways(world):
    samples = PairSamples(world, "noto", 2)

    assert len(samples) == 2 * 2 * len(PAIR_KINDS)
    first, second = samples[0], samples[1]
    assert first.source == second.source
    assert not (first.mask & second.mask).any()
    assert [samples[index].categories["kind"][0] for index in range(0, 10, 2)] == list(PAIR_KINDS)


def test_training_alternates_the_artists_that_may_be_trained_on(world):
    scenes = [world.training_scene(number, 64) for number in range(6)]

    assert world.trained_on == ("fluent-3d", "fluent-flat", "noto", "twemoji", "noto-v1", "emojitwo")
    assert {scene.image.shape for scene in scenes} == {(64, 64, 3)}
    assert all(len(scene.captions) == 4 for scene in scenes)


def test_crops_show_things_which_weigh_more_than_the_ground(world):
    stream = CropStream(world, start=3, count=4, size=128, side=64, each=2)

    crops, weights = stream[1]

    assert (crops.shape, weights.shape) == ((2, 3, 64, 64), (2, 1, 64, 64))
    assert crops.min() >= -1
    assert crops.max() <= 1
    assert all(set(part.unique().tolist()) == {0.5, 1.5} for part in weights)
    assert all(np.array_equal(part, other) for part, other in zip(stream[1], stream[1], strict=True))
    with pytest.raises(IndexError):
        stream[4]
