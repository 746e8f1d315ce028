"""What our routes take and give, as pydantic's models: of 1.10, which the webui has, and of 2 alike.

The options of a request are the controls (controls.py) that a mask depends on: their names, ranges, defaults and
help are not said again here.
"""

from __future__ import annotations

from typing import Any, Literal

import pydantic
from pydantic import BaseModel, Field, StrictBool, StrictStr, confloat, conint, conlist, constr

from ldznet.inference.prompts import LONGEST_PROMPT
from ldznet.webui.controls import BY_NAME, CONTROLS, Control
from ldznet.webui.limits import LONGEST_PICTURE, LONGEST_TEXT, LONGEST_WORD, MOST_PASSES, MOST_PROMPTS

_IS_2 = pydantic.VERSION.startswith("2.")

# These say what is done with a mask in a run of img2img; here nothing is generated.
OF_A_RUN = frozenset(("enabled", "on_nothing", "append", "fill", "area", "padding", "mask_blur"))
OPTIONS = tuple(control.name for control in CONTROLS if control.name not in OF_A_RUN)
WORDS = ("prompt", "negative_prompt")  # a text with | between its parts, or a list
NUMBERS = ("timesteps", "seeds", "objects")  # a text with spaces between its numbers, or a list
_EXAMPLES = {"prompt": ["bucket | red hat"], "negative_prompt": ["shadow"], "timesteps": ["300 400"]}


def _listed(item: Any, most: int) -> Any:
    most_name: Any = {"max_length" if _IS_2 else "max_items": most}
    return conlist(item, **most_name)


def _type(control: Control) -> Any:
    """The type that takes what the control takes, and nothing that would have to be converted."""
    if control.name in WORDS:
        return _text(LONGEST_TEXT) | _listed(_text(LONGEST_PROMPT), MOST_PROMPTS)
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
    return number if _IS_2 else number | whole  # to pydantic 1 a whole number is none


def _text(longest: int) -> Any:
    return constr(strict=True, max_length=longest)


def _field(control: Control) -> tuple[Any, Any]:
    said: dict[str, Any] = {"description": ": ".join(filter(None, (control.label, control.help)))}
    if control.name in _EXAMPLES:
        said["examples"] = _EXAMPLES[control.name]
    return _type(control), Field(... if control.name == "prompt" else control.default, **said)


def _with_examples(schema: dict[str, Any]) -> None:
    """OpenAPI 3.0 and its /docs know one `example` of a field, newer ones many `examples`: say both."""
    for field in schema["properties"].values():
        if "examples" in field:
            field["example"] = field["examples"][0]


class _Told(BaseModel):
    """Says in the schema what each pydantic leaves out of it.

    That is examples in the words of every OpenAPI; and with pydantic 1 which fields may be null, for which 3.0 has
    a word.
    """

    if _IS_2:
        model_config = pydantic.ConfigDict(json_schema_extra=_with_examples)
    else:

        class Config:
            """pydantic 1 reads it."""

            @staticmethod
            def schema_extra(schema: dict[str, Any], model: Any) -> None:
                """Of each model, as it is described."""
                _with_examples(schema)
                for name, field in model.__fields__.items():
                    if field.allow_none:
                        schema["properties"][name]["nullable"] = True


class _Known(_Told, extra="forbid"):
    """Takes no field that it does not know."""


_fields: dict[str, Any] = {name: _field(BY_NAME[name]) for name in OPTIONS}
_Options: Any = pydantic.create_model("_Options", __base__=_Known, **_fields)


class SegmentRequest(_Options):  # type: ignore[misc]
    """A picture and words; with what the masks are made, and which pictures come back."""

    image: StrictStr = Field(
        ...,
        max_length=LONGEST_PICTURE,
        description="PNG, JPEG, WebP, BMP, GIF or TIFF as base64 or data URL; never a path or an address",
        examples=[
            "iVBORw0KGgoAAAANSUhEUgAAAAIAAAABCAIAAAB7QOjdAAAAD0lEQVR4nGP4//8/AwMDAA74Av7Ji4P1AAAAAElFTkSuQmCC"
        ],
    )
    mask: StrictStr | None = Field(
        None,
        max_length=LONGEST_PICTURE,
        description="a mask that is there already, white is selected; `brush` says what the words do with it",
    )
    return_mask: StrictBool = Field(True, description="the mask of all prompts together")
    return_masks: StrictBool = Field(False, description="a mask for each prompt, not inverted")
    return_overlay: StrictBool = Field(False, description="the picture with the mask on it")
    return_colors: StrictBool = Field(False, description="a labelled colour map; only for several prompts")
    return_objects: StrictBool = Field(False, description="which pixel belongs to which object: PNG of 8 bits")
    return_candidates: StrictBool = Field(False, description="masks at up to three thresholds, to choose from")
    return_probabilities: StrictBool = Field(
        False, description="of each prompt, before negative prompts: PNG of 16 bits, 65535 is 1"
    )
    probability_size: Literal["picture", "network"] = Field(
        "picture", description="how large these are: as the picture, or as the network gave them"
    )


def given(request: SegmentRequest) -> dict[str, Any]:
    """The options that a request says; what it does not say is for the panel's defaults."""
    said = request.model_fields_set if _IS_2 else request.__fields_set__
    return {name: getattr(request, name) for name in OPTIONS if name in said}


class Found(_Told):
    """What was found of one prompt, after negative prompts."""

    prompt: str
    area: int = Field(..., description="pixels", examples=[20480])
    share: float = Field(..., description="of the picture, 0 to 1", examples=[0.078])
    box: list[int] | None = Field(
        ..., description="x0, y0, x1, y1; null if nothing is", examples=[[96, 128, 224, 288]]
    )
    probability: float = Field(..., description="mean inside of its mask; 0 if nothing is", examples=[0.91])
    highest: float = Field(..., description="the highest probability of a pixel", examples=[0.99])
    mask: str | None = Field(None, description="PNG in base64, by return_masks")
    probabilities: str | None = Field(None, description="PNG of 16 bits in base64, by return_probabilities")


class Thing(_Told):
    """One object in the mask of all prompts, before that grows: a connected part, cut where two things touch."""

    number: int = Field(..., description="for `objects` of a request; 1 is the largest", examples=[1])
    prompt: str = Field(..., description="the most probable one")
    area: int = Field(..., description="pixels", examples=[20480])
    share: float = Field(..., description="of the picture, 0 to 1", examples=[0.078])
    box: list[int] = Field(..., description="x0, y0, x1, y1", examples=[[96, 128, 224, 288]])
    probability: float = Field(..., description="mean of its prompt inside", examples=[0.91])
    selected: bool = Field(..., description="by `objects` of the request")


class Choice(_Told):
    """A threshold at which the probabilities themselves show what belongs together, and what it would select."""

    name: Literal["tight", "middle", "loose"]
    threshold: float = Field(..., examples=[0.35])
    area: int = Field(..., description="pixels that reach the threshold", examples=[20480])
    mask: str = Field(..., description="PNG in base64, with the request's other options and all objects")


class Unwanted(_Told):
    """A negative prompt."""

    prompt: str
    probabilities: str | None = None


class Seconds(_Told):
    """Where the time went. What was found before is not looked for again, which takes next to none."""

    waited: float = Field(..., description="for other work of the webui")
    encode: float = Field(..., description="the picture, by the VAE; 0 if it was encoded before")
    segment: float = Field(..., description="the prompts, by text encoder, UNet and head")
    masks: float = Field(..., description="masks and pictures, from the probabilities")
    total: float


class SegmentAnswer(_Told):
    """What was found. Where nothing was, the mask is empty, or the given one; `nothing_found` says what to try."""

    width: int = Field(..., examples=[512])
    height: int = Field(..., examples=[512])
    area: int = Field(..., description="pixels of the mask", examples=[20480])
    mask: str | None = Field(None, description="PNG in base64, as large as the picture; white is selected")
    overlay: str | None = Field(None, description="PNG in base64")
    colors: str | None = Field(None, description="PNG in base64")
    prompts: list[Found]
    objects: list[Thing] = Field(..., description="the largest first, 99 at most")
    object_numbers: str | None = Field(
        None,
        description="PNG of 8 bits in base64: the number of each pixel's object, 0 for none; by return_objects",
    )
    candidates: list[Choice] | None = Field(None, description="the tightest first; by return_candidates")
    negative_prompts: list[Unwanted]
    method: str = Field(..., examples=["ld-znet"])
    reason: str = Field(
        ..., description="why it is this method", examples=["ld-znet.safetensors fits v1-5.safetensors"]
    )
    notes: list[str] = Field(..., description="what to know beside, such as a prompt that was cut")
    nothing_found: str | None = Field(None, description="set where nothing was: why, and what to try")
    seconds: Seconds
    record: dict[str, Any] = Field(..., description="all that is needed to repeat it")


class Head(_Told):
    """A file in one of the folders of heads."""

    name: str = Field(..., description="as `head` of a request", examples=["ld-znet.safetensors"])
    kind: str = Field(..., examples=["ld-znet"])
    sha256: str
    fits: bool | None = Field(..., description="the loaded checkpoint; null if none is loaded")


class Heads(_Told):
    """What can be asked for, and for which checkpoint."""

    checkpoint: str | None = Field(..., examples=["v1-5-pruned-emaonly.safetensors [6ce0161689]"])
    fingerprint: str | None = Field(..., description="tells its weights from others")
    methods: list[str] = Field(..., examples=[["auto", "head", "attention", "difference"]])
    heads: list[Head]


class LastRun(_Told):
    """What the last segmentation took; the memory is ours and the webui's, on the device."""

    seconds: float
    before_mb: float | None = None
    peak_mb: float | None = None
    after_mb: float | None = None


class Status(_Told, extra="allow"):
    """What of ours is loaded, where, and its memory; null where there is nothing, or nobody counts."""

    model: str | None = Field(None, description="the checkpoint of the last run")
    method: str | None = Field(None, description="that is ready for the next run", examples=["ld-znet"])
    head: str | None = Field(None, description="its file", examples=["ld-znet.safetensors"])
    head_device: str | None = Field(None, description="where the head is now", examples=["cuda:0"])
    head_dtype: str | None = Field(None, examples=["float16"])
    head_mb: float | None = None
    rest: str | None = Field(
        None, description="where the head stays between runs, by the settings", examples=["GPU"]
    )
    kept: int | None = Field(None, description="segmentations at hand, in the memory of the CPU")
    last_run: LastRun | None = Field(None, description="what the last segmentation took")
    device: str | None = Field(None, description="where the webui computes", examples=["cuda"])
    free_mb: float | None = Field(None, description="of the device, for all programs")
    total_mb: float | None = None


class Problem(_Told):
    """Why a request was refused: what is wrong, why, what to do."""

    detail: str
