"""What counts as a kidney, and the way back from the ROI grid to the CT's own."""

from typing import NamedTuple

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from inference.geometry import Roi, RoiSpec, Shape, Vector
from inference.method.method import DEFAULT, PAPER
from inference.method.postprocess import (
    Box,
    Structures,
    grow_by_tumor,
    keep_kidneys,
    keep_tumors,
    restore,
)
from inference.method.roi import place_roi
from inference.networks.cascade import Thresholds
from inference.networks.weights import WeightsMetadata
from tests.helpers import ball, identity_roi


class Restored(NamedTuple):
    labels: NDArray[np.uint8]
    voxels: tuple[tuple[int, int], ...]


pytestmark = pytest.mark.filterwarnings("error")  # means of nothing would show on a user's terminal
HALF = Thresholds(0.5, 0.5)
BIG_VOXEL_MM3 = 5000.0
"""Three voxels of these are a kidney, two (10 cm³ exactly) are not."""


def mask_of(shape: Shape, *voxels: Shape) -> NDArray[np.bool_]:
    mask = np.zeros(shape, dtype=bool)
    for voxel in voxels:
        mask[voxel] = True
    return mask


def restore_simply(
    kidney: NDArray,
    tumor: NDArray | None,
    roi: Roi,
    ct_shape: Shape,
    *,
    voxel_mm3: float = 1e6,
    nearest: bool = False,
    thresholds: Thresholds = HALF,
) -> Restored:
    """`restore` with thresholds of 0.5, unless given, after `keep_kidneys` at the same threshold."""
    kidney = kidney.astype(np.float32)
    tumor = np.zeros_like(kidney) if tumor is None else tumor.astype(np.float32)
    structures = keep_kidneys(kidney > thresholds.kidney, voxel_mm3)
    return Restored(*restore(kidney, tumor, structures, roi, ct_shape, thresholds, nearest=nearest))


# ------------------------------------------------------------------------------------------------- components


def test_larger_than_10_cm3_strictly() -> None:
    two, three = [(0, 0, 0), (0, 0, 1)], [(5, 5, 5), (5, 5, 6), (5, 5, 7)]
    kept = keep_kidneys(mask_of((9, 9, 9), *two, *three), BIG_VOXEL_MM3)
    assert kept.volumes_mm3 == (15_000.0,)
    assert np.argwhere(kept.ids).tolist() == [list(v) for v in three]
    assert kept.boxes == ((slice(5, 6), slice(5, 6), slice(5, 8)),)


def test_at_most_three_and_the_largest_first() -> None:
    mask = np.zeros((9, 9, 20), dtype=bool)
    lengths = {0: 4, 2: 7, 4: 5, 6: 9, 8: 6}  # row → voxels
    for row, length in lengths.items():
        mask[row, 0, :length] = True
    kept = keep_kidneys(mask, BIG_VOXEL_MM3)
    assert kept.volumes_mm3 == (45_000.0, 35_000.0, 30_000.0)
    assert [int(kept.ids[row, 0, 0]) for row in lengths] == [0, 2, 0, 1, 3]
    for rank, box in enumerate(kept.boxes, start=1):
        assert (kept.ids[box] == rank).all()
        assert np.count_nonzero(kept.ids == rank) == kept.ids[box].size


def test_corners_that_touch_make_one_structure() -> None:
    corner = mask_of((4, 4, 4), (0, 0, 0), (1, 1, 1), (2, 2, 2))
    assert keep_kidneys(corner, BIG_VOXEL_MM3).volumes_mm3 == (15_000.0,)
    apart = mask_of((6, 6, 6), (0, 0, 0), (2, 2, 2), (4, 4, 4))
    assert keep_kidneys(apart, BIG_VOXEL_MM3).volumes_mm3 == ()


def test_a_structure_is_judged_in_a_box_one_voxel_larger_within_the_grid() -> None:
    mask = np.zeros((9, 9, 9), dtype=bool)
    mask[0:4, 3:6, 5:9] = True
    seen: list[tuple[int, Box]] = []

    def note(own: NDArray[np.bool_], box: Box) -> bool:
        seen.append((int(np.count_nonzero(own)), box))
        np.testing.assert_array_equal(own, mask[box])
        return True

    keep_kidneys(mask, BIG_VOXEL_MM3, note)
    assert [(n, *((side.start, min(9, side.stop)) for side in box)) for n, box in seen] == [
        (48, (0, 5), (2, 7), (4, 9))
    ]


def kept_tumors(
    tumor: NDArray[np.float32],
    kidneys: Structures,
    threshold: float,
    *,
    min_vox: float = 0.0,
    hu: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """`keep_tumors`; HU of 60 unless given."""
    metadata = WeightsMetadata("tumor", RoiSpec(), 8, threshold=threshold, min_tumor_mm3=8 * min_vox)
    hu = np.full(tumor.shape, 60, np.float32) if hu is None else hu
    return keep_tumors(tumor, kidneys, hu, metadata, DEFAULT)


def test_a_piece_whose_inside_is_fluid_is_a_cyst() -> None:
    """A cyst of 125 voxels whose border is as bright as the kidney, and a tumor of 27 in the same kidney."""
    kidneys = keep_kidneys(np.ones((7, 7, 16), dtype=bool), BIG_VOXEL_MM3)
    tumor = np.zeros((7, 7, 16), dtype=np.float32)
    tumor[1:6, 1:6, 1:6] = tumor[2:5, 2:5, 10:13] = 0.9
    hu = np.full(tumor.shape, 120, np.float32)
    without_cyst = tumor.copy()
    without_cyst[1:6, 1:6, 1:6] = 0
    for inside_hu, expected in ((19.0, without_cyst), (21.0, tumor), (-9.0, without_cyst), (-11.0, tumor)):
        hu[2:5, 2:5, 2:5] = inside_hu
        np.testing.assert_array_equal(kept_tumors(tumor, kidneys, 0.5, hu=hu), expected)


def test_the_border_of_a_cyst_is_what_has_a_face_outside() -> None:
    """Of a voxel and its six neighbours the middle one is inside; four voxels in a row have no inside."""
    kidneys = keep_kidneys(np.ones((5, 5, 12), dtype=bool), BIG_VOXEL_MM3)
    cross, tumor = ndimage.generate_binary_structure(3, 1), np.zeros((5, 5, 12), dtype=np.float32)
    tumor[1:4, 1:4, 1:4][cross] = 0.9
    tumor[2, 2, 6:10] = 0.9
    hu = np.full(tumor.shape, 120, np.float32)
    hu[2, 2, 2] = hu[2, 2, 6:10] = 5
    expected = tumor.copy()
    expected[:, :, :5] = 0
    np.testing.assert_array_equal(kept_tumors(tumor, kidneys, 0.5, hu=hu), expected)


def test_a_doubtful_piece_is_dropped() -> None:
    """Means of 0.61 and 0.63 above the threshold of 0.3."""
    kidneys = keep_kidneys(np.ones((7, 7, 16), dtype=bool), BIG_VOXEL_MM3)
    tumor = np.zeros((7, 7, 16), dtype=np.float32)
    tumor[1:6, 1:6, 1:6] = 0.61
    tumor[2:5, 2:5, 10:13] = 0.63
    sure = tumor.copy()
    sure[1:6, 1:6, 1:6] = 0
    np.testing.assert_array_equal(kept_tumors(tumor, kidneys, 0.3), sure)
    tumor[3, 3, 3] = 0.29  # below the threshold: no part of the mean
    tumor[1:6, 1:6, 1:3] = 0.7
    assert kept_tumors(tumor, kidneys, 0.3)[1, 1, 1] > 0
    np.testing.assert_array_equal(
        keep_tumors(
            np.full((7, 7, 16), 0.31, np.float32),
            kidneys,
            np.full(tumor.shape, 60, np.float32),
            WeightsMetadata("tumor", RoiSpec(), 8, threshold=0.3),
            PAPER,
        ),
        np.full((7, 7, 16), 0.31, np.float32),
    )


def test_the_paper_knows_no_cysts() -> None:
    kidneys = keep_kidneys(np.ones((7, 7, 7), dtype=bool), BIG_VOXEL_MM3)
    tumor = np.zeros((7, 7, 7), dtype=np.float32)
    tumor[1:6, 1:6, 1:6] = 0.9
    for hu in (0.0, 10.0):
        kept = keep_tumors(
            tumor,
            kidneys,
            np.full(tumor.shape, hu, np.float32),
            WeightsMetadata("tumor", RoiSpec(), 8),
            PAPER,
        )
        np.testing.assert_array_equal(kept, tumor)


def test_the_paper_drops_no_small_tumor() -> None:
    kidneys = keep_kidneys(np.ones((7, 7, 7), dtype=bool), BIG_VOXEL_MM3)
    tumor = np.zeros((7, 7, 7), dtype=np.float32)
    tumor[3, 3, 3] = 0.9
    weights = WeightsMetadata("tumor", RoiSpec(), 8, min_tumor_mm3=1e6)
    hu = np.full(tumor.shape, 100, np.float32)
    np.testing.assert_array_equal(keep_tumors(tumor, kidneys, hu, weights, PAPER), tumor)
    assert not keep_tumors(tumor, kidneys, hu, weights, DEFAULT).any()


def test_pieces_smaller_than_the_weights_ask_for_are_dropped() -> None:
    kidneys = keep_kidneys(np.ones((5, 5, 12), dtype=bool), BIG_VOXEL_MM3)
    tumor = np.full((5, 5, 12), 0.1, dtype=np.float32)
    tumor[0, 0, :8] = 0.9
    tumor[2, 0, 0:2] = 0.99  # two voxels, however sure
    tumor[4, 4, 6:8], tumor[3, 3, 8] = 0.7, 0.7  # three, joined at corners
    expected = tumor.copy()
    expected[2, 0, 0:2] = 0
    np.testing.assert_array_equal(kept_tumors(tumor, kidneys, 0.5, min_vox=3), expected)
    np.testing.assert_array_equal(kept_tumors(tumor, kidneys, 0.5, min_vox=2), tumor)


def test_a_tumor_that_overlaps_two_kidneys_is_kept_for_either() -> None:
    mask = np.zeros((1, 1, 24), dtype=bool)
    mask[:, :, :12] = mask[:, :, 14:] = True
    kidneys = keep_kidneys(mask, BIG_VOXEL_MM3)
    tumor = np.zeros(mask.shape, dtype=np.float32)
    tumor[0, 0, 0:9] = 1
    tumor[0, 0, 11:15] = 0.9  # four voxels between them
    np.testing.assert_array_equal(kept_tumors(tumor, kidneys, 0.5), tumor)


def test_a_tumor_away_from_the_kidneys_is_dropped() -> None:
    kidneys = keep_kidneys(mask_of((4, 4, 9), *((0, 0, x) for x in range(9))), BIG_VOXEL_MM3)
    tumor = np.zeros((4, 4, 9), dtype=np.float32)
    tumor[0, 0, 0] = tumor[0, 0, 8] = 1
    expected = tumor.copy()
    tumor[2:] = 1
    np.testing.assert_array_equal(kept_tumors(tumor, kidneys, 0.5), expected)


def test_a_tumor_is_measured_with_what_lies_out_of_its_kidney() -> None:
    kidneys = keep_kidneys(mask_of((4, 4, 9), *((0, 0, x) for x in range(9))), BIG_VOXEL_MM3)
    tumor = np.zeros((4, 4, 9), dtype=np.float32)
    tumor[0, 0:2, 0:2] = tumor[1, 1, 2] = 1  # two voxels in the kidney, three out of it
    np.testing.assert_array_equal(kept_tumors(tumor, kidneys, 0.5, min_vox=5), tumor)
    assert not kept_tumors(tumor, kidneys, 0.5, min_vox=6).any()


def test_without_a_tumor_nothing_is_dropped() -> None:
    kidneys = keep_kidneys(np.ones((4, 4, 4), dtype=bool), BIG_VOXEL_MM3)
    for tumor in (np.zeros((4, 4, 4), dtype=np.float32), np.full((4, 4, 4), 0.4, dtype=np.float32)):
        np.testing.assert_array_equal(kept_tumors(tumor, kidneys, 0.5), tumor)


def grown(kidney: NDArray, tumor: NDArray, reach_vox: int) -> tuple[NDArray[np.float32], Structures]:
    structures = keep_kidneys(kidney > 0.5, BIG_VOXEL_MM3)
    return grow_by_tumor(kidney, tumor, structures, Thresholds(0.5, 0.4), reach_vox=reach_vox)


def test_a_kidney_grows_by_the_tumor_beside_it_as_far_as_that_reaches() -> None:
    kidney, tumor = np.zeros((2, 5, 5, 12), dtype=np.float32)
    kidney[2, 2, 0:4] = 0.9
    tumor[2, 2, 2:9] = 0.7  # two voxels within the kidney, five beyond
    tumor[0, 0, 0:3] = 0.9  # touches nothing
    tumor[1, 2, 0] = 0.9  # touches the kidney, where there is no tumor in it
    probability, structures = grown(kidney, tumor, 3)
    assert np.argwhere(structures.ids == 1).tolist() == [[2, 2, x] for x in range(7)]
    assert structures.boxes == ((slice(2, 3), slice(2, 3), slice(0, 7)),)
    assert structures.volumes_mm3 == (7 * BIG_VOXEL_MM3,)
    # as far above the kidney's threshold as the tumor above its own
    np.testing.assert_allclose(probability[2, 2], [0.9] * 4 + [0.8] * 3 + [0.0] * 5, atol=1e-6)
    assert not probability[:2].any()
    # farther than the grid and the tumor go
    assert np.count_nonzero(grown(kidney, tumor, 30)[1].ids) == 9


def test_a_gap_in_the_tumor_ends_the_growth_and_a_corner_does_not() -> None:
    kidney, tumor = np.zeros((2, 6, 6, 9), dtype=np.float32)
    kidney[1, 1, 0:3], tumor[1, 1, 2] = 0.9, 0.9
    tumor[2, 2, 3] = tumor[3, 3, 4] = 0.9  # joined at corners
    tumor[1, 1, 4] = 0.9  # next to the first of them
    tumor[3, 3, 6] = 0.9  # a voxel between
    _, structures = grown(kidney, tumor, 9)
    added = np.argwhere((structures.ids > 0) & (kidney == 0)).tolist()
    assert added == [[1, 1, 4], [2, 2, 3], [3, 3, 4]]


def test_a_tumor_between_two_kidneys_is_the_larger_ones() -> None:
    kidney, tumor = np.zeros((2, 3, 3, 12), dtype=np.float32)
    kidney[1, 1, 0:3] = kidney[1, 1, 6:12] = 0.9
    tumor[1, 1, 2:7] = 0.9
    _, structures = grown(kidney, tumor, 5)
    assert structures.ids[1, 1].tolist() == [2] * 3 + [1] * 9


def test_without_a_reach_or_a_tumor_kidneys_stay_as_they_are() -> None:
    kidney, tumor = np.zeros((2, 3, 3, 9), dtype=np.float32)
    kidney[1, 1, 0:4] = kidney[1, 2, 3:7] = 0.9  # the box of both holds tumor that is no kidney
    tumor[1, 1] = 0.9
    for mass, reach_vox in ((tumor, 0), (np.zeros_like(tumor), 3)):
        probability, structures = grown(kidney, mass, reach_vox)
        np.testing.assert_array_equal(probability, kidney)
        np.testing.assert_array_equal(structures.ids, kidney > 0.5)


def test_nothing_gives_nothing() -> None:
    kept = keep_kidneys(np.zeros((4, 4, 4), dtype=bool), 8.0)
    assert (kept.boxes, kept.volumes_mm3) == ((), ())
    restored = restore_simply(np.zeros((4, 4, 4)), None, identity_roi((4, 4, 4)), (5, 5, 5))
    assert not restored.labels.any()
    assert restored.labels.shape == (5, 5, 5)
    assert restored.voxels == ()


# ------------------------------------------------------------------------------------------- restore, nearest


def blobs(shape: Shape, seed: int) -> NDArray[np.float32]:
    """Random soft blobs in [0, 1], some cut by the edges of the grid."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfftn(rng.standard_normal(shape))
    z, y, x = np.meshgrid(*(np.fft.fftfreq(n) for n in shape[:2]), np.fft.rfftfreq(shape[2]), indexing="ij")
    smooth = np.fft.irfftn(spectrum * np.exp(-90 * (z**2 + y**2 + x**2)), shape, axes=(0, 1, 2))
    return (1 / (1 + np.exp(-3 * smooth / smooth.std()))).astype(np.float32)


def resample_with_itk(values: NDArray, roi: Roi, spacing: Vector, ct_shape: Shape) -> NDArray:
    """The paper's way back: SimpleITK, nearest neighbour, from the ROI grid to the CT's."""
    moving = sitk.GetImageFromArray(values)
    moving.SetSpacing([roi.spec.spacing_mm] * 3)
    moving.SetOrigin([start * s for start, s in zip(roi.start_vox[::-1], spacing[::-1], strict=True)])
    grid = sitk.Image(list(ct_shape[::-1]), sitk.sitkUInt8)
    grid.SetSpacing(spacing[::-1])
    return sitk.GetArrayFromImage(sitk.Resample(moving, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0))


@pytest.mark.parametrize(
    ("spacing", "ct_shape"),
    [
        ((3.01, 0.77, 0.83), (14, 50, 47)),
        ((1.03, 1.03, 1.03), (60, 20, 33)),
        ((4.97, 2.3, 0.61), (4, 16, 90)),
    ],
    ids=["smaller voxels", "CT larger than ROI", "mixed"],
)
def test_nearest_agrees_with_simpleitk(spacing: Vector, ct_shape: Shape) -> None:
    shape = (20, 22, 24)
    kidney, tumor = blobs(shape, 1), blobs(shape, 2)
    roi = place_roi(ct_shape, spacing, RoiSpec(shape, 2.0))
    structures = keep_kidneys(kidney > 0.5, 1e6)
    labels = np.where(structures.ids > 0, np.where(tumor > 0.5, 2, 1), 0).astype(np.uint8)
    expected = resample_with_itk(labels, roi, spacing, ct_shape)
    ours = restore_simply(kidney, tumor, roi, ct_shape, nearest=True)
    assert set(np.unique(expected)) == {0, 1, 2}
    np.testing.assert_array_equal(ours.labels, expected)


# -------------------------------------------------------------------------------------- restore, interpolated


def test_identity_geometry_gives_the_mask_back() -> None:
    shape = (18, 20, 22)
    kidney, tumor = blobs(shape, 3), blobs(shape, 4)
    for nearest in (False, True):
        restored = restore_simply(kidney, tumor, identity_roi(shape), shape, nearest=nearest)
        structures = keep_kidneys(kidney > 0.5, 1e6)
        assert len(structures.boxes) == 3
        expected = np.where(structures.ids > 0, np.where(tumor > 0.5, 2, 1), 0)
        np.testing.assert_array_equal(restored.labels, expected)


def test_surface_between_two_voxels_is_kept() -> None:
    """Probabilities 1, 1, 0.75, 0 along x: the threshold 0.5 lies a third of a step beyond the 0.75."""
    kidney = np.zeros((3, 3, 8), dtype=np.float32)
    kidney[:, :, :4] = [1, 1, 0.75, 0]
    roi = Roi(RoiSpec((3, 3, 8), 6.0), (0.0, 0.0, 0.0), (1.0, 1.0, 6.0))
    restored = restore_simply(kidney, None, roi, (3, 3, 48))
    # 0.75 is at CT index 12, 0 at 18: 0.75 · (1 − t / 6) > 0.5 for t < 2
    assert np.flatnonzero(restored.labels[1, 1]).tolist() == list(range(14))
    assert np.flatnonzero(
        restore_simply(kidney, None, roi, (3, 3, 48), nearest=True).labels[1, 1]
    ).tolist() == list(range(15))


def test_a_surface_may_lie_almost_a_voxel_beyond_the_last_one_at_either_end() -> None:
    """Probabilities 0, 0.4, 1, 1, 0.4, 0 along an axis: 1 − 0.6 · t / 6 > 0.5 for t < 5 of 6 CT voxels."""
    for axis in range(3):
        shape, step = [3, 3, 3], [1.0, 1.0, 1.0]
        shape[axis], step[axis] = 6, 6.0
        line = np.array([0, 0.4, 1, 1, 0.4, 0], dtype=np.float32)
        kidney = np.moveaxis(np.broadcast_to(line, (3, 3, 6)), 2, axis)
        roi = Roi(RoiSpec(tuple(shape), 6.0), (0.0, 0.0, 0.0), tuple(step))  # type: ignore[arg-type]
        ct_shape = tuple(31 if n == axis else 3 for n in range(3))
        labels = np.moveaxis(restore_simply(kidney, None, roi, ct_shape).labels, axis, 2)  # type: ignore[arg-type]
        # the voxels of 1 are at CT index 12 and 18
        assert np.flatnonzero(labels[1, 1]).tolist() == list(range(8, 23))


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_thresholds_are_respected(threshold: float) -> None:
    ramp = np.tile(np.linspace(1, 0, 11, dtype=np.float32), (3, 3, 1))  # 1.0, 0.9 … 0.0 along x
    roi = Roi(RoiSpec((3, 3, 11), 10.0), (0.0, 0.0, 0.0), (1.0, 1.0, 10.0))
    surface = 100 * (1 - threshold)  # the CT index where the ramp falls to the threshold
    whole = restore_simply(ramp, None, roi, (3, 3, 101), thresholds=Thresholds(kidney=threshold)).labels[1, 1]
    assert abs(int(np.count_nonzero(whole)) - surface) <= 1
    inner = restore_simply(
        np.ones_like(ramp), ramp, roi, (3, 3, 101), thresholds=Thresholds(tumor=threshold)
    ).labels[1, 1]
    assert abs(int(np.count_nonzero(inner == 2)) - surface) <= 1
    assert (inner > 0).all()


def test_a_dropped_component_does_not_grow_back() -> None:
    """A fragment one voxel off a kidney, too small to keep, with high probability."""
    kidney = np.zeros((7, 7, 14), dtype=np.float32)
    kidney[2:5, 2:5, 1:7] = 1.0
    kidney[2:5, 2:5, 8:10] = 1.0  # 18 voxels against 54
    kidney[2:5, 2:5, 7] = 0.45  # between both, just below the threshold
    roi = Roi(RoiSpec((7, 7, 14), 2.0), (0.0, 0.0, 0.0), (2.0, 2.0, 2.0))
    restored = restore_simply(kidney, None, roi, (14, 14, 28), voxel_mm3=300.0)
    assert restored.labels.any()
    x = np.flatnonzero(restored.labels.any(axis=(0, 1)))
    # the kidney's last voxel lies at CT index 12, the gap at 14, the fragment at 16 to 18
    assert x.max() == 13
    kept_alone = kidney.copy()
    kept_alone[2:5, 2:5, 8:10] = 0
    np.testing.assert_array_equal(
        restored.labels, restore_simply(kept_alone, None, roi, (14, 14, 28), voxel_mm3=300.0).labels
    )


def test_tumor_only_inside_the_kidney() -> None:
    shape = (12, 12, 12)
    kidney = ball(shape, (5.5, 5.5, 5.5), 3.5, (1.0, 1.0, 1.0)).astype(np.float32)
    everywhere = np.ones(shape)
    roi = place_roi((30, 31, 29), (0.8, 0.8, 0.8), RoiSpec(shape, 2.0))
    for nearest in (False, True):
        alone = restore_simply(kidney, None, roi, (30, 31, 29), nearest=nearest)
        both = restore_simply(kidney, everywhere, roi, (30, 31, 29), nearest=nearest)
        assert (alone.labels == 1).any()
        np.testing.assert_array_equal(both.labels, 2 * alone.labels)


def test_tumor_at_the_kidneys_surface_is_not_eroded_by_what_lies_outside() -> None:
    """The tumor network says 0 outside the kidney, where it was taught nothing: it must not count."""
    kidney = np.zeros((3, 3, 10), dtype=np.float32)
    kidney[:, :, 2:6] = 1.0
    tumor = np.zeros_like(kidney)
    tumor[:, :, 4:6] = 0.8  # up to the surface
    roi = Roi(RoiSpec((3, 3, 10), 10.0), (0.0, 0.0, 0.0), (1.0, 1.0, 10.0))
    labels = restore_simply(kidney, tumor, roi, (3, 3, 100)).labels[1, 1]
    # kidney 0 → 1 between CT 10 and 20 and 1 → 0 between 50 and 60, so it is 16 … 54;
    # tumor 0 → 0.8 between 30 and 40: above 0.5 from 30 + 10 · 0.5 / 0.8 = 36.25 on, to the kidney's end
    assert np.flatnonzero(labels).tolist() == list(range(16, 55))
    assert np.flatnonzero(labels == 2).tolist() == list(range(37, 55))


def test_tumor_outside_the_kidney_does_not_seep_in_at_its_surface() -> None:
    kidney = np.zeros((3, 3, 10), dtype=np.float32)
    kidney[:, :, 2:6] = 1.0
    roi = Roi(RoiSpec((3, 3, 10), 10.0), (0.0, 0.0, 0.0), (1.0, 1.0, 10.0))
    labels = restore_simply(kidney, 1 - kidney, roi, (3, 3, 100)).labels
    assert np.unique(labels).tolist() == [0, 1]


def test_voxels_are_those_of_the_label_map_by_structure() -> None:
    shape = (24, 24, 24)
    large = ball(shape, (7.0, 8.0, 7.0), 5.0, (1.0, 1.0, 1.0))
    small = ball(shape, (16.0, 16.0, 17.0), 4.0, (1.0, 1.0, 1.0))
    tumor = ball(shape, (16.0, 16.0, 17.0), 2.0, (1.0, 1.0, 1.0))
    ct_shape = (20, 55, 60)
    roi = place_roi(ct_shape, (2.5, 0.9, 0.8), RoiSpec(shape, 2.0))
    restored = restore_simply(large | small, tumor, roi, ct_shape)
    (kidney_1, tumor_1), (kidney_2, tumor_2) = restored.voxels
    assert tumor_1 == 0
    assert tumor_2 == np.count_nonzero(restored.labels == 2) > 0
    assert kidney_1 + kidney_2 == np.count_nonzero(restored.labels == 1)
    assert kidney_1 > kidney_2 + tumor_2 > 0
    alone = restore_simply(large, None, roi, ct_shape)
    assert alone.voxels == ((kidney_1, 0),)


def test_two_structures_whose_boxes_overlap() -> None:
    """An L and a block inside its corner: each is restored whole, neither wipes the other out."""
    angle = np.zeros((6, 20, 20), dtype=bool)
    angle[1:5, 1:19, 1:4] = True
    angle[1:5, 16:19, 1:19] = True
    block = np.zeros_like(angle)
    block[1:5, 2:13, 7:18] = True
    shape, ct_shape = angle.shape, (12, 40, 40)
    roi = place_roi(ct_shape, (1.0, 1.0, 1.0), RoiSpec(shape, 2.0))
    for nearest in (False, True):
        together = restore_simply(angle | block, block, roi, ct_shape, nearest=nearest)
        one = restore_simply(angle, None, roi, ct_shape, nearest=nearest)
        other = restore_simply(block, block, roi, ct_shape, nearest=nearest)
        np.testing.assert_array_equal(together.labels, one.labels + other.labels)
        assert sorted(together.voxels) == sorted(one.voxels + other.voxels)


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_kidneys_one_voxel_apart_share_no_voxel(threshold: float) -> None:
    """Each is restored as if it were alone, in the gap between them too, and every voxel counts once."""
    kidney = np.full((5, 5, 12), 0.29, dtype=np.float32)
    one, other = kidney.copy(), kidney.copy()
    one[1:4, 1:4, 1:6] = 1.0
    other[1:4, 1:4, 7:10] = 1.0
    roi = Roi(RoiSpec((5, 5, 12), 4.0), (0.0, 0.0, 0.0), (4.0, 4.0, 4.0))
    ct_shape = (20, 20, 48)
    together = restore_simply(np.maximum(one, other), one, roi, ct_shape, thresholds=Thresholds(threshold))
    alone = [restore_simply(k, one, roi, ct_shape, thresholds=Thresholds(threshold)) for k in (one, other)]
    np.testing.assert_array_equal(together.labels, alone[0].labels + alone[1].labels)
    assert together.voxels == alone[0].voxels + alone[1].voxels
    assert sum(sum(counts) for counts in together.voxels) == np.count_nonzero(together.labels)


@pytest.mark.parametrize("offset", [40.0, -40.0])
@pytest.mark.parametrize("nearest", [False, True])
def test_a_structure_in_the_padding_is_not_written(offset: float, nearest: bool) -> None:
    """The network may err in the zeros beside a small CT: beyond the CT there is nothing to label."""
    kidney = np.zeros((8, 8, 8), dtype=np.float32)
    kidney[1:7, 1:7, 1:7] = 1
    roi = Roi(RoiSpec((8, 8, 8), 1.0), (offset, 0.0, 0.0), (1.0, 1.0, 1.0))
    restored = restore_simply(kidney, kidney, roi, (10, 10, 10), nearest=nearest)
    assert not restored.labels.any()
    assert restored.voxels == ((0, 0),)


def test_a_structure_cut_by_the_ct_ends_there() -> None:
    kidney = np.ones((8, 8, 8), dtype=np.float32)
    roi = Roi(RoiSpec((8, 8, 8), 1.0), (-4.0, 0.0, 6.0), (1.0, 1.0, 1.0))
    expected = np.zeros((10, 10, 10), dtype=np.uint8)
    expected[:4, :8, 6:] = 1  # ROI index = CT index + (4, 0, −6), below 8
    np.testing.assert_array_equal(
        restore_simply(kidney, None, roi, (10, 10, 10), nearest=True).labels, expected
    )


@given(
    radius_mm=st.floats(16, 30),
    spacing=st.tuples(st.floats(0.6, 5.0), st.floats(0.5, 1.5), st.floats(0.5, 1.5)),
    shift=st.tuples(*[st.floats(-2, 2)] * 3),
    nearest=st.booleans(),
)
def test_restored_volume_is_that_of_the_roi_within_a_shell(
    radius_mm: float, spacing: Vector, shift: Vector, nearest: bool
) -> None:
    """A smooth ball keeps its volume within a shell of a quarter of an ROI voxel over its surface."""
    shape, roi_mm = (40, 40, 40), 2.0
    distance = np.sqrt(sum((g * roi_mm - 39 - s) ** 2 for g, s in zip(np.indices(shape), shift, strict=True)))
    kidney = (1 / (1 + np.exp((distance - radius_mm) / roi_mm))).astype(np.float32)
    ct_shape = tuple(int(80 / s) for s in spacing)
    roi = place_roi(ct_shape, spacing, RoiSpec(shape, roi_mm))  # type: ignore[arg-type]
    restored = restore_simply(kidney, None, roi, ct_shape, voxel_mm3=8.0, nearest=nearest)  # type: ignore[arg-type]
    ct_mm3 = restored.voxels[0][0] * float(np.prod(spacing))
    roi_mm3 = float(np.count_nonzero(kidney > 0.5)) * roi_mm**3
    assert abs(ct_mm3 - roi_mm3) < 4 * np.pi * radius_mm**2 * (roi_mm / 4)


def test_structures_given_decide_not_the_probabilities() -> None:
    """`restore` keeps to the structures it is given, also where the networks say more."""
    kidney = np.ones((6, 6, 6), dtype=np.float32)
    ids = np.zeros((6, 6, 6), dtype=np.uint8)
    ids[2:4, 2:4, 2:4] = 1
    given_structures = Structures(ids, ((slice(2, 4),) * 3,), (20_000.0,))
    labels, _ = restore(
        kidney,
        kidney,
        given_structures,
        identity_roi((6, 6, 6)),
        (6, 6, 6),
        HALF,
    )
    np.testing.assert_array_equal(labels, 2 * ids)


def test_a_piece_smaller_than_the_least_tumor_is_dropped() -> None:
    """Pieces of 4, 3 and 2 voxels in one kidney: the least size is in voxels, and itself enough."""
    kidneys = Structures(
        np.ones((3, 3, 9), dtype=np.uint8), ((slice(0, 3), slice(0, 3), slice(0, 9)),), (1.0,)
    )
    tumor = np.zeros((3, 3, 9), dtype=np.float32)
    tumor[0, 0, :4], tumor[0, 0, 6:], tumor[2, 2, :2] = 0.9, 0.8, 0.7
    for min_vox, sizes in ((0, [4, 3, 2]), (3, [4, 3]), (3.5, [4]), (5, [])):
        kept = kept_tumors(tumor, kidneys, 0.5, min_vox=min_vox)
        assert [int(np.count_nonzero(kept == np.float32(p))) for p in (0.9, 0.8, 0.7)] == [
            *sizes,
            *[0] * (3 - len(sizes)),
        ]


def test_one_structure_is_one_piece_on_the_cts_grid() -> None:
    """Two parts that touch by one corner of weak voxels on the ROI grid: a finer CT shows a gap there."""
    kidney = np.zeros((1, 9, 12), dtype=np.float32)
    kidney[0, :4, :6] = 0.9
    kidney[0, 5:7, 7:9] = 0.9
    kidney[0, 4, 6] = 0.55  # the bridge
    roi = Roi(RoiSpec((1, 9, 12), 1.0), (0.0, 0.0, 0.0), (1.0, 3.0, 3.0))
    labels, voxels = restore_simply(kidney, None, roi, (1, 27, 36))
    _, count = ndimage.label(labels, np.ones((3, 3, 3)))
    assert count == 1
    assert labels[0, 4, 4] == 1
    assert labels[0, 18, 24] == 0
    assert voxels == ((int(np.count_nonzero(labels)), 0),)
