"""From a CT to the network's input: place the ROI, resample, normalise (paper, section 2.1).

Geometry and voxels are separate: a `Roi` is where the network's grid lies in a CT, in that CT's voxel
indices; `extract_roi` and `postprocess.restore` are the two directions of that one mapping. Arrays are
(z, y, x) in canonical LPS throughout. Training uses these very functions.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Vector = tuple[float, float, float]
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class RoiSpec:
    """The network's spatial and intensity contract; it travels in the weights' metadata.

    Attributes:
        shape_vox: (z, y, x) voxels of the network's grid. The paper's is 168³.
        spacing_mm: isotropic spacing of that grid. The paper's is 2 mm.
        normalisation: "window" clips to `window_hu` and scales to [0, 1]; "minmax" scales the ROI's own
            minimum and maximum to [0, 1], the paper's literal sentence.
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
        z, y, x = (
            start + step * i for start, step, i in zip(self.start_vox, self.step_vox, roi_index, strict=True)
        )
        return (z, y, x)


def place_roi(
    ct_shape: Shape, ct_spacing_mm: Vector, spec: RoiSpec, *, centre_z_vox: float | None = None
) -> Roi:
    """The ROI around the image centre (paper, section 2.1), or around another height along z.

    Args:
        ct_shape: (z, y, x) voxels of the CT.
        ct_spacing_mm: (z, y, x) of the CT.
        spec: the grid to place.
        centre_z_vox: CT index along z to centre on instead of the image centre.
    """
    centre = [(n - 1) / 2 for n in ct_shape]
    if centre_z_vox is not None:
        centre[0] = centre_z_vox
    step = [spec.spacing_mm / s for s in ct_spacing_mm]
    start = [c - s * (n - 1) / 2 for c, s, n in zip(centre, step, spec.shape_vox, strict=True)]
    return Roi(spec, (start[0], start[1], start[2]), (step[0], step[1], step[2]))


def resample(volume: NDArray, roi: Roi) -> NDArray[np.float32]:
    """Interpolate a CT-sized volume linearly on the ROI grid, straight from its own grid.

    Args:
        volume: (z, y, x) on the CT's grid, any real type; it is not copied.
        roi: where to sample.

    Returns:
        float32 of shape `roi.spec.shape_vox`, with NaN where the ROI reaches out of the CT, that is more
        than half a CT voxel beyond the centre of its outermost voxels.
    """
    sampled = ndimage.affine_transform(
        volume,
        np.asarray(roi.step_vox),
        offset=roi.start_vox,
        output_shape=roi.spec.shape_vox,
        output=np.float32,
        order=1,
        mode="nearest",
    )
    for axis in range(3):
        index = roi.start_vox[axis] + roi.step_vox[axis] * np.arange(roi.spec.shape_vox[axis])
        outside = (index < -0.5) | (index > volume.shape[axis] - 0.5)
        np.moveaxis(sampled, axis, 0)[outside] = np.nan
    return sampled


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


def extract_roi(hu: NDArray[np.int16], roi: Roi) -> NDArray[np.float32]:
    """A CT in HU, (z, y, x) → the network's input, float32 in [0, 1] of shape `roi.spec.shape_vox`."""
    return normalise(resample(hu, roi), roi.spec)
