"""From a label map to a training sample: vary the patient, choose a grid, synthesise a CT on it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from inference.geometry import KIDNEY, TUMOR, RoiSpec, Shape, Vector
from training.cache import MARGIN_MM, LabelMap
from training.config import SamplingConfig, TrainConfig
from training.real.augment import rotation
from training.synthesis.draw import Landmarks, find_landmarks, synthesise_ct
from training.synthesis.fields import SEED_LIMIT, SmoothField
from training.synthesis.labels import draw_labels
from training.synthesis.ranges import PHASES, Range

TRAINING, VALIDATION = 0, 1
"""Streams of random numbers."""
LANDMARK_SPACING_MM = 4.0
SYNTHETIC_SHAPE_VOX = (120, 72, 132)
"""Holds the largest kidneys of `draw_labels`, at the cache's 2 mm."""
SYNTHETIC_SCAN_WIDTH_MM: Range = (300.0, 480.0)
SYNTHETIC_OFFSET_MM: tuple[Range, Range, Range] = ((-40.0, 40.0), (0.0, 60.0), (-12.0, 12.0))
"""Kidneys relative to the scan's centre (z, y, x): they lie in the back of the body."""
ADDED_TUMOR_BUMPS: Range = (0.03, 0.3)
"""Of the surface, as a share of the radius."""
ADDED_TUMOR_REACH_VOX = 40
"""Margin added around the kidneys, so that an added tumor fits."""
CUT_CLOSE_MM = 20.0
"""After a tumor is cut out, gaps of the kidney up to twice this width are closed."""

Sample = tuple[Tensor, Tensor]
"""Image, float32 (1, D, H, W) in [0, 1], and labels, uint8 (D, H, W)."""


@dataclass(frozen=True)
class Patient:
    """A label map, the transform that varies it, and the bounds of the scan.

    Attributes:
        labels: uint8 (z, y, x), cropped around the kidneys.
        spacing_mm: side of a voxel.
        first_mm: (z, y, x) of voxel (0, 0, 0) in the label map's own frame.
        pivot_mm: (z, y, x); the affine leaves this point alone.
        to_source: 3×3 from the patient's frame to the label map's own, about the pivot.
        warp: three displacement fields (mm) on top of it, and their standard deviation.
        scan_low_mm, scan_high_mm: outer faces of the scan in the patient's frame.
    """

    labels: NDArray[np.uint8]
    spacing_mm: float
    first_mm: Vector
    pivot_mm: Vector
    to_source: NDArray[np.float64]
    warp: tuple[SmoothField, ...]
    warp_mm: float
    scan_low_mm: NDArray[np.float64]
    scan_high_mm: NDArray[np.float64]

    def kidney_point(self, rng: Generator, *, label: int) -> NDArray[np.float64] | None:
        """Position of a random voxel with at least this label, in the patient's frame (mm, zyx)."""
        voxels = np.flatnonzero(self.labels >= label)
        if voxels.size == 0:
            return None
        index = np.unravel_index(voxels[rng.integers(voxels.size)], self.labels.shape)
        source = np.asarray(index) * self.spacing_mm + self.first_mm
        return np.linalg.inv(self.to_source) @ (source - self.pivot_mm) + self.pivot_mm

    def kidney_box(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """A box (mm, zyx) in the patient's frame that holds all labels."""
        size = (np.asarray(self.labels.shape) - 1) * self.spacing_mm
        corners = np.asarray(self.first_mm) + np.stack(np.meshgrid(*([0, 1],) * 3)).reshape(3, 8).T * size
        moved = (corners - self.pivot_mm) @ np.linalg.inv(self.to_source).T + self.pivot_mm
        reach = 3 * self.warp_mm
        return moved.min(0) - reach, moved.max(0) + reach


# --- varying a patient --------------------------------------------------------------------------------------


def draw_label_map(rng: Generator) -> LabelMap:
    """A label map of synthetic kidneys in a scan of random size."""
    labels = draw_labels(
        shape_vox=SYNTHETIC_SHAPE_VOX, spacing_mm=2.0, seed=int(rng.integers(SEED_LIMIT))
    ).numpy()
    z, y, x = (
        float(rng.uniform(*offset)) - (n - 1)
        for offset, n in zip(SYNTHETIC_OFFSET_MM, labels.shape, strict=True)
    )
    length, width = float(rng.uniform(220.0, 450.0)), float(rng.uniform(*SYNTHETIC_SCAN_WIDTH_MM))
    return LabelMap("synthetic", labels, 2.0, (z, y, x), (length, width, width))


def edit_labels(source: LabelMap, config: SamplingConfig, rng: Generator) -> LabelMap:
    """Mirror; remove a kidney; remove, shrink, replace or add a tumor."""
    labels, first = source.labels.copy(), source.first_mm
    # every sample uses all random values, so that one choice does not change the later ones
    chances, added_seed = rng.random(5), int(rng.integers(SEED_LIMIT))
    shrunk_mm = rng.uniform(*config.tumor_shrunk_mm)
    if chances[0] < config.mirror_share:
        labels = labels[:, :, ::-1].copy()
        first = (first[0], first[1], -(first[2] + (labels.shape[2] - 1) * source.spacing_mm))
    if chances[1] < config.kidney_removed_share:
        _remove_one_kidney(labels, np.random.default_rng(added_seed))
    if chances[2] < config.tumor_removed_share:
        labels[labels == TUMOR] = KIDNEY
    elif chances[3] < config.tumor_shrunk_share:
        _shrink_tumor(labels, shrunk_mm / source.spacing_mm)
    elif chances[4] < config.tumor_replaced_share + config.tumor_added_share:
        if chances[4] < config.tumor_replaced_share:
            _cut_tumor(labels, CUT_CLOSE_MM / source.spacing_mm)
        if labels.any():
            labels = np.pad(labels, ADDED_TUMOR_REACH_VOX)
            own = np.random.default_rng(added_seed)
            _add_tumor(labels, source.spacing_mm, config.tumor_added_radius_mm, own)
            box = _box_around(labels > 0, MARGIN_MM / source.spacing_mm)
            start = np.array([side.start - ADDED_TUMOR_REACH_VOX for side in box])
            labels, first = labels[box], _vector(np.asarray(first) + start * source.spacing_mm)
    return replace(source, labels=labels, first_mm=first)


def _box_around(mask: NDArray[np.bool_], margin_vox: float) -> tuple[slice, ...]:
    """Bounding box of a mask with a margin, within the array; empty if the mask is."""
    margin = int(np.ceil(margin_vox))
    found = ndimage.find_objects(mask.astype(np.uint8))
    return tuple(slice(max(0, side.start - margin), side.stop + margin) for side in found[0]) if found else ()


def _remove_one_kidney(labels: NDArray[np.uint8], rng: Generator) -> None:
    components, _ = ndimage.label(labels > 0)
    largest = np.argsort(-np.bincount(components.ravel())[1:], kind="stable")[:2] + 1
    if len(largest) == 2:
        labels[components == rng.choice(largest)] = 0


def _shrink_tumor(labels: NDArray[np.uint8], peel_vox: float) -> None:
    if not (labels == TUMOR).any():
        return
    box = ndimage.find_objects((labels == TUMOR).astype(np.uint8))[0]
    tumor = np.pad(labels[box] == TUMOR, 1)
    depth = ndimage.distance_transform_edt(tumor)[1:-1, 1:-1, 1:-1]
    peel_vox = min(peel_vox, 0.7 * float(depth.max()))  # something stays
    labels[box][(depth > 0) & (depth <= peel_vox)] = KIDNEY


def _cut_tumor(labels: NDArray[np.uint8], close_vox: float) -> None:
    """Replace the tumor: by kidney where a closing of the kidney reaches, by background elsewhere."""
    box = _box_around(labels == TUMOR, 2 * close_vox)
    if not box:
        return
    near = labels[box]
    if not (near == KIDNEY).any():
        near[:] = 0
        return
    grown = np.pad(ndimage.distance_transform_edt(near != KIDNEY) <= close_vox, 1)  # beyond: no kidney
    closed = ndimage.distance_transform_edt(grown)[1:-1, 1:-1, 1:-1] > close_vox
    near[near == TUMOR] = np.where(closed, KIDNEY, 0)[near == TUMOR]


def _add_tumor(labels: NDArray[np.uint8], spacing_mm: float, radius_mm: Range, rng: Generator) -> None:
    """Add a tumor: an uneven ball around a random kidney voxel, inside and outside of the kidney."""
    voxels = np.flatnonzero(labels == KIDNEY)
    if voxels.size == 0:
        return
    centre = np.unravel_index(voxels[rng.integers(voxels.size)], labels.shape)
    radius = float(np.exp(rng.uniform(*np.log(radius_mm))))
    axes = [
        (torch.arange(n, dtype=torch.float32) - float(c)) * spacing_mm
        for n, c in zip(labels.shape, centre, strict=True)
    ]
    reach = int(np.ceil(1.8 * radius / spacing_mm))
    box = tuple(slice(max(0, int(c) - reach), int(c) + reach + 1) for c in centre)
    near = [axis[side] for axis, side in zip(axes, box, strict=True)]
    distance = (near[0][:, None, None] ** 2 + near[1][:, None] ** 2 + near[2] ** 2).sqrt()
    lumps = SmoothField(rng, 0.7 * radius).at(near) * (radius * rng.uniform(*ADDED_TUMOR_BUMPS))
    labels[box][(distance + lumps < radius).numpy()] = TUMOR


def place_patient(source: LabelMap, config: SamplingConfig, rng: Generator) -> Patient:
    """Rotate, scale and warp the kidneys, and choose the bounds of the scan."""
    first, size = np.asarray(source.first_mm), (np.asarray(source.labels.shape) - 1) * source.spacing_mm
    z, y, x = (first + size / 2).tolist()
    turn = rotation(rng.uniform(-1, 1, 3) * np.radians(config.rotation_deg))
    scale = rng.uniform(*config.scale) * rng.uniform(*config.stretch, 3)
    cell_mm, warp_mm = rng.uniform(*config.warp_cell_mm), rng.uniform(*config.warp_mm)
    patient = Patient(
        labels=source.labels,
        spacing_mm=source.spacing_mm,
        first_mm=source.first_mm,
        pivot_mm=(z, y, x),
        to_source=np.diag(1 / scale) @ turn,
        warp=tuple(SmoothField(rng, float(cell_mm)) for _ in range(3)) if warp_mm else (),
        warp_mm=float(warp_mm),
        scan_low_mm=np.zeros(3),
        scan_high_mm=np.zeros(3),
    )
    low, high = _draw_scan(patient, np.asarray(source.scan_mm), config, rng)
    return replace(patient, scan_low_mm=low, scan_high_mm=high)


def _draw_scan(
    patient: Patient, sides_mm: NDArray[np.float64], config: SamplingConfig, rng: Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Outer faces of the scan. It holds the kidneys, except for the few scans that end within one."""
    kidneys_low, kidneys_high = patient.kidney_box()
    sides = sides_mm.copy()
    sides[1:] *= rng.uniform(*config.scan_width_scale)
    chance, length, shift = (
        rng.random(),
        rng.uniform(*config.scan_length_mm),
        rng.uniform(*config.scan_shift_mm),
    )
    if chance < config.scan_length_share:
        sides[0] = length
    low, high = -sides / 2, sides / 2
    low[0] += shift
    high[0] += shift
    depth = rng.uniform(0.0, 0.5) * (kidneys_high[0] - kidneys_low[0])
    is_cut, at_top = rng.random() < config.kidneys_cut_share, bool(rng.integers(2))
    low[0] = kidneys_low[0] + depth if is_cut and not at_top else min(low[0], kidneys_low[0])
    high[0] = kidneys_high[0] - depth if is_cut and at_top else max(high[0], kidneys_high[0])
    low[1:], high[1:] = np.minimum(low[1:], kidneys_low[1:]), np.maximum(high[1:], kidneys_high[1:])
    return low, high


# --- a grid in the patient ----------------------------------------------------------------------------------


def choose_centre(
    patient: Patient, roi: RoiSpec, crop_vox: Shape | None, config: SamplingConfig, rng: Generator
) -> NDArray[np.float64]:
    """Centre (mm, zyx) of the sample's grid: the ROI as inference places it, or a crop of it."""
    low, high = patient.scan_low_mm, patient.scan_high_mm
    kidneys = np.mean(patient.kidney_box(), axis=0)
    centre = (low + high) / 2
    if high[0] - low[0] > roi.extent_mm[0]:
        half = roi.extent_mm[0] / 2
        anywhere = rng.uniform(low[0] + half, high[0] - half)
        centre[0] = anywhere if rng.random() < config.roi_anywhere_share else kidneys[0]
    centre += rng.uniform(-1, 1, 3) * config.roi_shift_mm
    if crop_vox is None:
        return centre
    shares = config.centres
    kind = rng.choice(4, p=np.asarray([shares.kidney, shares.tumor, shares.border, shares.elsewhere]))
    crop_mm = np.asarray(crop_vox) * roi.spacing_mm
    offset = rng.uniform(-0.5, 0.5, 3) * crop_mm
    point = patient.kidney_point(rng, label=TUMOR if kind == 1 else KIDNEY)
    if point is None:  # no tumor
        point = patient.kidney_point(rng, label=KIDNEY)
    if kind == 3 or point is None:
        reach = np.maximum(np.asarray(roi.extent_mm) - crop_mm, 0) / 2
        within = np.clip(centre + rng.uniform(-1, 1, 3) * reach, low, high)
        return np.asarray(within)
    # around a kidney or a tumor the crop is off by up to a quarter; at a border by up to a half
    return np.asarray(point + (offset if kind == 2 else offset / 2))


def sample_labels(
    patient: Patient, *, shape_vox: Shape, spacing_mm: float, origin_mm: Vector, device: torch.device
) -> Tensor:
    """The patient's labels on a grid.

    Args:
        patient: whose.
        shape_vox: (D, H, W).
        spacing_mm: side of a voxel.
        origin_mm: (z, y, x) of voxel (0, 0, 0) in the patient's frame.
        device: where to compute.

    Returns:
        uint8 (D, H, W).
    """
    result = torch.zeros(shape_vox, dtype=torch.uint8, device=device)
    low, high = patient.kidney_box()
    first = np.ceil((low - origin_mm) / spacing_mm).astype(int).clip(0, shape_vox)
    stop = (np.floor((high - origin_mm) / spacing_mm).astype(int) + 1).clip(0, shape_vox)
    if (stop <= first).any():
        return result
    axes = [
        torch.arange(int(a), int(b), device=device, dtype=torch.float32) * spacing_mm + float(o)
        for a, b, o in zip(first, stop, origin_mm, strict=True)
    ]
    points = _source_voxels(patient, axes)  # (d, h, w, zyx), in voxels of the label map
    size = torch.tensor(patient.labels.shape, device=device)
    normalised = (points * (2 / (size - 1)) - 1).flip(-1)  # grid_sample wants xyz in [-1, 1]
    labels = torch.from_numpy(patient.labels).to(device)
    masks = torch.stack((labels >= KIDNEY, labels >= TUMOR)).float()
    sampled = functional.grid_sample(masks[None], normalised[None], align_corners=True)[0] > 0.5
    box = tuple(slice(int(a), int(b)) for a, b in zip(first, stop, strict=True))
    result[box] = sampled.sum(0, dtype=torch.uint8)
    return result


def _source_voxels(patient: Patient, axes: Sequence[Tensor]) -> Tensor:
    """Patient frame → label map's voxel indices on the grid spanned by three axes: (d, h, w, 3)."""
    moved = [axis - pivot for axis, pivot in zip(axes, patient.pivot_mm, strict=True)]
    coordinates = []
    for k in range(3):
        a, b, c = (float(v) for v in patient.to_source[k])
        value = a * moved[0][:, None, None] + b * moved[1][:, None] + c * moved[2] + patient.pivot_mm[k]
        if patient.warp:
            value = value + patient.warp[k].at(moved) * patient.warp_mm
        coordinates.append((value - patient.first_mm[k]) / patient.spacing_mm)
    return torch.stack(coordinates, dim=-1)


def sample_inside(
    patient: Patient, *, shape_vox: Shape, spacing_mm: float, origin_mm: Vector, device: torch.device
) -> Tensor:
    """Which voxels of a grid lie in the scan: bool (D, H, W)."""
    spans = []
    for n, origin, low, high in zip(
        shape_vox, origin_mm, patient.scan_low_mm.tolist(), patient.scan_high_mm.tolist(), strict=True
    ):
        at = torch.arange(n, device=device) * spacing_mm + origin
        spans.append((at >= low) & (at <= high))
    return spans[0][:, None, None] & spans[1][:, None] & spans[2]


def patient_landmarks(patient: Patient, *, device: torch.device) -> Landmarks:
    """Landmarks of the whole patient, from a coarse view of the kidneys alone."""
    low, high = patient.kidney_box()
    size = np.ceil((high - low) / LANDMARK_SPACING_MM).astype(int) + 1
    origin, shape = _vector(low), (int(size[0]), int(size[1]), int(size[2]))
    labels = sample_labels(
        patient, shape_vox=shape, spacing_mm=LANDMARK_SPACING_MM, origin_mm=origin, device=device
    )
    found = find_landmarks(
        labels, torch.ones_like(labels, dtype=torch.bool), spacing_mm=LANDMARK_SPACING_MM, origin_mm=origin
    )
    return replace(
        found, scan_low_mm=_vector(patient.scan_low_mm), scan_high_mm=_vector(patient.scan_high_mm)
    )


def _vector(values: NDArray[np.float64]) -> Vector:
    z, y, x = values.tolist()
    return (z, y, x)


def normalise_hu(hu: Tensor, inside: Tensor, roi: RoiSpec) -> Tensor:
    """`inference.method.roi.normalise` on tensors, bit for bit: HU → [0, 1], 0 outside the scan."""
    low, high = roi.window_hu
    if roi.normalisation == "minmax":
        low, high = (float(hu[inside].min()), float(hu[inside].max())) if inside.any() else (0.0, 0.0)
    scale = 1 / (high - low) if high > low else 0.0
    return ((hu - low) * scale).clamp_(0, 1).mul_(inside)


def coarsen(hu: Tensor, inside: Tensor, size_vox: Vector, rng: Generator) -> Tensor:
    """Simulate a CT that was scanned with larger voxels and interpolated linearly to this grid.

    Args:
        hu: (D, H, W).
        inside: which of them lie in the scan, bool; the others are ignored.
        size_vox: (z, y, x) of the scan's voxels, in this grid's; 1 or less along an axis leaves it alone.
        rng: where the scan's voxels lie.

    Returns:
        (D, H, W), unchanged outside the scan.
    """
    means, weights = hu * inside, inside.to(hu.dtype)
    for axis, size in enumerate(size_vox):
        if size > 1:
            scan = torch.from_numpy(_through_coarse(hu.shape[axis], size, rng.random())).to(means)
            means, weights = (
                torch.tensordot(scan, volume, dims=([1], [axis])).movedim(0, axis)
                for volume in (means, weights)
            )
    return torch.where(inside, means / weights.clamp(min=1e-6), hu)


def _through_coarse(n: int, size: float, phase: float) -> NDArray[np.float32]:
    """n × n: means over voxels `size` long, the first one's centre at −`phase` · `size`, interpolated."""
    fine, centres = np.arange(n), (np.arange(int(n / size) + 3) - phase) * size
    low, high = centres[:, None] - size / 2, centres[:, None] + size / 2
    shares = np.clip(np.minimum(high, fine + 0.5) - np.maximum(low, fine - 0.5), 0, None)
    is_seen = shares.sum(1) > 0
    means = shares[is_seen] / shares[is_seen].sum(1, keepdims=True)
    back = [np.interp(fine, centres[is_seen], one) for one in np.eye(int(is_seen.sum()))]
    return (np.stack(back, axis=1) @ means).astype(np.float32)


def _draw_coarse_voxel(config: SamplingConfig, spacing_mm: float, rng: Generator) -> Vector:
    slice_mm, pixel_mm = rng.uniform(*config.coarse_slice_mm), rng.uniform(*config.coarse_pixel_mm)
    pixel = pixel_mm / spacing_mm if rng.random() < 0.5 else 0.0
    return (slice_mm / spacing_mm, pixel, pixel)


# --- data sets ----------------------------------------------------------------------------------------------


class SyntheticPatients(Dataset[Sample]):
    """An endless set of patients: label maps, varied, with CTs synthesised around them.

    Args:
        maps: label maps to choose from; without any, all kidneys are synthetic.
        config: of the run.
        sampling: how patients are varied.
        stream: `TRAINING` or `VALIDATION`.
        device: where samples are made.
    """

    def __init__(
        self,
        maps: Sequence[LabelMap],
        config: TrainConfig,
        sampling: SamplingConfig,
        *,
        stream: int = TRAINING,
        device: torch.device | None = None,
    ) -> None:
        self.maps, self.config, self.sampling, self.stream = maps, config, sampling, stream
        self.device = device or torch.device("cpu")

    def __getitem__(self, index: int) -> Sample:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as PyTorch's workers have: sums over more differ in the last bit
        try:
            return self._draw(index)
        finally:
            torch.set_num_threads(threads)

    def _draw(self, index: int) -> Sample:
        rng = np.random.default_rng([self.config.seed, self.stream, index])
        roi, shape = self.config.roi, self.config.shape_vox
        patient = self._draw_patient(rng, index)
        centre = choose_centre(patient, roi, self.config.crop_vox, self.sampling, rng)
        origin = _vector(centre - (np.asarray(shape) - 1) / 2 * roi.spacing_mm)
        labels = sample_labels(
            patient, shape_vox=shape, spacing_mm=roi.spacing_mm, origin_mm=origin, device=self.device
        )
        inside = sample_inside(
            patient, shape_vox=shape, spacing_mm=roi.spacing_mm, origin_mm=origin, device=self.device
        )
        labels, shares = labels * inside, self.sampling.phase_shares
        hu = synthesise_ct(
            labels,
            inside,
            spacing_mm=roi.spacing_mm,
            seed=int(rng.integers(SEED_LIMIT)),
            landmarks=patient_landmarks(patient, device=self.device),
            origin_mm=origin,
            phase=None if shares is None else PHASES[rng.choice(len(shares), p=shares)],
        )
        if rng.random() < self.sampling.coarse_share:
            hu = coarsen(hu, inside, _draw_coarse_voxel(self.sampling, roi.spacing_mm, rng), rng)
        return normalise_hu(hu, inside, roi)[None], labels

    def _draw_patient(self, rng: Generator, index: int) -> Patient:
        is_synthetic = rng.random() < self.sampling.synthetic_kidneys_share
        pick = int(rng.integers(SEED_LIMIT))
        if self.stream == VALIDATION:
            pick = index  # every case in its turn
        source = self.maps[pick % len(self.maps)] if self.maps and not is_synthetic else draw_label_map(rng)
        return place_patient(edit_labels(source, self.sampling, rng), self.sampling, rng)
