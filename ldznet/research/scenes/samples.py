"""Procedural scenes as a dataset: one phrase of one scene is one sample.

Scene number n has the seed `start + n`, so training and evaluation are apart when their seeds are.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ldznet.errors import OptionError
from ldznet.masks.checks import Mask
from ldznet.research.datasets.sample import Sample
from ldznet.research.datasets.skip_report import Report
from ldznet.research.scenes.phrases import PHRASE_KINDS
from ldznet.research.scenes.scenes import LOOK_NAMES, Phrase, Scene, make_scene


class SceneSamples:
    """`scenes` scenes in one look, `each` phrases of every kind from each of them.

    With `absent` only what is in the picture is asked for (False), or what is not as well (True). A scene
    that has too few phrases of a kind gives some of its others again, under another key.
    """

    def __init__(
        self,
        look: str,
        scenes: int,
        *,
        start: int = 0,
        size: int | tuple[int, int] = 128,
        each: int = 1,
        absent: bool = True,
    ) -> None:
        if look not in LOOK_NAMES:
            raise OptionError(f"look is {look!r}, which no painter knows: give one of {', '.join(LOOK_NAMES)}.")
        if scenes < 1 or each < 1:
            raise OptionError(f"scenes is {scenes} and each {each}, but both must be at least 1.")
        self.look, self.scenes, self.start, self.each = look, scenes, start, each
        self.size = (size, size) if isinstance(size, int) else size
        self.kinds = PHRASE_KINDS if absent else tuple(kind for kind in PHRASE_KINDS if kind != "absent")
        self._last: tuple[int, Scene] | None = None
        self._report = Report()

    @property
    def report(self) -> Report:
        """Nothing is ever left out."""
        return self._report

    def __len__(self) -> int:
        return self.scenes * self.each * len(self.kinds)

    def __getitem__(self, index: int) -> Sample:
        number, place = divmod(range(len(self))[index], self.each * len(self.kinds))
        phrases = self._phrases(number)
        return self._sample(number, phrases[place % len(phrases)], str(place))

    def negative(self, index: int, rng: np.random.Generator) -> Sample:
        """A phrase for a thing that is not in the scene of a sample."""
        number = range(len(self))[index] // (self.each * len(self.kinds))
        said = self._scene(number).phrases(int(rng.integers(1 << 20)), 1)
        return self._sample(number, next(phrase for phrase in said if phrase.kind == "absent"), "absent")

    def _sample(self, number: int, phrase: Phrase, name: str) -> Sample:
        scene = self._scene(number)
        return Sample(
            key=f"{self.look}-{scene.seed}-{name}",
            image=scene.image,
            phrase=phrase.text,
            mask=phrase.mask,
            categories={"kind": (phrase.kind,), "size": (_size_word(phrase.mask),), "look": (self.look,)},
            source=f"{self.look}-{scene.seed}",
        )

    def _scene(self, number: int) -> Scene:
        if self._last is None or self._last[0] != number:
            self._last = (number, _made(self.start + number, self.look, self.size))
        return self._last[1]

    def _phrases(self, number: int) -> list[Phrase]:
        found = [phrase for phrase in self._scene(number).phrases(0, self.each) if phrase.kind in self.kinds]
        return sorted(found, key=lambda phrase: self.kinds.index(phrase.kind))


@lru_cache(maxsize=64)
def _made(seed: int, look: str, size: tuple[int, int]) -> Scene:
    return make_scene(seed, look=look, size=size)


def _size_word(mask: Mask) -> str:
    """How much of the picture the thing is: small is below 2 %, large above 20 %."""
    share = float(mask.mean())
    if not share:
        return "none"
    return "small" if share < 0.02 else "large" if share > 0.2 else "medium"
