"""The challenges' metrics on two label maps in one array order. No file is read here.

KiTS19 scores kidney ∪ tumor and tumor by Dice (github.com/neheller/kits19: `starter_code/evaluation.py`).
KiTS21 and KiTS23 score three nested regions, their hierarchical evaluation classes, by Dice and by surface
Dice at a tolerance (github.com/neheller/kits23: `kits23/evaluation/metrics.py` and
`kits23/configuration/labels.py`; the same numbers in neheller/kits21). There a pair of empty masks scores 1
in both metrics, and one empty mask 0.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from inference.geometry import TUMOR, Vector

Metric = Literal["kits19", "kits21", "kits23"]
Labels = NDArray[np.integer]
"""0 background, 1 kidney, 2 tumor, 3 cyst (KiTS21 and KiTS23 alone)."""
HIGHEST_LABEL = 3
KITS19_REGIONS: Mapping[str, tuple[int, ...]] = MappingProxyType({"kidney": (1, 2, 3), "tumor": (2,)})
"""What KiTS19 scores; a cyst is kidney."""
REGIONS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {"kidney_and_masses": (1, 2, 3), "masses": (2, 3), "tumor": (2,)}
)
TOLERANCE_MM: Mapping[str, float] = MappingProxyType(
    {
        "kidney_and_masses": 1.0330772532390826,
        "masses": 1.1328796488598762,
        "tumor": 1.1498198361434828,
    }
)
"""Of the surface Dice: the 95th percentile of the distances between KiTS21's own annotations of a region,
mean over its cases (github.com/neheller/kits21: `kits21/evaluation/README.md`)."""


def dice(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """2|A∩B| / (|A| + |B|); two empty masks agree (1)."""
    total = np.count_nonzero(predicted) + np.count_nonzero(truth)
    return float(2 * np.count_nonzero(predicted & truth) / total) if total else 1.0


def sensitivity(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """|A∩B| / |B|: the share of the truth that was found, NaN where there is none. Precision: swapped."""
    total = np.count_nonzero(truth)
    return np.count_nonzero(predicted & truth) / total if total else float("nan")


def surface_dice(
    predicted: NDArray[np.bool_], truth: NDArray[np.bool_], spacing_mm: Vector, tolerance_mm: float
) -> float:
    """Share of both surfaces that lies within the tolerance of the other; both empty 1, one empty 0.

    Args:
        predicted, truth: masks of one shape.
        spacing_mm: of the arrays' axes.
        tolerance_mm: largest distance that counts as none.
    """
    # only here: Dice alone does without the extra 'evaluate'
    from surface_distance import compute_surface_dice_at_tolerance, compute_surface_distances

    if not predicted.any() or not truth.any():
        return float(predicted.any() == truth.any())
    distances = compute_surface_distances(truth, predicted, spacing_mm)
    return float(compute_surface_dice_at_tolerance(distances, tolerance_mm))


def score_kits19(predicted: Labels, truth: Labels) -> dict[str, float]:
    """Dice of kidney ∪ tumor and of tumor, where an empty pair scores 1.

    Label 3 is kidney and no tumor: KiTS19's kidneys hold their cysts.
    """
    return {
        "kidney": dice(predicted > 0, truth > 0),
        "tumor": dice(predicted == TUMOR, truth == TUMOR),
    }


def score_kits19_official(predicted: Labels, truth: Labels) -> dict[str, float]:
    """What KiTS19's own script gives: label 3 is tumor, and an empty pair scores NaN (NumPy's 0 / 0)."""
    scores = {}
    for name, above in (("kidney", 0), ("tumor", 1)):
        a, b = predicted > above, truth > above
        is_empty = not a.any() and not b.any()
        scores[name] = float("nan") if is_empty else dice(a, b)
    return scores


def _region_masks(
    predicted: Labels, truth: Labels, regions: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, NDArray[np.bool_], NDArray[np.bool_]]]:
    for name, labels in regions.items():
        yield name, np.isin(predicted, labels), np.isin(truth, labels)


def score_regions(predicted: Labels, truth: Labels, spacing_mm: Vector) -> dict[str, float]:
    """KiTS21's and KiTS23's six numbers: Dice, and `…_surface`, of each of the nested regions.

    Args:
        predicted, truth: label maps of one shape.
        spacing_mm: of the arrays' axes.
    """
    scores = {}
    for name, a, b in _region_masks(predicted, truth, REGIONS):
        scores[name] = dice(a, b)
        scores[f"{name}_surface"] = surface_dice(a, b, spacing_mm, TOLERANCE_MM[name])
    return scores


def score_sensitivity(predicted: Labels, truth: Labels, metric: Metric) -> dict[str, float]:
    """`…_sensitivity` and `…_precision` of each region that the metric scores; NaN where it is nowhere."""
    scores = {}
    for name, a, b in _region_masks(predicted, truth, KITS19_REGIONS if metric == "kits19" else REGIONS):
        scores[f"{name}_sensitivity"] = sensitivity(a, b)
        scores[f"{name}_precision"] = sensitivity(b, a)
    return scores
