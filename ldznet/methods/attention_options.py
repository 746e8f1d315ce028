"""How attention becomes a probability: every option, and which values suit which model.

For full-size models the values are published ones: a model of our own says little about them, and published
results differ. For small models, such as the embedded one, they are what won on procedural scenes:

    python -m ldznet evaluate ablation --greedy --out runs/ablation

Sources: iSeg, https://arxiv.org/abs/2409.03209 (levels, emphasis, refinement, rivals; the threshold of 0.45 on
COCO); DiffSegmenter, https://arxiv.org/abs/2309.02773; GoCA (the sharing out among content tokens).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ldznet.errors import OptionError
from ldznet.hosts.attention_probes import levels_of
from ldznet.hosts.host import HostInfo
from ldznet.methods.method import Defaults
from ldznet.options import Options, option


@dataclass(frozen=True, kw_only=True)
class AttentionOptions(Options):
    """How attention becomes a probability. The steps run in the order in which they stand here."""

    together: bool = option(
        False, "all phrases of a picture in one sentence and one pass, whatever the batch, where they fit"
    )
    distractors: tuple[str, ...] = option(
        ("ground", "grass", "tree", "building", "wall", "sky", "water"),
        "words for the rest of the scene, said behind the sentence: a phrase's rivals",
        kind=str,
    )
    emphasis: float = option(1.6, "factor on the embeddings of the phrase's tokens; 1 is off", low=0.1, high=10.0)
    cross_levels: tuple[float, ...] = option(
        (),
        "weights of the attention to the text per level, finest first; none is 0, 0.3, 0.7 or what is left of it",
        low=0.0,
        high=1.0,
        kind=float,
    )
    blocks: str = option(
        "mean", "of several blocks inside a transformer: all, or the last", choices=("mean", "last")
    )
    normalise: str = option(
        "sum",
        "each token's map on each level: divided by its sum, scaled to 0 and 1, or left",
        choices=("sum", "minmax", "none"),
    )
    tokens: str = option(
        "mean",
        "attention to the phrase's tokens, mean or the largest; or to the padding behind the sentence, in which a "
        "model may keep what all of it says: then give no distractors",
        choices=("mean", "max", "padding"),
    )
    rescale: bool = option(True, "per pixel the phrase's share among all words that name something")
    self_level: int = option(0, "level whose attention to itself refines the map; 0 is the finest", low=0, high=7)
    column_max: bool = option(True, "divide the refining attention by the largest value of each column")
    eta: float = option(0.02, "size of its entropy step, which drops weak links; 0 is off", low=0.0, high=1.0)
    iterations: int = option(10, "how often it is applied; 0 is off", low=0, high=100)
    halfway: float = option(
        0.45, "where between the map's least and its largest value the probability is 0.5", low=0.01, high=0.99
    )
    gate: tuple[float, ...] = option(
        (1.5, 3.0),
        "at its best pixel, times the mean of the other words: up to the first the phrase is absent, from the "
        "second it is there; none is off, and then something lights up in every picture",
        low=0.0,
        high=1000.0,
        kind=float,
    )
    flip: bool = option(False, "mean with what is found in the mirrored picture")
    evidence: tuple[int, ...] = option(
        (),
        "timesteps at which noise is predicted with the words and with evidence_rivals, to see where the words "
        "help; none is off, and saves passes",
        low=0,
        high=999,
        kind=int,
    )
    evidence_noises: int = option(2, "noises that are predicted at each of them", low=1, high=256)
    evidence_template: str = option("a photo of a {}", "the sentence that they are predicted with")
    evidence_rivals: tuple[str, ...] = option(
        ("person", "animal", "plant", "building", "vehicle", "food"),
        "what is put into the phrase's place; one that shares a word with the phrase is left out",
        kind=str,
    )
    evidence_blur: float = option(
        1.0, "sigma of the Gaussian blur over its errors, in pixels of the latent", low=0.0, high=16.0
    )
    evidence_scale: float = option(
        0.05,
        "how much smaller the error is with the phrase, as a part of the rivals', where a place counts 0.73; 0 "
        "lets all places count the same",
        low=0.0,
        high=1.0,
    )
    presence_level: float = option(
        0.0, "how much smaller the whole error is where the phrase is as likely there as not", low=-1.0, high=1.0
    )
    presence_width: float = option(
        0.01, "so far above that level it is 0.73 likely, three times as far 0.95", low=1e-6, high=1.0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cross_levels and not any(self.cross_levels):
            raise OptionError(
                f"cross_levels is {self.cross_levels}, but one of the weights must be above 0: nothing would be "
                "left to look at. Give such as (0, 0.3, 0.7)."
            )
        if self.tokens == "padding" and (self.together or self.distractors):
            raise OptionError(
                "tokens is 'padding', which stands for the whole sentence, so only one phrase may be in it: leave "
                "together off, and give no distractors."
            )
        if self.gate and not (len(self.gate) == 2 and self.gate[0] < self.gate[1]):
            raise OptionError(
                f"gate is {self.gate}, but it must be two numbers of which the second is larger, or none: give "
                "such as (1.5, 3.0)."
            )
        if self.evidence and not self.evidence_rivals:
            raise OptionError("evidence needs something to compare with: give evidence_rivals, or no timesteps.")
        if "{}" not in self.evidence_template:
            raise OptionError(
                f"evidence_template is {self.evidence_template!r}, but the phrase has to stand somewhere in it: "
                'give such as "a photo of a {}".'
            )


PUBLISHED = Defaults(
    resolution=512,
    timesteps=(100,),
    template="a photograph of a {} and other objects and background",
)

# For small models: what `evaluate ablation --greedy` found on the embedded one.
# Its pixels look for a thing in the padding: a text encoder that reads from left to right has read all of the
# sentence there, and a UNet that was trained on little finds it in the many places rather than in the word's one.
SMALL = Defaults(resolution=128, timesteps=(50,), template="{}")
_SMALL_OPTIONS: Mapping[str, Any] = {
    "distractors": (),
    "tokens": "padding",
    "emphasis": 1.6,
    "cross_levels": (0.0, 1.0),
    "normalise": "minmax",
    "column_max": False,
    "eta": 0.0,
    "iterations": 1,
    "halfway": 0.6,
    "gate": (),
    "evidence": (100, 200, 300, 400, 500, 600, 700),
    "evidence_rivals": ("circle", "square", "triangle", "star", "heart"),
    "evidence_blur": 1.5,
    "presence_level": -0.07,
    "presence_width": 0.02,
}


def suited_options(info: HostInfo) -> tuple[AttentionOptions, Defaults]:
    """The options and defaults that suit a model.

    The model's structure decides, since that is all that every webui tells: a UNet narrower than any published
    one has seen few things and knows few words, for which the published words would be letters.
    """
    if not info.is_small:
        return AttentionOptions(), PUBLISHED
    options = AttentionOptions(**_SMALL_OPTIONS)
    if len(options.cross_levels) > len(levels_of(info.unet)):
        options = dataclasses.replace(options, cross_levels=())
    return options, SMALL
