"""Outlines along voxel edges: by hand, and back to the very mask by another's polygon filler."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray
from scipy import ndimage

from inference.formats.outline import outlines, without_holes

masks = arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7)))


def area(corners: NDArray[np.int64]) -> float:
    """Shoelace; positive where the way is clockwise with rows downwards."""
    r, c = corners.T
    return float(np.sum(c * np.roll(r, -1) - r * np.roll(c, -1)) / 2)


def filled(corners: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Voxels whose centres lie inside, as matplotlib has it."""
    centres = np.argwhere(np.ones(shape, bool)) + 0.5
    return Polygon(np.vstack([corners, corners[:1]]), closed=True).contains_points(centres).reshape(shape)


def test_one_voxel_has_four_corners_clockwise() -> None:
    mask = np.zeros((3, 3), bool)
    mask[1, 1] = True
    (corners,) = outlines(mask)
    assert corners.tolist() == [[1, 1], [1, 2], [2, 2], [2, 1]]


def test_straight_ways_have_no_corners_between() -> None:
    (corners,) = outlines(np.ones((2, 5), bool))
    assert corners.tolist() == [[0, 0], [0, 5], [2, 5], [2, 0]]


def test_voxels_that_touch_at_a_corner_are_two() -> None:
    assert len(outlines(np.eye(2, dtype=bool))) == 2


def test_a_hole_runs_the_other_way() -> None:
    mask = np.ones((5, 5), bool)
    mask[2, 2] = False
    assert sorted(area(corners) for corners in outlines(mask)) == [-1, 25]


@given(masks)
def test_areas_add_up_and_polygons_fill_to_the_mask(mask: NDArray[np.bool_]) -> None:
    found = outlines(mask)
    assert sum(map(area, found)) == np.count_nonzero(mask)
    crossings = sum((filled(corners, mask.shape).astype(int) for corners in found), np.zeros(mask.shape, int))
    np.testing.assert_array_equal(crossings % 2 == 1, mask)


@given(masks)
def test_parts_without_holes_make_up_the_mask(mask: NDArray[np.bool_]) -> None:
    parts = list(without_holes(mask))
    np.testing.assert_array_equal(sum((p.astype(int) for p in parts), np.zeros(mask.shape, int)), mask)
    for part in parts:
        assert ndimage.label(part)[1] == 1
        (corners,) = outlines(part)  # one polygon each, whose inside is the part
        np.testing.assert_array_equal(filled(corners, mask.shape), part)


@pytest.mark.parametrize("shape", [(0, 0), (3, 3)])
def test_nothing_has_no_outline(shape: tuple[int, int]) -> None:
    assert outlines(np.zeros(shape, bool)) == list(without_holes(np.zeros(shape, bool))) == []
