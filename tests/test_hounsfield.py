"""Images that can be no CT in Hounsfield units are refused, and no CT is."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from inference.formats.volume import CaseError, check_hounsfield

PATH = Path("ct.nii")


def voxels(**counts: int) -> NDArray[np.int16]:
    """An image of so many voxels of each value ("m" is minus): 1,000 in all, the rest fat at -100."""
    values = [int(name[1:]) * (-1 if name[0] == "m" else 1) for name in counts]
    flat = np.repeat(values, list(counts.values()))
    return np.append(flat, np.full(1000 - flat.size, -100)).astype(np.int16).reshape(10, 10, 10)


ALL = {
    "air, fat, tissue and bone": voxels(m1000=600, p40=200, p1000=30),
    "no air but fat": voxels(p40=800),
    "padding around air": voxels(m3024=300, m1000=300, p40=200),
    "clipped at -160": voxels(m160=400, p40=300, p240=50),
    "a scan with much bone and contrast": voxels(m1000=500, p40=200, p900=100),
    "a small patient in much air": voxels(m1000=965, p40=20),
    "constant": np.full((3, 3, 3), -1024, np.int16),
}


@pytest.mark.parametrize("name", ALL)
def test_a_ct_is_let_through(name: str) -> None:
    check_hounsfield(PATH, ALL[name])


def shifted(padding: int, offset: int) -> NDArray[np.int16]:
    """Air 500, tissue 300, padding 200 of 1,000."""
    return (
        np.repeat([padding, offset - 1000, offset + 40], [200, 500, 300]).astype(np.int16).reshape(10, 10, 10)
    )


NONE = {
    "an empty label map": (np.zeros((3, 3, 3), np.int16), "an empty label map"),
    "a label map": (np.repeat([0, 1, 2], 9).astype(np.int16).reshape(3, 3, 3), "run from 0 to 2"),
    "an offset of 1000": (shifted(0, 1000), "run from 0 to 1040"),
    "an offset of 1024, padding of -2000": (
        shifted(-2000, 1024),
        "from 24 to 1064, but for padding of -2000",
    ),
    "an offset of 1000, noise, padding of -1024": (
        np.repeat([-1024, -60, 20, 1040], [200, 250, 250, 300]).astype(np.int16).reshape(10, 10, 10),
        "30% of its values|38% of its values",
    ),
    "taken off twice": (shifted(-3024, -1024), "no Hounsfield units"),
    "0 to 255 with padding of -1": (
        np.repeat([-1, 10, 200], 9).astype(np.int16).reshape(3, 3, 3),
        "padding of -1",
    ),
    "-1 to 1": (np.repeat([-1, 0, 1], 9).astype(np.int16).reshape(3, 3, 3), "no Hounsfield units"),
}


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_ct_is_refused(name: str) -> None:
    hu, says = NONE[name]
    with pytest.raises(CaseError, match=says):
        check_hounsfield(PATH, hu)


def test_a_large_volume_is_told_by_a_part_of_it() -> None:
    hu = np.full((170, 170, 170), 1040, np.int16)
    hu[:, :, :85] = 10
    hu[:, :4] = -2000
    with pytest.raises(CaseError, match="no Hounsfield units"):
        check_hounsfield(PATH, hu)
    check_hounsfield(PATH, hu - np.int16(1010))


def test_one_odd_voxel_in_a_large_empty_volume_is_no_bug() -> None:
    hu = np.full((170, 170, 170), -1024, np.int16)
    hu[1, 1, 1] = 5
    check_hounsfield(PATH, hu)
    with pytest.raises(CaseError, match="values run from 5 to 5, but for padding of -1024"):
        check_hounsfield(PATH, -1019 - hu)  # the odd voxel is the lowest one
