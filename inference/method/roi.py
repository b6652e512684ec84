"""From a CT to the network's input: place the ROI, resample, normalise (paper, section 2.1)."""

import numpy as np
from numpy.typing import NDArray

from ..geometry import Roi, RoiSpec, Shape, Vector


def place_roi(
    ct_shape: Shape, ct_spacing_mm: Vector, spec: RoiSpec, *, centre_z_vox: float | None = None
) -> Roi:
    """The ROI around the image centre (paper, section 2.1), or around another height along z.

    Args:
        ct_shape, ct_spacing_mm: (z, y, x) of the CT.
        spec: the grid to place.
        centre_z_vox: CT index along z to centre on instead of the image centre.
    """
    centre = [(n - 1) / 2 for n in ct_shape]
    if centre_z_vox is not None:
        centre[0] = centre_z_vox
    step = [spec.spacing_mm / s for s in ct_spacing_mm]
    start = [c - s * (n - 1) / 2 for c, s, n in zip(centre, step, spec.shape_vox, strict=True)]
    return Roi(spec, (start[0], start[1], start[2]), (step[0], step[1], step[2]))


def normalise(hu: NDArray[np.float32], spec: RoiSpec) -> NDArray[np.float32]:
    """HU → [0, 1] as the spec says; NaN (outside the CT) becomes 0, the paper's zero padding.

    A constant ROI under "minmax" becomes all zero.
    """
    if spec.normalisation == "window":
        low, high = spec.window_hu
    else:
        inside = hu[~np.isnan(hu)]
        low, high = (float(inside.min()), float(inside.max())) if inside.size else (0.0, 0.0)
    scale = 1.0 / (high - low) if high > low else 0.0
    return np.nan_to_num(np.clip((hu - np.float32(low)) * np.float32(scale), 0.0, 1.0), copy=False, nan=0.0)
