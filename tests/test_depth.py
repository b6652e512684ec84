"""A slice that gets depth: cross-sections of ellipsoids by hand, what is outside stays."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from inference.geometry import KIDNEY, TUMOR
from training.cache import Scan, to_grey
from training.real.augment import UNVARIED, draw_scan_sample
from training.real.depth import REACH, Cut, draw_cuts, give_depth

SPACING_MM = 3.0
SHAPE = (32, 60, 60)


def disc(centre: tuple[float, float], radius: float) -> NDArray[np.bool_]:
    y, x = np.indices(SHAPE[1:])
    return np.asarray(np.hypot(y - centre[0], x - centre[1]) <= radius)


def slab() -> Scan:
    """A round kidney (200 HU) with a round tumor (50 HU) in its middle, fat (−100) around, all along z."""
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[:, disc((30, 30), 12)] = KIDNEY
    labels[:, disc((30, 30), 5)] = TUMOR
    hu = np.select([labels == KIDNEY, labels == TUMOR], [200.0, 50.0], -100.0)
    return Scan("one", "case_1", "train", to_grey(hu), labels, SPACING_MM, True, True, is_slice=True)


def approximately(point: tuple[float, float]) -> object:
    return pytest.approx(point, abs=0.01)


def seen_at(cut: Cut, point: tuple[float, float], above: float) -> tuple[float, float]:
    y, x = cut.where_in_slice(torch.tensor([point]), torch.tensor([above]))[0].tolist()
    return y, x


def test_a_cross_section_is_that_of_an_ellipsoid() -> None:
    cut = Cut((0.0, 0.0), radius_vox=10.0, half_vox=20.0, off_middle=0.0)
    sizes = cut.size(torch.tensor([0.0, 12.0, -16.0, 20.0, 30.0]))
    torch.testing.assert_close(sizes, torch.tensor([1.0, 0.8, 0.6, 0.0, 0.0]))
    # a slice at 0.6 of the half-length shows 0.8 of the largest cross-section, which is 12 voxels below
    off = replace(cut, off_middle=0.6)
    torch.testing.assert_close(off.size(torch.tensor([0.0, -12.0, 8.0])), torch.tensor([1.0, 1.25, 0.0]))


def test_points_are_moved_radially_and_only_near() -> None:
    cut = Cut((30.0, 40.0), radius_vox=10.0, half_vox=20.0, off_middle=0.0)
    assert seen_at(cut, (30.0, 44.0), 0.0) == approximately((30, 44))
    # 12 voxels above, the structure has 0.8 of its size: its border, at 10 in the slice, is at 8
    assert seen_at(cut, (30.0, 48.0), 12.0) == approximately((30, 50))
    assert seen_at(cut, (30.0, 44.0), 12.0) == approximately((30, 45))
    # what lies around is stretched: from 8 … 15 voxels to 10 … 15
    assert seen_at(cut, (30.0, 40 + 11.5), 12.0) == approximately((30, 40 + 12.5))
    far = (30.0, 40.0 + REACH * 10)
    assert seen_at(cut, far, 12.0) == approximately(far)
    # beyond the end nothing of the structure is seen
    for distance in (0.5, 3.0, 9.0):
        y, x = seen_at(cut, (30.0 + distance, 40.0), 25.0)
        assert math.hypot(y - 30, x - 40) > 10


def test_each_kidney_and_each_tumor_is_one_structure() -> None:
    labels = np.zeros(SHAPE[1:], dtype=np.uint8)
    labels[disc((30, 15), 9)] = KIDNEY
    labels[disc((30, 45), 9)] = KIDNEY
    labels[disc((30, 50), 4)] = TUMOR
    cuts = draw_cuts(labels, SPACING_MM, np.random.default_rng(0))
    assert [cut.centre_vox for cut in cuts] == [
        pytest.approx((30, 15)),
        pytest.approx((30, 45)),
        approximately((30, 50)),
    ]
    assert all(42 <= cut.half_vox * SPACING_MM <= 65 for cut in cuts[:2])
    assert 0.7 <= cuts[2].half_vox / cuts[2].radius_vox <= 1.3


def test_a_slice_itself_is_not_changed() -> None:
    voxels = torch.stack(torch.meshgrid(*map(torch.arange, (3, 60, 60)), indexing="ij"), dim=-1).float()
    cuts = draw_cuts(slab().labels[0], SPACING_MM, np.random.default_rng(1))
    there = give_depth(voxels, cuts, slice_z=1.0)
    torch.testing.assert_close(there[1], voxels[1], atol=5e-3, rtol=0)
    torch.testing.assert_close(there[..., 0], voxels[..., 0])


def test_a_sample_of_a_slice_has_a_tumor_that_ends() -> None:
    options = {"shape_vox": SHAPE, "spacing_mm": SPACING_MM}
    rounded = replace(UNVARIED, rounded_share=1.0)
    one = slab()
    for seed in range(5):
        hu, labels, _ = draw_scan_sample(one, np.random.default_rng(seed), rounded, **options)  # type: ignore[arg-type]
        areas = (labels == TUMOR).sum((1, 2))
        # its radius is 6 voxels, its length at most 2 · 1.3 · 6, and the slice lies within
        assert 4 <= int((areas > 0).sum()) <= 17
        assert int(areas[15:17].min()) > 40
        # labels lie on what they name
        assert float(hu[labels == TUMOR].median()) == pytest.approx(50, abs=3)
        assert float(hu[labels == KIDNEY].median()) == pytest.approx(200, abs=3)


def test_only_single_slices_without_painted_lesions_get_depth() -> None:
    options = {"shape_vox": SHAPE, "spacing_mm": SPACING_MM}
    rounded = replace(UNVARIED, rounded_share=1.0)
    for one in (replace(slab(), is_slice=False), slab()):
        painted = one.is_slice
        first, second = (
            draw_scan_sample(one, np.random.default_rng(3), how, painted=painted, **options)[1]  # type: ignore[arg-type]
            for how in (rounded, UNVARIED)
        )
        assert torch.equal(first, second)
