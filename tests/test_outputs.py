"""What the command writes beside label maps, for sample cases and with the shipped weights."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from evaluation.metrics import dice
from inference import cli
from inference.formats.ct import read_ct
from inference.runner.findings import Findings, measure, take_apart
from inference.runner.outputs import MAX_SEGMENTS, segments_of
from tests.dicom_readers import iod_errors, plastimatch_masks
from tests.helpers import (
    ABDOMEN_SPACING_MM,
    abdomen,
    canonical_affine,
    files_under,
    invoke,
    load_nifti,
    save_abdomens,
    save_dicom_series,
    save_nifti,
    save_sitk,
)
from tests.test_page import Text

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ("thick_slices.nii.gz", "oblique.mha")
pytestmark = pytest.mark.usefixtures("_untouched_process")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sample cases, with everything that the command can say about them."""
    folder = tmp_path_factory.mktemp("samples")
    (folder / "in").mkdir()
    for name in SAMPLES:
        (folder / "in" / name).symlink_to(ROOT / "test_data" / "input" / name)
    words = ["--input", folder / "in", "--output", folder / "out", "--report", folder / "report.json"]
    words += ["--findings", folder / "findings.csv", "--html", folder / "page.html"]
    result = invoke(cli.main, *words, "--previews", folder / "previews")
    assert result.exit_code == 0, result.stderr
    assert f"page: {folder / 'page.html'}" in result.stderr
    return folder


def test_report_csv_page_and_label_maps_say_the_same(samples: Path) -> None:
    cases = json.loads((samples / "report.json").read_text())["cases"]
    rows = list(csv.DictReader((samples / "findings.csv").open()))
    page = Text((samples / "page.html").read_text(encoding="utf-8"))
    run_rows = {row[0]: row for row in page.tables[0][1:]}
    assert {case["name"] for case in cases} == {"thick_slices", "oblique"} == set(run_rows)
    for case in cases:
        labels = read_ct(samples / "out" / case["output"])
        voxel_ml = float(np.prod(labels.spacing_mm)) / 1000
        for label, name, parts in ((1, "kidney", case["kidneys"]), (2, "tumor", case["tumors"])):
            ml = np.count_nonzero(labels.hu == label) * voxel_ml
            assert case[f"{name}_ml"] == pytest.approx(ml, abs=0.006)
            assert sum(part["ml"] for part in parts) == pytest.approx(ml, abs=0.02)
            listed = [r for r in rows if (r["case"], r["kind"]) == (case["name"], name)]
            assert [float(r["ml"]) for r in listed] == [part["ml"] for part in parts]
        assert float(run_rows[case["name"]][2]) == case["kidney_ml"]
        assert float(run_rows[case["name"]][5]) == case["tumor_ml"]
        # measured once more on the label map alone
        ct = read_ct(Path(case["source"]))
        again = measure(ct, labels.hu.astype(np.uint8), take_apart(labels.hu.astype(np.uint8), ct.spacing_mm))
        for ours, theirs in ((case["kidneys"], again.kidneys), (case["tumors"], again.tumors)):
            assert [part["ml"] for part in ours] == [part.ml for part in theirs]
            assert [part["centroid_lps_mm"] for part in ours] == [part.centroid_lps_mm for part in theirs]
        assert (samples / "previews" / f"{case['name']}.png").is_file()


def test_the_samples_tumors_are_as_large_as_their_references(samples: Path) -> None:
    compared = []
    for case in json.loads((samples / "report.json").read_text())["cases"]:
        truth = read_ct(ROOT / "test_data" / "reference" / case["output"])
        labels = truth.hu.astype(np.uint8)
        predicted = read_ct(samples / "out" / case["output"]).hu
        if dice(predicted == 2, labels == 2) < 0.8:
            continue  # the networks miss part of it: nothing to compare
        compared.append(case["name"])
        (true,) = measure(truth, labels, take_apart(labels, truth.spacing_mm)).tumors
        found = case["tumors"][0]  # the largest; each kidney keeps its own largest one, be it a speck
        assert (found["kidney"], found["side"]) == (true.kidney, true.side)
        assert found["axial_diameter_mm"] == pytest.approx(true.axial_diameter_mm, rel=0.2)
        np.testing.assert_allclose(found["centroid_lps_mm"], true.centroid_lps_mm, atol=6)
    assert "thick_slices" in compared


def test_dicom_outputs_of_a_sample_agree_with_its_label_map(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom", reason="NO HIGHDICOM: DICOM OUTPUTS ARE NOT TESTED")
    pytest.importorskip("highdicom", reason="NO HIGHDICOM: DICOM OUTPUTS ARE NOT TESTED")
    ct = read_ct(ROOT / "test_data" / "input" / "thick_slices.nii.gz")
    save_dicom_series(tmp_path / "in" / "scan", ct.hu, spacing_mm=ct.spacing_mm)
    words: list[Any] = ["--input", tmp_path / "in", "--output", tmp_path / "out", "--output-format"]
    for more in (["label-map"], ["dicom-seg", "--structured-report"], ["rtstruct"]):
        result = invoke(cli.main, *words, *more, "--report", tmp_path / "report.json")
        assert result.exit_code == 0, result.stderr
    assert files_under(tmp_path / "out") == ["scan.dcm", "scan.nii.gz", "scan.rtstruct.dcm", "scan.sr.dcm"]
    (case,) = json.loads((tmp_path / "report.json").read_text())["cases"]
    names = [s["name"] for s in (*case["kidneys"], *case["tumors"])]
    classes = ("Segmentation", "RTStructureSet", "Comprehensive3DSR")
    for name, iod in zip(("scan.dcm", "scan.rtstruct.dcm", "scan.sr.dcm"), classes, strict=True):
        assert iod_errors(tmp_path / "out" / name, iod) == []
    labels = sitk.ReadImage(str(tmp_path / "out" / "scan.nii.gz"))
    structure_set = tmp_path / "out" / "scan.rtstruct.dcm"
    masks = plastimatch_masks(structure_set, tmp_path / "in" / "scan", tmp_path / "masks")
    regions = pydicom.dcmread(structure_set).StructureSetROISequence
    assert len(masks) == len(regions) == len(names)
    found = np.zeros(labels.GetSize()[::-1], np.uint8)
    for region in regions:
        mask = sitk.ReadImage(str(masks[region.ROIName]))
        mask = sitk.Resample(mask, labels, sitk.Transform(), sitk.sitkNearestNeighbor)
        voxels = sitk.GetArrayFromImage(mask) > 0
        found[voxels] = 2 if region.ROIName.startswith("Tumor") else 1
        assert np.count_nonzero(voxels) * np.prod(ct.spacing_mm) / 1000 == pytest.approx(
            float(region.ROIVolume), abs=0.006
        )
    np.testing.assert_array_equal(found, sitk.GetArrayFromImage(labels))


# ---------------------------------------------------------------------------------------------------- options


def test_two_options_that_name_one_file_are_2(weights_folder: Path, tmp_path: Path) -> None:
    save_abdomens(tmp_path / "in", 1)
    words = ["--weights", weights_folder, "--input", tmp_path / "in", "--output", tmp_path / "out"]
    result = invoke(cli.main, *words, "--findings", tmp_path / "a", "--html", tmp_path / "a")
    assert result.exit_code == 2
    assert "--findings and --html name one file" in result.stderr


def test_two_cts_that_a_format_would_write_to_one_file_are_2(weights_folder: Path, tmp_path: Path) -> None:
    save_sitk(tmp_path / "in" / "ct.mha", abdomen(), ABDOMEN_SPACING_MM)
    save_nifti(tmp_path / "in" / "ct.nii.gz", abdomen(), canonical_affine(ABDOMEN_SPACING_MM))
    words = ["--weights", weights_folder, "--input", tmp_path / "in", "--output", tmp_path / "out"]
    result = invoke(cli.main, *words, "--output-format", "seg-nrrd")
    assert result.exit_code == 2
    assert "would both write ct.seg.nrrd" in result.stderr
    assert files_under(tmp_path) == ["in", "in/ct.mha", "in/ct.nii.gz"]
    assert invoke(cli.main, *words).exit_code == 0  # label maps keep their CTs' endings
    assert files_under(tmp_path / "out") == ["ct.mha", "ct.nii.gz"]


def test_a_name_that_is_no_utf8_costs_nothing(weights_folder: Path, tmp_path: Path) -> None:
    save_abdomens(tmp_path / "in", 2)
    odd = os.fsdecode(b"a\xfc.nii.gz")
    (tmp_path / "in" / "ct_0.nii.gz").rename(tmp_path / "in" / odd)
    words = ["--weights", weights_folder, "--input", tmp_path / "in", "--output", tmp_path / "out"]
    files = [tmp_path / name for name in ("f.csv", "r.json", "p.html")]
    result = invoke(cli.main, *words, "--findings", files[0], "--report", files[1], "--html", files[2])
    assert result.exit_code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {odd, "ct_1.nii.gz"}
    assert b"\na\xfc,left kidney,kidney," in files[0].read_bytes()


def test_a_record_that_fails_in_any_way_ends_no_run(
    weights_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_abdomens(tmp_path / "in", 2)

    def broken(path: Path, cases: Any) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr(cli, "write_findings", broken)
    words = ["--weights", weights_folder, "--input", tmp_path / "in", "--output", tmp_path / "out"]
    result = invoke(cli.main, *words, "--findings", tmp_path / "f.csv")
    assert result.exit_code == 1
    assert "f.csv: not written (KeyError: 'surprise'). This is a bug" in result.stderr
    assert files_under(tmp_path / "out") == ["ct_0.nii.gz", "ct_1.nii.gz"]


@pytest.mark.parametrize("option", ["--html", "--findings"])
def test_a_folder_is_no_file(weights_folder: Path, tmp_path: Path, option: str) -> None:
    save_abdomens(tmp_path / "in", 1)
    words = ["--weights", weights_folder, "--input", tmp_path / "in", "--output", tmp_path / "out"]
    result = invoke(cli.main, *words, option, tmp_path)
    assert result.exit_code == 2
    assert f"is a folder. Name a file for {option}" in result.stderr


@pytest.mark.parametrize("option", ["--report", "--html", "--findings"])
def test_a_device_is_no_file(weights_folder: Path, tmp_path: Path, option: str) -> None:
    save_abdomens(tmp_path / "in", 1)
    (tmp_path / "null").symlink_to("/dev/null")
    words = ["--weights", weights_folder, "--input", tmp_path / "in", "--output", tmp_path / "out"]
    result = invoke(cli.main, *words, option, tmp_path / "null")
    assert result.exit_code == 2
    assert f"null: is no regular file. Name one for {option}" in result.stderr
    assert (tmp_path / "null").is_symlink()


def test_a_page_that_cannot_be_written_costs_no_label_map(weights_folder: Path, tmp_path: Path) -> None:
    save_abdomens(tmp_path / "in", 1)
    words = ["--weights", weights_folder, "--input", tmp_path / "in", "--output", tmp_path / "out"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inference.runner.page.Page.write", _no_space)
        result = invoke(cli.main, *words, "--html", tmp_path / "page.html")
    assert result.exit_code == 1
    assert "page.html: not written (No space left on device)" in result.stderr
    labels = np.asarray(load_nifti(tmp_path / "out" / "ct_0.nii.gz").dataobj)
    assert labels.any()


def _no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_where_nothing_is_found_a_segment_of_each_kind_says_so() -> None:
    labels = np.zeros((4, 4, 4), np.uint8)
    segments = segments_of(labels, Findings(take_apart(labels, (1.0, 1.0, 1.0))))
    assert [(s.kind, s.measures) for s in segments.described] == [("kidney", {"ml": 0}), ("tumor", {"ml": 0})]
    assert not segments.numbers.any()


def test_confetti_is_written_as_plain_labels() -> None:
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[1, 1, 1] = 2
    many: Any = (None,) * (MAX_SEGMENTS + 1)
    findings = Findings(take_apart(labels, (1.0, 1.0, 1.0)), tumors=many)
    np.testing.assert_array_equal(segments_of(labels, findings).numbers, labels)
