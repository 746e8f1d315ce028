"""What was found in a picture, and the pictures and words that the page shows of it.

Plain arrays and Pillow, from the kept probabilities: nothing here runs a network. Sizes of pictures are Pillow's,
(width, height); masks are (H, W).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageColor

from ldznet.errors import ImageError
from ldznet.mask import SoftMask, area, bounding_box
from ldznet.objects import Objects
from ldznet.options import MaskOptions
from ldznet.render import Picture, color_map, heat_map, object_map, overlay
from ldznet.segmenter import Segmentation

_THUMBNAIL = (384, 384)


@dataclass(frozen=True)
class Found:
    """A segmentation, and what its pictures are made of."""

    key: str
    segmentation: Segmentation
    image: Picture
    reason: str  # which method ran, and why
    encoding: float = 0.0  # seconds that encoding the image took; 0 where it was encoded before


@dataclass(frozen=True)
class Look:
    """Pictures of a Found. `colors` only for several prompts, `objects` only where their `count` is above 1."""

    heat: Image.Image
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


def show(found: Found, options: MaskOptions, brush: SoftMask | None = None) -> Look:
    """The pictures of the preview, from the kept probabilities alone."""
    segmentation, image = found.segmentation, found.image
    mask, objects = segmentation.mask(options, brush=brush), segmentation.objects(options)
    wanted = [segmentation.wanted(index) for index in range(len(segmentation))]
    strongest: SoftMask = np.maximum.reduce(wanted)
    colors = None
    if len(wanted) > 1:
        labels = segmentation.prompts
        colors = Image.fromarray(color_map(iter(wanted), labels, image, background=options.threshold).picture)
    return Look(
        Image.fromarray(heat_map(strongest, image, legend=True)),
        to_picture(mask),
        Image.fromarray(overlay(image, mask)),
        colors,
        _objects(found, options, objects) if len(objects) > 1 else None,
        len(objects),
    )


def _objects(found: Found, options: MaskOptions, objects: Objects) -> Image.Image:
    told = found.segmentation.tell_objects(objects)
    labels = [f"{one['prompt']}, {one['share']:.1%}" for one in told]
    return Image.fromarray(object_map(objects, labels, found.image, chosen=options.objects))


def object_at(found: Found, options: MaskOptions, x: int, y: int) -> int:
    """The number of the object at a pixel of `show`'s picture of them; 0 where there is none."""
    height, width = found.segmentation.size
    return int(found.segmentation.objects(options).numbers[y, x]) if 0 <= x < width and 0 <= y < height else 0


def choices(found: Found, options: MaskOptions) -> list[Choice]:
    """What other thresholds would make of it, the tightest first; empty where there is nothing to choose.

    The pictures are the part where the masks are.
    """
    segmentation = found.segmentation
    candidates = segmentation.candidates(options)
    if len(candidates) < 2:
        return []
    levels = (dataclasses.replace(options, threshold=one.threshold, objects=()) for one in candidates)
    masks = [segmentation.mask(level) for level in levels]
    part = _with_margin(bounding_box(np.maximum.reduce(masks)), segmentation.size)
    pictures = [Image.fromarray(overlay(found.image, mask)).crop(part) for mask in masks]
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


def is_something(found: Found, options: MaskOptions) -> bool:
    """Whether the words select anything; inverted, nothing would be everything."""
    plain = dataclasses.replace(options, invert=False, feather=0.0)
    return bool(found.segmentation.mask(plain).any())


def nothing(found: Found, options: MaskOptions) -> str:
    """What to tell where there is nothing to inpaint."""
    answers = found.segmentation.found(MaskOptions(threshold=options.threshold))
    seen = "; ".join(f'"{one["prompt"]}" reaches {one["highest"]:.2f}' for one in answers)
    if any(one["area"] for one in answers):
        return (
            f"Nothing to inpaint: {seen} and would be masked, but the other options leave nothing of it. Look at "
            "how prompts are combined, smallest area, objects, shrink, feather, mask blur, and the painted mask."
        )
    return (
        f"Nothing to inpaint: {seen}, and the threshold is {options.threshold:.2f}. Lower the threshold, or use "
        "other words."
    )


def describe(found: Found, options: MaskOptions, count: int) -> list[str]:
    """Lines for the page: what was found of each prompt, how many objects, which method, and notes."""
    lines = [
        f"{one['prompt']}: {one['share']:.1%} of the picture, probability up to {one['highest']:.2f}"
        for one in found.segmentation.found(dataclasses.replace(options, invert=False))
    ]
    if count > 1 or options.objects:
        chosen = [str(number) for number in sorted(set(options.objects)) if number <= count]
        lines.append(f"Objects: {count}; selected: {', '.join(chosen) or ('none' if options.objects else 'all')}")
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
