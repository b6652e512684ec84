"""Which structures are kidneys: their size as in the paper (section 2.3), and evidence besides it."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..networks.weights import WeightsMetadata
from .method import DEFAULT, Method
from .postprocess import CONNECTIVITY_26, Array, Box, Structures, keep_kidneys

TISSUE_HU, FAT_HU = -160.0, -30.0
"""Above the first is no air; fat lies between the two."""
CENTRAL_MM = 95.0
"""Central is what reaches no farther to the left or right of the CT's middle. Kidneys above 500 ml reach
108 mm or more in KiTS19's 210 label maps (a horseshoe kidney 123), bladders and pelvic masses 51 to 78 mm."""


def segment_kidneys(
    probability: Array, hu: Array, metadata: WeightsMetadata, method: Method = DEFAULT
) -> Structures:
    """Threshold the kidney network's output and keep what can be a kidney.

    Args:
        probability: the network's, (z, y, x) on the ROI grid.
        hu: Hounsfield units on the same grid, NaN outside the CT.
        metadata: of the network.
        method: its rules are `min_mean_probability`, `min_fat_contact` and `max_central_mm3`.
    """
    spacing_mm = metadata.roi.spacing_mm

    def is_kidney(own: NDArray[np.bool_], box: Box) -> bool:
        mean, fat_contact, reach_vox = evidence(own, box, probability, hu)
        if reach_vox * spacing_mm < CENTRAL_MM and own.sum() * spacing_mm**3 > method.max_central_mm3:
            return False
        return mean >= method.min_mean_probability and fat_contact >= method.min_fat_contact

    return keep_kidneys(probability > metadata.threshold, spacing_mm**3, is_kidney)


def evidence(own: NDArray[np.bool_], box: Box, probability: Array, hu: Array) -> tuple[float, float, float]:
    """For a structure, `own` in a box: mean probability; share of fat among its neighbours, air apart; how
    many voxels it reaches to the left or right of the CT's middle."""
    mean = float(probability[box][own].mean())
    around = hu[box][ndimage.binary_dilation(own, CONNECTIVITY_26) & ~own]
    tissue = around[around > TISSUE_HU]
    columns = box[2].start + np.flatnonzero(own.any(axis=(0, 1)))
    reach_vox = float(np.abs(columns - (hu.shape[2] - 1) / 2).max()) + 0.5
    return mean, np.count_nonzero(tissue < FAT_HU) / max(1, tissue.size), reach_vox
