"""The steps of ldznet, each timed alone and all together."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ldznet.research.bench.timing import Timing, Work, time_in_rounds

if TYPE_CHECKING:
    import torch

    from ldznet.hosts.diffusers.host import DiffusersHost
    from ldznet.methods.learned_head import LearnedHead


class OurWay:
    """Times the steps of ldznet, and all of them together, on one image."""

    def __init__(self, host: DiffusersHost, method: LearnedHead, side: int, repeat: int) -> None:
        import numpy as np
        import torch
        from PIL import Image

        from ldznet.images.tensors import to_tensor

        self.host, self.method, self.side, self.repeat = host, method, side, repeat
        # Noise instead of a photo: the time does not depend on what an image shows.
        pixels = np.random.default_rng(0).integers(0, 256, (2 * side, 2 * side, 3), np.uint8)
        self.image = Image.fromarray(pixels)
        self.pixels = to_tensor(self.image, (side, side))
        self.noise = torch.randn(1, 4, side // 8, side // 8, generator=torch.Generator().manual_seed(0))

    def texts(self, count: int) -> list[str]:
        """Return so many different prompts."""
        return [f"a photo of thing number {number}" for number in range(count)]

    def steps(self, most: int) -> list[Timing]:
        """Time each step alone, for one prompt and for the largest number of prompts."""
        import torch

        from ldznet.cpu_memory import kept_memory
        from ldznet.hosts.capture import capture
        from ldznet.images.tensors import to_image_size
        from ldznet.masks.pipeline import make_mask
        from ldznet.options import MaskOptions

        host, head = self.host, self.method.head
        latent = host.encode_image(self.pixels)
        works: list[Work] = []
        works.append(("image encoding", 1, lambda: host.encode_image(self.pixels)))
        # dict.fromkeys drops the second number if both are 1.
        for count in dict.fromkeys((1, most)):
            context = host.encode_prompt(self.texts(count))
            timesteps = torch.full((count,), 400)
            noisy = host.add_noise(latent, self.noise, timesteps)
            modules = host.feature_modules()
            needed = {path: modules[path] for path in self.method.head.config.pool_grids}
            features_of: dict[str, torch.Tensor] = {}

            # Values are bound as defaults, because the loop continues before the work runs.
            def full(noisy: Any = noisy, timesteps: Any = timesteps, context: Any = context) -> None:
                host.predict_noise(noisy, timesteps, context)

            def early(
                noisy: Any = noisy,
                timesteps: Any = timesteps,
                context: Any = context,
                needed: Any = needed,
                features_of: Any = features_of,
            ) -> None:
                with capture(needed) as features:
                    host.predict_noise(noisy, timesteps, context)
                features_of.update(features)

            def decode(context: Any = context, features_of: Any = features_of) -> None:
                with torch.no_grad():
                    head(latent, context.tokens, features_of)

            works += [
                ("prompt encoding", count, partial(host.encode_prompt, self.texts(count))),
                ("UNet, full", count, full),
                ("UNet, early exit", count, early),
                ("head", count, decode),
            ]
        size = (self.image.height, self.image.width)
        probability = torch.rand(self.side, self.side, generator=torch.Generator().manual_seed(0))
        options = MaskOptions(smallest_area=50, grow=8, feather=4)
        works.append(("mask", 1, lambda: make_mask(to_image_size(probability, size), options)))
        # As the segmenter does around all of them.
        with kept_memory(self.host.device.type):
            return time_in_rounds(self.host.device, self.repeat, works)

    def whole(self, count: int) -> None:
        """Make a mask from one image and `count` prompts, without any cache from before."""
        from ldznet.options import SegmentOptions
        from ldznet.segmenter import Segmenter

        options = SegmentOptions(resolution=self.side)
        # A new segmenter: an old one would have the latent of the image.
        segmenter = Segmenter(self.host, self.method)
        segmenter.set_image(self.image, options)
        segmenter.segment(self.texts(count), options).mask()
