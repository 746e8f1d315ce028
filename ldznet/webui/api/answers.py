"""Make the answer of POST /ldznet/segment from a result and a decision."""

from __future__ import annotations

import dataclasses
import itertools

from ldznet.decision import Decision, cut_out
from ldznet.drawing.overlay import color_map, overlay
from ldznet.masks.checks import SoftMask
from ldznet.masks.morphology import area
from ldznet.options import MaskOptions
from ldznet.result import Segmentation
from ldznet.webui.api.base64_png import encode, encode_probability
from ldznet.webui.api.models import (
    CandidateAnswer,
    NegativePromptAnswer,
    ObjectAnswer,
    PromptAnswer,
    Seconds,
    SegmentAnswer,
    SegmentRequest,
)
from ldznet.webui.results import SegmentResult, explain_given_mask, explain_to_program, mask_image


def make_answer(
    request: SegmentRequest,
    options: MaskOptions,
    result: SegmentResult,
    decision: Decision,
    given_mask: SoftMask | None,
) -> SegmentAnswer:
    """Return the answer, without its times."""
    segmentation, mask = result.segmentation, decision.mask
    # "ld-znet, one.safetensors fits ...": see Session.
    method, _, reason = result.method_reason.partition(", ")
    return SegmentAnswer(
        threshold=decision.options.level,
        threshold_reason=segmentation.threshold_reason(options),
        width=segmentation.size[1],
        height=segmentation.size[0],
        area=area(mask >= 0.5),  # a soft edge counts from its middle
        mask=encode(mask_image(mask)) if request.return_mask else None,
        overlay=encode(overlay(result.image, mask)) if request.return_overlay else None,
        cutout=encode(cut_out(result.image, mask)) if request.return_cutout else None,
        colors=_draw_colors(result, decision.options) if request.return_colors else None,
        prompts=_prompt_answers(request, options, segmentation),
        objects=[ObjectAnswer(**one) for one in segmentation.object_statistics(decision.objects, options.objects)],
        object_numbers=encode(decision.objects.numbers) if request.return_objects else None,
        candidates=_candidate_answers(options, segmentation, given_mask) if request.return_candidates else None,
        negative_prompts=[
            NegativePromptAnswer(prompt=prompt, probabilities=_probabilities(request, segmentation, index))
            for index, prompt in enumerate(segmentation.negative_prompts, start=len(segmentation))
        ],
        method=method,
        reason=reason,
        notes=[*segmentation.notes, *filter(None, [explain_given_mask(given_mask, options, "the given mask")])],
        nothing_found=explain_to_program(result, decision),
        # The caller fills them in, since this function's own time belongs to them.
        seconds=Seconds(waited=0, encode=0, segment=0, masks=0, total=0),
        record=segmentation.record,
    )


def _prompt_answers(
    request: SegmentRequest, options: MaskOptions, segmentation: Segmentation
) -> list[PromptAnswer]:
    options = dataclasses.replace(options, invert=False)  # else each prompt would get all that it is not
    masks = segmentation.each_mask(options) if request.return_masks else itertools.repeat(None)
    answers = []
    for index, (statistics, mask) in enumerate(zip(segmentation.prompt_statistics(options), masks, strict=False)):
        png = None if mask is None else encode(mask_image(mask))
        probabilities = _probabilities(request, segmentation, index)
        answers.append(PromptAnswer(**statistics, mask=png, probabilities=probabilities))
    return answers


def _candidate_answers(
    options: MaskOptions, segmentation: Segmentation, given_mask: SoftMask | None
) -> list[CandidateAnswer]:
    answers = []
    for candidate in segmentation.candidates(options):
        # Numbers of objects belong to the threshold of the request.
        level = dataclasses.replace(options, threshold=candidate.threshold, objects=())
        mask = encode(mask_image(segmentation.mask(level, given_mask=given_mask)))
        answers.append(CandidateAnswer(**candidate._asdict(), mask=mask))
    return answers


def _probabilities(request: SegmentRequest, segmentation: Segmentation, index: int) -> str | None:
    """Return the map of a prompt; negative prompts are counted after the prompts."""
    if not request.return_probabilities:
        return None
    # The network's own size is far smaller, and what `refine` has added has no place in it.
    if request.probability_size == "network":
        return encode_probability(segmentation.maps[index].numpy())
    prompts = (*segmentation.prompts, *segmentation.negative_prompts)
    all_positive = dataclasses.replace(segmentation, prompts=prompts, negative_prompts=())
    return encode_probability(all_positive.probability(index))


def _draw_colors(result: SegmentResult, options: MaskOptions) -> str | None:
    segmentation = result.segmentation
    if len(segmentation) < 2:  # one prompt would give one colour, which is the overlay
        return None
    maps = segmentation.each_net_probability()
    return encode(color_map(maps, segmentation.prompts, result.image, background=options.level).image)
