"""Convolutions that are faster on a CPU than PyTorch's own, by the number of pixels and weights.

Few pixels, many weights: for one prompt the deep levels of a Stable Diffusion UNet have 6 x 6 and 12 x 12 pixels
and 1280 channels. There the convolution of PyTorch waits for its weights more than it computes; as one product of
matrices the same sum takes 0.3 to 0.8 of the time (two cores of an AMD EPYC, float32).

Many pixels: in float32 Winograd's algorithm (winograd.py) multiplies a quarter as often, and takes 0.5 to 0.8 of
the time. In half precision it would lose too much. In between, PyTorch's own convolution runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldznet.heads.winograd import convolve

# A product of matrices runs up to so many pixels of the result, over the whole batch, and from so many channels.
_FEW_PIXELS, _MANY_CHANNELS = 256, 1024
# Winograd's algorithm runs from so many pixels and channels on: fewer do not repay the transform of the weights.
_MANY_PIXELS, _LEAST_CHANNELS = 1024, 128


class Convolution(nn.Conv2d):
    """An nn.Conv2d that computes in the fastest way on a CPU when no gradients are needed."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if input.device.type != "cpu" or torch.is_grad_enabled() or self.in_channels < _LEAST_CHANNELS:
            return super()._conv_forward(input, weight, bias)
        batch, _, *sides = input.shape
        height, width = (-(-side // step) for side, step in zip(sides, self.stride, strict=True))
        pixels = batch * height * width
        if pixels <= _FEW_PIXELS and self.in_channels >= _MANY_CHANNELS:
            return self._multiply(input, weight, bias, height, width)
        is_wide = pixels >= _MANY_PIXELS and self.out_channels >= _LEAST_CHANNELS
        # torch.compile has its own convolutions, and would only unroll ours.
        if is_wide and self.stride == (1, 1) and input.dtype == torch.float32 and not _is_compiling():
            return convolve(input, weight, bias)
        return super()._conv_forward(input, weight, bias)

    def _multiply(self, input: Tensor, weight: Tensor, bias: Tensor | None, height: int, width: int) -> Tensor:
        """Compute a convolution of a few pixels as one product of matrices."""
        batch = len(input)
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


def _is_compiling() -> bool:
    compiler = getattr(torch, "compiler", None)  # PyTorch 2.1 has it
    return compiler is not None and bool(compiler.is_compiling())


def _known(layer: nn.Conv2d) -> bool:
    plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    return plain and layer.kernel_size == (3, 3) and layer.padding == (1, 1)
