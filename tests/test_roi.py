"""Where the ROI lies in a CT, what is sampled there, and how it is normalised."""

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference.geometry import Roi, RoiSpec, Shape, Vector, resample
from inference.method.roi import normalise, place_roi

CT_SHAPE, CT_SPACING_MM = (11, 21, 41), (5.0, 0.8, 1.0)


def ramp(shape: Shape, gradient: Vector, offset: float = 0.0) -> NDArray[np.float32]:
    """offset + gradient · index."""
    index = np.indices(shape)
    return (offset + np.tensordot(gradient, index, axes=1)).astype(np.float32)


def test_paper_roi_by_default() -> None:
    spec = RoiSpec()
    assert (spec.shape_vox, spec.spacing_mm) == ((168, 168, 168), 2.0)
    assert spec.extent_mm == (336.0, 336.0, 336.0)


def test_start_and_step_by_hand() -> None:
    roi = place_roi(CT_SHAPE, CT_SPACING_MM, RoiSpec((4, 5, 8), 2.0))
    assert roi.step_vox == pytest.approx((2 / 5, 2 / 0.8, 2.0))
    # centre index (5, 10, 20) minus step · (n − 1) / 2
    assert roi.start_vox == pytest.approx((5 - 0.4 * 1.5, 10 - 2.5 * 2, 20 - 2.0 * 3.5))
    assert roi.to_ct_index((1, 2, 3)) == pytest.approx((4.4 + 0.4, 5 + 5.0, 13 + 6.0))


def test_another_height_moves_z_alone() -> None:
    spec = RoiSpec((4, 5, 8), 2.0)
    centred = place_roi(CT_SHAPE, CT_SPACING_MM, spec)
    moved = place_roi(CT_SHAPE, CT_SPACING_MM, spec, centre_z_vox=2.0)
    assert moved.start_vox[0] == pytest.approx(2.0 - 0.4 * 1.5)
    assert moved.start_vox[1:] == centred.start_vox[1:]
    assert moved.step_vox == centred.step_vox


@given(
    shape=st.tuples(*[st.integers(2, 600)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 6.0)] * 3),
    side=st.integers(1, 30),
)
def test_roi_centre_is_the_image_centre(shape: Shape, spacing: Vector, side: int) -> None:
    roi = place_roi(shape, spacing, RoiSpec((8, 8 * side, 16), 2.0))
    centre = roi.to_ct_index(tuple((n - 1) / 2 for n in roi.spec.shape_vox))  # type: ignore[arg-type]
    assert centre == pytest.approx([(n - 1) / 2 for n in shape], abs=1e-6)


def test_linear_ramp_is_resampled_exactly() -> None:
    volume = ramp((12, 20, 24), (3.0, -2.0, 0.5), offset=7)
    roi = place_roi(volume.shape, (3.0, 0.7, 1.1), RoiSpec((8, 6, 10), 1.3))
    expected = ramp(
        roi.spec.shape_vox,
        (3.0 * roi.step_vox[0], -2.0 * roi.step_vox[1], 0.5 * roi.step_vox[2]),
        offset=7 + 3.0 * roi.start_vox[0] - 2.0 * roi.start_vox[1] + 0.5 * roi.start_vox[2],
    )
    sampled = resample(volume, roi)
    assert sampled.dtype == np.float32
    np.testing.assert_allclose(sampled, expected, atol=1e-4)


def test_int16_is_interpolated_and_not_truncated() -> None:
    volume = np.zeros((2, 2, 2), dtype=np.int16)
    volume[1] = -1
    roi = Roi(RoiSpec((3, 1, 1), 1.0), (0.0, 0.0, 0.0), (0.5, 1.0, 1.0))
    assert resample(volume, roi).ravel().tolist() == [0.0, -0.5, -1.0]


def test_half_a_voxel_beyond_the_last_centre_still_belongs_to_the_ct() -> None:
    volume = np.array([10, 20, 30], dtype=np.int16).reshape(3, 1, 1)
    roi = Roi(RoiSpec((7, 1, 1), 1.0), (-0.75, 0.0, 0.0), (0.625, 1.0, 1.0))
    # indices −0.75 −0.125 0.5 1.125 1.75 2.375 3: outside, clamped to the edge, inside …, outside
    np.testing.assert_allclose(
        resample(volume, roi).ravel(), [np.nan, 10, 15, 21.25, 27.5, 30, np.nan], rtol=1e-6
    )


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_outside_is_nan_then_zero_on_both_sides_of_every_axis(axis: int) -> None:
    shape = [6, 6, 6]
    shape[axis] = 2
    hu = np.full(shape, 1000, dtype=np.int16)
    roi = place_roi(hu.shape, (1.0, 1.0, 1.0), RoiSpec((6, 6, 6), 1.0))
    inside = [0, 0, 1, 1, 0, 0]
    sampled = np.moveaxis(resample(hu, roi), axis, 0)
    assert np.isnan(sampled).all(axis=(1, 2)).astype(int).tolist() == [1 - i for i in inside]
    image = np.moveaxis(normalise(resample(hu, roi), roi.spec), axis, 0)
    assert image.shape == (6, 6, 6)
    for plane, expected in zip(image, inside, strict=True):
        assert np.unique(plane).tolist() == [expected]


@pytest.mark.parametrize("spacing", [(3.0, 0.7, 0.9), (0.7, 2.3, 4.0)])
def test_agrees_with_simpleitk(spacing: Vector) -> None:
    volume = np.random.default_rng(5).integers(-1000, 1000, (14, 24, 30)).astype(np.int16)
    roi = place_roi(volume.shape, spacing, RoiSpec((9, 9, 9), 1.7))
    moving = sitk.GetImageFromArray(volume)
    moving.SetSpacing(spacing[::-1])
    grid = sitk.Image([9, 9, 9], sitk.sitkFloat32)
    grid.SetSpacing([1.7] * 3)
    grid.SetOrigin([s * x for s, x in zip(roi.start_vox[::-1], spacing[::-1], strict=True)])
    reference = sitk.GetArrayFromImage(
        sitk.Resample(moving, grid, sitk.Transform(), sitk.sitkLinear, -9999.0, sitk.sitkFloat32)
    )
    ours = resample(volume, roi)
    np.testing.assert_array_equal(np.isnan(ours), reference == -9999.0)
    inside = ~np.isnan(ours)
    assert inside.sum() > 300
    np.testing.assert_allclose(ours[inside], reference[inside], atol=0.01)


def test_window_clips_and_scales() -> None:
    spec = RoiSpec(window_hu=(-160.0, 240.0))
    hu = np.array([-1000, -160, -60, 40, 240, 3000, np.nan], dtype=np.float32)
    np.testing.assert_allclose(normalise(hu, spec), [0, 0, 0.25, 0.5, 1, 1, 0], atol=1e-6)


def test_minmax_takes_the_roi_itself_and_ignores_what_is_outside() -> None:
    spec = RoiSpec(normalisation="minmax")
    hu = np.array([-500, np.nan, 1500, 0], dtype=np.float32)
    np.testing.assert_allclose(normalise(hu, spec), [0, 0, 1, 0.25], atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, 0.0, -1024.0, 7.0])
def test_constant_roi_under_minmax_is_zero(value: float) -> None:
    hu = np.full((2, 2, 2), value, dtype=np.float32)
    assert normalise(hu, RoiSpec(normalisation="minmax")).tolist() == np.zeros((2, 2, 2)).tolist()


@given(
    values=st.lists(st.one_of(st.floats(-32768, 32767, width=32), st.just(float("nan"))), min_size=1),
    mode=st.sampled_from(["window", "minmax"]),
)
def test_normalised_is_finite_and_between_0_and_1(values: list[float], mode: str) -> None:
    hu = np.array(values, dtype=np.float32)
    before = hu.copy()
    image = normalise(hu, RoiSpec(normalisation=mode))  # type: ignore[arg-type]
    assert image.dtype == np.float32
    assert image.min() >= 0
    assert image.max() <= 1
    np.testing.assert_array_equal(hu, before)  # the caller's array is left alone
