"""What a label map says in numbers: each kidney, each tumor. No files, no logs.

Arrays are (z, y, x) in canonical LPS as everywhere; places in millimetres are (x, y, z) in LPS, the world
frame of DICOM and ITK (NIfTI's is RAS: change the sign of x and y).
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from nibabel.orientations import inv_ornt_aff
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist

from ..formats.ct import Ct, NativeGrid
from ..geometry import KIDNEY, TUMOR, Roi, Vector
from ..method.postprocess import CONNECTIVITY_26, Box

MIN_TUMOR_MM3 = 100.0
"""A sphere of 5.8 mm. What is smaller counts to the nearest larger tumor of the same kidney; where a kidney
has no larger one, its pieces are one tumor."""
CUT_MM = 3.0
"""A kidney that ends this near to the first or last slice, or to the end of the networks' region, is cut
there: the networks see one voxel of 2 or 3 mm less than the scan shows."""
BODY_HU = -300
"""Body and not air or lung."""
BODY_STEP_VOX = 4
"""Every fourth voxel is enough to find the middle of a body."""
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

Side = Literal["left", "right"]
"""The patient's."""
End = Literal["superior", "inferior"]


@dataclass(frozen=True)
class Parts:
    """A label map taken apart.

    Attributes:
        box: the part of the CT that holds all labels.
        kidneys: uint8 (z, y, x) within the box: 1 for the first kidney with its tumors, 2 for the second …
        tumors: uint16 (z, y, x) within the box: 1 for the first tumor, 2 for the second …
    """

    box: Box
    kidneys: NDArray[np.uint8]
    tumors: NDArray[np.uint16]


@dataclass(frozen=True)
class Probabilities:
    """What the networks said, on the ROI grid: float32 (z, y, x).

    Attributes:
        roi: where that grid lies in the CT.
        kidney, tumor: the probabilities.
        inside: where kidneys were kept; the tumor network counts there alone.
        kidney_threshold: a voxel belongs to a kidney above it.
    """

    roi: Roi
    kidney: NDArray[np.float32]
    tumor: NDArray[np.float32]
    inside: NDArray[np.bool_]
    kidney_threshold: float = 0.5


@dataclass(frozen=True)
class Kidney:
    """One kidney (docs/report.md tells each field's unit and rule)."""

    name: str
    side: Side
    ml: float
    tumor_ml: float
    hu_mean: float | None
    hu_sd: float | None
    mean_probability: float | None
    centroid_lps_mm: list[float]
    box_lps_mm: list[list[float]]
    midline_mm: float
    cut_by_scan: list[End]
    cut_by_region: bool


@dataclass(frozen=True)
class Tumor:
    """One tumor (docs/report.md tells each field's unit and rule)."""

    name: str
    kidney: str
    side: Side
    ml: float
    axial_diameter_mm: float
    axial_slice_index: int
    axial_slice_lps_mm: float
    largest_extent_mm: float
    hu_mean: float
    hu_sd: float
    mean_probability: float | None
    share_inside_kidney: float | None
    centroid_lps_mm: list[float]


@dataclass(frozen=True)
class Findings:
    """All of one CT; kidneys and tumors in the order of `parts`' numbers."""

    parts: Parts
    kidneys: tuple[Kidney, ...] = ()
    tumors: tuple[Tumor, ...] = ()


def take_apart(
    labels: NDArray[np.uint8],
    spacing_mm: Vector,
    ids: NDArray[np.uint8] | None = None,
    roi: Roi | None = None,
) -> Parts:
    """Which kidney and which tumor each labelled voxel belongs to.

    Args:
        labels: (z, y, x) on the CT's grid.
        spacing_mm: (z, y, x).
        ids: (z, y, x) on the ROI grid: the kidneys that post-processing kept, 1 for the first …; a voxel
            belongs to the nearest one. Without them kidneys are the 26-connected structures, largest first.
        roi: where `ids` lies in the CT.
    """
    box = _box_around(labels)
    if box[0].stop == 0:
        return Parts(box, np.zeros((0, 0, 0), np.uint8), np.zeros((0, 0, 0), np.uint16))
    labels = labels[box]
    if ids is None or roi is None:
        found = _largest_first(labels > 0)
    else:
        found = _by_size(_nearest_ids(labels, box, ids, roi))  # tumors may have changed their order
    kidneys: NDArray[Any] = found.astype(np.min_scalar_type(int(found.max())))
    voxel_mm3 = float(np.prod(spacing_mm))
    pieces, count = np.zeros(labels.shape, np.uint16), 0
    for rank, kidney in enumerate(ndimage.find_objects(kidneys), start=1):
        mask = (labels[kidney] == TUMOR) & (kidneys[kidney] == rank)
        for part in ndimage.find_objects(mask.view(np.uint8)):  # none, or the box of all its tumors
            own = _tumors_of(mask[part], voxel_mm3, spacing_mm)
            pieces[kidney][part][own > 0] = own[own > 0] + np.uint16(count)
            count += int(own.max())
    return Parts(box, kidneys, _by_size(pieces) if count > 1 else pieces)


def measure(
    ct: Ct, labels: NDArray[np.uint8], parts: Parts, networks: Probabilities | None = None
) -> Findings:
    """Measure each kidney and each tumor.

    Args:
        ct: the CT.
        labels: (z, y, x) on its grid: 0, 1 kidney, 2 tumor.
        parts: of these labels.
        networks: for probabilities; without them those fields are None.
    """
    if not parts.kidneys.size:
        return Findings(parts)
    to_lps = index_to_lps_mm(ct.native)
    midline_x = _body_middle(ct.hu[parts.box[0]])
    boxes = ndimage.find_objects(parts.kidneys)
    sides = [_side_and_distance(parts, rank, midline_x) for rank in range(1, len(boxes) + 1)]
    names = _names([side for side, _ in sides])
    kidneys = []
    for rank, (name, (side, distance_vox), local) in enumerate(zip(names, sides, boxes, strict=True), 1):
        where, mask = _shift(local, parts.box), parts.kidneys[local] == rank
        is_kidney = mask & (labels[where] == KIDNEY)
        hu = ct.hu[where][is_kidney]
        probability = _kidney_probability(networks, where)
        n_kidney = int(np.count_nonzero(is_kidney))
        kidneys.append(
            Kidney(
                name=name,
                side=side,
                ml=_ml(n_kidney, ct.spacing_mm),
                tumor_ml=_ml(int(np.count_nonzero(mask)) - n_kidney, ct.spacing_mm),
                hu_mean=round(float(hu.mean()), 1) if hu.size else None,
                hu_sd=round(float(hu.std()), 1) if hu.size else None,
                mean_probability=_mean(probability, is_kidney),
                centroid_lps_mm=_centroid(mask, where, to_lps),
                box_lps_mm=_world_box(mask, where, to_lps),
                midline_mm=round(distance_vox * ct.spacing_mm[2], 1),
                cut_by_scan=_ends(where[0], ct),
                cut_by_region=networks is not None
                and _reaches_region_end(networks.inside, networks.roi, ct, where),
            )
        )
    return Findings(parts, tuple(kidneys), tuple(_measure_tumors(ct, parts, kidneys, to_lps, networks)))


def index_to_lps_mm(native: NativeGrid) -> NDArray[np.float64]:
    """4×4: a voxel's canonical index (z, y, x) → its centre (x, y, z) in LPS millimetres."""
    return RAS_TO_LPS @ native.affine @ inv_ornt_aff(native.to_canonical, native.shape)


def stored_index(native: NativeGrid, axis: int, index: int) -> int:
    """The index, from 0, that a canonical index (axis 0 z, 1 y, 2 x) has in the file, along its own axis."""
    canonical = np.array([0, 0, 0, 1])
    canonical[axis] = index
    stored = inv_ornt_aff(native.to_canonical, native.shape) @ canonical
    return round(float(stored[int(native.from_canonical[axis, 0])]))


def plane_position_mm(native: NativeGrid, axis: int, index: int) -> float:
    """Where a canonical plane lies in LPS (axis 0: its z, 1: its y, 2: its x), at the image's middle."""
    middle = [(n - 1) / 2 for n in native.canonical_shape]
    middle[axis] = index
    return round(float((index_to_lps_mm(native) @ [*middle, 1])[2 - axis]), 1)


def axial_diameter(mask: NDArray[np.bool_], spacing_mm: Vector) -> tuple[float, int]:
    """The longest diameter in one axial slice, in mm, and the slice's index z.

    Measured between the middles of the outermost voxels' outer edges, so that a row of n voxels is
    n · spacing long.

    Args:
        mask: (z, y, x), not empty.
        spacing_mm: (z, y, x).
    """
    best = (0.0, 0)
    for z in np.flatnonzero(mask.any((1, 2))).tolist():
        length = _longest(_outermost(mask[z]) * spacing_mm[1:])
        best = max(best, (length, z), key=lambda pair: pair[0])
    return best


def largest_extent(mask: NDArray[np.bool_], spacing_mm: Vector) -> float:
    """The longest distance between two points of a structure in 3D, in mm; ends as in `axial_diameter`."""
    return _longest(_outermost(mask) * spacing_mm)


def _measure_tumors(
    ct: Ct,
    parts: Parts,
    kidneys: Sequence[Kidney],
    to_lps: NDArray[np.float64],
    networks: Probabilities | None,
) -> list[Tumor]:
    tumors = []
    for number, local in enumerate(ndimage.find_objects(parts.tumors), 1):
        where, mask = _shift(local, parts.box), parts.tumors[local] == number
        kidney = kidneys[int(parts.kidneys[local][mask][0]) - 1]
        hu = ct.hu[where][mask]
        body = _largest_first(mask) == 1  # without the specks that count to it
        diameter_mm, z = axial_diameter(body, ct.spacing_mm)
        z += where[0].start
        organ = _kidney_probability(networks, where)
        centroid = _centroid(mask, where, to_lps)
        tumors.append(
            Tumor(
                name=f"tumor {number}",
                kidney=kidney.name,
                side=kidney.side,
                ml=_ml(int(np.count_nonzero(mask)), ct.spacing_mm),
                axial_diameter_mm=round(diameter_mm, 1),
                axial_slice_index=stored_index(ct.native, 0, z),
                axial_slice_lps_mm=plane_position_mm(ct.native, 0, z),
                largest_extent_mm=round(largest_extent(body, ct.spacing_mm), 1),
                hu_mean=round(float(hu.mean()), 1),
                hu_sd=round(float(hu.std()), 1),
                mean_probability=_mean(_tumor_probability(networks, where), mask),
                share_inside_kidney=None
                if organ is None or networks is None
                else round(float((organ[mask] > networks.kidney_threshold).mean()), 3),
                centroid_lps_mm=centroid,
            )
        )
    return tumors


def _box_around(labels: NDArray[np.uint8]) -> Box:
    """Of all labels, without a second array of the CT's size; empty where there is none."""
    found = [np.flatnonzero(labels.any(others)) for others in ((1, 2), (0, 2), (0, 1))]
    z, y, x = (slice(int(i[0]), int(i[-1]) + 1) if i.size else slice(0, 0) for i in found)
    return (z, y, x)


def _largest_first(mask: NDArray[np.bool_]) -> NDArray[np.uint16]:
    return _by_size(ndimage.label(mask, CONNECTIVITY_26)[0])


def _by_size(pieces: NDArray[Any]) -> NDArray[np.uint16]:
    """The same pieces, numbered from the largest on; numbers without a voxel are left out."""
    n = int(pieces.max()) + 1
    sizes = np.zeros(n, np.intp)
    for plane in pieces:  # NumPy counts and looks up in copies of eight bytes a voxel
        sizes += np.bincount(plane.ravel(), minlength=n)
    number = np.zeros(n, np.uint16)
    number[1 + np.argsort(-sizes[1:], kind="stable")] = np.arange(1, n)
    renumbered = np.empty(pieces.shape, np.uint16)
    for plane, target in zip(pieces, renumbered, strict=True):
        target[:] = number[plane]
    return renumbered


def _tumors_of(mask: NDArray[np.bool_], voxel_mm3: float, spacing_mm: Vector) -> NDArray[np.uint16]:
    """A kidney's tumors: 26-connected, and specks with the nearest larger piece."""
    pieces = _largest_first(mask)
    sizes = np.bincount(pieces.ravel())[1:]
    n_large = int(np.count_nonzero(sizes * voxel_mm3 >= MIN_TUMOR_MM3))
    if n_large == sizes.size:
        return pieces
    if n_large <= 1:
        return mask.astype(np.uint16)
    large = pieces * (pieces <= n_large)
    nearest = ndimage.distance_transform_edt(
        large == 0, sampling=spacing_mm, return_distances=False, return_indices=True
    )
    return np.where(mask, large[tuple(nearest)], 0).astype(np.uint16)


def _nearest_ids(labels: NDArray[np.uint8], box: Box, ids: NDArray[np.uint8], roi: Roi) -> NDArray[np.uint8]:
    """The structure nearest to each labelled voxel of a box in the CT, by the ROI voxel that it lies in.

    uint8, of the labels' shape; 0 where there is no label.
    """
    near_box = ndimage.find_objects((ids > 0).view(np.uint8))[0]
    near = ids[near_box]
    nearest = ndimage.distance_transform_edt(near == 0, return_distances=False, return_indices=True)
    near = near[tuple(nearest)]
    index = []
    for side, start, step, inner, n in zip(
        box, roi.start_vox, roi.step_vox, near_box, near.shape, strict=True
    ):
        on_roi = np.rint((np.arange(side.start, side.stop) - start) / step).astype(np.intp)
        index.append(np.clip(on_roi - inner.start, 0, n - 1))
    z, y, x = index
    found = np.empty(labels.shape, np.uint8)
    for i, plane in enumerate(near[k][y] for k in z):
        np.multiply(plane[:, x], labels[i] > 0, out=found[i])
    return found


def _body_middle(hu: NDArray[np.int16]) -> float:
    """The x index of the body's centre of mass in these slices."""
    body = hu[:, ::BODY_STEP_VOX, ::BODY_STEP_VOX] > BODY_HU
    columns = body.sum((0, 1))
    if not columns.any():
        return (hu.shape[2] - 1) / 2
    # each sampled column stands for those up to the next one
    centre = BODY_STEP_VOX * float(np.average(np.arange(columns.size), weights=columns))
    return min(centre + (BODY_STEP_VOX - 1) / 2, hu.shape[2] - 1)


def _side_and_distance(parts: Parts, rank: int, midline_x: float) -> tuple[Side, float]:
    columns = np.count_nonzero(parts.kidneys == rank, axis=(0, 1))
    x = parts.box[2].start + float(np.average(np.arange(columns.size), weights=columns))
    return ("left" if x > midline_x else "right"), abs(x - midline_x)


def _names(sides: Sequence[Side]) -> list[str]:
    """ "left kidney", "right kidney"; a second one on a side is "left kidney 2"."""
    names: list[str] = []
    for i, side in enumerate(sides):
        number = 1 + sides[:i].count(side)
        names.append(f"{side} kidney" + (f" {number}" if number > 1 else ""))
    return names


def _shift(local: Box, box: Box) -> Box:
    z, y, x = (slice(o.start + s.start, o.start + s.stop) for s, o in zip(local, box, strict=True))
    return (z, y, x)


def _ml(voxels: int, spacing_mm: Vector) -> float:
    return round(voxels * float(np.prod(spacing_mm)) / 1000, 2)


def _centroid(mask: NDArray[np.bool_], where: Box, to_lps: NDArray[np.float64]) -> list[float]:
    index = [
        side.start + float(np.average(np.arange(side.stop - side.start), weights=mask.sum(others)))
        for side, others in zip(where, ((1, 2), (0, 2), (0, 1)), strict=True)
    ]
    return [round(float(v), 1) for v in (to_lps @ [*index, 1])[:3]]


def _world_box(mask: NDArray[np.bool_], where: Box, to_lps: NDArray[np.float64]) -> list[list[float]]:
    """Lowest and highest (x, y, z) of all voxels, each as wide as it is."""
    index = _row_ends(mask, 2) + [side.start for side in where]  # where a linear function is largest
    points = index @ to_lps[:3, :3].T + to_lps[:3, 3]
    half = np.abs(to_lps[:3, :3]).sum(axis=1) / 2
    low, high = points.min(axis=0) - half, points.max(axis=0) + half
    return [[round(float(v), 1) for v in corner] for corner in (low, high)]


def _row_ends(mask: NDArray[np.bool_], axis: int) -> NDArray[np.int64]:
    """The first and last voxel of each row of a mask along an axis: (n, dimensions)."""
    rows = np.moveaxis(mask, axis, -1)
    kept = np.argwhere(rows.any(axis=-1))
    lines = rows[tuple(kept.T)]
    first = lines.argmax(axis=1)
    last = lines.shape[1] - 1 - lines[:, ::-1].argmax(axis=1)
    ends = [np.insert(kept, axis, end, axis=1) for end in (first, last)]
    return np.concatenate(ends)


def _outermost(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The middles of the outer faces of a mask's outermost voxels, in voxels: (n, dimensions)."""
    points = []
    for axis in range(mask.ndim):
        ends = _row_ends(mask, axis).astype(np.float64)
        half = len(ends) // 2
        ends[:half, axis] -= 0.5
        ends[half:, axis] += 0.5
        points.append(ends)
    return np.concatenate(points)


def _longest(points_mm: NDArray[np.float64]) -> float:
    with suppress(QhullError):  # all in one plane: few
        points_mm = points_mm[ConvexHull(points_mm).vertices]
    return float(pdist(points_mm).max())


def _ends(z: slice, ct: Ct) -> list[End]:
    ends: list[End] = []
    if (ct.hu.shape[0] - z.stop) * ct.spacing_mm[0] < CUT_MM:
        ends.append("superior")
    if z.start * ct.spacing_mm[0] < CUT_MM:
        ends.append("inferior")
    return ends


def _reaches_region_end(inside: NDArray[np.bool_], roi: Roi, ct: Ct, where: Box) -> bool:
    """Whether a kidney ends where the networks' region ends, and the CT goes on."""
    for axis, side in enumerate(where):
        start, step, spacing = roi.start_vox[axis], roi.step_vox[axis], ct.spacing_mm[axis]
        low, high = start - step / 2, start + step * (inside.shape[axis] - 0.5)
        if low > 0 and (side.start - low) * spacing < CUT_MM:
            return True
        if high < ct.hu.shape[axis] - 1 and (high - side.stop + 1) * spacing < CUT_MM:
            return True
    return False


def _kidney_probability(networks: Probabilities | None, where: Box) -> NDArray[np.float32] | None:
    return None if networks is None else _on_ct(networks.kidney, networks.roi, where)


def _tumor_probability(networks: Probabilities | None, where: Box) -> NDArray[np.float32] | None:
    """As the label map was restored: a mean over the kidneys' own ROI voxels."""
    if networks is None:
        return None
    weight = _on_ct(networks.inside.astype(np.float32), networks.roi, where)
    values = _on_ct(np.where(networks.inside, networks.tumor, np.float32(0)), networks.roi, where)
    return np.divide(values, np.maximum(weight, np.float32(1e-6)), dtype=np.float32)


def _on_ct(values: NDArray[np.float32], roi: Roi, where: Box) -> NDArray[np.float32]:
    step = 1.0 / np.asarray(roi.step_vox)
    first = (np.asarray([side.start for side in where]) - np.asarray(roi.start_vox)) * step
    shape = tuple(side.stop - side.start for side in where)
    return ndimage.affine_transform(values, step, offset=first, output_shape=shape, order=1, mode="nearest")


def _mean(probability: NDArray[np.float32] | None, mask: NDArray[np.bool_]) -> float | None:
    if probability is None or not mask.any():
        return None
    return round(float(probability[mask].mean()), 3)
