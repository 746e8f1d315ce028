"""The one public entry: an image and prompts in, probabilities and masks out.

    segmenter = Segmenter(DiffusersHost.load("sd15.safetensors"), LearnedHead.load("ld-znet.safetensors"))
    segmenter.set_image("photo.jpg")                 # the VAE runs once
    found = segmenter.segment(["bucket", "a dog"])   # the UNet and the head run once per prompt
    found.mask(MaskOptions(threshold=0.4))           # changing the threshold runs nothing again

Probabilities are kept at the network's size and brought to the image's size one at a time, so that a
hundred prompts on a large picture do not hold a hundred large maps. What a second look has found (refine.py) is
kept as maps of twice that size and as patches, which are laid over when a map is enlarged.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ldznet import __version__
from ldznet.candidates import Candidate, find_candidates
from ldznet.errors import HostError, ImageError, OutOfMemoryError, PromptError
from ldznet.hosts.host import Context, Host
from ldznet.image import (
    ImageSource,
    image_digest,
    network_size,
    on_background,
    read_image,
    to_image_size,
    to_tensor,
)
from ldznet.mask import area, bounding_box, make_mask, subtract_negatives, whole_mask
from ldznet.methods.method import Draw, Method, Picture, Prompts
from ldznet.objects import Objects, find_objects
from ldznet.options import MaskOptions, SegmentOptions, require_options
from ldznet.refine import FAINT, TILE, Box, Patch, add_tile, find_boxes, find_tiles, join, lay_over, merge

log = logging.getLogger(__name__)

# The sentences that the released heads were trained with (section 4 of the paper), in the order of the code.
TEMPLATES = (
    "a photo of a {}.",
    "a photograph of a {}.",
    "an image of a {}.",
    "{}.",
    "a cropped photo of a {}.",
    "a good photo of a {}.",
    "a photo of one {}.",
    "a bad photo of a {}.",
    "a photo of the {}.",
)
MOST_PROMPTS = 1000
LONGEST_PROMPT = 2000
_KEPT_CONTEXTS = 256
_KEPT_PICTURES = 4  # of one image, at several resolutions: pixels and latent
_BATCH_OF_A_CPU = 8

# done, total: passes of a batch through the network. Raising in it stops the work.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Segmentation:
    """What was found of each prompt; iterating gives probabilities (H, W) at the image's own size."""

    prompts: tuple[str, ...]
    negative_prompts: tuple[str, ...]
    size: tuple[int, int]  # of the image: height, width
    # (prompts and negative prompts, h, w) float32 in [0, 1], at the network's size, or twice that of tiles
    maps: Tensor
    record: dict[str, Any]  # all that is needed to repeat it
    notes: tuple[str, ...]  # what a user should know, such as a prompt that was cut
    patches: tuple[tuple[Patch, ...], ...] = ()  # per map what a second look has found, if there was one

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def nbytes(self) -> int:
        """What the maps take in memory; the image is not among them."""
        patches = (patch.probability.nbytes for patches in self.patches for patch in patches)
        return self.maps.nbytes + sum(patches)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return (self.probability(index) for index in range(len(self)))

    def probability(self, index: int) -> NDArray[np.float32]:
        """Of one prompt: (H, W) float32 in [0, 1]."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"There are {len(self)} prompts; there is none with the index {index}.")
        return self._whole(index % len(self))

    def wanted(self, index: int) -> NDArray[np.float32]:
        """Of one prompt, what the negative prompts leave of it: (H, W) float32 in [0, 1]. Masks are made of it."""
        probability = self.probability(index)
        return subtract_negatives(probability, self._negatives()) if self.negative_prompts else probability

    def probabilities(self) -> NDArray[np.float32]:
        """Of all prompts: (P, H, W) float32 in [0, 1]; 4 P H W bytes, 256 MB for each on an 8192 px square."""
        found = np.empty((len(self), *self.size), np.float32)
        for index, probability in enumerate(self):
            found[index] = probability
        return found

    def mask(
        self,
        options: MaskOptions | None = None,
        *,
        brush: NDArray[Any] | None = None,
        only: int | None = None,
    ) -> NDArray[np.float32]:
        """The mask of all prompts together, or of `only` one: (H, W) float32 in [0, 1], 1 is selected.

        `brush` is a mask of the image's size that was given before (see MaskOptions.brush). Objects are numbered
        in the mask of all prompts; that of one has all of its own.
        """
        chosen = iter(self) if only is None else iter([self.probability(only)])
        options = MaskOptions() if options is None else options
        if only is not None and isinstance(options, MaskOptions):
            options = dataclasses.replace(options, objects=())
        return make_mask(chosen, options, negatives=self._unwanted(), brush=brush)

    def objects(self, options: MaskOptions | None = None) -> Objects:
        """What `options.objects` chooses from: the objects in the mask of all prompts, before it grows."""
        options = MaskOptions() if options is None else options
        return find_objects(whole_mask(iter(self), options, negatives=self._unwanted()))

    def tell_objects(self, objects: Objects, chosen: Sequence[int] = ()) -> list[dict[str, Any]]:
        """Of each object its number, area in pixels, bounding box, most probable prompt, and the mean probability
        of that inside; and whether it is `chosen`, as all are if none is.
        """
        numbers, count = objects.numbers.ravel(), len(objects) + 1
        if count == 1:
            return []
        areas = np.bincount(numbers, minlength=count)[1:]
        sums = [np.bincount(numbers, self.wanted(i).ravel(), count)[1:] for i in range(len(self))]
        best, means = np.argmax(sums, axis=0), np.max(sums, axis=0) / areas
        return [
            {
                "number": number,
                "prompt": self.prompts[best[number - 1]],
                "area": int(areas[number - 1]),
                "share": float(areas[number - 1] / numbers.size),
                "box": box,
                "probability": float(means[number - 1]),
                "selected": not chosen or number in chosen,
            }
            for number, box in enumerate(objects.boxes, start=1)
        ]

    def candidates(self, options: MaskOptions | None = None) -> list[Candidate]:
        """Thresholds to choose from, by the probability that the mask of all prompts is made of.

        That is the largest of all prompts for a union, the smallest for an intersection, the first's for a
        difference.
        """
        combine = (MaskOptions() if options is None else options).combine
        maps = (self.wanted(index) for index in range(1 if combine == "difference" else len(self)))
        return find_candidates(functools.reduce(np.minimum if combine == "intersection" else np.maximum, maps))

    def _unwanted(self) -> Iterator[NDArray[np.float32]] | None:
        return self._negatives() if self.negative_prompts else None

    def _negatives(self) -> Iterator[NDArray[np.float32]]:
        return (self._whole(index) for index in range(len(self), len(self.maps)))

    def _whole(self, index: int) -> NDArray[np.float32]:
        """Of a prompt, or behind them of a negative prompt, at the image's size."""
        whole = to_image_size(self.maps[index], self.size)
        return lay_over(whole, self.patches[index]) if self.patches else whole

    def found(self, options: MaskOptions | None = None) -> list[dict[str, Any]]:
        """Per prompt its area in pixels, bounding box and mean probability inside its own mask.

        Where there are negative prompts, probabilities are those that they leave.
        """
        answers = []
        for index, prompt in enumerate(self.prompts):
            mask = self.mask(options, only=index)
            inside = mask >= 0.5
            probability = self.wanted(index)
            answers.append(
                {
                    "prompt": prompt,
                    "area": area(inside),
                    "share": float(inside.mean()),
                    "box": bounding_box(inside),
                    "probability": float(probability[inside].mean()) if inside.any() else 0.0,
                    "highest": float(probability.max()),
                }
            )
        return answers


class Segmenter:
    """Keeps the latent of one image and the contexts of the last prompts.

    Raises:
        HeadError, HostError: the method cannot work with this model.
    """

    def __init__(self, host: Host, method: Method) -> None:
        method.check(host.info)
        self.host = host
        self.method = method
        self._source: Image.Image | None = None  # upright, RGB or RGBA
        self._image: Image.Image | None = None  # the same on a background, RGB
        self._background = ""
        self._pictures: dict[Any, Picture] = {}
        self._contexts: OrderedDict[str, Context] = OrderedDict()

    def set_image(self, image: ImageSource, options: SegmentOptions | None = None) -> None:
        """Take an image of any kind (see `load_image`) and encode it, once for all prompts.

        Raises:
            ImageError: it cannot be read; the image before it is then forgotten.
        """
        options = _segment_options(options)
        self._source, self._image, self._pictures = None, None, {}
        self._source = read_image(image)
        self._show_on(options.background)
        if options.randomness == "fixed":
            self._picture(options, None)

    def _show_on(self, background: str) -> None:
        """Let another colour show through where the image is transparent."""
        assert self._source is not None
        if self._image is None or (background != self._background and self._source.mode != "RGB"):
            red, green, blue = (int(background[start : start + 2], 16) for start in (1, 3, 5))
            self._image, self._pictures = on_background(self._source, (red, green, blue)), {}
        self._background = background

    @property
    def image(self) -> Image.Image:
        """The image as RGB, upright, on the background that was last asked for.

        Raises:
            ImageError: there is none yet.
        """
        if self._image is None:
            raise ImageError("There is no image to segment yet. Call set_image with one first.")
        return self._image

    def segment(
        self,
        prompts: str | Sequence[str],
        options: SegmentOptions | None = None,
        *,
        negative_prompts: str | Sequence[str] = (),
        progress: Progress | None = None,
    ) -> Segmentation:
        """Find each prompt in the image.

        Raises:
            PromptError: a prompt cannot be used. ImageError: there is no image.
            OptionError: `options` are no SegmentOptions. OutOfMemoryError: not even one prompt fits.
        """
        options = _segment_options(options)
        wanted, unwanted = check_prompts(prompts, negative_prompts)
        if self._image is not None:
            self._show_on(options.background)
        image = self.image
        texts = [*wanted, *unwanted]
        defaults = self.method.defaults
        options = dataclasses.replace(
            options,
            resolution=options.resolution or defaults.resolution,
            timesteps=options.timesteps or defaults.timesteps,
            template=options.template or defaults.template,
        )
        passes = _Passes(options, len(texts))
        picture = self._picture(options, passes.posterior_noise)
        passes.prepare(picture.latent)
        batch = options.batch or self._batch_size(picture)
        if options.refine:
            # One box of each prompt is expected, until it is known how much there is to look at again.
            tiles = find_tiles((image.height, image.width), options.resolution)
            total = (2 + len(tiles)) * passes.count * len(texts)
            maps, cut = self._run(texts, picture, passes, batch, _behind(progress, 0, total))
            maps, patches = self._look_again(texts, maps, tiles, batch, options, progress)
        else:
            maps, cut = self._run(texts, picture, passes, batch, progress)
            patches = ()
        record = {
            "ldznet": __version__,
            "image_sha256": image_digest(image),
            "size": [image.height, image.width],
            "network_size": list(picture.pixels.shape[-2:]),
            "prompts": list(wanted),
            "negative_prompts": list(unwanted),
            "model": self.host.info.name,
            "model_fingerprint": self.host.info.fingerprint,
            "prediction": self.host.info.prediction,
            "dtype": str(self.host.dtype).removeprefix("torch."),
            "device": self.host.device.type,
            **self.method.record,
            **dataclasses.asdict(options),
        }
        notes = tuple(
            f'Prompt {number} ("{text[:30]}...") is longer than the text encoder reads; its end was ignored.'
            for number, (text, is_cut) in enumerate(zip(texts, cut, strict=True), start=1)
            if is_cut
        )
        for note in notes:
            log.warning(note)
        return Segmentation(wanted, unwanted, (image.height, image.width), maps, record, notes, patches)

    # --- one image ---------------------------------------------------------------------------------

    def _picture(self, options: SegmentOptions, posterior_noise: Callable[..., Tensor] | None) -> Picture:
        size = self._network_size(self.image, options)
        key = size if posterior_noise is None else (size, options.seeds[0])
        if key not in self._pictures:
            while len(self._pictures) >= _KEPT_PICTURES:
                del self._pictures[next(iter(self._pictures))]
            self._pictures[key] = self._encode(self.image, size, posterior_noise)
        return self._pictures[key]

    def _network_size(self, image: Image.Image, options: SegmentOptions) -> tuple[int, int]:
        resolution = options.resolution or self.method.defaults.resolution
        multiple = 8 * max(8, self.host.info.unet.multiple)
        return network_size((image.height, image.width), resolution, multiple)

    def _encode(
        self, image: Image.Image, size: tuple[int, int], posterior_noise: Callable[..., Tensor] | None
    ) -> Picture:
        pixels = to_tensor(image, size)
        noise = None if posterior_noise is None else posterior_noise((1, 4, size[0] // 8, size[1] // 8))
        try:
            return Picture(pixels, self.host.encode_image(pixels, noise))
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            self.host.clear_memory()
            raise OutOfMemoryError(
                f"Encoding the image at {size[1]} x {size[0]} does not fit into memory. Give a lower "
                "resolution, or free memory on the device."
            ) from error

    # --- a second look -------------------------------------------------------------------------------

    def _look_again(
        self,
        texts: Sequence[str],
        maps: Tensor,
        tiles: Sequence[Box],
        batch: int,
        options: SegmentOptions,
        progress: Progress | None,
    ) -> tuple[Tensor, tuple[tuple[Patch, ...], ...]]:
        """-> maps that know of the tiles, and per text what a pass over each part that stands out has found."""
        size = (self.image.height, self.image.width)
        each, done = _Passes(options, 1).count, _Passes(options, 1).count * len(texts)
        found = [index for index, one in enumerate(maps) if float(one.max()) >= FAINT]
        if tiles and found:
            total = done + each * len(found) * (len(tiles) + 1)
            maps = self._search(texts, maps, found, tiles, batch, options, _behind(progress, done, total))
            done += each * len(found) * len(tiles)
        seen = TILE if tiles else 1.0
        boxes = [find_boxes(one.numpy(), size, options.resolution, seen) for one in maps]
        total = done + each * sum(map(len, boxes))
        if progress is not None and done == total:
            progress(done, total)
        patches = []
        for text, coarse, parts in zip(texts, maps, boxes, strict=True):
            own = []
            for box in parts:
                fine = self._look_at(box, [text], 1, options, _behind(progress, done, total))
                own.append(Patch(box, merge(coarse.numpy(), size, box, fine[0].numpy())))
                done += each
            patches.append(tuple(own))
        return maps, tuple(patches)

    def _search(
        self,
        texts: Sequence[str],
        maps: Tensor,
        found: Sequence[int],
        tiles: Sequence[Box],
        batch: int,
        options: SegmentOptions,
        progress: Progress | None,
    ) -> Tensor:
        """What the tiles show of the prompts of which anything was found -> all maps, at twice their size."""
        height, width = maps.shape[-2:]
        larger = np.zeros((len(maps), 2 * height, 2 * width), np.float32)
        each = _Passes(options, 1).count * len(found)
        for number, tile in enumerate(tiles):
            told = _behind(progress, number * each, len(tiles) * each)
            seen = self._look_at(tile, [texts[index] for index in found], batch, options, told)
            for index, fine in zip(found, seen, strict=True):
                add_tile(larger[index], number, fine.numpy())
        for index, one in enumerate(maps):
            if index in found:
                larger[index] = join(one.numpy(), larger[index])
            else:
                larger[index] = to_image_size(one, (2 * height, 2 * width))
        return torch.from_numpy(larger)

    def _look_at(
        self, box: Box, texts: Sequence[str], batch: int, options: SegmentOptions, progress: Progress | None
    ) -> Tensor:
        """A part of the image at the network's full size -> maps (P, k, l)."""
        passes, crop = _Passes(options, len(texts)), self.image.crop(box)
        picture = self._encode(crop, self._network_size(crop, options), passes.posterior_noise)
        passes.prepare(picture.latent)
        return self._run(texts, picture, passes, batch, progress)[0]

    # --- prompts -----------------------------------------------------------------------------------

    def _run(
        self,
        texts: Sequence[str],
        picture: Picture,
        passes: _Passes,
        batch: int,
        progress: Progress | None,
    ) -> tuple[Tensor, list[bool]]:
        """-> maps (P, h, w) on the CPU, and per prompt whether it was cut."""
        height, width = picture.pixels.shape[-2:]
        maps = torch.zeros(len(texts), height, width)
        cut = [False] * len(texts)
        batch = min(batch, len(texts))
        start = done = 0
        while start < len(texts):
            part = slice(start, min(start + batch, len(texts)))
            try:
                total = torch.zeros(part.stop - part.start, height, width)
                for number in range(passes.count):
                    templates = tuple(passes.template(number, i) for i in _indices(part))
                    prompts = Prompts(tuple(texts[part]), templates, self._context)
                    draw = passes.draw(number, part, picture.latent)
                    total += self.method.probability(self.host, picture, prompts, draw).cpu()
                    for index, is_cut in zip(_indices(part), prompts.context.cut, strict=True):
                        cut[index] |= is_cut
                    done += part.stop - part.start
                    if progress is not None:
                        progress(done, passes.count * len(texts))
            except Exception as error:
                if not _is_out_of_memory(error):
                    raise
                done = passes.count * start
                batch = self._smaller(batch, (height, width), error)
                continue
            if not total.isfinite().all():
                raise HostError(
                    f"The {self.method.name} method gave values that are not numbers (NaN) in "
                    f"{str(self.host.dtype).removeprefix('torch.')}: these weights overflow it. Use bfloat16 or "
                    "float32 (--dtype)."
                )
            maps[part] = total / passes.count
            start = part.stop
        return maps.clamp_(0, 1), cut

    def _smaller(self, batch: int, size: tuple[int, int], error: Exception) -> int:
        self.host.clear_memory()
        if batch == 1:
            raise OutOfMemoryError(
                f"One prompt at {size[1]} x {size[0]} does not fit into memory. Give a lower resolution, or free "
                "memory on the device."
            ) from error
        log.info("%d prompts at once do not fit into memory; trying %d.", batch, batch // 2)
        return batch // 2

    def _batch_size(self, picture: Picture) -> int:
        if self.host.device.type != "cuda":
            return _BATCH_OF_A_CPU
        free, _ = torch.cuda.mem_get_info(self.host.device)
        height, width = picture.latent.shape[-2:]
        # Activations of one prompt: about 40 maps of the first level's width are alive at once.
        bytes_each = 40 * self.host.info.unet.model_channels * height * width * self.host.dtype.itemsize
        return int(max(1, min(64, 0.6 * free // bytes_each)))

    def _context(self, sentences: Sequence[str]) -> Context:
        """The contexts of some sentences; those of the last ones are kept."""
        if new := [text for text in dict.fromkeys(sentences) if text not in self._contexts]:
            encoded = self.host.encode_prompt(new)
            for index, text in enumerate(new):
                self._contexts[text] = encoded[index : index + 1]
        found = Context.join([self._contexts[text] for text in sentences])
        for text in sentences:
            self._contexts.move_to_end(text)
        while len(self._contexts) > _KEPT_CONTEXTS:
            self._contexts.popitem(last=False)
        return found


class _Passes:
    """Which sentence, timestep and noise each pass over the prompts uses.

    All noise comes from private generators on the CPU, so that it is the same on every device and leaves
    the random states of host and user alone.
    """

    def __init__(self, options: SegmentOptions, prompts: int) -> None:
        self.options = options
        self.released = options.randomness == "released"
        templates = TEMPLATES if options.average_templates else (options.template,)
        self.fixed = list(itertools.product(templates, options.timesteps, options.seeds))
        self.count = 1 if self.released else len(self.fixed)
        self.prompts = prompts
        self.posterior_noise: Callable[..., Tensor] | None = None
        self._noise: dict[int, Tensor] = {}
        if self.released:
            self._generator = torch.Generator().manual_seed(options.seeds[0])
            self.posterior_noise = self._draw_posterior
            self._drawn: tuple[Tensor, Tensor, Tensor] | None = None

    def _draw_posterior(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(self.options.seeds[0]))

    def _released_draws(self, latent_shape: Sequence[int] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Templates, timesteps and noise, in the order in which the released code draws them."""
        if self._drawn is None:
            assert latent_shape is not None
            g, shape = self._generator, (1, *latent_shape[1:])
            torch.randn(shape, generator=g)  # the posterior's noise, see _draw_posterior
            torch.randint(0, 1, (1,), generator=g)  # the head's own timestep, which is always 0
            weights = torch.ones(len(TEMPLATES))
            templates = torch.multinomial(weights, self.prompts, replacement=True, generator=g)
            timesteps = torch.randint(300, 500, (self.prompts,), generator=g)
            noise = torch.randn((self.prompts, *shape[1:]), generator=g)
            self._drawn = (templates, timesteps, noise)
        return self._drawn

    def prepare(self, latent: Tensor) -> None:
        """Draw what depends on the latent's size."""
        if self.released:
            self._released_draws(latent.shape)

    def template(self, number: int, prompt: int) -> str:
        """The sentence around one prompt in one pass."""
        return TEMPLATES[int(self._released_draws()[0][prompt])] if self.released else self.fixed[number][0]

    def draw(self, number: int, part: slice, latent: Tensor) -> Draw:
        """Timesteps and noise of some prompts in one pass."""
        if self.released:
            _, timesteps, noise = self._released_draws()
            return Draw(timesteps[part], noise[part], self.options.seeds[0])
        _, timestep, seed = self.fixed[number]
        if seed not in self._noise:
            generator = torch.Generator().manual_seed(seed)
            self._noise[seed] = torch.randn((1, *latent.shape[1:]), generator=generator)
        return Draw(torch.full((part.stop - part.start,), timestep), self._noise[seed], seed)


def _behind(progress: Progress | None, before: int, total: int) -> Progress | None:
    """Tells of a part of the work, behind what was done before."""
    return None if progress is None else lambda done, _part: progress(before + done, total)


def _indices(part: slice) -> range:
    return range(part.start, part.stop)


def check_prompts(
    prompts: str | Sequence[str], negative_prompts: str | Sequence[str] = ()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Both without the space around them; one text stands for a list of one.

    Raises:
        PromptError: one of them cannot be used, there is none, or there are too many.
    """
    return _checked(prompts, "prompt", least=1), _checked(negative_prompts, "negative prompt", least=0)


def _checked(prompts: str | Iterable[str], what: str, *, least: int) -> tuple[str, ...]:
    if isinstance(prompts, str):
        prompts = [prompts]
    if not isinstance(prompts, Iterable):
        raise PromptError(f"The {what}s are {prompts!r}, but they must be texts. Give one, or a list of them.")
    found = []
    for number, text in enumerate(prompts, start=1):
        if not isinstance(text, str):
            raise PromptError(f"{what.capitalize()} {number} is {text!r}, but it must be a text. Give words.")
        if not text.strip():
            raise PromptError(f"{what.capitalize()} {number} is empty. Say what to look for, such as: bucket.")
        if len(text) > LONGEST_PROMPT:
            raise PromptError(
                f"{what.capitalize()} {number} has {len(text)} characters; at most {LONGEST_PROMPT} are read. "
                "Shorten it."
            )
        try:
            text.encode()
        except UnicodeEncodeError:
            raise PromptError(
                f"{what.capitalize()} {number} holds half a character (a lone surrogate), which is no text. "
                "Type it again."
            ) from None
        found.append(text.strip())
    if len(found) < least:
        raise PromptError("There is no prompt. Say what to look for, such as: bucket.")
    if len(found) > MOST_PROMPTS:
        raise PromptError(f"There are {len(found)} prompts; at most {MOST_PROMPTS} fit into one run. Split them.")
    return tuple(found)


def _segment_options(options: SegmentOptions | None) -> SegmentOptions:
    options = SegmentOptions() if options is None else options
    require_options(options, SegmentOptions)
    return options


@contextmanager
def memory_explained(what: str) -> Iterator[None]:
    """What does not fit into memory becomes an OutOfMemoryError, whichever library has noticed it."""
    try:
        yield
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"{what} does not fit into the memory that is free. Make the image smaller, or close other programs."
        ) from error


def _is_out_of_memory(error: BaseException) -> bool:
    """Numpy, OpenCV and PyTorch each say it in their own way, PyTorch in several, by device."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    if isinstance(error, cv2.error):
        return bool(getattr(error, "code", 0) == cv2.Error.StsNoMem)
    text = str(error).lower()
    said = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(words in text for words in said)
