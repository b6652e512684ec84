"""Which structures are kidneys: their size as in the paper (section 2.3), and evidence besides it."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..networks.weights import WeightsMetadata
from .method import DEFAULT, Method
from .postprocess import CONNECTIVITY_26, Array, Box, Structures, keep_kidneys

LUNG_HU, BONE_HU = -400.0, 350.0
"""Below the first is air, above the second bone or metal."""
CENTRAL_MM = 95.0
"""Central is what reaches no farther from the middle of a wider CT. Kidneys above 500 ml reach 108 mm or more
in KiTS19's 210 label maps (a horseshoe kidney 123), bladders and pelvic masses 51 to 78 mm."""


def segment_kidneys(
    probability: Array, hu: Array, metadata: WeightsMetadata, method: Method = DEFAULT
) -> Structures:
    """Threshold the kidney network's probabilities and keep what can be a kidney by the method's rules.

    Both arrays are (z, y, x) on the ROI grid; `hu` is NaN outside the CT.
    """
    spacing_mm = metadata.roi.spacing_mm
    is_wide = np.count_nonzero(~np.isnan(hu).all(axis=(0, 1))) * spacing_mm > 2 * CENTRAL_MM

    def is_kidney(own: NDArray[np.bool_], box: Box) -> bool:
        found = evidence(own, box, probability, hu)
        is_central = is_wide and found["reach_vox"] * spacing_mm < CENTRAL_MM
        is_large = own.sum() * spacing_mm**3 > method.max_central_mm3
        is_soft = found["air"] <= method.max_air_contact and found["bone"] <= method.max_bone_share
        is_sure = found["mean"] >= method.min_mean_probability
        return is_soft and is_sure and not (is_central and is_large)

    kept = keep_kidneys(probability > metadata.threshold, spacing_mm**3, is_kidney)
    if len(kept.boxes) == 1:
        z = kept.boxes[0][0]
        is_cut = np.isnan(hu[max(0, z.start - 2) : z.stop + 2]).all(axis=(1, 2)).any()  # by the scan's end
        if is_cut and (z.stop - z.start) * spacing_mm < method.min_lone_mm:
            return keep_kidneys(np.zeros(hu.shape, dtype=bool), spacing_mm**3)
    return kept


def evidence(own: NDArray[np.bool_], box: Box, probability: Array, hu: Array) -> dict[str, float]:
    """Of a structure, `own` in a box: mean probability; share of air among its neighbours, and of what is as
    dense as bone in it; how far it reaches from the CT's middle."""
    around = hu[box][ndimage.binary_dilation(own, CONNECTIVITY_26) & ~own]
    n_around = int(np.count_nonzero(~np.isnan(around)))
    columns = box[2].start + np.flatnonzero(own.any(axis=(0, 1)))
    return {
        "mean": float(probability[box][own].mean()),
        "air": np.count_nonzero(around < LUNG_HU) / max(1, n_around),
        "bone": float((hu[box][own] > BONE_HU).mean()),
        "reach_vox": float(np.abs(columns - (hu.shape[2] - 1) / 2).max()) + 0.5,
    }
