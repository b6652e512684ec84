"""From probabilities on the ROI grid to a label map on the CT's grid (paper, section 2.3)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..geometry import KIDNEY, TUMOR, Roi, Shape

MAX_STRUCTURES = 3
MIN_STRUCTURE_MM3 = 10_000.0
MIN_TUMOR_SHARE = 0.25
"""Of the largest tumor. Nine of KiTS19's 210 label maps show a second one, in three of them smaller than this
(`benchmarks/tumor_pieces.py`); what the network calls in such small pieces is mostly none."""
CONNECTIVITY_26 = np.ones((3, 3, 3), dtype=bool)

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Structures:
    """The structures (kidneys with their tumors) that post-processing keeps, largest first.

    Attributes:
        ids: uint8 (z, y, x), 1 for the first structure, 2 for the second …, 0 elsewhere.
        boxes: the bounding box of each.
        volumes_mm3: the volume of each.
    """

    ids: NDArray[np.uint8]
    boxes: tuple[Box, ...]
    volumes_mm3: tuple[float, ...]


@dataclass(frozen=True)
class Restored:
    """A label map on the CT's grid.

    Attributes:
        labels: uint8 (z, y, x) in {0, 1, 2}.
        voxels: kidney and tumor voxels of each structure, in their order.
    """

    labels: NDArray[np.uint8]
    voxels: tuple[tuple[int, int], ...]


def keep_kidneys(mask: NDArray[np.bool_], voxel_mm3: float) -> Structures:
    """At most three 26-connected structures, each larger than 10 cm³, the largest ones (paper, 2.3).

    Args:
        mask: (z, y, x), kidney ∪ tumor.
        voxel_mm3: volume of one voxel.
    """
    components, _ = ndimage.label(mask, CONNECTIVITY_26)
    boxes = ndimage.find_objects(components)
    volumes = np.bincount(components.ravel(), minlength=len(boxes) + 1)[1:] * voxel_mm3
    largest_first = np.argsort(-volumes, kind="stable")[:MAX_STRUCTURES]
    kept = [int(i) for i in largest_first if volumes[i] > MIN_STRUCTURE_MM3]
    new_id = np.zeros(len(boxes) + 1, dtype=np.uint8)
    for rank, component in enumerate(kept, start=1):
        new_id[component + 1] = rank
    return Structures(
        ids=new_id[components],
        boxes=tuple(boxes[i] for i in kept),
        volumes_mm3=tuple(float(volumes[i]) for i in kept),
    )


def keep_tumors(
    tumor: NDArray[np.float32], structures: Structures, threshold: float, *, min_vox: float = 0.0
) -> NDArray[np.float32]:
    """Probabilities without pieces outside the kidneys or small beside the largest one (not in the paper).

    Args:
        tumor: probabilities (z, y, x) on the ROI grid.
        structures: what `keep_kidneys` kept.
        threshold: a voxel belongs to the tumor above it; pieces are 26-connected.
        min_vox: least size of a piece, in voxels.

    Returns:
        The same, 0 in every piece that has no voxel in a structure, or fewer than `MIN_TUMOR_SHARE` of the
        largest one's, or fewer than `min_vox`.
    """
    is_tumor = tumor > threshold
    pieces, count = ndimage.label(is_tumor, CONNECTIVITY_26)
    is_kept = np.zeros(count + 1, dtype=bool)
    is_kept[pieces[is_tumor & (structures.ids > 0)]] = True
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    is_kept &= sizes >= max(min_vox, MIN_TUMOR_SHARE * sizes[is_kept].max(initial=0))
    is_kept[0] = True  # what is no tumor
    return np.where(is_kept[pieces], tumor, np.float32(0))


def grow_by_tumor(
    kidney: NDArray[np.float32],
    tumor: NDArray[np.float32],
    structures: Structures,
    *,
    reach_vox: int,
    kidney_threshold: float,
    tumor_threshold: float,
) -> tuple[NDArray[np.float32], Structures]:
    """Kidneys with the parts of their tumors that the kidney network left out (not in the paper).

    What does not begin within a kidney is none of its tumors.

    Args:
        kidney, tumor: probabilities (z, y, x) on the ROI grid.
        structures: what `keep_kidneys` kept.
        reach_vox: steps from tumor voxel to tumor voxel (26-connected) that may lead out of a structure.
        kidney_threshold, tumor_threshold: a voxel belongs to a structure above it.

    Returns:
        The kidney's probabilities, above their threshold in what was added, and the grown structures.
    """
    if reach_vox == 0:
        return kidney, structures
    kidney, ids, boxes, volumes = kidney.copy(), structures.ids.copy(), [], []
    for rank, (box, volume) in enumerate(zip(structures.boxes, structures.volumes_mm3, strict=True), start=1):
        z, y, x = (slice(max(0, side.start - reach_vox), side.stop + reach_vox) for side in box)
        around = ids[z, y, x]  # a view
        old, is_tumor = around == rank, tumor[z, y, x] > tumor_threshold
        grown = ndimage.binary_dilation(
            old & is_tumor, CONNECTIVITY_26, iterations=reach_vox, mask=is_tumor & (around == 0)
        )
        new = grown & ~old
        around[new] = rank
        kidney[z, y, x][new] = tumor[z, y, x][new] - tumor_threshold + kidney_threshold
        own_z, own_y, own_x = ndimage.find_objects((old | new).view(np.uint8))[0]
        boxes.append((_within(z, own_z), _within(y, own_y), _within(x, own_x)))
        volumes.append(volume * (1 + np.count_nonzero(new) / np.count_nonzero(old)))
    return kidney, Structures(ids, tuple(boxes), tuple(volumes))


def _within(outer: slice, inner: slice) -> slice:
    return slice(outer.start + inner.start, outer.start + inner.stop)


def restore(
    kidney: NDArray[np.float32],
    tumor: NDArray[np.float32],
    structures: Structures,
    roi: Roi,
    ct_shape: Shape,
    *,
    kidney_threshold: float,
    tumor_threshold: float,
    nearest: bool = False,
) -> Restored:
    """Bring the structures from the ROI grid to the CT's own, one at a time, in their bounding boxes.

    By default probabilities are interpolated linearly and thresholded on the CT's grid, which keeps the
    surface between two ROI voxels; cost and memory follow the kidneys and not the CT. `nearest` restores
    thresholded labels by nearest neighbour (paper, section 2.3).

    Args:
        kidney, tumor: probabilities (z, y, x) on the ROI grid. Tumor counts inside `structures` alone,
            and wins over kidney there.
        structures: what `keep_kidneys` kept of `kidney > kidney_threshold`.
        roi: where the ROI grid lies in the CT.
        ct_shape: (z, y, x) of the CT.
        kidney_threshold, tumor_threshold: a voxel belongs to a structure above it.
        nearest: the paper's way.
    """
    restored = np.zeros(ct_shape, dtype=np.uint8)
    voxels = []
    for rank, box in enumerate(structures.boxes, start=1):
        inside = structures.ids == rank
        target = _ct_box(box, roi, ct_shape)
        if nearest:
            is_kidney = _sample(inside, roi, target, order=0)
            is_tumor = _sample(inside & (tumor > tumor_threshold), roi, target, order=0)
        else:
            # what lies above the threshold but outside this structure must not grow back at its border
            own = np.where((kidney > kidney_threshold) & ~inside, np.float32(0), kidney)
            is_kidney = _largest_piece(_sample(own, roi, target, order=1) > kidney_threshold)
            # the tumor network was taught nothing outside the kidneys: at their surface its probability
            # is averaged over the inner voxels alone, Σ(weight · inside · p) / Σ(weight · inside)
            tumor_inside = np.where(inside, tumor, np.float32(0))
            weight = _sample(inside.astype(np.float32), roi, target, order=1)
            is_tumor = _sample(tumor_inside, roi, target, order=1) > tumor_threshold * weight
        labels = restored[target]
        labels[is_kidney] = KIDNEY
        labels[is_kidney & is_tumor] = TUMOR
        n_tumor = int(np.count_nonzero(is_kidney & is_tumor))
        voxels.append((int(np.count_nonzero(is_kidney)) - n_tumor, n_tumor))
    return Restored(restored, tuple(voxels))


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
