"""Synthetic label maps: two kidneys with tumors and cysts, for use without real label maps."""

from dataclasses import dataclass

import torch
from torch import Tensor

from inference.geometry import KIDNEY, TUMOR
from training.synthesis.fields import Draw
from training.synthesis.ranges import Point, Range, Ranges3


@dataclass(frozen=True)
class LabelRanges:
    """Shapes of synthetic kidneys, 100 to 300 ml each."""

    half_distance_mm: Range = (52.0, 72.0)  # of the kidneys' centres from the midline
    jitter_mm: Range = (-12.0, 12.0)
    half_length_mm: Range = (48.0, 60.0)
    half_depth_mm: Range = (24.0, 30.0)
    half_width_mm: Range = (25.0, 31.0)
    tilt: Range = (0.05, 0.35)  # lower poles lie farther from the midline (mm per mm)
    bend: Range = (0.1, 0.3)  # of the bean, in half widths
    bumps: Range = (0.02, 0.08)
    bumps_cell_mm: float = 16.0
    sinus_radii_mm: Ranges3 = ((14.0, 22.0), (6.0, 10.0), (13.0, 20.0))
    sinus_bumps: float = 2.0  # against those of the outer surface
    tumor_share: float = 0.85
    tumor_radius_mm: Range = (6.0, 38.0)
    tumor_place: Ranges3 = ((-0.8, 0.8), (-0.7, 0.7), (0.3, 1.0))  # in half lengths, depths, widths; lateral
    tumor_flatten: Range = (0.75, 1.25)
    tumor_bumps: Range = (0.03, 0.2)
    tumor_bumps_cell: float = 0.7  # in radii
    cyst_share: float = 0.4
    cyst_radius_mm: Range = (4.0, 16.0)
    cyst_place: Ranges3 = ((-0.7, 0.7), (-0.5, 0.5), (0.6, 0.9))


RANGES = LabelRanges()


def _ball(axes: list[Tensor], centre: Point, radii: Point) -> Tensor:
    """Below 1 inside an ellipsoid; axes broadcast against each other."""
    z, y, x = (((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radii, strict=True))
    return z + y + x


def _draw_kidney(axes: list[Tensor], draw: Draw, side: int) -> tuple[Tensor, Tensor]:
    """Masks of one kidney (side -1 right, 1 left) and of a tumor that would grow on it."""
    ranges = RANGES
    z, y, x = axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None]
    z0, y0, x0 = draw(ranges.jitter_mm), draw(ranges.jitter_mm), side * draw(ranges.half_distance_mm)
    length, depth, width = draw(ranges.half_length_mm), draw(ranges.half_depth_mm), draw(ranges.half_width_mm)
    tilt, bend = draw(ranges.tilt), draw(ranges.bend)

    def on_surface(place: Point) -> Point:
        return z0 + place[0] * length, y0 + place[1] * depth, x0 + side * place[2] * width

    # how far towards the midline: the poles bend to it, the lower pole tilts away from it
    medial = side * (x0 - x) + bend * width * (1 - 2 * ((z - z0) / length) ** 2) + tilt * (z0 - z)
    bumps = draw.field(ranges.bumps_cell_mm).at(axes).mul_(draw(ranges.bumps))
    bean = _ball([z, y, medial], (z0, y0, 0.0), (length, depth, width)) + bumps < 1
    hollow = _ball([z, y, medial], (z0, y0, width), draw.triple(ranges.sinus_radii_mm))
    kidney = bean & (hollow + ranges.sinus_bumps * bumps > 1)
    centre, radius = on_surface(draw.triple(ranges.cyst_place)), draw(ranges.cyst_radius_mm)
    if draw.chance(ranges.cyst_share):
        kidney |= _ball([z, y, x], centre, (radius, radius, radius)) < 1
    centre, radius = on_surface(draw.triple(ranges.tumor_place)), draw(ranges.tumor_radius_mm)
    flat = draw.triple((ranges.tumor_flatten,) * 3)
    lumps = draw.field(radius * ranges.tumor_bumps_cell).at(axes).mul_(draw(ranges.tumor_bumps))
    tumor = _ball([z, y, x], centre, (radius * flat[0], radius * flat[1], radius * flat[2])) + lumps < 1
    return kidney, tumor


def draw_labels(
    *, shape_vox: tuple[int, int, int], spacing_mm: float, seed: int, tumor: bool | None = None
) -> Tensor:
    """Make a label map of two synthetic kidneys: bean shapes without their sinus, with tumors and cysts.

    Args:
        shape_vox: (D, H, W); at least 200 × 120 × 240 mm to hold both kidneys.
        spacing_mm: side of a voxel.
        seed: of the patient.
        tumor: with, without, or by chance.

    Returns:
        uint8 (D, H, W) in canonical LPS: 0 background, 1 kidney (cysts included), 2 tumor.
    """
    draw = Draw(seed, "labels")
    axes = [(torch.arange(n, dtype=torch.float32) - (n - 1) / 2) * spacing_mm for n in shape_vox]
    labels = torch.zeros(shape_vox, dtype=torch.uint8)
    by_chance, tumor_side = draw.chance(RANGES.tumor_share), draw.integer((0, 1)) * 2 - 1
    with_tumor = by_chance if tumor is None else tumor
    for side in (-1, 1):
        kidney_mask, tumor_mask = _draw_kidney(axes, draw, side)
        labels[kidney_mask] = KIDNEY
        if with_tumor and side == tumor_side:
            labels[tumor_mask] = TUMOR
    return labels
