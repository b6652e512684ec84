"""One training sample from one real scan: rotated, scaled, warped, with the look of another scanner.

There is one resampling: the scan's voxels are interpolated once, at the places that rotation, scale,
warp and the mass effect of painted lesions together lead to.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from inference.geometry import KIDNEY, TUMOR, Shape
from training.cache import HU_STEP, IGNORE, LOWEST_HU, Scan
from training.real.depth import draw_cuts, give_depth
from training.real.lesions import Lesion, LesionRanges, draw_lesions, draw_mass, paint, push_aside
from training.synthesis.fields import SEED_LIMIT
from training.synthesis.ranges import Range

Centre = Literal["scan", "kidney", "tumor", "anywhere"]
AIR_HU = -1000.0


@dataclass(frozen=True)
class ScanSampling:
    """How a real scan is varied. Shares are probabilities per sample.

    Attributes:
        mirror_share: left and right exchanged.
        rotation_deg: about the (z, y, x) axis, either way.
        tilt_slices_deg: the same about y and x for single slices, which have no depth of their own.
        rounded_share: of single slices without painted lesions: kidneys and tumors end along z (`depth`).
        mass_share: of scans: a mass is painted beside the kidneys, or where there is none.
        scale, stretch: of all axes together, and of each.
        warp_mm, warp_cells: standard deviation of an elastic displacement, and its nodes along a side.
        anywhere_share: of scans longer than the grid: anywhere along z; otherwise at the kidneys' height.
        shift_mm: (z, y, x), of the sample's grid against its centre, either way.
        shortened_share, shortened_mm: the scan is cut to this length.
        narrow_share, narrow_mm: a round field of view of this diameter.
        gain, offset_hu: of all HU.
        enhancement_share, enhancement_hu: added to the kidneys and their tumors: another phase.
        blur_share, blur_vox: a softer kernel, the standard deviation of a Gaussian.
        noise_share, noise_hu: standard deviation, white or a little smoothed.
        thick_share, thick_mm: slices of this thickness, interpolated.
        clipped_share, clipped_hu: exports of a window: lowest and highest HU that are kept.
    """

    mirror_share: float = 0.5
    rotation_deg: tuple[float, float, float] = (15.0, 8.0, 8.0)
    tilt_slices_deg: float = 25.0
    rounded_share: float = 0.0
    mass_share: float = 0.0
    scale: Range = (0.8, 1.25)
    stretch: Range = (0.93, 1.07)
    warp_mm: Range = (0.0, 4.0)
    warp_cells: int = 6
    anywhere_share: float = 0.6
    shift_mm: tuple[float, float, float] = (30.0, 15.0, 15.0)
    shortened_share: float = 0.2
    shortened_mm: Range = (30.0, 200.0)
    narrow_share: float = 0.1
    narrow_mm: Range = (220.0, 340.0)
    gain: Range = (0.92, 1.08)
    offset_hu: Range = (-15.0, 15.0)
    enhancement_share: float = 0.3
    enhancement_hu: Range = (-35.0, 45.0)
    blur_share: float = 0.35
    blur_vox: Range = (0.3, 0.9)
    noise_share: float = 0.6
    noise_hu: Range = (2.0, 28.0)
    thick_share: float = 0.25
    thick_mm: Range = (4.0, 7.0)
    clipped_share: float = 0.15
    clipped_hu: tuple[Range, Range] = ((-160.0, -50.0), (200.0, 300.0))
    lesions: LesionRanges = field(default_factory=LesionRanges)


UNVARIED = ScanSampling(
    mirror_share=0.0,
    rotation_deg=(0.0, 0.0, 0.0),
    tilt_slices_deg=0.0,
    scale=(1.0, 1.0),
    stretch=(1.0, 1.0),
    warp_mm=(0.0, 0.0),
    anywhere_share=0.0,
    shift_mm=(0.0, 0.0, 0.0),
    shortened_share=0.0,
    narrow_share=0.0,
    gain=(1.0, 1.0),
    offset_hu=(0.0, 0.0),
    enhancement_share=0.0,
    blur_share=0.0,
    noise_share=0.0,
    thick_share=0.0,
    clipped_share=0.0,
)
"""The scan as it is: validation, and the paper's recipe."""


def draw_scan_sample(
    scan: Scan,
    rng: Generator,
    sampling: ScanSampling,
    *,
    shape_vox: Shape,
    spacing_mm: float,
    centre: Centre = "scan",
    painted: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Make one sample.

    Args:
        scan: the source.
        rng: all that is random comes from it.
        sampling: how the scan is varied.
        shape_vox: (z, y, x) of the sample.
        spacing_mm: of the sample's grid.
        centre: of the grid: the scan's own (somewhere along z where the scan is longer than the grid), a
            random voxel of a kidney or a tumor (of a kidney where there is none), or anywhere.
        painted: lesions are painted into the kidneys.

    Returns:
        HU, float32 (D, H, W); labels, uint8 (D, H, W); and which voxels lie in the scan, bool (D, H, W).
    """
    grid = _place_grid(scan, rng, sampling, shape_vox, spacing_mm, centre)
    lesions: list[Lesion] = []
    place = (scan, rng, sampling.lesions, grid.to_sample_mm, np.asarray(shape_vox) * spacing_mm)
    if sampling.mass_share and not scan.is_slice and rng.random() < sampling.mass_share:
        lesions += draw_mass(*place)
    if painted and scan.has_kidney:
        lesions += draw_lesions(*place)
    mm = [(torch.arange(n, dtype=torch.float32) - (n - 1) / 2) * spacing_mm for n in shape_vox]
    points = torch.stack(torch.meshgrid(*mm, indexing="ij"), dim=-1)  # (D, H, W, zyx) mm about the centre
    points = push_aside(points, lesions)
    warp_mm = float(rng.uniform(*sampling.warp_mm))
    if warp_mm:
        nodes = torch.from_numpy(rng.standard_normal((1, 3, *(sampling.warp_cells,) * 3), dtype=np.float32))
        warp = functional.interpolate(nodes, shape_vox, mode="trilinear", align_corners=True)
        points = points + warp[0].permute(1, 2, 3, 0) * warp_mm
    to_voxel, centre_vox = (
        torch.from_numpy(values.astype(np.float32)) for values in (grid.to_voxel, grid.centre_vox)
    )
    voxels = points @ to_voxel.T + centre_vox
    if scan.is_slice and not lesions and sampling.rounded_share and rng.random() < sampling.rounded_share:
        cuts = draw_cuts(scan.labels[0], scan.spacing_mm, rng)
        voxels = give_depth(voxels, cuts, (scan.grey.shape[0] - 1) / 2)
    hu, labels, inside = _interpolate(scan, voxels)
    if lesions:
        hu, labels = paint(hu, labels, mm, lesions, sampling.lesions, rng)
    inside = inside & _field_of_view(mm, rng, sampling)
    hu = _as_another_scanner(hu, labels, rng, sampling, spacing_mm)
    return hu, labels * inside, inside


@dataclass(frozen=True)
class _Grid:
    """Sample position (mm about its centre, zyx) → scan voxel: `to_voxel` · mm + `centre_vox`."""

    to_voxel: NDArray[np.float64]
    centre_vox: NDArray[np.float64]

    def to_sample_mm(self, voxel: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scan voxel → mm about the sample's centre."""
        return np.asarray(np.linalg.solve(self.to_voxel, voxel - self.centre_vox), dtype=np.float64)


def _place_grid(
    scan: Scan, rng: Generator, sampling: ScanSampling, shape_vox: Shape, spacing_mm: float, centre: Centre
) -> _Grid:
    tilt = sampling.tilt_slices_deg
    degrees = (sampling.rotation_deg[0], tilt, tilt) if scan.is_slice else sampling.rotation_deg
    turn = rotation(np.radians(rng.uniform(-1, 1, 3) * degrees))
    scale = rng.uniform(*sampling.scale) * rng.uniform(*sampling.stretch, 3)
    if rng.random() < sampling.mirror_share:
        scale[2] = -scale[2]
    to_voxel = np.diag(1 / (scale * scan.spacing_mm)) @ turn
    size = np.asarray(scan.grey.shape)
    voxels = {"kidney": scan.kidney_voxels, "tumor": scan.tumor_voxels}.get(centre, np.empty(0, np.intp))
    if centre == "tumor" and not voxels.size:  # a painted one will lie in a kidney
        voxels = scan.kidney_voxels
    shift = rng.uniform(-1, 1, 3) * sampling.shift_mm
    if voxels.size:
        at = np.asarray(np.unravel_index(voxels[rng.integers(voxels.size)], size), dtype=np.float64)
        shift = rng.uniform(-0.25, 0.25, 3) * np.asarray(shape_vox) * spacing_mm
    elif centre == "scan":
        at = (size - 1) / 2
        half = shape_vox[0] * spacing_mm / 2 / scan.spacing_mm
        if size[0] > 2 * half:
            anywhere = rng.uniform(half, size[0] - half)
            at[0] = anywhere if rng.random() < sampling.anywhere_share else _kidneys_z(scan)
    else:
        at = rng.uniform(0, size - 1)
    return _Grid(to_voxel, at + to_voxel @ shift)


def _kidneys_z(scan: Scan) -> float:
    """Height of the kidneys' middle; the scan's own where there is none."""
    if not scan.kidney_voxels.size:
        return (scan.grey.shape[0] - 1) / 2
    z = scan.kidney_voxels // (scan.grey.shape[1] * scan.grey.shape[2])
    return float((z.min() + z.max()) / 2)


def rotation(radians: NDArray[np.float64]) -> NDArray[np.float64]:
    """3×3 rotation of (z, y, x) by angles about the z, y and x axis."""
    result = np.eye(3)
    for (a, b), angle in zip(((1, 2), (0, 2), (0, 1)), radians, strict=True):
        turn = np.eye(3)
        turn[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        result = turn @ result
    return result


def _interpolate(scan: Scan, voxels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """HU, labels and whether the scan is there, at scan voxels (D, H, W, zyx)."""
    grey, labels = torch.from_numpy(scan.grey), torch.from_numpy(scan.labels)
    inside = torch.ones(voxels.shape[:3], dtype=torch.bool)
    for axis, n in enumerate(scan.grey.shape):
        inside &= (voxels[..., axis] > -0.5) & (voxels[..., axis] < n - 0.5)
    # only the part in view is touched
    low = [min(max(0, int(v) - 1), n - 1) for v, n in zip(voxels.amin((0, 1, 2)), grey.shape, strict=True)]
    high = [max(min(n, int(v) + 3), 1) for v, n in zip(voxels.amax((0, 1, 2)), grey.shape, strict=True)]
    box = tuple(slice(a, max(b, a + 1)) for a, b in zip(low, high, strict=True))
    grey, labels, voxels = grey[box], labels[box], voxels - torch.tensor(low)
    volumes = torch.stack([grey.float(), *((labels == value).float() for value in _shown(scan))])
    size = torch.tensor(grey.shape)
    normalised = ((voxels + 0.5) * (2 / size) - 1).flip(-1)  # grid_sample wants xyz in [-1, 1]
    sampled, *masks = functional.grid_sample(
        volumes[None], normalised[None], padding_mode="border", align_corners=False
    )[0]
    shares = dict(zip(_shown(scan), masks, strict=True))
    found = torch.zeros(voxels.shape[:3], dtype=torch.uint8)
    if KIDNEY in shares:
        tumor = shares.get(TUMOR, torch.zeros(()))
        both = shares[KIDNEY] + tumor
        found = found.masked_fill(both > 0.5, KIDNEY)
        if TUMOR in shares:
            found = found.masked_fill((both > 0.5) & (tumor > 0.5 * both), TUMOR)
    if IGNORE in shares:
        found = found.masked_fill((shares[IGNORE] > 0.25) & (found == 0), IGNORE)
    return sampled * HU_STEP + LOWEST_HU, found, inside


def _shown(scan: Scan) -> list[int]:
    labels = [KIDNEY] if scan.has_kidney else []
    labels += [TUMOR] if scan.tumor_voxels.size else []
    return [*labels, IGNORE] if scan.has_ignored else labels


def _field_of_view(mm: list[Tensor], rng: Generator, sampling: ScanSampling) -> Tensor:
    """Which voxels lie in the scan, which may be cut short or have a round field of view."""
    shortened, narrow = rng.random() < sampling.shortened_share, rng.random() < sampling.narrow_share
    length, diameter = rng.uniform(*sampling.shortened_mm), rng.uniform(*sampling.narrow_mm)
    middle = float(rng.uniform(-0.5, 0.5)) * length
    keep = torch.ones((1, 1, 1), dtype=torch.bool)
    if shortened:
        keep = keep & ((mm[0] - middle).abs() < length / 2)[:, None, None]
    if narrow:
        keep = keep & (mm[1][:, None] ** 2 + mm[2] ** 2 < (diameter / 2) ** 2)
    return keep


def _as_another_scanner(
    hu: Tensor, labels: Tensor, rng: Generator, sampling: ScanSampling, spacing_mm: float
) -> Tensor:
    # every sample uses all random values, so that one choice does not change the later ones
    chances = rng.random(6)
    seed = int(rng.integers(SEED_LIMIT))
    hu = hu * float(rng.uniform(*sampling.gain)) + float(rng.uniform(*sampling.offset_hu))
    enhancement, blur = float(rng.uniform(*sampling.enhancement_hu)), float(rng.uniform(*sampling.blur_vox))
    thick, noise_hu = float(rng.uniform(*sampling.thick_mm)), float(rng.uniform(*sampling.noise_hu))
    low, high = (float(rng.uniform(*span)) for span in sampling.clipped_hu)
    if chances[0] < sampling.enhancement_share:
        kidneys = ((labels == KIDNEY) | (labels == TUMOR)).float()
        hu = hu + smooth(kidneys, 0.7) * enhancement
    if chances[1] < sampling.thick_share:
        hu = _box_means(hu, thick / spacing_mm)
    if chances[2] < sampling.blur_share:
        hu = smooth(hu, blur)
    if chances[3] < sampling.noise_share:
        own = torch.Generator().manual_seed(seed)
        noise = torch.randn(hu.shape, generator=own)
        if chances[4] < 0.5:
            noise = smooth(noise, 0.6)
            noise /= noise.std()
        hu = hu + noise * noise_hu
    if chances[5] < sampling.clipped_share:
        hu = hu.clamp(low, high)
        hu = torch.where(hu <= low, torch.full_like(hu, AIR_HU), hu) if low < -90 else hu
    return hu


def smooth(volume: Tensor, sigma_vox: float) -> Tensor:
    """Gaussian of this standard deviation along all axes of (D, H, W); edges repeat."""
    reach = max(1, int(np.ceil(3 * sigma_vox)))
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float32) / sigma_vox) ** 2)
    return _along_axes(volume, taps / taps.sum(), axes=(0, 1, 2))


def _box_means(volume: Tensor, length_vox: float) -> Tensor:
    """Means over `length_vox` along z: what thick, overlapping slices leave."""
    reach = int(np.ceil((length_vox - 1) / 2))
    taps = (length_vox / 2 - (torch.arange(-reach, reach + 1, dtype=torch.float32).abs() - 0.5)).clamp(0, 1)
    return _along_axes(volume, taps / taps.sum(), axes=(0,))


def _along_axes(volume: Tensor, taps: Tensor, *, axes: tuple[int, ...]) -> Tensor:
    reach = len(taps) // 2
    for axis in axes:
        lines = volume.movedim(axis, -1)
        padded = functional.pad(lines[None], (reach, reach, 0, 0), mode="replicate")[0]
        n = lines.shape[-1]
        lines = sum(float(t) * padded[..., k : k + n] for k, t in enumerate(taps))  # type: ignore[assignment]
        volume = lines.movedim(-1, axis)
    return volume
