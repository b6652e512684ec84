"""From probabilities on the ROI grid to a label map on the CT's grid (paper, section 2.3)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..geometry import KIDNEY, TUMOR, Roi, Shape
from ..networks.cascade import Thresholds
from ..networks.weights import WeightsMetadata
from .method import Method

MAX_STRUCTURES = 3
MIN_STRUCTURE_MM3 = 10_000.0
CONNECTIVITY_26 = np.ones((3, 3, 3), dtype=bool)
MIN_CYST_HU = -10.0  # below is fat, which some tumors hold
ROUNDING = 1e-5  # relative; sums of eight float32 are far more exact
Array = NDArray[np.float32]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Structures:
    """The structures that post-processing keeps, largest first; tumors that are added change no order.

    Attributes:
        ids: uint8 (z, y, x), 1 for the first structure, 2 for the second …, 0 elsewhere.
        boxes: the bounding box of each.
        volumes_mm3: the volume of each.
    """

    ids: NDArray[np.uint8]
    boxes: tuple[Box, ...]
    volumes_mm3: tuple[float, ...]


def keep_kidneys(
    mask: NDArray[np.bool_],
    voxel_mm3: float,
    is_kidney: Callable[[NDArray[np.bool_], Box], bool] = lambda own, box: True,
) -> Structures:
    """At most three 26-connected structures, each larger than 10 cm³, the largest ones (paper, 2.3).

    Args:
        mask, voxel_mm3: (z, y, x), kidney ∪ tumor; the volume of one voxel.
        is_kidney: (mask of one structure in a box one voxel larger, that box) → whether it counts.
    """
    components, _ = ndimage.label(mask, CONNECTIVITY_26)
    boxes = ndimage.find_objects(components)
    volumes = np.bincount(components.ravel(), minlength=len(boxes) + 1)[1:] * voxel_mm3
    kept: list[int] = []
    for i in np.argsort(-volumes, kind="stable"):
        if volumes[i] > MIN_STRUCTURE_MM3 and len(kept) < MAX_STRUCTURES:
            z, y, x = (slice(max(0, side.start - 1), side.stop + 1) for side in boxes[i])
            if is_kidney(components[z, y, x] == i + 1, (z, y, x)):
                kept.append(int(i))
    new_id = np.zeros(len(boxes) + 1, dtype=np.uint8)
    new_id[np.array(kept, dtype=int) + 1] = range(1, len(kept) + 1)
    return Structures(new_id[components], tuple(boxes[i] for i in kept), tuple(volumes[kept].tolist()))


def keep_tumors(
    tumor: Array, structures: Structures, hu: Array, metadata: WeightsMetadata, method: Method
) -> Array:
    """Probabilities, 0 in pieces that are doubtful, small, a cyst, or outside the kidneys.

    Args:
        tumor, structures: probabilities (z, y, x) on the ROI grid, and what `keep_kidneys` kept.
        hu: of the CT on that grid.
        metadata: of the tumor network: its threshold, and the least size of a (26-connected) piece.
        method: what is doubtful, and a cyst (not in the paper).
    """
    pieces, count = ndimage.label(tumor > metadata.threshold, CONNECTIVITY_26)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    for number, box in enumerate(ndimage.find_objects(pieces), start=1):
        own = pieces[box] == number
        inner = hu[box][ndimage.binary_erosion(own)]
        is_cyst = inner.size and MIN_CYST_HU < inner.mean() < method.max_cyst_hu
        if is_cyst or tumor[box][own].mean() < method.min_mean_tumor_probability:
            sizes[number] = -1
    least = metadata.min_tumor_vox if method.drop_small_tumors else 0
    is_kept = np.isin(range(count + 1), pieces[structures.ids > 0]) & (sizes >= least)
    is_kept[0] = True  # what is no tumor
    return np.where(is_kept[pieces], tumor, np.float32(0))


def grow_by_tumor(
    kidney: Array, tumor: Array, structures: Structures, thresholds: Thresholds, *, reach_vox: int
) -> tuple[Array, Structures]:
    """Kidneys with the parts of their tumors that the kidney network left out (not in the paper).

    Only tumors that overlap a kidney belong to it; `reach_vox` steps from tumor voxel to tumor voxel
    (26-connected) may lead out of it. The kidney's probabilities are above their threshold in what is added.
    """
    if reach_vox == 0:
        return kidney, structures
    kidney, ids = kidney.copy(), structures.ids.copy()
    for rank, box in enumerate(structures.boxes, start=1):
        z, y, x = (slice(max(0, side.start - reach_vox), side.stop + reach_vox) for side in box)
        around = ids[z, y, x]  # a view
        old, is_tumor = around == rank, tumor[z, y, x] > thresholds.tumor
        grown = ndimage.binary_dilation(
            old & is_tumor, CONNECTIVITY_26, iterations=reach_vox, mask=is_tumor & (around == 0)
        )
        new = grown & ~old
        around[new] = rank
        kidney[z, y, x][new] = tumor[z, y, x][new] - thresholds.tumor + thresholds.kidney
    voxel_mm3 = sum(structures.volumes_mm3) / max(1, int(np.count_nonzero(structures.ids)))
    volumes_mm3 = np.bincount(ids.ravel())[1:] * voxel_mm3
    return kidney, Structures(ids, tuple(ndimage.find_objects(ids)), tuple(volumes_mm3.tolist()))


def restore(
    kidney: Array,
    tumor: Array,
    structures: Structures,
    roi: Roi,
    ct_shape: Shape,
    thresholds: Thresholds,
    *,
    nearest: bool = False,
) -> tuple[NDArray[np.uint8], tuple[tuple[int, int], ...]]:
    """Bring the structures from the ROI grid to the CT's own, one at a time, in their bounding boxes.

    Probabilities are interpolated linearly and thresholded on the CT's grid, which keeps the surface between
    two ROI voxels. `nearest` restores labels by nearest neighbour (paper, section 2.3).

    Args:
        kidney, tumor: probabilities (z, y, x) on the ROI grid. Tumor counts inside `structures` alone,
            and wins over kidney there.
        structures: what `keep_kidneys` kept of `kidney > thresholds.kidney`.
        roi, ct_shape: where the ROI grid lies in the CT, and the CT's (z, y, x).
        thresholds: a voxel belongs to a structure above them.

    Returns:
        Labels, uint8 (z, y, x) in {0, 1, 2}; kidney and tumor voxels of each structure, in their order.
    """
    restored = np.zeros(ct_shape, dtype=np.uint8)
    voxels = []
    for rank, box in enumerate(structures.boxes, start=1):
        inside = structures.ids == rank
        target = _ct_box(box, roi, ct_shape)
        if nearest:
            is_kidney = _sample(inside, roi, target, order=0)
            is_tumor = _sample(inside & (tumor > thresholds.tumor), roi, target, order=0)
        else:
            # what lies above the threshold but outside this structure must not grow back at its border
            own = np.where((kidney > thresholds.kidney) & ~inside, np.float32(0), kidney)
            is_kidney = _largest_piece(_sample(own, roi, target, order=1) > thresholds.kidney)
            # the tumor network was taught nothing outside the kidneys: at their surface its probability
            # is averaged over the inner voxels alone, Σ(weight · inside · p) / Σ(weight · inside)
            is_tumor = np.zeros(is_kidney.shape, dtype=np.bool_)
            tumor_inside = np.where(inside, tumor, np.float32(0))
            for part in _boxes_above(tumor_inside, thresholds.tumor, roi, target):
                weight = _sample(inside.astype(np.float32), roi, part, order=1)
                mass = _sample(tumor_inside, roi, part, order=1) > thresholds.tumor * weight
                pairs = zip(target, part, strict=True)
                is_tumor[tuple(slice(b.start - a.start, b.stop - a.start) for a, b in pairs)] = mass
        labels = restored[target]
        labels[is_kidney] = KIDNEY
        labels[is_kidney & is_tumor] = TUMOR
        n_tumor = int(np.count_nonzero(is_kidney & is_tumor))
        voxels.append((int(np.count_nonzero(is_kidney)) - n_tumor, n_tumor))
    return restored, tuple(voxels)


def _boxes_above(values: Array, threshold: float, roi: Roi, target: Box) -> Iterator[Box]:
    """The part of `target` in which a mean of neighbouring values may be above a threshold; none, or one."""
    for box in ndimage.find_objects((values > threshold * (1 - ROUNDING)).view(np.uint8)):
        reach = _ct_box(box, roi, (target[0].stop, target[1].stop, target[2].stop))
        z, y, x = (slice(max(a.start, b.start), b.stop) for a, b in zip(target, reach, strict=True))
        yield z, y, x


def _largest_piece(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """One structure is one piece on the CT's grid too, where a thin bridge may have become none."""
    pieces, count = ndimage.label(mask, CONNECTIVITY_26)
    return mask if count < 2 else pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])


def _ct_box(box: Box, roi: Roi, ct_shape: Shape) -> Box:
    """The CT voxels in an ROI box grown by one ROI voxel, as far as interpolation can reach."""
    slices = []
    for axis, side in enumerate(box):
        start, step = roi.start_vox[axis], roi.step_vox[axis]
        low = max(0, int(np.ceil(start + step * (side.start - 1))))
        high = min(ct_shape[axis], int(np.floor(start + step * side.stop)) + 1)
        slices.append(slice(low, max(low, high)))
    return (slices[0], slices[1], slices[2])


def _sample(values: NDArray, roi: Roi, target: Box, *, order: int) -> NDArray:
    """ROI values at the CT voxels of `target` (order 0 nearest, 1 linear); zero beyond the ROI grid."""
    step = 1.0 / np.asarray(roi.step_vox)
    first = (np.asarray([side.start for side in target]) - np.asarray(roi.start_vox)) * step
    shape = tuple(side.stop - side.start for side in target)
    return ndimage.affine_transform(
        values, step, offset=first, output_shape=shape, order=order, mode="grid-constant", cval=0.0
    )
