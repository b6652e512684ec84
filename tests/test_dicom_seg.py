"""DICOM segmentation objects, read back by readers that are not ours."""

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from inference import cli
from inference.formats.ct import CaseError, NativeGrid, read_ct, write_label_map
from inference.formats.segments import COLOURS, Segment, Segments, plain_segments
from inference.runner.cases import Case, UsageError
from inference.runner.outputs import as_format
from tests.dicom_readers import iod_errors
from tests.helpers import (
    ABDOMEN_SPACING_MM,
    abdomen,
    files_under,
    invoke,
    load_nifti,
    reorient,
    rotation,
    save_abdomens,
    save_dicom_series,
)

pydicom = pytest.importorskip("pydicom", reason="NO HIGHDICOM: DICOM SEG IS NOT TESTED")
hd = pytest.importorskip("highdicom", reason="NO HIGHDICOM: DICOM SEG IS NOT TESTED")

from inference.formats.dicom_seg import write_dicom_seg  # noqa: E402
from inference.formats.rtstruct import write_rtstruct  # noqa: E402

KIDNEY, TUMOR = ("64033007", "SCT"), ("126880001", "SCT")
SPACING_MM = (4.0, 0.8, 0.6)
TILTED = rotation(0, 0, 12)[:3, :3] @ rotation(8, 0, 0)[:3, :3]
DIRECTIONS = {
    "axial": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    "prone": ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0)),
    "head first, turned": ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),  # slices run to inferior
    "coronal": ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0)),
    "sagittal": ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0)),
    "oblique": (tuple(TILTED[:, 0]), tuple(TILTED[:, 1])),
}


def some_labels(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """No symmetry, slices without a label, more voxels than a multiple of eight."""
    labels = np.random.default_rng(5).integers(0, 3, shape, dtype=np.uint8)
    labels[: shape[0] // 3] = 0
    return labels


def some_segments(shape: tuple[int, ...]) -> Segments:
    return plain_segments(some_labels(shape))


def write_both(
    tmp_path: Path, labels: NDArray[np.uint8] | None = None, **series: Any
) -> tuple[Path, Path, NDArray[np.uint8]]:
    """The segmentation, the same labels as NIfTI, and their array in the NIfTI's order."""
    hu = np.arange(6 * 5 * 7).reshape(6, 5, 7).astype(np.int16) - 1000
    folder = save_dicom_series(tmp_path / "ct", hu, spacing_mm=SPACING_MM, **series)
    ct = read_ct(folder)
    if labels is None:
        labels = some_labels(ct.hu.shape)
    write_label_map(tmp_path / "labels.nii.gz", labels, ct.native)
    write_dicom_seg(tmp_path / "labels.dcm", plain_segments(labels), ct.native, folder, version="early-1")
    nifti = np.asarray(load_nifti(tmp_path / "labels.nii.gz").dataobj)
    return tmp_path / "labels.dcm", tmp_path / "labels.nii.gz", nifti


def labels_by_place(path: Path, affine: NDArray, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """A segmentation's voxels on another grid, from its raw bits and DICOM's equation C.7.6.2.1-1 alone."""
    dataset = pydicom.dcmread(path)
    rows, columns, n_frames = dataset.Rows, dataset.Columns, int(dataset.NumberOfFrames)
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
    frames = bits[: n_frames * rows * columns].reshape(n_frames, rows, columns)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    row_mm, column_mm = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    found = np.zeros(shape, np.uint8)
    to_index = np.linalg.inv(affine)
    for frame, group in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        segment = int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        position = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        for row, column in np.argwhere(frame):
            lps = position + column * column_mm * orientation[:3] + row * row_mm * orientation[3:]
            index = to_index @ [-lps[0], -lps[1], lps[2], 1]
            np.testing.assert_allclose(index, np.rint(index), atol=0.01)
            i, j, k = np.rint(index[:3]).astype(int)
            assert found[i, j, k] == 0, "a voxel in two segments"
            found[i, j, k] = segment
    return found


@pytest.mark.parametrize("name", DIRECTIONS)
def test_voxels_lie_where_the_niftis_do(tmp_path: Path, name: str) -> None:
    row_direction, column_direction = DIRECTIONS[name]
    segmentation, nifti, expected = write_both(
        tmp_path, row_direction=row_direction, column_direction=column_direction
    )
    assert np.unique(expected).tolist() == [0, 1, 2]
    found = labels_by_place(segmentation, load_nifti(nifti).affine, expected.shape)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_highdicoms_reader_gives_the_same_volume(tmp_path: Path, name: str) -> None:
    row_direction, column_direction = DIRECTIONS[name]
    segmentation, nifti, expected = write_both(
        tmp_path, row_direction=row_direction, column_direction=column_direction
    )
    volume = hd.seg.segread(segmentation).get_volume(combine_segments=True, dtype=np.uint8)
    ours = hd.Volume(
        expected, affine=np.diag([-1, -1, 1, 1]) @ load_nifti(nifti).affine, coordinate_system="PATIENT"
    )
    # slices without a label are left out at both ends, so its grid is a part of ours, along other axes
    np.testing.assert_array_equal(volume.match_geometry(ours).array, expected)


def dcmqi(path: Path, folder: Path) -> list[Path]:
    """What dcmqi's segimage2itkimage makes of it: a volume a segment, and meta.json."""
    program = shutil.which("segimage2itkimage", path=Path(sys.executable).parent)
    if program is None:
        pytest.skip("NO DCMQI: ITS READER IS NOT TRIED")
    folder.mkdir()
    command = [program, "--inputDICOM", path, "--outputDirectory", folder, "--outputType", "nrrd"]
    subprocess.run([*command, "--prefix", "s"], check=True, capture_output=True)
    return sorted(folder.glob("*.nrrd"))


def test_dcmqis_reader_gives_the_same_volume_and_codes(tmp_path: Path) -> None:
    segmentation, nifti, _ = write_both(tmp_path)
    expected = sitk.ReadImage(str(nifti))
    volumes = dcmqi(segmentation, tmp_path / "dcmqi")
    assert len(volumes) == 2
    for label, path in enumerate(volumes, start=1):
        found = sitk.Resample(sitk.ReadImage(str(path)), expected, sitk.Transform(), sitk.sitkNearestNeighbor)
        np.testing.assert_array_equal(
            sitk.GetArrayFromImage(found) > 0, sitk.GetArrayFromImage(expected) == label
        )
    (kidney, tumor) = json.loads((tmp_path / "dcmqi" / "s-meta.json").read_text())["segmentAttributes"]
    assert kidney[0]["SegmentedPropertyTypeCodeSequence"]["CodeValue"] == KIDNEY[0]
    assert tumor[0]["SegmentedPropertyTypeCodeSequence"]["CodeValue"] == TUMOR[0]


LABELS = {"both": [0, 1, 2], "kidney alone": [0, 1], "tumor alone": [0, 2], "none": [0]}


@pytest.mark.parametrize("name", LABELS)
def test_empty_segments_are_described_and_the_object_is_valid(tmp_path: Path, name: str) -> None:
    labels = some_labels((6, 5, 7))
    labels[~np.isin(labels, LABELS[name])] = 0
    segmentation, nifti, expected = write_both(tmp_path, labels)
    assert iod_errors(segmentation, "Segmentation") == []
    dataset = pydicom.dcmread(segmentation)
    types = [s.SegmentedPropertyTypeCodeSequence[0] for s in dataset.SegmentSequence]
    assert [(c.CodeValue, c.CodingSchemeDesignator) for c in types] == [KIDNEY, TUMOR]
    found = labels_by_place(segmentation, load_nifti(nifti).affine, expected.shape)
    np.testing.assert_array_equal(found, expected)


def test_dciodvfy_does_find_an_error(tmp_path: Path) -> None:
    segmentation, _, _ = write_both(tmp_path)
    dataset = pydicom.dcmread(segmentation)
    del dataset.SegmentationType
    dataset.save_as(segmentation)
    assert any("SegmentationType" in line for line in iod_errors(segmentation, "Segmentation"))


def test_it_refers_to_the_instances_that_lie_under_its_frames(tmp_path: Path) -> None:
    segmentation, _, _ = write_both(tmp_path)
    sources = {d.SOPInstanceUID: d for d in map(pydicom.dcmread, (tmp_path / "ct").iterdir())}
    dataset = pydicom.dcmread(segmentation)
    source = next(iter(sources.values()))
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "StudyDate"):
        assert dataset[keyword].value == source[keyword].value, keyword
    assert dataset.SeriesInstanceUID != source.SeriesInstanceUID
    (series,) = dataset.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    assert {i.ReferencedSOPInstanceUID for i in series.ReferencedInstanceSequence} == set(sources)
    for group in dataset.PerFrameFunctionalGroupsSequence:
        (image,) = group.DerivationImageSequence[0].SourceImageSequence
        under = sources[image.ReferencedSOPInstanceUID].ImagePositionPatient
        assert group.PlanePositionSequence[0].ImagePositionPatient == under


def test_it_tells_the_algorithm_and_its_version(tmp_path: Path) -> None:
    segmentation, _, _ = write_both(tmp_path)
    for segment in pydicom.dcmread(segmentation).SegmentSequence:
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("nested-vnet-kits19", "early-1")


SIDED = (
    Segment("Left kidney", "kidney", "left"),
    Segment("Right kidney", "kidney", "right"),
    Segment("Tumor 1 (left kidney)", "tumor", "left"),
)


def write_sided(tmp_path: Path, name: str = "sided.dcm") -> Path:
    """Three segments of known sides on the series that `write_both` makes."""
    write_both(tmp_path)
    ct = read_ct(tmp_path / "ct")
    numbers = np.random.default_rng(6).integers(0, 4, ct.hu.shape, dtype=np.uint8)
    path = tmp_path / name
    write_dicom_seg(path, Segments(numbers, SIDED), ct.native, tmp_path / "ct", version="early-1")
    return path


def test_segments_have_sides_colours_and_tracking_uids(tmp_path: Path) -> None:
    path = write_sided(tmp_path)
    assert iod_errors(path, "Segmentation") == []
    left, right, tumor = pydicom.dcmread(path).SegmentSequence

    def code(sequence: Any) -> tuple[str, str]:
        (item,) = sequence
        return item.CodingSchemeDesignator, item.CodeValue

    sides = {"left": ("SCT", "7771000"), "right": ("SCT", "24028007")}
    for segment, side in ((left, "left"), (right, "right")):
        (kind,) = segment.SegmentedPropertyTypeCodeSequence
        assert code(kind.SegmentedPropertyTypeModifierCodeSequence) == sides[side]
    (region,) = tumor.AnatomicRegionSequence
    assert code(region.AnatomicRegionModifierSequence) == sides["left"]
    for segment, described in zip((left, right, tumor), SIDED, strict=True):
        colour = hd.color.CIELabColor.from_dicom_value(segment.RecommendedDisplayCIELabValue).to_rgb()
        assert np.abs(np.subtract(colour, COLOURS[described.kind])).max() <= 1
        assert segment.SegmentLabel == segment.TrackingID == described.name
    uids = {segment.TrackingUID for segment in (left, right, tumor)}
    assert len(uids) == 3
    again = pydicom.dcmread(write_sided(tmp_path, "again.dcm"))
    assert {segment.TrackingUID for segment in again.SegmentSequence} == uids
    assert again.SOPInstanceUID != pydicom.dcmread(path).SOPInstanceUID


def test_dcmqi_reads_sides_colours_and_tracking_uids(tmp_path: Path) -> None:
    path = write_sided(tmp_path)
    assert len(dcmqi(path, tmp_path / "dcmqi")) == 3
    read = [
        item[0] for item in json.loads((tmp_path / "dcmqi" / "s-meta.json").read_text())["segmentAttributes"]
    ]
    assert [s["SegmentLabel"] for s in read] == [segment.name for segment in SIDED]
    assert [s["SegmentedPropertyTypeModifierCodeSequence"]["CodeMeaning"] for s in read[:2]] == [
        "Left",
        "Right",
    ]
    assert read[2]["AnatomicRegionModifierSequence"]["CodeMeaning"] == "Left"
    for segment, described, uid in zip(read, SIDED, pydicom.dcmread(path).SegmentSequence, strict=True):
        assert np.abs(np.subtract(segment["recommendedDisplayRGBValue"], COLOURS[described.kind])).max() <= 2
        assert segment["TrackingUniqueIdentifier"] == uid.TrackingUID


def test_slices_keep_their_positions_where_they_are_unevenly_spaced(tmp_path: Path) -> None:
    z_mm = [33.0, 37.0, 41.0, 49.0, 53.0, 57.0]  # one is missing
    labels = np.zeros((6, 5, 7), np.uint8)
    labels[range(6), 2, range(6)] = 1  # slice k has one voxel, in column k
    segmentation, _, _ = write_both(tmp_path, labels, z_mm=z_mm)
    dataset = pydicom.dcmread(segmentation)
    frames = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")[: 6 * 5 * 7]
    for frame, group in zip(frames.reshape(6, 5, 7), dataset.PerFrameFunctionalGroupsSequence, strict=True):
        ((_, column),) = np.argwhere(frame)
        assert float(group.PlanePositionSequence[0].ImagePositionPatient[2]) == z_mm[column]


def test_a_grid_that_counts_slices_from_the_other_end_gives_the_same_object(tmp_path: Path) -> None:
    _, nifti, expected = write_both(tmp_path)
    native = read_ct(tmp_path / "ct").native
    _, affine = reorient(np.empty(native.shape), native.affine, ((0, 1, 2), (False, False, True)))
    turned = NativeGrid(native.shape, affine)
    path = tmp_path / "turned.dcm"
    write_dicom_seg(path, some_segments((6, 5, 7)), turned, tmp_path / "ct", version="early-1")
    found = labels_by_place(path, load_nifti(nifti).affine, expected.shape)
    np.testing.assert_array_equal(found, expected)


def edit_slices(folder: Path, **changes: object) -> None:
    """Set attributes of every image; None removes one."""
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        for keyword, value in changes.items():
            if value is None:
                del dataset[keyword]
            else:
                setattr(dataset, keyword, value)
        dataset.save_as(path)


def test_a_series_without_a_frame_of_reference_is_told_so(tmp_path: Path) -> None:
    write_both(tmp_path)
    edit_slices(tmp_path / "ct", FrameOfReferenceUID=None)
    ct = read_ct(tmp_path / "ct")
    with pytest.raises(CaseError, match=r"IM\d+\.dcm: lacks FrameOfReferenceUID"):
        write_dicom_seg(
            tmp_path / "x.dcm",
            plain_segments(some_labels(ct.hu.shape)),
            ct.native,
            tmp_path / "ct",
            version="1",
        )
    assert not (tmp_path / "x.dcm").exists()


def test_what_else_lies_in_the_folder_is_no_source(tmp_path: Path) -> None:
    segmentation, _, _ = write_both(tmp_path)
    before, folder = pydicom.dcmread(segmentation), tmp_path / "ct"
    ct = read_ct(folder)
    image = pydicom.dcmread(next(folder.iterdir()))
    image.save_as(folder / "copy.dcm")
    image.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]  # a localiser
    image.SOPInstanceUID += ".1"
    image.save_as(folder / "localiser.dcm")
    image = pydicom.dcmread(folder / "copy.dcm")
    image.Modality, image.SOPInstanceUID = "MR", image.SOPInstanceUID + ".2"
    image.save_as(folder / "mr.dcm")
    (folder / "notes.txt").write_text("seen")
    (folder / "empty").mkdir()
    write_dicom_seg(segmentation, some_segments(ct.hu.shape), ct.native, folder, version="early-1")
    after = pydicom.dcmread(segmentation)
    assert after.ReferencedSeriesSequence == before.ReferencedSeriesSequence
    assert after.PixelData == before.PixelData


def test_a_series_with_a_slice_too_few_is_told_so(tmp_path: Path) -> None:
    write_both(tmp_path)
    ct = read_ct(tmp_path / "ct")
    next((tmp_path / "ct").iterdir()).unlink()
    with pytest.raises(CaseError, match="5 images for 6 slices"):
        write_dicom_seg(
            tmp_path / "x.dcm",
            plain_segments(some_labels(ct.hu.shape)),
            ct.native,
            tmp_path / "ct",
            version="1",
        )


def test_slices_with_one_uid_cannot_be_referred_to(tmp_path: Path) -> None:
    write_both(tmp_path)
    edit_slices(tmp_path / "ct", SOPInstanceUID="1.2.3")
    ct = read_ct(tmp_path / "ct")
    with pytest.raises(CaseError, match="has another slice's SOP instance UID"):
        write_dicom_seg(
            tmp_path / "x.dcm", some_segments(ct.hu.shape), ct.native, tmp_path / "ct", version="1"
        )


def test_it_refers_to_the_one_series_of_several_that_was_read(tmp_path: Path) -> None:
    """Without preambles, too."""
    segmentation, _, _ = write_both(tmp_path)
    before, folder = pydicom.dcmread(segmentation), tmp_path / "ct"
    hu = np.zeros((6, 5, 7), np.int16)
    save_dicom_series(folder, hu, spacing_mm=SPACING_MM, series_uid="1.2.9", stem="b")
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[132:])
    ct = read_ct(folder, series=before.ReferencedSeriesSequence[0].SeriesInstanceUID)
    write_dicom_seg(segmentation, some_segments(ct.hu.shape), ct.native, folder, version="early-1")
    assert pydicom.dcmread(segmentation).ReferencedSeriesSequence == before.ReferencedSeriesSequence


def test_attributes_that_anonymising_drops_are_written_empty(tmp_path: Path) -> None:
    write_both(tmp_path)
    edit_slices(tmp_path / "ct", PatientID=None, PatientName=None, StudyTime=None, PatientBirthDate=None)
    ct = read_ct(tmp_path / "ct")
    path = tmp_path / "x.dcm"
    write_dicom_seg(path, some_segments(ct.hu.shape), ct.native, tmp_path / "ct", version="1" * 100)
    assert pydicom.dcmread(path).PatientID in (None, "")
    assert iod_errors(path, "Segmentation") == []


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientBirthDate", "00000000"),
        ("PatientBirthDate", "1960"),
        ("StudyDate", "REMOVED"),
        ("StudyTime", "12:30:00"),
        ("PatientSex", "X"),
    ],
)
@pytest.mark.parametrize("write", [write_dicom_seg, write_rtstruct])
@pytest.mark.filterwarnings("ignore:.*[Ii]nvalid value")
def test_what_anonymising_leaves_in_a_date_or_sex_is_written_empty(
    tmp_path: Path, keyword: str, value: str, write: Any
) -> None:
    write_both(tmp_path)
    edit_slices(tmp_path / "ct", **{keyword: value})
    ct = read_ct(tmp_path / "ct")
    write(tmp_path / "x.dcm", some_segments(ct.hu.shape), ct.native, tmp_path / "ct", version="1")
    assert pydicom.dcmread(tmp_path / "x.dcm").get(keyword) in (None, "")


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("", "Doe^Jane"),
        ("ISO_IR 999", "Doe^Jane"),
        ("ISO_IR 100", "Müller^Jörg"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),  # PS3.5, H.3.1
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),  # PS3.5, I.2
    ],
)
@pytest.mark.parametrize("write", [write_dicom_seg, write_rtstruct])
@pytest.mark.filterwarnings("ignore:.*(U|u)nknown encoding")
def test_names_are_the_sources_whatever_its_character_set(
    tmp_path: Path, character_set: str | list[str], name: str, write: Any
) -> None:
    write_both(tmp_path)
    edit_slices(tmp_path / "ct", SpecificCharacterSet=character_set)
    edit_slices(tmp_path / "ct", PatientName=name, ReferringPhysicianName=name)
    ct = read_ct(tmp_path / "ct")
    write(tmp_path / "x.dcm", some_segments(ct.hu.shape), ct.native, tmp_path / "ct", version="1")
    written = pydicom.dcmread(tmp_path / "x.dcm")
    assert (written.PatientName, written.ReferringPhysicianName) == (name, name)


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SOPClassUID"])
def test_an_empty_uid_cannot_be_referred_to(tmp_path: Path, keyword: str) -> None:
    write_both(tmp_path)
    edit_slices(tmp_path / "ct", **{keyword: ""})
    ct = read_ct(tmp_path / "ct")
    with pytest.raises(CaseError, match=f"lacks {keyword}"):
        write_dicom_seg(
            tmp_path / "x.dcm", some_segments(ct.hu.shape), ct.native, tmp_path / "ct", version="1"
        )


# ------------------------------------------------------------------------------------------------ the command


@pytest.fixture
def run(weights_folder: Path, _untouched_process: None) -> Any:
    return partial(invoke, cli.main, "--weights", weights_folder, "--output-format", "dicom-seg")


def test_the_command_writes_what_it_writes_as_nifti(run: Any, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    save_dicom_series(source / "scan", abdomen(), spacing_mm=ABDOMEN_SPACING_MM)
    assert run("--input", source, "--output", out).exit_code == 0
    assert run("--input", source, "--output", out, "--output-format", "label-map").exit_code == 0
    assert files_under(out) == ["scan.dcm", "scan.nii.gz"]
    nifti = load_nifti(out / "scan.nii.gz")
    expected = np.asarray(nifti.dataobj)
    assert np.unique(expected).tolist() == [0, 1, 2]
    numbers = labels_by_place(out / "scan.dcm", nifti.affine, expected.shape)
    described = pydicom.dcmread(out / "scan.dcm").SegmentSequence
    assert [s.SegmentLabel for s in described] == ["Left kidney", "Right kidney", "Tumor 1 (left kidney)"]
    np.testing.assert_array_equal(np.array([0, 1, 1, 2])[numbers], expected)
    assert iod_errors(out / "scan.dcm", "Segmentation") == []


def test_an_input_that_is_no_series_is_2_before_any_work(run: Any, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    save_dicom_series(source / "scan", abdomen(), spacing_mm=ABDOMEN_SPACING_MM)
    save_abdomens(source, 1)
    result = run("--input", source, "--output", out)
    assert result.exit_code == 2
    assert "ct_0.nii.gz: is no DICOM series" in result.stderr
    assert not out.exists()


def test_without_highdicom_it_is_2_and_says_what_to_install(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    monkeypatch.delitem(sys.modules, "inference.formats.dicom_seg")
    save_dicom_series(tmp_path / "in" / "scan", abdomen(), spacing_mm=ABDOMEN_SPACING_MM)
    result = run("--input", tmp_path / "in", "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert "highdicom is not installed. Install the extra 'dicom'" in result.stderr
    assert files_under(tmp_path / "out") == []


def test_outputs_are_called_after_the_series() -> None:
    here = Path(__file__).parent
    cases = [Case("a", here, Path("ward/a.b.nii.gz")), Case("c", here, Path("images/slug/c.mha"))]
    assert [c.output.as_posix() for c in as_format(cases, "dicom-seg")] == [
        "ward/a.b.dcm",
        "images/slug/c.dcm",
    ]
    with pytest.raises(UsageError, match="is no DICOM series"):
        as_format([Case("a", Path(__file__), Path("a.nii.gz"))], "dicom-seg")
