"""Tumors found, missed and false, by overlap; and how volumes and surfaces agree. No file is read here.

None of these is a score of KiTS: they answer what a radiologist asks of a score.
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from evaluation.metrics import Labels
from inference.geometry import TUMOR, Vector

Extra = Literal["lesions", "volumes", "hd95"]
EXTRAS: tuple[Extra, ...] = get_args(Extra)
MIN_OVERLAP = 0.1
"""A reference tumor is found where at least this part of it is predicted tumor; a predicted one is false
where less than this part of it is reference tumor."""
MIN_LESION_MM3 = 100.0
"""Smaller pieces, a sphere of 5.8 mm, are no lesions of their own, in the reference and in the prediction."""
CONNECTIVITY_26 = np.ones((3, 3, 3), dtype=bool)
PERCENTILE = 95


def score_extras(
    predicted: Labels, truth: Labels, spacing_mm: Vector, extras: tuple[Extra, ...]
) -> dict[str, float]:
    """What was asked for, by name.

    `lesions_found`, `lesions_missed`, `lesions_false`: counts (see `count_lesions`).
    `kidney_error_ml`, `tumor_error_ml`: predicted less reference volume, `…_error_abs_ml` its size, and
    `…_error_percent` in percent of the reference, NaN where that is empty.
    `kidney_hd95_mm`, `tumor_hd95_mm`: see `hd95`.

    Args:
        predicted, truth: label maps of one shape. A kidney holds its tumors and cysts.
        spacing_mm: of the arrays' axes.
        extras: which.
    """
    masks = {"kidney": (predicted > 0, truth > 0), "tumor": (predicted == TUMOR, truth == TUMOR)}
    scores: dict[str, float] = {}
    if "lesions" in extras:
        counts = count_lesions(*masks["tumor"], spacing_mm)
        scores |= {f"lesions_{name}": float(n) for name, n in zip(LESIONS, counts, strict=True)}
    for name, (ours, theirs) in masks.items():
        if "volumes" in extras:
            scores |= _volume_errors(name, ours, theirs, spacing_mm)
        if "hd95" in extras:
            scores[f"{name}_hd95_mm"] = hd95(ours, theirs, spacing_mm)
    return scores


LESIONS = ("found", "missed", "false")


def count_lesions(
    predicted: NDArray[np.bool_], truth: NDArray[np.bool_], spacing_mm: Vector
) -> tuple[int, int, int]:
    """Reference tumors found, reference tumors missed, predicted tumors that are none.

    Tumors are 26-connected pieces of at least `MIN_LESION_MM3`; overlaps count by `MIN_OVERLAP`.

    Args:
        predicted, truth: masks of one shape.
        spacing_mm: of the arrays' axes.
    """
    voxel_mm3 = float(np.prod(spacing_mm))
    covered = _covered_shares(truth, predicted, voxel_mm3)
    real = _covered_shares(predicted, truth, voxel_mm3)
    found = int(np.count_nonzero(covered >= MIN_OVERLAP))
    return found, covered.size - found, int(np.count_nonzero(real < MIN_OVERLAP))


def hd95(predicted: NDArray[np.bool_], truth: NDArray[np.bool_], spacing_mm: Vector) -> float:
    """95th percentile of the distances between both surfaces, in mm; the larger of both directions.

    0 where both masks are empty, NaN where one is: there is no distance to nothing.
    """
    from surface_distance import compute_robust_hausdorff, compute_surface_distances  # as in `surface_dice`

    if not predicted.any() or not truth.any():
        return 0.0 if predicted.any() == truth.any() else float("nan")
    return float(
        compute_robust_hausdorff(compute_surface_distances(truth, predicted, spacing_mm), PERCENTILE)
    )


def _covered_shares(
    lesions: NDArray[np.bool_], by: NDArray[np.bool_], voxel_mm3: float
) -> NDArray[np.float64]:
    """For each lesion the part of it that the other mask covers."""
    pieces, count = ndimage.label(lesions, CONNECTIVITY_26)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    overlaps = np.bincount(pieces[by], minlength=count + 1)[1:]
    is_lesion = sizes * voxel_mm3 >= MIN_LESION_MM3
    return overlaps[is_lesion] / sizes[is_lesion]


def _volume_errors(
    name: str, predicted: NDArray[np.bool_], truth: NDArray[np.bool_], spacing_mm: Vector
) -> dict[str, float]:
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    true_ml = np.count_nonzero(truth) * voxel_ml
    error_ml = np.count_nonzero(predicted) * voxel_ml - true_ml
    return {
        f"{name}_error_ml": error_ml,
        f"{name}_error_abs_ml": abs(error_ml),
        f"{name}_error_percent": 100 * error_ml / true_ml if true_ml else float("nan"),
    }
