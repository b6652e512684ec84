"""What counts as a kidney: what both kidney networks say, and what must never be dropped."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from inference.geometry import RoiSpec, Vector
from inference.method.cascade import locate_kidneys
from inference.method.evidence import air_and_bone, fill, segment_kidneys
from inference.method.method import DEFAULT, PAPER, Method
from inference.networks.cascade import Cascade
from tests.helpers import AIR_HU, FAT_HU, KIDNEY_HU, ball, metadata

SPEC = RoiSpec((48, 48, 64), 6.0)
"""288 × 288 × 384 mm."""
MIDDLE_MM = 63 / 2 * 6.0
SURE = 0.99
Array = NDArray[np.float32]


def organ(centre_mm: Vector, radius_mm: float) -> NDArray[np.bool_]:
    """A ball whose centre is (z, y) from the first voxel's and x from the CT's middle, in mm."""
    z, y, x = centre_mm
    return ball(SPEC.shape_vox, (z, y, x + MIDDLE_MM), radius_mm, (SPEC.spacing_mm,) * 3)


def kept(
    mask: NDArray[np.bool_], *, p: float = SURE, method: Method = DEFAULT, coarse: Array | None = None
) -> int:
    """How many structures are left of a mask."""
    probability = np.where(mask, p, 0.01).astype(np.float32)
    hu = np.where(mask, KIDNEY_HU, FAT_HU).astype(np.float32)
    return len(segment_kidneys(probability, hu, metadata("kidney", SPEC), method, coarse).boxes)


# --- what is dropped ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("p", "count"), [(0.95, 0), (0.97, 1)])
def test_the_mean_probability_counts(p: float, count: int) -> None:
    kidney = organ((140, 170, 60), 35)
    assert kept(kidney, p=p) == count
    assert kept(kidney, p=p, method=PAPER) == 1


@pytest.mark.parametrize(("p", "count"), [(0.05, 0), (0.15, 1)])
def test_what_the_coarse_network_calls_no_kidney_is_none(p: float, count: int) -> None:
    kidney = organ((140, 170, 60), 35)
    coarse = np.where(kidney, p, 0.9).astype(np.float32)  # what lies around does not count
    assert kept(kidney, coarse=coarse) == count
    assert kept(kidney, coarse=coarse, method=PAPER) == 1
    assert kept(kidney) == 1  # weights without such a network


@pytest.mark.parametrize(("p", "coarse", "count"), [(0.9, 0.84, 0), (0.9, 0.86, 1), (0.97, 0.11, 1)])
def test_the_coarse_network_may_be_sure_in_the_kidney_networks_stead(
    p: float, coarse: float, count: int
) -> None:
    kidney = organ((140, 170, 60), 35)
    assert kept(kidney, p=p, coarse=np.full(kidney.shape, coarse, np.float32)) == count


def test_doubts_are_filled_where_the_coarse_network_is_sure() -> None:
    kidney, part = organ((140, 170, 60), 35), np.arange(SPEC.shape_vox[2]) * SPEC.spacing_mm > MIDDLE_MM + 60
    sure = np.where(kidney, 0.9, 0.0).astype(np.float32)
    hu = np.where(kidney, KIDNEY_HU, FAT_HU).astype(np.float32)
    for doubt, coarse, is_whole in ((0.02, sure, True), (0.005, sure, False), (0.02, sure * 0.9, False)):
        probability = np.where(kidney, np.where(part, doubt, SURE), 0.0).astype(np.float32)
        found = segment_kidneys(probability, hu, metadata("kidney", SPEC), coarse=coarse).ids > 0
        np.testing.assert_array_equal(found, kidney & (is_whole | ~part))
        np.testing.assert_array_equal(fill(probability, coarse) > 0.5, found)
    np.testing.assert_array_equal(fill(probability, None), probability)


def test_what_the_coarse_network_alone_calls_kidney_is_none() -> None:
    kidney = organ((140, 170, 60), 35)
    coarse = np.where(kidney, 0.95, 0.0).astype(np.float32)
    assert kept(kidney, p=0.4, coarse=coarse) == 0
    # 8 cm³ of what the kidney network is sure of are too small, whatever is filled in
    probability = np.where(organ((140, 170, 60), 12.4), SURE, np.where(kidney, 0.4, 0.0)).astype(np.float32)
    hu = np.where(kidney, KIDNEY_HU, FAT_HU).astype(np.float32)
    assert not segment_kidneys(probability, hu, metadata("kidney", SPEC), coarse=coarse).boxes


def test_air_and_bone_by_hand() -> None:
    own = np.zeros((3, 3, 4), dtype=bool)
    own[1, 1, 1:3] = True
    hu = np.full(own.shape, AIR_HU, dtype=np.float32)
    hu[0] = FAT_HU  # twelve of the neighbours
    hu[2] = 60.0  # twelve more; the other ten are air
    hu[1, 0, 0] = np.nan  # outside the CT
    hu[1, 1, 1:3] = KIDNEY_HU, 400.0
    air, bone = air_and_bone(own, hu)
    assert air == pytest.approx(9 / 33)  # 36 voxels less two of its own and one unknown
    assert bone == 0.5


def test_a_structure_that_fills_the_ct_has_no_air_around_it() -> None:
    own = np.ones((3, 3, 3), dtype=bool)
    own[0] = False
    hu = np.where(own, KIDNEY_HU, np.nan).astype(np.float32)  # what is around lies outside the CT
    assert air_and_bone(own, hu) == (0, 0)
    assert air_and_bone(own[1:], hu[1:]) == (0, 0)


def test_what_is_as_dense_as_bone_is_no_kidney() -> None:
    kidney = organ((140, 170, 60), 35)
    probability = np.where(kidney, SURE, 0.01).astype(np.float32)
    dense = organ((140, 170, 60), 20)  # (20 / 35)³ = 0.19 of its volume
    hu = np.where(dense, 500.0, np.where(kidney, KIDNEY_HU, FAT_HU)).astype(np.float32)
    for method, count in ((DEFAULT, 0), (replace(DEFAULT, max_bone_share=0.25), 1), (PAPER, 1)):
        assert len(segment_kidneys(probability, hu, metadata("kidney", SPEC), method).boxes) == count


def test_what_borders_on_lung_is_no_kidney() -> None:
    mass = organ((140, 170, 60), 35)
    probability = np.where(mass, SURE, 0.01).astype(np.float32)
    above = np.arange(SPEC.shape_vox[0])[:, None, None] * SPEC.spacing_mm > 150  # a third of its surface
    hu = np.where(mass, KIDNEY_HU, np.where(above, -800.0, FAT_HU)).astype(np.float32)
    for method, count in ((DEFAULT, 0), (replace(DEFAULT, max_air_contact=0.6), 1), (PAPER, 1)):
        assert len(segment_kidneys(probability, hu, metadata("kidney", SPEC), method).boxes) == count


def test_a_false_structure_takes_no_kidneys_place_among_the_three() -> None:
    kidneys = organ((140, 200, 90), 28) | organ((140, 200, -90), 28)
    livers = [organ((60, 70, x), 40) for x in (-120, 0, 120)]
    mask = np.logical_or.reduce([kidneys, *livers])
    probability = np.where(kidneys, 0.99, np.where(mask, 0.9, 0.01)).astype(np.float32)
    hu = np.where(mask, KIDNEY_HU, FAT_HU).astype(np.float32)
    found = segment_kidneys(probability, hu, metadata("kidney", SPEC))
    np.testing.assert_array_equal(found.ids > 0, kidneys)
    literal = segment_kidneys(probability, hu, metadata("kidney", SPEC), PAPER)
    assert not (literal.ids > 0)[kidneys].any()  # three larger ones


# --- what must never be dropped ----------------------------------------------------------------------------


def test_two_kidneys_and_one_kidney_stay() -> None:
    left, right = organ((140, 180, 65), 33), organ((130, 180, -65), 33)
    assert kept(left | right) == 2
    assert kept(left) == 1


def test_a_tumor_of_a_litre_and_a_half_that_replaces_a_kidney_stays() -> None:
    huge = organ((140, 140, 76), 71)  # from the middle to 147 mm, as in KiTS19's case 00030
    assert np.count_nonzero(huge) * 0.216 == pytest.approx(1500, abs=30)
    assert kept(huge) == 1
    assert kept(huge | organ((140, 180, -65), 33)) == 2


def test_a_pelvic_kidney_stays() -> None:
    assert kept(organ((40, 150, 10), 33)) == 1


def test_horseshoe_kidneys_stay() -> None:
    arms = organ((140, 180, 50), 33) | organ((140, 180, -50), 33)
    bridge = organ((120, 160, 0), 26) | organ((125, 165, 25), 22) | organ((125, 165, -25), 22)
    assert 400 < np.count_nonzero(arms | bridge) * 0.216 < 500
    assert kept(arms | bridge) == 1
    # one of 0.7 l that reaches 97 and 123 mm, as in KiTS19's case 00151
    large = organ((140, 180, 75), 46) | organ((140, 180, -50), 46) | organ((120, 160, 15), 35)
    assert np.count_nonzero(large) * 0.216 > 700
    assert kept(large) == 1


# --- the ROI -----------------------------------------------------------------------------------------------


def test_the_roi_lies_around_what_is_evident_and_not_around_what_is_large() -> None:
    spec = RoiSpec((16, 16, 16), 4.0, window_hu=(0.0, 100.0))
    hu = np.full((60, 16, 16), FAT_HU, dtype=np.int16)
    hu[42:52, 3:12, 3:12] = 340  # a mass: 52 ml
    hu[8:15, 4:10, 4:10] = 100  # a kidney: 16 ml

    def network(roi: Array) -> Array:
        return roi

    def coarse(roi: Array) -> Array:
        return np.full_like(roi, roi.max() < 0.3)  # 100 HU are 0.1 of its window, 340 HU 0.34

    wide = metadata("kidney", RoiSpec((16, 8, 8), 8.0, window_hu=(0.0, 1000.0)))
    networks = (network, network, metadata("kidney", spec), metadata("tumor", spec))
    cascade = Cascade(*networks, coarse=coarse, coarse_metadata=wide)

    def middle(method: Method, cascade: Cascade = cascade) -> float:
        return locate_kidneys(hu, (4.0, 4.0, 4.0), cascade, method).start_vox[0] + 7.5

    assert middle(DEFAULT) == pytest.approx((8 + 14) / 2)
    assert middle(DEFAULT, Cascade(*networks)) == pytest.approx((42 + 51) / 2)
    assert middle(replace(PAPER, roi_follows_kidneys=True)) == pytest.approx((42 + 51) / 2)
    hu[8:15, 4:10, 4:10] = FAT_HU
    assert middle(DEFAULT) == (60 - 1) / 2  # no kidney: the image centre, as in the paper
