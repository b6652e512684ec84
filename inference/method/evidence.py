"""Which structures are kidneys: their size as in the paper (section 2.3), and what the networks say."""

import numpy as np
from numpy.typing import NDArray

from ..networks.weights import WeightsMetadata
from .method import DEFAULT, Method
from .postprocess import Array, Box, Structures, keep_kidneys


def segment_kidneys(
    probability: Array, metadata: WeightsMetadata, method: Method = DEFAULT, coarse: Array | None = None
) -> Structures:
    """Threshold the kidney network's probabilities and keep what can be a kidney by the method's rules.

    Both arrays are (z, y, x) on the ROI grid; `coarse` is what `look_coarsely` saw there, None without it.
    """

    def is_kidney(own: NDArray[np.bool_], box: Box) -> bool:
        is_sure = probability[box][own].mean() >= method.min_mean_probability
        is_seen = coarse is None or coarse[box][own].mean() >= method.min_coarse_probability
        return bool(is_sure and is_seen)

    return keep_kidneys(probability > metadata.threshold, metadata.roi.spacing_mm**3, is_kidney)
