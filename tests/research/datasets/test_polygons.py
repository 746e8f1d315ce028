"""Polygons to masks: what is degenerate, and where the two published codes differ."""

import math

import numpy as np
import pytest

from ldznet.errors import ShapeError
from ldznet.research.datasets.polygons import PolygonFault, rasterize_pillow, rasterize_skimage

SQUARE = [[1, 1], [3, 1], [3, 2], [1, 2]]


def grid(*rows):
    return np.array([[letter == "#" for letter in row] for row in rows])


@pytest.mark.parametrize(
    ("polygon", "fault", "pillow", "skimage"),  # the last two: is it drawn?
    [
        ([], "has 0 of at least 3 points", False, False),
        ([[2, 2]], "has 1 of at least 3 points", False, True),
        ([[2, 2], [5, 2]], "has 2 of at least 3 points", True, True),
        ([[2, 2], [5, 2], [8, 2]], "encloses no area", True, True),
        ([[2, 2], [2, 2], [2, 2]], "encloses no area", True, True),
        ([[-9, -9], [-5, -9], [-5, -5]], "covers no pixel", False, False),
        ([[2, 2], [5, math.nan], [8, 2]], "has coordinates that are not finite", False, False),
        ([[2, 2], [5, math.inf], [8, 2]], "has coordinates that are not finite", False, False),
        ([1, 1, 3, 1, 3, 2], "is not a list of points [x, y]", False, False),
        ([[1, 1, 0], [3, 1, 0], [3, 2, 0]], "is not a list of points [x, y]", False, False),
        (None, "is not a list of points [x, y]", False, False),
    ],
)
def test_degenerate_polygons_are_named(polygon, fault, pillow, skimage):
    polygons = [SQUARE, polygon]

    for rasterize, drawn in ((rasterize_pillow, pillow), (rasterize_skimage, skimage)):
        raster = rasterize(polygons, (6, 10))
        assert raster.faults == (PolygonFault(1, fault, drawn),)
        assert raster.mask[1:3, 1:4].all()
        assert (raster.mask.sum() > 6) == (drawn and raster.mask[2, 4:].any())
    assert str(PolygonFault(1, "encloses no area", True)) == "polygon 1 encloses no area (drawn)"
    assert str(PolygonFault(2, "covers no pixel", False)) == "polygon 2 covers no pixel (left out)"


def test_a_polygon_that_collapses_when_cut_to_whole_pixels_is_named_by_pillow_alone():
    sliver = [[2.1, 2.1], [5.9, 2.4], [2.2, 2.9]]

    assert rasterize_pillow([sliver], (6, 10)).faults == (PolygonFault(0, "encloses no area", True),)
    assert rasterize_skimage([sliver], (6, 10)).faults == (PolygonFault(0, "covers no pixel", False),)


def test_coordinates_are_cut_towards_zero_and_the_outline_is_drawn():
    raster = rasterize_pillow([[[-0.9, 0.9], [2.9, 0.9], [2.9, 1.9], [-0.9, 1.9]]], (4, 6))

    np.testing.assert_array_equal(raster.mask, grid("###...", "###...", "......", "......"))
    assert raster.faults == ()


def test_polygons_overlap_to_their_union():
    raster = rasterize_pillow([SQUARE, [[2, 2], [4, 2], [4, 3], [2, 3]]], (4, 6))

    np.testing.assert_array_equal(raster.mask, grid("......", ".###..", ".####.", "..###."))


def test_a_polygon_that_crosses_itself_is_no_fault():
    bow = [[0, 0], [8, 4], [8, 0], [0, 4]]

    assert rasterize_pillow([bow], (6, 10)).faults == ()
    assert rasterize_skimage([bow], (6, 10)).faults == ()


@pytest.mark.parametrize("rasterize", [rasterize_pillow, rasterize_skimage])
def test_no_polygons_are_an_empty_mask_of_the_size(rasterize):
    raster = rasterize([], (4, 6))

    assert (raster.mask.shape, raster.mask.any(), raster.faults) == ((4, 6), False, ())


@pytest.mark.parametrize("rasterize", [rasterize_pillow, rasterize_skimage])
def test_a_size_without_pixels_is_refused(rasterize):
    with pytest.raises(ShapeError, match=r"The size is \(0, 6\) \(height, width\)"):
        rasterize([SQUARE], (0, 6))
