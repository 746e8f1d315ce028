"""The one public entry: an image and prompts in, probabilities and masks out.

    segmenter = Segmenter(DiffusersHost.load("sd15.safetensors"), LearnedHead.load("ld-znet.safetensors"))
    segmenter.set_image("photo.jpg")                 # the VAE runs once
    found = segmenter.segment(["bucket", "a dog"])   # the UNet and the head run once per prompt
    found.mask(MaskOptions(threshold=0.4))           # changing the threshold runs nothing again

Probabilities are kept at the network's size; see segmentation.py for what can be had of them.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from ldznet import __version__
from ldznet.errors import ImageError, OutOfMemoryError
from ldznet.hosts.host import Host
from ldznet.images.reading import ImageSource, image_digest, network_size, on_background, read_image, to_tensor
from ldznet.inference.batching import BatchRunner
from ldznet.inference.passes import Passes, Progress, shift_progress
from ldznet.inference.prompts import check_prompts
from ldznet.inference.refinement import Refinement
from ldznet.inference.tiles import Box, RefinedPatch
from ldznet.memory_errors import is_out_of_memory
from ldznet.methods.method import EncodedImage, Method
from ldznet.options import SegmentOptions, require_options
from ldznet.result import Segmentation

log = logging.getLogger(__name__)

_KEPT_PICTURES = 4  # of one image, at several resolutions: pixels and latent


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
        self._pictures: dict[Any, EncodedImage] = {}
        self._batches = BatchRunner(host, method)

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
        options = self._with_defaults(options)
        texts = [*wanted, *unwanted]
        passes = Passes(options, len(texts))
        picture = self._picture(options, passes.posterior_noise)
        passes.prepare(picture.latent)
        maps, cut, patches = self._find(texts, picture, passes, progress)
        record = self._record(wanted, unwanted, picture, options)
        first = len(wanted)  # of the negative ones
        notes = (*_notes("Prompt", wanted, cut[:first]), *_notes("Negative prompt", unwanted, cut[first:]))
        for note in notes:
            log.warning(note)
        return Segmentation(wanted, unwanted, (image.height, image.width), maps, record, notes, patches)

    def _with_defaults(self, options: SegmentOptions) -> SegmentOptions:
        """What is left open, as the method wants it."""
        defaults = self.method.defaults
        return dataclasses.replace(
            options,
            resolution=options.resolution or defaults.resolution,
            timesteps=options.timesteps or defaults.timesteps,
            template=options.template or defaults.template,
        )

    def _find(
        self, texts: Sequence[str], picture: EncodedImage, passes: Passes, progress: Progress | None
    ) -> tuple[Tensor, list[bool], tuple[tuple[RefinedPatch, ...], ...]]:
        """-> maps, per text whether it was cut, and its patches if there was a second look."""
        options = passes.options
        batch = options.batch or self._batches.size(picture)
        if not options.refine:
            return *self._batches.run(texts, picture, passes, batch, progress), ()
        look_at = functools.partial(self._look_at, options, batch)
        second = Refinement(look_at, (self.image.height, self.image.width), options.resolution, passes.count)
        told = shift_progress(progress, 0, second.expected(len(texts)))
        maps, cut = self._batches.run(texts, picture, passes, batch, told)
        maps, patches = second.take(texts, maps, progress)
        return maps, cut, patches

    def _look_at(
        self, options: SegmentOptions, batch: int, box: Box, texts: Sequence[str], progress: Progress | None
    ) -> Tensor:
        """A part of the image at the network's full size -> maps (P, k, l)."""
        passes, crop = Passes(options, len(texts)), self.image.crop(box)
        picture = self._encode(crop, self._network_size(crop, options), passes.posterior_noise)
        passes.prepare(picture.latent)
        return self._batches.run(texts, picture, passes, batch, progress)[0]

    def _record(
        self, wanted: tuple[str, ...], unwanted: tuple[str, ...], picture: EncodedImage, options: SegmentOptions
    ) -> dict[str, Any]:
        """All that is needed to repeat it."""
        return {
            "ldznet": __version__,
            "image_sha256": image_digest(self.image),
            "size": [self.image.height, self.image.width],
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

    # --- one image ---------------------------------------------------------------------------------

    def _picture(self, options: SegmentOptions, posterior_noise: Callable[..., Tensor] | None) -> EncodedImage:
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
    ) -> EncodedImage:
        pixels = to_tensor(image, size)
        noise = None if posterior_noise is None else posterior_noise((1, 4, size[0] // 8, size[1] // 8))
        try:
            return EncodedImage(pixels, self.host.encode_image(pixels, noise))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self.host.clear_memory()
            raise OutOfMemoryError(
                f"Encoding the image at {size[1]} x {size[0]} does not fit into memory. Give a lower "
                "resolution, or free memory on the device."
            ) from error


def _notes(what: str, texts: Sequence[str], cut: Sequence[bool]) -> tuple[str, ...]:
    return tuple(
        f'{what} {number} ("{text[:30]}...") is longer than the text encoder reads; its end was ignored.'
        for number, (text, is_cut) in enumerate(zip(texts, cut, strict=True), start=1)
        if is_cut
    )


def _segment_options(options: SegmentOptions | None) -> SegmentOptions:
    options = SegmentOptions() if options is None else options
    require_options(options, SegmentOptions)
    return options
