"""Make masks in the plain way of the released code, for comparison.

For every prompt the image is encoded again, the UNet runs to its end, attention is not fused, convolutions are
PyTorch's own, and everything is float32.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from ldznet.hosts.diffusers.host import DiffusersHost
    from ldznet.methods.learned_head import LearnedHead
    from ldznet.research.bench.our_way import OurWay


class PlainWay:
    """Makes masks like the released code; `shared`: with our models, because they are float32 already."""

    def __init__(self, host: DiffusersHost, method: LearnedHead, our_way: OurWay, *, shared: bool) -> None:
        self.host, self.method = (host, method) if shared else _plain_copies(host, method)
        self.ours = our_way

    def whole(self, count: int) -> None:
        """Go from the image to the mask once for each of `count` prompts."""
        from torch.nn.attention import SDPBackend, sdpa_kernel

        from ldznet.heads.cpu_conv import as_pytorch_does

        # MATH computes attention in separate steps, as PyTorch did before it had fused kernels.
        with sdpa_kernel(SDPBackend.MATH), as_pytorch_does(self.host.unet, self.host.vae, self.method.head):
            self._all(count)

    def _all(self, count: int) -> None:
        """Do the work of `whole`, inside the settings of the plain way."""
        import torch

        from ldznet.hosts.capture import capture
        from ldznet.images.tensors import to_image_size
        from ldznet.masks.pipeline import make_mask
        from ldznet.options import MaskOptions

        host, head, size = self.host, self.method.head, (self.ours.image.height, self.ours.image.width)
        modules = host.feature_modules()
        needed = {path: modules[path] for path in head.config.pool_grids}
        for text in self.ours.texts(count):
            # Inside the loop on purpose: the released code encodes the image for every prompt.
            latent = host.encode_image(self.ours.pixels)
            context = host.encode_prompt([text])
            timesteps = torch.tensor([400])
            noisy = host.add_noise(latent, self.ours.noise, timesteps)
            with capture(needed, early_exit=False) as features:
                host.predict_noise(noisy, timesteps, context)
            with torch.no_grad():
                probability = head(latent, context.tokens, features)[0, 0].float().sigmoid()
            make_mask(to_image_size(probability.cpu(), size), MaskOptions())


def _plain_copies(host: DiffusersHost, method: LearnedHead) -> tuple[DiffusersHost, LearnedHead]:
    """Return copies of the models in float32, also at rest, in the usual memory layout, not compiled."""
    import torch

    from ldznet.heads.head_file import empty_head
    from ldznet.heads.narrow_storage import wide_state
    from ldznet.hosts.diffusers.host import DiffusersHost
    from ldznet.hosts.diffusers.text import TextEncoder
    from ldznet.methods.learned_head import LearnedHead

    def plain(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        usual = torch.contiguous_format
        return {name: tensor.detach().float().clone(memory_format=usual) for name, tensor in state.items()}

    text = [
        TextEncoder(copy.deepcopy(encoder.model), encoder.tokenize, encoder.penultimate) for encoder in host.text
    ]
    unet, vae = copy.deepcopy(host.unet), copy.deepcopy(host.vae)
    for module in (unet, vae):
        module.load_state_dict(plain(module.state_dict()), assign=True)
    head = empty_head(method.head.config)  # a new one: a copy would have the hooks of narrow storage
    head.load_state_dict(plain(wide_state(method.head)), assign=True)
    copied = DiffusersHost(host.info, unet, vae, text, host.schedule, device=host.device, dtype=torch.float32)
    return copied, LearnedHead(head)
