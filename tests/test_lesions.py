"""Tumors found, missed and false, volumes, distances and confidence intervals, by hand."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from evaluation.bootstrap import mean_interval
from evaluation.cli import main
from evaluation.lesions import EXTRAS, MIN_LESION_MM3, MIN_OVERLAP, count_lesions, hd95, score_extras
from tests.helpers import invoke, save_nifti

SPACING_MM = (2.0, 1.0, 0.5)
SHAPE = (20, 40, 80)
"""40 × 40 × 40 mm."""


def box(*sides: tuple[int, int]) -> NDArray[np.bool_]:
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(*side) for side in sides)] = True
    return mask


LEFT = box((2, 7), (5, 15), (5, 25))  # 10 × 10 × 10 mm
RIGHT = box((2, 7), (5, 15), (50, 70))
NOTHING = np.zeros(SHAPE, bool)


@pytest.mark.parametrize(
    ("predicted", "truth", "expected"),
    [
        (LEFT | RIGHT, LEFT | RIGHT, (2, 0, 0)),
        (LEFT, LEFT | RIGHT, (1, 1, 0)),
        (LEFT | RIGHT, LEFT, (1, 0, 1)),
        (RIGHT, LEFT, (0, 1, 1)),
        (NOTHING, LEFT, (0, 1, 0)),
        (LEFT, NOTHING, (0, 0, 1)),
        (NOTHING, NOTHING, (0, 0, 0)),
        (box((2, 7), (5, 15), (5, 7)), LEFT, (1, 0, 0)),  # a tenth of it: found
        (box((2, 7), (5, 14), (5, 7)), LEFT, (0, 1, 0)),  # 9 %: missed, and what was predicted is real
        (box((2, 7), (5, 15), (24, 34)), LEFT, (0, 1, 0)),  # a tenth of it on the tumor: not false
        (box((2, 7), (5, 15), (24, 35)), LEFT, (0, 1, 1)),
        (LEFT | RIGHT, LEFT | box((2, 7), (5, 15), (25, 70)), (1, 0, 0)),  # two for one
        (LEFT | box((12, 14), (30, 34), (5, 10)), LEFT, (1, 0, 0)),  # a speck of 40 mm³
        (LEFT, LEFT | box((12, 14), (30, 35), (5, 15)), (1, 1, 0)),  # of 100 mm³, no speck
    ],
)
def test_lesions_by_hand(
    predicted: NDArray[np.bool_], truth: NDArray[np.bool_], expected: tuple[int, int, int]
) -> None:
    assert (MIN_OVERLAP, MIN_LESION_MM3) == (0.1, 100)
    assert count_lesions(predicted, truth, SPACING_MM) == expected


def test_volume_errors_by_hand() -> None:
    truth = np.where(LEFT, 2, np.where(RIGHT, 1, 0))
    predicted = np.where(
        box((2, 7), (5, 15), (5, 20)), 2, np.where(RIGHT, 1, 0)
    )  # three quarters of the tumor
    scores = score_extras(predicted, truth, SPACING_MM, ("volumes",))
    assert scores == pytest.approx(
        {
            "kidney_error_ml": -0.25, "kidney_error_abs_ml": 0.25, "kidney_error_percent": -12.5,
            "tumor_error_ml": -0.25, "tumor_error_abs_ml": 0.25, "tumor_error_percent": -25.0,
        }
    )  # fmt: skip


def test_percent_of_nothing_is_undefined() -> None:
    scores = score_extras(LEFT.astype(int) * 2, NOTHING.astype(int), SPACING_MM, ("volumes",))
    assert np.isnan(scores["tumor_error_percent"])
    assert scores["tumor_error_ml"] == pytest.approx(1)


def test_hd95_of_a_shift_is_the_shift() -> None:
    assert hd95(box((2, 7), (5, 15), (9, 29)), LEFT, SPACING_MM) == pytest.approx(2.0)
    assert hd95(LEFT, LEFT, SPACING_MM) == 0


def test_hd95_of_nothing() -> None:
    assert hd95(NOTHING, NOTHING, SPACING_MM) == 0
    assert np.isnan(hd95(LEFT, NOTHING, SPACING_MM))
    assert np.isnan(hd95(NOTHING, LEFT, SPACING_MM))


def test_hd95_lies_below_simpleitks_largest_distance() -> None:
    rng = np.random.default_rng(1)
    grid = np.meshgrid(*(np.arange(n) * s for n, s in zip(SHAPE, SPACING_MM, strict=True)), indexing="ij")
    for _ in range(3):
        a, b = (
            sum((g - c) ** 2 for g, c in zip(grid, rng.uniform(15, 25, 3), strict=True))
            <= rng.uniform(6, 12) ** 2
            for _ in range(2)
        )
        images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in (a, b)]
        for image in images:
            image.SetSpacing(SPACING_MM[::-1])
        largest = sitk.HausdorffDistanceImageFilter()
        largest.Execute(*images)
        ours = hd95(a, b, SPACING_MM)
        assert ours <= largest.GetHausdorffDistance() + max(SPACING_MM)
        assert ours >= 0.5 * largest.GetHausdorffDistance() - max(SPACING_MM)


# -------------------------------------------------------------------------------------------------- bootstrap


def test_an_interval_holds_the_mean_and_shrinks_with_cases() -> None:
    rng = np.random.default_rng(3)
    widths = []
    for n in (10, 1000):
        values = rng.normal(0.8, 0.1, n)
        low, high = mean_interval(values, 2000)
        assert low < values.mean() < high
        # for many cases it is the normal one: ± 1.96 standard errors
        assert high - low == pytest.approx(2 * 1.96 * values.std(ddof=1) / np.sqrt(n), rel=0.2)
        widths.append(high - low)
    assert widths[1] < widths[0] / 5


def test_an_interval_is_the_same_every_time_and_none_for_one_case() -> None:
    values = np.array([0.1, 0.5, 0.9])
    assert mean_interval(values, 100) == mean_interval(values, 100)
    assert all(map(np.isnan, mean_interval(values[:1], 100)))
    assert mean_interval(np.full(5, 0.7), 100) == pytest.approx((0.7, 0.7))


# ------------------------------------------------------------------------------------------------ the command


def save(path: Path, labels: NDArray) -> None:
    save_nifti(path, labels.astype(np.uint8), np.diag([*SPACING_MM, 1.0]))


def test_the_command_tells_all_of_it(tmp_path: Path) -> None:
    truth = np.where(LEFT | RIGHT, 2, np.where(box((1, 15), (3, 30), (3, 76)), 1, 0))
    elsewhere = box((10, 15), (20, 30), (30, 50))  # as large as either tumor
    other = np.where(RIGHT, 1, np.where(elsewhere, 2, truth))
    for number, predicted in enumerate((truth, other, np.minimum(truth, 1))):
        save(tmp_path / "truth" / f"case_{number}.nii.gz", truth)
        save(tmp_path / "ours" / f"case_{number}.nii.gz", predicted)
    flags = ["--lesions", "--volumes", "--hd95", "--bootstrap", "500", "--out", tmp_path / "r.json"]
    done = invoke(main, tmp_path / "ours", tmp_path / "truth", *flags)
    assert done.exit_code == 0, done.output
    assert "3 of 6 tumors found (50.0%), 3 missed, 1 false (0.33 a case)" in done.stdout
    report = json.loads((tmp_path / "r.json").read_text())
    by_hand = {
        "lesions_found": [2, 1, 0],
        "tumor_error_ml": [0, 0, -2],
        "tumor_error_percent": [0, 0, -100],
    }
    for name, values in by_hand.items():
        assert [case["grids"]["extras"][name] for case in report["cases"]] == pytest.approx(values)
    assert [case["grids"]["extras"]["tumor_hd95_mm"] is None for case in report["cases"]] == [
        False,
        False,
        True,
    ]
    (extras,) = report["tables"]["extras"]
    assert extras["total"] == {"lesions_found": 3, "lesions_missed": 3, "lesions_false": 1}
    assert extras["mean"]["tumor_error_abs_ml"] == pytest.approx(2 / 3)
    (native,) = report["tables"]["native"]
    low, high = native["interval"]["tumor"]
    assert 0 <= low < native["mean"]["tumor"] < high <= 1
    assert f"[{low:.3f}, {high:.3f}]" in done.stdout
    with (tmp_path / "r.groups.csv").open() as file:
        rows = {(row["grid"], row["score"]): row for row in csv.DictReader(file)}
    assert float(rows["native", "tumor"]["low"]) == pytest.approx(low)
    assert (tmp_path / "r.png").is_file()
    assert EXTRAS == ("lesions", "volumes", "hd95")  # as the command pairs them with its options


def test_without_them_nothing_changes(tmp_path: Path) -> None:
    save(tmp_path / "truth" / "a.nii.gz", LEFT)
    save(tmp_path / "ours" / "a.nii.gz", LEFT)
    assert invoke(main, tmp_path / "ours", tmp_path / "truth", "--out", tmp_path / "r.json").exit_code == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert set(report["tables"]) == {"native", "official"}
    assert report["tables"]["native"][0]["interval"] == {}
