"""Every metric against values computed by hand."""

import math

import numpy as np
import pytest

from training.metrics import dice, score_kits19, score_kits19_official, score_regions, surface_dice

EMPTY = np.zeros((4, 4, 4), dtype=np.uint8)


def _box(*slices: slice, shape: tuple[int, int, int] = (20, 20, 20)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
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


def test_where_the_official_script_misbehaves() -> None:
    official, ours = score_kits19_official(EMPTY, EMPTY), score_kits19(EMPTY, EMPTY)
    assert math.isnan(official["kidney"])
    assert math.isnan(official["tumor"])
    assert ours == {"kidney": 1.0, "tumor": 1.0}
    truth, cyst = EMPTY.copy(), EMPTY.copy()
    truth[0], cyst[0] = 2, 3
    assert score_kits19_official(cyst, truth)["tumor"] == 1
    assert score_kits19(cyst, truth)["tumor"] == 0


@pytest.mark.parametrize(("shift_vox", "expected"), [(0, 1.0), (1, 1.0), (2, 1 / 3)])
def test_surface_dice_of_a_shifted_slab(shift_vox: int, expected: float) -> None:
    # a slab of 40 × 40 × 10 mm has faces of 2 · 1600 mm² and rims of 1600 mm². Moved along its thickness by
    # 2 mm, both faces are out of a tolerance of 1.1 mm, and the rims (but for their edges) in it
    truth, predicted = (
        _box(slice(start, start + 10), slice(2, 42), slice(2, 42), shape=(24, 44, 44))
        for start in (5, 5 + shift_vox)
    )
    assert surface_dice(predicted, truth, (1.0, 1.0, 1.0), 1.1) == pytest.approx(expected, abs=0.04)


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
