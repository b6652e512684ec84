"""Segmentations for 3D Slicer, read by its own makers' reader, and label descriptions for ITK-SNAP."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from inference import cli
from inference.formats.segmentation_nrrd import write_segmentation_nrrd
from inference.formats.segments import COLOURS, plain_segments
from inference.formats.volume import NativeGrid
from tests.helpers import (
    abdomen,
    canonical_affine,
    files_under,
    invoke,
    load_nifti,
    orientations,
    reorient,
    rotation,
    save_nifti,
)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def written(weights_folder: Path, _untouched_process: None, tmp_path: Path) -> tuple[Path, Path]:
    """A .seg.nrrd and the label map of an oblique CT in odd axes."""
    affine = rotation(7, -12, 15) @ canonical_affine((5.0, 3.0, 2.5), (10.0, -20.0, 30.0))
    hu, turned = reorient(abdomen(), affine, ((2, 0, 1), (True, False, True)))
    save_nifti(tmp_path / "in" / "ct.nii.gz", hu, turned)
    for name in ("seg-nrrd", "label-map"):
        words = ("--weights", weights_folder, "--output-format", name, "--input", tmp_path / "in")
        result = invoke(cli.main, *words, "--output", tmp_path / "out")
        assert result.exit_code == 0, result.stderr
    assert files_under(tmp_path / "out") == ["ct.nii.gz", "ct.seg.nrrd"]
    return tmp_path / "out" / "ct.seg.nrrd", tmp_path / "out" / "ct.nii.gz"


def test_slicers_reader_gives_names_colours_terminology_and_voxels(written: tuple[Path, Path]) -> None:
    slicerio = pytest.importorskip("slicerio", reason="NO SLICERIO: .SEG.NRRD IS NOT READ BACK BY IT")
    path, nifti = written
    read = slicerio.read_segmentation(str(path))
    segments = read["segments"]
    assert [s["name"] for s in segments] == ["Left kidney", "Right kidney", "Tumor 1 (left kidney)"]
    assert [s["labelValue"] for s in segments] == [1, 2, 3]
    left, right, tumor = (segment["terminology"] for segment in segments)
    assert left["type"] == right["type"] == ["SCT", "64033007", "Kidney"]
    assert (left["typeModifier"][2], right["typeModifier"][2]) == ("Left", "Right")
    assert tumor["type"][1] == "126880001"
    assert (tumor["anatomicRegion"][2], tumor["anatomicRegionModifier"][2]) == ("Kidney", "Left")
    for segment, kind in zip(segments, ("kidney", "kidney", "tumor"), strict=True):
        np.testing.assert_allclose(np.array(segment["color"]) * 255, COLOURS[kind], atol=0.01)  # type: ignore[index]
    image = load_nifti(nifti)
    np.testing.assert_array_equal(np.array([0, 1, 1, 2])[read["voxels"]], np.asarray(image.dataobj))
    np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ read["ijkToLPS"], image.affine, atol=1e-4)


def test_voxels_lie_where_the_niftis_do(written: tuple[Path, Path]) -> None:
    path, nifti = (sitk.ReadImage(str(p)) for p in written)
    assert path.GetSize() == nifti.GetSize()
    np.testing.assert_allclose(path.GetOrigin(), nifti.GetOrigin(), atol=1e-3)
    np.testing.assert_allclose(path.GetDirection(), nifti.GetDirection(), atol=1e-5)


def test_all_axes(tmp_path: Path) -> None:
    labels = np.random.default_rng(2).integers(0, 3, (3, 4, 5), dtype=np.uint8)
    affine = canonical_affine((3.0, 2.0, 1.0))
    for orientation in orientations():
        stored, turned = reorient(labels, affine, orientation)
        native = NativeGrid(stored.shape, turned)  # type: ignore[arg-type]
        write_segmentation_nrrd(tmp_path / "a.seg.nrrd", plain_segments(labels), native)
        image = sitk.ReadImage(str(tmp_path / "a.seg.nrrd"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, stored)
    assert files_under(tmp_path) == ["a.seg.nrrd"]


def test_nothing_is_a_segmentation_without_segments(tmp_path: Path) -> None:
    native = NativeGrid((3, 4, 5), canonical_affine((3.0, 2.0, 1.0)))
    write_segmentation_nrrd(tmp_path / "a.seg.nrrd", plain_segments(np.zeros((3, 4, 5), np.uint8)), native)
    assert not any(
        key.startswith("Segment0") for key in sitk.ReadImage(str(tmp_path / "a.seg.nrrd")).GetMetaDataKeys()
    )


def test_itk_snaps_label_file_is_what_the_colours_are() -> None:
    """ITK-SNAP's columns: index, red, green, blue, opacity, two flags, name."""
    text = (ROOT / "docs" / "kits19.label.txt").read_text(encoding="utf-8")
    rows = [line.split(maxsplit=7) for line in text.splitlines() if not line.startswith("#")]
    assert rows == [
        ["0", "0", "0", "0", "0", "0", "0", '"Background"'],
        ["1", *map(str, COLOURS["kidney"]), "1", "1", "1", '"Kidney"'],
        ["2", *map(str, COLOURS["tumor"]), "1", "1", "1", '"Tumor"'],
    ]
