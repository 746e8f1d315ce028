"""Convolutions of few pixels: the same numbers as PyTorch's, and only where they are sooner."""

import pytest
import torch
from torch import nn

from ldznet.heads import cpu_conv
from ldznet.heads.cpu_conv import Convolution, as_pytorch_does, quicken


@pytest.fixture
def products(monkeypatch):
    """How often a product of matrices was what ran."""
    seen, unfold = [], cpu_conv.F.unfold
    monkeypatch.setattr(cpu_conv.F, "unfold", lambda *args, **more: seen.append(1) or unfold(*args, **more))
    return seen


def both(layer, x):
    plain = nn.Conv2d(layer.in_channels, layer.out_channels, 3, stride=layer.stride, padding=1)
    plain.load_state_dict(layer.state_dict())
    with torch.no_grad():
        return layer(x), plain(x)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(1, 6, 6), (1, 1, 1), (3, 5, 7), (2, 16, 8), (1, 12, 13)])
def test_the_same_numbers(products, stride, shape):
    torch.manual_seed(0)
    batch, *sides = shape
    layer = Convolution(1280, 24, 3, stride=stride, padding=1)

    ours, plain = both(layer, torch.randn(batch, 1280, *sides))

    assert products
    assert ours.shape == plain.shape
    assert ours.is_contiguous()
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


def test_pytorchs_own_with_many_pixels_few_channels_and_for_training(products):
    for channels, side in ((1280, 17), (640, 6)):
        ours, plain = both(Convolution(channels, 8, 3, padding=1), torch.randn(1, channels, side, side))
        assert torch.equal(ours, plain)
    layer = Convolution(1280, 8, 3, padding=1)
    layer(torch.randn(1, 1280, 4, 4)).sum().backward()

    assert layer.weight.grad is not None
    assert not products


def test_a_model_is_quickened_and_runs_as_before_inside_the_block(products):
    kept = nn.Conv2d(1280, 8, 1), nn.Conv2d(1280, 8, 3, padding=2), nn.Conv2d(1280, 8, 3, padding=1, groups=2)
    model = nn.ModuleList([nn.Conv2d(1280, 8, 3, padding=1), *kept])
    names = list(model.state_dict())

    quicken(model)

    assert [type(layer) for layer in model] == [Convolution, nn.Conv2d, nn.Conv2d, nn.Conv2d]
    assert list(model.state_dict()) == names
    with torch.no_grad():
        with as_pytorch_does(model):
            model[0](torch.randn(1, 1280, 2, 2))
            assert not products
        model[0](torch.randn(1, 1280, 2, 2))
    assert products
