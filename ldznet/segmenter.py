"""The public entry: an image and prompts in, probabilities and masks out.

    segmenter = Segmenter.load("sd15.safetensors")
    segmenter.set_image("photo.jpg")                  # the VAE runs once
    result = segmenter.segment(["bucket", "a dog"])   # the UNet runs once per prompt
    result.mask(MaskOptions(threshold=0.4))           # another threshold runs no network

Probabilities are kept at the network's size; result.py makes masks, objects and numbers of them.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from ldznet import __version__
from ldznet.cpu_memory import kept_memory
from ldznet.errors import ImageError, OptionError, OutOfMemoryError
from ldznet.hosts.host import Host
from ldznet.images.reading import on_background, read_image
from ldznet.images.saving import image_digest
from ldznet.images.sources import ImageSource
from ldznet.images.tensors import network_size, to_tensor
from ldznet.inference.batching import BatchRunner
from ldznet.inference.passes import Passes, Progress, shift_progress
from ldznet.inference.prompts import check_prompts
from ldznet.inference.refinement import Refiner
from ldznet.inference.tiles import Box, RefinedPatch
from ldznet.memory_errors import is_out_of_memory
from ldznet.methods.method import EncodedImage, Method
from ldznet.methods.registry import AUTO
from ldznet.options import SegmentOptions, require_options
from ldznet.result import Segmentation

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_MOST_ENCODED = 4  # resolutions of one image whose pixels and latent are kept


class Segmenter:
    """Finds prompts in one image at a time; keeps its latent, and the contexts of the last prompts.

    Raises:
        HeadError, HostError: the method cannot work with this model.
    """

    def __init__(self, host: Host, method: Method) -> None:
        # Before anything is encoded: a method that does not fit must not cost a pass of the VAE.
        method.check(host.info)
        self.host = host
        self.method = method
        self._source: Image.Image | None = None  # upright, RGB or RGBA
        self._image: Image.Image | None = None  # the source on a background, RGB
        self._background = ""
        self._digest = ""  # of the image; empty until it is needed
        self._encoded: dict[Any, EncodedImage] = {}
        self._runner = BatchRunner(host, method)

    @classmethod
    def load(
        cls,
        checkpoint: str | os.PathLike[str],
        head: str | os.PathLike[str] | None = None,
        device: str | torch.device | None = None,
        *,
        method: str = AUTO,
        dtype: torch.dtype | None = None,
    ) -> Segmenter:
        """Load a Stable Diffusion model, a .safetensors or .ckpt file or a folder in diffusers' layout.

        Without `head`, `method` decides: "auto" takes a head from the repository's models/ that fits the model,
        else attention, which needs none. The default of `device` is the GPU where there is one, that of `dtype`
        float16 on a GPU and float32 on a CPU.

        Raises:
            OptionError: the device cannot be used, or no method has this name. HostError, CheckpointError,
            HeadError: a file cannot be used.
        """
        # Imported here: a webui lends its model and never needs this.
        from ldznet.hosts.diffusers.host import default_dtype
        from ldznet.methods.load import find_device, load_model

        for name, path in (("checkpoint", checkpoint), ("head", head)):
            if path is not None and not isinstance(path, str | os.PathLike):
                raise OptionError(f"{name} is {path!r}, but it must be a path: give the path of a file.")
        torch_device = find_device(device)
        dtype = dtype or default_dtype(torch_device)
        host, choice = load_model(checkpoint, head, method=method, device=torch_device, dtype=dtype)
        log.info("%s: %s.", choice.method.name, choice.reason)
        return cls(host, choice.method)

    def set_image(self, image: ImageSource, options: SegmentOptions | None = None) -> None:
        """Read an image of any kind (see `load_image`) and encode it, once for all prompts.

        Raises:
            ImageError: it cannot be read; the previous image is dropped all the same.
        """
        options = _segment_options(options)
        self._source, self._image, self._encoded = None, None, {}
        self._source = read_image(image)
        self._put_on(options.background)
        # The released code draws the posterior anew for each run, so only the fixed latent can be encoded early.
        if options.randomness == "fixed":
            with kept_memory(self.host.device.type):
                self._encode_image(options, None)

    def _put_on(self, background: str) -> None:
        """Put the source on a background; one that shows through drops what was encoded on another."""
        assert self._source is not None
        if self._image is None or (background != self._background and self._source.mode != "RGB"):
            # The background is checked by SegmentOptions: six hexadecimal digits after #.
            red, green, blue = (int(background[start : start + 2], 16) for start in (1, 3, 5))
            self._image, self._encoded = on_background(self._source, (red, green, blue)), {}
            self._digest = ""
        self._background = background

    @property
    def image(self) -> Image.Image:
        """Return the image as RGB, upright, on the background of the last call.

        Raises:
            ImageError: no image was set.
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
            PromptError: a prompt cannot be used. ImageError: no image was set. OptionError: a value has a wrong
            type. OutOfMemoryError: not even one prompt fits into memory.
        """
        options = _segment_options(options)
        positive, negative = check_prompts(prompts, negative_prompts)
        if self._image is not None:
            self._put_on(options.background)
        image = self.image
        options = self._with_defaults(options)
        # Negative prompts are found like the others; only the masks tell them apart.
        texts = [*positive, *negative]
        self._digest = self._digest or image_digest(image)  # once for all prompts
        passes = Passes(options, len(texts))
        with kept_memory(self.host.device.type):
            encoded = self._encode_image(options, passes.posterior_noise)
            # Draws now, so that the order of random values does not depend on the batch.
            passes.prepare(encoded.latent)
            maps, cut, patches = self._find(texts, encoded, passes, progress)
        record = self._record(positive, negative, encoded, options)
        first = len(positive)  # index of the first negative prompt
        notes = (*_notes("Prompt", positive, cut[:first]), *_notes("Negative prompt", negative, cut[first:]))
        if words := self.host.info.known_words:
            notes += tuple(filter(None, [words.note(self.host.info.name, texts)]))
        for note in notes:
            log.warning(note)
        size, threshold = (image.height, image.width), self.method.defaults.threshold
        return Segmentation(positive, negative, size, maps, record, notes, patches, threshold)

    def _with_defaults(self, options: SegmentOptions) -> SegmentOptions:
        """Fill options that are left open with what suits the method."""
        defaults = self.method.defaults
        return dataclasses.replace(
            options,
            resolution=options.resolution or defaults.resolution,
            timesteps=options.timesteps or defaults.timesteps,
            template=options.template or defaults.template,
        )

    def _find(
        self, texts: Sequence[str], encoded: EncodedImage, passes: Passes, progress: Progress | None
    ) -> tuple[Tensor, list[bool], tuple[tuple[RefinedPatch, ...], ...]]:
        """Return maps (P, h, w), whether each text was cut, and its refined patches."""
        options = passes.options
        batch = options.batch or self._runner.size(encoded)
        if not options.refine:
            return *self._runner.run(texts, encoded, passes, batch, progress), ()
        look_at = functools.partial(self._look_at, options, batch)
        size = (self.image.height, self.image.width)
        # Reports only the first look; the refiner reports the whole once it knows how much there is to look at.
        refiner = Refiner(look_at, size, options.resolution, passes.count)
        report = shift_progress(progress, 0, refiner.expected(len(texts)))
        maps, cut = self._runner.run(texts, encoded, passes, batch, report)
        maps, patches = refiner.run(texts, maps, progress)
        return maps, cut, patches

    def _look_at(
        self, options: SegmentOptions, batch: int, box: Box, texts: Sequence[str], progress: Progress | None
    ) -> Tensor:
        """Run the network on a part of the image, at its full size -> maps (P, k, l)."""
        passes, crop = Passes(options, len(texts)), self.image.crop(box)
        encoded = self._encode(crop, self._network_size(crop, options), passes.posterior_noise)
        passes.prepare(encoded.latent)
        return self._runner.run(texts, encoded, passes, batch, progress)[0]

    def _record(
        self,
        positive: tuple[str, ...],
        negative: tuple[str, ...],
        encoded: EncodedImage,
        options: SegmentOptions,
    ) -> dict[str, Any]:
        """Return everything that is needed to repeat the result."""
        return {
            "ldznet": __version__,
            "image_sha256": self._digest,
            "size": [self.image.height, self.image.width],
            "network_size": list(encoded.pixels.shape[-2:]),
            "prompts": list(positive),
            "negative_prompts": list(negative),
            "model": self.host.info.name,
            "model_fingerprint": self.host.info.fingerprint,
            "prediction": self.host.info.prediction,
            "model_details": dict(self.host.info.details),
            "dtype": str(self.host.dtype).removeprefix("torch."),
            "device": self.host.device.type,
            **self.method.record,
            **dataclasses.asdict(options),
        }

    def _encode_image(
        self, options: SegmentOptions, posterior_noise: Callable[..., Tensor] | None
    ) -> EncodedImage:
        """Return the encoded image, which is kept for the last few resolutions."""
        size = self._network_size(self.image, options)
        # A sampled posterior depends on the seed, the mean does not.
        key = size if posterior_noise is None else (size, options.seeds[0])
        if key not in self._encoded:
            # The oldest first: dicts keep the order of insertion.
            while len(self._encoded) >= _MOST_ENCODED:
                del self._encoded[next(iter(self._encoded))]
            self._encoded[key] = self._encode(self.image, size, posterior_noise)
        return self._encoded[key]

    def _network_size(self, image: Image.Image, options: SegmentOptions) -> tuple[int, int]:
        resolution = options.resolution or self.method.defaults.resolution
        # A latent has an eighth of the sides, and the UNet halves it to multiples of its own.
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
            # Memory that is only cached would make the next, smaller attempt fail as well.
            self.host.clear_memory()
            raise OutOfMemoryError(
                f"Encoding the image at {size[1]} x {size[0]} does not fit into memory. Give a lower "
                "resolution, or free memory on the device."
            ) from error


def _notes(what: str, texts: Sequence[str], cut: Sequence[bool]) -> tuple[str, ...]:
    """Return a sentence for each text that was cut."""
    return tuple(
        f'{what} {number} ("{text[:30]}...") is longer than the text encoder reads; its end was ignored.'
        for number, (text, is_cut) in enumerate(zip(texts, cut, strict=True), start=1)
        if is_cut
    )


def _segment_options(options: SegmentOptions | None) -> SegmentOptions:
    options = SegmentOptions() if options is None else options
    require_options(options, SegmentOptions)
    return options
