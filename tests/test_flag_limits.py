"""The benchmark that the flags' limits rest on, by hand-made label maps."""

import csv
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from benchmarks import geometry
from benchmarks.flag_limits import Quantity, flagged, main, measure_label_map, quantities, read_report
from inference.runner.flags import Facts
from tests.helpers import KIDNEY_HU, canonical_affine, invoke, save_nifti
from tests.test_flags import LEFT, TUMOR

SPACING_MM = (5.0, 2.0, 2.0)
SHAPE = (60, 100, 160)


def labels() -> np.ndarray:
    """Kidneys of 122 and 96 ml, the first with 8 ml of tumor; a speck of 0.02 ml; a voxel to be ignored."""
    found = np.zeros(SHAPE, np.uint8)
    found[10:34, 40:55, 100:117] = 1  # patient's left: 24 × 15 × 17 voxels of 0.02 ml
    found[12:22, 42:46, 101:111] = 2  # 400 of them
    found[12:32, 40:56, 40:55] = 1
    found[50, 50, 50], found[0, 0, 0] = 1, 255
    return found


def save(folder: Path, *, with_ct: bool) -> Path:
    affine = canonical_affine(SPACING_MM)
    path = save_nifti(folder / "segmentation.nii.gz", labels(), affine)
    if with_ct:
        hu = np.full(SHAPE, -1000, np.int16)
        hu[:, 20:80, 10:150] = KIDNEY_HU
        save_nifti(folder / "imaging.nii.gz", hu, affine)
    return path


@pytest.mark.parametrize("with_ct", [False, True])
def test_a_label_map_by_hand(tmp_path: Path, with_ct: bool) -> None:
    facts = measure_label_map(save(tmp_path / "case_00000", with_ct=with_ct))
    assert facts is not None
    left, right = facts.findings.kidneys
    assert (left.side, left.ml, left.tumor_ml) == ("left", pytest.approx(6120 * 0.02 - 8), 8.0)
    assert (right.side, right.ml, right.tumor_ml) == ("right", 96.0, 0.0)
    assert left.midline_mm == pytest.approx((108 - 79.5) * 2, abs=4)  # the middle is found on every 4th voxel
    assert (left.hu_mean, facts.lowest_hu) == ((KIDNEY_HU, -1000) if with_ct else (None, -1024))
    assert flagged({"a": facts})["any of them"] == []


def test_a_map_without_kidneys_is_none(tmp_path: Path) -> None:
    ignored = np.full((4, 4, 4), 255, np.uint8)
    assert measure_label_map(save_nifti(tmp_path / "a.nii.gz", ignored, np.eye(4))) is None


def test_what_lies_beyond_the_limits() -> None:
    assert Quantity("", [1, 2, 3, 4], 2, 3).outside == 2
    assert Quantity("", [1, 2, 3, 4], low=2).outside == 1
    assert Quantity("", [1, 2, 3, 4], high=3).outside == 1


def write_report(path: Path) -> Path:
    case = {
        "name": "a", "status": "written", "input": {"spacing_mm": [5.5, 1.0, 1.0]},
        "kidneys": [asdict(LEFT)], "tumors": [asdict(TUMOR)],
    }  # fmt: skip
    path.write_text(json.dumps({"cases": [case, {"status": "failed"}]}), encoding="utf-8")
    return path


def test_a_report_gives_probabilities(tmp_path: Path) -> None:
    ((name, facts),) = read_report(write_report(tmp_path / "report.json"))
    assert isinstance(facts, Facts)
    found = {quantity.name: quantity.values for quantity in quantities([facts])}
    assert found["kidney, mean probability"] == [LEFT.mean_probability]
    assert found["share of a tumor in its kidney"] == [1.0]
    assert "one kidney above the other, mm" not in found  # there is one
    assert [rule for rule, names in flagged({name: facts}).items() if names] == [
        "one-kidney", "thick-slices", "any of them"
    ]  # fmt: skip


def test_cases_of_a_resumed_run_count_where_they_were_measured(tmp_path: Path) -> None:
    path = write_report(tmp_path / "report.json")
    case = json.loads(path.read_text())["cases"][0] | {"status": "skipped"}
    unknown = {"name": "b", "status": "skipped", "input": None, "kidneys": [], "tumors": []}
    path.write_text(json.dumps({"cases": [case, unknown]}), encoding="utf-8")
    assert [name for name, _ in read_report(path)] == ["a"]


def test_a_folder_without_label_maps_is_told_in_one_line(tmp_path: Path) -> None:
    for command in (main, geometry.main):
        done = invoke(command, tmp_path)
        assert done.exit_code == 1
        assert done.output.startswith(f"Error: {tmp_path}: no ")


def test_the_command_prints_both_tables_and_a_row_for_each_structure(tmp_path: Path) -> None:
    save(tmp_path / "labels" / "case_00000", with_ct=False)
    report, rows = write_report(tmp_path / "report.json"), tmp_path / "rows.csv"
    done = invoke(main, tmp_path / "labels", report, "--csv", rows)
    assert done.exit_code == 0, done.output
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()]
    table = {row[0]: row[1:] for row in cells if row}
    assert table["between slices, mm"][0] == "2"
    assert table["between slices, mm"][-2:] == ["to 5", "1 (50.0 %)"]
    assert table["thick-slices"] == ["1", "50.0 %", "a"]
    found = list(csv.DictReader(rows.open()))
    assert [row["name"] for row in found] == [
        "left kidney",
        "right kidney",
        "tumor 1",
        "left kidney",
        "tumor 1",
    ]


def test_cases_of_one_name_in_several_folders_are_several(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        save(tmp_path / folder / "case_00000", with_ct=False)
    for folder in ("c", "d"):
        (tmp_path / folder).mkdir()
        write_report(tmp_path / folder / "report.json")
    sources = [tmp_path / name for name in ("a", "b", "c/report.json", "d/report.json")]
    rows = tmp_path / "rows.csv"
    done = invoke(main, *sources, "--csv", rows)
    assert done.exit_code == 0, done.output
    assert "scans of 4" in done.stdout
    names = dict.fromkeys(row["scan"] for row in csv.DictReader(rows.open()))
    assert list(names) == ["a/00000", "b/00000", "c/report.json/a", "d/report.json/a"]


def test_nothing_to_measure_is_said(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"cases": []}')
    done = invoke(main, tmp_path / "report.json")
    assert (done.exit_code, "no kidney in any of them" in done.output) == (1, True)
