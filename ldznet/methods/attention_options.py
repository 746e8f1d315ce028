"""Options of the attention method, and the values that suit each kind of model.

For full-size models the values are published ones: our small model says little about them, and published results
differ. For small models, such as the embedded one, the values won on procedural scenes:

    python -m ldznet evaluate ablation --greedy --out runs/ablation

Sources: iSeg, https://arxiv.org/abs/2409.03209 (levels, emphasis, refinement, rivals; the threshold of 0.45 on
COCO); DiffSegmenter, https://arxiv.org/abs/2309.02773; GoCA (the shares of content tokens).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ldznet.errors import OptionError
from ldznet.hosts.attention_probes import levels_of
from ldznet.hosts.host import HostInfo
from ldznet.methods.method import Defaults, SuitedThreshold


@dataclass(frozen=True, kw_only=True)
class AttentionOptions:
    """Options by which attention becomes a probability. The steps run in the order of the fields."""

    # All phrases of an image in one sentence and one pass, whatever the batch, where they fit.
    together: bool = False
    # Words for the rest of the scene, appended to the sentence: the rivals of a phrase.
    distractors: tuple[str, ...] = ("ground", "grass", "tree", "building", "wall", "sky", "water")
    emphasis: float = 1.6  # factor on the embeddings of the phrase's tokens; 1 is off
    # Weights of the attention to the text per level, finest first; none is 0, 0.3, 0.7, fewer on fewer levels.
    cross_levels: tuple[float, ...] = ()
    blocks: Literal["mean", "last"] = "mean"  # which of several blocks inside a transformer
    # Each token's map on each level: divided by its sum, scaled to 0 and 1, or left.
    normalise: Literal["sum", "minmax", "none"] = "sum"
    tokens: Literal["mean", "max"] = "mean"  # of the attention to the phrase's tokens
    rescale: bool = True  # per pixel, the phrase's share among all words that name something
    self_level: int = 0  # level whose attention to itself refines the map; 0 is the finest
    column_max: bool = True  # divide the refining attention by the largest value of each column
    eta: float = 0.02  # size of its entropy step, which drops weak links; 0 is off
    iterations: int = 10  # how often it is applied; 0 is off
    halfway: float = 0.45  # where between the map's least and its largest value the probability is 0.5
    # At its best pixel, as multiples of the mean of the other words: up to the first a phrase is absent, from the
    # second on it is there. None is off, and then something lights up in every image.
    gate: tuple[float, ...] = (1.5, 3.0)
    flip: bool = False  # average with the map of the mirrored image
    # Timesteps at which noise is predicted with the phrases and with evidence_rivals, to see where the phrases
    # help; none is off, and saves passes.
    evidence: tuple[int, ...] = ()
    evidence_noises: int = 2  # noises that are predicted at each timestep
    evidence_template: str = "a photo of a {}"
    # Words in the phrase's place; one that shares a word with the phrase is left out. "" is a prompt of nothing.
    evidence_rivals: tuple[str, ...] = ("person", "animal", "plant", "building", "vehicle", "food")
    evidence_blur: float = 1.0  # sigma of the Gaussian blur over its errors, in pixels of the latent
    # How much smaller the error is with the phrase, as a part of the rivals' error, where a place counts 0.73; 0
    # lets all places count the same.
    evidence_scale: float = 0.05
    presence_level: float = 0.0  # how much smaller the whole error is where the phrase is as likely there as not
    presence_width: float = 0.01  # so far above that level it is 0.73 likely, three times as far 0.95

    def __post_init__(self) -> None:
        """Refuse values that do not fit together.

        Raises:
            OptionError: names the field, and what to give.
        """
        if self.cross_levels and not any(self.cross_levels):
            raise OptionError(
                f"cross_levels is {self.cross_levels}, but one of the weights must be above 0: nothing would be "
                "left to look at. Give such as (0, 0.3, 0.7)."
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
    # `halfway` puts the published threshold, 0.45 of the map's range, at a probability of 0.5.
    threshold=SuitedThreshold(0.5, "published for this method"),
)

# For small models: values tried on the embedded one, in three artists' hands (docs/attention.md).
# Its finest level knows names best, and it knows no words for the rest of a scene.
# The threshold is what `evaluate scenes --method attention` prints.
SMALL = Defaults(
    resolution=128,
    timesteps=(250,),
    template="a {}",
    threshold=SuitedThreshold(0.18, "measured for small models"),
)
_SMALL_OPTIONS: Mapping[str, Any] = {
    "distractors": (),
    "cross_levels": (1.0, 0.0),
    "rescale": False,
    "column_max": False,
    "eta": 0.0,
    "iterations": 2,
    "halfway": 0.6,
    "gate": (),
    "evidence": (200, 400, 600),
    "evidence_template": "{}",
    "evidence_rivals": ("",),
    "presence_width": 0.02,
}


def suited_options(info: HostInfo) -> tuple[AttentionOptions, Defaults]:
    """Return the options and defaults that suit a model.

    The structure of the model decides, since every webui reports it: a UNet narrower than any published one has
    seen few things and knows few words, and it would read the published words as letters.
    """
    if not info.is_small:
        return AttentionOptions(), PUBLISHED
    options = AttentionOptions(**_SMALL_OPTIONS)
    if len(options.cross_levels) > len(levels_of(info.unet)):
        options = dataclasses.replace(options, cross_levels=())
    return options, SMALL
