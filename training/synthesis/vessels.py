"""Aorta, vena cava and the renal vessels."""

from dataclasses import dataclass

import torch

from training.synthesis.canvas import EVERYWHERE, Canvas
from training.synthesis.patient import Patient
from training.synthesis.ranges import Range


@dataclass(frozen=True)
class VesselRanges:
    """The great vessels lie in front of the spine: gaps are from its front, x from its middle."""

    aorta_gap: Range = (9, 14)
    aorta_x: Range = (2, 14)
    aorta_radius: Range = (7, 13)
    cava_gap: Range = (6, 14)
    cava_x: Range = (-24, -12)
    cava_radius: Range = (6, 13)
    calcified_share: float = 0.3
    calcified_mm: float = 1.5  # half the thickness of the plaques
    calcified_sd: float = 1.2
    calcified_cell_mm: float = 8.0
    calcified_hu: Range = (250, 800)
    renal_radii: tuple[Range, Range] = ((3.5, 6.5), (2, 3.5))  # vein, artery
    renal_shortest_mm: float = 10.0
    renal_z: Range = (-8, 8)  # at the kidney
    renal_rise: Range = (-5, 15)  # from there to the great vessels


RANGES = VesselRanges()


def vessels(canvas: Canvas, patient: Patient) -> None:
    """Aorta with its calcifications, vena cava and the renal vessels."""
    ranges, draw, tissue = RANGES, patient.draw("vessels"), patient.tissue
    front = patient.spine_y - patient.spine_half_depth
    for gaps, places, radii, hu in (
        (ranges.cava_gap, ranges.cava_x, ranges.cava_radius, tissue.vena_cava),
        (ranges.aorta_gap, ranges.aorta_x, ranges.aorta_radius, tissue.aorta),
    ):
        y, x, radius = front - draw(gaps), patient.spine_x + draw(places), draw(radii)
        part = canvas.region(EVERYWHERE, (y - radius, y + radius), (x - radius, x + radius))
        depth = part.tube(y, x, radius, radius)
        part.paint(part.soft(depth).mul_(part.free(0.0)), hu)
    plaque, plaque_hu = draw.field(ranges.calcified_cell_mm), draw(ranges.calcified_hu)
    if draw.chance(ranges.calcified_share):
        rim = part.soft(depth.abs_().neg_().add_(ranges.calcified_mm)).mul_(part.free(0.0))
        part.paint(part.soft(part.threshold(plaque, ranges.calcified_sd)).mul_(rim), plaque_hu)
    for z, y, centre_x in patient.kidney_centres:
        # a horseshoe kidney's centre may lie on the midline
        x = centre_x if abs(centre_x) > ranges.renal_shortest_mm else ranges.renal_shortest_mm
        for hu, span in zip((tissue.vena_cava, tissue.aorta), ranges.renal_radii, strict=True):
            radius, z1, rise = draw(span), z + draw(ranges.renal_z), draw(ranges.renal_rise)
            y1, start, reach = front - radius, min(0.0, x), radius + abs(rise)
            low, high = min(y, y1) - radius, max(y, y1) + radius
            part = canvas.region((z1 - reach, z1 + reach), (low, high), (start, start + abs(x)))
            way = part.x / x  # 0 at the midline, 1 at the kidney
            away = (part.z - z1).add_(way - 1, alpha=rise).square_()
            away.add_((part.y - y1).sub_(way, alpha=y - y1).square_()).sqrt_()
            length = torch.minimum(way, 1 - way).mul_(abs(x))
            part.paint(part.soft(torch.minimum(radius - away, length)).mul_(part.free(0.0)), hu)
