"""Liver with its vessels and lesions."""

from dataclasses import dataclass

import numpy as np
import torch

from training.synthesis.canvas import Canvas
from training.synthesis.patient import Patient
from training.synthesis.ranges import Range, Ranges3


@dataclass(frozen=True)
class LiverRanges:
    """A wedge under the right diaphragm with an oblique lower surface, or an ellipsoid."""

    wedge_share: float = 0.7
    tip_z: Range = (-75.0, 50.0)  # lower lateral margin: often lower than the kidney's middle
    slope_x: Range = (0.35, 1.4)  # the lower surface rises to the left (mm per mm)
    slope_y: Range = (-0.2, 0.7)  # and to the back
    surface_sd_mm: Range = (2.0, 9.0)
    surface_cell_mm: float = 28.0
    surface_reach_sd: float = 4.0  # no bulge goes beyond
    left_end_mm: Range = (-10.0, 90.0)
    left_slope: Range = (-0.2, 0.6)  # the left lobe ends farther left higher up
    back_mm: Range = (-20.0, 35.0)  # how far back beside the kidney it reaches ...
    back_slope: float = 0.8  # ... and how much farther at the flank (mm per mm)
    back_from_x: float = -60.0
    centre: Ranges3 = ((10, 90), (-60, -10), (-95, -55))
    radii: Ranges3 = ((70, 130), (60, 100), (65, 110))
    power: Range = (2.0, 3.0)
    texture_hu: Range = (0.0, 6.0)
    texture_cell_mm: Range = (5.0, 14.0)
    vessel_cell_mm: Range = (16.0, 26.0)
    vessel_sd: Range = (0.0, 0.28)  # radius of the vessels in standard deviations of their fields
    lesions: tuple[int, int] = (0, 3)
    lesion_radius: Range = (4, 22)
    lesion_spread: Range = (-0.7, 0.7)  # in radii
    lesion_hu: Range = (-70, 30)  # change against the liver


RANGES = LiverRanges()


def liver(canvas: Canvas, patient: Patient) -> None:
    """Liver with vessels and lesions."""
    ranges, draw, tissue = RANGES, patient.draw("liver"), patient.tissue
    gap, wedge = patient.gap(draw), draw.chance(ranges.wedge_share)
    centre, radii, power = draw.triple(ranges.centre), draw.triple(ranges.radii), draw(ranges.power)
    tip, slope_x, slope_y = draw(ranges.tip_z), draw(ranges.slope_x), draw(ranges.slope_y)
    left, left_slope, back = draw(ranges.left_end_mm), draw(ranges.left_slope), draw(ranges.back_mm)
    surface = draw.field(ranges.surface_cell_mm), draw(ranges.surface_sd_mm)
    if wedge:
        part = canvas.region(z=(tip - ranges.surface_reach_sd * surface[1] + min(0.0, slope_y) * 100, np.inf))
    else:
        part = canvas.around(centre, radii)
    if wedge:
        lower = part.z - (part.x + patient.half_width) * slope_x - (part.y * slope_y).add_(tip)
        depth = torch.minimum(
            lower.div_(float(np.hypot(1.0, slope_x))), (part.z * left_slope).sub_(part.x).add_(left)
        )
        behind = (ranges.back_from_x - part.x).mul_(ranges.back_slope).add_(back)
        depth = torch.minimum(depth, behind.sub_(part.y)).add_(part.noise(*surface))
    else:
        depth = part.ellipsoid(centre, radii, power)
    share = part.soft(depth).mul_(part.room(gap))
    texture = draw.field(draw(ranges.texture_cell_mm))
    part.paint(share, part.noise(texture, draw(ranges.texture_hu), tissue.liver))
    cell = draw(ranges.vessel_cell_mm)
    veins = part.curves(draw.field(cell), draw.field(cell), draw(ranges.vessel_sd))
    part.paint(part.soft(veins).mul_(share), tissue.vena_cava)
    for _ in range(draw.integer(ranges.lesions)):
        radius, where = (draw(ranges.lesion_radius),) * 3, draw.triple((ranges.lesion_spread,) * 3)
        spot = tuple(c + r * w for c, r, w in zip(centre, radii, where, strict=True))
        lesion = part.soft(part.ellipsoid((spot[0], spot[1], spot[2]), radius)).mul_(share)
        part.paint(lesion, tissue.liver + draw(ranges.lesion_hu))
