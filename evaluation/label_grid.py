"""Reference label maps on the network's grid: where that grid lies, and what each of its voxels holds."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from inference.formats.ct import Ct
from inference.geometry import KIDNEY, Roi, RoiSpec, resample
from inference.method.roi import place_roi


def place_around_kidneys(truth: Ct, spec: RoiSpec) -> Roi:
    """As the paper has it around the centre; in a scan longer than the ROI at the kidneys' height.

    Args:
        truth: a label map.
        spec: the grid to place.
    """
    roi = place_roi(truth.hu.shape, truth.spacing_mm, spec)
    slices = np.flatnonzero(truth.hu.any((1, 2)))
    if not slices.size or truth.hu.shape[0] * truth.spacing_mm[0] <= spec.extent_mm[0]:
        return roi
    return place_roi(truth.hu.shape, truth.spacing_mm, spec, centre_z_vox=float(slices[0] + slices[-1]) / 2)


def widening(step_vox: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviation, in CT voxels, by which a grid voxel is wider than one of them; both are boxes.

    Args:
        step_vox: (z, y, x), the grid's spacing in voxels of the CT.
    """
    return np.sqrt(np.maximum(step_vox**2 - 1, 0) / 12)


def resample_labels(labels: NDArray[np.int16], roi: Roi) -> NDArray[np.uint8]:
    """A label map on the ROI grid: each mask is averaged over the ROI's voxels and cut at one half.

    Args:
        labels: (z, y, x) on the CT's grid; 0, 1, 2, …, each counted to the ones below it too.
        roi: where to sample.
    """
    step = np.asarray(roi.step_vox)
    sigma = widening(step)
    reach = np.ceil(4 * sigma + step).astype(int) + 1
    box = ndimage.find_objects((labels > 0).astype(np.uint8))
    result = np.zeros(roi.spec.shape_vox, dtype=np.uint8)
    if not box:
        return result
    near = tuple(
        slice(max(0, side.start - n), min(length, side.stop + n))
        for side, n, length in zip(box[0], reach.tolist(), labels.shape, strict=True)
    )
    z, y, x = (start - side.start for start, side in zip(roi.start_vox, near, strict=True))
    here = Roi(roi.spec, (z, y, x), roi.step_vox)
    for label in range(KIDNEY, int(labels.max()) + 1):  # the kidney's mask holds the tumor too
        mask = (labels[near] >= label).astype(np.float32)
        # NaN, outside of the part that holds labels, compares false
        result[resample(ndimage.gaussian_filter(mask, sigma), here) > 0.5] = label
    return result
