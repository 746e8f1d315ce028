"""Winograd's convolutions: the same numbers with a quarter of the multiplications, and only where they pay."""

import pytest
import torch
from conftest import CASES, features_of
from torch import nn
from torch.nn import functional as F

from ldznet.heads import cpu_conv, winograd
from ldznet.heads.cpu_conv import Convolution, as_pytorch_does
from ldznet.heads.winograd import convolve


@pytest.fixture
def calls(monkeypatch):
    """The shapes of the inputs that Winograd's algorithm convolved."""
    shapes = []
    monkeypatch.setattr(cpu_conv, "convolve", lambda x, *rest: shapes.append(tuple(x.shape)) or convolve(x, *rest))
    return shapes


@pytest.fixture
def everywhere(monkeypatch):
    """Let it run wherever it can, also where it does not pay."""
    monkeypatch.setattr(cpu_conv, "_MANY_PIXELS", 1)
    monkeypatch.setattr(cpu_conv, "_LEAST_CHANNELS", 1)
    monkeypatch.setattr(cpu_conv, "_MANY_CHANNELS", 10**6)


@pytest.mark.parametrize("block", [2**9, 2**21])  # a row of one image at once, and all images
@pytest.mark.parametrize("kernels", [2**11, 2**24])  # some channels of the result at once, and all
@pytest.mark.parametrize("shape", [(1, 8, 12), (3, 4, 8), (2, 13, 18), (1, 1, 3)])
def test_the_same_numbers(monkeypatch, shape, kernels, block):
    monkeypatch.setattr(winograd, "_BLOCK", block)
    monkeypatch.setattr(winograd, "_KERNELS", kernels)
    torch.manual_seed(0)
    batch, *sides = shape
    x, bias = torch.randn(batch, 16, *sides), torch.randn(24)
    weight = torch.randn(24, 16, 3, 3) / 12  # so that the result has a deviation of 1
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)

    result = convolve(x, weight, bias)

    assert result.shape == exact.shape
    assert (result - exact).abs().max() < 2e-5
    assert torch.equal(convolve(x.contiguous(memory_format=torch.channels_last), weight, bias), result)
    torch.testing.assert_close(convolve(x, weight, None), result - bias[:, None, None], rtol=0, atol=1e-6)


def test_a_known_convolution():
    x = torch.zeros(1, 1, 4, 5)
    x[0, 0, 1, 2] = 1.0
    weight = torch.arange(1.0, 10.0).view(1, 1, 3, 3)

    result = convolve(x, weight, torch.tensor([0.5]))

    # The kernel turned round, as in any convolution of neural networks.
    expected = torch.tensor([[0, 9, 8, 7, 0], [0, 6, 5, 4, 0], [0, 3, 2, 1, 0], [0, 0, 0, 0, 0]]) + 0.5
    torch.testing.assert_close(result[0, 0], expected, rtol=0, atol=1e-5)


def test_the_result_has_its_channels_last():
    result = convolve(torch.randn(2, 8, 8, 12), torch.randn(16, 8, 3, 3), None)

    assert result.is_contiguous(memory_format=torch.channels_last)


def test_it_runs_with_many_pixels_and_channels_in_float32_only(calls):
    layer, small = Convolution(128, 128, 3, padding=1), torch.randn(1, 128, 16, 32)
    wide = torch.randn(2, 128, 16, 32)
    with torch.no_grad():
        layer(small)
        Convolution(64, 128, 3, padding=1)(wide[:, :64])
        Convolution(128, 64, 3, padding=1)(wide)
        Convolution(128, 128, 3, padding=1, stride=2)(torch.cat([wide, wide, wide, wide]))
        layer.bfloat16()(wide.bfloat16())
        with as_pytorch_does(layer.float()):
            layer(wide)
    layer(wide).sum().backward()
    assert calls == []

    with torch.no_grad():
        result = layer(wide)

    assert calls == [(2, 128, 16, 32)]
    torch.testing.assert_close(result, nn.Conv2d._conv_forward(layer, wide, layer.weight, layer.bias))


@pytest.mark.parametrize("name", CASES)
def test_features_and_logits_of_the_released_network_stay_within_their_tolerance(
    small_unet, small_heads, recorded, calls, everywhere, name
):
    case = recorded[name]
    features, hooks = {}, []
    for path, module in small_unet.transformers().items():
        hooks.append(module.register_forward_hook(lambda _m, _a, out, path=path: features.update({path: out})))
    with torch.no_grad():
        small_unet(case["z_noisy"], case["t"], case["c"])
        for hook in hooks:
            hook.remove()
        in_unet = len(calls)
        logits = small_heads["ema"](case["z"], case["c"], features_of(case))
        calls_of_both = len(calls)
        calls.clear()
        with as_pytorch_does(small_heads["ema"]):
            plain = small_heads["ema"](case["z"], case["c"], features_of(case))

    assert (in_unet, calls_of_both) == (47, 94)
    assert calls == []
    for path, expected in features_of(case).items():
        assert (features[path] - expected).abs().max() < 1e-5, path
    assert 0 < (logits - plain).abs().max() < 2e-4
