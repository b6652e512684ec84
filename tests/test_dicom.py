"""Folders of DICOM files: which series they hold, in what order slices lie, and their Hounsfield units."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless

from inference.formats import dicom
from inference.formats.ct import CaseError, read_ct
from inference.formats.dicom import _overlap
from inference.formats.dicom_file import DicomFile, Kind, look
from inference.runner.cases import find_cases
from tests.helpers import save_dicom_series
from tests.robustness.odd_dicom import change, save_enhanced, save_picture

SPACING_MM = (3.0, 0.8, 0.7)
HU = (np.arange(4 * 5 * 6).reshape(4, 5, 6) * 8 - 1000).astype(np.int16)
"""(z, y, x), no two voxels alike."""
LPS_CORNER = np.array([[-0.7, 0, 0, 11], [0, -0.8, 0, 22], [0, 0, 3, 33], [0, 0, 0, 1]])
"""RAS affine of the helpers' series: origin (-11, -22, 33) in LPS."""


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGLSLossless])
def test_frames_lie_where_their_groups_say(tmp_path: Path, order: list[int], syntax: str) -> None:
    save_enhanced(tmp_path / "s" / "IM1", order, hu=HU, spacing_mm=SPACING_MM, syntax=syntax)
    ct = read_ct(tmp_path / "s")
    np.testing.assert_array_equal(ct.hu, HU)
    np.testing.assert_allclose(ct.native.affine, LPS_CORNER, atol=1e-9)
    assert ct.warnings == ()


def test_slices_of_one_value_each_are_rescaled_each_by_its_own_header(tmp_path: Path) -> None:
    """Stored 10 everywhere: slopes 1, 2, 0.5 and 1, intercepts -1000, 0, 7.2 and 40 → -990, 20, 12.2, 50."""
    folder = save_dicom_series(tmp_path / "s", np.zeros((4, 5, 6), np.int16), spacing_mm=SPACING_MM)
    rescale = [(1, -1000), (2, 0), (0.5, 7.2), (1, 40)]

    def edit(k: int, one: pydicom.Dataset) -> None:
        one.PixelRepresentation, one.PixelData = 0, np.full((5, 6), 10, "<u2").tobytes()
        one.RescaleSlope, one.RescaleIntercept = rescale[k]

    change(folder, edit)
    assert [np.unique(plane).tolist() for plane in read_ct(folder).hu] == [[-990], [20], [12], [50]]


def test_monochrome1_changes_no_value(tmp_path: Path) -> None:
    folder = save_dicom_series(tmp_path / "s", HU, spacing_mm=SPACING_MM)
    change(folder, lambda k, one: setattr(one, "PhotometricInterpretation", "MONOCHROME1"))
    np.testing.assert_array_equal(read_ct(folder).hu, HU)


def test_signed_values_in_twelve_bits_of_sixteen(tmp_path: Path) -> None:
    """0xF for bits above the value's own: 0xFFFF is -1, 0xF800 is -2048, 0x07FF is 2047."""
    folder = save_dicom_series(tmp_path / "s", HU[:, :2, :2].copy(), spacing_mm=SPACING_MM)

    def edit(k: int, one: pydicom.Dataset) -> None:
        one.PixelRepresentation, one.BitsStored, one.HighBit, one.RescaleIntercept = 1, 12, 11, 0
        one.PixelData = np.array([0xFFFF, 0xF800, 0x07FF, 0xA00A], "<u2").tobytes()

    change(folder, edit)
    assert read_ct(folder).hu[0].ravel().tolist() == [-1, -2048, 2047, 10]


@pytest.mark.parametrize(
    ("values", "overlap"),
    [
        ("aaaabbbb", False),
        ("abababab", True),
        ("aaabbaab", True),
        ("aaabaaaa", False),  # a single odd one is no volume
        ("abcdefgh", False),
        ("aaaaaaaa", False),
        ("aabbccaa", True),
    ],
)
def test_groups_that_lie_in_each_other(values: str, overlap: bool) -> None:
    assert _overlap(values) is overlap


def test_two_series_are_two_cases_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "ann"
    save_dicom_series(folder, HU, spacing_mm=SPACING_MM, series_uid="1.2.1", tags={"0020|0011": "7"})
    save_dicom_series(
        folder, HU + 1, spacing_mm=SPACING_MM, series_uid="1.2.9", stem="b", tags={"0020|0011": "3"}
    )
    save_picture(folder, "dose.dcm")
    cases = find_cases(tmp_path)
    assert [(case.name, case.output.as_posix(), case.series) for case in cases] == [
        ("ann_1", "ann_1.nii.gz", "1.2.9"),
        ("ann_2", "ann_2.nii.gz", "1.2.1"),
    ]
    for case, first in zip(cases, (-999, -1000), strict=True):
        ct = read_ct(case.source, series=case.series)
        assert ct.hu[0, 0, 0] == first
        assert len(ct.native.dicom_files) == 4
    with pytest.raises(CaseError, match="holds 2 DICOM series of a CT, not one"):
        read_ct(folder)


def test_headers_are_read_once_for_all_series_and_again_when_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Path] = []

    def counting_look(path: Path) -> DicomFile:
        looked.append(path)
        return look(path)

    monkeypatch.setattr(dicom, "look", counting_look)
    for number in range(3):
        save_dicom_series(
            tmp_path, HU, spacing_mm=SPACING_MM, series_uid=f"1.2.3.{number}", stem=f"S{number}_"
        )
    for case in find_cases(tmp_path):
        assert read_ct(case.source, series=case.series).hu.shape == HU.shape
    assert len(looked) == 3 * len(HU)
    (tmp_path / "S0_0021.dcm").unlink()
    assert read_ct(tmp_path, series="1.2.3.0").hu.shape[0] == len(HU) - 1
    for intercept in (-1000, -1001):  # the second time in files as large as before
        change(tmp_path, lambda k, one, to=intercept: setattr(one, "RescaleIntercept", to), stem="S1")
        assert read_ct(tmp_path, series="1.2.3.1").hu[0, 0, 0] == HU[0, 0, 0] + 1024 + intercept


def test_a_damaged_series_costs_no_other_one(tmp_path: Path) -> None:
    folder = tmp_path / "ann"
    save_dicom_series(folder, HU, spacing_mm=SPACING_MM, series_uid="1.2.1")
    save_dicom_series(folder, HU, spacing_mm=SPACING_MM, series_uid="1.2.2", stem="b")
    cut = sorted(folder.glob("b*"))[1]
    cut.write_bytes(cut.read_bytes()[:-20])
    np.testing.assert_array_equal(read_ct(folder, series="1.2.1").hu, HU)
    with pytest.raises(CaseError, match=f"{cut.name}: a field claims more than the file holds"):
        read_ct(folder, series="1.2.2")


def test_what_a_file_is(tmp_path: Path) -> None:
    (ct,) = save_dicom_series(tmp_path / "a", HU[:1]).iterdir()
    save_picture(tmp_path, "page.dcm")
    save_picture(tmp_path, "sr.dcm", "1.2.840.10008.5.1.4.1.1.88.11", Modality="SR")
    save_picture(tmp_path, "dicomdir", "1.2.840.10008.1.3.10")
    mr = next(save_dicom_series(tmp_path / "b", HU[:1], tags={"0008|0060": "MR"}).iterdir())
    assert [look(path).kind for path in (ct, tmp_path / "page.dcm", tmp_path / "sr.dcm", mr)] == [
        *(Kind.CT, Kind.NO_CT, Kind.NO_CT, Kind.OTHER_IMAGE)
    ]
    assert look(tmp_path / "dicomdir").kind is Kind.DIRECTORY
    rubbish = tmp_path / "x.dcm"
    rubbish.write_bytes(bytes(128) + b"DICM" + bytes(range(256)) * 4)
    assert look(rubbish).kind is not Kind.NO_CT  # nothing is raised, and somebody is told


def test_a_study_counts_what_it_passes_over(tmp_path: Path) -> None:
    save_dicom_series(tmp_path, HU)
    save_picture(tmp_path, "page.dcm")
    (tmp_path / "empty.dcm").touch()
    found = dicom.study(tmp_path)
    assert (len(found.series), found.n_no_ct, found.n_unreadable) == (1, 1, 1)
    assert read_ct(tmp_path).warnings == tuple(found.warnings)
