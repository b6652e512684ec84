"""The whole method on one CT in memory (paper, sections 2.1 to 2.3)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..geometry import Roi, Vector, resample
from ..networks.cascade import Cascade
from .cascade import locate_kidneys, look_coarsely, segment_tumor
from .evidence import fill, segment_kidneys
from .method import DEFAULT, Method
from .postprocess import Structures, grow_by_tumor, keep_tumors, restore
from .roi import normalise

Progress = Callable[[str, float], None]
"""(stage, share of it that is done), told where a stage begins, within a long one, and at the very end:
("locate", 0.0), ("locate", 0.25) … then roi, kidney, components, tumor, restore; last is ("restore", 1.0)."""


@dataclass(frozen=True)
class SegmentedCt:
    """All that was found in one CT, on two grids.

    Attributes:
        labels: on the CT's grid: uint8 (z, y, x), 0 background, 1 kidney, 2 tumor.
        voxels: kidney and tumor voxels in `labels`, of each structure in their order.
        roi: where the ROI grid lies in the CT.
        kidney_on_roi, tumor_on_roi: probabilities on the ROI grid: float32 (z, y, x); the kidney network's,
            with its doubts filled in, and the tumor network's, 0 away from the kidneys.
        structures: the kidneys (with their tumors) on the ROI grid.
    """

    labels: NDArray[np.uint8]
    voxels: tuple[tuple[int, int], ...]
    roi: Roi
    kidney_on_roi: NDArray[np.float32]
    tumor_on_roi: NDArray[np.float32]
    structures: Structures


def segment(
    hu: NDArray[np.int16],
    spacing_mm: Vector,
    cascade: Cascade,
    method: Method = DEFAULT,
    progress: Progress | None = None,
) -> SegmentedCt:
    """Find kidneys and their tumors in a CT.

    Args:
        hu: Hounsfield units, (z, y, x) in canonical LPS, as `read_ct` gives them.
        spacing_mm: (z, y, x).
        cascade: the networks (`load_cascade`).
        method: ours, or `PAPER`.
        progress: told what goes on.
    """
    tell = progress or (lambda stage, share: None)
    kidney_metadata, tumor_metadata = cascade.kidney_metadata, cascade.tumor_metadata
    reach_vox = tumor_metadata.margin_vox if method.grow_by_tumors else 0
    tell("locate", 0.0)
    roi = locate_kidneys(hu, spacing_mm, cascade, method, partial(tell, "locate"))
    tell("roi", 0.0)
    roi_hu = resample(hu, roi)
    image = normalise(roi_hu, roi.spec)
    tell("kidney", 0.0)
    kidney = cascade.kidney(image)
    coarse = look_coarsely(hu, spacing_mm, roi, cascade, method)
    tell("components", 0.0)
    structures = segment_kidneys(kidney, roi_hu, kidney_metadata, method, coarse)
    kidney = fill(kidney, coarse, method)
    tell("tumor", 0.0)
    tumor = segment_tumor(image, structures, cascade, method)
    cascade.memory.release()  # before the labels take theirs
    tell("restore", 0.0)
    kept = keep_tumors(tumor, structures, roi_hu, tumor_metadata, method)
    grown, structures = grow_by_tumor(kidney, kept, structures, cascade.thresholds, reach_vox=reach_vox)
    labels, voxels = restore(
        grown, kept, structures, roi, hu.shape, cascade.thresholds, nearest=not method.interpolate
    )
    tell("restore", 1.0)
    return SegmentedCt(labels, voxels, roi, kidney, tumor, structures)
