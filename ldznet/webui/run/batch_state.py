"""The state that a run of img2img keeps on `p`: the user's own values, and those of the current image.

In Batch one `p` serves all files and keeps what the webui and our hooks have written for the file before. A plot
gives a copy of `p` to each cell; Loopback gives a result back as the next image. `RunState` sorts this out:

    NOTED --begin_image--> IMAGE or LOOP --finish_image--> the same, until the next begin_image
                           any of them   --skip_image----> SKIPPED --finish_image--> IMAGE

File names and lines are those of AUTOMATIC1111 1.10.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from PIL import Image

from ldznet.webui import infotext
from ldznet.webui.controls import PanelSettings

_ATTRIBUTE = "ldznet_state"
_INPAINTING = (
    "inpaint_full_res",
    "inpaint_full_res_padding",
    "inpainting_fill",
    "inpainting_mask_invert",
)
# What the webui derives from a mask, and would use again for the next file. `latent_mask` is that of scripts which
# paint beyond the edges: the webui would repaint where it says.
_STALE = ("mask", "nmask", "latent_mask", "overlay_images", "mask_for_overlay", "paste_to")


class Phase(Enum):
    """The step that a run has reached."""

    NOTED = "noted"  # the user's values are noted; the panel has had nothing to do yet
    IMAGE = "image"  # an image that needs its own mask: a single one, a file of Batch, a cell of a plot
    LOOP = "loop"  # the script Loopback has given our last result back: the mask stays, as a painted one would
    SKIPPED = "skipped"  # nothing is generated for this image; a script of the menu gets it back unpainted


@dataclass
class Outputs:
    """The images and the warning that are added to the results of one image."""

    images: Mapping[str, Image.Image] = field(default_factory=dict)  # by name: mask and overlay
    append: bool = False
    save: bool = False
    warning: str = ""  # shown if Soft inpainting, whose hook comes after ours, is off


@dataclass
class RunState:
    """The state of one `p`; its phase says what the hooks do next."""

    is_batch: bool
    given_mask: Image.Image | None  # the user's own, of the current image
    _user_values: dict[str, Any]
    phase: Phase = Phase.NOTED
    outputs: Outputs = field(default_factory=Outputs)
    has_unpainted: bool = False  # a script of the menu has got an image back unpainted
    _values_before_skip: dict[str, Any] = field(default_factory=dict)
    _unpainted: Sequence[Image.Image] = ()  # the results of a skipped image, for a script that counts on results
    _last_fill: int | None = None  # the masked content that the hooks have set
    _last_mask: Image.Image | None = None
    _last_parameters: Mapping[str, Any] = field(default_factory=dict)
    _last_result: Image.Image | None = None
    _first_processed: Any = None  # what the page shows of Batch: the results of other files join the first one's

    @classmethod
    def note(cls, p: Any, *, is_batch: bool = False) -> RunState:
        """Note what the user has set, and keep the state on `p`."""
        user_values = {name: getattr(p, name) for name in (*_INPAINTING, *_mask_blur_names(p))}
        state = cls(is_batch, p.image_mask, user_values)
        setattr(p, _ATTRIBUTE, state)
        return state

    @classmethod
    def of(cls, p: Any) -> RunState | None:
        """Return the state that is kept on `p`."""
        state: RunState | None = getattr(p, _ATTRIBUTE, None)
        return state

    def begin_image(self, p: Any) -> None:
        """Set the phase, put the user's values back, and clear the values of the previous image on `p`."""
        if p.image_mask is not None and _ATTRIBUTE not in p.image_mask.info:
            self.given_mask = p.image_mask  # in Batch the webui reads each file's mask from the folder of masks
        self._undo_skip(p)
        if self._last_fill not in (None, p.inpainting_fill):
            self._user_values["inpainting_fill"] = p.inpainting_fill  # set by Loopback after its first loop
        for name, value in self._user_values.items():
            setattr(p, name, value)
        for name in ("image_mask", *_STALE):
            setattr(p, name, None)
        self.outputs = Outputs()
        image = (p.init_images or [None])[0]
        if self._last_mask is not None and image is self._last_result:
            self.phase = Phase.LOOP
        else:
            self.phase, self._last_mask = Phase.IMAGE, None

    def set_inpainting(self, p: Any, settings: PanelSettings) -> None:
        """Set the inpaint settings of the panel; None leaves what the tab says."""
        if settings.fill is not None and self.phase is not Phase.LOOP:  # in a loop it is Loopback's own
            p.inpainting_fill = settings.fill
        if settings.only_masked is not None:
            p.inpaint_full_res = settings.only_masked
        if settings.padding is not None:
            p.inpaint_full_res_padding = settings.padding
        if settings.mask_blur is not None:
            for name in _mask_blur_names(p):
                setattr(p, name, settings.mask_blur)
        if self.given_mask is None and not getattr(p, "is_api", False):
            # The page hides "Mask mode" where there is no mask, but sends it; the panel has "Invert".
            p.inpainting_mask_invert = 0
        self._last_fill = p.inpainting_fill

    def set_mask(self, p: Any, mask: Image.Image, outputs: Outputs) -> None:
        """Give the run its mask, and keep the mask and our parameters for a loop."""
        p.image_mask = self._last_mask = mark_own(mask)
        self._last_parameters = infotext.own_parameters(p.extra_generation_params)
        self.outputs = outputs

    def repeat_mask(self, p: Any) -> None:
        """Give a loop the mask of its first image, and the same parameters."""
        p.image_mask = self._last_mask
        infotext.clear(p.extra_generation_params)
        p.extra_generation_params |= self._last_parameters

    def skip_image(self, p: Any, unpainted: Sequence[Image.Image] = ()) -> None:
        """Let the run generate nothing, in Batch for this file alone; the results are then `unpainted`."""
        self.phase, self._unpainted = Phase.SKIPPED, unpainted
        self.has_unpainted |= bool(unpainted)
        self._values_before_skip = {name: getattr(p, name) for name in ("n_iter", "do_not_save_grid")}
        p.n_iter, p.do_not_save_grid = 0, True

    def finish_image(self, p: Any, processed: Any) -> None:
        """Close the image: remember its result, and in Batch keep the comments of all files."""
        if self._unpainted:
            processed.images.extend(self._unpainted)
            processed.infotexts = [processed.info] * len(processed.images)
        self._last_result = next(iter(processed.images), None)
        self.outputs.images = {}  # they would be held as long as `p`
        self._undo_skip(p)
        if self.phase is Phase.SKIPPED:
            if not processed.images:
                processed.infotexts.clear()  # there is no image that the text would belong to
                processed.info = ""
            self.phase = Phase.IMAGE
        if not self.is_batch:
            return
        self._first_processed = self._first_processed or processed
        self._first_processed.comments = "".join(f"{text}\n" for text in p.comments)

    def _undo_skip(self, p: Any) -> None:
        for name, value in self._values_before_skip.items():
            setattr(p, name, value)
        if self._unpainted:
            vars(p).pop("init", None)  # see hooks.py
        self._values_before_skip, self._unpainted = {}, ()


def _mask_blur_names(p: Any) -> tuple[str, ...]:
    """Return the attributes of `p` that take the mask blur: one for each direction, in Forge Neo one for both."""
    is_neo = isinstance(getattr(type(p), "mask_blur_x", None), property)  # which can be read only
    return ("mask_blur",) if is_neo else ("mask_blur_x", "mask_blur_y")


def mark_own(mask: Image.Image) -> Image.Image:
    """Mark a mask as ours: other extensions run our hooks with copies of `p`, so that no `p` knows all masks."""
    mask.info[_ATTRIBUTE] = True
    return mask


def runs_script(p: Any) -> bool:
    """Return whether a script is chosen in the drop-down, whose place is the first argument (scripts.py:743)."""
    return bool(next(iter(getattr(p, "script_args", None) or ()), 0))
