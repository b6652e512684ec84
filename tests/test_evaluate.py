"""The evaluation command on folders of label maps, and the checker of submissions."""

import csv
import json
import locale
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from evaluation.cli import main
from evaluation.evaluate import case_name, find_label_maps, read_label_map, score_case
from evaluation.metrics import REGIONS
from evaluation.submission import find_references
from inference.formats.ct import CaseError
from inference.geometry import RoiSpec
from tests.helpers import invoke, reorient, save_nifti

ROOT = Path(__file__).resolve().parent.parent
AFFINE = np.diag([-2.0, -2.0, 3.0, 1.0])
KITS19_LABELS = Path(os.environ.get("KITS19_LABELS", "/nowhere"))
"""Folder with `case_XXXXX/segmentation.nii.gz`, for who has the real ones."""


def _labels() -> NDArray[np.uint8]:
    labels = np.zeros((40, 40, 20), dtype=np.uint8)
    labels[5:15, 5:15, 5:15] = 1
    labels[25:35, 5:15, 5:15] = 1
    labels[10:15, 5:10, 5:10] = 2
    return labels


def _save(path: Path, labels: NDArray, affine: NDArray = AFFINE) -> Path:
    return save_nifti(path, labels.astype(np.uint8), affine)


Change = Callable[[NDArray], NDArray]


def _folders(tmp_path: Path, *changes: Change) -> tuple[Path, Path]:
    """A prediction by each change of one reference, as cases 0, 1, 2 …, and the references."""
    for number, change in enumerate(changes):
        _save(tmp_path / "truth" / f"case_{number:05d}" / "segmentation.nii.gz", _labels())
        _save(tmp_path / "predicted" / f"prediction_{number:05d}.nii.gz", change(_labels()))
    return tmp_path / "predicted", tmp_path / "truth"


_call = partial(invoke, main)


def _same(labels: NDArray) -> NDArray:
    return labels


def _no_tumor(labels: NDArray) -> NDArray:
    return np.minimum(labels, 1)


def _empty(labels: NDArray) -> NDArray:
    return np.zeros_like(labels)


def _half(labels: NDArray) -> NDArray:
    """One of the two kidneys, the one with the tumor."""
    labels = labels.copy()
    labels[20:] = 0
    return labels


def test_names_of_all_layouts_meet() -> None:
    names = (
        "prediction_00210.nii.gz",
        "case_00210.nii.gz",
        "case_00210_0000.mha",
        "case_00210/segmentation.nii.gz",
        "case_00210/aggregated_MAJ_seg.nii.gz",
        "case_00210.NII.GZ",
    )
    assert {case_name(Path(name)) for name in names} == {"00210"}


def test_images_beside_label_maps_are_passed_over_and_two_of_one_case_are_refused(tmp_path: Path) -> None:
    _save(tmp_path / "case_00001" / "segmentation.nii.gz", _labels())
    _save(tmp_path / "case_00001" / "imaging.nii.gz", _labels())
    assert list(find_label_maps(tmp_path)) == ["00001"]
    _save(tmp_path / "prediction_00001.nii.gz", _labels())
    with pytest.raises(ValueError, match="both case 00001"):
        find_label_maps(tmp_path)


def test_totalsegmentators_cases_go_by_their_folders(tmp_path: Path) -> None:
    """So inference writes them; their references may be called otherwise."""
    for case in ("s0001", "s0002"):
        _save(tmp_path / "predicted" / case / "ct.nii.gz", _labels())
    _save(tmp_path / "truth" / "s0001" / "ct.nii.gz", _labels())
    _save(tmp_path / "truth" / "s0002.nii.gz", _labels())
    assert find_label_maps(tmp_path / "predicted").keys() == find_label_maps(tmp_path / "truth").keys()
    assert [*find_label_maps(tmp_path / "predicted" / "s0001")] == ["ct"]
    assert _call(tmp_path / "predicted", tmp_path / "truth").exit_code == 0


def test_cases_of_one_name_go_by_their_folders(tmp_path: Path) -> None:
    """Inference mirrors the folders of its input."""
    for root in ("predicted", "truth"):
        for ward in ("ward1", "ward2/a"):
            _save(tmp_path / root / ward / "scan.nii.gz", _labels())
        _save(tmp_path / root / "ward1" / "other.nii.gz", _labels())
    _save(tmp_path / "truth" / "ward2" / "case_scan" / "segmentation.nii.gz", _labels())
    assert {*find_label_maps(tmp_path / "predicted")} == {"ward1/scan", "ward2/a/scan", "other"}
    assert {*find_label_maps(tmp_path / "truth")} == {"ward1/scan", "ward2/a/scan", "ward2/scan", "other"}
    assert _call(tmp_path / "predicted", tmp_path / "truth").exit_code == 0
    _save(tmp_path / "predicted" / "ward1" / "scan.nii", _labels())
    with pytest.raises(ValueError, match="both case ward1/scan"):
        find_label_maps(tmp_path / "predicted")


def test_only_the_segmentation_of_a_case_folder_counts(tmp_path: Path) -> None:
    _save(tmp_path / "case_00001" / "segmentation.nii.gz", _labels())
    _save(tmp_path / "case_00001" / "instances" / "tumor_instance-1_annotation-1.nii.gz", _labels())
    _save(tmp_path / ".partial" / "case_00002.nii.gz", _labels())
    assert list(find_label_maps(tmp_path)) == ["00001"]


def test_kits21s_majority_is_the_reference_of_a_case_folder(tmp_path: Path) -> None:
    """Beside it lie other aggregations and each annotator's; a KiTS23 map in the folder comes first."""
    for how in ("AND", "OR", "MAJ"):
        _save(tmp_path / "case_00001" / f"aggregated_{how}_seg.nii.gz", _labels())
    _save(tmp_path / "case_00001" / "segmentations" / "kidney_instance-1_annotation-1.nii.gz", _labels())
    _save(tmp_path / "case_00001" / "imaging.nii.gz", _labels())
    found = find_label_maps(tmp_path)
    assert {name: path.name for name, path in found.items()} == {"00001": "aggregated_MAJ_seg.nii.gz"}
    _save(tmp_path / "case_00001" / "segmentation.nii.gz", _labels())
    assert find_label_maps(tmp_path)["00001"].name == "segmentation.nii.gz"


def test_folders_without_a_common_case_are_told_by_their_cases(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for i in range(4):
        _save(tmp_path / "ours" / f"scan_{i}.nii.gz", _labels())
    _save(tmp_path / "theirs" / "scan_0_seg.nii.gz", _labels())
    assert _call(tmp_path / "ours", tmp_path / "theirs").exit_code == 2
    assert "ours (scan_0, scan_1, scan_2 …) and" in caplog.text
    assert "theirs (scan_0_seg) have no case in common" in caplog.text


def test_links_to_case_folders_are_followed(tmp_path: Path) -> None:
    _save(tmp_path / "disk" / "case_00001" / "segmentation.nii.gz", _labels())
    _save(tmp_path / "disk" / "case_00001" / "imaging.nii.gz", _labels())
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "case_00001").symlink_to(tmp_path / "disk" / "case_00001")
    assert list(find_label_maps(tmp_path / "here")) == ["00001"]
    assert find_references(tmp_path / "here")["00001"].name == "imaging.nii.gz"


def test_reports_are_utf8_whatever_the_locale(tmp_path: Path) -> None:
    predicted, truth = _folders(tmp_path, _same, _half)
    before = locale.setlocale(locale.LC_ALL)
    locale.setlocale(locale.LC_ALL, "C")  # as some library in the process may do
    try:
        done = _call(predicted, truth, "--out", tmp_path / "report.json")
    finally:
        locale.setlocale(locale.LC_ALL, before)
    assert done.exit_code == 0, done.output
    assert "±" in (tmp_path / "report.md").read_text("utf-8")


def test_the_table_by_hand(tmp_path: Path) -> None:
    predicted, truth = _folders(tmp_path, _same, _no_tumor, _half, _empty)
    out = tmp_path / "new" / "report.json"
    done = _call(predicted, truth, "--out", out)
    assert done.exit_code == 0, done.output
    kidney, tumor = [1, 1, 2 * 1000 / 3000, 0], [1, 0, 1, 0]
    mean = {"kidney": np.mean(kidney), "tumor": np.mean(tumor), "average": np.mean([kidney, tumor])}
    sd = {"kidney": np.std(kidney, ddof=1), "tumor": np.std(tumor, ddof=1),
          "average": np.std(np.mean([kidney, tumor], axis=0), ddof=1)}  # fmt: skip
    report = json.loads(out.read_text())
    (row,) = report["tables"]["native"]
    assert row["cases"] == 4
    assert row["mean"] == pytest.approx(mean)
    assert row["sd"] == pytest.approx(sd)
    assert [case["grids"]["native"]["kidney"] for case in report["cases"]] == pytest.approx(kidney)
    cells = " | ".join(f"{mean[key]:.3f} ± {sd[key]:.3f}" for key in mean)
    for text in (done.stdout, out.with_suffix(".md").read_text("utf-8")):
        assert f"| overall |     4 | {cells} |" in text
        assert "| 00002 |   - |  0.667 | 1.000 |   0.833 |" in text
    with out.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(r["native_kidney"]) for r in rows] == pytest.approx(kidney)
    with out.with_suffix(".groups.csv").open() as file:
        means = {r["score"]: float(r["mean"]) for r in csv.DictReader(file) if r["grid"] == "native"}
    assert means == pytest.approx(mean)
    assert Image.open(out.with_suffix(".png")).size[0] > 300
    assert {path.suffix for path in out.parent.iterdir()} == {".json", ".csv", ".md", ".png"}


def test_the_plot_has_a_panel_a_group_and_names_the_worst(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles, names = [], []
    monkeypatch.setattr("matplotlib.axes.Axes.set_title", lambda self, text, **_: titles.append(text))
    monkeypatch.setattr("matplotlib.axes.Axes.text", lambda self, x, y, text, **_: names.append(text))
    predicted, truth = _folders(tmp_path, _same, _no_tumor, _half, _empty)
    split = _write_split(tmp_path / "split.json", validation=[3], training=[0, 1])
    assert _call(predicted, truth, "--split", split, "--out", tmp_path / "report.json").exit_code == 0
    assert titles == ["training, 2 cases", "validation, 1 case", "overall, 4 cases"]
    assert names == ["00000", "00001", "00001", *("00003", "00002"), *("00001", "00003"), *("00003", "00001")]


def test_a_single_case_has_no_deviation(tmp_path: Path) -> None:
    predicted, truth = _folders(tmp_path, _half)
    out = tmp_path / "report.json"
    assert "| overall |     1 |  0.667 | 1.000 |   0.833 |" in _call(predicted, truth, "--out", out).stdout
    assert json.loads(out.read_text())["tables"]["native"][0]["sd"]["kidney"] is None


def _write_split(
    path: Path, *, validation: Sequence[int], training: Sequence[int] = (), fold: int = 0
) -> Path:
    names = {"training": training, "validation": validation}
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {part: [f"case_{n:05d}" for n in numbers] for part, numbers in names.items()}
    path.write_text(json.dumps({"fold": fold, **content}))
    return path


def _compact(text: str) -> str:
    """A table's lines without the blanks that align it."""
    return "\n".join(" ".join(line.split()) for line in text.splitlines())


def test_a_split_gives_training_and_validation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    predicted, truth = _folders(tmp_path, _same, _no_tumor, _half, _empty)
    split = _write_split(tmp_path / "run" / "split.json", training=[2, 9], validation=[0, 1])
    for argument in (split, split.parent):
        text = _compact(_call(predicted, truth, "--split", argument).stdout)
        assert "| training | 1 | 0.667 | 1.000 | 0.833 |" in text
        assert "| validation | 2 | 1.000 ± 0.000 | 0.500 ± 0.707 | 0.750 ± 0.354 |" in text
        assert "| overall | 4 |" in text
        assert "| 00002 | training |" in text
    assert "training: 1 of its 2 cases are not scored" in caplog.text
    assert "1 cases are in no split" in caplog.text


def test_ten_folds_give_one_table(tmp_path: Path) -> None:
    changes = [_same, _no_tumor, _half, _empty, _same, _no_tumor, _half, _empty, _same, _no_tumor]
    predicted, truth = _folders(tmp_path, *changes)
    for fold in range(10):
        others = [n for n in range(10) if n != fold]
        for stage in ("kidney", "tumor"):  # both runs of a fold write the same split
            path = tmp_path / "runs" / f"{stage}-{fold}" / "split.json"
            _write_split(path, fold=fold, validation=[fold], training=others)
    text = _compact(_call(predicted, truth, "--split", tmp_path / "runs").stdout)
    assert "| fold 3 | 1 | 0.000 | 0.000 | 0.000 |" in text
    assert "| fold 9 | 1 | 1.000 | 0.000 | 0.500 |" in text
    kidney = np.array([1, 1, 2 / 3, 0, 1, 1, 2 / 3, 0, 1, 1])
    assert f"| overall | 10 | {kidney.mean():.3f} ± {kidney.std(ddof=1):.3f} |" in text


def test_of_a_folds_own_folder_only_what_it_held_out_counts(tmp_path: Path) -> None:
    _, truth = _folders(tmp_path, _same, _same)
    splits = []
    for fold, (held_out, seen) in enumerate(((0, 1), (1, 0))):
        folder = tmp_path / "folds" / f"fold_{fold}"
        _save(folder / f"prediction_{held_out:05d}.nii.gz", _half(_labels()))
        _save(folder / f"prediction_{seen:05d}.nii.gz", _labels())  # seen in training: perfect
        path = tmp_path / f"{fold}.json"
        splits += ["--split", _write_split(path, fold=fold, validation=[held_out], training=[seen])]
    done = _call(tmp_path / "folds", truth, *splits)
    assert done.exit_code == 0, done.output
    assert "| overall | 2 | 0.667 ± 0.000 |" in _compact(done.stdout)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "no split of a training run"),
        ('{"fold": 1, "training": [], "validation": ["case_00000"]}', "both held out case 00000"),
    ],
)
def test_splits_that_make_no_sense_end_with_2(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str, message: str
) -> None:
    predicted, truth = _folders(tmp_path, _same)
    good = _write_split(tmp_path / "good.json", validation=[0])
    (tmp_path / "odd.json").write_text(content)
    assert _call(predicted, truth, "--split", good, "--split", tmp_path / "odd.json").exit_code == 2
    assert message in caplog.text


def test_sensitivity_and_precision_are_means_over_the_cases_that_have_them(tmp_path: Path) -> None:
    predicted, truth = _folders(tmp_path, _same, _no_tumor, _half, _empty)
    out = tmp_path / "report.json"
    done = _call(predicted, truth, "--sensitivity", "--roi", "--out", out)
    assert done.exit_code == 0, done.output
    report = json.loads(out.read_text())
    (row,) = report["tables"]["native"]
    shares = {key: value for key, value in row["mean"].items() if key.endswith(("sensitivity", "precision"))}
    # the second prediction has no tumor, the third one of two kidneys, the last one nothing
    assert shares == pytest.approx(
        {"kidney_sensitivity": (1 + 1 + 1 / 2 + 0) / 4, "kidney_precision": 1,
         "tumor_sensitivity": (1 + 0 + 1 + 0) / 4, "tumor_precision": 1}
    )  # fmt: skip
    assert report["cases"][1]["grids"]["native"]["tumor_precision"] is None
    assert "| 0.625 ± 0.479 |" in " ".join(done.stdout.split())
    assert Image.open(out.with_suffix(".png")).width > 0
    assert "sensitivity" not in _call(predicted, truth).stdout


def test_the_roi_is_the_papers_grid_by_hand() -> None:
    # 4 mm slices of 1 mm pixels: kidney of 24 × 24 × 24 mm, the prediction lacks half of it along x
    truth = np.zeros((100, 100, 20), dtype=np.uint8)
    truth[40:64, 40:64, 8:14] = 1
    predicted = truth.copy()
    predicted[52:] = 0
    with tempfile.TemporaryDirectory() as folder:
        affine = np.diag([-1.0, -1.0, 4.0, 1.0])
        paths = [_save(Path(folder, f"{i}.nii.gz"), a, affine) for i, a in enumerate((predicted, truth))]
        grids = score_case("one", *paths, metric="kits19", roi=RoiSpec()).grids
    assert grids["native"]["kidney"] == 2 / 3
    assert grids["roi"]["kidney"] == pytest.approx(2 / 3, abs=0.02)  # 12 voxels of 2 mm, 6 of them found
    assert grids["roi"]["tumor"] == 1


def test_the_roi_follows_the_kidneys_of_a_long_scan(tmp_path: Path) -> None:
    truth = np.zeros((30, 30, 200), dtype=np.uint8)  # 800 mm, of which the paper's grid covers 336
    truth[5:25, 5:25, 5:25] = 1
    affine = np.diag([-2.0, -2.0, 4.0, 1.0])
    paths = [_save(tmp_path / f"{i}.nii.gz", a, affine) for i, a in enumerate((truth * 0, truth))]
    assert score_case("one", *paths, metric="kits19", roi=RoiSpec()).grids["roi"]["kidney"] == 0
    assert score_case("one", paths[0], paths[0], metric="kits19", roi=RoiSpec()).grids["roi"]["kidney"] == 1


def test_roi_adds_its_table(tmp_path: Path) -> None:
    predicted, truth = _folders(tmp_path, _half)
    out = tmp_path / "report.json"
    assert "## ROI resolution" not in _call(predicted, truth).stdout
    assert "## ROI resolution" in _call(predicted, truth, "--roi", "--out", out).stdout
    assert list(json.loads(out.read_text())["tables"]) == ["native", "roi", "official"]


@pytest.mark.parametrize("metric", ["kits21", "kits23"])
def test_kits21_and_kits23_have_six_scores(tmp_path: Path, metric: str) -> None:
    predicted, truth = _folders(tmp_path, _same, _no_tumor)
    done = _call(predicted, truth, "--metric", metric)
    text = _compact(done.stdout)
    assert "kidney_and_masses | kidney_and_masses_surface | masses | masses_surface | tumor" in text
    assert "| overall | 2 | 1.000 ± 0.000 | 1.000 ± 0.000 | 0.500 ± 0.707 | 0.500 ± 0.707 |" in text
    assert "KiTS19" not in text  # whose script scores nothing here


def test_where_the_official_script_differs_both_are_told(tmp_path: Path) -> None:
    def cyst(labels: NDArray) -> NDArray:
        return np.where(labels == 2, 3, labels)

    predicted, truth = _folders(tmp_path, _same, cyst, _empty)
    _save(truth / "case_00002" / "segmentation.nii.gz", _empty(_labels()))
    out = tmp_path / "report.json"
    text = _compact(_call(predicted, truth, "--out", out).stdout)
    assert "The scores differ in 2 of 3 cases" in text
    assert "| 00001 | 1.000 | 1.000 | 0.000 | 1.000 | 0.500 | 1.000 |" in text
    assert "| 00002 | 1.000 | nan | 1.000 | nan | 1.000 | nan |" in text
    report = json.loads(out.read_text())
    assert report["cases"][2]["grids"]["official"]["kidney"] is None
    assert report["tables"]["official"][0]["mean"]["kidney"] is None  # NaN, as of its script
    assert report["tables"]["native"][0]["mean"]["kidney"] == 1
    assert "KiTS19's own script gives the same scores" in _call(*_folders(tmp_path / "same", _same)).stdout


def test_arrays_are_compared_as_stored_and_another_affine_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predicted, truth = _folders(tmp_path, _same)
    _save(predicted / "prediction_00000.nii.gz", _labels(), AFFINE @ np.diag([-1.0, 1.0, 1.0, 1.0]))
    done = _call(predicted, truth, "--roi")
    assert done.exit_code == 0
    assert _compact(done.stdout).count("| overall | 1 | 1.000 | 1.000 | 1.000 |") == 2
    assert "prediction_00000.nii.gz: its affine differs" in caplog.text


def test_surfaces_are_measured_in_whatever_axes_a_file_has(tmp_path: Path) -> None:
    """Shifted by a slice of 1 mm, which the tolerances of all regions let pass; pixels have 2 mm."""
    affine = np.diag([-2.0, -2.0, 1.0, 1.0])
    for axes in ((0, 1, 2), (2, 0, 1)):
        truth, predicted = (
            save_nifti(tmp_path / name, *reorient(labels, affine, (axes, (False,) * 3)))
            for name, labels in (("truth.nii", _labels()), ("ours.nii", np.roll(_labels(), 1, axis=2)))
        )
        scores = score_case("one", predicted, truth, metric="kits23").grids["native"]
        assert [scores[f"{region}_surface"] for region in REGIONS] == [1, 1, 1]
        assert scores["tumor"] == pytest.approx(4 / 5)


def test_other_formats_are_scored_in_stored_order_too(tmp_path: Path) -> None:
    labels = _labels()
    labels[30:, :7] = 0  # nothing symmetric is left
    truth = _save(tmp_path / "truth.nii.gz", labels)
    image = sitk.GetImageFromArray(labels.transpose(2, 1, 0))
    sitk.WriteImage(image, str(tmp_path / "predicted.mha"))
    assert (
        score_case("one", tmp_path / "predicted.mha", truth, metric="kits19").grids["native"]["kidney"] == 1
    )


@pytest.mark.parametrize("name", ["x.nii.gz", "X.NII.GZ", "x.nrrd"])
@pytest.mark.parametrize(("value", "is_label"), [(0.4, False), (np.nan, False), (1.996, True), (2.0, True)])
def test_values_between_labels_are_not_rounded_to_one(
    tmp_path: Path, name: str, value: float, is_label: bool
) -> None:
    """Probabilities, say, of which KiTS19's own script counts all above 0."""
    labels = _labels().astype(np.float32)
    labels[6, 6, 6] = value
    path = tmp_path / name
    if path.suffix == ".nrrd":
        sitk.WriteImage(sitk.GetImageFromArray(labels), str(path))
    else:
        nib.save(nib.Nifti1Image(labels, AFFINE), tmp_path / name.lower())
        (tmp_path / name.lower()).rename(path)
    if is_label:
        assert read_label_map(path).hu.max() == 2
    else:
        with pytest.raises(CaseError, match=f"holds {value:.3g}, between labels"):
            read_label_map(path)


def test_a_slope_that_misses_labels_a_little_is_none(tmp_path: Path) -> None:
    path = _save(tmp_path / "x.nii", _labels() * 100)
    data = bytearray(path.read_bytes())
    data[112:116] = np.float32(1 / 100.001).tobytes()  # scl_slope
    path.write_bytes(data)
    assert np.unique(read_label_map(path).hu).tolist() == [0, 1, 2]
    data[112:116] = np.float32(1 / 150).tobytes()
    path.write_bytes(data)
    with pytest.raises(CaseError, match=r"holds 0\.667, between labels"):
        read_label_map(path)


def test_a_value_below_0_is_no_label(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "x.nii", _labels().astype(np.int8) - np.int8(1), AFFINE)
    with pytest.raises(CaseError, match="values from -1 to 1, allowed are 0 to 3"):
        read_label_map(path)


def test_one_case_that_cannot_be_scored_costs_only_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predicted, truth = _folders(tmp_path, _same, lambda labels: labels[:20], lambda labels: labels * 100)
    out = tmp_path / "report.json"
    done = _call(predicted, truth, "--out", out)
    assert done.exit_code == 1
    assert "| overall | 1 | 1.000" in _compact(done.stdout)
    assert "prediction_00001.nii.gz: shape (20, 40, 20)" in caplog.text
    assert "prediction_00002.nii.gz: values from 0 to 200, allowed are 0 to 3" in caplog.text
    assert "2 of 3 cases could not be scored" in caplog.text
    assert "shape (20, 40, 20)" in out.with_suffix(".csv").read_text("utf-8")


def test_cases_without_counterpart_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    predicted, truth = _folders(tmp_path, _same, _same)
    (predicted / "prediction_00001.nii.gz").rename(predicted / "prediction_00077.nii.gz")
    assert _call(predicted, truth).exit_code == 0
    assert "prediction_00077.nii.gz: no reference of this case" in caplog.text
    assert "1 of 2 references have no prediction" in caplog.text


def test_nothing_in_common_ends_with_2(tmp_path: Path) -> None:
    predicted, _ = _folders(tmp_path, _same)
    _save(tmp_path / "other" / "case_00077.nii.gz", _labels())
    assert _call(predicted, tmp_path / "other").exit_code == 2


@pytest.mark.parametrize("out", ["report.csv", ".", "file/report.json"])
def test_a_report_that_cannot_be_written_is_said_before_the_work(tmp_path: Path, out: str) -> None:
    predicted, truth = _folders(tmp_path, _same)
    (tmp_path / "file").touch()
    done = _call(predicted, truth, "--out", tmp_path / out)
    assert (done.exit_code, done.stdout) == (2, "")


def test_a_device_is_no_report(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    predicted, truth = _folders(tmp_path, _same)
    for option, name in (("--out", "null.json"), ("--zip", "null.zip")):
        (tmp_path / name).symlink_to("/dev/null")
        done = _call(predicted, truth, option, tmp_path / name)
        assert (done.exit_code, done.stdout) == (2, "")
        assert f"{option} {tmp_path / name}: is no regular file" in caplog.text
        assert (tmp_path / name).is_symlink()


@pytest.mark.parametrize(("stdout", "code"), [("| true", 0), (">/dev/full", 2)])
def test_a_table_that_nobody_reads_costs_no_report(tmp_path: Path, stdout: str, code: int) -> None:
    predicted, truth = _folders(tmp_path, _same)
    words = [sys.executable, "-m", "evaluation", predicted, truth, "--out", tmp_path / "report.json"]
    # the pipe's reader has ended before the table is written
    script = f'{{ sleep 0.2; "$@"; echo "code $?" >&2; }} {stdout}'
    done = subprocess.run(
        ["bash", "-c", script, "bash", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"code {code}\n" in done.stderr
    assert "Exception ignored" not in done.stderr
    assert sorted(path.name for path in tmp_path.glob("report*")) == [
        *("report.csv", "report.groups.csv", "report.json", "report.md", "report.png")
    ]


def test_a_name_that_is_no_utf8_costs_no_report(tmp_path: Path) -> None:
    name = "caf\udce9.nii.gz"
    predicted, truth = (_save(tmp_path / folder / name, _labels()).parent for folder in ("ours", "theirs"))
    assert _call(predicted, truth, "--out", tmp_path / "report.json").exit_code == 0
    assert b"\ncaf\xe9," in (tmp_path / "report.csv").read_bytes()
    assert b"| caf\xe9 |" in (tmp_path / "report.md").read_bytes()


@pytest.mark.parametrize(
    ("package", "options"),
    [
        ("surface-distance", ["--metric", "kits21"]),
        ("surface-distance", ["--metric", "kits23"]),
        ("surface-distance", ["--hd95"]),
        ("matplotlib", ["--out", "report.json"]),
    ],
)
def test_a_package_that_is_not_installed_is_said_before_the_work(
    tmp_path: Path,
    package: str,
    options: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package.replace("-", "_"), None)
    predicted, truth = _folders(tmp_path, _same)
    done = _call(predicted, truth, *options)
    assert (done.exit_code, done.stdout) == (2, ""), done.exception
    assert f"needs {package}. Install it: pip install '.[evaluate]' in the clone" in caplog.text
    assert not Path("report.json").exists()
    assert _call(predicted, truth).exit_code == 0  # Dice alone does without
    assert _call(predicted, truth, *options, "--check-only").exit_code != 2


def test_no_such_folder_ends_with_2(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    predicted, _ = _folders(tmp_path, _same)
    assert _call(predicted, tmp_path / "absent").exit_code == 2
    assert _call(predicted, tmp_path / "absent", "--check-only").exit_code == 2
    assert "absent: no such folder" in caplog.text


def test_the_harness_and_the_samples_table_do_without_what_the_image_lacks() -> None:
    code = (
        "import sys, test_data.table, evaluation.harness.__main__; "
        "print({'surface_distance', 'matplotlib', 'lightning', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_run_sh_evaluate(tmp_path: Path) -> None:
    venv = tmp_path / "venv"  # as set up before, with this very Python
    (venv / "installed").mkdir(parents=True)
    shutil.copyfile(ROOT / "requirements.lock", venv / "installed" / "evaluate")
    (venv / "bin").mkdir()
    (venv / "bin" / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (venv / "bin" / "python").chmod(0o755)
    reference = str(ROOT / "test_data" / "reference")
    done = subprocess.run(
        [str(ROOT / "run.sh"), "evaluate", reference, reference],
        capture_output=True,
        encoding="utf-8",
        check=False,
        env={**os.environ, "VENV": str(venv)},
    )
    assert done.returncode == 0, done.stderr
    assert "1.000 ± 0.000" in done.stdout


# --- agreement with the official formula -----------------------------------------------------------------


def _official(predicted: NDArray, truth: NDArray) -> tuple[float, float]:
    """KiTS19's definition: Dice of > 0 and of > 1 on arrays as stored."""
    with np.errstate(invalid="ignore"):
        return tuple(  # type: ignore[return-value]
            float(
                np.float64(2 * ((predicted > t) & (truth > t)).sum())
                / ((predicted > t).sum() + (truth > t).sum())
            )
            for t in (0, 1)
        )


def _shifted(labels: NDArray) -> NDArray:
    return np.roll(labels, 3, axis=0)


def _eroded(labels: NDArray) -> NDArray:
    return np.where(ndimage.binary_erosion(labels > 0, iterations=2), labels, 0)


@pytest.mark.parametrize("change", [_same, _shifted, _eroded, _empty])
def test_the_official_formula_on_a_made_label_map(tmp_path: Path, change: Callable) -> None:
    truth = _save(tmp_path / "truth.nii.gz", _labels())
    predicted = _save(tmp_path / "predicted.nii.gz", change(_labels()))
    grids = score_case("one", predicted, truth, metric="kits19").grids
    assert (grids["official"]["kidney"], grids["official"]["tumor"]) == _official(
        change(_labels()), _labels()
    )
    assert grids["native"] == grids["official"]


REAL = [
    p for p in sorted(KITS19_LABELS.glob("case_*/segmentation.nii.gz")) if int(p.parent.name[5:]) % 7 == 0
]


@pytest.mark.skipif(
    not REAL, reason="NOT COMPARED ON REAL LABEL MAPS: KITS19_LABELS names no folder in KiTS19's layout"
)
@pytest.mark.parametrize("path", REAL or [Path()], ids=lambda path: path.parent.name)
def test_the_official_formula_on_real_label_maps(tmp_path: Path, path: Path) -> None:
    image = nib.load(path)
    labels = np.asarray(image.dataobj).astype(np.uint8)
    box = ndimage.find_objects((labels > 0).astype(np.uint8))[0]
    margin = [slice(max(0, side.start - 8), side.stop + 8) for side in box]
    labels = np.ascontiguousarray(labels[tuple(margin)])  # no score counts what is cut off
    truth = _save(tmp_path / "truth.nii", labels, image.affine)
    for change in (_shifted, _eroded, _empty):
        changed = change(labels)
        predicted = _save(tmp_path / "predicted.nii", changed, image.affine)
        grids = score_case("one", predicted, truth, metric="kits19").grids
        expected = _official(changed, labels)
        assert (grids["official"]["kidney"], grids["official"]["tumor"]) == expected
        assert grids["native"] == grids["official"]
        assert expected[0] == 0 if change is _empty else 0 < expected[0] < 1


# --- the checker --------------------------------------------------------------------------------------------


def test_a_right_submission_passes_and_is_zipped_flat(tmp_path: Path) -> None:
    predicted, truth = _folders(tmp_path, _same, _half)
    done = _call(predicted, truth, "--check-only", "--zip", tmp_path / "predictions.zip")
    assert done.exit_code == 0, done.output
    with zipfile.ZipFile(tmp_path / "predictions.zip") as archive:
        assert archive.namelist() == ["prediction_00000.nii.gz", "prediction_00001.nii.gz"]
        assert archive.testzip() is None


def _nested(predicted: Path) -> None:
    (predicted / "more").mkdir()
    (predicted / "prediction_00000.nii.gz").rename(predicted / "more" / "prediction_00000.nii.gz")


def _wrong_name(predicted: Path) -> None:
    (predicted / "prediction_00000.nii.gz").rename(predicted / "case_00000.nii.gz")


def _missing(predicted: Path) -> None:
    (predicted / "prediction_00000.nii.gz").unlink()


def _shape(predicted: Path) -> None:
    _save(predicted / "prediction_00000.nii.gz", _labels()[:-1])


def _affine(predicted: Path) -> None:
    _save(predicted / "prediction_00000.nii.gz", _labels(), AFFINE + np.eye(4) * 0.01)


def _label_3(predicted: Path) -> None:
    _save(predicted / "prediction_00000.nii.gz", _labels() * 3)


def _damaged(predicted: Path) -> None:
    (predicted / "prediction_00000.nii.gz").write_bytes(b"\x1f\x8b nothing")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_nested, "lies in a folder of its own"),
        (_wrong_name, "KiTS19 wants prediction_XXXXX.nii.gz"),
        (_missing, "case 00000: no label map"),
        (_shape, "shape (39, 40, 20)"),
        (_affine, "its affine differs"),
        (_label_3, "values from 0 to 6, allowed are 0 to 2"),
        (_damaged, "prediction_00000.nii.gz: cannot be read"),
    ],
)
def test_each_error_is_named_and_no_zip_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], None], message: str
) -> None:
    predicted, truth = _folders(tmp_path, _same, _half)
    spoil(predicted)
    done = _call(predicted, truth, "--zip", tmp_path / "predictions.zip")
    assert done.exit_code == 1
    assert message in caplog.text
    assert not (tmp_path / "predictions.zip").exists()


def test_the_90_test_cases_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    predicted, truth = _folders(tmp_path, _same)
    (predicted / "prediction_00000.nii.gz").rename(predicted / "prediction_00210.nii.gz")
    (truth / "case_00000").rename(truth / "case_00210")
    assert _call(predicted, truth, "--check-only").exit_code == 0
    assert "89 of KiTS19's 90 test cases are not here, the first is 00211" in caplog.text


def test_scores_are_not_computed_by_the_check(tmp_path: Path) -> None:
    assert _call(*_folders(tmp_path, _same), "--check-only").stdout == ""


def test_label_3_and_the_case_folders_name_are_right_for_kits23(tmp_path: Path) -> None:
    image = tmp_path / "images" / "case_00000" / "imaging.nii.gz"
    _save(image, _labels())
    _save(tmp_path / "predicted" / "case_00000.nii.gz", np.minimum(_labels() * 3, 3))
    arguments = (tmp_path / "predicted", tmp_path / "images", "--check-only", "--metric", "kits23")
    assert _call(*arguments).exit_code == 0
    (tmp_path / "predicted" / "case_00000.nii.gz").rename(tmp_path / "predicted" / "prediction_00000.nii.gz")
    assert _call(*arguments).exit_code == 1


def test_an_affine_within_the_tolerance_passes(tmp_path: Path) -> None:
    predicted, truth = _folders(tmp_path, _same)
    _save(predicted / "prediction_00000.nii.gz", _labels(), AFFINE + np.eye(4, k=3) * 9e-4)
    assert _call(predicted, truth, "--check-only").exit_code == 0


def test_the_zip_is_kits19s_alone(tmp_path: Path) -> None:
    arguments = (*_folders(tmp_path, _same), "--metric", "kits23", "--zip", tmp_path / "predictions.zip")
    assert _call(*arguments).exit_code == 2


def test_kits23_wants_the_images_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _save(tmp_path / "images" / "case_00000.nii.gz", _labels())
    _save(tmp_path / "predicted" / "case_00000.nii.gz", _labels())
    assert (
        _call(tmp_path / "predicted", tmp_path / "images", "--check-only", "--metric", "kits23").exit_code
        == 0
    )
    _wrong = tmp_path / "predicted" / "prediction_00000.nii.gz"
    (tmp_path / "predicted" / "case_00000.nii.gz").rename(_wrong)
    assert (
        _call(tmp_path / "predicted", tmp_path / "images", "--check-only", "--metric", "kits23").exit_code
        == 1
    )
    assert "KiTS23 wants the image's name" in caplog.text
