"""What was found in a picture, and the pictures and words that the page shows of it.

Plain arrays and Pillow, from the kept probabilities: nothing here runs a network. Sizes of pictures are Pillow's,
(width, height); masks are (H, W). Of a large picture the mask is made at its own size, and all else that is
shown is drawn reduced (reduced.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np
from PIL import Image, ImageColor

from ldznet.drawing.colors import Picture
from ldznet.drawing.overlay import color_map, heat_map, object_map, overlay
from ldznet.errors import ImageError
from ldznet.masks.objects import Objects
from ldznet.masks.pipeline import SoftMask, area, bounding_box
from ldznet.options import MaskOptions
from ldznet.result import Segmentation
from ldznet.webui.preview_scale import (
    reduce_objects,
    reduce_options,
    reduce_picture,
    reduce_segmentation,
    shown_size,
)

_THUMBNAIL = (384, 384)


@dataclass(frozen=True)
class Found:
    """A segmentation, and what its pictures are made of."""

    key: str
    segmentation: Segmentation
    image: Picture
    reason: str  # which method ran, and why
    encoding: float = 0.0  # seconds that encoding the image took; 0 where it was encoded before
    digest: str = ""  # of the image

    @cached_property
    def shown(self) -> Found:
        """The same at the size that it is shown at: itself, unless the picture is large."""
        size = shown_size(self.segmentation.size)
        if size == self.segmentation.size:
            return self
        segmentation = reduce_segmentation(self.segmentation, size)
        return dataclasses.replace(self, segmentation=segmentation, image=reduce_picture(self.image, size))

    @property
    def scale(self) -> float:
        """The shown size by the picture's own."""
        return max(self.shown.segmentation.size) / max(self.segmentation.size)


@dataclass(frozen=True)
class Look:
    """Pictures of a Found, by the mask's options. `colors` only for several prompts, `objects` only where their
    `count` is above 1.

    The mask has the picture's own size, the others the shown one.
    """

    mask: Image.Image
    overlay: Image.Image
    colors: Image.Image | None
    objects: Image.Image | None
    count: int


@dataclass(frozen=True)
class Choice:
    """A mask to choose from: its picture, what is written on that, and the threshold that makes it."""

    picture: Image.Image
    caption: str
    threshold: float


def heat(found: Found) -> Image.Image:
    """The probability of what is wanted, over the picture; the mask's options do not change it."""
    segmentation = found.shown.segmentation
    strongest: SoftMask = reduce(np.maximum, segmentation.each_wanted())
    return Image.fromarray(heat_map(strongest, found.shown.image, legend=True))


def show(found: Found, options: MaskOptions, brush: SoftMask | None = None) -> Look:
    """The pictures of the preview, from the kept probabilities alone."""
    mask, objects = found.segmentation.mask(options, given_mask=brush), found.segmentation.objects(options)
    segmentation, image = found.shown.segmentation, found.shown.image
    wanted = list(segmentation.each_wanted())
    colors = None
    if len(wanted) > 1:
        labels = segmentation.prompts
        colors = Image.fromarray(color_map(iter(wanted), labels, image, background=options.threshold).picture)
    return Look(
        to_picture(mask),
        Image.fromarray(overlay(image, reduce_picture(mask, segmentation.size))),
        colors,
        _objects(found, objects, wanted, options.objects) if len(objects) > 1 else None,
        len(objects),
    )


def _objects(found: Found, objects: Objects, wanted: Sequence[SoftMask], chosen: Sequence[int]) -> Image.Image:
    """`wanted` is what the prompts leave at the shown size; of each object, the most probable one is named."""
    areas = np.bincount(objects.numbers.ravel(), minlength=1 + len(objects))[1:]
    reduced = reduce_objects(objects, found.shown.segmentation.size)
    numbers = reduced.numbers.ravel()
    sums = [np.bincount(numbers, one.ravel(), minlength=1 + len(objects))[1:] for one in wanted]
    prompts = [found.segmentation.prompts[index] for index in np.argmax(sums, axis=0)]
    labels = [f"{prompt}, {area / objects.numbers.size:.1%}" for prompt, area in zip(prompts, areas, strict=True)]
    return Image.fromarray(object_map(reduced, labels, found.shown.image, chosen=chosen))


def object_at(found: Found, options: MaskOptions, x: int, y: int) -> int:
    """The number of the object at a pixel of `show`'s picture of them; 0 where there is none."""
    height, width = found.shown.segmentation.size
    if not (0 <= x < width and 0 <= y < height):  # on the legend
        return 0
    numbers = found.segmentation.objects(options).numbers
    whole_height, whole_width = numbers.shape
    return int(numbers[(2 * y + 1) * whole_height // (2 * height), (2 * x + 1) * whole_width // (2 * width)])


def whole_overlay(found: Found, options: MaskOptions, brush: SoftMask | None = None) -> Image.Image:
    """The overlay at the picture's own size."""
    return Image.fromarray(overlay(found.image, found.segmentation.mask(options, given_mask=brush)))


def choices(found: Found, options: MaskOptions) -> list[Choice]:
    """What other thresholds would make of it, the tightest first; empty where there is nothing to choose.

    The pictures are the part where the masks are.
    """
    segmentation, options = found.shown.segmentation, reduce_options(options, found.scale)
    candidates = segmentation.candidates(options)
    if len(candidates) < 2:
        return []
    levels = (dataclasses.replace(options, threshold=one.threshold, objects=()) for one in candidates)
    masks = [segmentation.mask(level) for level in levels]
    part = _with_margin(bounding_box(np.maximum.reduce(masks)), segmentation.size)
    pictures = [Image.fromarray(overlay(found.shown.image, mask)).crop(part) for mask in masks]
    for picture in pictures:
        picture.thumbnail(_THUMBNAIL)
    return [
        Choice(picture, f"{one.name} {one.threshold:.2f}", one.threshold)
        for picture, one in zip(pictures, candidates, strict=True)
    ]


def _with_margin(box: tuple[int, int, int, int] | None, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box and an eighth of its longer side around it; where there is none, all of `size` (height, width)."""
    height, width = size
    x0, y0, x1, y1 = box or (0, 0, width, height)
    margin = 1 + max(x1 - x0, y1 - y0) // 8
    return max(0, x0 - margin), max(0, y0 - margin), min(width, x1 + margin), min(height, y1 + margin)


def are_meant(found: Found, chosen_in: str) -> bool:
    """Whether numbers of objects that were chosen in what has this key mean something here.

    Numbers without one do everywhere: they come with a picture's parameters, or from a program.
    """
    return chosen_in in ("", found.key)


def let_go(numbers: Sequence[int]) -> str:
    """What to tell where they do not."""
    chosen = ", ".join(map(str, sorted(set(numbers))))
    return f"Objects {chosen} were chosen in another picture or with other words: all that is found is selected."


def is_something(found: Found, options: MaskOptions, brush: SoftMask | None = None) -> bool:
    """Whether there is anything to inpaint: the words select something, or add to a mask that is painted.

    A painted mask of which they take something away does not do: who names what to keep does not want it repainted
    because it is not found.
    """
    return _is_added_to(options, brush) or _select(found, options)


def only_painted(found: Found, options: MaskOptions, brush: SoftMask | None) -> str:
    """What to tell where the words add nothing to a painted mask; empty where they do, or where there is none."""
    if not _is_added_to(options, brush) or _select(found, options):
        return ""
    return f"{_heights(found)[0]}, and the threshold is {options.threshold:.2f}: only what is painted is masked."


def _is_added_to(options: MaskOptions, brush: SoftMask | None) -> bool:
    """Inverted, words that are not found would add everything."""
    return options.brush == "add" and not options.invert and brush is not None and bool(brush.any())


def _select(found: Found, options: MaskOptions) -> bool:
    """Whether the words select anything; inverted, nothing would be everything."""
    # What grows is there before; and growing takes a while with a large picture.
    plain = dataclasses.replace(options, invert=False, feather=0.0, grow=min(0, options.grow))
    return bool(found.segmentation.mask(plain).any())


def _heights(found: Found) -> tuple[str, float]:
    """How probable each prompt is at most, in words, and the most probable one."""
    highest = [float(wanted.max()) for wanted in found.segmentation.each_wanted()]
    each = zip(found.segmentation.prompts, highest, strict=True)
    return "; ".join(f'"{prompt}" reaches {level:.2f}' for prompt, level in each), max(highest)


def nothing(found: Found, options: MaskOptions, brush: SoftMask | None = None) -> str:
    """What to tell where there is nothing to inpaint."""
    seen, highest = _heights(found)
    if highest > 0 and highest >= np.float32(options.threshold):
        return (
            f"Nothing to inpaint: {seen} and would be masked, but the other options leave nothing of it. Look at "
            "how prompts are combined, smallest area, objects, shrink, feather, mask blur, and the painted mask."
        )
    why = f"{seen}, and the threshold is {options.threshold:.2f}"
    if options.brush == "subtract" and brush is not None and brush.any():
        return (
            f"Nothing to inpaint: {why}, so that nothing can be taken away from the painted mask. Lower the "
            "threshold, use other words, or close the panel to repaint all that is painted."
        )
    return f"Nothing to inpaint: {why}. Lower the threshold, or use other words."


def describe(found: Found, options: MaskOptions, count: int) -> list[str]:
    """Lines for the page: what was found of each prompt, how many objects, which method, and notes."""
    segmentation = found.shown.segmentation
    plain = dataclasses.replace(reduce_options(options, found.scale), invert=False)
    lines = [
        f"{one['prompt']}: {one['share']:.1%} of the picture, probability up to {one['highest']:.2f}"
        for one in segmentation.found(plain)
    ]
    if count > 1 or options.objects:
        chosen = [str(number) for number in sorted(set(options.objects)) if number <= count]
        lines.append(f"Objects: {count}; selected: {', '.join(chosen) or ('none' if options.objects else 'all')}")
    if found.shown is not found:
        shown, whole = (f"{width} x {height}" for height, width in (segmentation.size, found.segmentation.size))
        lines.append(f"The mask is {whole} pixels; the rest is shown at {shown}.")
    return [*lines, f"Method: {found.reason}", *found.segmentation.notes]


def answer(found: Found, options: MaskOptions, mask: SoftMask | None = None) -> dict[str, Any]:
    """For programs, fit for JSON: by which method, of each prompt and object area and box, and the mask's."""
    height, width = found.segmentation.size
    told: dict[str, Any] = {
        "method": found.reason,
        "size": [width, height],
        "prompts": found.segmentation.found(dataclasses.replace(options, invert=False)),
        "objects": found.segmentation.tell_objects(found.segmentation.objects(options), options.objects),
    }
    if mask is not None:
        told["mask"] = {"area": area(mask), "box": bounding_box(mask)}
    return told


def to_picture(mask: SoftMask) -> Image.Image:
    """(H, W) in [0, 1] -> a picture of mode L; white is selected."""
    return Image.fromarray(np.round(mask * 255).astype(np.uint8))


def flattened(image: Image.Image | None) -> Image.Image:
    """RGB as the webui makes it of an init image (images.flatten): no other background, no turning by EXIF."""
    if image is None:
        raise ImageError("There is no picture. Put one into the open tab of img2img.")
    from modules import shared  # type: ignore[import-not-found]

    if image.mode == "RGBA":
        try:
            color = ImageColor.getcolor(shared.opts.img2img_background_color, "RGBA")
        except (ValueError, AttributeError):
            color = (255, 255, 255, 255)
        image = Image.alpha_composite(Image.new("RGBA", image.size, color), image)
    return Image.fromarray(np.asarray(image.convert("RGB")))


def brush_of(mask: Image.Image, size: tuple[int, int]) -> SoftMask:
    """A painted or uploaded mask as the webui reads it, at the picture's size (width, height) -> (H, W)."""
    if mask.mode == "RGBA" and mask.getextrema()[-1] != (255, 255):
        mask = mask.getchannel("A").point([255 * (level > 128) for level in range(256)])
    else:
        mask = mask.convert("L")
    if mask.size != size:
        mask = mask.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(mask, np.float32) / np.float32(255)


def fitting_size(size: tuple[int, int], most: int = 2048, multiple: int = 8) -> tuple[int, int]:
    """Width and height for the webui's sliders, in the picture's proportions."""
    scale = min(1.0, most / max(size))
    width, height = (max(64, round(side * scale / multiple) * multiple) for side in size)
    return width, height
