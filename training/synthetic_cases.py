"""Whole synthetic cases on disk, in KiTS19's format, to look at or to share."""

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from inference.geometry import Shape
from inference.runner.cases import KITS19_IMAGE, KITS19_SEGMENTATION
from training.cache import LabelMap
from training.config import AS_THEY_ARE
from training.synthesis.draw import synthesise_ct
from training.synthesis.fields import SEED_LIMIT
from training.synthetic import draw_label_map, patient_landmarks, place_patient, sample_inside, sample_labels

FIRST_NUMBER = 90_000
"""Numbers of synthetic cases: KiTS never reaches them."""


def synthesise_cases(
    out: Path,
    n_cases: int,
    *,
    spacing_mm: float = 2.0,
    seed: int = 0,
    maps: Sequence[LabelMap] = (),
    phases: Sequence[str] = (),
) -> list[Path]:
    """Write `case_9XXXX/imaging.nii.gz` (float64, axes I,P,L) and `segmentation.nii.gz` (uint8).

    Args:
        out: folder of the cases.
        n_cases: how many.
        spacing_mm: isotropic.
        seed: of the first case; each case has its own random stream.
        maps: label maps to synthesise CTs around, in turn; without any, kidneys are synthetic too.
        phases: contrast phases, in turn; without any, they are random.

    Returns:
        The folders.
    """
    folders, cpu = [], torch.device("cpu")
    for i in tqdm(range(n_cases), "synthesize", unit="case"):
        rng = np.random.default_rng([seed, i])
        patient = place_patient(maps[i % len(maps)] if maps else draw_label_map(rng), AS_THEY_ARE, rng)
        low, high = patient.scan_low_mm, patient.scan_high_mm
        depth, height, width = ((high - low) / spacing_mm).astype(int).tolist()
        shape: Shape = (depth, height, width)
        z, y, x = ((low + high) / 2 - (np.asarray(shape) - 1) / 2 * spacing_mm).tolist()
        labels, inside = (
            sample(patient, shape_vox=shape, spacing_mm=spacing_mm, origin_mm=(z, y, x), device=cpu)
            for sample in (sample_labels, sample_inside)
        )
        hu = synthesise_ct(
            labels,
            inside,
            spacing_mm=spacing_mm,
            seed=int(rng.integers(SEED_LIMIT)),
            landmarks=patient_landmarks(patient, device=cpu),
            origin_mm=(z, y, x),
            phase=phases[i % len(phases)] if phases else None,
        )
        folder = out / f"case_{FIRST_NUMBER + i:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        _save(folder / KITS19_IMAGE, np.rint(hu.numpy()).astype(np.float64), spacing_mm)
        _save(folder / KITS19_SEGMENTATION, labels.numpy(), spacing_mm)
        folders.append(folder)
    return folders


def _save(path: Path, canonical: NDArray, spacing_mm: float) -> None:
    """KiTS19's axes: the first runs from head to feet, then to posterior, then to the left; sform only."""
    affine = np.zeros((4, 4))
    affine[2, 0] = affine[1, 1] = affine[0, 2] = -spacing_mm
    affine[3, 3] = 1
    image = nib.Nifti1Image(np.ascontiguousarray(canonical[::-1]), affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 0)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
