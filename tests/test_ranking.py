"""Submissions ranked as KiTS23 ranks them, by hand."""

import csv
import errno
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from evaluation import ranking
from evaluation.ranking import DICE, SURFACE, main, rank
from tests.helpers import invoke, save_nifti

ROOT = Path(__file__).resolve().parent.parent


def scores(dice: float, surface: float, tumor: float | None = None) -> dict[str, float]:
    """Of one case, the same in all regions; the tumor's Dice may differ, the mean stays."""
    tumor = dice if tumor is None else tumor
    rest = (3 * dice - tumor) / 2
    return {DICE[0]: rest, DICE[1]: rest, DICE[2]: tumor} | dict.fromkeys(SURFACE, surface)


def test_both_places_count_alike() -> None:
    places = rank(
        {
            "second": {"a": scores(0.9, 0.7)},  # places 1 and 3
            "first": {"a": scores(0.8, 0.9)},  # 2 and 1
            "third": {"a": scores(0.7, 0.8)},  # 3 and 2
        }
    )
    assert [(p.place, p.submission, p.dice_place, p.surface_place) for p in places] == [
        (1, "first", 2, 1), (2, "second", 1, 3), (3, "third", 3, 2)
    ]  # fmt: skip


def test_the_tumors_dice_breaks_a_tie() -> None:
    places = rank({"x": {"a": scores(0.9, 0.7, tumor=0.5)}, "y": {"a": scores(0.8, 0.8, tumor=0.6)}})
    assert [(p.place, p.submission) for p in places] == [(1, "y"), (2, "x")]


def test_equals_share_a_place() -> None:
    places = rank({name: {"a": scores(0.9, 0.7)} for name in "xy"} | {"z": {"a": scores(0.1, 0.1)}})
    assert [(p.place, p.submission) for p in places] == [(1, "x"), (1, "y"), (3, "z")]


def test_the_tumor_unties_some_of_three() -> None:
    # mean places 2 (1 and 3), 2 (2 and 2), 2 (3 and 1); two of them have one Dice of the tumor
    places = rank(
        {
            "x": {"a": scores(0.9, 0.7, tumor=0.5)},
            "y": {"a": scores(0.8, 0.8, tumor=0.6)},
            "z": {"a": scores(0.7, 0.9, tumor=0.5)},
        }
    )
    assert [(p.place, p.submission) for p in places] == [(1, "y"), (2, "x"), (2, "z")]


def test_means_differ_from_8_decimals_on() -> None:
    near = rank({"x": {"a": scores(0.9, 0.7)}, "y": {"a": scores(0.9 + 1e-9, 0.7)}})
    far = rank({"x": {"a": scores(0.9, 0.7)}, "y": {"a": scores(0.9 + 1e-7, 0.7)}})
    assert [p.place for p in near] == [1, 1]
    assert [(p.place, p.submission) for p in far] == [(1, "y"), (2, "x")]


def test_cases_are_averaged_before_places_are_given() -> None:
    # x is the better one in two cases of three, y in the mean
    x = {"a": scores(0.9, 0.9), "b": scores(0.9, 0.9), "c": scores(0.0, 0.0)}
    y = {"a": scores(0.8, 0.8), "b": scores(0.8, 0.8), "c": scores(0.8, 0.8)}
    assert [p.submission for p in rank({"x": x, "y": y})] == ["y", "x"]


def test_regions_count_alike() -> None:
    x = dict(zip(DICE, (0.9, 0.6, 0.6), strict=True)) | dict.fromkeys(SURFACE, 0.5)
    y = dict(zip(DICE, (0.5, 0.7, 0.8), strict=True)) | dict.fromkeys(SURFACE, 0.5)
    x_place, y_place = rank({"x": {"a": x}, "y": {"a": y}})
    assert (x_place.dice, y_place.dice) == pytest.approx((0.7, 2 / 3))
    assert (x_place.place, y_place.place) == (1, 2)


def test_a_missing_case_scores_0() -> None:
    (best, worst) = rank(
        {"x": {"a": scores(1, 1), "b": None}, "y": {"a": scores(0.6, 0.6), "b": scores(0.6, 0.6)}}
    )
    assert (best.submission, worst.submission) == ("y", "x")
    assert (worst.dice, worst.surface, worst.tumor, worst.missing, worst.cases) == (0.5, 0.5, 0.5, 1, 2)


def test_other_cases_are_no_contest() -> None:
    with pytest.raises(ValueError, match="different cases"):
        rank({"x": {"a": scores(1, 1)}, "y": {"b": scores(1, 1)}})


def save(path: Path, labels: NDArray) -> None:
    save_nifti(path, labels.astype(np.uint8), np.eye(4))


@pytest.mark.parametrize("name", ["board.json", "board.csv"])
def test_the_command(tmp_path: Path, name: str) -> None:
    labels = np.zeros((20, 20, 20))
    labels[4:16, 4:16, 4:16] = 1
    labels[6:10, 6:10, 6:10] = 2
    for case in ("case_0.nii.gz", "case_1.nii.gz"):
        save(tmp_path / "truth" / case, labels)
        save(tmp_path / "perfect" / case, labels)
        save(tmp_path / "shifted" / case, np.roll(labels, 2, axis=0))
    save(tmp_path / "late" / "case_0.nii.gz", labels)
    folders = [tmp_path / folder for folder in ("truth", "late", "shifted", "perfect")]
    done = invoke(main, *folders, "--out", tmp_path / name)
    assert done.exit_code == 1
    assert "late: no label map of case 1: it scores 0" in done.stderr
    first = done.stdout.splitlines()[2]
    assert [cell.strip() for cell in first.split("|")[1:3]] == ["perfect", "1"]
    if name.endswith("json"):
        content = json.loads((tmp_path / name).read_text())
        assert content["scores"]["late"] == {"0": content["scores"]["perfect"]["0"], "1": None}
        rows = content["ranking"]
    else:
        rows = list(csv.DictReader((tmp_path / name).open()))
    assert (rows[0]["submission"], float(rows[0]["dice"])) == ("perfect", 1)


def sample(root: Path) -> list[str]:
    """A reference, and two submissions that are it."""
    labels = np.zeros((8, 8, 8))
    labels[2:6, 2:6, 2:6] = 1
    for folder in ("truth", "first", "second"):
        save(root / folder / "case_0.nii.gz", labels)
    return [str(root / folder) for folder in ("truth", "first", "second")]


def test_a_label_map_that_cannot_be_scored_is_told_and_scores_0(tmp_path: Path) -> None:
    truth, first, second = sample(tmp_path)
    save(tmp_path / "second" / "case_0.nii.gz", np.full((8, 8, 8), 7))
    done = invoke(main, truth, first, second)
    assert done.exit_code == 1
    assert "values from 7 to 7, allowed are 0 to 3" in done.stderr
    assert "it scores 0" in done.stderr
    cells = [cell.strip() for cell in done.stdout.splitlines()[3].split("|")]
    assert (cells[1], cells[3], cells[-2]) == ("second", "0.0000", "1 of 1")


@pytest.mark.parametrize("wrong", ["submission", "same name", "folder", "file as folder"])
def test_what_would_spoil_the_ranking_is_said_before_any_scoring(
    tmp_path: Path, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "score_case", lambda *_, **__: pytest.fail("scored"))
    arguments = sample(tmp_path)
    if wrong == "submission":
        arguments.append(str(tmp_path / "mistyped"))
    elif wrong == "same name":
        (namesake := tmp_path / "other" / "second").mkdir(parents=True)
        arguments.append(str(namesake))
    elif wrong == "folder":
        arguments += ["--out", str(tmp_path)]
    else:
        arguments += ["--out", str(tmp_path / "truth" / "case_0.nii.gz" / "board.csv")]
    done = invoke(main, *arguments)
    assert (done.exit_code, done.stdout) == (2, ""), done.exception
    assert ("two submissions have one name" if wrong == "same name" else arguments[-1]) in done.stderr


def test_a_ranking_without_its_extra_is_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "surface_distance", None)
    done = invoke(main, *sample(tmp_path))
    assert done.exit_code == 2, done.exception
    assert "pip install '.[evaluate]'" in done.stderr


@pytest.mark.parametrize("name", ["board.json", "board.csv"])
def test_a_disk_that_is_full_at_the_end_costs_no_table_and_leaves_no_half_a_file(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_half(out: Path, *_: object) -> None:
        out.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ranking, "_write", write_half)
    out = tmp_path / "out" / name
    done = invoke(main, *sample(tmp_path), "--out", out)
    assert (done.exit_code, "No space left" in done.stderr) == (2, True)
    assert "| first" in done.stdout
    assert list(out.parent.iterdir()) == []


def test_a_table_that_nobody_reads_costs_no_file(tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "evaluation.ranking",
        *sample(tmp_path),
        "--out",
        str(tmp_path / "board.csv"),
    ]
    script = '{ sleep 0.2; "$@"; echo "code $?" >&2; } | true'
    done = subprocess.run(
        ["bash", "-c", script, "bash", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "code 0\n" in done.stderr
    assert (tmp_path / "board.csv").read_text().count("\n") == 3


def test_wrong_usage_is_2(tmp_path: Path) -> None:
    result = invoke(main, tmp_path, tmp_path / "none")
    assert result.exit_code == 2
    assert "no label maps" in result.stderr
