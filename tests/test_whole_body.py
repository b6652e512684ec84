"""A whole-body CT through the real command with the shipped weights: the kidneys are found where they are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.metrics import dice
from inference import cli
from inference.formats.ct import read_ct
from tests.helpers import canonical_affine, invoke, save_nifti
from training.config import AS_THEY_ARE
from training.synthesis.draw import synthesise_ct
from training.synthetic import (
    draw_label_map,
    patient_landmarks,
    place_patient,
    sample_inside,
    sample_labels,
)

ROOT = Path(__file__).resolve().parent.parent
LENGTH_MM = 1125.0
SPACING_MM = 4.0
LEAST_SHIFT_MM = 290.0
"""Of the kidneys' middle from the image centre; the 352 mm ROI of the shipped weights reaches 176 mm."""
LEAST_DSC = 0.8
LARGEST_ERROR_MM = 15.0


@pytest.mark.usefixtures("_untouched_process")
@pytest.mark.parametrize("shift_mm", [330.0, -330.0], ids=["kidneys far below", "kidneys far above"])
def test_whole_body_ct_is_segmented_in_the_right_place(tmp_path: Path, shift_mm: float) -> None:
    """1125 mm by 4 mm with drawn kidneys, lungs and pelvis; no KiTS19 data."""
    rng, cpu = np.random.default_rng([7, 1]), torch.device("cpu")
    scan = replace(
        AS_THEY_ARE,
        scan_length_share=1.0,
        scan_length_mm=(LENGTH_MM, LENGTH_MM),
        scan_shift_mm=(shift_mm, shift_mm),
    )
    patient = place_patient(draw_label_map(rng), scan, rng)
    z, y, x = ((patient.scan_high_mm - patient.scan_low_mm) / SPACING_MM).astype(int).tolist()
    oz, oy, ox = (patient.scan_low_mm + SPACING_MM / 2).tolist()
    grid = {"shape_vox": (z, y, x), "spacing_mm": SPACING_MM, "origin_mm": (oz, oy, ox), "device": cpu}
    labels = sample_labels(patient, **grid)
    hu = synthesise_ct(
        labels,
        sample_inside(patient, **grid),
        spacing_mm=SPACING_MM,
        seed=1,
        landmarks=patient_landmarks(patient, device=cpu),
        origin_mm=(oz, oy, ox),
    )
    true = labels.numpy() > 0
    true_mm = _middle_mm(true)
    assert abs(true_mm[0] - (z - 1) / 2 * SPACING_MM) > LEAST_SHIFT_MM
    save_nifti(
        tmp_path / "in" / "ct.nii.gz",
        np.rint(hu.numpy()).astype(np.int16),
        canonical_affine((SPACING_MM,) * 3),
    )

    arguments = ["--input", tmp_path / "in", "--output", tmp_path / "out", "--weights", ROOT / "weights"]
    result = invoke(cli.main, *arguments, "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    found = read_ct(tmp_path / "out" / "ct.nii.gz").hu > 0
    assert dice(found, true) >= LEAST_DSC
    assert np.abs(_middle_mm(found) - true_mm).max() <= LARGEST_ERROR_MM


def _middle_mm(mask: np.ndarray) -> np.ndarray:
    """Centre of mass (z, y, x) from the first voxel."""
    return np.argwhere(mask).mean(0) * SPACING_MM
