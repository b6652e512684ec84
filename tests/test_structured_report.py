"""The findings as a DICOM structured report, read back by pydicom and highdicom, checked by dciodvfy."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from inference import cli
from tests.dicom_readers import iod_errors
from tests.helpers import ABDOMEN_SPACING_MM, FAT_HU, abdomen, files_under, invoke, save_dicom_series

pydicom = pytest.importorskip("pydicom", reason="NO HIGHDICOM: STRUCTURED REPORTS ARE NOT TESTED")
hd = pytest.importorskip("highdicom", reason="NO HIGHDICOM: STRUCTURED REPORTS ARE NOT TESTED")


@pytest.fixture
def run(weights_folder: Path, _untouched_process: None) -> Any:
    return partial(invoke, cli.main, "--weights", weights_folder, "--structured-report")


def write_one(run: Any, tmp_path: Path, **changes: Any) -> tuple[Path, dict]:
    """A report, and what report.json says of its case."""
    hu = abdomen(**changes)
    save_dicom_series(tmp_path / "in" / "scan", hu, spacing_mm=ABDOMEN_SPACING_MM)
    words = ["--input", tmp_path / "in", "--output", tmp_path / "out", "--report", tmp_path / "r.json"]
    result = run(*words, "--output-format", "dicom-seg")
    assert result.exit_code == 0, result.stderr
    assert files_under(tmp_path / "out") == ["scan.dcm", "scan.sr.dcm"]
    return tmp_path / "out" / "scan.sr.dcm", json.loads((tmp_path / "r.json").read_text())["cases"][0]


def test_every_number_is_the_reports(run: Any, tmp_path: Path) -> None:
    path, case = write_one(run, tmp_path)
    report = hd.sr.srread(path)
    groups = report.content.get_volumetric_roi_measurement_groups()
    structures = [*case["kidneys"], *case["tumors"]]
    assert len(groups) == len(structures) == 3
    for group, structure in zip(groups, structures, strict=True):
        values = {}
        for measurement in group.get_measurements():
            derivation = measurement.derivation.meaning if measurement.derivation else ""
            values[measurement.name.meaning, derivation] = (float(measurement.value), measurement.unit.value)
        expected = {
            ("Volume", ""): (structure["ml"], "ml"),
            ("Attenuation Coefficient", "Mean"): (structure["hu_mean"], "[hnsf'U]"),
            ("Attenuation Coefficient", "Standard Deviation"): (structure["hu_sd"], "[hnsf'U]"),
        }
        if "axial_diameter_mm" in structure:
            expected["Long Axis", ""] = (structure["axial_diameter_mm"], "mm")
            expected["Maximum 3D Diameter of a Mesh", ""] = (structure["largest_extent_mm"], "mm")
        assert values == expected
        (site,) = group.finding_sites
        assert site.laterality.meaning.lower() == structure["side"]
        assert structure["name"].lower() in group.tracking_identifier.lower()


def test_it_refers_to_the_segments_beside_it(run: Any, tmp_path: Path) -> None:
    path, _ = write_one(run, tmp_path)
    segmentation = pydicom.dcmread(tmp_path / "out" / "scan.dcm")
    report = hd.sr.srread(path)
    assert report.StudyInstanceUID == segmentation.StudyInstanceUID
    for number, group in enumerate(report.content.get_volumetric_roi_measurement_groups(), start=1):
        segment = group.referenced_segment
        assert segment.referenced_sop_instance_uid == segmentation.SOPInstanceUID
        assert list(segment.referenced_segment_numbers) == [number]
        assert group.tracking_uid == segmentation.SegmentSequence[number - 1].TrackingUID
        assert (
            group.finding_type.value
            == segmentation.SegmentSequence[number - 1].SegmentedPropertyTypeCodeSequence[0].CodeValue
        )


def test_the_object_is_valid(run: Any, tmp_path: Path) -> None:
    path, _ = write_one(run, tmp_path)
    assert iod_errors(path, "Comprehensive3DSR") == []
    dataset = pydicom.dcmread(path)
    assert dataset.ContentTemplateSequence[0].TemplateIdentifier == "1500"


def test_a_case_without_kidneys_has_a_report_that_says_so(run: Any, tmp_path: Path) -> None:
    hu = abdomen().clip(max=FAT_HU)
    save_dicom_series(tmp_path / "in" / "scan", hu, spacing_mm=ABDOMEN_SPACING_MM)
    result = run("--input", tmp_path / "in", "--output", tmp_path / "out", "--output-format", "dicom-seg")
    assert result.exit_code == 0, result.stderr
    path = tmp_path / "out" / "scan.sr.dcm"
    assert iod_errors(path, "Comprehensive3DSR") == []
    groups = hd.sr.srread(path).content.get_volumetric_roi_measurement_groups()
    assert [group.tracking_identifier for group in groups] == ["Kidney", "Kidney tumor"]
    assert [float(m.value) for group in groups for m in group.get_measurements()] == [0, 0]


def test_without_a_segmentation_it_is_2(run: Any, tmp_path: Path) -> None:
    save_dicom_series(tmp_path / "in" / "scan", abdomen(), spacing_mm=ABDOMEN_SPACING_MM)
    result = run("--input", tmp_path / "in", "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert "Add --output-format dicom-seg" in result.stderr
    assert "highdicom" in sys.modules


def test_a_report_that_fails_leaves_no_segmentation_either(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_dicom_series(tmp_path / "in" / "scan", abdomen(), spacing_mm=ABDOMEN_SPACING_MM)
    words = ["--input", tmp_path / "in", "--output", tmp_path / "out", "--output-format", "dicom-seg"]

    def broken(*arguments: object, **keywords: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("inference.formats.structured_report.write_structured_report", broken)
        assert run(*words).exit_code == 1
    assert files_under(tmp_path / "out") == []
    assert run(*words, "--skip-existing").exit_code == 0
    assert files_under(tmp_path / "out") == ["scan.dcm", "scan.sr.dcm"]


def test_a_segmentation_without_its_report_is_made_again(run: Any, tmp_path: Path) -> None:
    path, _ = write_one(run, tmp_path)
    path.unlink()
    words = ["--input", tmp_path / "in", "--output", tmp_path / "out", "--output-format", "dicom-seg"]
    assert run(*words, "--skip-existing").exit_code == 0
    assert path.is_file()
