"""The whole method on one CT in memory (paper, sections 2.1 to 2.3)."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..geometry import Roi, Vector
from .cascade import Cascade, locate_kidneys, segment_kidneys, segment_tumor, voxel_mm3
from .postprocess import Restored, Structures, grow_by_tumor, keep_tumors, restore
from .roi import extract_roi, place_roi

Timer = Callable[[str], AbstractContextManager[Any]]
"""Name of a step → a context that lasts as long as the step."""


@dataclass(frozen=True)
class Segmentation:
    """All that was found in one CT; probabilities are float32 (z, y, x) on the ROI grid."""

    roi: Roi
    kidney: NDArray[np.float32]
    tumor: NDArray[np.float32]
    structures: Structures
    restored: Restored


def segment_ct(
    hu: NDArray[np.int16], spacing_mm: Vector, cascade: Cascade, *, paper: bool, timed: Timer = nullcontext
) -> Segmentation:
    """The method (paper, sections 2.1 to 2.3): a CT in, a label map on its own grid out.

    Args:
        hu: (z, y, x) canonical.
        spacing_mm: (z, y, x).
        cascade: the networks.
        paper: centre crop and nearest-neighbour restore, the literal method.
        timed: entered around each step with the step's name.
    """
    kidney_metadata, tumor_metadata = cascade.kidney_metadata, cascade.tumor_metadata
    with timed("locate"):
        if paper:
            roi = place_roi(hu.shape, spacing_mm, kidney_metadata.roi)
        else:
            roi = locate_kidneys(hu, spacing_mm, cascade)
    with timed("roi"):
        image = extract_roi(hu, roi)
    with timed("kidney"):
        kidney = cascade.kidney(image)
    with timed("components"):
        structures = segment_kidneys(kidney, kidney_metadata)
    with timed("tumor"):
        mirror = tumor_metadata.mirror and not paper
        tumor = segment_tumor(image, structures, cascade.tumor, whole_roi=paper, mirror=mirror)
    with timed("restore"):
        thresholds = {
            "kidney_threshold": kidney_metadata.threshold,
            "tumor_threshold": tumor_metadata.threshold,
        }
        organ, mass = kidney, tumor
        if not paper:
            reach = tumor_metadata.margin_vox
            min_vox = tumor_metadata.min_tumor_mm3 / voxel_mm3(tumor_metadata.roi)
            mass = keep_tumors(tumor, structures, tumor_metadata.threshold, min_vox=min_vox)
            organ, structures = grow_by_tumor(kidney, mass, structures, reach_vox=reach, **thresholds)
        restored = restore(organ, mass, structures, roi, hu.shape, nearest=paper, **thresholds)
    return Segmentation(roi, kidney, tumor, structures, restored)
