"""3 x 3 convolutions with a quarter of the multiplications, for a CPU in float32.

Winograd's algorithm F(4 x 4, 3 x 3): 4 x 4 pixels of the result are computed from 6 x 6 of the input. Both sides
of these tiles and of the kernel are multiplied by small fixed matrices. In between stand 36 products of matrices
over the channels; a plain convolution has 9, with 16 times as many rows each.

    pixels   (B, H, W, C)     the input with the channels last, padded with zeros
    tiles    (36, T, C)       T tiles of 6 x 6 pixels, transformed
    kernels  (36, C_out, C)   the weights, transformed
    sums     (36, T, C_out)   their products, which become 4 x 4 pixels of the result

The matrices follow from the points at which polynomials are evaluated: 0, +-5/8, +-3/2 and infinity, which binary
numbers hold exactly. Of all such points they lose the least: the error is a fifth of that with the usual 0, +-1,
+-2, about 1e-5 at most where input and result have a deviation of 1.

Source: Lavin and Gray, https://arxiv.org/abs/1509.09308; choice of points: Barabasz et al.,
https://arxiv.org/abs/1803.10986
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

_SIDE = 4  # of a tile of the result
_TILE = _SIDE + 2  # of a tile of the input
_A, _B = 5 / 8, 3 / 2  # the points, beside 0 and infinity
_A2, _B2 = _A * _A, _B * _B

_BLOCK = 2**21  # values of the tiles that are worked on at once: few enough to stay in a CPU's cache
_KERNELS = 2**24  # values of transformed weights that are in memory at once


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the convolution (B, C_out, H, W) of (B, C, H, W), padded by one pixel, with weights (C_out, C, 3, 3).

    All are float32. The result has the memory layout channels-last.
    """
    batch, channels, height, width = x.shape
    rows, columns = -(-height // _SIDE), -(-width // _SIDE)  # of tiles
    pixels = x.new_zeros(batch, _SIDE * rows + 2, _SIDE * columns + 2, channels)
    pixels[:, 1 : height + 1, 1 : width + 1] = x.permute(0, 2, 3, 1)
    result = x.new_empty(batch, _SIDE * rows, _SIDE * columns, len(weight))
    outputs = max(1, _KERNELS // (_TILE**2 * channels))  # channels of the result whose kernels fit
    if outputs < len(weight):
        # Where weights are many, pixels are few: their tiles are transformed once, the kernels part by part.
        tiles = _tiles(pixels, rows, columns)
        for first in range(0, len(weight), outputs):
            part = slice(first, first + outputs)
            _fill(result[..., part], tiles, _kernels(weight[part]), rows, columns)
    else:
        kernels = _kernels(weight)
        for images, some in _blocks(batch, rows, _TILE**2 * columns * max(channels, len(weight))):
            count = some.stop - some.start
            tiles = _tiles(pixels[images, _SIDE * some.start : _SIDE * some.stop + 2], count, columns)
            _fill(result[images, _SIDE * some.start : _SIDE * some.stop], tiles, kernels, count, columns)
    if bias is not None:
        result += bias
    return result[:, :height, :width].permute(0, 3, 1, 2)


def _blocks(batch: int, rows: int, per_row: int) -> Iterator[tuple[slice, slice]]:
    """Yield images and rows of tiles that are worked on at once: several images, or some rows of one."""
    images = max(1, _BLOCK // (rows * per_row))
    some = min(rows, max(1, _BLOCK // per_row))
    for image in range(0, batch, images):
        for row in range(0, rows, some):
            yield slice(image, min(image + images, batch)), slice(row, min(row + some, rows))


def _kernels(weight: Tensor) -> Tensor:
    """Transform weights (O, C, 3, 3) -> (36, C, O)."""
    at_a, at_b = 2 * _A2 * (_A2 - _B2), 2 * _B2 * (_B2 - _A2)
    rows = [[1 / (_A2 * _B2), 0, 0]]
    rows += [[1 / at_a, sign * _A / at_a, _A2 / at_a] for sign in (1, -1)]
    rows += [[1 / at_b, sign * _B / at_b, _B2 / at_b] for sign in (1, -1)]
    one = torch.tensor([*rows, [0, 0, 1]], dtype=torch.float64)
    both = torch.kron(one, one).to(weight.dtype)  # (36, 9)
    return (both @ weight.reshape(-1, 9).T).view(_TILE**2, *weight.shape[:2]).transpose(1, 2)


def _tiles(pixels: Tensor, rows: int, columns: int) -> Tensor:
    """Transform all tiles of (b, 4 rows + 2, 4 columns + 2, C) -> (36, tiles, C)."""
    batch, _, width, channels = pixels.shape
    down = pixels.new_empty(_TILE, batch, rows, width, channels)
    last = _SIDE * (rows - 1) + 1
    _transform([pixels[:, n : n + last : _SIDE] for n in range(_TILE)], list(down))
    both = pixels.new_empty(_TILE, _TILE, batch, rows, columns, channels)
    last = _SIDE * (columns - 1) + 1
    _transform([down[:, :, :, n : n + last : _SIDE] for n in range(_TILE)], [both[:, n] for n in range(_TILE)])
    return both.view(_TILE**2, -1, channels)


def _fill(result: Tensor, tiles: Tensor, kernels: Tensor, rows: int, columns: int) -> None:
    """Fill (b, 4 rows, 4 columns, O) with the result of tiles (36, tiles, C) and kernels (36, C, O)."""
    sums = torch.bmm(tiles, kernels).view(_TILE, _TILE, len(result), rows, columns, -1)
    down = sums.new_empty(_SIDE, *sums.shape[1:])
    _restore(list(sums), list(down))
    # (b, rows, 4, columns, 4, O) -> the 4 pixels beside each other, each (4, b, rows, columns, O)
    stride = result.stride()
    target = result.as_strided(
        (_SIDE, _SIDE, len(result), rows, columns, result.shape[-1]),
        (stride[2], stride[1], stride[0], _SIDE * stride[1], _SIDE * stride[2], stride[3]),
    )
    _restore([down[:, n] for n in range(_TILE)], list(target))


def _transform(x: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Transform the six values of tiles along one side."""
    even, odd = torch.sub(x[4], x[2], alpha=_B2), torch.sub(x[3], x[1], alpha=_B2)
    torch.add(even, odd, alpha=_A, out=out[1])
    torch.sub(even, odd, alpha=_A, out=out[2])
    torch.sub(x[4], x[2], alpha=_A2, out=even)
    torch.sub(x[3], x[1], alpha=_A2, out=odd)
    torch.add(even, odd, alpha=_B, out=out[3])
    torch.sub(even, odd, alpha=_B, out=out[4])
    first = torch.sub(x[2], x[0], alpha=_A2)
    torch.sub(even, first, alpha=_B2, out=out[0])
    last = torch.sub(x[5], x[3], alpha=_A2, out=first)
    torch.sub(last, odd, alpha=_B2, out=out[5])


def _restore(x: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Return from the six values of a transform to the four pixels along one side of a tile."""
    at_a, at_b = torch.add(x[1], x[2]), torch.add(x[3], x[4])
    torch.add(x[0], at_a, out=out[0])
    out[0].add_(at_b)
    torch.mul(at_a, _A2, out=out[2])
    out[2].add_(at_b, alpha=_B2)
    torch.sub(x[1], x[2], out=at_a)
    torch.sub(x[3], x[4], out=at_b)
    torch.mul(at_a, _A, out=out[1])
    out[1].add_(at_b, alpha=_B)
    torch.add(x[5], at_a, alpha=_A * _A2, out=out[3])
    out[3].add_(at_b, alpha=_B * _B2)
