"""DICOM RT structure sets, read back by readers that are not ours."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray

from inference import cli
from inference.formats.ct import CaseError, read_ct, write_label_map
from inference.formats.segments import COLOURS, Segment, Segments, plain_segments
from tests.dicom_readers import iod_errors, plastimatch_masks
from tests.helpers import (
    ABDOMEN_SPACING_MM,
    abdomen,
    files_under,
    invoke,
    load_nifti,
    rotation,
    save_dicom_series,
)

pydicom = pytest.importorskip("pydicom", reason="NO PYDICOM: RT STRUCTURE SETS ARE NOT TESTED")

from inference.formats.rtstruct import write_rtstruct  # noqa: E402

SPACING_MM = (4.0, 0.8, 0.6)
TILTED = rotation(8, 0, 12)[:3, :3]
DIRECTIONS = {
    "axial": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    "coronal": ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0)),
    "oblique": (tuple(TILTED[:, 0]), tuple(TILTED[:, 1])),
}
DESCRIBED = (
    Segment("Left kidney", "kidney", "left", {"ml": 1.5}),
    Segment("Tumor 1 (left kidney)", "tumor", "left"),
)


def write_one(tmp_path: Path, labels: NDArray[np.uint8], **series: Any) -> tuple[Path, Path]:
    """A structure set, and the same labels as NIfTI."""
    hu = np.arange(labels.size).reshape(labels.shape).astype(np.int16) - 1000
    folder = save_dicom_series(tmp_path / "ct", hu, spacing_mm=SPACING_MM, **series)
    ct = read_ct(folder)
    path = tmp_path / "labels.rtstruct.dcm"
    numbers = labels if labels.shape == ct.hu.shape else np.resize(labels, ct.hu.shape)
    write_rtstruct(path, Segments(numbers, DESCRIBED), ct.native, folder, version="early-1")
    write_label_map(tmp_path / "labels.nii.gz", numbers, ct.native)
    return path, tmp_path / "labels.nii.gz"


def random_labels() -> NDArray[np.uint8]:
    """Holes, specks, voxels that touch at corners, and slices without any."""
    labels = np.random.default_rng(5).integers(0, 3, (6, 9, 11), dtype=np.uint8)
    labels[:2] = 0
    return labels


def filled(path: Path, nifti: Any) -> NDArray[np.uint8]:
    """A structure set on a NIfTI's grid: pydicom's points, filled by matplotlib."""
    dataset = pydicom.dcmread(path)
    found = np.zeros(nifti.shape, np.uint8)
    to_index = np.linalg.inv(nifti.affine)
    centres = np.argwhere(np.ones(nifti.shape[:2], bool))
    for region in dataset.ROIContourSequence:
        for contour in region.ContourSequence:
            lps = np.array(contour.ContourData, float).reshape(-1, 3)
            assert len(lps) == contour.NumberOfContourPoints
            index = np.c_[lps * (-1, -1, 1), np.ones(len(lps))] @ to_index.T
            assert np.ptp(index[:, 2]) < 1e-3  # in one slice
            k = round(float(index[0, 2]))
            inside = Polygon(index[:, :2]).contains_points(centres).reshape(nifti.shape[:2])
            assert not found[:, :, k][inside].any(), "a voxel in two outlines"
            found[:, :, k][inside] = region.ReferencedROINumber
    return found


@pytest.mark.parametrize("name", DIRECTIONS)
def test_filled_outlines_are_the_label_map(tmp_path: Path, name: str) -> None:
    row_direction, column_direction = DIRECTIONS[name]
    path, nifti = write_one(
        tmp_path, random_labels(), row_direction=row_direction, column_direction=column_direction
    )
    image = load_nifti(nifti)
    np.testing.assert_array_equal(filled(path, image), np.asarray(image.dataobj))


def test_plastimatch_gives_the_same_voxels_names_and_volumes(tmp_path: Path) -> None:
    path, nifti = write_one(tmp_path, random_labels())
    masks = plastimatch_masks(path, tmp_path / "ct", tmp_path / "masks")
    assert set(masks) == {segment.name for segment in DESCRIBED}
    expected = sitk.ReadImage(str(nifti))
    for number, segment in enumerate(DESCRIBED, start=1):
        found = sitk.ReadImage(str(masks[segment.name]))
        found = sitk.Resample(found, expected, sitk.Transform(), sitk.sitkNearestNeighbor)
        np.testing.assert_array_equal(
            sitk.GetArrayFromImage(found) > 0, sitk.GetArrayFromImage(expected) == number
        )


def test_the_object_is_valid_and_says_what_it_is(tmp_path: Path) -> None:
    path, _ = write_one(tmp_path, random_labels())
    assert iod_errors(path, "RTStructureSet") == []
    dataset = pydicom.dcmread(path)
    source = pydicom.dcmread(next((tmp_path / "ct").iterdir()))
    assert dataset.StudyInstanceUID == source.StudyInstanceUID
    assert dataset.SoftwareVersions == "early-1"
    assert [roi.ROIName for roi in dataset.StructureSetROISequence] == [s.name for s in DESCRIBED]
    assert [str(roi.get("ROIVolume", "")) for roi in dataset.StructureSetROISequence] == ["1.5", ""]
    assert [tuple(roi.ROIDisplayColor) for roi in dataset.ROIContourSequence] == list(
        map(tuple, COLOURS.values())
    )
    kidney, tumor = dataset.RTROIObservationsSequence
    assert (kidney.RTROIInterpretedType, tumor.RTROIInterpretedType) == ("ORGAN", "")
    for item, value in ((kidney, "64033007"), (tumor, "126880001")):
        (code,) = item.RTROIIdentificationCodeSequence
        assert code.CodeValue == value
        assert code.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert kidney.TrackingUID != tumor.TrackingUID


def test_nothing_is_an_object_without_regions(tmp_path: Path) -> None:
    path, _ = write_one(tmp_path, np.zeros((6, 9, 11), np.uint8))
    assert len(pydicom.dcmread(path).StructureSetROISequence) == 0


def test_a_series_without_a_position_is_told_so(tmp_path: Path) -> None:
    write_one(tmp_path, random_labels())
    ct = read_ct(tmp_path / "ct")
    next((tmp_path / "ct").iterdir()).unlink()
    with pytest.raises(CaseError, match="5 images for 6 slices"):
        write_rtstruct(
            tmp_path / "x.dcm", plain_segments(random_labels()), ct.native, tmp_path / "ct", version="1"
        )
    assert not (tmp_path / "x.dcm").exists()


@pytest.mark.usefixtures("_untouched_process")
def test_the_command_writes_what_it_writes_as_nifti(weights_folder: Path, tmp_path: Path) -> None:
    save_dicom_series(tmp_path / "in" / "scan", abdomen(), spacing_mm=ABDOMEN_SPACING_MM)
    for name in ("rtstruct", "label-map"):
        words = ("--weights", weights_folder, "--output-format", name, "--input", tmp_path / "in")
        result = invoke(cli.main, *words, "--output", tmp_path / "out")
        assert result.exit_code == 0, result.stderr
    assert files_under(tmp_path / "out") == ["scan.nii.gz", "scan.rtstruct.dcm"]
    image = load_nifti(tmp_path / "out" / "scan.nii.gz")
    numbers = filled(tmp_path / "out" / "scan.rtstruct.dcm", image)
    np.testing.assert_array_equal(np.array([0, 1, 1, 2])[numbers], np.asarray(image.dataobj))
    assert iod_errors(tmp_path / "out" / "scan.rtstruct.dcm", "RTStructureSet") == []
    for region in pydicom.dcmread(tmp_path / "out" / "scan.rtstruct.dcm").StructureSetROISequence:
        voxels = np.count_nonzero(numbers == region.ROINumber)
        assert float(region.ROIVolume) == pytest.approx(
            voxels * np.prod(ABDOMEN_SPACING_MM) / 1000, abs=0.006
        )


def test_an_input_that_is_no_series_is_2(weights_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"")
    words = ("--weights", weights_folder, "--output-format", "rtstruct", "--input", tmp_path / "a.nii.gz")
    result = invoke(cli.main, *words, "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert "a.nii.gz: is no DICOM series, and --output-format rtstruct must refer to one" in result.stderr
