"""Which structures are kidneys: their size as in the paper (section 2.3), and evidence besides it."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..networks.weights import WeightsMetadata
from .method import DEFAULT, Method
from .postprocess import CONNECTIVITY_26, MIN_STRUCTURE_MM3, Array, Box, Structures, keep_kidneys

LUNG_HU, BONE_HU = -400.0, 350.0  # below the first is air, above the second bone or metal
DOUBT = 0.01  # the kidney network's, above which it does not contradict the coarse one


def segment_kidneys(
    probability: Array,
    hu: Array,
    metadata: WeightsMetadata,
    method: Method = DEFAULT,
    coarse: Array | None = None,
) -> Structures:
    """Threshold the kidney network's probabilities and keep what can be a kidney by the method's rules.

    All are (z, y, x) on the ROI grid; `hu` is NaN outside the CT; `coarse`: what `look_coarsely` returns.
    """
    voxel_mm3 = metadata.roi.spacing_mm**3

    def is_kidney(own: NDArray[np.bool_], box: Box) -> bool:
        found = own & (probability[box] > metadata.threshold)  # without what is filled in
        if np.count_nonzero(found) * voxel_mm3 <= MIN_STRUCTURE_MM3:
            return False
        air, bone = air_and_bone(own, hu[box])
        is_soft = air <= method.max_air_contact and bone <= method.max_bone_share
        is_sure = probability[box][found].mean() >= method.min_mean_probability
        least = method.min_coarse_probability if is_sure else method.sure_coarse_probability
        return bool(is_soft and (is_sure if coarse is None else coarse[box][found].mean() >= least))

    return keep_kidneys(fill(probability, coarse, method) > metadata.threshold, voxel_mm3, is_kidney)


def fill(probability: Array, coarse: Array | None, method: Method = DEFAULT) -> Array:
    """The kidney network's probabilities; where it is in doubt and the coarse network sure, the latter's."""
    if coarse is None:
        return probability
    is_filled = (probability > DOUBT) & (coarse > method.sure_coarse_probability)
    return np.where(is_filled, np.maximum(probability, coarse), probability)


def air_and_bone(own: NDArray[np.bool_], hu: Array) -> tuple[float, float]:
    """Of a structure in a box: the share of air among its neighbours, and that of bone in it."""
    around = hu[ndimage.binary_dilation(own, CONNECTIVITY_26) & ~own]
    n_around = max(1, int(np.count_nonzero(~np.isnan(around))))
    return np.count_nonzero(around < LUNG_HU) / n_around, float((hu[own] > BONE_HU).mean())
