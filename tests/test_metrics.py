"""Every metric against values computed by hand."""

import math

import numpy as np
import pytest

from evaluation.metrics import (
    dice,
    score_kits19,
    score_kits19_official,
    score_regions,
    score_sensitivity,
    surface_dice,
)

EMPTY = np.zeros((4, 4, 4), dtype=np.uint8)


def _box(*slices: slice) -> np.ndarray:
    mask = np.zeros((20, 20, 20), dtype=bool)
    mask[slices] = True
    return mask


def test_dice_by_hand() -> None:
    a, b = _box(slice(0, 2), slice(0, 2), slice(0, 2)), _box(slice(1, 3), slice(0, 2), slice(0, 2))
    assert dice(a, b) == 2 * 4 / 16
    assert dice(a, a) == 1
    assert dice(a, _box(slice(0, 0))) == 0
    assert dice(_box(slice(0, 0)), _box(slice(0, 0))) == 1


def test_kits19_by_hand() -> None:
    truth, predicted = EMPTY.copy(), EMPTY.copy()
    truth[0, 0], truth[1, 0] = 1, 2  # 4 kidney, 4 tumor
    predicted[0, 0], predicted[1, 0, :2] = 1, 2  # 4 kidney, 2 of the 4 tumor
    assert score_kits19(predicted, truth) == {"kidney": 2 * 6 / 14, "tumor": 2 * 2 / 6}
    assert score_kits19_official(predicted, truth) == score_kits19(predicted, truth)


def test_sensitivity_and_precision_by_hand() -> None:
    truth, predicted = EMPTY.copy(), EMPTY.copy()
    truth[0, 0], truth[1, 0] = 1, 2  # 4 kidney, 4 tumor
    predicted[0], predicted[1, 0, 0] = 1, 2  # 16 kidney, of which 4 are, and 1 of the 4 tumor
    scores = {
        "kidney_sensitivity": 5 / 8, "kidney_precision": 5 / 17,
        "tumor_sensitivity": 1 / 4, "tumor_precision": 1,
    }  # fmt: skip
    assert score_sensitivity(predicted, truth, "kits19") == scores
    truth[1, 0] = 3  # a cyst is kidney in KiTS19, a mass since
    scores = score_sensitivity(predicted, truth, "kits19")
    assert math.isnan(scores.pop("tumor_sensitivity"))
    assert scores == {"kidney_sensitivity": 5 / 8, "kidney_precision": 5 / 17, "tumor_precision": 0}
    assert score_sensitivity(predicted, truth, "kits23")["masses_sensitivity"] == 1 / 4


def test_where_the_official_script_misbehaves() -> None:
    official, ours = score_kits19_official(EMPTY, EMPTY), score_kits19(EMPTY, EMPTY)
    assert math.isnan(official["kidney"])
    assert math.isnan(official["tumor"])
    assert ours == {"kidney": 1.0, "tumor": 1.0}
    truth, cyst = EMPTY.copy(), EMPTY.copy()
    truth[0], cyst[0] = 2, 3
    assert score_kits19_official(cyst, truth)["tumor"] == 1
    assert score_kits19(cyst, truth)["tumor"] == 0


def _corner_and_edge_mm2(x: float, y: float, z: float) -> tuple[float, float]:
    """Area of the surface about a voxel's corner, and about the edge along x that two voxels share.

    Between voxel centres half of each side lies inside: a corner is cut off by a triangle through the middles
    of three sides, an edge by a rectangle through the middles of two, as long as a voxel.
    """
    x, y, z = x / 2, y / 2, z / 2
    return math.sqrt((x * y) ** 2 + (y * z) ** 2 + (x * z) ** 2) / 2, 2 * x * math.hypot(y, z)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (3.0, 0.75, 0.75)])
def test_surface_dice_by_hand(spacing_mm: tuple[float, float, float]) -> None:
    # one voxel against itself and its neighbour along x: 8 corners against 8 corners and 4 edges, of which
    # the 4 corners at the far end lie one voxel away and all else at 0
    one, two = _box(slice(3, 4), slice(3, 4), slice(3, 4)), _box(slice(3, 5), slice(3, 4), slice(3, 4))
    corner, edge = _corner_and_edge_mm2(*spacing_mm)
    near, all_of_it = 8 * corner + 4 * corner + 4 * edge, 16 * corner + 4 * edge
    for predicted, truth in ((one, two), (two, one)):
        assert surface_dice(predicted, truth, spacing_mm, spacing_mm[0] - 0.01) == pytest.approx(
            near / all_of_it
        )
        assert surface_dice(predicted, truth, spacing_mm, spacing_mm[0]) == 1


@pytest.mark.parametrize(
    ("name", "label", "tolerance_mm"),
    [("kidney_and_masses", 1, 1.0330), ("masses", 3, 1.1328), ("tumor", 2, 1.1498)],
)
def test_tolerances_are_kits23s(name: str, label: int, tolerance_mm: float) -> None:
    one, two = EMPTY.copy(), EMPTY.copy()
    one[1, 1, 1], two[1:3, 1, 1] = label, label  # the far corners are one spacing away
    within, beyond = ((tolerance_mm + more, 1.0, 1.0) for more in (0, 1e-4))
    assert score_regions(two, one, within)[f"{name}_surface"] == 1
    assert score_regions(two, one, beyond)[f"{name}_surface"] < 1


def test_surface_dice_knows_the_spacing_and_empty_masks() -> None:
    truth, predicted = (
        _box(slice(5, 10), slice(5, 10), slice(5, 10)),
        _box(slice(6, 11), slice(5, 10), slice(5, 10)),
    )
    assert surface_dice(predicted, truth, (1.0, 1.0, 1.0), 1.1) == pytest.approx(1)
    assert surface_dice(predicted, truth, (3.0, 1.0, 1.0), 1.1) < 0.9
    none = _box(slice(0, 0))
    assert surface_dice(none, none, (1.0, 1.0, 1.0), 1.1) == 1
    assert surface_dice(none, truth, (1.0, 1.0, 1.0), 1.1) == 0
    assert surface_dice(truth, none, (1.0, 1.0, 1.0), 1.1) == 0


def test_regions_are_nested_and_an_empty_pair_is_right() -> None:
    truth, predicted = EMPTY.copy(), EMPTY.copy()
    truth[0, 0], truth[1, 0] = 1, 2
    predicted[0, 0], predicted[1, 0] = 1, 3  # tumor called cyst
    scores = score_regions(predicted, truth, (1.0, 1.0, 1.0))
    assert (scores["kidney_and_masses"], scores["masses"], scores["tumor"]) == (1, 1, 0)
    assert (scores["kidney_and_masses_surface"], scores["masses_surface"], scores["tumor_surface"]) == (
        1,
        1,
        0,
    )
    assert set(score_regions(EMPTY, EMPTY, (1.0, 1.0, 1.0)).values()) == {1.0}
