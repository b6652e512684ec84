"""The script that says what the geometry costs, on one label map made here."""

from pathlib import Path

import nibabel as nib
import numpy as np

from benchmarks.geometry import perfect_cascade, score
from inference.method.method import DEFAULT, PAPER


def _label_map(folder: Path, *, n_slices: int, centre_z: int) -> Path:
    """A kidney of 60 × 50 × 110 mm with a tumor of 36 mm, in 1 mm slices of 1.5 mm pixels."""
    z, y, x = np.ogrid[:n_slices, :120, :120]
    organ = ((z - centre_z) / 55) ** 2 + ((y - 60) / 17) ** 2 + ((x - 60) / 20) ** 2 <= 1
    tumor = ((z - centre_z) / 18) ** 2 + ((y - 60) / 12) ** 2 + ((x - 66) / 12) ** 2 <= 1
    labels = (organ.astype(np.uint8) + (organ & tumor)).transpose(2, 1, 0)
    path = folder / "segmentation.nii.gz"
    nib.save(nib.Nifti1Image(labels, np.diag([-1.5, -1.5, 1.0, 1.0])), path)
    return path


def test_interpolated_probabilities_beat_nearest_neighbour(tmp_path: Path) -> None:
    path = _label_map(tmp_path, n_slices=200, centre_z=100)
    kidney, tumor, is_long = score(path, perfect_cascade(), DEFAULT, hard=False)
    paper_kidney, paper_tumor, _ = score(path, perfect_cascade(), PAPER, hard=False)
    assert not is_long
    assert kidney > paper_kidney > 0.95
    assert tumor > paper_tumor > 0.9


def test_kidneys_far_from_the_centre_of_a_long_scan_are_kept_whole(tmp_path: Path) -> None:
    path = _label_map(tmp_path, n_slices=700, centre_z=100)
    kidney, tumor, is_long = score(path, perfect_cascade(), DEFAULT, hard=False)
    assert is_long
    assert kidney > 0.98
    assert tumor > 0.96
    assert score(path, perfect_cascade(), PAPER, hard=False)[0] < 0.1


def test_a_coarser_grid_costs_more(tmp_path: Path) -> None:
    path = _label_map(tmp_path, n_slices=200, centre_z=100)
    fine, coarse = (score(path, perfect_cascade(mm), DEFAULT, hard=False) for mm in (2.0, 4.0))
    assert fine[0] > coarse[0]
    assert fine[1] > coarse[1]
