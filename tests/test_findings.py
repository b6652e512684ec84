"""What is measured of a label map: by hand on small masks, and against SimpleITK's own measures."""

import csv
import io
import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from inference.formats.ct import Ct, NativeGrid
from inference.geometry import Roi, RoiSpec, Shape, Vector
from inference.runner.findings import (
    MIN_TUMOR_MM3,
    Findings,
    Probabilities,
    axial_diameter,
    index_to_lps_mm,
    largest_extent,
    measure,
    plane_position_mm,
    stored_index,
    take_apart,
)
from inference.runner.findings_csv import COLUMNS, findings_csv
from inference.runner.report import CaseReport
from tests.helpers import canonical_affine, identity_roi, orientations, reorient, rotation

SHAPE, SPACING_MM = (40, 60, 100), (2.0, 1.5, 1.0)
ORIGIN_MM = (30.0, -20.0, 7.0)
"""Of voxel (0, 0, 0), RAS (x, y, z)."""


def grid_of(shape: Shape, spacing_mm: Vector) -> NativeGrid:
    return NativeGrid(shape, canonical_affine(spacing_mm, ORIGIN_MM))


def ct_of(hu: NDArray[np.int16], spacing_mm: Vector = SPACING_MM) -> Ct:
    return Ct(hu, grid_of(hu.shape, spacing_mm))  # type: ignore[arg-type]


def ellipsoid(shape: Shape, centre_vox: Vector, radii_mm: Vector, spacing_mm: Vector) -> NDArray[np.bool_]:
    grid = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    parts = zip(grid, centre_vox, radii_mm, spacing_mm, strict=True)
    return sum(((g - c) * s / r) ** 2 for g, c, r, s in parts) <= 1


def two_kidneys() -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Boxes: a right kidney at low x, a larger left one at high x with a tumor of 4 × 6 × 8 voxels."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[10:20, 20:40, 10:30] = 1
    labels[12:32, 20:40, 60:90] = 1
    labels[16:20, 24:30, 70:78] = 2
    hu = np.full(SHAPE, 20, np.int16)
    hu[:, :, :2] = -1000
    hu[labels == 1] = 150
    hu[labels == 2] = 80
    hu[16, 24, 70] = 176  # one tumor voxel 96 HU above the others
    return hu, labels


def findings_of(
    hu: NDArray[np.int16], labels: NDArray[np.uint8], spacing_mm: Vector = SPACING_MM, **networks: Any
) -> Findings:
    return measure(ct_of(hu, spacing_mm), labels, take_apart(labels, spacing_mm), **networks)


# ------------------------------------------------------------------------------------------------- by hand


def test_kidneys_by_hand() -> None:
    left, right = findings_of(*two_kidneys()).kidneys  # the larger one first
    assert (left.name, left.side) == ("left kidney", "left")
    assert (right.name, right.side) == ("right kidney", "right")
    voxel_ml = 2.0 * 1.5 * 1.0 / 1000
    assert right.ml == round(10 * 20 * 20 * voxel_ml, 2)
    assert left.tumor_ml == round(4 * 6 * 8 * voxel_ml, 2)
    assert left.ml == round((20 * 20 * 30 - 4 * 6 * 8) * voxel_ml, 2)
    assert (left.hu_mean, left.hu_sd) == (150, 0)
    # LPS: x = −30 + 1 · column, y = 20 + 1.5 · row, z = 7 + 2 · slice; half a voxel around
    assert right.centroid_lps_mm == pytest.approx([-30 + 19.5, 20 + 29.5 * 1.5, 7 + 14.5 * 2], abs=0.051)
    low, high = right.box_lps_mm
    assert low == pytest.approx([-30 + 9.5, 20 + 19.5 * 1.5, 7 + 9.5 * 2], abs=0.051)
    assert high == pytest.approx([-30 + 29.5, 20 + 39.5 * 1.5, 7 + 19.5 * 2], abs=0.051)
    assert (left.cut_by_scan, right.cut_by_scan, left.cut_by_region) == ([], [], False)
    assert left.mean_probability is None


def test_a_tumor_by_hand() -> None:
    (tumor,) = findings_of(*two_kidneys()).tumors
    assert (tumor.name, tumor.kidney, tumor.side) == ("tumor 1", "left kidney", "left")
    assert tumor.ml == round(4 * 6 * 8 * 0.003, 2)
    # the outermost edges' middles: 8 mm across, 9 mm down, so √(8² + (9 − 1.5)²) or √(7² + 9²)
    assert tumor.axial_diameter_mm == round(np.hypot(7, 9), 1)
    assert tumor.largest_extent_mm == round(
        max(np.sqrt(7**2 + 7.5**2 + 8**2), np.sqrt(7**2 + 9**2 + 6**2)), 1
    )
    assert (tumor.axial_slice_index, tumor.axial_slice_lps_mm) == (16, 7 + 16 * 2)
    n = 4 * 6 * 8
    assert tumor.hu_mean == round(80 + 96 / n, 1)
    assert tumor.hu_sd == round(96 * np.sqrt(1 / n - 1 / n**2), 1)
    assert tumor.centroid_lps_mm == pytest.approx([-30 + 73.5, 20 + 26.5 * 1.5, 7 + 17.5 * 2], abs=0.051)


@pytest.mark.parametrize("radii_mm", [(14.0, 14.0, 14.0), (10.0, 16.0, 22.0), (18.0, 9.0, 12.0)])
def test_a_known_ellipsoid_has_its_volume_and_its_diameters(radii_mm: Vector) -> None:
    mask = ellipsoid((80, 80, 100), (39.3, 40.1, 50.2), radii_mm, (0.9, 0.8, 0.7))
    spacing = (0.9, 0.8, 0.7)
    volume = np.count_nonzero(mask) * np.prod(spacing)
    assert volume == pytest.approx(4 / 3 * np.pi * np.prod(radii_mm), rel=0.01)
    diameter_mm, z = axial_diameter(mask, spacing)
    assert diameter_mm == pytest.approx(2 * max(radii_mm[1:]), abs=0.8)
    assert abs(z - 39.3) < 2  # neighbouring slices differ by less than a voxel
    assert largest_extent(mask, spacing) == pytest.approx(2 * max(radii_mm), abs=0.9)


@pytest.mark.parametrize("row", [(1, 1, 5), (1, 5, 1), (5, 1, 1), (1, 1, 1)])
def test_a_row_of_voxels_is_as_long_as_it_is(row: Shape) -> None:
    mask = np.zeros((7, 7, 7), bool)
    mask[1 : 1 + row[0], 1 : 1 + row[1], 1 : 1 + row[2]] = True
    lengths = [n * s for n, s in zip(row, SPACING_MM, strict=True)]
    assert largest_extent(mask, SPACING_MM) == pytest.approx(max(lengths))
    assert axial_diameter(mask, SPACING_MM) == (pytest.approx(max(lengths[1:])), 1)


# ---------------------------------------------------------------------------------------- against SimpleITK


@pytest.mark.parametrize("seed", range(4))
def test_simpleitk_measures_the_same(seed: int) -> None:
    """Volume, centroid, box and mean to the last digit shown; its Feret diameter ends at voxel centres."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(SHAPE, np.uint8)
    for x in (28, 70):
        labels[ellipsoid(SHAPE, (20 + rng.uniform(-4, 4), 30, x), (22, 18, 15 + x / 20), SPACING_MM)] = 1
    labels[ellipsoid(SHAPE, (22, 34, 72), tuple(rng.uniform(5, 11, 3)), SPACING_MM)] = 2
    hu = rng.integers(-50, 250, SHAPE).astype(np.int16)
    found = findings_of(hu, labels)

    def statistics(array: NDArray[np.uint8]) -> Any:
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(SPACING_MM[::-1])
        image.SetOrigin((-ORIGIN_MM[0], -ORIGIN_MM[1], ORIGIN_MM[2]))
        shape, intensity = sitk.LabelShapeStatisticsImageFilter(), sitk.LabelIntensityStatisticsImageFilter()
        shape.ComputeFeretDiameterOn()
        values = sitk.GetImageFromArray(hu)
        values.CopyInformation(image)
        shape.Execute(image)
        intensity.Execute(image, values)
        return shape, intensity, image

    kidneys = np.zeros(SHAPE, np.uint8)
    kidneys[found.parts.box] = found.parts.kidneys
    organs, _, image = statistics(kidneys)
    for number, kidney in enumerate(found.kidneys, 1):
        assert kidney.ml + kidney.tumor_ml == pytest.approx(organs.GetPhysicalSize(number) / 1000, abs=0.011)
        np.testing.assert_allclose(kidney.centroid_lps_mm, organs.GetCentroid(number), atol=0.051)
        x, y, z, *size = organs.GetBoundingBox(number)
        low = image.TransformContinuousIndexToPhysicalPoint((x - 0.5, y - 0.5, z - 0.5))
        np.testing.assert_allclose(kidney.box_lps_mm[0], low, atol=0.051)
        np.testing.assert_allclose(
            kidney.box_lps_mm[1], np.add(low, np.multiply(size, SPACING_MM[::-1])), atol=0.051
        )
    tumors, intensity, _ = statistics((labels == 2).astype(np.uint8))
    (tumor,) = found.tumors
    assert tumor.ml == pytest.approx(tumors.GetPhysicalSize(1) / 1000, abs=0.006)
    np.testing.assert_allclose(tumor.centroid_lps_mm, tumors.GetCentroid(1), atol=0.051)
    assert tumor.hu_mean == pytest.approx(intensity.GetMean(1), abs=0.051)
    n = np.count_nonzero(labels == 2)
    assert tumor.hu_sd == pytest.approx(intensity.GetStandardDeviation(1) * np.sqrt((n - 1) / n), abs=0.051)
    feret = tumors.GetFeretDiameter(1)
    assert feret <= tumor.largest_extent_mm + 0.05
    assert tumor.largest_extent_mm <= feret + np.linalg.norm(SPACING_MM)


# --------------------------------------------------------------------------- whatever axes, whatever place


@pytest.mark.parametrize("tilt", [np.eye(4), rotation(7, -12, 15)], ids=["straight", "oblique"])
def test_world_places_do_not_depend_on_the_stored_axes(tilt: NDArray[np.float64]) -> None:
    shape = (4, 5, 6)
    stored = np.arange(np.prod(shape)).reshape(shape)
    affine = tilt @ canonical_affine(SPACING_MM, ORIGIN_MM)
    places = set()
    for orientation in orientations():
        turned, turned_affine = reorient(stored, affine, orientation)
        native = NativeGrid(turned.shape, turned_affine)  # type: ignore[arg-type]
        lps = index_to_lps_mm(native) @ [1, 2, 3, 1]
        places.add(tuple(np.round(lps[:3], 6)))
        axes, flips = orientation
        for canonical, index in ((0, 1), (1, 2), (2, 3)):
            new_axis = axes.index(canonical)
            expected = shape[canonical] - 1 - index if flips[new_axis] else index
            assert stored_index(native, canonical, index) == expected
    (place,) = places
    ras = affine @ [1, 2, 3, 1]
    np.testing.assert_allclose(place, [-ras[0], -ras[1], ras[2]], atol=1e-6)


def test_a_planes_position_is_its_middles() -> None:
    native = grid_of(SHAPE, SPACING_MM)
    assert [plane_position_mm(native, axis, 3) for axis in range(3)] == [7 + 6, 20 + 4.5, -30 + 3]


def test_sides_are_the_bodys_not_the_images() -> None:
    """A patient who lies off the image's middle: both kidneys in its left half."""
    hu, labels = two_kidneys()
    hu[:] = -1000
    wide = np.full((*SHAPE[:2], 300), -1000, np.int16)
    wide[:, :, 195:] = 20
    shifted = np.zeros(wide.shape, np.uint8)
    shifted[:, :, 200:300] = labels
    assert {k.side for k in findings_of(wide, shifted).kidneys} == {"left", "right"}


def test_the_middle_is_that_of_the_body_or_without_one_of_the_image() -> None:
    """Columns 0 to 99: 49.5; the kidneys' middles are columns 74.5 and 19.5, of 1 mm."""
    _, labels = two_kidneys()
    for value in (20, -1000):
        hu = np.full(SHAPE, value, np.int16)
        hu[:10, :, :80] = -1000  # below the kidneys the body lies elsewhere
        left, right = findings_of(hu, labels).kidneys
        assert (left.midline_mm, right.midline_mm) == (25.0, 30.0)


def test_two_on_one_side_have_names_of_their_own() -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[5:15, 20:40, 70:90] = 1
    labels[20:28, 20:40, 70:90] = 1
    names = [kidney.name for kidney in findings_of(np.zeros(SHAPE, np.int16), labels).kidneys]
    assert names == ["left kidney", "left kidney 2"]


@pytest.mark.parametrize(
    ("low", "high", "ends"),
    [
        (0, 20, ["inferior"]),
        (20, 40, ["superior"]),
        (0, 40, ["superior", "inferior"]),
        (1, 39, ["superior", "inferior"]),  # 2 mm from the ends
        (2, 38, []),  # 4 mm
    ],
)
def test_a_kidney_at_the_scans_end_is_cut(low: int, high: int, ends: list[str]) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[low:high, 20:40, 70:90] = 1
    (kidney,) = findings_of(np.zeros(SHAPE, np.int16), labels).kidneys
    assert kidney.cut_by_scan == ends


# ------------------------------------------------------------------------------------------ parts, networks


def test_specks_count_to_the_nearest_tumor_of_their_kidney() -> None:
    labels = np.zeros((20, 30, 60), np.uint8)
    labels[2:18, 5:25, 5:55] = 1
    labels[5:11, 8:14, 8:14] = 2  # 216 mm³
    labels[5:10, 8:13, 40:44] = 2  # 100 mm³, as many as a tumor has at least
    labels[8, 10, 38] = 2  # one voxel, near the second
    parts = take_apart(labels, (1.0, 1.0, 1.0))
    assert MIN_TUMOR_MM3 == 100
    assert np.bincount(parts.tumors.ravel())[1:].tolist() == [216, 101]
    findings = measure(ct_of(np.zeros(labels.shape, np.int16), (1.0, 1.0, 1.0)), labels, parts)
    assert [t.ml for t in findings.tumors] == [0.22, 0.1]
    assert findings.tumors[1].largest_extent_mm < 10  # of the tumor, not to the speck and back
    assert sum(np.bincount(parts.tumors.ravel())[1:]) == np.count_nonzero(labels == 2)


def test_the_nearest_tumor_is_nearest_in_millimetres() -> None:
    labels = np.ones((10, 15, 30), np.uint8)
    labels[2:4, 5:10, 5:9] = 2  # 40 voxels of 5 mm³
    labels[5:8, 5:10, 12:16] = 2  # 60
    labels[6, 7, 7] = 2  # three slices from the first, 15 mm, and five columns from the second, 5 mm
    tumors = take_apart(labels, (5.0, 1.0, 1.0)).tumors
    assert np.bincount(tumors.ravel())[1:].tolist() == [61, 40]


def test_tumors_are_numbered_from_the_largest_in_whichever_kidney() -> None:
    hu, labels = two_kidneys()
    labels[11:19, 22:38, 12:28] = 2  # 2048 voxels in the smaller kidney, 192 in the larger one
    found = [(tumor.name, tumor.kidney) for tumor in findings_of(hu, labels).tumors]
    assert found == [("tumor 1", "right kidney"), ("tumor 2", "left kidney")]


def test_a_kidney_with_specks_alone_has_one_tumor() -> None:
    labels = np.ones((10, 10, 10), np.uint8)
    labels[2, 2, 2] = labels[7, 7, 7] = 2
    assert np.bincount(take_apart(labels, (1.0, 1.0, 1.0)).tumors.ravel()).tolist() == [998, 2]


def test_voxels_belong_to_the_nearest_structure_of_the_networks_grid() -> None:
    """Two kidneys that touch in the CT and were apart on the coarser grid."""
    ids = np.zeros((4, 4, 8), np.uint8)
    ids[1:3, 1:3, 1:4], ids[1:3, 1:3, 4:7] = 2, 1
    labels = np.zeros((8, 8, 16), np.uint8)
    labels[1:7, 1:7, 1:15] = 1
    roi = Roi(RoiSpec((4, 4, 8), 2.0), (0.5, 0.5, 0.5), (2.0, 2.0, 2.0))
    parts = take_apart(labels, (1.0, 1.0, 1.0), ids, roi)
    assert (parts.kidneys[:, :, :7] == 2).all()
    assert (parts.kidneys[:, :, 7:] == 1).all()


def test_the_largest_kidney_with_its_tumors_comes_first() -> None:
    """A tumor that was added may have made the second one the largest."""
    ids = np.zeros((4, 4, 8), np.uint8)
    ids[1:3, 1:3, 1:3], ids[1:3, 1:3, 4:8] = 1, 2
    labels = np.kron(ids > 0, np.ones((2, 2, 2))).astype(np.uint8)
    roi = Roi(RoiSpec((4, 4, 8), 2.0), (0.5, 0.5, 0.5), (2.0, 2.0, 2.0))
    parts = take_apart(labels, (1.0, 1.0, 1.0), ids, roi)
    assert np.bincount(parts.kidneys.ravel()).tolist()[1:] == [4 * 4 * 8, 4 * 4 * 4]


def test_a_structure_without_a_voxel_in_the_ct_has_no_number() -> None:
    ids = np.zeros((4, 4, 12), np.uint8)
    ids[1:3, 1:3, 1:4], ids[1:3, 1:3, 5:7], ids[1:3, 1:3, 8:10] = 1, 2, 3
    labels = ((ids == 1) | (ids == 3)).astype(np.uint8)
    kidneys = take_apart(labels, (1.0, 1.0, 1.0), ids, identity_roi(ids.shape)).kidneys  # type: ignore[arg-type]
    assert np.bincount(kidneys.ravel())[1:].tolist() == [2 * 2 * 3, 2 * 2 * 2]


def test_more_structures_than_a_byte_holds_stay_apart() -> None:
    labels = np.zeros((3, 3, 1201), np.uint8)
    labels[1, 1, 1::4] = 1
    kidneys = take_apart(labels, (1.0, 1.0, 1.0)).kidneys
    assert np.bincount(kidneys.ravel()).tolist()[1:] == [1] * 300


def test_probabilities_are_means_over_the_structure() -> None:
    hu, labels = two_kidneys()
    kidney = np.where(labels == 1, 0.9, np.where(labels == 2, 0.6, 0.0)).astype(np.float32)
    kidney[16:18][labels[16:18] == 2] = 0.3  # half of the tumor is no kidney to the kidney network
    tumor = np.where(labels == 2, 0.8, 0.1).astype(np.float32)
    networks = Probabilities(identity_roi(SHAPE), kidney, tumor, labels > 0)
    found = findings_of(hu, labels, networks=networks)
    assert [k.mean_probability for k in found.kidneys] == [0.9, 0.9]
    (mass,) = found.tumors
    assert (mass.mean_probability, mass.share_inside_kidney) == (0.8, 0.5)


def test_a_tumors_probability_is_a_mean_over_the_kidneys_own_voxels() -> None:
    """CT voxel x lies between ROI voxels x − 1 and x; the kidney begins with ROI voxel 3."""
    labels = np.zeros((4, 4, 8), np.uint8)
    labels[1:3, 1:3, 3:7] = 2
    roi = Roi(RoiSpec((4, 4, 8), 1.0), (0.0, 0.0, 0.5), (1.0, 1.0, 1.0))
    inside = np.zeros(labels.shape, bool)
    inside[:, :, 3:] = True
    tumor = np.where(inside, 0.8, 0.3).astype(np.float32)
    networks = Probabilities(roi, tumor, tumor, inside)
    (mass,) = findings_of(np.zeros(labels.shape, np.int16), labels, networks=networks).tumors
    assert mass.mean_probability == 0.8


@pytest.mark.parametrize(("start", "size", "is_cut"), [(8.0, 84, True), (7.0, 86, False)])
def test_a_kidney_within_3_mm_of_the_regions_end_may_go_on_beyond(
    start: float, size: int, is_cut: bool
) -> None:
    """Columns 10 to 89 hold kidneys; the region begins at column 7.5 or 6.5 and ends at 91.5 or 92.5."""
    hu, labels = two_kidneys()
    region = Roi(RoiSpec((40, 60, size), 1.0), (0.0, 0.0, start), (1.0, 1.0, 1.0))
    nothing = np.zeros(region.spec.shape_vox, np.float32)
    found = findings_of(hu, labels, networks=Probabilities(region, nothing, nothing, nothing > 0))
    assert [kidney.cut_by_region for kidney in found.kidneys] == [is_cut, is_cut]


def test_a_kidney_at_the_end_of_the_networks_region_is_told() -> None:
    hu, labels = two_kidneys()
    region = Roi(RoiSpec((40, 60, 50), 1.0), (0.0, 0.0, 40.0), (1.0, 1.0, 1.0))
    inside = np.zeros(region.spec.shape_vox, bool)
    ends = Probabilities(region, inside.astype(np.float32), inside.astype(np.float32), inside)
    left, right = findings_of(hu, labels, networks=ends).kidneys
    assert left.cut_by_region  # which ends at x = 90 with it, and the CT has 100
    assert right.cut_by_region  # lies before its beginning


def test_a_region_that_ends_with_the_ct_cuts_no_kidney() -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[:20, :40, :30] = labels[20:, 20:, 60:] = 1
    nothing = np.zeros(SHAPE, np.float32)
    whole = Probabilities(identity_roi(SHAPE), nothing, nothing, labels > 0)
    found = findings_of(np.zeros(SHAPE, np.int16), labels, networks=whole)
    assert [kidney.cut_by_region for kidney in found.kidneys] == [False, False]


def test_nothing_is_nothing() -> None:
    found = findings_of(np.zeros(SHAPE, np.int16), np.zeros(SHAPE, np.uint8))
    assert (found.kidneys, found.tumors) == ((), ())


def test_a_kidney_that_is_all_tumor_has_no_mean() -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[10:20, 20:40, 60:90] = 2
    (kidney,) = findings_of(np.zeros(SHAPE, np.int16), labels).kidneys
    assert (kidney.ml, kidney.hu_mean, kidney.hu_sd) == (0, None, None)


# ------------------------------------------------------------------------------------------------------- CSV


def test_a_row_a_structure() -> None:
    found = findings_of(*two_kidneys())
    case = CaseReport("a, b", "/in/a", "a.nii")
    case.kidneys, case.tumors = ([asdict(part) for part in parts] for parts in (found.kidneys, found.tumors))
    rows = list(csv.DictReader(io.StringIO(findings_csv([case]))))
    assert [row["structure"] for row in rows] == ["left kidney", "right kidney", "tumor 1"]
    assert all(tuple(row) == COLUMNS and row["case"] == "a, b" for row in rows)
    for row, part in zip(rows, [*case.kidneys, *case.tumors], strict=True):
        for key, value in part.items():
            if key in COLUMNS and not isinstance(value, list):
                assert row[key] == ("" if value is None else str(value)), key
        assert [row[f"{axis}_lps_mm"] for axis in "xyz"] == [str(v) for v in part["centroid_lps_mm"]]
    assert [rows[0][f"box_{axis}_max_mm"] for axis in "xyz"] == [
        str(v) for v in case.kidneys[0]["box_lps_mm"][1]
    ]
    assert rows[2]["cut_by_scan"] == rows[0]["axial_diameter_mm"] == ""
    json.dumps([case.kidneys, case.tumors], allow_nan=False)


def test_no_case_is_a_header() -> None:
    assert findings_csv([]).splitlines() == [",".join(COLUMNS)]
