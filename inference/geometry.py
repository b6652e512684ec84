"""Grids and vectors, and the mapping between an ROI and the CT it lies in.

Geometry and voxels are separate: a `Roi` is where the network's grid lies in a CT, in that CT's voxel
indices; `resample` and `postprocess.restore` are the two directions of that one mapping. Arrays are
(z, y, x) in canonical LPS throughout. Training uses these very functions.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Vector = tuple[float, float, float]
Shape = tuple[int, int, int]
KIDNEY, TUMOR = 1, 2
"""The values of a label map beside 0, the background."""


@dataclass(frozen=True)
class RoiSpec:
    """The network's spatial and intensity contract; it travels in the weights' metadata.

    Attributes:
        shape_vox: (z, y, x) voxels of the network's grid. The paper's is 168³.
        spacing_mm: isotropic spacing of that grid. The paper's is 2 mm.
        normalisation: "window" clips to `window_hu` and scales to [0, 1]; "minmax" scales the ROI's own
            minimum and maximum to [0, 1], as the paper says.
        window_hu: lower and upper end of the window.
    """

    shape_vox: Shape = (168, 168, 168)
    spacing_mm: float = 2.0
    normalisation: Literal["window", "minmax"] = "window"
    window_hu: tuple[float, float] = (-160.0, 240.0)

    @property
    def extent_mm(self) -> Vector:
        """Side lengths (z, y, x) of the region the grid covers."""
        z, y, x = self.shape_vox
        return (z * self.spacing_mm, y * self.spacing_mm, x * self.spacing_mm)


@dataclass(frozen=True)
class Roi:
    """An ROI grid in one CT: CT index = `start_vox` + `step_vox` · ROI index, for each axis (z, y, x)."""

    spec: RoiSpec
    start_vox: Vector
    step_vox: Vector

    def to_ct_index(self, roi_index: Vector) -> Vector:
        """ROI index (z, y, x) → CT index (z, y, x), both with voxel centres at whole numbers."""
        z, y, x = (a + b * i for a, b, i in zip(self.start_vox, self.step_vox, roi_index, strict=True))
        return (z, y, x)


def resample(volume: NDArray, roi: Roi) -> NDArray[np.float32]:
    """Interpolate a CT-sized volume linearly on the ROI grid, straight from its own grid.

    Args:
        volume: (z, y, x) on the CT's grid, any real type; it is not copied.
        roi: where to sample.

    Returns:
        float32 of shape `roi.spec.shape_vox`, with NaN where the ROI reaches out of the CT, that is more
        than half a CT voxel beyond the centre of its outermost voxels.
    """
    step, size = np.asarray(roi.step_vox), roi.spec.shape_vox
    sampled = ndimage.affine_transform(volume, step, roi.start_vox, size, np.float32, order=1, mode="nearest")
    for axis in range(3):
        index = roi.start_vox[axis] + roi.step_vox[axis] * np.arange(roi.spec.shape_vox[axis])
        outside = (index < -0.5) | (index > volume.shape[axis] - 0.5)
        np.moveaxis(sampled, axis, 0)[outside] = np.nan
    return sampled
