"""The world of icons as a dataset: one phrase of one scene is one sample.

Scene number n has the seed `start + n`, so training and evaluation are apart when their seeds are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ldznet.errors import OptionError
from ldznet.masks.checks import Mask
from ldznet.research.datasets.sample import Sample
from ldznet.research.datasets.skip_report import Report
from ldznet.research.scenes.icons import IconPhrase, IconScene, IconWorld
from ldznet.research.scenes.pairs import PAIR_KINDS, Pair, make_pair


class IconSamples:
    """Scenes, artists alternating, with `each` phrases for what is in a scene and `absent` for what is not."""

    def __init__(
        self,
        world: IconWorld,
        artists: Sequence[str],
        scenes: int,
        *,
        start: int = 0,
        size: int = 128,
        each: int = 3,
        absent: int = 1,
    ) -> None:
        unknown = [artist for artist in artists if artist not in world.hands]
        if unknown or not artists:
            raise OptionError(
                f"artists is {', '.join(artists) or 'empty'}, but must name some of {', '.join(world.hands)}."
            )
        if scenes < 1 or each < 1 or absent < 0:
            raise OptionError(f"scenes is {scenes} and each {each}, but both must be at least 1.")
        self.world, self.artists, self.scenes, self.start = world, tuple(artists), scenes, start
        self.size, self.each, self.absent = size, each, absent
        self._last: tuple[int, IconScene] | None = None
        self._report = Report()

    @property
    def report(self) -> Report:
        """Return an empty report: no scene is ever left out."""
        return self._report

    def __len__(self) -> int:
        return self.scenes * (self.each + self.absent)

    def __getitem__(self, index: int) -> Sample:
        number, place = divmod(range(len(self))[index], self.each + self.absent)
        scene = self._scene(number)
        phrase = scene.phrase(place) if place < self.each else self._absent(scene, place)
        assert phrase is not None, "every scene has something that can be named"
        return _sample(scene, phrase, str(place))

    def negative(self, index: int, rng: np.random.Generator) -> Sample:
        """Return the scene of a sample with a phrase for a thing that is not in it."""
        scene = self._scene(range(len(self))[index] // (self.each + self.absent))
        return _sample(scene, self._absent(scene, int(rng.integers(1 << 20))), "absent")

    def _absent(self, scene: IconScene, number: int) -> IconPhrase:
        for attempt in range(100):
            phrase = scene.phrase(1000 * (number + 1) + attempt, ("absent",))
            if phrase is not None:
                return phrase
        raise AssertionError("something is always absent")

    def _scene(self, number: int) -> IconScene:
        if self._last is None or self._last[0] != number:
            seed = self.start + number
            # By the scene's number in its seed's range: the same scene is the same hand wherever a reader begins.
            artist = self.artists[seed % len(self.artists)]
            self._last = (number, self.world.scene(seed, artist, (self.size, self.size)))
        return self._last[1]


def _sample(scene: IconScene, phrase: IconPhrase, name: str) -> Sample:
    return Sample(
        key=f"{scene.artist}-{scene.seed}-{name}",
        image=scene.image,
        phrase=phrase.text,
        mask=phrase.mask,
        categories={"kind": (phrase.kind,), "size": (_size_word(phrase.mask),), "look": (scene.artist,)},
        source=f"{scene.artist}-{scene.seed}",
    )


def _size_word(mask: Mask) -> str:
    """Return how much of the image a mask covers: small is below 2 %, large above 20 %."""
    share = float(mask.mean())
    if not share:
        return "none"
    return "small" if share < 0.02 else "large" if share > 0.2 else "medium"


class PairSamples:
    """`pairs` pairs of every kind in an artist's hand, asked both ways: sample 2n and 2n + 1 share an image."""

    def __init__(self, world: IconWorld, artist: str, pairs: int, *, start: int = 0, size: int = 128) -> None:
        self.world, self.artist, self.pairs, self.start, self.size = world, artist, pairs, start, size
        self._last: tuple[int, Pair] | None = None
        self._report = Report()

    @property
    def report(self) -> Report:
        """Return an empty report: no pair is ever left out."""
        return self._report

    def __len__(self) -> int:
        return 2 * self.pairs * len(PAIR_KINDS)

    def __getitem__(self, index: int) -> Sample:
        pair, way = self.pair(index), index % 2
        return Sample(
            key=f"{self.artist}-{pair.kind}-{index}",
            image=pair.image,
            phrase=pair.phrases[way],
            mask=pair.masks[way],
            categories={"kind": (pair.kind,)},
            source=f"{self.artist}-pair-{index // 2}",
        )

    def pair(self, index: int) -> Pair:
        """Return the pair of a sample."""
        number = range(len(self))[index] // 2
        if self._last is None or self._last[0] != number:
            kind = PAIR_KINDS[number % len(PAIR_KINDS)]
            seed = self.start + number // len(PAIR_KINDS)
            pair = make_pair(seed, kind, self.world.hands[self.artist], (self.size, self.size))
            self._last = (number, pair)
        return self._last[1]
