"""The evaluation command on folders of label maps, and the checker of submissions."""

import csv
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from inference.preprocess import RoiSpec
from training.cli import main
from training.evaluate import case_name, evaluate, find_label_maps, score_case

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
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels.astype(np.uint8), affine), path)
    return path


def _folders(tmp_path: Path, *changes: Callable[[NDArray], NDArray]) -> tuple[Path, Path]:
    """A prediction by each change of one reference, as cases 0, 1, 2 …, and the references."""
    for number, change in enumerate(changes):
        _save(tmp_path / "truth" / f"case_{number:05d}" / "segmentation.nii.gz", _labels())
        _save(tmp_path / "predicted" / f"prediction_{number:05d}.nii.gz", change(_labels()))
    return tmp_path / "predicted", tmp_path / "truth"


def _call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", *(str(a) for a in arguments)])


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
    )
    assert {case_name(Path(name)) for name in names} == {"00210"}


def test_images_beside_label_maps_are_passed_over_and_two_of_one_case_are_refused(tmp_path: Path) -> None:
    _save(tmp_path / "case_00001" / "segmentation.nii.gz", _labels())
    _save(tmp_path / "case_00001" / "imaging.nii.gz", _labels())
    assert list(find_label_maps(tmp_path)) == ["00001"]
    _save(tmp_path / "prediction_00001.nii.gz", _labels())
    with pytest.raises(ValueError, match="both case 00001"):
        find_label_maps(tmp_path)


def test_the_table_by_hand(tmp_path: Path) -> None:
    predicted, truth = _folders(tmp_path, _same, _no_tumor, _half, _empty)
    out = tmp_path / "report.json"
    done = _call(predicted, truth, "--out", out)
    assert done.exit_code == 0, done.output
    kidney, tumor = [1, 1, 2 * 1000 / 3000, 0], [1, 0, 1, 0]
    mean = {"kidney": np.mean(kidney), "tumor": np.mean(tumor), "average": np.mean([kidney, tumor])}
    sd = {"kidney": np.std(kidney, ddof=1), "tumor": np.std(tumor, ddof=1),
          "average": np.std(np.mean([kidney, tumor], axis=0), ddof=1)}  # fmt: skip
    (row,) = json.loads(out.read_text())["tables"]["native"]
    assert row["cases"] == 4
    assert row["mean"] == pytest.approx(mean)
    assert row["sd"] == pytest.approx(sd)
    cells = " | ".join(f"{mean[key]:.3f} ± {sd[key]:.3f}" for key in mean)
    assert f"| overall | 4 | {cells} |" in done.output
    assert f"| overall | 4 | {cells} |" in out.with_suffix(".md").read_text(encoding="utf-8")
    with out.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(r["native_kidney"]) for r in rows] == pytest.approx(kidney)
    assert Image.open(out.with_suffix(".png")).size[0] > 300


def test_a_split_gives_its_rows_and_folds_give_one_each(tmp_path: Path) -> None:
    predicted, truth = _folders(tmp_path, _same, _no_tumor, _half, _empty)
    splits = []
    for fold, held_out in enumerate((["case_00000", "case_00001"], ["case_00002", "case_00003"])):
        others = [f"case_{n:05d}" for n in range(4) if f"case_{n:05d}" not in held_out]
        splits.append(tmp_path / f"split{fold}.json")
        splits[-1].write_text(json.dumps({"fold": fold, "training": others, "validation": held_out}))
    one = _call(predicted, truth, "--split", splits[0]).output
    assert "| training | 2 | 0.333" in one
    assert "| validation | 2 | 1.000" in one
    both = _call(predicted, truth, "--split", splits[0], "--split", splits[1]).output
    assert "| fold 0 | 2 | 1.000" in both
    assert "| fold 1 | 2 | 0.333" in both
    assert "| overall | 4 | 0.667" in both


def test_the_roi_grid_is_the_methods(tmp_path: Path) -> None:
    predicted, truth = _folders(tmp_path, _same, _half)
    tables, failed = evaluate(predicted, truth, metric="kits19", roi=RoiSpec())
    assert failed == 0
    assert "| overall | 2 | 0.83" in tables["roi"]  # 1 and 2/3


def test_kits23_has_six_scores(tmp_path: Path) -> None:
    predicted, truth = _folders(tmp_path, _same, _no_tumor)
    done = _call(predicted, truth, "--metric", "kits23")
    assert "kidney_and_masses | kidney_and_masses_surface | masses | masses_surface | tumor" in done.output
    assert "| overall | 2 | 1.000 ± 0.000 | 1.000 ± 0.000 | 0.500" in done.output


def test_one_case_that_cannot_be_scored_costs_only_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predicted, truth = _folders(tmp_path, _same, lambda labels: labels[:20])
    done = _call(predicted, truth, "--out", tmp_path / "report.json")
    assert done.exit_code == 1
    assert "| overall | 1 | 1.000" in done.output
    assert "prediction_00001.nii.gz: shape (20, 40, 20)" in caplog.text


def test_nothing_in_common_ends_with_2(tmp_path: Path) -> None:
    predicted, _ = _folders(tmp_path, _same)
    _save(tmp_path / "other" / "case_00077.nii.gz", _labels())
    assert _call(predicted, tmp_path / "other").exit_code == 2


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
    score = score_case("one", predicted, truth, metric="kits19")
    assert (score.official["kidney"], score.official["tumor"]) == _official(change(_labels()), _labels())
    assert dict(score.native) == dict(score.official)


@pytest.mark.skipif(
    not KITS19_LABELS.is_dir(),
    reason="NOT COMPARED ON REAL LABEL MAPS: KITS19_LABELS names no folder of them",
)
def test_the_official_formula_on_real_label_maps(tmp_path: Path) -> None:
    paths = [
        p for p in sorted(KITS19_LABELS.glob("case_*/segmentation.nii.gz")) if int(p.parent.name[5:]) % 7 == 0
    ]
    assert paths
    for path in paths:
        image = nib.load(path)
        labels = np.asarray(image.dataobj).astype(np.uint8)
        for change in (_shifted, _eroded, _empty):
            changed = change(labels)
            predicted = tmp_path / "predicted.nii"
            nib.save(nib.Nifti1Image(changed, image.affine), predicted)
            score = score_case("one", predicted, path, metric="kits19")
            expected = _official(changed, labels)
            assert (score.official["kidney"], score.official["tumor"]) == pytest.approx(expected, abs=1e-12)


# --- the checker --------------------------------------------------------------------------------------------


def test_a_right_submission_passes_and_is_zipped_flat(tmp_path: Path) -> None:
    predicted, truth = _folders(tmp_path, _same, _half)
    done = _call(predicted, truth, "--check-only", "--zip", tmp_path / "predictions.zip")
    assert done.exit_code == 0, done.output
    with zipfile.ZipFile(tmp_path / "predictions.zip") as archive:
        assert archive.namelist() == ["prediction_00000.nii.gz", "prediction_00001.nii.gz"]
        assert archive.testzip() is None


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
        (_wrong_name, "KiTS19 wants prediction_XXXXX.nii.gz"),
        (_missing, "case 00000: no label map"),
        (_shape, "shape (39, 40, 20)"),
        (_affine, "its affine differs"),
        (_label_3, "allowed are 0 to 2"),
        (_damaged, "prediction_00000.nii.gz"),
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
