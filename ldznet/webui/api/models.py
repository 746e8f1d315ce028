"""The requests and answers of our routes, as models of pydantic: of 1.10, which the webui has, and of 2.

The options of a request are the controls (controls.py) on which a mask depends, with their names, ranges, defaults
and help.
"""

from __future__ import annotations

from typing import Any, Literal

import pydantic
from pydantic import BaseModel, Field, StrictBool, StrictStr, confloat, conint, conlist, constr

from ldznet.inference.prompts import LONGEST_PROMPT
from ldznet.webui.controls import BY_NAME, CONTROLS, Control
from ldznet.webui.limits import LONGEST_IMAGE, LONGEST_TEXT, LONGEST_WORD, MOST_PASSES, MOST_PROMPTS

# AUTOMATIC1111's webui has pydantic 1, others have 2; they spell some things differently.
_IS_2 = pydantic.VERSION.startswith("2.")

# These controls say what a run of img2img does with a mask; our routes generate nothing.
OF_A_RUN = frozenset(("enabled", "on_nothing", "append", "fill", "area", "padding", "mask_blur"))
OPTIONS = tuple(control.name for control in CONTROLS if control.name not in OF_A_RUN)
WORDS = ("prompt", "negative_prompt")  # a text with | between its parts, or a list
NUMBERS = ("timesteps", "seeds", "objects")  # a text with spaces between its numbers, or a list
# Shown in /docs for the fields whose form a type does not explain.
_EXAMPLES = {"prompt": ["bucket | red hat"], "negative_prompt": ["shadow"], "timesteps": ["300 400"]}


def _listed(item: Any, most: int) -> Any:
    most_name: Any = {"max_length" if _IS_2 else "max_items": most}
    return conlist(item, **most_name)


def _type(control: Control) -> Any:
    """Return the type that takes the values of a control, without converting any."""
    if control.name in WORDS:
        return _text(LONGEST_TEXT) | _listed(_text(LONGEST_PROMPT), MOST_PROMPTS)
    # Seeds are the largest numbers: signed integers of 64 bits, as torch takes them.
    if control.name in NUMBERS:
        return _text(LONGEST_WORD) | _listed(conint(strict=True, ge=0, le=2**63 - 1), MOST_PASSES)
    if control.kind == "switch":
        return StrictBool
    if control.choices:
        return Literal[control.choices]
    if control.kind in ("text", "choice"):
        return _text(LONGEST_WORD)
    bounds: dict[str, Any] = {"ge": control.low, "le": control.high}
    whole = conint(strict=True, **bounds)
    if isinstance(control.default, int):
        return whole
    number = confloat(strict=True, **bounds)
    return number if _IS_2 else number | whole  # a strict float of pydantic 1 refuses whole numbers


def _text(longest: int) -> Any:
    return constr(strict=True, max_length=longest)


def _field(control: Control) -> tuple[Any, Any]:
    schema: dict[str, Any] = {"description": ": ".join(filter(None, (control.label, control.help)))}
    if control.name in _EXAMPLES:
        schema["examples"] = _EXAMPLES[control.name]
    if control.name == "threshold":  # left out or null, it is automatic
        return _type(control) | None, Field(None, **schema)
    return _type(control), Field(... if control.name == "prompt" else control.default, **schema)


def _with_examples(schema: dict[str, Any]) -> None:
    """Add an `example` where there are `examples`, because OpenAPI 3.0 and its /docs know only the former."""
    for field in schema["properties"].values():
        if "examples" in field:
            field["example"] = field["examples"][0]


class _Described(BaseModel):
    """A model whose schema has what one or the other pydantic leaves out.

    These are examples for every OpenAPI, and with pydantic 1 which fields may be null ("nullable" in OpenAPI 3.0).
    """

    if _IS_2:
        model_config = pydantic.ConfigDict(json_schema_extra=_with_examples)
    else:

        class Config:
            """The configuration that pydantic 1 reads."""

            @staticmethod
            def schema_extra(schema: dict[str, Any], model: Any) -> None:
                """Complete the schema of one model."""
                _with_examples(schema)
                for name, field in model.__fields__.items():
                    if field.allow_none:
                        schema["properties"][name]["nullable"] = True


class _Strict(_Described, extra="forbid"):
    """A model that refuses unknown fields."""


# Made from the controls, so that a new control is a field of the request without another line here.
_fields: dict[str, Any] = {name: _field(BY_NAME[name]) for name in OPTIONS}
_Options: Any = pydantic.create_model("_Options", __base__=_Strict, **_fields)


class SegmentRequest(_Options):  # type: ignore[misc]
    """An image and prompts, how the masks are made, and which images come back."""

    # A strict text: pydantic would otherwise turn numbers into texts.
    image: StrictStr = Field(
        ...,
        max_length=LONGEST_IMAGE,
        description="PNG, JPEG, WebP, BMP, GIF or TIFF as base64 or data URL; never a path or an address",
        examples=[
            "iVBORw0KGgoAAAANSUhEUgAAAAIAAAABCAIAAAB7QOjdAAAAD0lEQVR4nGP4//8/AwMDAA74Av7Ji4P1AAAAAElFTkSuQmCC"
        ],
    )
    mask: StrictStr | None = Field(
        None,
        max_length=LONGEST_IMAGE,
        description="an existing mask, white is selected; `brush` says how the prompts are combined with it",
    )
    return_mask: StrictBool = Field(True, description="the mask of all prompts together")
    return_masks: StrictBool = Field(False, description="a mask for each prompt, not inverted")
    return_overlay: StrictBool = Field(False, description="the image with the mask on it")
    return_cutout: StrictBool = Field(False, description="what the mask selects, on a transparent background")
    return_colors: StrictBool = Field(False, description="a labelled colour map; only for several prompts")
    return_objects: StrictBool = Field(False, description="which pixel belongs to which object: PNG of 8 bits")
    return_candidates: StrictBool = Field(False, description="masks at up to three thresholds, to choose from")
    return_probabilities: StrictBool = Field(
        False, description="of each prompt, before negative prompts: PNG of 16 bits, 65535 is 1"
    )
    probability_size: Literal["picture", "network"] = Field(
        "picture", description="their size: that of the image, or that of the network's output"
    )


def given_options(request: SegmentRequest) -> dict[str, Any]:
    """Return the options that a request names; the others have the panel's defaults."""
    names = request.model_fields_set if _IS_2 else request.__fields_set__
    return {name: getattr(request, name) for name in OPTIONS if name in names}


class PromptAnswer(_Described):
    """The result of one prompt, after negative prompts."""

    prompt: str
    area: int = Field(..., description="pixels", examples=[20480])
    share: float = Field(..., description="of the image, 0 to 1", examples=[0.078])
    box: list[int] | None = Field(
        ..., description="x0, y0, x1, y1; null if the mask is empty", examples=[[96, 128, 224, 288]]
    )
    probability: float = Field(..., description="mean inside of its mask; 0 if the mask is empty", examples=[0.91])
    highest: float = Field(..., description="the highest probability of a pixel", examples=[0.99])
    mask: str | None = Field(None, description="PNG in base64, by return_masks")
    probabilities: str | None = Field(None, description="PNG of 16 bits in base64, by return_probabilities")


class ObjectAnswer(_Described):
    """One object in the mask of all prompts, before that grows: a connected part, cut where two things touch."""

    number: int = Field(..., description="for `objects` of a request; 1 is the largest", examples=[1])
    prompt: str = Field(..., description="the most probable one")
    area: int = Field(..., description="pixels", examples=[20480])
    share: float = Field(..., description="of the image, 0 to 1", examples=[0.078])
    box: list[int] = Field(..., description="x0, y0, x1, y1", examples=[[96, 128, 224, 288]])
    probability: float = Field(..., description="mean of its prompt inside", examples=[0.91])
    selected: bool = Field(..., description="by `objects` of the request")


class CandidateAnswer(_Described):
    """A threshold that the probabilities themselves suggest, and what it would select."""

    name: Literal["tight", "middle", "loose"]
    threshold: float = Field(..., examples=[0.35])
    area: int = Field(..., description="pixels that reach the threshold", examples=[20480])
    mask: str = Field(..., description="PNG in base64, with the request's other options and all objects")


class NegativePromptAnswer(_Described):
    """A negative prompt."""

    prompt: str
    probabilities: str | None = None


class Seconds(_Described):
    """The time of each step. A repeated request gets the cached result, which takes next to no time."""

    waited: float = Field(..., description="for other work of the webui")
    encode: float = Field(..., description="encoding the image, by the VAE; 0 if it was encoded before")
    segment: float = Field(..., description="the prompts, by text encoder, UNet and head")
    masks: float = Field(..., description="masks and other images, from the probabilities")
    total: float


class SegmentAnswer(_Described):
    """The result. If there is nothing to select, the mask is empty and `nothing_found` says why."""

    width: int = Field(..., examples=[512])
    height: int = Field(..., examples=[512])
    area: int = Field(..., description="pixels of the mask", examples=[20480])
    threshold: float = Field(..., description="the one that was used", examples=[0.4])
    threshold_reason: str = Field(
        ..., description="asked for, or where an automatic one comes from", examples=["measured for this head"]
    )
    mask: str | None = Field(None, description="PNG in base64, as large as the image; white is selected")
    overlay: str | None = Field(None, description="PNG in base64")
    cutout: str | None = Field(None, description="PNG with alpha in base64; by return_cutout")
    colors: str | None = Field(None, description="PNG in base64")
    prompts: list[PromptAnswer]
    objects: list[ObjectAnswer] = Field(..., description="the largest first, 99 at most")
    object_numbers: str | None = Field(
        None,
        description="PNG of 8 bits in base64: the number of each pixel's object, 0 for none; by return_objects",
    )
    candidates: list[CandidateAnswer] | None = Field(None, description="the tightest first; by return_candidates")
    negative_prompts: list[NegativePromptAnswer]
    method: str = Field(..., examples=["ld-znet"])
    reason: str = Field(
        ..., description="why it is this method", examples=["ld-znet.safetensors fits v1-5.safetensors"]
    )
    notes: list[str] = Field(..., description="what else to know, such as a prompt that was cut")
    nothing_found: str | None = Field(None, description="set if the prompts select nothing: why, and what to try")
    seconds: Seconds
    record: dict[str, Any] = Field(..., description="all that is needed to repeat it")


class HeadAnswer(_Described):
    """A file in one of the folders of heads."""

    name: str = Field(..., description="as `head` of a request", examples=["ld-znet.safetensors"])
    kind: str = Field(..., examples=["ld-znet"])
    sha256: str
    fits: bool | None = Field(..., description="whether it fits the loaded checkpoint; null if none is loaded")


class HeadsAnswer(_Described):
    """The methods and heads of a request, and the checkpoint that they would work with."""

    checkpoint: str | None = Field(..., examples=["v1-5-pruned-emaonly.safetensors [6ce0161689]"])
    fingerprint: str | None = Field(..., description="tells its weights from others")
    methods: list[str] = Field(..., examples=[["auto", "head", "attention", "difference"]])
    heads: list[HeadAnswer]


class LastRun(_Described):
    """Time and memory of the last segmentation; the memory is that of the webui with us, on the device."""

    seconds: float
    before_mb: float | None = None
    peak_mb: float | None = None
    after_mb: float | None = None


class Status(_Described, extra="allow"):
    """The loaded head and model, their devices and memory; null if nothing is loaded or PyTorch does not count."""

    model: str | None = Field(None, description="the checkpoint of the last run")
    method: str | None = Field(None, description="the one that is ready for the next run", examples=["ld-znet"])
    head: str | None = Field(None, description="the head's file", examples=["ld-znet.safetensors"])
    head_device: str | None = Field(None, description="where the head is now", examples=["cuda:0"])
    head_dtype: str | None = Field(None, examples=["float16"])
    head_mb: float | None = None
    rest: str | None = Field(
        None, description="where the head stays between runs, by the settings", examples=["GPU"]
    )
    kept: int | None = Field(None, description="results that are kept, in the memory of the CPU")
    last_run: LastRun | None = Field(None, description="time and memory of the last segmentation")
    device: str | None = Field(None, description="where the webui computes", examples=["cuda"])
    free_mb: float | None = Field(None, description="of the device, by all programs")
    total_mb: float | None = None


class Problem(_Described):
    """Why a request was refused: what is wrong, why, what to do."""

    detail: str
