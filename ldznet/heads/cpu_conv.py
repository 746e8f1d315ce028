"""Convolutions that are faster on a CPU where few pixels meet many weights.

For one prompt the deep levels of a Stable Diffusion UNet have 6 x 6 and 12 x 12 pixels and 1280 channels. There
the convolution of PyTorch waits for its weights more than it computes; as one product of matrices the same sum
takes 0.3 to 0.8 of the time (two cores of an AMD EPYC, float32). With more pixels, as with several prompts at
once, PyTorch's own convolution is as fast or faster, and runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_PIXELS = 256  # of the result, over the whole batch
_CHANNELS = 1024  # of the input


class Convolution(nn.Conv2d):
    """An nn.Conv2d that computes a product of matrices without gradients, where that is faster."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if input.device.type != "cpu" or torch.is_grad_enabled() or self.in_channels < _CHANNELS:
            return super()._conv_forward(input, weight, bias)
        batch, _, *sides = input.shape
        height, width = (-(-side // step) for side, step in zip(sides, self.stride, strict=True))
        if batch * height * width > _PIXELS:
            return super()._conv_forward(input, weight, bias)
        patches = F.unfold(input, 3, padding=1, stride=self.stride)  # (B, 9 C, h w)
        rows = patches.transpose(1, 2).reshape(batch * height * width, -1)
        # The same sum in another order, so that the result differs from the plain one by rounding only.
        pixels = F.linear(rows, weight.flatten(1), bias)
        return pixels.view(batch, height, width, -1).permute(0, 3, 1, 2).contiguous()


def quicken(model: nn.Module) -> None:
    """Let all 3 x 3 convolutions of a model run in the faster way. Weights and names stay."""
    for module in model.modules():
        if type(module) is nn.Conv2d and _known(module):
            module.__class__ = Convolution


@contextlib.contextmanager
def as_pytorch_does(*models: nn.Module) -> Iterator[None]:
    """Run the convolutions of the models in PyTorch's own way inside the block, to compare with."""
    changed: list[nn.Module] = [
        module for model in models for module in model.modules() if type(module) is Convolution
    ]
    for module in changed:
        module.__class__ = nn.Conv2d
    try:
        yield
    finally:
        for module in changed:
            module.__class__ = Convolution


def _known(layer: nn.Conv2d) -> bool:
    plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    return plain and layer.kernel_size == (3, 3) and layer.padding == (1, 1)
