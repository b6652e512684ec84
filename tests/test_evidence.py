"""What counts as a kidney: probability, what it is made of and place, and what must never be dropped."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from inference.geometry import RoiSpec, Vector
from inference.method.cascade import locate_kidneys
from inference.method.evidence import evidence, segment_kidneys
from inference.method.method import DEFAULT, PAPER, Method
from inference.networks.cascade import Cascade
from tests.helpers import AIR_HU, FAT_HU, KIDNEY_HU, ball, metadata

MUSCLE_HU = 50.0
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
    mask: NDArray[np.bool_], *, p: float = SURE, around_hu: float = FAT_HU, method: Method = DEFAULT
) -> int:
    """How many structures are left of a mask."""
    probability = np.where(mask, p, 0.01).astype(np.float32)
    hu = np.where(mask, KIDNEY_HU, around_hu).astype(np.float32)
    return len(segment_kidneys(probability, hu, metadata("kidney", SPEC), method).boxes)


# --- the evidence ------------------------------------------------------------------------------------------


def test_evidence_by_hand() -> None:
    probability = np.zeros((5, 5, 9), dtype=np.float32)
    probability[2, 2, 5:7] = 0.6, 0.9
    hu = np.full((5, 5, 9), AIR_HU, dtype=np.float32)
    hu[2, 2, 5:7] = KIDNEY_HU
    hu[1, 1:4, 4:8] = FAT_HU  # twelve of the neighbours
    hu[3, 1:4, 4:8] = 60.0  # twelve more; the other ten are air
    hu[2, 1, 4] = np.nan  # outside the CT
    box = np.s_[1:4, 1:4, 4:8]
    hu[2, 2, 6] = 400.0  # one of the two voxels
    found = evidence(probability[box] > 0.5, box, probability, hu)
    assert found["mean"] == pytest.approx(0.75)
    assert found["air"] == pytest.approx(9 / 33)  # 36 voxels less two of its own and one unknown
    assert found["bone"] == 0.5
    assert found["reach_vox"] == 2.5  # from the centre of the fifth voxel to the far side of the seventh


# --- what is dropped ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("p", "count"), [(0.95, 0), (0.97, 1)])
def test_the_mean_probability_counts(p: float, count: int) -> None:
    kidney = organ((140, 170, 60), 35)
    assert kept(kidney, p=p) == count
    assert kept(kidney, p=p, method=PAPER) == 1


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


def test_a_full_bladder_is_dropped() -> None:
    bladder = organ((140, 140, 0), 55)  # 700 ml, 55 mm to either side
    assert kept(bladder) == 0
    assert kept(bladder, method=PAPER) == 1


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


def shown_from(first: int, *organs: NDArray[np.bool_], method: Method = DEFAULT) -> int:
    """How many structures are left in a scan that begins with this slice."""
    mask = np.logical_or.reduce(organs)
    mask[:first] = False
    hu = np.where(mask, KIDNEY_HU, FAT_HU).astype(np.float32)
    hu[:first] = np.nan
    return len(segment_kidneys(np.where(mask, SURE, 0), hu, metadata("kidney", SPEC), method).boxes)


def test_half_a_structure_that_the_scan_cuts_is_no_kidney_if_it_is_alone() -> None:
    one, other = organ((141, 170, 65), 40), organ((141, 170, -65), 40)  # from slice 17 to slice 30
    assert shown_from(22, one) == 0  # nine slices are left: 54 mm
    assert shown_from(22, one, method=PAPER) == 1
    assert shown_from(21, one) == 1  # 60 mm
    assert shown_from(22, one, other) == 2
    # the same at the other end
    mask, hu = one[::-1].copy(), np.full(SPEC.shape_vox, FAT_HU, dtype=np.float32)
    mask[48 - 22 :], hu[48 - 22 :] = False, np.nan
    probability = np.where(mask, SURE, 0).astype(np.float32)
    assert not segment_kidneys(probability, hu, metadata("kidney", SPEC)).boxes
    assert segment_kidneys(probability, np.nan_to_num(hu), metadata("kidney", SPEC)).boxes


def test_a_small_structure_that_the_scan_does_not_cut_may_be_alone() -> None:
    small = organ((141, 170, 65), 25)  # 48 mm, from slice 20 to slice 27
    assert shown_from(18, small) == 1  # two slices of fat between
    assert shown_from(19, small) == 0  # what the network left out of its last slice is no gap


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


def test_a_kidney_half_in_muscle_stays() -> None:
    kidney = organ((140, 180, 65), 33)
    hu = np.full(SPEC.shape_vox, MUSCLE_HU, dtype=np.float32)
    hu[:, : 176 // 6] = FAT_HU  # before it
    hu[kidney] = KIDNEY_HU
    probability = np.where(kidney, SURE, 0.01).astype(np.float32)
    assert len(segment_kidneys(probability, hu, metadata("kidney", SPEC)).boxes) == 1


# --- the ROI -----------------------------------------------------------------------------------------------


def test_the_roi_lies_around_what_is_evident_and_not_around_what_is_large() -> None:
    spec = RoiSpec((16, 16, 16), 4.0, window_hu=(0.0, 100.0))
    hu = np.full((60, 16, 16), FAT_HU, dtype=np.int16)
    hu[42:52, 3:12, 3:12] = 600  # bone: 52 ml
    hu[8:15, 4:10, 4:10] = 100  # a kidney: 16 ml

    def network(roi: Array) -> Array:
        return roi

    cascade = Cascade(network, network, metadata("kidney", spec), metadata("tumor", spec))

    def middle(method: Method) -> float:
        return locate_kidneys(hu, (4.0, 4.0, 4.0), cascade, method).start_vox[0] + 7.5

    assert middle(DEFAULT) == pytest.approx((8 + 14) / 2)
    assert middle(replace(PAPER, roi_follows_kidneys=True)) == pytest.approx((42 + 51) / 2)
    hu[8:15, 4:10, 4:10] = FAT_HU
    assert middle(DEFAULT) == (60 - 1) / 2  # no kidney: the image centre, as in the paper
