"""Kidney, then tumor: the two networks nested as in the paper (section 2.2), on the ROI grid."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..geometry import Roi, RoiSpec, Vector, resample
from ..networks.cascade import Cascade
from ..networks.vnet_tensors import DOWNSAMPLING
from .evidence import segment_kidneys
from .method import DEFAULT, Method
from .postprocess import Box, Structures
from .roi import normalise, place_roi

TILE_OVERLAP = 0.25
"""Least part of a tile that the next one repeats: what one tile cuts lies deeper inside its neighbour."""


def segment_tumor(
    image: NDArray[np.float32], structures: Structures, cascade: Cascade, method: Method = DEFAULT
) -> NDArray[np.float32]:
    """The tumor network's probabilities around the kidneys, 0 elsewhere (later steps never read it).

    Without structures the network is not run; `image` is the ROI in [0, 1], (z, y, x).
    """
    probability = np.zeros_like(image)
    if structures.boxes:
        box = _box_around(structures.boxes, image.shape, method.tumor_margin_vox)
        part = np.ascontiguousarray(image[box])
        probability[box] = cascade.tumor(part)
        if method.mirror and cascade.tumor_metadata.mirror:  # left and right change places
            probability[box] += cascade.tumor(np.ascontiguousarray(part[:, :, ::-1]))[:, :, ::-1]
            probability[box] /= 2
    return probability


def _box_around(boxes: Sequence[Box], shape: Sequence[int], margin_vox: int | None) -> Box:
    """One box around all of them with a margin, on the poolings' own grid: as if the ROI were whole."""
    if margin_vox is None:
        return (slice(None),) * 3
    sides = []
    for axis, size in enumerate(shape):
        low = min(box[axis].start for box in boxes) - margin_vox
        high = max(box[axis].stop for box in boxes) + margin_vox
        start, stop = low // DOWNSAMPLING * DOWNSAMPLING, -(-high // DOWNSAMPLING) * DOWNSAMPLING
        sides.append(slice(max(0, start), min(size, stop)))
    return sides[0], sides[1], sides[2]


def locate_kidneys(
    hu: NDArray[np.int16],
    spacing_mm: Vector,
    cascade: Cascade,
    method: Method = DEFAULT,
    done: Callable[[float], None] = lambda share: None,
) -> Roi:
    """The ROI: around the image centre (paper), or around the kidneys of a CT that is longer than the ROI.

    The kidney network looks at overlapping tiles along z; the ROI is centred on what the method takes for
    kidneys there, the largest first and the others as far as they fit in with it. `done` is told which share
    of the tiles has been looked at.
    """
    spec = cascade.kidney_metadata.roi
    tiles = tile_centres(hu.shape[0], spacing_mm, spec)
    if len(tiles) == 1 or not method.roi_follows_kidneys:
        return place_roi(hu.shape, spacing_mm, spec)
    found: list[tuple[float, float, float]] = []  # volume mm³, lowest and highest z in CT voxels
    for number, centre_z in enumerate(tiles):
        done(number / len(tiles))
        roi = place_roi(hu.shape, spacing_mm, spec, centre_z_vox=centre_z)
        tile = resample(hu, roi)
        probability = cascade.kidney(normalise(tile, spec))
        coarse = look_coarsely(hu, spacing_mm, roi, cascade, method)
        structures = segment_kidneys(probability, tile, cascade.kidney_metadata, method, coarse)
        for box, volume in zip(structures.boxes, structures.volumes_mm3, strict=True):
            low, high = (roi.to_ct_index((z - 0.5, 0, 0))[0] for z in (box[0].start, box[0].stop))
            found.append((volume, low, high))
    if not found:
        return place_roi(hu.shape, spacing_mm, spec)
    length = spec.extent_mm[0] / spacing_mm[0]
    (_, low, high), *others = sorted(found, reverse=True)
    for _, other_low, other_high in others:
        if max(high, other_high) - min(low, other_low) <= length:
            low, high = min(low, other_low), max(high, other_high)
    return place_roi(hu.shape, spacing_mm, spec, centre_z_vox=(low + high) / 2)


def look_coarsely(
    hu: NDArray[np.int16], spacing_mm: Vector, roi: Roi, cascade: Cascade, method: Method = DEFAULT
) -> NDArray[np.float32] | None:
    """The coarse network's probabilities on the ROI's grid, seen with more of the body around it.

    None where the weights have no such network, or the method does not ask it.
    """
    if cascade.coarse is None or cascade.coarse_metadata is None or not method.min_coarse_probability:
        return None
    spec = cascade.coarse_metadata.roi
    middle = roi.to_ct_index(((roi.spec.shape_vox[0] - 1) / 2, 0.0, 0.0))[0]
    wide = place_roi(hu.shape, spacing_mm, spec, centre_z_vox=middle)
    found = cascade.coarse(normalise(resample(hu, wide), spec))
    start = [(a - b) / s for a, b, s in zip(roi.start_vox, wide.start_vox, wide.step_vox, strict=True)]
    step = roi.spec.spacing_mm / spec.spacing_mm
    return np.nan_to_num(resample(found, Roi(roi.spec, (start[0], start[1], start[2]), (step, step, step))))


def tile_centres(n_slices: int, spacing_mm: Vector, spec: RoiSpec) -> list[float]:
    """Centres (CT index) of the fewest evenly spread ROIs that cover all slices with enough overlap."""
    length = spec.extent_mm[0] / spacing_mm[0]  # of one tile, in CT slices
    if n_slices <= length:
        return [(n_slices - 1) / 2]
    count = 1 + int(np.ceil((n_slices - length) / (length * (1 - TILE_OVERLAP))))
    return np.linspace((length - 1) / 2, n_slices - 1 - (length - 1) / 2, count).tolist()
