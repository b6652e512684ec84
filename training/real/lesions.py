"""Tumors and cysts painted into real kidneys, anew for every sample (after Hu et al., CVPR 2023).

Masses elsewhere are painted in the same way, and are background: fibroids, ovarian tumors, sarcomas.

A lesion is an uneven ellipsoid around a kidney voxel. The tissue there is pushed aside; its HU follow the
parenchyma around it, in the proportions that 109 real tumors beside their own kidneys have (medians in
single slices of KiTS patients): tumor over parenchyma 0.20, 0.44, 0.63, 0.84, 1.09 and standard deviation
within the tumor 10, 15, 21, 28, 42 HU at the 5th, 25th, 50th, 75th and 95th percentile.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from inference.geometry import KIDNEY, TUMOR
from training.cache import HU_STEP, IGNORE, LOWEST_HU, Scan
from training.synthesis.fields import SEED_LIMIT
from training.synthesis.ranges import Range

UNENHANCED_HU = 60.0
"""Parenchyma below this has no contrast agent in it."""
BONE_HU = 200.0
"""What is brighter than this and no kidney is not painted over."""
KIDNEY_SAMPLE = 500
"""So many voxels stand for all of the kidneys when a place is looked for."""
SOFT_HU = -40.0
"""Soft tissue is brighter, fat darker."""
KIDNEY_GAP_MM = 15.0
"""Least distance of a mass from any kidney."""
TRIES = 30
"""Places that are tried for a mass."""
REACH = 2.0
"""The mass effect ends at so many radii."""


Kind = Literal["tumor", "cyst", "mass"]
LABELS: dict[Kind, int] = {"tumor": TUMOR, "cyst": KIDNEY, "mass": 0}


@dataclass(frozen=True)
class LesionRanges:
    """Ranges of random lesions. Shares are probabilities, HU and mm as named.

    Attributes:
        tumors, cysts: at most so many in a sample; at least one of either.
        tumor_share: of samples with a tumor; the others have cysts alone.
        tumor_radius_mm, cyst_radius_mm, mass_radius_mm: log-uniform.
        stretch: of each axis.
        lumps: standard deviation of the surface, as a share of the radius.
        off_centre: distance of the centre from a kidney voxel, as a share of the radius.
        edge_mm: width of the border.
        push: share of the radius by which surrounding tissue is moved aside.
        ratio_percentiles, ratios: tumor over parenchyma where that has contrast.
        plain_hu: tumor minus parenchyma without contrast.
        mass_hu: mean of a mass.
        texture_hu, texture_mm: log-uniform standard deviation and cell of the tumor's texture.
        necrosis_share, necrosis_hu, necrosis_rim: a fluid core, and the living rim in radii.
        cyst_hu: of a simple cyst.
        dense_cyst_share, dense_cyst_hu: bleeding or protein.
        rim_share, rim_hu: a brighter capsule.
    """

    tumors: int = 2
    cysts: int = 3
    tumor_share: float = 0.75
    tumor_radius_mm: Range = (4.0, 38.0)
    cyst_radius_mm: Range = (3.0, 32.0)
    mass_radius_mm: Range = (15.0, 75.0)
    stretch: Range = (0.75, 1.3)
    lumps: Range = (0.02, 0.22)
    off_centre: Range = (0.0, 0.8)
    edge_mm: Range = (0.8, 4.0)
    push: Range = (0.3, 0.9)
    ratio_percentiles: tuple[float, ...] = (0.0, 5.0, 25.0, 50.0, 75.0, 95.0, 100.0)
    ratios: tuple[float, ...] = (0.12, 0.20, 0.44, 0.63, 0.84, 1.09, 1.25)
    plain_hu: Range = (-14.0, 18.0)
    mass_hu: Range = (25.0, 140.0)
    texture_hu: Range = (3.0, 38.0)
    texture_mm: Range = (5.0, 22.0)
    necrosis_share: float = 0.35
    necrosis_hu: Range = (8.0, 38.0)
    necrosis_rim: Range = (0.2, 0.7)
    cyst_hu: Range = (-5.0, 22.0)
    dense_cyst_share: float = 0.12
    dense_cyst_hu: Range = (30.0, 80.0)
    rim_share: float = 0.15
    rim_hu: Range = (10.0, 45.0)


@dataclass(frozen=True)
class Lesion:
    """One lesion, in mm about the sample's centre.

    Attributes:
        kind: what it is; a cyst stays kidney, a mass is background.
        centre_mm: (z, y, x).
        radius_mm, stretch: of the ellipsoid.
        lumps: standard deviation of the surface, as a share of the radius.
        edge_mm: width of the border.
        push: see `LesionRanges`.
        seed: of its surface and texture.
    """

    kind: Kind
    centre_mm: NDArray[np.float64]
    radius_mm: float
    stretch: NDArray[np.float64]
    lumps: float
    edge_mm: float
    push: float
    seed: int

    def distance(self, points: Tensor) -> Tensor:
        """Of points (…, zyx) mm to the centre, in radii of the ellipsoid."""
        radii = (self.stretch * self.radius_mm).astype(np.float32)
        offset = (points - self.centre()) / torch.from_numpy(radii)
        return offset.square().sum(-1).sqrt()

    def centre(self) -> Tensor:
        """`centre_mm` as a float32 tensor."""
        return torch.from_numpy(self.centre_mm.astype(np.float32))


def draw_lesions(
    scan: Scan,
    rng: Generator,
    ranges: LesionRanges,
    to_sample_mm: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    size_mm: NDArray[np.float64],
) -> list[Lesion]:
    """Choose places in the kidneys that lie in the sample; cysts first, so that tumors lie over them.

    Args:
        scan: its kidneys.
        rng: all that is random comes from it.
        ranges: of the lesions' parameters.
        to_sample_mm: scan voxel (z, y, x) → mm about the sample's centre.
        size_mm: (z, y, x) of the sample.
    """
    voxels = scan.kidney_voxels
    if not voxels.size:
        return []
    has_tumor = rng.random() < ranges.tumor_share
    tumors = int(rng.integers(1, ranges.tumors + 1)) if has_tumor else 0
    cysts = int(rng.integers(0 if has_tumor else 1, ranges.cysts + 1))
    lesions = []
    kinds: list[Kind] = ["cyst" if i < cysts else "tumor" for i in range(cysts + tumors)]
    for kind in kinds:
        at = np.unravel_index(voxels[rng.integers(voxels.size)], scan.grey.shape)
        lesion = _draw_lesion(kind, to_sample_mm(np.asarray(at, dtype=np.float64)), rng, ranges)
        if (np.abs(lesion.centre_mm) < size_mm / 2).all():
            lesions.append(lesion)
    return lesions


def draw_mass(
    scan: Scan,
    rng: Generator,
    ranges: LesionRanges,
    to_sample_mm: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    size_mm: NDArray[np.float64],
) -> list[Lesion]:
    """One mass in soft tissue away from the kidneys; none where no place is found. See `draw_lesions`."""
    size = np.asarray(scan.grey.shape)
    kidneys = scan.kidney_voxels[:: max(1, scan.kidney_voxels.size // KIDNEY_SAMPLE)]
    kidneys_mm = np.stack(np.unravel_index(kidneys, scan.grey.shape), axis=-1) * scan.spacing_mm
    for _ in range(TRIES):
        at = rng.integers(size)
        mass = _draw_lesion("mass", to_sample_mm(at.astype(np.float64)), rng, ranges)
        reach = mass.radius_mm * float(mass.stretch.max()) * (1 + 2 * mass.lumps) + KIDNEY_GAP_MM
        is_free = not kidneys.size or np.linalg.norm(kidneys_mm - at * scan.spacing_mm, axis=1).min() > reach
        is_tissue = scan.grey[tuple(at)] * HU_STEP + LOWEST_HU > SOFT_HU
        if is_free and is_tissue and (np.abs(mass.centre_mm) < size_mm / 2).all():
            return [mass]
    return []


def _draw_lesion(kind: Kind, at_mm: NDArray[np.float64], rng: Generator, ranges: LesionRanges) -> Lesion:
    span = {
        "tumor": ranges.tumor_radius_mm, "cyst": ranges.cyst_radius_mm, "mass": ranges.mass_radius_mm
    }[kind]  # fmt: skip
    radius = float(np.exp(rng.uniform(*np.log(span))))
    direction = rng.standard_normal(3)
    off = direction / np.linalg.norm(direction) * radius * rng.uniform(*ranges.off_centre)
    return Lesion(
        kind=kind,
        centre_mm=at_mm + off,
        radius_mm=radius,
        stretch=rng.uniform(*ranges.stretch, 3),
        lumps=float(rng.uniform(*ranges.lumps)) if kind != "cyst" else 0.0,
        edge_mm=float(rng.uniform(*ranges.edge_mm)),
        push=float(rng.uniform(*ranges.push)),
        seed=int(rng.integers(SEED_LIMIT)),
    )


def push_aside(points: Tensor, lesions: list[Lesion]) -> Tensor:
    """Where the tissue that lies at some points was before the lesions displaced it.

    Args:
        points: (D, H, W, zyx) mm about the sample's centre.
        lesions: the last one on top.

    Returns:
        The same shape: points within `REACH` radii move towards the lesion's centre.
    """
    for lesion in reversed(lesions):
        distance = lesion.distance(points)
        # 0 at REACH radii, `push` at the surface and within
        share = lesion.push * ((REACH - distance) / (REACH - 1)).clamp(0, 1)
        factor = 1 - share / distance.clamp(min=1.0)
        centre = lesion.centre()
        points = centre + (points - centre) * factor[..., None]
    return points


def paint(
    hu: Tensor, labels: Tensor, mm: list[Tensor], lesions: list[Lesion], ranges: LesionRanges, rng: Generator
) -> tuple[Tensor, Tensor]:
    """Paint the lesions into a sample.

    Args:
        hu, labels: (D, H, W), already pushed aside.
        mm: positions along the three axes, about the sample's centre, on the CPU.
        lesions: from `draw_lesions`.
        ranges: of their HU.
        rng: all that is random comes from it.

    Returns:
        HU and labels with them: 2 where a tumor is, 1 where a cyst is, 0 where a mass is.
    """
    for lesion in lesions:
        hu, labels = _paint_one(hu, labels, mm, lesion, ranges, rng)
    return hu, labels


def _paint_one(
    hu: Tensor, labels: Tensor, mm: list[Tensor], lesion: Lesion, ranges: LesionRanges, rng: Generator
) -> tuple[Tensor, Tensor]:
    own = np.random.default_rng([lesion.seed, int(rng.integers(SEED_LIMIT))])
    reach = lesion.radius_mm * float(lesion.stretch.max()) * (1 + 3 * lesion.lumps) + 2 * lesion.edge_mm
    sides = [
        ((axis - c).abs() <= reach).nonzero().flatten()
        for axis, c in zip(mm, lesion.centre_mm.tolist(), strict=True)
    ]
    if any(side.numel() < 2 for side in sides):
        return hu, labels
    box = tuple(slice(int(side[0]), int(side[-1]) + 1) for side in sides)
    spacing_mm = float(mm[0][1] - mm[0][0])
    axes = [axis[side] for axis, side in zip(mm, box, strict=True)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    depth = 1 - lesion.distance(points)  # in radii, above 0 inside
    if lesion.lumps:
        depth = depth + field(axes, spacing_mm, 0.7 * lesion.radius_mm, own) * lesion.lumps
    near, near_labels = hu[box], labels[box]
    is_kidney = (near_labels == KIDNEY) | (near_labels == TUMOR)
    inside = (depth > 0) & (is_kidney | (near < BONE_HU))
    if lesion.kind != "mass" and int((inside & is_kidney).sum()) == 0:  # it would float beside the kidney
        return hu, labels
    parenchyma = near[near_labels == KIDNEY]
    level = float(parenchyma.median()) if parenchyma.numel() else 100.0
    noise = _noise_of(
        near, near_labels == KIDNEY if parenchyma.numel() else (near > SOFT_HU) & (near < BONE_HU)
    )
    if lesion.kind == "cyst":
        value = _cyst_hu(depth, ranges, own)
    else:
        mean = (
            _tumor_mean(level, ranges, own) if lesion.kind == "tumor" else float(own.uniform(*ranges.mass_hu))
        )
        value = _tumor_hu(depth, axes, spacing_mm, mean, min(1.0, level / 120.0), ranges, own)
    grain = torch.Generator().manual_seed(int(own.integers(SEED_LIMIT)))
    value = value + torch.randn(depth.shape, generator=grain) * noise
    edge = lesion.edge_mm / lesion.radius_mm / 2
    alpha = torch.sigmoid(depth / edge * 2.2) * (is_kidney | (near < BONE_HU))
    hu, labels = hu.clone(), labels.clone()
    hu[box] = near + (value - near) * alpha
    labels[box][inside & (near_labels != IGNORE)] = LABELS[lesion.kind]
    return hu, labels


def _tumor_mean(level: float, ranges: LesionRanges, rng: Generator) -> float:
    if level > UNENHANCED_HU:
        return level * float(np.interp(rng.uniform(0, 100), ranges.ratio_percentiles, ranges.ratios))
    return level + float(rng.uniform(*ranges.plain_hu))


def _tumor_hu(
    depth: Tensor,
    axes: list[Tensor],
    spacing_mm: float,
    mean: float,
    contrast: float,
    ranges: LesionRanges,
    rng: Generator,
) -> Tensor:
    texture = float(np.exp(rng.uniform(*np.log(ranges.texture_hu)))) * contrast
    cell = float(rng.uniform(*ranges.texture_mm))
    pattern = field(axes, spacing_mm, cell, rng) * 0.8 + field(axes, spacing_mm, cell / 2.5, rng) * 0.6
    value = mean + pattern * texture
    if rng.random() < ranges.rim_share:
        width = float(rng.uniform(0.05, 0.15))
        value = (
            value
            + (1 - ((depth - width) / width).abs()).clamp(0, 1)
            * float(rng.uniform(*ranges.rim_hu))
            * contrast
        )
    if rng.random() < ranges.necrosis_share:
        rim = float(rng.uniform(*ranges.necrosis_rim))
        core = torch.sigmoid((depth + field(axes, spacing_mm, 1.5 * cell, rng) * 0.2 - rim) * 12)
        value = value + (float(rng.uniform(*ranges.necrosis_hu)) - value) * core
    return value


def _cyst_hu(depth: Tensor, ranges: LesionRanges, rng: Generator) -> Tensor:
    span = ranges.dense_cyst_hu if rng.random() < ranges.dense_cyst_share else ranges.cyst_hu
    return torch.full_like(depth, float(rng.uniform(*span)))


def _noise_of(hu: Tensor, is_tissue: Tensor) -> float:
    """Standard deviation of the scan's own noise, from differences of neighbours within one tissue."""
    both = is_tissue[:, :, 1:] & is_tissue[:, :, :-1]
    if int(both.sum()) < 20:
        return 8.0
    steps = (hu[:, :, 1:] - hu[:, :, :-1])[both].abs()
    return float(steps.median()) / 0.6745 / 2**0.5


def field(axes: list[Tensor], spacing_mm: float, cell_mm: float, rng: Generator) -> Tensor:
    """Smooth random field of about unit variance on the grid spanned by three axes (mm)."""
    shape = tuple(len(axis) for axis in axes)
    sizes = [max(2, int(n * spacing_mm / cell_mm) + 2) for n in shape]
    nodes = torch.from_numpy(rng.standard_normal((1, 1, *sizes), dtype=np.float32))
    smoothed = torch.nn.functional.interpolate(nodes, shape, mode="trilinear", align_corners=True)[0, 0]
    return smoothed / smoothed.std().clamp(min=0.3)
