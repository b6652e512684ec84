"""Each rule for a closer look: it holds just beyond its numbers, and not just within."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from inference.runner.findings import Findings, Kidney, Parts, Tumor
from inference.runner.flags import RULES, Facts, find_flags

NO_PARTS = Parts((slice(0, 0),) * 3, np.zeros((0, 0, 0), np.uint8), np.zeros((0, 0, 0), np.uint16))
LEFT = Kidney(
    name="left kidney", side="left", ml=180.0, tumor_ml=20.0, hu_mean=120.0, hu_sd=20.0,
    mean_probability=0.95,
    centroid_lps_mm=[60.0, 10.0, 5.0], box_lps_mm=[[30.0, -20.0, -50.0], [90.0, 40.0, 60.0]],
    midline_mm=60.0, cut_by_scan=[], cut_by_region=False,
)  # fmt: skip
RIGHT = replace(LEFT, name="right kidney", side="right", centroid_lps_mm=[-60.0, 10.0, -10.0], tumor_ml=0.0)
TUMOR = Tumor(
    name="tumor 1", kidney="left kidney", side="left", ml=20.0, axial_diameter_mm=35.0, axial_slice_index=40,
    axial_slice_lps_mm=5.0, largest_extent_mm=36.0, hu_mean=80.0, hu_sd=15.0, mean_probability=0.9,
    share_inside_kidney=1.0, centroid_lps_mm=[65.0, 10.0, 5.0],
)  # fmt: skip


def facts(
    kidneys: tuple[Kidney, ...] = (LEFT, RIGHT),
    tumors: tuple[Tumor, ...] = (TUMOR,),
    spacing_mm: tuple[float, float, float] = (3.0, 0.8, 0.8),
    lowest_hu: int = -1024,
) -> Facts:
    return Facts(Findings(NO_PARTS, kidneys, tumors), spacing_mm, lowest_hu)


def left(**changes: Any) -> Facts:
    return facts((replace(LEFT, **changes), RIGHT))


def tumor(**changes: Any) -> Facts:
    return facts(tumors=(replace(TUMOR, **changes),))


RAISED: list[tuple[str, Facts, str]] = [
    ("nothing-found", facts((), ()), "no kidney found"),
    ("kidney-cut", left(cut_by_scan=["superior"]), "the scan's superior end"),
    ("region-cut", left(cut_by_region=True), "end of the region"),
    ("one-kidney", facts((LEFT,)), "only one kidney found, the left one"),
    ("many-kidneys", facts((LEFT, RIGHT, replace(RIGHT, name="right kidney 2"))), "3 kidneys"),
    ("kidney-volume", left(ml=49.0, tumor_ml=20.9), "small for a kidney: 69.9 ml"),
    ("kidney-volume", left(ml=400.1), "large for a kidney: 400.1 ml"),
    ("kidney-place", left(midline_mm=29.9), "30 mm from the body's middle"),
    ("kidney-place", left(midline_mm=115.1), "115 mm from the body's middle"),
    ("kidney-place", facts((LEFT, replace(RIGHT, side="left"))), "both kidneys lie on the left side"),
    ("kidney-place", left(centroid_lps_mm=[60.0, 10.0, 50.1]), "60 mm higher"),
    ("tumor-volume", tumor(ml=0.79), "small: 0.79 ml"),
    ("tumor-volume", tumor(ml=800.1), "large: 800 ml"),
    ("tumor-place", tumor(share_inside_kidney=0.74), "26 % outside"),
    ("low-confidence", left(mean_probability=0.919), "left kidney: mean probability 0.919"),
    ("low-confidence", tumor(mean_probability=0.749), "tumor 1: mean probability 0.749"),
    ("no-hounsfield", facts(lowest_hu=-499), "lowest value -499"),
    ("no-hounsfield", left(hu_mean=-20.1), "HU in the mean"),
    ("no-hounsfield", left(hu_mean=300.1), "300 HU in the mean"),
    ("thick-slices", facts(spacing_mm=(5.01, 0.8, 0.8)), "5.0 mm apart"),
]
QUIET: list[Facts] = [
    facts(),
    facts(tumors=()),
    left(ml=50.0, tumor_ml=20.0),
    left(ml=400.0),
    left(midline_mm=30.0),
    left(midline_mm=115.0),
    left(centroid_lps_mm=[60.0, 10.0, 50.0]),
    left(mean_probability=0.92),
    left(mean_probability=None, hu_mean=None),
    left(hu_mean=-20.0),
    left(hu_mean=300.0),
    tumor(ml=0.8),
    tumor(ml=800.0),
    tumor(share_inside_kidney=0.75),
    tumor(share_inside_kidney=None, mean_probability=None),
    tumor(mean_probability=0.75),
    facts(lowest_hu=-500),
    facts(spacing_mm=(5.0, 0.8, 0.8)),
]


@pytest.mark.parametrize(("rule", "case", "text"), RAISED)
def test_a_rule_is_raised_alone_and_says_its_number(rule: str, case: Facts, text: str) -> None:
    (flag,) = find_flags(case)
    assert flag.rule == rule
    assert text in flag.text


@pytest.mark.parametrize("case", QUIET)
def test_at_its_numbers_no_rule_is_raised(case: Facts) -> None:
    assert find_flags(case) == []


def test_every_rule_is_tested_here_and_says_its_numbers() -> None:
    assert {rule.name for rule in RULES} == {name for name, _, _ in RAISED}
    for rule in RULES:
        text = str(rule)
        assert "{" not in text
        assert all(f"{number:g}" in text for number in rule.numbers.values())
